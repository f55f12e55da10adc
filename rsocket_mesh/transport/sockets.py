"""A transport on a socket of asyncio: reading, writing, and an end in bounded time.

Stands on `framed`; `tcp` and `websocket` say what the bytes mean. The object is the protocol of
asyncio and our transport at once, and an idle connection holds no buffer, no timer and no closure:
a broker has thousands of them.

The end in order is: flush, say that nothing more comes (FIN), and go on reading, and dropping what
is read, until the peer has closed too. A socket closed with unread bytes would send RST, and a RST
makes the peer's system drop what we wrote last, the ERROR frame that says why.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable
from typing import Final, cast

from rsocket_mesh.errors import ConnectionClosed
from rsocket_mesh.transport.framed import HIGH_WATER, LOW_WATER, Accept, FramedTransport
from rsocket_mesh.transport.read_buffer import shared_read_buffer
from rsocket_mesh.transport.url import Url

CLOSE_TIMEOUT: Final = 5.0  # seconds for flushing and for the peer's own close, then abort
LARGE_CHUNK: Final = 32 * 1024  # bytes; from here on copying costs more than another iovec


class SocketTransport(FramedTransport, asyncio.BufferedProtocol):
    """One socket. Subclasses read (`_bytes_received`) and encode (`flush`).

    *accept* gives the receiver when the connection is ready for use.
    """

    __slots__ = (
        "_accept",
        "_congested",
        "_deadline",
        "_error",
        "_read_buffer",
        "_settled",
        "_slicing",
        "_socket",
        "_url",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        url: Url,
        accept: Accept,
        max_frame: int,
        max_outbound: int,
    ) -> None:
        super().__init__(loop, url.scheme, max_frame, max_outbound)
        self._url = url
        self._accept = accept
        self._read_buffer = shared_read_buffer(loop)
        self._socket: asyncio.Transport | None = None
        self._congested = False  # over the high watermark
        self._slicing = False  # inside `_write_in_slices`
        self._settled = False  # why it ends is known; what the socket reports now is no news
        self._error: Exception | None = None  # why it ends, if not in order
        self._deadline: asyncio.TimerHandle | None = None

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports only look like asyncio's, so isinstance would not narrow them.
        self._socket = transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(high=HIGH_WATER, low=LOW_WATER)
        self.name, self.peer_address = _describe(self._url, transport)
        self._socket_ready()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        # The copy comes first: from here on anything may read into the shared buffer again.
        data = bytes(self._read_buffer[:nbytes])
        self._bytes_received(data)

    def eof_received(self) -> None:
        """The peer sends no more: it is gone, RSocket knows no half-closed connection."""
        if not self._closing:
            self._error = self._end_of_input()
            self.flush()
            self._closing = self._settled = True
            self._arm(CLOSE_TIMEOUT, self._close_overdue)

    def pause_writing(self) -> None:
        self._congested = True
        self._congestion_changed()

    def resume_writing(self) -> None:
        self._congested = False
        self._congestion_changed()

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._socket = None
        self._ended(self._error if self._settled else exc)

    def _congestion_changed(self) -> None:
        # Not between two slices: the receiver may answer with a flush.
        if not self._closing and not self._slicing:
            self._notify_writable(not self._congested)

    # What the floors above call

    def outbound_size(self) -> int:
        return self._socket.get_write_buffer_size() if self._socket else 0

    def close(self) -> None:
        if self._closing or not self._last_flush():
            return
        self._closing = self._settled = True
        self._arm(CLOSE_TIMEOUT, self._close_overdue)
        self._say_goodbye()

    def abort(self) -> None:
        self._closing = self._settled = True
        self.outbound.clear()
        if self._socket is not None:
            self._socket.abort()

    # For subclasses

    @abstractmethod
    def _socket_ready(self) -> None:
        """The socket is connected and, where encrypted, the peer verified."""

    @abstractmethod
    def _bytes_received(self, data: bytes) -> None:
        """Take what one event read."""

    def _say_goodbye(self) -> None:
        self._end_output()

    def _end_output(self) -> None:
        """Send what is buffered, then FIN; TLS has no half-closed connection and waits itself."""
        if self._socket is None:
            return
        if self._socket.can_write_eof():
            try:
                self._socket.write_eof()
            except OSError:  # asyncio: the peer has gone, and the loop has not told us yet
                self._socket.abort()
        else:
            self._socket.close()

    def _write(self, chunks: list[bytes]) -> int:
        """Empty *chunks* into the socket as one write; return how many bytes that were.

        Joining small chunks is cheaper than an iovec each. Large ones are not copied, except under
        TLS, where each chunk would become a record of its own. The list is empty before anything is
        written, because writing may call `writable`, and that may flush again.
        """
        assert self._socket is not None
        if len(chunks[-1]) < LARGE_CHUNK or self._url.is_encrypted:
            data = b"".join(chunks)
            chunks.clear()
            size = len(data)
            if size > HIGH_WATER and self._url.is_encrypted:
                self._write_in_slices(data)
            else:
                self._socket.write(data)
        else:
            taken = chunks.copy()
            chunks.clear()
            size = sum(map(len, taken))
            self._socket.writelines(taken)
        if self._congested:
            waiting = self.outbound_size()
            if waiting > self._max_outbound:
                self._fail(self._slow_reader(waiting))
        return size

    def _write_in_slices(self, data: bytes) -> None:
        """Write *data* so that the limits see it.

        Under TLS only what waits in front of the encryption is counted, and that begins to wait
        when the write before has filled the socket: written in one piece, it would never count.
        """
        assert self._socket is not None
        view = memoryview(data)
        congested = self._congested
        self._slicing = True
        for start in range(0, len(data), HIGH_WATER):
            self._socket.write(view[start : start + HIGH_WATER])
        self._slicing = False
        if self._congested is not congested:
            self._congestion_changed()

    def _fail(self, error: Exception) -> None:
        """End it now, and say why."""
        if self._error is None:
            self._error = error
        self.abort()

    def _arm(self, seconds: float, what: Callable[[], None]) -> None:
        self._disarm()
        self._deadline = self._loop.call_later(seconds, what)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _close_overdue(self) -> None:
        self._deadline = None
        if waiting := self.outbound_size():
            self._fail(
                ConnectionClosed(
                    f"{self.name}: {waiting} bytes could not be sent within {CLOSE_TIMEOUT:g} s "
                    "of closing",
                    reason="close-timeout",
                )
            )
        else:
            self.abort()


def _describe(url: Url, transport: asyncio.Transport) -> tuple[str, str | None]:
    """Return a name for people and the peer's host."""
    if url.scheme == "unix":
        return f"unix {url.path}", None
    peer = transport.get_extra_info("peername")
    if not peer:  # gone already
        return f"{url.scheme} {url.host}", None
    host: str = peer[0]
    # A socket of both families shows an IPv4 peer as ::ffff:192.0.2.1.
    host = host.removeprefix("::ffff:") if "." in host else host
    return f"{url.scheme} {f'[{host}]' if ':' in host else host}:{peer[1]}", host
