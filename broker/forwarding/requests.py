"""The general way to open a call: any request of any peer, with all that may have to happen first.

Metadata that comes in fragments is collected until it is complete; a route that nobody serves yet
may be waited for; then the request is spliced if its two sides differ, and joined to a provider.
The fast way for plain requests is `opening`; whatever it refuses comes here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from broker.forwarding.budget import WaitKey, choose_with_room
from broker.forwarding.credit import first_grant
from broker.forwarding.joining import join, with_initial_n
from broker.forwarding.limiter import OverLimit
from broker.forwarding.passing import Asker, passed_on, unpacked
from broker.forwarding.pressure import admit, count_reset, too_much_unfinished
from broker.forwarding.routes import NOBODY, Route
from broker.forwarding.splice import Wanted, cut_request, read, splice
from broker.kernel import law, relay
from broker.routing.candidates import Candidate
from broker.routing.selection import DRAW_BITS, choose_shard
from rsocket_mesh.errors import (
    DeadlineExceeded,
    Draining,
    Invalid,
    LocalProtocolError,
    NoRoute,
    Overloaded,
    RateLimited,
    StreamError,
    Unavailable,
)
from rsocket_mesh.protocol.frames import (
    CANCEL,
    ERROR,
    FLAG_COMPLETE,
    FLAG_FOLLOWS,
    MAX_REQUEST_N,
    PAYLOAD,
    REQUEST_CHANNEL,
    REQUEST_FNF,
    Request,
    decode_payload,
    decode_request,
    encode_error,
    peek,
    restamp,
)
from rsocket_mesh.protocol.framing import prefix_lengths
from rsocket_mesh.protocol.metadata import decode_deadline

if TYPE_CHECKING:
    from broker.forwarding.link import Link
    from broker.kernel.wheel import Entry
    from rsocket_mesh.protocol.capacity import Capacity

Chosen = Candidate["Link"] | None
OWN_STREAMS: Final = 128  # calls of one session to the broker itself, unsent answers included
FRAGMENT_OVERHEAD: Final = 128  # bytes charged per fragment that is held: its objects and places


def request_arrived(link: Link, frame: bytes) -> None:
    """Take a REQUEST_x frame of an open session, on a stream id that is not in use.

    Raises:
        RemoteProtocolError: the frame is malformed, which ends the connection.
    """
    request = decode_request(frame)
    leasing = link.leasing
    if leasing is None:
        _take(link, request, frame)
    elif (beyond := leasing.take()) is not None:
        _refuse(link, request, beyond, None)
    else:  # one unit, whatever becomes of it and however many fragments follow (C-94)
        _take(link, request, frame)
        leasing.dealt_with()


def _take(link: Link, request: Request, frame: bytes) -> None:
    refusal = admit(link)
    if refusal is not None:
        _refuse(link, request, refusal, None)
        return
    initial = request.initial_n
    if initial is not None and not 1 <= initial <= MAX_REQUEST_N:
        error = Invalid(f"initial request n of {initial}, must be 1 to {MAX_REQUEST_N}")
        _refuse(link, request, error, None)
        return
    arriving = Arriving(link, request, frame)
    if arriving.is_metadata_complete:
        arriving.route()
    else:
        arriving.hold(link.hub.now + link.hub.config.limits.setup_timeout)


def _refuse(link: Link, request: Request, error: StreamError, route: Route | None) -> None:
    if isinstance(error, OverLimit):
        link.hub.limiter.hit(error.limit, link, error.text)
    counters = route.counters if route is not None else link.hub.counters.calls_to(NOBODY)
    token = (error.token or "error").lower()
    counters.started += 1
    counters.others[token] += 1
    if request.kind == REQUEST_FNF:
        link.hub.counters.dropped[token] += 1  # never answered (C-71)
        return
    code, text = error.to_wire()
    link.send(encode_error(request.stream_id, code, text))


class Arriving:
    """One request that is not on its way yet: its metadata is incomplete, or nobody serves it.

    Every byte it holds is counted in `hub.held_bytes`, and it has a deadline in the wheel.
    """

    __slots__ = (
        "_asker",
        "_bucket",
        "_capacity",
        "_data",
        "_deadline",
        "_follows",
        "_full",
        "_head",
        "_later",
        "_link",
        "_metadata",
        "_metadata_size",
        "_queued_as",
        "_request",
        "_route",
        "_size",
        "_waiting_until",
        "_wanted",
        "is_metadata_complete",
    )

    def __init__(self, link: Link, request: Request, frame: bytes) -> None:
        self._link = link
        self._asker: Asker = link  # who asks, if a sibling passes the request on
        self._request = request
        self._head = [frame]  # the request, up to the fragment that completes its metadata
        self._later: list[bytes] = []  # what came behind
        self._metadata = [request.metadata] if request.metadata is not None else []
        self._metadata_size = len(request.metadata or b"")
        self._data = [request.data]
        self._follows = request.follows
        self._size = len(frame)
        self._bucket: set[Entry] | None = None
        self._deadline: float | None = None  # when the caller's patience ends
        self._waiting_until: float | None = None  # set once it had to wait for a provider
        self._capacity: Capacity | None = None  # where it counts as at work
        self._full: Overloaded | None = None  # what it is refused with when the wait is over
        self._queued_as: WaitKey | None = None  # set while it waits for one to have room
        self._wanted = Wanted()
        self._route: Route | None = None
        self.is_metadata_complete = bool(
            request.metadata is None or request.data or not request.follows
        )

    # -- held -------------------------------------------------------------------------------------

    def hold(self, until: float) -> None:
        """Keep the request until *until*, or refuse it if too much is held already."""
        hub = self._link.hub
        limits = hub.config.limits
        if len(hub.held) >= limits.waiting_requests:
            hub.counters.limits["waiting_requests"] += 1
            text = f"{len(hub.held)} requests are waiting, the limit is {limits.waiting_requests}"
            self._refuse(Overloaded(text))
        elif hub.held_bytes + self._size > limits.waiting_bytes:
            hub.counters.limits["waiting_bytes"] += 1
            text = f"{hub.held_bytes} bytes of requests wait, the limit is {limits.waiting_bytes}"
            self._refuse(Overloaded(text))
        else:
            hub.held_bytes += self._size
            hub.held[self] = None
            self._link.held[self._request.stream_id] = self
            self._bucket = hub.wheel.bucket(until)
            self._bucket.add(self)

    def release(self) -> None:
        """Stop holding; the request goes on or is dropped."""
        if self._bucket is None:
            return
        hub = self._link.hub
        hub.held_bytes -= self._size
        if self._queued_as is not None:
            hub.queue.discard(self._queued_as, self)
            self._queued_as = None
        del hub.held[self]
        del self._link.held[self._request.stream_id]
        self._bucket.discard(self)
        self._bucket = None

    def expire(self, now: float) -> None:
        """The wait is over (called by the wheel)."""
        self.release()
        if not self.is_metadata_complete:
            timeout = self._link.hub.config.limits.setup_timeout
            self._refuse(Invalid(f"the metadata was not complete after {timeout:g} s"))
        elif self._deadline is not None and now >= self._deadline:
            what = "nobody serves the route" if self._full is None else self._full.text
            self._refuse(DeadlineExceeded(f"{what}, until the deadline"))
        else:
            self._give_up()

    def take(self, frame: bytes) -> None:
        """Take a later frame of the stream while the request is held."""
        _, kind, flags = peek(frame)
        if kind in (CANCEL, ERROR):  # a channel's requester may give up with either
            self.release()
            count_reset(self._link)
            return
        hub = self._link.hub
        limits = hub.config.limits
        self._size += len(frame) + FRAGMENT_OVERHEAD
        hub.held_bytes += len(frame) + FRAGMENT_OVERHEAD
        if hub.held_bytes > limits.waiting_bytes:
            self.release()
            hub.counters.limits["waiting_bytes"] += 1
            text = f"{hub.held_bytes} bytes of requests wait, the limit is {limits.waiting_bytes}"
            self._refuse(Overloaded(text))
        elif self.is_metadata_complete or kind != PAYLOAD:
            self._later.append(frame)
        else:
            self._collect(frame, flags)

    def _collect(self, frame: bytes, flags: int) -> None:
        fragment = decode_payload(frame)
        self._head.append(frame)
        if fragment.metadata is not None:
            self._metadata.append(fragment.metadata)
            self._metadata_size += len(fragment.metadata)
        self._data.append(fragment.data)
        self._follows = bool(flags & FLAG_FOLLOWS) and not flags & FLAG_COMPLETE
        if fragment.complete and self._request.kind == REQUEST_CHANNEL:
            self._request = self._request._replace(complete=True)
        try:
            self._link.hub.limiter.check_metadata(self._metadata_size, len(self._head))
        except OverLimit as exc:
            self.release()
            self._refuse(exc)
            return
        if fragment.metadata is None or fragment.data or not self._follows:
            self.is_metadata_complete = True
            self.release()
            self.route()

    # -- on its way -------------------------------------------------------------------------------

    def route(self) -> None:
        """Send the request where it belongs, hold it until somebody serves it, or refuse it."""
        link = self._link
        metadata = b"".join(self._metadata) if self._metadata else None
        try:
            if link.is_sibling:
                self._asker, metadata = unpacked(link, self._asker, metadata)
            wanted = self._wanted = self._read(metadata)
            route = self._route = self._asker.route_of(wanted.routing)
        except StreamError as exc:
            self._refuse(exc)
            return
        if link.leasing is not None and route.candidates:
            link.leasing.called(route.candidates.entries[0].service.name)
        if route.is_builtin:
            self._serve()
        elif link.hub.is_draining:
            self._refuse(Draining("this broker is going away"))
        elif route.is_budgeted:
            self._send_with_room(route, metadata)
        elif route.candidates:
            self._send_to_one(route, metadata)
        else:
            self._wait()

    def _serve(self) -> None:
        link = self._link
        try:
            link.hub.limiter.check_own_call(link)
        except RateLimited as exc:
            self._refuse(exc)
            return
        local = link.local or link.make_local()
        if local.open_streams >= OWN_STREAMS:
            self._refuse(Overloaded(f"{OWN_STREAMS} calls to the broker are open; finish some"))
            return
        for frame in (*self._head, *self._later):
            local.receive_frame(*peek(frame), frame)

    def retry(self) -> None:
        """The table has changed: go on if somebody serves the route now."""
        if self._waiting_until is None or self._bucket is None:  # not waiting, or no longer held
            return
        try:
            is_served = bool(self._asker.route_of(self._wanted.routing).candidates)
        except StreamError:  # its session has given up its default service
            is_served = True  # and `route` refuses it
        if is_served:
            self.release()
            self.route()

    def drain(self) -> None:
        """The broker is going away: refuse the request if it waits for a provider."""
        if self._waiting_until is not None:
            self.give_up(Draining("this broker is going away"))

    def give_up(self, error: StreamError) -> None:
        """Hold the request no longer, and refuse it with *error*."""
        self.release()
        self._refuse(error)

    def _read(self, metadata: bytes | None) -> Wanted:
        link = self._link
        limits = link.hub.config.limits
        if metadata is not None:
            link.hub.limiter.check_metadata(len(metadata))
        wanted = read(metadata, self._asker.sends.metadata_mime, limits.metadata_entries)
        if wanted.deadline is not None and self._deadline is None:
            self._deadline = link.hub.now + decode_deadline(wanted.deadline) / 1000
        return wanted

    def _send_to_one(self, route: Route, metadata: bytes | None) -> None:
        if self._wanted.shard is not None:
            chosen = choose_shard(route.instances, self._wanted.shard)
        else:
            chosen = route.pick(self._link.hub.draw(DRAW_BITS))
        self._send_to(route, chosen, metadata)

    def _send_with_room(self, route: Route, metadata: bytes | None) -> None:
        """Send the request to a provider whose budget has room; else wait for it, or refuse."""
        link, wanted = self._link, self._wanted
        hub = link.hub
        key = (self._asker.tenant, wanted.routing or route.counters.service, wanted.shard)
        chosen, full = choose_with_room(route, wanted.shard, hub.now, hub.draw(DRAW_BITS))
        if full is None and self._waiting_until is None and key in hub.queue:
            full = Overloaded("others wait for its providers already")  # it is not its turn
        if full is None:
            self._send_to(route, chosen, metadata)
        elif self._wait(full):
            self._queued_as = key
            hub.queue.add(key, self)

    def go_on(self) -> bool:
        """Go on if a provider has room now; return whether the request waits no longer."""
        try:
            route = self._asker.route_of(self._wanted.routing)
            hub = self._link.hub
            draw = hub.draw(DRAW_BITS)
            full = choose_with_room(route, self._wanted.shard, hub.now, draw)[1]
        except StreamError:  # its session has given up its default service
            full = None  # and `route` refuses it
        if full is not None:
            return False
        self.release()
        self.route()
        return True

    def _send_to(self, route: Route, chosen: Chosen, metadata: bytes | None) -> None:
        if chosen is None:
            there = len(route.candidates)
            self._refuse(Unavailable(f"none of its {there} providers takes calls just now"))
            return
        provider_id = chosen.provider.allocate()
        if provider_id is None:
            self._refuse(Unavailable("all stream ids of the provider's connection are in use"))
            return
        self._open(route, chosen, provider_id, metadata)

    def _wait(self, full: Overloaded | None = None) -> bool:
        """Hold the request as long as a provider is waited for, from its arrival on; else refuse
        it, with *full* if there are providers. Return whether it is held."""
        hub, until, self._full = self._link.hub, self._waiting_until, full
        if until is None:
            until = hub.now + hub.config.routing.route_wait
            if self._deadline is not None:
                until = min(until, self._deadline)
        if until > hub.now:
            self._waiting_until = until
            self.hold(until)
        else:
            self._give_up()
        return self._bucket is not None

    def _give_up(self) -> None:
        assert self._route is not None
        if self._full is not None:
            self._route.counters.over_budget += 1
            self._refuse(self._full)
        else:
            miss = self._route.candidates.miss
            self._refuse(NoRoute(miss.text if miss is not None else "nobody serves it"))

    def _refuse(self, error: StreamError) -> None:
        _refuse(self._link, self._request, error, self._route)

    def _open(
        self, route: Route, chosen: Candidate[Link], provider_id: int, metadata: bytes | None
    ) -> None:
        link, request, provider = self._link, self._request, chosen.provider
        asker, remaining = self._asker, self._remaining()
        granted = None
        if request.initial_n is not None:
            granted = first_grant(request.initial_n, link.item_room(), route.item_bytes)
        try:
            if provider.is_sibling:
                changed = passed_on(metadata, self._wanted, link, remaining)
            else:
                takes, caller = provider.takes, asker.caller_entry
                changed = splice(metadata, self._wanted, asker.sends, takes, caller, remaining)
            if changed is metadata and asker is link:  # else an entry in front was taken off
                frames = [with_initial_n(restamp(self._head[0], provider_id), granted)]
                follows, rest = request.follows, self._head[1:] + self._later
            else:
                data, follows, rest = b"".join(self._data), self._follows, self._later
                carried = request._replace(initial_n=granted)
                frames = cut_request(carried, provider_id, changed, data, follows)
        except LocalProtocolError as exc:
            self._refuse(Invalid(f"the metadata cannot be passed on: {exc}"))
            return
        route.counters.started += 1
        if provider.budget is not None:
            is_heard_of = request.kind != REQUEST_FNF
            self._capacity = provider.budget.take(chosen.service, link.hub.now, is_heard_of)
        if follows or request.kind != REQUEST_FNF:
            call = join(
                *(link, request, route, provider, provider_id),
                *(granted, self._deadline, self._capacity),
            )
            if follows:
                call.set_caller_law(law.REQUESTING[request.kind])
                error = too_much_unfinished(link, call.piece_up(sum(map(len, frames))))
                if error is not None:
                    call.fail_caller(error)
                    return
        else:
            route.counters.ok += 1
        for frame in frames:
            provider.send(frame)
        if rest:
            relay(link, b"".join(prefix_lengths(rest)))
            link.hub.counters.frames_in -= len(rest)  # counted when they came

    def _remaining(self) -> int | None:
        """Return what is left of the deadline, in ms, if it has to be said anew."""
        if self._deadline is None or self._waiting_until is None:
            return None
        return max(0, round((self._deadline - self._link.hub.now) * 1000))
