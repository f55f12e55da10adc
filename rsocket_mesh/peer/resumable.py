"""The session between a receiver and its sockets: what makes a session outlive each of them.

Towards the receiver it is a transport, towards the socket it is a receiver, and both sides are used
as they are: `Peer` and a broker's link run on it unchanged. Only sessions that asked for resume
have one, so that all others pay nothing. What leaves is entered in the books (`protocol.resume`),
what comes is counted; while there is no socket, what is sent waits in the books and the receiver is
told not to write. How a new socket is found is not its business: the client dials (`peer.redial`),
the server is given the one on which RESUME came.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from rsocket_mesh.errors import ConnectionClosed, ErrorCode, LocalProtocolError
from rsocket_mesh.protocol.frames import Resume, encode_error
from rsocket_mesh.protocol.framing import PREFIX_SIZE, prefix, prefix_lengths
from rsocket_mesh.protocol.resume import ResumeBooks
from rsocket_mesh.transport.base import PROTOCOL_ERROR, Receiver, Transport
from rsocket_mesh.transport.framed import NOBODY


class SessionReceiver(Receiver, Protocol):
    """A receiver that may outlive a socket."""

    def transport_lost(self, error: Exception | None) -> bool:
        """The socket has ended, *error* as for `disconnected`. Return whether to wait for another
        one; if not, `disconnected` follows."""

    def transport_resumed(self) -> None:
        """There is a socket again, and what the peer had missed is on its way."""


class ResumableTransport(Transport):
    """One session's transport, whichever socket carries it just now.

    Attributes:
        bytes_in, bytes_out: of whole frames, over all sockets.
        books: positions, and what may have to be sent again.
    """

    __slots__ = (
        "_closing",
        "_finished",
        "_flush_due",
        "_left_at",
        "_loop",
        "_receiver",
        "_socket",
        "_socket_ready",
        "_writable",
        "books",
    )

    def __init__(self, receiver: SessionReceiver, books: ResumeBooks) -> None:
        """Begin without a socket: dial with this object as receiver, or call `adopt`."""
        self.outbound = []
        self.name = self.scheme = "resumable"
        self.peer_address = None
        self.bytes_in = self.bytes_out = 0
        self.books = books
        self._receiver = receiver
        self._loop = asyncio.get_running_loop()
        self._socket: Transport | None = None
        self._socket_ready = True
        self._writable = True
        self._closing = False
        self._finished = False  # `disconnected` was passed on
        self._flush_due = False
        self._left_at = 0  # position up to which frames were given to a socket before it was lost

    @property
    def is_detached(self) -> bool:
        """Whether the session waits for a socket."""
        return self._socket is None and not self._closing

    @property
    def is_closing(self) -> bool:
        return self._closing

    @property
    def partial_since(self) -> float:  # type: ignore[override]  # of whichever socket there is
        return self._socket.partial_since if self._socket is not None else 0.0

    # -- sockets ----------------------------------------------------------------------------------

    def adopt(self, socket: Transport) -> None:
        """Run on *socket*, the session's first one."""
        self._socket = socket
        self._socket_ready = True
        self.name, self.scheme, self.peer_address = socket.name, socket.scheme, socket.peer_address
        socket.hand_to(self)

    def resume(self, socket: Transport, asked: Resume) -> None:
        """Server: go on over *socket*, on which the client has sent RESUME.

        Raises:
            ResumeRefused: its positions can't be served; nothing has changed.
        """
        self.flush()  # into the books, so that what they are checked for is all there is
        answer = self.books.accept_resume(asked)
        if self._socket is not None:  # it looks alive; a peer that resumes knows better
            text = "the session goes on over another connection"
            error = encode_error(0, ErrorCode.CONNECTION_ERROR, text)
            self._socket.outbound += prefix_lengths([error])
            self._drop().close()
        self._go_on(socket, prefix_lengths([answer]))

    def resumed(self, socket: Transport, position: int) -> None:
        """Client: go on over *socket*, on which the server has answered RESUME_OK(*position*).

        Raises:
            RemoteProtocolError: the position can't be served: the session is over.
        """
        self.flush()
        self.books.accept_resume_ok(position)
        if self._socket is not None:  # two of them would carry one session
            self._drop().abort()
        self._go_on(socket, [])

    def _go_on(self, socket: Transport, first: list[bytes]) -> None:
        self.adopt(socket)
        replay = self.books.replay()
        self.bytes_out += sum(map(len, replay))
        socket.outbound += first
        socket.outbound += replay
        socket.flush()  # before anything else that the receiver may want to send first
        self._receiver.transport_resumed()
        self._ask()
        self._settle()

    def _drop(self) -> Transport:
        """Let go of the socket, and hear no more of it."""
        socket, self._socket = self._socket, None
        assert socket is not None
        socket.hand_to(NOBODY)
        return socket

    def lose(self, error: Exception) -> None:
        """The socket is dead, although it has not said so: drop it."""
        if self._socket is not None:
            self._drop().abort()
            self.disconnected(error)

    def end(self, error: Exception | None) -> None:
        """There will be no other socket: end the session. Idempotent."""
        if not self._closing:
            if self._socket is not None:
                self._drop().abort()
            self._finish(error)

    # -- what the socket calls --------------------------------------------------------------------

    def connected(self, transport: Transport) -> None:
        self.adopt(transport)
        self._receiver.connected(self)

    def batch_received(self, data: bytes) -> int:
        used, wrong = self.books.receive(data)
        if used:
            self.bytes_in += used
            try:
                taken = self._receiver.batch_received(data if used == len(data) else data[:used])
            except Exception:
                self._closing = True  # counted, and not dealt with: there is nothing to go on with
                raise
            if taken != used:  # it has ended, or refuses the length of what follows
                return taken
        if wrong:
            self._receiver.protocol_violated(wrong)
            return len(data)
        self._ask()
        self._settle()
        return used

    def protocol_violated(self, text: str, reason: str = PROTOCOL_ERROR) -> None:
        self._receiver.protocol_violated(text, reason)

    def disconnected(self, error: Exception | None) -> None:
        self._socket = None
        if self._closing:
            self._finish(error)
            return
        self._left_at = self.books.sent
        if self._receiver.transport_lost(error):
            self._settle()
        else:
            self._finish(error)

    def writable(self, ready: bool) -> None:
        self._socket_ready = ready
        self._settle()

    # -- what the receiver calls ------------------------------------------------------------------

    def flush(self) -> None:
        outbound = self.outbound
        if not outbound:
            return
        batch = b"".join(outbound)
        outbound.clear()
        if self._closing:
            return
        books = self.books
        batch = books.send(batch)
        socket = self._socket
        if socket is not None:
            self.bytes_out += len(batch)
            socket.outbound.append(batch)
            socket.flush()
            self._ask()
        elif books.first > self._left_at:
            self._overflowed()
        self._settle()

    def send_first(self, frame: bytes) -> None:
        # Lost while there is no socket: a KEEPALIVE is about that one, a LEASE begins anew with the
        # next (C-123), and METADATA_PUSH is not covered by resume.
        if self._socket is not None:
            stamped = self.books.send(prefix(len(frame)) + frame)
            self.bytes_out += len(stamped)
            self._socket.send_first(stamped[PREFIX_SIZE:])

    def flush_soon(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush_now)

    def outbound_size(self) -> int:
        return 0 if self._socket is None else self._socket.outbound_size()

    def close(self) -> None:
        if self._closing:
            return
        self.flush()
        self._closing = True
        self.books.close()
        if self._socket is not None:
            self._socket.close()
        else:
            self._loop.call_soon(self._finish, None)

    def abort(self) -> None:
        self._closing = True
        self.outbound.clear()
        self.books.close()
        if self._socket is not None:
            self._socket.abort()
        else:
            self._loop.call_soon(self._finish, None)

    def rest(self, seconds: float) -> bool:
        return self._socket.rest(seconds) if self._socket is not None else False

    def hand_to(self, receiver: Receiver) -> None:
        raise LocalProtocolError("a session's transport stays with its session")

    # -- inside -----------------------------------------------------------------------------------

    def _flush_now(self) -> None:
        self._flush_due = False
        self.flush()

    def _ask(self) -> None:
        """Ask for the peer's position, if it is time, behind what it has to cover."""
        if self._socket is not None:
            question = self.books.ask()
            if question is not None:
                self._socket.outbound.append(question)
                self._socket.flush()

    def _settle(self) -> None:
        """Tell the receiver if it may write now and might not before, or the other way round.

        What is kept counts as well as what waits in the socket: who writes more than the peer
        acknowledges would make the next cut the last one.
        """
        room = self.books.is_low if not self._writable else not self.books.is_filling
        ready = self._socket is not None and self._socket_ready and room
        if ready is not self._writable and not self._closing:
            self._writable = ready
            self._receiver.writable(ready)

    def _overflowed(self) -> None:
        """Frames that no socket was given are gone: the session can't go on any more."""
        text = (
            f"more than {self.books.limit} bytes were sent while the session waited for its peer; "
            f"kept are positions {self.books.first} to {self.books.sent}"
        )
        # Not from here: who sends may be in the middle of something.
        self._loop.call_soon(self.end, ConnectionClosed(text, "resume-overflow"))

    def _finish(self, error: Exception | None) -> None:
        if not self._finished:
            self._finished = self._closing = True
            self._socket = None
            self.outbound.clear()
            self.books.close()
            # Let go of it, so that neither waits for a garbage collection.
            receiver, self._receiver = self._receiver, cast(SessionReceiver, NOBODY)
            receiver.disconnected(error)
