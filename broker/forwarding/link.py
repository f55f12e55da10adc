"""One peer's session: what it is, what it serves, and the streams that run through it.

The shell between a transport and the rooms that decide: `relay` for streams, the connection state
machine for stream 0, `requests` for what is not plain, and the broker's own services. A link is a
session, not its socket: routing, calls and identity hang on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from broker.forwarding.budget import Budget
from broker.forwarding.call import Leg
from broker.forwarding.leasing import Leasing
from broker.forwarding.relay import relay
from broker.forwarding.requests import Arriving, request_arrived
from broker.forwarding.routes import Route, Routes
from broker.forwarding.splice import Shape
from rsocket_mesh.errors import ErrorCode, NoRoute, PeerLost, RemoteProtocolError
from rsocket_mesh.peer import Responder
from rsocket_mesh.protocol.announce import Announcement
from rsocket_mesh.protocol.connection import Phase
from rsocket_mesh.protocol.events import (
    ConnectionEnded,
    Event,
    Ignored,
    LeaseArrived,
    MetadataPushed,
    PeerClosing,
    SetupArrived,
)
from rsocket_mesh.protocol.fragments import ReassemblyBudget
from rsocket_mesh.protocol.frames import (
    FLAG_IGNORE,
    HEADER,
    MAX_STREAM_ID,
    REQUEST_CHANNEL,
    REQUEST_RESPONSE,
    RESUME,
    SETUP,
    TYPE_NAMES,
    Lease,
    describe,
    peek,
)
from rsocket_mesh.protocol.framing import PREFIX_SIZE, prefix
from rsocket_mesh.protocol.lease import Leased
from rsocket_mesh.transport.base import Transport

if TYPE_CHECKING:
    from broker.forwarding.hub import Hub
    from broker.forwarding.wheel import Entry

_NO_SHAPE: Final = Shape("", "")
_HTTP_METHODS: Final = (b"GET ", b"POST ", b"PUT ", b"HEAD ", b"OPTIONS ", b"DELETE ", b"PRI * ")
_HTTP_ANSWER: Final = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
    b"This port speaks RSocket over TCP. For WebSocket and for HTTP the broker has other ports.\n"
)


class Link:
    """A session, from the accepted connection to its end. Implements `Receiver`.

    Attributes:
        open: the SETUP was accepted and the session has not ended.
        accepting: new calls may be sent to it.
        in_flight: calls that it works on for others.
        streams: stream id -> leg, for both parities.
        held: requests of this link that are not on their way yet, by stream id.
        budget: what it can take; None if it named no limit and asked for no leases.
        leasing: what it is granted as a client; None if it asked for no leases.
        sends, takes: how it writes its requests, and how it wants those of others.
        routes: the tenant's route cache, for plain requests; None if it sends none.
        out: the transport's outbound; appending to it needs a flush.
    """

    __slots__ = (
        "_local",
        "_tenant_routes",
        "accepting",
        "announcement",
        "app",
        "bucket",
        "budget",
        "caller_entry",
        "connected_at",
        "connection",
        "default_service",
        "held",
        "hub",
        "id",
        "in_flight",
        "instance",
        "leasing",
        "next_id",
        "open",
        "out",
        "principal",
        "routes",
        "sends",
        "streams",
        "takes",
        "tenant",
        "transport",
    )

    transport: Transport
    out: list[bytes]
    _tenant_routes: Routes

    def __init__(self, hub: Hub, link_id: int, default_service: str) -> None:
        self.hub = hub
        self.id = link_id
        self.default_service = default_service
        self.connection = hub.new_connection()
        self.connected_at = hub.now
        self.open = False
        self.accepting = False
        self.in_flight = 0
        self.next_id = 2
        self.streams: dict[int, Leg] = {}
        self.held: dict[int, Arriving] = {}
        self.budget: Budget | None = None
        self.leasing: Leasing | None = None
        self.routes: Routes | None = None
        self.sends = self.takes = _NO_SHAPE
        self.caller_entry = b""
        self.tenant = self.principal = ""
        self.app = self.instance = "-"
        self.announcement: Announcement | None = None
        self.bucket: set[Entry] | None = None  # where the wheel holds this link
        self._local: Responder | None = None

    @property
    def name(self) -> str:
        """Who this is, for people: `shop/shop-7f3c (tcp 127.0.0.1:51234)`."""
        return f"{self.app}/{self.instance} ({self.transport.name})"

    # -- from the transport -----------------------------------------------------------------------

    def connected(self, transport: Transport) -> None:
        """The transport is there; SETUP has to follow within its time."""
        self.transport = transport
        self.out = transport.outbound
        self.hub.watch(self)

    def batch_received(self, data: bytes) -> int:
        """Cut *data* into frames and deal with them in order; return how many bytes were used."""
        now = self.hub.tick()
        if self.open:
            self.connection.heard(now)
            return relay(self, data)
        return self._before_setup(data)

    def _before_setup(self, data: bytes) -> int:
        if self.connection.next_deadline() is None:  # it has ended
            return len(data)
        head = data[PREFIX_SIZE : PREFIX_SIZE + HEADER.size]
        if len(head) < HEADER.size:
            return 0
        stream_id, word = HEADER.unpack(head)
        if stream_id or word >> 10 not in (SETUP, RESUME):
            # Refused by its header: what claims to be a frame may never be complete.
            if data.startswith(_HTTP_METHODS) and self.transport.scheme in ("tcp", "tls", "unix"):
                self.out.append(_HTTP_ANSWER)
                self.end("http-on-rsocket-port", "spoke HTTP on an RSocket port")
            else:
                self._handle(self.connection.receive_frame(head, self.hub.now))
            return len(data)
        stop = PREFIX_SIZE + int.from_bytes(data[:PREFIX_SIZE], "big")
        if stop > len(data) or stop < PREFIX_SIZE + HEADER.size:
            return 0
        self.hub.counters.frames_in += 1
        self._handle(self.connection.receive_frame(data[PREFIX_SIZE:stop], self.hub.now))
        if not self.open:
            return len(data)
        return stop + relay(self, data[stop:]) if stop < len(data) else stop

    def protocol_violated(self, text: str) -> None:
        """The transport cannot cut frames any more."""
        self.violated(text)

    def writable(self, ready: bool) -> None:
        """Outbound rose over its high watermark or fell to the low one."""
        self.accepting = ready and self.open and self.connection.phase is Phase.OPEN
        if self._local is not None:
            self._local.set_writable(ready)

    def disconnected(self, error: Exception | None) -> None:
        """The socket is gone, and the session with it."""
        reason = getattr(error, "reason", None) or ("peer-closed" if error is None else "peer-lost")
        self.end(reason, str(error) if error is not None else "closed by the peer")

    # -- frames that are not of a known stream ----------------------------------------------------

    def take_frame(self, frame: bytes) -> None:
        """Deal with a frame that the inner loop has no leg for."""
        try:
            stream_id, kind, flags = peek(frame)
            if stream_id == 0:
                self._handle(self.connection.receive_frame(frame, self.hub.now))
            elif (held := self.held.get(stream_id)) is not None:
                held.take(frame)
            elif self._local is not None and (
                self._local.owns(stream_id) or stream_id in self._local.outbox.busy
            ):
                self._local.receive_frame(stream_id, kind, flags, frame)
            elif REQUEST_RESPONSE <= kind <= REQUEST_CHANNEL and stream_id & 1:
                if stream_id in self.streams:
                    self.ignored("request on a stream id in use")
                elif flags & FLAG_IGNORE:
                    self._take_or_drop(frame)
                else:
                    request_arrived(self, frame)
            elif kind in TYPE_NAMES or flags & FLAG_IGNORE:
                self.ignored(TYPE_NAMES.get(kind, "unknown type"))
            else:  # C-13: perhaps its lengths went wrong, and then nothing behind it has a meaning
                self.violated(f"{describe(frame)} is not understood and must not be ignored")
        except RemoteProtocolError as exc:
            self.violated(str(exc))

    def _take_or_drop(self, frame: bytes) -> None:
        try:
            request_arrived(self, frame)
        except RemoteProtocolError:
            self.ignored("malformed frame with the ignore flag")

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

    @property
    def local(self) -> Responder:
        """The responder for the broker's own services, made at the first call to one."""
        if self._local is None:
            limits = self.hub.config.limits
            # Twice: so that what is a little too large is refused with a better text.
            room = 2 * (limits.announcement_bytes + limits.metadata_bytes)
            budget = ReassemblyBudget(room, room)
            self._local = Responder(self.send, self.hub.builtin(self), budget=budget)
        return self._local

    # -- stream 0 ---------------------------------------------------------------------------------

    def _handle(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, SetupArrived):
                self.hub.admit(self, event.setup)
            elif isinstance(event, MetadataPushed):
                self.hub.pushed(self, event.metadata)
            elif isinstance(event, LeaseArrived):
                self._leased(event.lease)
            elif isinstance(event, Ignored):
                self.ignored(event.what)
            elif isinstance(event, PeerClosing):
                self.accepting = False  # what is open finishes; the peer or a deadline closes
                self.hub.watch(self)
            elif isinstance(event, ConnectionEnded):
                self._flush_connection()
                self.end(event.reason, str(event.error))
                return
        self._flush_connection()

    def _flush_connection(self) -> None:
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
        self._flush_connection()

    def _leased(self, lease: Lease) -> None:
        budget = self.budget
        if budget is not None and budget.leased is not None:
            self.hub.counters.leases_received += 1
            budget.leased.receive(lease, self.hub.now)
            self.hub.queue.wake()

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
        self.routes = routes if plain else None

    def refuse(self, code: int, text: str, reason: str) -> None:
        """Refuse the SETUP and close."""
        self.connection.refuse(code, text)
        self._flush_connection()
        self.end(reason, text)

    def push(self, metadata: bytes) -> None:
        """Send METADATA_PUSH."""
        self.connection.send_metadata_push(metadata)
        self._flush_connection()

    def expire(self, now: float) -> None:
        """A deadline of stream 0 has come (called by the wheel)."""
        self._handle(self.connection.handle_deadline(now))
        self.hub.watch(self)

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

    def violated(self, text: str) -> None:
        """The peer broke the protocol: tell it, and end the connection."""
        self.fail(ErrorCode.CONNECTION_ERROR, text, "protocol-error")

    def fail(self, code: int, text: str, reason: str) -> None:
        """End the connection from our side, with an ERROR on stream 0."""
        self.connection.fail(code, text, reason)
        self._flush_connection()
        self.end(reason, text)

    def end(self, reason: str, text: str) -> None:
        """End the session: out of the table, its calls ended on the other side. Idempotent."""
        if not self.hub.remove(self, reason, text):
            return
        self.open = self.accepting = False
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
        if self._local is not None:
            self._local.close(lost)
        self.transport.close()
