"""One binary WebSocket message per frame, both ends.

Stands on `sockets` for the bytes and on the sans-IO layer of `websockets` for RFC 6455: handshakes,
masking, control frames, limits, close codes. Ours is what RSocket adds: a batch becomes a message
per frame and back (no length prefix on the wire), text is a violation, and web pages only get in if
their origin is listed, because any page can open a socket to a loopback address.
Source: RSocket Protocol 1.0, "Framing Protocol Usage"; RFC 6455.
"""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from collections.abc import Callable, Collection
from functools import partial
from typing import Final, cast

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus, PayloadTooBig
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import CONNECTING, OPEN, Event, Protocol
from websockets.server import ServerProtocol
from websockets.typing import Origin
from websockets.uri import parse_uri

from rsocket_mesh.errors import ConnectionClosed
from rsocket_mesh.protocol.framing import cut, prefix
from rsocket_mesh.transport.base import FRAME_TOO_LONG, PROTOCOL_ERROR, Chunk
from rsocket_mesh.transport.framed import Accept
from rsocket_mesh.transport.sockets import SocketTransport
from rsocket_mesh.transport.url import Url

HANDSHAKE_TIMEOUT: Final = 10.0  # seconds for a client to ask; more than a slow TLS link needs
MAX_REASON: Final = 123  # bytes; what a close frame holds behind its code
MAX_SHOWN_BODY: Final = 200  # characters of the answer of a server that refuses us
ORDERLY: Final = frozenset(
    {CloseCode.NORMAL_CLOSURE, CloseCode.GOING_AWAY, CloseCode.NO_STATUS_RCVD}
)

# The library reports each connection at INFO; the floors above do that, with names.
_log = logging.getLogger(f"{__name__}.wire")
_log.setLevel(logging.WARNING)


class WebSocketTransport(SocketTransport):
    """What both ends do alike once the handshake is over."""

    __slots__ = ("_end_due", "_farewell", "_message", "_protocol")

    _protocol: Protocol

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        url: Url,
        accept: Accept,
        max_frame: int,
        max_outbound: int,
        protocol: Protocol,
    ) -> None:
        super().__init__(loop, url, accept, max_frame, max_outbound)
        self._protocol = protocol
        self._message: bytearray | None = None  # fragments of a message that is not complete
        self._end_due = False  # the protocol layer is done, and its last words wait
        self._farewell: tuple[int, str] = (CloseCode.NORMAL_CLOSURE, "")

    def flush(self) -> None:
        if self._first:
            self._lead()
        if not self.outbound:
            return
        if self._closing:
            self.outbound.clear()
            return
        self.bytes_out += sum(map(len, self.outbound))
        messages = self._encode(self.outbound)
        self.outbound.clear()
        self._write(messages)

    def _encode(self, chunks: list[Chunk]) -> list[Chunk]:
        frames, _ = cut(b"".join(chunks))
        mask = self._is_client
        return [Frame(Opcode.BINARY, frame).serialize(mask=mask) for frame in frames]

    def eof_received(self) -> bool:
        if not self._closing:
            text = f"{self.name}: the peer closed without a WebSocket close frame"
            self._fail(ConnectionClosed(text, reason="abnormal-close"))
        return False

    @property
    def _is_client(self) -> bool:
        return isinstance(self._protocol, ClientProtocol)

    def _bytes_received(self, data: bytes) -> None:
        self._protocol.receive_data(data)
        self._events_received(self._protocol.events_received())

    @abstractmethod
    def _events_received(self, events: list[Event]) -> None:
        """Take what the protocol layer made of one read."""

    def _frames_received(self, events: list[Event]) -> None:
        """Deliver the messages among *events* as one batch, then see how it goes on."""
        batch, last = self._collect(events)
        if batch:
            self._deliver(batch)
        if self._message is not None or self._protocol.reader.buffer:
            self.partial_since = self.partial_since or self._loop.time()
        else:
            self.partial_since = 0.0
        if self._closing:
            self._write_control()
        elif last is Opcode.TEXT:
            text = "text message; frames are binary messages"
            self._violated(text, code=CloseCode.UNSUPPORTED_DATA)
        elif last is Opcode.CLOSE:
            self._peer_closes()
        elif self._protocol.parser_exc is not None:
            too_long = isinstance(self._protocol.parser_exc, PayloadTooBig)
            reason = FRAME_TOO_LONG if too_long else PROTOCOL_ERROR
            self._violated(str(self._protocol.parser_exc), reason)
        else:
            self._write_control()

    def _collect(self, events: list[Event]) -> tuple[bytes, Opcode | None]:
        """Return the complete messages as a batch, and what ended them: TEXT, CLOSE or nothing."""
        chunks: list[bytes | bytearray | memoryview] = []
        for event in events:
            frame = cast(Frame, event)  # the handshake comes before, and only once
            opcode = frame.opcode
            if opcode is Opcode.TEXT or opcode is Opcode.CLOSE:
                return b"".join(chunks), opcode
            if opcode is Opcode.BINARY and frame.fin:
                chunks.append(prefix(len(frame.data)))
                chunks.append(frame.data)
            elif opcode is Opcode.BINARY:
                self._message = bytearray(frame.data)
            elif opcode is Opcode.CONT and self._message is not None:
                self._message += frame.data
                if frame.fin:
                    chunks.append(prefix(len(self._message)))
                    chunks.append(self._message)
                    self._message = None
        return b"".join(chunks), None

    def _violated(
        self, text: str, reason: str = PROTOCOL_ERROR, code: int = CloseCode.PROTOCOL_ERROR
    ) -> None:
        self._farewell = (code, text.encode()[:MAX_REASON].decode(errors="ignore"))
        super()._violated(text, reason)

    def _peer_closes(self) -> None:
        close = self._protocol.close_rcvd
        if close is not None and close.code not in ORDERLY:
            self._error = ConnectionClosed(
                f"{self.name}: the peer closed with WebSocket code {close.code} {close.reason}",
                reason="peer-closed",
            )
        self.flush()
        self._closing = self._settled = True
        self._arm(self.linger, self._close_overdue)
        self._write_control()

    def _say_goodbye(self) -> None:
        # Not open any more: the protocol layer has queued a close frame of its own.
        if self._protocol.state is OPEN:
            self._protocol.send_close(*self._farewell)
        self._write_control()
        if self._end_due:
            self._end_output()

    def _write_control(self) -> None:
        """Write what the protocol layer has to say: handshakes, pongs, close frames, the end."""
        for data in self._protocol.data_to_send():
            if self._socket is None:
                return
            if data:
                self._write([data])
            elif self._is_waiting:
                self._end_due = self._goodbye_due = True
            else:
                self._end_output()


