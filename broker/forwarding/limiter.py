"""What one session may say how often, and how much of it: refused, counted, told once in the log.

A limit has the scope of what breaks it: a request that is too much is refused alone, a push is
dropped, and only who floods the connection itself, or goes on after being refused again and again,
loses it. Whatever is hit is counted under the name of its config key. Nothing here runs for frames
of streams that are open.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from broker.config import Limits
from broker.observe.counters import Counters
from broker.observe.logs import OncePer
from rsocket_mesh.errors import ErrorCode, Invalid, RateLimited
from rsocket_mesh.protocol.announce import Announcement
from rsocket_mesh.protocol.frames import HEADER, KEEPALIVE, LEASE, METADATA_PUSH
from rsocket_mesh.protocol.rates import Bucket, Rate

if TYPE_CHECKING:
    from broker.forwarding.link import Link

CONTROL: Final = "keepalives_per_second"
LEASES: Final = "leases_per_second"
PUSHES: Final = "pushes_per_second"
ANNOUNCEMENTS: Final = "announcements_per_second"
OWN_CALLS: Final = "own_calls_per_second"
STRAYS: Final = "stray_frames_per_second"
LONGEST_REST: Final = 1.0  # seconds that a peer is not read from; then it is looked at again
PATIENCE: Final = 10  # times what is allowed may be refused; then it is no accident any more
# A fragment that is held costs some 130 bytes however little is in it. Nobody has to send frames
# below 64 bytes, so beyond a few these are the bytes of metadata that pay for one.
SMALL_FRAGMENT: Final = 32
FREE_FRAGMENTS: Final = 16
ANNOUNCEMENT_UNIT: Final = 65_536  # bytes that count as one announcement
# Header and position in front of the data of a KEEPALIVE.
_KEEPALIVE_HEAD: Final = HEADER.size + 8
_FLOODS: Final = {PUSHES: "push-flood", ANNOUNCEMENTS: "announcement-flood"}

_log: Final = logging.getLogger("rsocket_broker.limits")


class OverLimit(Invalid):
    """What a peer sent is over the limit whose config key is *limit*."""

    def __init__(self, limit: str, text: str) -> None:
        super().__init__(text)
        self.limit = limit


class Limiter:
    """The limits of one broker."""

    def __init__(self, limits: Limits, counters: Counters, lines: OncePer) -> None:
        self.limits = limits
        self._counters = counters
        self._lines = lines
        self._texts: dict[str, str] = {}
        self._rates = {
            CONTROL: Rate(limits.keepalives_per_second, 10 * limits.keepalives_per_second),
            PUSHES: Rate(limits.pushes_per_second, 2 * limits.pushes_per_second),
            ANNOUNCEMENTS: Rate(
                limits.announcements_per_second, 5 * limits.announcements_per_second
            ),
            LEASES: Rate(limits.leases_per_second, limits.leases_per_second),
            OWN_CALLS: Rate(limits.own_calls_per_second, 2 * limits.own_calls_per_second),
            STRAYS: Rate(limits.stray_frames_per_second, 5 * limits.stray_frames_per_second),
        }
        self._patience = {
            name: Rate(rate.per_second, PATIENCE * rate.burst) for name, rate in self._rates.items()
        }
        # Over the limit for a second on end, or a quarter of the time.
        self._patience[STRAYS] = Rate(
            limits.stray_frames_per_second / 4, limits.stray_frames_per_second
        )

    # -- what a limit does ------------------------------------------------------------------------

    def hit(self, limit: str, link: Link, text: str) -> None:
        """Count that *link* hit *limit* and was refused; one line a minute says so."""
        self._counters.limits[limit] += 1
        key = f"{limit} {link.app} {link.transport.peer_address or link.transport.scheme}"
        left_out = self._lines.admit(key, link.hub.now)
        if left_out is not None:
            more = f" ({left_out} like it were left out before)" if left_out else ""
            _log.warning("%s hit limits.%s: %s%s", link.name, limit, text, more)

    def close(self, limit: str, link: Link, text: str, reason: str) -> None:
        """Count that *link* hit *limit*, and end its connection."""
        self._counters.limits[limit] += 1
        link.fail(ErrorCode.CONNECTION_ERROR, text, reason)

    def _wait(self, limit: str, link: Link, cost: float, rates: dict[str, Rate]) -> float:
        key = limit if rates is self._rates else f"{limit} refused"
        bucket = link.buckets.get(key)
        if bucket is None:
            bucket = link.buckets[key] = Bucket(rates[limit])
        return bucket.take(link.hub.now, cost)

    def _check_rate(self, limit: str, link: Link, what: str, cost: float = 1.0) -> None:
        """Raise `RateLimited` if *link* is too fast; end its connection if it stays so."""
        wait = self._wait(limit, link, cost, self._rates)
        if not wait:
            return
        text = self._texts.get(limit)  # refusing has to be cheap, for it is what floods are about
        if text is None:
            most = self._rates[limit].per_second
            text = f"more than {most:g} {what} per second; send fewer, or ask for limits.{limit}"
            self._texts[limit] = text
        if limit in _FLOODS and self._wait(limit, link, 1.0, self._patience):
            self.close(limit, link, f"{text}; too many were refused", _FLOODS[limit])
        else:
            self.hit(limit, link, text)
        raise RateLimited(text, retry_after_ms=int(wait * 1000) + 1)

    # -- stream 0 ---------------------------------------------------------------------------------

    def allows_control(self, link: Link, kind: int, frame: bytes) -> bool:
        """Return whether a frame of stream 0 may be looked at; if not, the connection has ended."""
        if kind == METADATA_PUSH:  # `check_push` follows, when its metadata is known
            return True
        most = self.limits.keepalive_bytes
        if kind == KEEPALIVE and len(frame) - _KEEPALIVE_HEAD > most:
            text = f"KEEPALIVE with {len(frame) - _KEEPALIVE_HEAD} bytes of data exceeds {most}"
            self.close("keepalive_bytes", link, text, "keepalive-too-large")
            return False
        limit, reason, advice = CONTROL, "keepalive-flood", "KEEPALIVE at the interval of the SETUP"
        if kind == LEASE and link.budget is not None and link.budget.leased is not None:
            limit, reason, advice = LEASES, "lease-flood", "larger leases, less often"
        session = link.session
        if session is not None and kind == KEEPALIVE and session.books.earns_keepalive():
            return True
        if self._wait(limit, link, 1.0, self._rates):
            rate = self._rates[limit]
            text = (
                f"more than {rate.per_second:g} frames per second on stream 0 ({rate.burst:g} at"
                f" once); send {advice}"
            )
            self.close(limit, link, text, reason)
            return False
        return True

    def check_push(self, link: Link, size: int) -> None:
        """Raise `RateLimited` or `OverLimit` for a METADATA_PUSH that is not to be looked at."""
        self._check_rate(PUSHES, link, "METADATA_PUSH frames")
        most = self.limits.announcement_bytes + self.limits.metadata_bytes
        if size > most:
            raise OverLimit("metadata_bytes", f"METADATA_PUSH of {size} bytes exceeds {most}")

    # -- frames out of place ----------------------------------------------------------------------

    def charge_stray(self, link: Link) -> None:
        """A frame of *link* was ignored; if there are too many, the next are read later.

        Who only calls and goes on is closed. Who serves something never is: items under way when
        their stream is cancelled are strays too, and any caller can make its provider send as many
        of them as it likes.
        """
        bucket = link.buckets.get(STRAYS)
        if bucket is None:
            bucket = link.buckets[STRAYS] = Bucket(self._rates[STRAYS])
        wait = bucket.owe(link.hub.now)
        if not wait:
            return
        most = self._rates[STRAYS].per_second
        text = f"more than {most:g} frames per second for streams that are not there"
        serves = link.announcement is not None and link.announcement.services
        if not serves and self._wait(STRAYS, link, 1.0, self._patience):
            self.close(STRAYS, link, text, "stray-flood")
        elif link.transport.rest(min(wait, LONGEST_REST)):
            self.hit(STRAYS, link, f"{text}; it is read as fast as that")

    # -- requests ---------------------------------------------------------------------------------

    def check_metadata(self, size: int, fragments: int = 1) -> None:
        """Raise `OverLimit` if a request's metadata, *size* bytes so far, is more than is kept."""
        most = self.limits.metadata_bytes
        text = ""
        if size > most:
            text = f"metadata of {size} bytes exceeds the limit of {most}"
        elif fragments > FREE_FRAGMENTS + size // SMALL_FRAGMENT:
            text = (
                f"metadata of {size} bytes in {fragments} fragments; send at least"
                f" {SMALL_FRAGMENT} bytes of it in each"
            )
        if text:
            raise OverLimit("metadata_bytes", text)

    # -- announcements and calls of the broker's own services -------------------------------------

    def check_announcement_size(self, size: int) -> None:
        """Raise `OverLimit` before anything of an announcement of *size* bytes is decoded."""
        most = self.limits.announcement_bytes
        if size > most:
            raise OverLimit(
                "announcement_bytes", f"announcement of {size} bytes exceeds the limit of {most}"
            )

    def check_change(self, link: Link, size: int) -> None:
        """Raise `RateLimited` if *link* changes what it announces too often."""
        cost = 1.0 + size // ANNOUNCEMENT_UNIT
        self._check_rate(ANNOUNCEMENTS, link, "announcements", cost)

    def check_announcement(self, announcement: Announcement) -> None:
        """Raise `OverLimit` if *announcement* holds more than a peer may register."""
        limits = self.limits
        services = announcement.services
        tagged = max((len(service.tags) for service in services), default=0)
        for limit, what, there, most in (
            ("announced_services", "services", len(services), limits.announced_services),
            ("announced_methods", "methods", _methods(announcement), limits.announced_methods),
            ("announced_routes", "routes", _routes(announcement), limits.announced_routes),
            ("announced_tags", "tags", len(announcement.tags), limits.announced_tags),
            ("announced_tags", "tags of one service", tagged, limits.announced_tags),
        ):
            if there > most:
                raise OverLimit(limit, f"announcement: {there} {what} exceed the limit of {most}")

    def check_own_call(self, link: Link) -> None:
        """Raise `RateLimited` if *link* asks the broker itself too often."""
        self._check_rate(OWN_CALLS, link, "calls to the broker's own services")


def _methods(announcement: Announcement) -> int:
    return sum(len(service.methods or ()) for service in announcement.services)


def _routes(announcement: Announcement) -> int:
    return sum(len(service.routes) for service in announcement.services)
