"""What the inner loop touches of links, calls and routes, in plain Python.

Each class here is the *core* of a class in the rooms above, which inherits from it and adds what
needs thought: `forwarding.Link` is a `LinkCore`, `forwarding.Call` a `CallCore`. The compiled twin
(`compiled.pyx`) defines the same classes with the same fields, typed; which of the two is used is
decided once, in `broker.kernel`. Nothing here does anything but hold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from broker.kernel.law import Law
    from broker.kernel.wheel import Entry, Wheel
    from rsocket_mesh.transport.base import Chunk

# One side of a relayed call: (other link, its stream id as four bytes, law, call), under the stream
# id in `LinkCore.streams`. A tuple, because two are made per call and one is read per frame.
Leg = tuple[Any, bytes, "Law", Any]


class Flushing(Protocol):
    """What the inner loop needs of a transport."""

    def flush(self) -> None:
        """Write what is in the link's `out`."""


class Counting(Protocol):
    """What the inner loop counts for the whole process."""

    frames_in: int
    frames_out: int


class TallyCore:
    """Calls to one service: begun, and ended well."""

    __slots__ = ("ok", "started")

    def __init__(self) -> None:
        self.started = 0
        self.ok = 0


class CreditCore:
    """Credit of one direction of a stream, as far as whole items count it.

    Attributes:
        left: items that may pass until the credit is settled. Counted down.
        bytes: of the items since then. Counted up.
    """

    __slots__ = ("bytes", "left")

    def __init__(self) -> None:
        self.left = 0
        self.bytes = 0


class RouteCore:
    """Where plain calls with the same routing bytes go.

    Attributes:
        only: the one provider if there is just one, so that nothing has to be chosen.
        equals: the providers if there are several and all weigh the same; else empty.
        is_budgeted: calls have to ask for room first, so none is plain.
        counters: of the service.
    """

    __slots__ = ("counters", "equals", "is_budgeted", "only")

    def __init__(
        self,
        only: Any,
        equals: tuple[Any, ...],
        is_budgeted: bool,
        counters: TallyCore,
    ) -> None:
        self.only = only
        self.equals = equals
        self.is_budgeted = is_budgeted
        self.counters = counters


class HubCore:
    """What all links of a process share.

    Attributes:
        now: the loop's clock at the batch that is being processed, in seconds.
        frame_limit: bytes of the longest frame.
        wheel: where deadlines wait; `default_bucket` its set for calls that name none.
        deadline_bucket: the set for calls that name `deadline_ms`; most of a batch name the same.
            -1 at the begin of a batch.
        counters: of the process.
        call_class: what a request-response is made as.
        draw: returns as many random bits as it is asked for, as a number.
    """

    now: float
    frame_limit: int
    wheel: Wheel
    default_bucket: set[Entry]
    deadline_ms: int
    deadline_bucket: set[Entry]
    counters: Counting
    call_class: type[CallCore]
    draw: Callable[[int], int]


class LinkCore:
    """A session, as far as frames run through it.

    Attributes:
        open: the SETUP was accepted and the session has not ended.
        accepting: new calls may be sent to it.
        congested: more waits for it than the high watermark; it has to read first.
        in_flight: calls that it works on for others.
        next_id: the stream id of the next request to it.
        requests_left: how many may begin before the limits are looked at.
        streams: stream id -> leg, for both parities.
        held: requests of this link that are not on their way yet, by stream id.
        routes: routing bytes -> route, for plain requests; None if it sends none just now.
        sends, takes: how it writes its requests, and how it wants those of others. Compared by
            identity.
        out: frames that leave with the next flush.
        transport: what flushes them.
    """

    __slots__ = (
        "accepting",
        "congested",
        "held",
        "hub",
        "in_flight",
        "next_id",
        "open",
        "out",
        "requests_left",
        "routes",
        "sends",
        "streams",
        "takes",
        "transport",
    )

    hub: Any
    out: list[Chunk]
    transport: Any
    streams: dict[int, Leg]
    held: dict[int, Any]
    routes: Any
    sends: object
    takes: object

    def __init__(self) -> None:
        self.open = self.accepting = self.congested = False
        self.in_flight = 0
        self.next_id = 2
        self.requests_left = 0
        self.streams = {}
        self.held = {}
        self.routes = None
        self.sends = self.takes = None

    # What the floor above does, and calls for; a core by itself has none of it.

    def think(self, data: bytes, position: int, stop: int, word: int, leg: Leg) -> None:
        """Deal with the frame of a known stream at *position* of the batch *data*."""
        raise NotImplementedError

    def take_frame(self, frame: bytes) -> None:
        """Deal with a frame, without its prefix, that belongs to no stream that is known."""
        raise NotImplementedError

    def choose(self, route: Any) -> Any:
        """Return the provider for a call to *route*, which has several; None if none accepts."""
        raise NotImplementedError

    def open_items(
        self,
        stream_id: int,
        provider: Any,
        provider_id: int,
        kind: int,
        route: Any,
        asked: int,
        deadline_ms: int | None,
    ) -> int:
        """Enter a stream or channel on both links; return how many items to ask the provider for.

        Args:
            asked: the items that the request asks for.
            deadline_ms: how long the caller waits for the first, in milliseconds; None if it did
                not say.
        """
        raise NotImplementedError


class CallCore:
    """One relayed request.

    Attributes:
        caller, caller_id: where it came from, and its stream id there.
        provider, provider_id: where it went.
        kind: the frame type of the request.
        counters: of the service that was called.
        bucket: the wheel's set that holds it while a deadline runs.
        coming_up, coming_down: bytes of the message that is under way in fragments, towards the
            provider and towards the caller; 0 if there is none.
        down: credit from provider to caller; None for request-response and fire-and-forget, and
            when that half has ended.
        up: credit of a channel from caller to provider.
    """

    __slots__ = (
        "bucket",
        "caller",
        "caller_id",
        "coming_down",
        "coming_up",
        "counters",
        "down",
        "kind",
        "provider",
        "provider_id",
        "up",
    )

    down: Any
    up: Any

    def __init__(
        self,
        caller: Any,
        caller_id: int,
        provider: Any,
        provider_id: int,
        kind: int,
        counters: Any,
        bucket: set[Entry] | None,
    ) -> None:
        self.caller = caller
        self.caller_id = caller_id
        self.provider = provider
        self.provider_id = provider_id
        self.kind = kind
        self.counters = counters
        self.bucket = bucket
        self.coming_up = self.coming_down = 0
        self.down = self.up = None

    def forget(self) -> None:
        """Take both legs off their links; later frames of either are ignored. For a call that ends
        between two whole messages; others `end`."""
        del self.caller.streams[self.caller_id]
        del self.provider.streams[self.provider_id]
        self.provider.in_flight -= 1
        if self.bucket is not None:
            self.bucket.discard(self)
