"""What one peer may ask of the broker at a time, and what becomes of a peer that does not read.

Stands beside `link`, which asks here: whether another request may begin, whether a message in
fragments has become too large, and how long a full outbound may stay full. Nothing here runs per
frame: requests are counted down from a share that is handed out in advance.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rsocket_mesh.errors import Canceled, ErrorCode, Overloaded, RateLimited, StreamError
from rsocket_mesh.protocol.rates import Bucket

if TYPE_CHECKING:
    from broker.forwarding.link import Link

SHARE: Final = 256  # requests that may begin without another look; so exact are the limits
FULL_RETRY_MS: Final = 100  # what a peer with too much open is told to wait: nobody knows better


def admit(link: Link) -> StreamError | None:
    """Count one request that *link* begins; return why it may not, or None."""
    if link.hub.refusal is not None:
        return link.hub.refusal()
    if link.congested and not link.is_sibling:
        link.limit_hit("outbound_bytes")
        return Overloaded(
            f"{link.transport.outbound_size()} bytes wait to be read on this connection; "
            "read them before you ask for more"
        )
    if not link.requests_left:
        share = _share(link)
        if isinstance(share, StreamError):
            return share
        link.requests_left = share
    link.requests_left -= 1
    return None


def _share(link: Link) -> int | StreamError:
    """Return how many requests *link* may begin before this is asked again, or why none."""
    limits = link.hub.config.limits
    now_open = len(link.streams) - link.in_flight + len(link.held)
    free = limits.streams - now_open
    if free <= 0:
        link.limit_hit("streams")
        return Overloaded(
            f"{now_open} requests of this connection are open, the limit is {limits.streams}; "
            "finish some first",
            retry_after_ms=FULL_RETRY_MS,
        )
    if link.started is None:
        link.started = Bucket(link.hub.request_rate)
    share = min(free, SHARE, limits.requests_per_second)
    wait = link.started.take(link.hub.now, share)
    if wait:
        link.limit_hit("requests_per_second")
        return RateLimited(
            f"more than {limits.requests_per_second} requests per second on this connection",
            retry_after_ms=max(1, round(wait * 1000)),
        )
    return share


def count_reset(link: Link) -> None:
    """*link* has ended a request of its own before it was answered."""
    rate = link.hub.resets
    if link.resets is None:
        link.resets = Bucket(rate)
    if link.resets.take(link.hub.now):
        link.limit_hit("resets_per_second")
        text = f"more than {rate.per_second:g} requests per second were cancelled"
        link.fail(ErrorCode.CONNECTION_ERROR, text, "rapid-reset")


class SlowReader:
    """Watches a peer whose outbound is over the high watermark; an entry of the wheel.

    A peer that has taken nothing at all for `slow_reader_timeout` while more than `outbound_bytes`
    wait for it is closed. One that takes a little is slow, which credit copes with.
    """

    __slots__ = ("_link", "_taken")

    def __init__(self, link: Link) -> None:
        self._link = link
        self._taken = self._taken_now()
        self._arm()

    def _taken_now(self) -> int:
        transport = self._link.transport
        return transport.bytes_out - transport.outbound_size()

    def _arm(self) -> None:
        hub = self._link.hub
        hub.wheel.bucket(hub.now + hub.config.limits.slow_reader_timeout).add(self)

    def expire(self, now: float) -> None:
        """Look again (called by the wheel)."""
        link = self._link
        if not link.congested or link.slow_reader is not self:
            return
        limits = link.hub.config.limits
        waiting, taken = link.transport.outbound_size(), self._taken_now()
        if waiting > limits.outbound_bytes and taken == self._taken:
            link.limit_hit("outbound_bytes")
            link.cut_off(
                "slow-reader",
                f"it has read nothing for {limits.slow_reader_timeout:g} s while {waiting} bytes "
                f"wait for it, the limit is {limits.outbound_bytes}",
            )
            return
        self._taken = taken
        self._arm()


def too_much_unfinished(link: Link, message: int) -> StreamError | None:
    """Return why a message of *message* bytes so far, sent by *link*, may not go on; else None."""
    limits = link.hub.config.limits
    if message > limits.payload_bytes:
        link.limit_hit("payload_bytes")
        return Canceled(
            f"a message of more than {limits.payload_bytes} bytes, which is the limit; "
            "send it in several, as a stream"
        )
    if link.unfinished > limits.unfinished_bytes:
        link.limit_hit("unfinished_bytes")
        return Canceled(
            f"unfinished messages of this connection exceed {limits.unfinished_bytes} bytes; "
            "finish some before you begin others"
        )
    return None
