"""One live connection with both its sides: the asyncio shell that moves bytes and owns the timer.

It cuts batches into frames and decides nothing: stream 0 goes to `protocol.connection`, a stream to
the side whose ids it has. Whatever ends the connection ends here, once, with a reason: both sides
are closed at once, so that nothing waits for what can't come.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from rsocket_mesh.errors import (
    ConnectionClosed,
    Draining,
    ErrorCode,
    RemoteProtocolError,
    RSocketError,
    SetupRefused,
)
from rsocket_mesh.peer.handler import NoHandler, RequestHandler
from rsocket_mesh.peer.leasing import LeasedRequester, LeasedResponder
from rsocket_mesh.peer.redial import RESUME_TIME, Dial, Redial
from rsocket_mesh.peer.requester import Requester
from rsocket_mesh.peer.responder import Responder
from rsocket_mesh.peer.resumable import ResumableTransport
from rsocket_mesh.protocol.connection import (
    AWAIT_SETUP,
    DRAINING,
    OPEN,
    SETUP_TIMEOUT,
    Connection,
)
from rsocket_mesh.protocol.events import (
    ConnectionEnded,
    Event,
    Ignored,
    KeepaliveAnswered,
    LeaseArrived,
    MetadataPushed,
    PeerClosing,
    SetupArrived,
    TransportSilent,
)
from rsocket_mesh.protocol.fragments import DEFAULT_FRAGMENT_SIZE, ReassemblyBudget
from rsocket_mesh.protocol.frames import FLAG_IGNORE, HEADER, MAX_STREAM_ID, Lease, Setup
from rsocket_mesh.protocol.framing import PREFIX_SIZE, PREFIXED_HEADER
from rsocket_mesh.protocol.lease import Leased
from rsocket_mesh.protocol.phases import Role
from rsocket_mesh.protocol.resume import ResumeBooks, StorePool
from rsocket_mesh.transport.base import PROTOCOL_ERROR, Transport

_log = logging.getLogger(__name__)


class Peer:
    """A connection of ours, from its SETUP to its end. Use it on its loop only.

    Attributes:
        requester: calls the other side.
        closed: done when the connection has ended; the result is the error that says why, a
            `ConnectionClosed` with its reason, or `SetupRefused`.
        confirmed: done when the other side has answered our first KEEPALIVE, which a broker does
            only behind its verdict; the error of the connection if that ends first.
        attached: called with False when a session that survives its sockets has lost one, and with
            True when it goes on.
        setup: what the client sent; None on a server before it arrived.
        ignored: frames without effect by what they were; counts.
    """

    def __init__(
        self,
        handler: RequestHandler | None = None,
        *,
        setup: Setup | None = None,
        acceptor: Callable[[Setup], None] | None = None,
        fragment_size: int = DEFAULT_FRAGMENT_SIZE,
        free: Callable[[float], int] | None = None,
        setup_timeout: float = SETUP_TIMEOUT,
        budget: ReassemblyBudget | None = None,
    ) -> None:
        """Begin without a transport: pass the object to `dial` or return it from `accept`.

        Args:
            handler: serves the other side's requests; None refuses them.
            setup: what a client introduces itself with; None makes this the server.
            acceptor: server: judges a SETUP; raises `SetupRefused` to refuse it.
            fragment_size: bytes of the largest frame; larger messages leave in fragments.
            free: with leases, how many requests *handler* could take at a time of the loop's
                clock; None grants as many as there are.
            setup_timeout: server: seconds that a connection has for its SETUP.
            budget: what unfinished messages may occupy; None means the defaults.
        """
        self._loop = asyncio.get_running_loop()
        self._role = Role.SERVER if setup is None else Role.CLIENT
        self._handler = handler or NoHandler()
        self._acceptor = acceptor
        self._connection = Connection(
            self._role, now=self._loop.time(), setup_timeout=setup_timeout, lease=True
        )
        self._transport: Transport | None = None
        self._redial: Redial | None = None  # of a session that outlives its sockets
        self._timer: asyncio.TimerHandle | None = None
        self._open = False  # whether streams may be used: the connection is OPEN or DRAINING
        self._ended = False
        self._closing = False  # drain() or the peer's CONNECTION_CLOSE: end when idle
        budget = budget or ReassemblyBudget()
        self.attached: Callable[[bool], None] | None = None
        self.setup = setup
        self.ignored: dict[str, int] = {}
        self.requester: Requester
        self._responder: Responder
        if setup is not None and not setup.lease:
            self.requester = Requester(
                self._send, self._role, budget=budget, fragment_size=fragment_size
            )
            self._responder = Responder(
                self._send, self._handler, budget=budget, fragment_size=fragment_size
            )
        else:  # leases, or a server, which learns from the SETUP whether there are any
            self.requester = LeasedRequester(
                self._send, self._role, budget=budget, fragment_size=fragment_size
            )
            self._responder = LeasedResponder(
                self._send,
                self._handler,
                budget=budget,
                fragment_size=fragment_size,
                free=free,
                grant=self._grant,
            )
        self.closed: asyncio.Future[RSocketError] = self._loop.create_future()
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self.confirmed: asyncio.Future[None] = self._loop.create_future()
        self.confirmed.add_done_callback(_look_at_it)

    @property
    def streams_open(self) -> int:
        """Streams of both sides that have not ended."""
        return self.requester.open_streams + self._responder.open_streams

    def outlive(self, token: bytes, dial: Dial) -> ResumableTransport:
        """Client, before `dial`: make the session one that survives its sockets.

        Args:
            token: the resume token of the SETUP.
            dial: opens another socket to the same server.
        Returns:
            What to dial with in the place of this object.
        """
        transport = ResumableTransport(self, ResumeBooks(StorePool()))
        self._redial = Redial(transport, token, dial)
        return transport

    @property
    def is_detached(self) -> bool:
        """Whether the session has lost its socket and looks for another one."""
        return self._redial is not None and self._redial.transport.is_detached

    # -- the transport's side ---------------------------------------------------------------------

    def connected(self, transport: Transport) -> None:
        self._transport = transport
        now = self._loop.time()
        if self.setup is not None:
            self._connection.send_setup(self.setup, now)
            self._connection.send_keepalive(now)
            self._begin_leases(self.setup)
        self._flush()

    def batch_received(self, data: bytes) -> int:
        now = self._loop.time()
        self._connection.heard(now)
        own, requester, responder = self._role & 1, self.requester, self._responder
        position, end = 0, len(data)
        # What is shorter than this is no frame: the transport keeps it, or refuses its length.
        while end - position >= PREFIXED_HEADER.size and not self._ended:
            high, low, stream_id, word = PREFIXED_HEADER.unpack_from(data, position)
            size = high << 8 | low
            if size < HEADER.size:
                self._violated(RemoteProtocolError(f"frame length {size} is below a header's"))
                break
            start = position + PREFIX_SIZE
            if start + size > end:
                break
            position = start + size
            frame = data[start:position]
            if not 0 < stream_id <= MAX_STREAM_ID or not self._open:
                self._receive_outside(stream_id, word, frame, now)
                continue
            side = requester if stream_id & 1 == own else responder
            try:
                side.receive_frame(stream_id, word >> 10, word & 0x3FF, frame)
            except RemoteProtocolError as exc:
                self._malformed(word, exc)
        return end if self._ended else position

    def _receive_outside(self, stream_id: int, word: int, frame: bytes, now: float) -> None:
        """Stream 0, impossible ids, and all that comes before the connection is open."""
        self._events(self._connection.receive_frame(frame, now))
        if stream_id and self._open:  # the first frame of a stream: it proves a client accepted
            side = self.requester if stream_id & 1 == self._role & 1 else self._responder
            try:
                side.receive_frame(stream_id, word >> 10, word & 0x3FF, frame)
            except RemoteProtocolError as exc:
                self._malformed(word, exc)

    def _malformed(self, word: int, exc: RemoteProtocolError) -> None:
        if not word & FLAG_IGNORE:
            self._violated(exc)

    def protocol_violated(self, text: str, reason: str = PROTOCOL_ERROR) -> None:
        if not self._ended:
            self._violated(RemoteProtocolError(text))

    def disconnected(self, error: Exception | None) -> None:
        text = "the peer closed the transport" if error is None else f"transport lost: {error}"
        reason = "peer-closed" if error is None else getattr(error, "reason", "transport-lost")
        self._events(self._connection.lost(text, reason))
        self._transport = None
        if not self._gone.done():
            self._gone.set_result(None)

    def transport_lost(self, error: Exception | None) -> bool:
        """Wait for another socket, unless there is nothing to go on with: the server has not
        accepted us yet, or one of the two sides is closing."""
        unconfirmed = not self.confirmed.done()
        if self._redial is None or unconfirmed or self._connection.phase is DRAINING:
            return False
        _log.info("lost the transport: %s; resuming", error or "the peer closed it")
        self._connection.suspend(self._loop.time() + RESUME_TIME)
        self._flush()
        self._redial.start()
        if self.attached is not None:
            self.attached(False)
        return True

    def transport_resumed(self) -> None:
        self._connection.resume(self._loop.time())
        if self.setup is not None:
            self._begin_leases(self.setup)  # anew (C-123)
        self._flush()
        if self.attached is not None:
            self.attached(True)

    def writable(self, ready: bool) -> None:
        self.requester.set_writable(ready)
        self._responder.set_writable(ready)

    # -- the application's side -------------------------------------------------------------------

    def close(self, text: str = "closed by this side") -> None:
        """End the connection now: pending calls fail, handlers are cancelled, the peer is told.
        What was written still leaves. Idempotent."""
        self._events(self._connection.fail(ErrorCode.CONNECTION_CLOSE, text, "closed"))

    async def wait_closed(self) -> None:
        """After `close`: return when the socket is closed too, which the transport's own time-out
        bounds. A loop that ends earlier leaves it open.

        If cancelled: the socket closes all the same, in the background.
        """
        await asyncio.wait((self._gone,))

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - bounds the streams, not the await
        """Begin nothing new, let open streams finish for at most *timeout* seconds, then close.

        If cancelled: closed at once.
        """
        self._begin_drain(ConnectionClosed("this side is closing the connection", "draining"))
        try:
            await asyncio.wait((self.closed,), timeout=timeout)
        finally:
            self.close()

    def _begin_drain(self, error: ConnectionClosed) -> None:
        self._closing = True
        self.requester.refuse_new(error)
        self._responder.refuse_new(Draining("the connection is closing"))
        self.requester.idle = self._responder.idle = self._close_if_idle
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._closing and not self.streams_open:
            self.close("closed after the last stream")

    # -- in between -------------------------------------------------------------------------------

    def _send(self, frame: bytes) -> None:
        transport = self._transport
        if transport is not None:
            outbound = transport.outbound
            if not outbound:  # else it is due already: nobody else writes here
                transport.flush_soon()
            outbound.append(len(frame).to_bytes(PREFIX_SIZE, "big"))
            outbound.append(frame)

    def _violated(self, exc: RemoteProtocolError) -> None:
        code = ErrorCode.INVALID_SETUP if self._connection.phase is AWAIT_SETUP else exc.code
        self._events(self._connection.fail(code, str(exc), "protocol-error"))

    def _events(self, events: list[Event]) -> None:
        """Act on *events* in order, send what the connection has to say, and set the timer."""
        for event in events:
            match event:
                case ConnectionEnded():
                    self._end(event)
                case SetupArrived():
                    self._judge(event.setup)
                case KeepaliveAnswered():
                    if not self.confirmed.done():
                        self.confirmed.set_result(None)
                case MetadataPushed():
                    self._pushed(event.metadata)
                case PeerClosing():
                    text = f"the peer is closing the connection: {event.text}"
                    self._begin_drain(ConnectionClosed(text, "peer-closing"))
                case Ignored():
                    self.ignored[event.what] = self.ignored.get(event.what, 0) + 1
                case _:
                    self._asked_for(event)
        if not self._ended:
            phase = self._connection.phase
            self._open = phase is OPEN or phase is DRAINING
            self._flush()

    def _asked_for(self, event: Event) -> None:
        """What only happens on connections whose SETUP asked for leases, or for resume."""
        if isinstance(event, LeaseArrived) and isinstance(self.requester, LeasedRequester):
            self.requester.lease_arrived(event.lease)
        elif isinstance(event, TransportSilent) and self._redial is not None:
            self._redial.transport.lose(event.error)

    def _judge(self, setup: Setup) -> None:
        self.setup = setup
        try:
            if self._acceptor is not None:
                self._acceptor(setup)
        except SetupRefused as exc:
            self._events(self._connection.refuse(exc.code, str(exc)))
        else:
            self._events(self._connection.accept(self._loop.time()))
            if not self._ended:
                self._begin_leases(setup)

    def _begin_leases(self, setup: Setup) -> None:
        if setup.lease and isinstance(self.requester, LeasedRequester):
            self.requester.leased = Leased()
            assert isinstance(self._responder, LeasedResponder)
            self._responder.begin_leases()

    def _grant(self, lease: Lease) -> None:
        self._connection.send_lease(lease)
        self._flush()

    def _pushed(self, metadata: bytes) -> None:
        try:
            self._handler.metadata_pushed(metadata)
        except Exception as exc:  # the application's fault is not the connection's
            _log.warning("metadata_pushed failed", exc_info=exc)

    def _flush(self) -> None:
        transport = self._transport
        for frame in self._connection.frames_to_send():
            if transport is not None:
                transport.send_first(frame)
        deadline = self._connection.next_deadline()
        # Deadlines mostly move later: an early timer re-arms itself, so few are ever cancelled.
        if deadline is not None and (self._timer is None or deadline < self._timer.when()):
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(deadline, self._wake)

    def _wake(self) -> None:
        self._timer = None
        self._events(self._connection.handle_deadline(self._loop.time()))

    def _end(self, event: ConnectionEnded) -> None:
        self._ended = True
        self._open = False
        self.requester.close(event.error)
        self._responder.close(event.error)
        for frame in self._connection.frames_to_send():
            self._send(frame)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._redial is not None:
            self._redial.stop()
        if self._transport is not None:
            self._transport.close()
        if not self.confirmed.done():
            self.confirmed.set_exception(event.error)
        if not self.closed.done():
            self.closed.set_result(event.error)


def _look_at_it(future: asyncio.Future[None]) -> None:
    """Mark the exception as seen: not everybody waits for the confirmation."""
    if not future.cancelled():
        future.exception()
