"""Sessions that outlive their sockets: found again by token, or refused with the reason.

Beside the hub, which admits and removes sessions. A token is kept as its digest: of equal length
however long the token was, and of no use to whoever sees it. Of sessions that have ended lately the
reason is remembered, so that a client that comes too late learns more than "unknown".
Source: RSocket Protocol 1.0, "Resuming Operation".
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from broker.config import Limits
from broker.observe.counters import Counters
from rsocket_mesh.errors import ErrorCode, Invalid, ResumeRefused
from rsocket_mesh.peer import ResumableTransport
from rsocket_mesh.protocol.announce import Announcement
from rsocket_mesh.protocol.frames import Resume
from rsocket_mesh.protocol.phases import Phase
from rsocket_mesh.protocol.resume import MIN_TOKEN, ResumeBooks, StorePool

if TYPE_CHECKING:
    from broker.forwarding.link import Link

MAX_REMEMBERED: Final = 1024  # ended sessions whose reason is known, about 200 bytes each
_HIT: Final = {"resume-timeout": "resume_timeout", "resume-overflow": "resume_bytes"}
_log: Final = logging.getLogger("rsocket_broker.sessions")


class Sessions:
    """The resumable sessions of one broker.

    Attributes:
        enabled: whether a SETUP may ask for resume.
        pool: what all of them keep for being sent again.
    """

    def __init__(self, limits: Limits, counters: Counters) -> None:
        self.enabled = limits.resume_timeout > 0
        at_once = limits.outbound_bytes + limits.large_payload_bytes  # what a socket may be given
        self.pool = StorePool(min(limits.resume_bytes, at_once), limits.resume_total_bytes)
        self._counters = counters
        self._timeout = limits.resume_timeout
        self._links: dict[bytes, Link] = {}
        self._keys: dict[Link, bytes] = {}
        self._ended: OrderedDict[bytes, str] = OrderedDict()

    def knows(self, token: bytes) -> bool:
        """Return whether a session with *token* is here, or was lately."""
        key = digest_of(token)
        return key in self._links or key in self._ended

    def key_of(self, link: Link) -> bytes | None:
        """Return the digest of the token of *link*, or None if it cannot be resumed."""
        return self._keys.get(link)

    def check(
        self, token: bytes, link: Link, tenant: str, announcement: Announcement | None
    ) -> None:
        """Raise Invalid if *link* may not begin a session under *token*.

        A token in use is free for the session that is about to replace its holder (C-122).
        """
        if len(token) < MIN_TOKEN:
            raise Invalid(
                f"resume token of {len(token)} bytes; use {MIN_TOKEN} random ones or more"
            )
        holder = self._links.get(digest_of(token))
        if holder is None:
            return
        app = announcement.app if announcement is not None else ""
        instance = announcement.instance if announcement is not None else ""
        if (holder.tenant, holder.principal, holder.app, holder.instance) != (
            tenant,
            link.principal,
            app,
            instance,
        ):
            raise Invalid("resume token in use by another session; every session needs its own")

    def begin(self, link: Link, token: bytes) -> None:
        """Make *link* resumable by *token*, which was checked: whichever socket carries it from now
        on, it runs on its session."""
        key = digest_of(token)
        self._links[key] = link
        self._keys[link] = key
        self._ended.pop(key, None)
        session = ResumableTransport(link, ResumeBooks(self.pool))
        session.adopt(link.transport)
        link.session = link.transport = session
        link.out = session.outbound

    def forget(self, link: Link, reason: str) -> None:
        """*link* has ended; harmless if it was not resumable."""
        key = self._keys.pop(link, None)
        if key is None:
            return
        del self._links[key]
        if reason in _HIT:
            self._counters.limits[_HIT[reason]] += 1
        self._ended[key] = reason
        if len(self._ended) > MAX_REMEMBERED:
            self._ended.popitem(last=False)

    def resume(self, link: Link, tenant: str, asked: Resume) -> bool:
        """RESUME came on *link*: give its transport to the session that is meant, or refuse it.

        Return whether the session goes on, and *link* is of no more use.
        """
        try:
            held = self._find(link, tenant, asked)
        except ResumeRefused as exc:
            self._refuse(link, exc)
            return False
        session = held.session
        assert session is not None
        was_detached = session.is_detached
        try:
            session.resume(link.transport, asked)
        except ResumeRefused as exc:
            self._refuse(link, exc)
            # Nobody may resume it any more (C-119): its calls need not wait.
            held.fail(ErrorCode.CONNECTION_ERROR, f"not resumed: {exc}", "resume-refused")
            return False
        link.hub.admission.moved(held, link)
        self._counters.resumed += 1
        more = "" if was_detached else "; its old connection is closed"
        _log.log(_level(held), "%s goes on%s", held.name, more)
        return True

    def detach(self, link: Link, error: Exception | None) -> bool:
        """The socket of *link* is gone: have it wait for its peer, unless it is about to end
        anyway; return whether it waits."""
        hub = link.hub
        is_slow = getattr(error, "reason", None) == "slow-reader"
        if is_slow or hub.is_draining or link.connection.phase is not Phase.OPEN:
            return False
        link.connection.suspend(hub.tick() + self._timeout)
        hub.admission.lost(link)
        hub.watch(link)
        _log.log(_level(link), "%s waits for its peer: %s", link.name, error or "it closed")
        return True

    def attach(self, link: Link) -> None:
        """*link* goes on over another socket; its leases begin anew there (C-123)."""
        hub = link.hub
        link.connection.resume(hub.tick())
        hub.watch(link)
        if link.budget is not None and link.budget.leased is not None:
            link.budget.leased.restart()
        if link.leasing is not None:
            link.leasing.restart()

    def _find(self, link: Link, tenant: str, asked: Resume) -> Link:
        key = digest_of(asked.token)
        held = self._links.get(key)
        if held is None:
            reason = self._ended.get(key)
            if reason is not None:
                raise ResumeRefused(f"the session has ended ({reason}); begin a new one", "ended")
            raise ResumeRefused("no session with this token; begin a new one", "unknown-token")
        if (held.tenant, held.principal) != (tenant, link.principal):
            # In the words for an unknown one: a token that leaked tells nobody that it is good.
            raise ResumeRefused("no session with this token; begin a new one", "other-principal")
        return held

    def _refuse(self, link: Link, exc: ResumeRefused) -> None:
        self._counters.resume_refused[exc.reason] += 1
        link.refuse(ErrorCode.REJECTED_RESUME, str(exc), "resume-rejected")


def _level(link: Link) -> int:
    """As for sessions that come and go: those that serve are worth a line."""
    serves = link.announcement is not None and link.announcement.services
    return logging.INFO if serves else logging.DEBUG


def digest_of(token: bytes) -> bytes:
    """Return what stands for *token* wherever a session is looked for."""
    return sha256(token).digest()
