"""One peer's session: what it is, what it serves, and the streams that run through it.

The shell between a transport and the rooms that decide: `relay` for streams, the connection state
machine for stream 0, `requests` for what is not plain, and the broker's own services. A link is a
session, not its socket: routing, calls and identity hang on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

import msgspec

from broker.forwarding.admission import REFUSED_LINGER
from broker.forwarding.budget import Budget
from broker.forwarding.control import act_on
from broker.forwarding.greeting import before_setup
from broker.forwarding.items import ItemCall
from broker.forwarding.joining import open_plain
from broker.forwarding.large import forward_large
from broker.forwarding.leasing import Leasing
from broker.forwarding.pressure import SlowReader
from broker.forwarding.requests import Arriving
from broker.forwarding.routes import Route, Routes
from broker.forwarding.splice import Shape
from broker.forwarding.strays import take_stray
from broker.forwarding.turns import think
from broker.kernel import LinkCore, relay
from broker.routing.selection import DRAW_BITS, choose_equal
from rsocket_mesh.errors import ErrorCode, NoRoute, PeerLost
from rsocket_mesh.peer import Responder, ResumableTransport
from rsocket_mesh.protocol.announce import Announcement
from rsocket_mesh.protocol.events import (
    Event,
)
from rsocket_mesh.protocol.fragments import ReassemblyBudget
from rsocket_mesh.protocol.frames import (
    MAX_STREAM_ID,
    Lease,
)
from rsocket_mesh.protocol.framing import prefix
from rsocket_mesh.protocol.lease import Leased
from rsocket_mesh.protocol.phases import Phase
from rsocket_mesh.protocol.rates import Bucket
from rsocket_mesh.transport.base import FRAME_TOO_LONG, PROTOCOL_ERROR, Transport

if TYPE_CHECKING:
    from broker.forwarding.hub import Hub
    from broker.kernel.wheel import Entry

_NO_SHAPE: Final = Shape("", "")


class Link(LinkCore):
    """A session, from the accepted connection to its end. Implements `Receiver`.

    What the kernel touches is said at `LinkCore`; the rest:

    Attributes:
        consuming: halves of streams whose items go to it, which share what may be under way.
        streams: stream id -> leg, for both parities.
        resets: the rate of requests that it cancelled; None before the first.
        budget: what it can take; None if it named no limit and asked for no leases.
        local: serves what it asks of the broker itself; None before the first such call.
        leasing: what it is granted as a client; None if it asked for no leases.
        session: what it runs on if it may outlive its sockets; else None.
        slow_reader: watches it while it is congested.
        started: the rate of its requests; None before the first.
        starved: calls with items for it that are to be granted more when it has read.
        place: the address that its connection counts for, kept while there is none.
        unfinished: bytes it has sent of messages that are under way in fragments.
        is_sibling: it is no peer but another worker of this broker (`broker.workers`).
        is_remote: it stands in the table for a session of another worker, and is none itself.
    """

    is_sibling: ClassVar[bool] = False
    is_remote: ClassVar[bool] = False

    __slots__ = (
        "_is_plain",
        "_tenant_routes",
        "announcement",
        "app",
        "bucket",
        "buckets",
        "budget",
        "caller_entry",
        "connected_at",
        "connection",
        "consuming",
        "default_service",
        "id",
        "instance",
        "leasing",
        "local",
        "place",
        "principal",
        "resets",
        "session",
        "slow_reader",
        "started",
        "starved",
        "tenant",
        "unfinished",
    )

    hub: Hub
    transport: Transport
    held: dict[int, Arriving]
    routes: Routes | None
    sends: Shape
    takes: Shape
    _tenant_routes: Routes

    def __init__(self, hub: Hub, link_id: int, default_service: str) -> None:
        super().__init__()
        self.hub = hub
        self.id = link_id
        self.default_service = default_service
        self.connection = hub.new_connection()
        self.connected_at = hub.now
        self.budget: Budget | None = None
        self.leasing: Leasing | None = None
        self.sends = self.takes = _NO_SHAPE
        self.caller_entry = b""
        self.tenant = self.principal = ""
        self.app = self.instance = "-"
        self.announcement: Announcement | None = None
        self.place: str | None = None
        self.session: ResumableTransport | None = None
        self.bucket: set[Entry] | None = None  # where the wheel holds this link
        self.buckets: dict[str, Bucket] = {}  # what it has used of each rate, by limit
        self.local: Responder | None = None
        self._is_plain = False
        self.slow_reader: SlowReader | None = None
        self.consuming = 0
        self.starved: dict[ItemCall, None] = {}
        self.unfinished = 0
        self.started: Bucket | None = None
        self.resets: Bucket | None = None

    def __hash__(self) -> int:
        """By number and not by address: sets of links have one order in all runs of a test."""
        return self.id

    @property
    def name(self) -> str:
        """Who this is, for people: `shop/shop-7f3c (tcp 127.0.0.1:51234)`."""
        return f"{self.app}/{self.instance} ({self.transport.name})"

    @property
    def streams_open(self) -> int:
        """Calls of this session, and to it, that have not ended."""
        own = self.local.open_streams if self.local is not None else 0
        return len(self.streams) + len(self.held) + own

    # -- from the transport -----------------------------------------------------------------------

    def connected(self, transport: Transport) -> None:
        """The transport is there; SETUP has to follow within its time."""
        self.transport = transport
        self.out = transport.outbound
        self.hub.watch(self)
        self.hub.admission.came(self)

    def batch_received(self, data: bytes) -> int:
        """Cut *data* into frames and deal with them in order; return how many bytes were used."""
        now = self.hub.tick()
        if self.open:
            self.connection.heard(now)
            return relay(self, data)
        return before_setup(self, data)

    def large_received(self, head: bytes, tail: list[memoryview]) -> bool:
        """Take one large frame in parts, if it is plain."""
        if not self.open:
            return False
        self.connection.heard(self.hub.tick())
        return forward_large(self, head, tail)

    def protocol_violated(self, text: str, reason: str = PROTOCOL_ERROR) -> None:
        """The transport cannot cut frames any more."""
        if reason == FRAME_TOO_LONG:
            self.hub.counters.limits["frame_bytes"] += 1
        self.fail(ErrorCode.CONNECTION_ERROR, text, reason)

    def writable(self, ready: bool) -> None:
        """Outbound rose over its high watermark or fell to the low one."""
        if self.id not in self.hub.links:  # the last flush of a session that has ended
            return
        self.congested = not ready
        self.accepting = ready and self.open and self.connection.phase is Phase.OPEN
        self.choose_way()
        if self.local is not None:
            self.local.set_writable(ready)
        if ready:
            self.slow_reader = None
            starved, self.starved = self.starved, {}
            for call in starved:
                call.settle_down()
                call.settle_up()
        else:
            self.slow_reader = SlowReader(self)

    def transport_lost(self, error: Exception | None) -> bool:
        """The socket of a resumable session is gone: return whether it waits for another."""
        return self.hub.sessions.detach(self, error)

    def transport_resumed(self) -> None:
        """The session goes on over another socket."""
        self.hub.sessions.attach(self)

    def disconnected(self, error: Exception | None) -> None:
        """The socket is gone, and the session with it."""
        reason = getattr(error, "reason", None) or ("peer-closed" if error is None else "peer-lost")
        self.end(reason, str(error) if error is not None else "closed by the peer")

    # -- what the inner loop leaves to others -----------------------------------------------------

    take_frame = take_stray
    think = think

    def choose(self, route: Route) -> Link | None:
        draw = self.hub.draw(DRAW_BITS)
        if route.equals:
            return choose_equal(route.equals, draw)
        chosen = route.pick(draw)
        return None if chosen is None else chosen.provider

    open_items = open_plain

    def route_of(self, routing: bytes | None) -> Route:
        """Return where a request with the routing tags *routing* goes.

        Raises:
            Invalid: the tags cannot be read.
            NoRoute: there are none, and there is no default service.
        """
        if routing is not None:
            return self._tenant_routes.resolve(routing)
        announced = self.announcement.default_service if self.announcement is not None else ""
        default = announced or self.default_service
        if not default:
            raise NoRoute("the request has no routing metadata and there is no default service")
        return self._tenant_routes.default(default)

    def make_local(self) -> Responder:
        """Return what serves its calls to the broker itself, made at the first of them."""
        limits = self.hub.config.limits
        # Twice: so that what is a little too large is refused with a better text.
        room = 2 * (limits.announcement_bytes + limits.metadata_bytes)
        budget = ReassemblyBudget(room, room)
        self.local = Responder(self.send, self.hub.builtin(self), budget=budget)
        return self.local

    # -- stream 0 ---------------------------------------------------------------------------------

    def handle(self, events: list[Event]) -> None:
        """Act on what happened on stream 0, in order; then send what there is to say."""
        if act_on(self, events):
            self.flush_connection()

    def flush_connection(self) -> None:
        """Send what the state of stream 0 has to say."""
        frames = self.connection.frames_to_send()
        if self.connection.phase is Phase.CLOSED:  # an ERROR must not overtake answers
            for frame in frames:
                self.send(frame)
        else:
            for frame in frames:
                self.transport.send_first(frame)
            self.hub.counters.frames_out += len(frames)

    def accept(
        self, announcement: Announcement | None, tenant: str, instance: str, leases: bool
    ) -> None:
        """The hub has admitted the session; from now on it may call and be called, as far as the
        *leases* go if it asked for them."""
        if leases:
            self.budget = Budget(Leased())
            self.leasing = Leasing(self.hub, self)
        self.identify(announcement, tenant, instance)
        self.open = self.accepting = True
        self.connection.accept(self.hub.now)
        if self.leasing is not None:
            self.leasing.begin()

    def grant(self, lease: Lease) -> None:
        """Send LEASE."""
        self.connection.send_lease(lease)
        self.flush_connection()

    def identify(self, announcement: Announcement | None, tenant: str, instance: str) -> None:
        """Say who this is, to people and to providers that want to know who calls."""
        self.announcement = announcement
        budget = self.budget or Budget(None)
        services = announcement.services if announcement is not None else ()
        self.budget = budget if budget.announced(services) else None
        self.app = announcement.app if announcement is not None else "anonymous"
        self.instance = instance
        self.tenant = tenant
        self.caller_entry = msgspec.json.encode(
            {"app": self.app, "instance": instance, "tenant": tenant}
        )

    def use_routes(self, routes: Routes, plain: bool) -> None:
        """Give the session its tenant's route cache; *plain* if it sends composite metadata."""
        self._tenant_routes = routes
        self._is_plain = plain
        self.choose_way()

    def choose_way(self) -> None:
        """Plain requests take the fast way, unless there is a reason to look at every one."""
        hub = self.hub
        fast = self._is_plain and self.open and not self.congested
        fast = fast and not hub.is_draining and hub.refusal is None
        self.routes = self._tenant_routes if fast else None

    def refuse(self, code: int, text: str, reason: str) -> None:
        """Refuse the SETUP and close."""
        self.connection.refuse(code, text)
        self.flush_connection()
        self.end(reason, text)

    def push(self, metadata: bytes) -> None:
        """Send METADATA_PUSH."""
        self.connection.send_metadata_push(metadata)
        self.flush_connection()

    def expire(self, now: float) -> None:
        """A deadline of stream 0 has come (called by the wheel)."""
        if self.connection.phase is Phase.DRAINING and not self.streams_open:
            text = "closed after the last stream"  # the peer said that it wants no more (C-46)
            self.fail(ErrorCode.CONNECTION_CLOSE, text, "peer-closed")
            return
        self.handle(self.connection.handle_deadline(now))
        self.hub.watch(self)

    # -- limits -----------------------------------------------------------------------------------

    def limit_hit(self, name: str) -> None:
        """Count that this peer has reached the limit *name*."""
        self.hub.counters.limits[name] += 1

    def item_room(self) -> int:
        """Return how many bytes of items one stream may have under way to this peer."""
        hub = self.hub
        return min(hub.stream_window, hub.items_under_way // (self.consuming or 1))

    def has_room(self, size: int) -> bool:
        """Return whether *size* more bytes may wait for this peer, which is congested."""
        return self.transport.outbound_size() + size <= self.hub.most_waiting

    def cut_off(self, reason: str, text: str) -> None:
        """End the session without waiting for anything to be read."""
        self.connection.fail(ErrorCode.CONNECTION_ERROR, text, reason)
        self.transport.abort()
        self.end(reason, text)

    # -- outbound ---------------------------------------------------------------------------------

    def send(self, frame: bytes) -> None:
        """Write one frame with the next flush of this turn of the loop."""
        self.out.append(prefix(len(frame)))
        self.out.append(frame)
        self.hub.counters.frames_out += 1
        self.transport.flush_soon()

    def allocate(self) -> int | None:
        """Return a stream id for a request to this peer, or None if all are in use."""
        for _ in range(len(self.streams) + 2):
            stream_id = self.next_id
            if stream_id > MAX_STREAM_ID:
                stream_id = 2
            self.next_id = stream_id + 2
            if stream_id not in self.streams:
                return stream_id
        return None

    # -- the end ----------------------------------------------------------------------------------

    def ignored(self, what: str) -> None:
        """Count a frame out of place ("Handling the Unexpected")."""
        self.hub.counters.ignored[what] += 1
        self.hub.limiter.charge_stray(self)

    def violated(self, text: str) -> None:
        """The peer broke the protocol: tell it, and end the connection."""
        self.fail(ErrorCode.CONNECTION_ERROR, text, "protocol-error")

    def fail(self, code: int, text: str, reason: str) -> None:
        """End the connection from our side, with an ERROR on stream 0."""
        self.connection.fail(code, text, reason)
        self.flush_connection()
        self.end(reason, text)

    def end(self, reason: str, text: str) -> None:
        """End the session: out of the table, its calls ended on the other side. Idempotent."""
        if not self.hub.remove(self, reason, text):
            return
        was_open = self.open
        self.open = self.accepting = self.congested = False
        self.slow_reader = None
        self.routes = None
        lost = PeerLost(f"the session of {self.app}/{self.instance} ended ({reason})")
        for held in list(self.held.values()):
            held.release()
        for _, _, _, call in list(self.streams.values()):
            if call.provider is self and call.provider_id in self.streams:
                call.fail_caller(lost)
            elif call.caller is self and call.caller_id in self.streams:
                call.end("caller_lost")
                call.cancel_provider()
        if self.leasing is not None:
            self.leasing.end()
        if self.local is not None:
            self.local.close(lost)
            self.local = None  # it knows this link: a cycle would live until the next collection
        if not was_open:
            self.transport.linger = REFUSED_LINGER
        self.transport.close()