class ServerTransport(WebSocketTransport):
    """The accepting end: the receiver is asked for once the handshake has succeeded."""

    __slots__ = ()

    _protocol: ServerProtocol

    def _socket_ready(self) -> None:
        self._arm(HANDSHAKE_TIMEOUT, self.abort)

    def _events_received(self, events: list[Event]) -> None:
        if self._protocol.state is CONNECTING:
            self._answer(events)
        else:
            self._frames_received(events)

    def _answer(self, events: list[Event]) -> None:
        """Answer the request, once it is complete: 101, or an HTTP error and the end."""
        protocol = self._protocol
        if self._closing or (protocol.handshake_exc is None and not events):
            return
        if len(events) > 1 or (events and protocol.eof_sent):
            self.abort()  # frames before our answer: no client does that, and nothing to say
            return
        for request in events:
            protocol.send_response(protocol.accept(cast(Request, request)))
        if protocol.state is OPEN:
            self._disarm()
            self._write_control()
            self._attach(self._accept)
        else:
            self._closing = self._settled = True
            self._arm(self.linger, self._close_overdue)
            self._write_control()


class ClientTransport(WebSocketTransport):
    """The dialling end.

    Attributes:
        opened: done when the receiver has been attached; fails with ConnectionError.
    """

    __slots__ = ("opened",)

    _protocol: ClientProtocol

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        url: Url,
        accept: Accept,
        max_frame: int,
        max_outbound: int,
    ) -> None:
        protocol = ClientProtocol(parse_uri(str(url)), max_size=max_frame, logger=_log)
        super().__init__(loop, url, accept, max_frame, max_outbound, protocol)
        self.opened: asyncio.Future[None] = loop.create_future()
        # Who dials may have given up by then; that is no reason to complain in the log.
        self.opened.add_done_callback(lambda opened: opened.cancelled() or opened.exception())

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.opened.done():
            why = self._protocol.handshake_exc or exc or "the connection was closed"
            self.opened.set_exception(ConnectionError(f"WebSocket handshake: {_explain(why)}"))
        super().connection_lost(exc)

    def eof_received(self) -> bool:
        if not self.opened.done():
            # Tells the protocol layer that the body of an HTTP error is complete.
            self._protocol.receive_eof()
        return super().eof_received()

    def _socket_ready(self) -> None:
        self._protocol.send_request(self._protocol.connect())
        self._write_control()

    def _events_received(self, events: list[Event]) -> None:
        if self.opened.done():
            self._frames_received(events)
        elif self._protocol.handshake_exc is not None:
            self.abort()
        elif events:
            self._attach(self._accept)
            self.opened.set_result(None)
            if len(events) > 1:
                self._frames_received(events[1:])


def _explain(why: Exception | str) -> str:
    """Return the words for *why*, with what the server said if it refused."""
    if isinstance(why, InvalidStatus) and why.response.body:
        body = bytes(why.response.body).decode(errors="replace")
        return f"{why}: {body[:MAX_SHOWN_BODY].strip()}"
    if isinstance(why, Exception) and why.__cause__ is not None:
        return f"{why}: {why.__cause__}"
    return str(why)


def server_factory(
    loop: asyncio.AbstractEventLoop,
    url: Url,
    accept: Accept,
    max_frame: int,
    max_outbound: int,
    allowed_origins: Collection[str],
) -> Callable[[], ServerTransport]:
    """Return what makes the protocol of each accepted connection."""
    create = partial(server_protocol, max_frame, allowed_origins)
    return lambda: ServerTransport(loop, url, accept, max_frame, max_outbound, create())


def server_protocol(max_frame: int, allowed_origins: Collection[str]) -> ServerProtocol:
    """Return the WebSocket layer of one accepted connection."""
    origins = (None, *map(Origin, allowed_origins))
    return ServerProtocol(origins=origins, max_size=max_frame, logger=_log)
