"""Raw frames over TCP, TLS, Unix sockets and WebSocket, dialled or accepted.

Not the project's own transports: with those on both ends of a case, a fault that both share would
be invisible. TCP is plain asyncio streams, WebSocket the `websockets` package. A wire cuts whole
frames and understands none.
"""

from __future__ import annotations

import asyncio
import ssl
from abc import ABC, abstractmethod
from collections.abc import Iterable
from inspect import signature
from typing import TYPE_CHECKING, Any, Final, Self

from rsocket_mesh.protocol.frames import MAX_FRAME_SIZE
from rsocket_mesh.protocol.framing import PREFIX_SIZE, prefix_lengths
from rsocket_mesh.transport.url import InvalidUrl, Url, parse_url

if TYPE_CHECKING:
    from websockets.asyncio.client import ClientConnection

READ_LIMIT: Final = 1 << 20  # bytes that one wire buffers; behind it the subject has to wait
CLOSE_TIMEOUT: Final = 1.0  # seconds for a subject to end its side of a closed wire


class Wire(ABC):
    """One connection to a subject. An ended wire takes what is sent and drops it."""

    is_websocket = False

    @abstractmethod
    async def send(self, frames: Iterable[bytes]) -> None:
        """Send whole frames, all in one write where the transport can."""

    @abstractmethod
    async def send_pieces(self, pieces: Iterable[bytes]) -> None:
        """Send the bytes of the byte stream (on WebSocket: of one message), piece by piece."""

    @abstractmethod
    async def receive(self) -> bytes | None:
        """Return the next frame; None when the subject has ended the connection."""

    @abstractmethod
    async def close(self) -> None:
        """End the connection in order and release it; idempotent."""

    @abstractmethod
    def abort(self) -> None:
        """End the connection at once, as a crash would."""


class StreamWire(Wire):
    """A byte stream: each frame behind its length."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, frames: Iterable[bytes]) -> None:
        await self.send_pieces((b"".join(prefix_lengths(frames)),))

    async def send_pieces(self, pieces: Iterable[bytes]) -> None:
        try:
            for piece in pieces:
                self._writer.write(piece)
                await self._writer.drain()
                await asyncio.sleep(0)  # so that the pieces are separate writes
        except OSError:
            pass  # the subject has ended the connection, which `receive` tells

    async def receive(self) -> bytes | None:
        try:
            prefix = await self._reader.readexactly(PREFIX_SIZE)
            return await self._reader.readexactly(int.from_bytes(prefix, "big"))
        except (asyncio.IncompleteReadError, OSError):
            return None

    async def close(self) -> None:
        self._writer.close()
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._writer.wait_closed()
        except (OSError, TimeoutError):
            self._writer.transport.abort()

    def abort(self) -> None:
        self._writer.transport.abort()


class WebSocketWire(Wire):
    """One binary message per frame. A text message is handed on as the frame that it is not."""

    is_websocket = True

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    async def send(self, frames: Iterable[bytes]) -> None:
        from websockets.exceptions import ConnectionClosed  # here: see `dial_wire`

        try:
            for frame in frames:
                await self._connection.send(frame)
        except ConnectionClosed:
            pass  # `receive` tells

    async def send_pieces(self, pieces: Iterable[bytes]) -> None:
        from websockets.exceptions import ConnectionClosed  # here: see `dial_wire`

        try:
            await self._connection.send(pieces)
        except ConnectionClosed:
            pass

    async def receive(self) -> bytes | None:
        from websockets.exceptions import ConnectionClosed  # here: see `dial_wire`

        try:
            message = await self._connection.recv()
        except ConnectionClosed:
            return None
        return message if isinstance(message, bytes) else message.encode()[:5]

    async def close(self) -> None:
        await self._connection.close()

    def abort(self) -> None:
        self._connection.transport.abort()


async def dial_wire(url: str, tls: ssl.SSLContext | None = None) -> Wire:
    """Connect to *url*.

    Raises:
        InvalidUrl: *url* is none, or `memory://`, which nobody outside of a process has.
        OSError: nobody is there, or nobody who speaks this transport.
    """
    target = parse_url(url)
    if target.scheme == "memory":
        raise InvalidUrl(url, "only this process could reach it")
    if target.is_websocket:
        return await _dial_websocket(target, tls)
    context = (tls or ssl.create_default_context()) if target.is_encrypted else None
    if target.scheme == "unix":
        streams = await asyncio.open_unix_connection(target.path, limit=READ_LIMIT)
    else:
        streams = await asyncio.open_connection(
            target.host, target.port, ssl=context, limit=READ_LIMIT
        )
    return StreamWire(*streams)


async def _dial_websocket(url: Url, tls: ssl.SSLContext | None) -> Wire:
    # Imported here: whoever tests over TCP needs none of it.
    from websockets.asyncio.client import connect
    from websockets.exceptions import WebSocketException

    context = (tls or ssl.create_default_context()) if url.is_encrypted else None
    # Newer versions ask the environment for a proxy, which knows nothing of the server meant here.
    direct: dict[str, Any] = (
        {"proxy": None} if "proxy" in signature(connect.__init__).parameters else {}
    )
    try:
        connection = await connect(
            str(url),
            ssl=context,
            max_size=MAX_FRAME_SIZE,
            compression=None,
            ping_interval=None,
            close_timeout=CLOSE_TIMEOUT,
            **direct,
        )
    except WebSocketException as exc:
        raise OSError(f"{url}: {exc}") from exc
    return WebSocketWire(connection)


class WireListener:
    """A TCP port of the case's own, for subjects that dial. Use it as `async with`."""

    def __init__(self) -> None:
        self._arrived: asyncio.Queue[Wire] = asyncio.Queue()
        self._server: asyncio.Server | None = None
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=READ_LIMIT)
        self.url = f"tcp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        while not self._arrived.empty():
            await self._arrived.get_nowait().close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._arrived.put_nowait(StreamWire(reader, writer))

    async def accept(self) -> Wire:
        """Return the next connection."""
        return await self._arrived.get()
