"""Both ends of a connection over any transport, with receivers that remember what they heard."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rsocket_mesh.errors import RemoteProtocolError
from rsocket_mesh.protocol.frames import MAX_FRAME_SIZE
from rsocket_mesh.protocol.framing import cut, prefix_lengths
from rsocket_mesh.transport import Listener, Transport, dial, listen
from rsocket_mesh.transport.sockets import SocketTransport
from tests.support.waiting import until

TIMEOUT = 10.0  # seconds to dial; a handshake on a busy machine of two cores


KINDS: Final = ("tcp4", "tcp6", "tls", "unix", "ws", "wss", "memory")


class Recorder:
    """A receiver that keeps all it hears.

    Attributes:
        calls: the names of the methods called, in order; equal neighbours are kept once.
        frames: what arrived.
        violations: texts of `protocol_violated`.
        endings: arguments of `disconnected`.
        readiness: arguments of `writable`.
    """

    def __init__(
        self, *, echo: bool = False, last_word: bytes = b"", limit: int = MAX_FRAME_SIZE
    ) -> None:
        self.calls: list[str] = []
        self.frames: list[bytes] = []
        self.violations: list[str] = []
        self.endings: list[Exception | None] = []
        self.readiness: list[bool] = []
        self.transport: Any = None
        self._echo = echo
        self._last_word = last_word
        self._limit = limit

    def _called(self, name: str) -> None:
        if self.calls[-1:] != [name]:
            self.calls.append(name)

    def connected(self, transport: Transport) -> None:
        self._called("connected")
        self.transport = transport

    def batch_received(self, data: bytes) -> int:
        assert type(data) is bytes
        self._called("batch_received")
        try:
            frames, used = cut(data, self._limit)
        except RemoteProtocolError:
            return 0
        self.frames += frames
        if self._echo and frames:
            send(self.transport, *frames)
        return used

    def protocol_violated(self, text: str, reason: str = "protocol-error") -> None:
        self._called("protocol_violated")
        self.violations.append(text)
        if self._last_word:
            send(self.transport, self._last_word)
        self.transport.close()

    def disconnected(self, error: Exception | None) -> None:
        self._called("disconnected")
        self.endings.append(error)

    def writable(self, ready: bool) -> None:
        self.readiness.append(ready)

    @property
    def gone(self) -> bool:
        return bool(self.endings)

    async def arrived(self, count: int) -> list[bytes]:
        """Return the frames once there are *count*."""
        await until(lambda: len(self.frames) >= count, f"{count} frames")
        return self.frames

    async def ended(self) -> Exception | None:
        """Return what `disconnected` said."""
        await until(lambda: self.gone, "the end of the connection")
        return self.endings[0]


def send(transport: Transport, *frames: bytes) -> None:
    """Write *frames* in one flush."""
    transport.outbound.extend(prefix_lengths(frames))
    transport.flush()


def stop_reading(transport: Transport) -> None:
    """Make this end one that does not read, as a stuck process would."""
    assert isinstance(transport, SocketTransport)
    assert transport._socket is not None
    transport._socket.pause_reading()


def go_on_reading(transport: Transport) -> None:
    assert isinstance(transport, SocketTransport)
    assert transport._socket is not None
    transport._socket.resume_reading()


@dataclass
class Place:
    """A kind of transport and all that is needed to listen and dial there."""

    kind: str
    directory: Path
    server_tls: ssl.SSLContext
    client_tls: ssl.SSLContext

    @property
    def url(self) -> str:
        return {
            "tcp4": "tcp://127.0.0.1:0",
            "tcp6": "tcp://[::1]:0",
            "tls": "tls://127.0.0.1:0",
            "unix": f"unix://{self.directory}/s",
            "ws": "ws://127.0.0.1:0/rsocket",
            "wss": "wss://127.0.0.1:0/rsocket",
            "memory": f"memory://{self.directory.name}",
        }[self.kind]

    @property
    def is_websocket(self) -> bool:
        return self.kind in ("ws", "wss")

    async def listen(self, accept: Callable[[], Any], **options: Any) -> Listener:
        tls = self.server_tls if self.kind in ("tls", "wss") else None
        return await listen(self.url, accept, tls=tls, **options)

    async def dial(self, url: str, receiver: Any, **options: Any) -> Transport:
        return await dial(url, receiver, timeout=TIMEOUT, tls=self.client_tls, **options)

    @asynccontextmanager
    async def pair(
        self,
        near: Any = None,
        far: Any = None,
        *,
        near_options: dict[str, Any] | None = None,
        far_options: dict[str, Any] | None = None,
    ) -> AsyncIterator[tuple[Any, Any]]:
        """Yield the dialling and the accepting receiver, connected; end both afterwards."""
        near, far = near or Recorder(), far or Recorder()
        listener = await self.listen(lambda: far, **(far_options or {}))
        try:
            await self.dial(listener.url, near, **(near_options or {}))
            await until(lambda: far.transport is not None, "the accepting end")
            yield near, far
        finally:
            await listener.close()
            for end in (near, far):
                if end.transport is not None:
                    end.transport.abort()
            await until(lambda: near.transport is None or near.gone, "the end")
            await until(lambda: far.transport is None or far.gone, "the end")
            await asyncio.sleep(0)  # uvloop closes its handles one turn later
