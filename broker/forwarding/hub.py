"""What all links of one broker share: who is connected, who serves what, who waits for what.

Sessions are admitted, announced, replaced and removed here and nowhere else, so that the table,
the caches and the waiting requests always agree. Everything happens at once, on the loop's thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from itertools import count
from random import getrandbits
from typing import TYPE_CHECKING, ClassVar, Final

import msgspec

from broker.config import Config
from broker.forwarding.admission import TOO_MANY, Admission, TurnedAway
from broker.forwarding.budget import Queue
from broker.forwarding.call import Call
from broker.forwarding.leasing import Desk
from broker.forwarding.limiter import Limiter, OverLimit
from broker.forwarding.link import Link
from broker.forwarding.resumption import Sessions
from broker.forwarding.routes import Routes
from broker.forwarding.splice import Shape
from broker.kernel import HubCore
from broker.kernel.wheel import TICK, Wheel
from broker.observe.counters import Counters
from broker.observe.logs import OncePer
from broker.routing.table import Change, RoutingTable
from rsocket_mesh.errors import (
    ErrorCode,
    Invalid,
    StreamError,
)
from rsocket_mesh.peer import RequestHandler
from rsocket_mesh.protocol.announce import Announcement, decode_announcement
from rsocket_mesh.protocol.connection import DRAINING, Connection
from rsocket_mesh.protocol.frames import Resume, Setup
from rsocket_mesh.protocol.metadata import (
    ANNOUNCE,
    COMPOSITE,
    NOTICE,
    TooMany,
    encode_entry,
    find_entry,
)
from rsocket_mesh.protocol.phases import Role
from rsocket_mesh.protocol.rates import Rate
from rsocket_mesh.transport.base import Receiver, Transport
from rsocket_mesh.transport.framed import HIGH_WATER

if TYPE_CHECKING:
    from broker.forwarding.requests import Arriving

DEFAULT_TENANT: Final = "default"
# s between two looks whether a peer that is closing has a call left. An event that the last call
# sets would cost every call, for a moment that comes once.
CLOSING_POLL: Final = 0.05
MAX_EXPIRED: Final = 32  # deadlines per turn of the loop: thousands may pass at once, others wait
LOG_PERIOD: Final = 60.0  # seconds between two lines about the same fault of the same peer
LOG_KEYS: Final = 256  # such lines per period at most; a flood of bad peers is no flood of lines
MAX_SHAPES: Final = 1024  # pairs of MIME types that sessions share; real ones are a handful
_log: Final = logging.getLogger("rsocket_broker.sessions")
# Ends of connections that say nothing bad about the peer.
_ORDINARY: Final = frozenset({"peer-closed", "replaced", "drained"})

Watcher = Callable[[Change], None]


class Hub(HubCore):
    """The middle of one broker process.

    Attributes:
        links: every live connection, also those whose SETUP has not come yet.
        limiter: what each of them may say how often.
        sessions: those that may outlive their sockets.
        held, held_bytes: requests that are not on their way yet, in order of arrival.
        most_waiting: bytes that may wait for one peer, with large payloads.
        refusal: why new work is refused just now; None if it is not.
        stream_window, items_under_way: bytes of items on their way to one peer: of one stream at
            most, and of all its streams together.
        request_rate, resets: how often one peer may begin and cancel requests.
        queue: those of them that wait for a provider to have room.
        desk: what the leases of clients share.
    """

    connection_type: ClassVar[type[Connection]] = Connection
    counters: Counters

    def __init__(
        self,
        config: Config,
        counters: Counters,
        builtin: Callable[[Hub, Link], RequestHandler],
        loop: asyncio.AbstractEventLoop,
        link_ids: Iterator[int] | None = None,
    ) -> None:
        """*link_ids* are the numbers of sessions, from 1 on if nobody shares them."""
        super().__init__()
        self.config = config
        self.call_class = Call
        self.counters = counters
        self.table: RoutingTable[Link] = RoutingTable()
        self.links: dict[int, Link] = {}
        self.sessions = Sessions(config.limits, counters)
        self.watchers: set[Watcher] = set()
        self.held: dict[Arriving, None] = {}
        self.held_bytes = 0
        self.queue = Queue(self)
        self.desk = Desk(self)
        self.is_draining = False
        self.refusal: Callable[[], StreamError] | None = None
        limits = config.limits
        self.frame_limit = limits.frame_bytes
        self.most_waiting = limits.outbound_bytes + limits.large_payload_bytes
        self.stream_window = limits.stream_window_bytes
        self.items_under_way = limits.outbound_bytes - HIGH_WATER
        self.request_rate = Rate(limits.requests_per_second, limits.requests_per_second)
        self.resets = Rate(limits.resets_per_second, 2 * limits.resets_per_second)
        self._builtin = builtin
        self._loop = loop
        self._time = loop.time
        self._timer: asyncio.TimerHandle | None = None
        self._routes: dict[str, Routes] = {}
        self._shapes: dict[Shape, Shape] = {}
        self._link_ids = link_ids or count(1)
        self._log_limit = OncePer(LOG_PERIOD, LOG_KEYS)
        self.now = self._time()
        self.wheel = Wheel(self._arm, self.now)
        self.draw = getrandbits
        self._bucket_until = 0.0
        self.tick()
        self.limiter = Limiter(config.limits, counters, self._log_limit)
        self.admission = Admission(self)

    # -- time -------------------------------------------------------------------------------------

    def tick(self) -> float:
        """Take the time for the batch that begins; return it."""
        now = self.now = self._time()
        self.deadline_ms = -1
        if now >= self._bucket_until:
            self.wheel.tidy()  # here the only set that is kept while empty is about to change
            self._take_bucket()
        return now

    def _take_bucket(self) -> None:
        self.default_bucket = self.wheel.bucket(self.now + self.config.routing.default_deadline)
        self._bucket_until = self.now + TICK

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._expire)

    def _expire(self) -> None:
        self._timer = None
        self.tick()  # so that what expires may begin calls
        self.wheel.expire(self.now, MAX_EXPIRED)
        when = self.wheel.told
        if when is not None:
            self._arm(when)
        self._take_bucket()  # the wheel does not wait for a set that is still empty

    def soon(self, act: Callable[[], None]) -> None:
        """Call *act* in the next turn of the loop."""
        self._loop.call_soon(act)

    def watch(self, link: Link) -> None:
        """Have `link.expire` called at its next deadline."""
        when = link.connection.next_deadline()
        if when is not None and link.connection.phase is DRAINING:
            when = min(when, self.now + CLOSING_POLL)
        if link.bucket is not None:
            link.bucket.discard(link)
        if when is not None:
            link.bucket = self.wheel.bucket(when)
            link.bucket.add(link)

    # -- sessions ---------------------------------------------------------------------------------

    def receiver(self, default_service: str) -> Receiver:
        """Return the receiver for a connection that has just been accepted."""
        return TurnedAway(self) if self.admission.is_full() else self.new_link(default_service)

    def turned_away(self, transport: Transport, limit: str, text: str) -> None:
        """Count and log a connection that there was no place for, because of *limit*."""
        self.counters.limits[limit] += 1
        self.counters.closes[TOO_MANY] += 1
        self._log_end(TOO_MANY, f"({transport.name})", TOO_MANY, text)

    def new_link(self, default_service: str) -> Link:
        """Return a session for a connection that has just been accepted."""
        self.tick()
        link = Link(self, next(self._link_ids), default_service)
        self.links[link.id] = link
        return link

    def new_connection(self) -> Connection:
        """Return the stream-0 state of a new connection, with the configured limits."""
        limits = self.config.limits
        return self.connection_type(
            Role.SERVER,
            now=self.now,
            setup_timeout=limits.setup_timeout,
            min_lifetime=limits.lifetime_min,
            max_lifetime=limits.lifetime_max,
            lease=True,
            resume=self.sessions.enabled,
        )

    def builtin(self, link: Link) -> RequestHandler:
        """Return the handler of the broker's own services for one session."""
        return self._builtin(self, link)

    def admit(self, link: Link, setup: Setup) -> None:
        """Accept or refuse the SETUP of *link*, and register what it announces."""
        if not self.admission.spoke(link):
            return
        try:
            announced = self._announced(setup)
        except Invalid as exc:
            self._refuse(link, ErrorCode.INVALID_SETUP, exc)
            return
        if self.is_draining:
            link.refuse(ErrorCode.REJECTED_SETUP, "DRAINING: this broker is going away", "draining")
            self.counters.refused["draining"] += 1
            return
        if self.refusal is not None:
            self._refuse(link, ErrorCode.REJECTED_SETUP, self.refusal())
            return
        try:
            announcement = self.decoded(announced) if announced is not None else None
            if setup.resume_token is not None:
                self.sessions.check(setup.resume_token, link, DEFAULT_TENANT, announcement)
        except Invalid as exc:
            self._refuse(link, ErrorCode.REJECTED_SETUP, exc)
            return
        shape = Shape(setup.metadata_mime, setup.data_mime)
        link.sends = self._shared(shape)
        instance = f"session-{link.id}"
        if announcement is not None:
            instance = announcement.instance or instance
            self._replace_session(link, announcement, instance)
        if setup.resume_token is not None:
            self.sessions.begin(link, setup.resume_token)
        link.accept(announcement, DEFAULT_TENANT, instance, setup.lease)
        plain = setup.metadata_mime == COMPOSITE and not setup.lease
        link.use_routes(self._routes_of(link.tenant), plain)
        self.watch(link)  # the lifetime may end before the time for SETUP would have
        self.counters.accepted += 1
        if announcement is not None:
            link.takes = self._shared(shape._replace(caller_entry=announcement.caller))
            self._changed(self.table.register(link, link.tenant, instance, announcement))
            level = logging.INFO if announcement.services else logging.DEBUG
            _log.log(level, "%s connected, serves %s", link.name, _services(announcement))
        else:
            link.takes = link.sends
            _log.debug("%s connected, a caller that announces nothing", link.name)

    def resume(self, link: Link, asked: Resume) -> None:
        """RESUME came as the first frame of *link*: another session goes on over its socket."""
        if self.sessions.resume(link, DEFAULT_TENANT, asked):
            del self.links[link.id]  # its connection is another session's now
            if link.bucket is not None:
                link.bucket.discard(link)

    def _announced(self, setup: Setup) -> bytes | None:
        if setup.metadata is None or setup.metadata_mime != COMPOSITE:
            return None
        try:
            return find_entry(setup.metadata, ANNOUNCE, self.config.limits.metadata_entries)
        except TooMany as exc:
            raise OverLimit("metadata_entries", exc.text) from None

    def decoded(self, raw: bytes) -> Announcement:
        """Return the announcement *raw*; raises `Invalid` for what is none, or is too much."""
        self.limiter.check_announcement_size(len(raw))
        announcement = decode_announcement(raw)
        self.limiter.check_announcement(announcement)
        return announcement

    def _shared(self, shape: Shape) -> Shape:
        """One object per shape, so that the hot path compares identities. Bounded: those that no
        session has any more make room, and beyond that a session only loses the fast way."""
        if len(self._shapes) >= MAX_SHAPES and shape not in self._shapes:
            used = {shape for link in self.links.values() for shape in (link.sends, link.takes)}
            self._shapes = {known: same for known, same in self._shapes.items() if known in used}
            if len(self._shapes) >= MAX_SHAPES:
                return shape
        return self._shapes.setdefault(shape, shape)

    def _replace_session(self, link: Link, announcement: Announcement, instance: str) -> None:
        old = self.table.holder(DEFAULT_TENANT, announcement.app, instance)
        if old is not None and old is not link:
            text = f"a new session of {announcement.app}/{instance} has come"
            old.fail(ErrorCode.CONNECTION_ERROR, text, "replaced")

    def _refuse(self, link: Link, code: ErrorCode, error: StreamError) -> None:
        self.counters.refused[(error.token or code.name).lower()] += 1
        if isinstance(error, OverLimit):
            self.counters.limits[error.limit] += 1
        link.refuse(code, error.to_wire()[1], "setup-refused")

    def announce(self, link: Link, announcement: Announcement) -> Announcement:
        """Put *announcement* in the place of what *link* announced before; return what is in force.

        Raises:
            Invalid: `app` or `instance` differ from those of SETUP.
        """
        before = link.announcement
        if before is None:
            link.instance = announcement.instance or link.instance
            self._replace_session(link, announcement, link.instance)
        else:
            if announcement.app != before.app:
                raise Invalid(f"app: is {before.app!r} for this session, not {announcement.app!r}")
            if announcement.instance not in ("", link.instance):
                raise Invalid(
                    f"instance: is {link.instance!r} for this session, "
                    f"not {announcement.instance!r}"
                )
        in_force = msgspec.structs.replace(announcement, instance=link.instance)
        link.identify(in_force, link.tenant, link.instance)
        link.takes = self._shared(link.sends._replace(caller_entry=in_force.caller))
        if before is None:
            change = self.table.register(link, link.tenant, link.instance, in_force)
        else:
            change = self.table.replace(link, in_force)
        self._changed(change)
        if change:
            _log.info("%s now serves %s", link.name, _services(in_force))
        return in_force

    def remove(self, link: Link, reason: str, text: str) -> bool:
        """Forget *link*; False if that has happened before."""
        if self.links.pop(link.id, None) is None:
            return False
        if link.bucket is not None:
            link.bucket.discard(link)
        self.admission.left(link)
        self.sessions.forget(link, reason)
        self.counters.closes[reason] += 1
        self.counters.bytes_in += link.transport.bytes_in
        self.counters.bytes_out += link.transport.bytes_out
        change = self.table.withdraw(link)
        if change is not None:
            self._changed(change)
        if reason in _ORDINARY:
            serves = link.announcement is not None and link.announcement.services
            level = logging.INFO if serves else logging.DEBUG
            _log.log(level, "%s left: %s", link.name, reason)
        else:
            key = f"{reason} {link.app} {link.transport.peer_address or link.transport.scheme}"
            self._log_end(key, link.name, reason, text)
        return True

    async def settled(self, link: Link) -> None:
        """Return when all that routes calls knows what *link* announces: here, that is at once."""

    async def look_closer(self, tenant: str, service: str) -> None:
        """Bring what the table's providers of *service* tell of their load up to date: here, it
        always is."""

    def log_pause(self, text: str) -> None:
        """Say that new connections have to wait."""
        if self._log_limit.admit("pause", self._time()) is not None:
            _log.warning("no connections are accepted for now: %s", text)

    def _log_end(self, key: str, name: str, reason: str, text: str) -> None:
        left_out = self._log_limit.admit(key, self.now)
        if left_out is not None:
            more = f" ({left_out} like it were left out before)" if left_out else ""
            _log.warning("%s closed: %s: %s%s", name, reason, text, more)

    # -- routing ----------------------------------------------------------------------------------

    def _routes_of(self, tenant: str) -> Routes:
        routes = self._routes.get(tenant)
        if routes is None:
            routes = self._routes[tenant] = Routes(tenant, self.table, self.counters, self.config)
        return routes

    def routes_here(self, tenant: str) -> Routes:
        """Return the routes to providers of *tenant* that are connected to this hub."""
        return self._routes_of(tenant)

    def _changed(self, change: Change) -> None:
        if not change:
            return
        routes = self._routes.get(change.tenant)
        if routes is not None:
            routes.clear()
        if change.added:
            for arriving in list(self.held):
                arriving.retry()
        for watcher in list(self.watchers):
            watcher(change)

    # -- the end of work ---------------------------------------------------------------------------

    def refuse_work(self, refusal: Callable[[], StreamError] | None) -> None:
        """Refuse new requests and sessions with *refusal* from now on; None takes them again."""
        self.refusal = refusal
        for link in self.links.values():
            link.choose_way()

    def begin_drain(self, timeout: float) -> None:
        """Refuse new sessions and calls from now on, and say so to whoever asked for notices."""
        self.is_draining = True
        for link in self.links.values():
            link.routes = None  # the general way is the one that refuses
        for arriving in list(self.held):
            arriving.drain()
        for link in list(self.links.values()):
            if link.session is not None and link.session.is_detached:
                link.end("drained", "nobody can resume it where nothing is accepted any more")
        self._notify({"type": "draining", "timeout_s": timeout})

    def _notify(self, notice: dict[str, object]) -> None:
        entry = encode_entry(NOTICE, msgspec.json.encode(notice))
        for link in self.links.values():
            if link.open and link.announcement is not None and link.announcement.notices:
                link.push(entry)

    def close(self) -> None:
        """Stop the clock; nothing expires any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def calls_open(self) -> int:
        """Return how many calls of this broker's own callers are relayed just now."""
        return self.streams_open()

    def streams_open(self) -> int:
        """Return how many calls are relayed just now."""
        return sum(len(link.streams) for link in self.links.values()) // 2


def _services(announcement: Announcement) -> str:
    return ", ".join(f"{s.name} {s.version}" for s in announcement.services) or "nothing"
