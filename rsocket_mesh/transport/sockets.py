"""A transport on a socket of asyncio: reading, writing, and an end in bounded time.

Stands on `framed`; `tcp` and `websocket` say what the bytes mean. The object is the protocol of
asyncio and our transport at once, and an idle connection holds no buffer, no timer and no closure:
a broker has thousands of them.

What the system does not take at once waits here, not in the loop's transport, so that frames of
stream 0 can go in front of it and so that it is counted: a peer that stopped reading holds no more
than the floors above allow.

The end in order is: flush, say that nothing more comes (FIN), and go on reading, and dropping what
is read, until the peer has closed too. A socket closed with unread bytes would send RST, and a RST
makes the peer's system drop what we wrote last, the ERROR frame that says why.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import ClassVar, Final, cast

from rsocket_mesh.errors import ConnectionClosed
from rsocket_mesh.protocol.framing import LargeFrame
from rsocket_mesh.transport.base import Chunk
from rsocket_mesh.transport.chunks import gathered, is_small
from rsocket_mesh.transport.fair_reads import (
    FIRST_STEP,
    TIMED_FROM,
    TURN,
    fair_reads,
    next_step,
)
from rsocket_mesh.transport.framed import HIGH_WATER, LOW_WATER, Accept, FramedTransport
from rsocket_mesh.transport.url import Url

# Bytes read and dropped after we closed. What was on its way fits into the buffers of both systems;
# a peer that sends more does not want to hear why.
MAX_DROPPED: Final = 16 * 1024 * 1024
BULK: Final = 2 * 1024 * 1024  # bytes of large frames per turn: read and written in half of `TURN`
SMALL_WRITE: Final = 16 * 1024  # bytes; what waits is gathered below that: each piece costs 60 more


class SocketTransport(FramedTransport, asyncio.BufferedProtocol):
    """One socket. Subclasses read (`_bytes_received`) and encode (`flush`).

    *accept* gives the receiver when the connection is ready for use.
    """

    __slots__ = (
        "_accept",
        "_congested",
        "_deadline",
        "_dropped",
        "_error",
        "_goodbye_due",
        "_in_a_row",
        "_input_ended",
        "_paused",
        "_queue",
        "_queued",
        "_read_buffer",
        "_read_step",
        "_reads",
        "_rest",
        "_resting",
        "_settled",
        "_socket",
        "_url",
    )

    # Whether what the socket reads is what frames consist of, so that it may be read in place.
    _reads_large: ClassVar[bool] = False

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
        self._reads = fair_reads(loop)
        self._read_step = FIRST_STEP
        self._read_buffer = self._reads.parts[FIRST_STEP]
        self._in_a_row = 0  # bytes read since others had their turn, as far as that is known
        self._socket: asyncio.Transport | None = None
        self._paused = False  # the loop's transport takes no more just now
        self._congested = False  # over the high watermark: paused, or something waits here
        self._rest: list[memoryview] | None = None  # of a write that was interrupted
        # Whole messages, behind `_rest`; large ones in the parts that they consist of.
        self._queue: deque[bytes | bytearray | list[Chunk]] | None = None
        self._queued = 0  # bytes of both
        self._goodbye_due = False  # say goodbye when all of that has left
        self._input_ended = False  # the peer has said goodbye
        self._settled = False  # why it ends is known; what the socket reports now is no news
        self._error: Exception | None = None  # why it ends, if not in order
        self._deadline: asyncio.TimerHandle | None = None
        self._resting = 0.0  # seconds for which nothing is to be read
        self._dropped = 0  # bytes that came behind our end

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports only look like asyncio's, so isinstance would not narrow them.
        self._socket = transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(high=HIGH_WATER, low=LOW_WATER)
        self.name, self.peer_address = _describe(self._url, transport)
        self._socket_ready()

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._large is not None and self._reads_large:
            return self._large.room()
        return self._read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._closing:
            self._large = None
            self._dropped += nbytes
            if self._dropped > MAX_DROPPED:
                self.abort()
                return
        if self._large is not None and self._reads_large:
            self._large_updated(self._large, nbytes)
            return
        # The copy comes first: from here on anything may read into the shared buffer again.
        data = self._read_buffer[:nbytes].tobytes()
        if nbytes < TIMED_FROM:
            self._bytes_received(data)
            if self._resting:
                self._begin_rest()
            return
        began = perf_counter()
        self._bytes_received(data)
        took = perf_counter() - began
        is_full = nbytes == len(self._read_buffer)
        if is_full or took > TURN:
            self._read_step = next_step(self._read_step, took)
            self._read_buffer = self._reads.parts[self._read_step]
        if self._resting:
            self._begin_rest()
        elif took > TURN:
            self._wait_for_turn()
        elif is_full:
            self._was_full(nbytes)

    def _was_full(self, nbytes: int) -> None:
        """A read has filled its buffer, so there may be more: the loop reads on at once, unless
        others are to have their turn first.

        In the middle of a large frame that is after `BULK` bytes, since stopping and going on takes
        as long as reading 100 KiB; else always.
        """
        self._in_a_row += nbytes
        if self._large is None or self._in_a_row >= BULK:
            self._wait_for_turn()

    def _wait_for_turn(self) -> None:
        self._in_a_row = 0
        if self._socket is not None:
            self._socket.pause_reading()
            self._reads.wait(self)

    def _large_updated(self, frame: LargeFrame, nbytes: int) -> None:
        """More of a large frame is where it belongs: nothing has to be copied."""
        self.bytes_in += nbytes
        is_full = nbytes == len(frame.room())
        frame.filled(nbytes)
        if frame.is_complete:
            self._large_arrived(frame)
        if self._resting:
            self._begin_rest()
        elif is_full:
            self._was_full(nbytes)
        else:
            self._in_a_row = 0

    def _begin_rest(self) -> None:
        if self._socket is not None:
            self._socket.pause_reading()
            self._loop.call_later(self._resting, self.read_on)
        self._resting = 0.0

    def read_on(self) -> None:
        """Others have had their turn."""
        if self._socket is not None and not self._socket.is_closing():
            self._socket.resume_reading()

    def eof_received(self) -> bool:
        """The peer sends no more: it is gone, RSocket knows no half-closed connection. What waits
        here may still leave; returning True keeps the loop from closing at once."""
        if not self._closing:
            self._error = self._end_of_input()
            self.flush()
            self._closing = self._settled = True
            if self.outbound_size():
                self._arm(self.linger, self._close_overdue)
        self._input_ended = True
        if self._socket is None or not self._is_waiting or self._url.is_encrypted:
            return False
        self._goodbye_due = True
        return True

    def pause_writing(self) -> None:
        self._paused = True
        if not self._congested:
            self._congested = True
            if not self._closing:
                self._notify_writable(False)

    def resume_writing(self) -> None:
        self._paused = False
        self._write_waiting()
        if self._paused or self._socket is None:
            return
        self._congested = False
        if self._goodbye_due:
            self._goodbye_due = False
            if self._input_ended:  # soon: asyncio does not expect a close from in here
                self._loop.call_soon(self._socket.close)
            else:
                self._say_goodbye()
        elif not self._closing:
            self._notify_writable(True)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._socket = None
        self._closing = True
        self._forget_waiting()
        self._reads.end(partial(self._ended, self._error if self._settled else exc))

    # What the floors above call

    def outbound_size(self) -> int:
        if self._socket is None:
            return 0
        size = self._queued + self._socket.get_write_buffer_size()
        return size + len(self._first) if self._congested and self._first else size

    def rest(self, seconds: float) -> bool:
        was_resting, self._resting = self._resting, max(self._resting, seconds)
        return not was_resting

    def close(self) -> None:
        if self._closing or not self._last_flush():
            return
        self._closing = self._settled = True
        self._arm(self.linger, self._close_overdue)
        if self._is_waiting:
            self._goodbye_due = True
        else:
            self._say_goodbye()

    def abort(self) -> None:
        self._closing = self._settled = True
        self.outbound.clear()
        self._forget_waiting()
        if self._socket is not None:
            self._socket.abort()

    # For subclasses

    @abstractmethod
    def _encode(self, chunks: list[Chunk]) -> list[Chunk]:
        """Return the chunks of a batch as they go over the wire."""

    @abstractmethod
    def _socket_ready(self) -> None:
        """The socket is connected and, where encrypted, the peer verified."""

    @abstractmethod
    def _bytes_received(self, data: bytes) -> None:
        """Take what one event read."""

    @property
    def _is_waiting(self) -> bool:
        """Whether anything waits here, in front of the loop's transport."""
        return self._congested and bool(self._queued or self._first)

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

    def _write(self, chunks: list[Chunk]) -> int:
        """Empty *chunks* into the socket as one write; return how many bytes that were.

        Joining small chunks is cheaper than an iovec each. Large ones are not copied, and so nor
        is what comes with them. The list is empty before anything is written, because writing may
        call `writable`, and that may flush again.
        """
        assert self._socket is not None
        if self._congested:
            return self._wait(chunks)
        if is_small(chunks[-1]):
            data = b"".join(chunks)
            chunks.clear()
            size = len(data)
            if size > HIGH_WATER and self._url.is_encrypted:
                self._write_in_slices([memoryview(data)])
            else:
                self._socket.write(data)
        else:
            taken = chunks.copy()
            chunks.clear()
            size = sum(map(len, taken))
            self._write_parts(taken)
        if self._paused:
            self._check_waiting()
        return size

    def _write_parts(self, parts: list[Chunk]) -> None:
        assert self._socket is not None
        if self._url.is_encrypted:
            self._write_in_slices(gathered(parts))
        else:
            self._socket.writelines(parts)

    def _lead(self) -> None:
        """Put the frames that go first in front of `outbound`, or have them wait in front of what
        waits already."""
        if self._congested:
            self._check_waiting()
            return
        if self._first:
            self.outbound.insert(0, bytes(self._first))
            self._first = None

    def _wait(self, chunks: list[Chunk]) -> int:
        """Empty *chunks* into the queue; return how many bytes that were."""
        if self._queue is None:
            self._queue = deque()
        if is_small(chunks[-1]):
            data = b"".join(chunks)
            size = len(data)
            last = self._queue[-1] if self._queue else None
            if isinstance(last, bytearray) and len(last) < SMALL_WRITE:
                last += data
            else:
                self._queue.append(data if size >= SMALL_WRITE else bytearray(data))
        else:
            size = sum(map(len, chunks))
            self._queue.append(chunks.copy())
        chunks.clear()
        self._queued += size
        self._check_waiting()
        return size

    def _write_waiting(self) -> None:
        """Write what waits, in order and frames of stream 0 first, as long as it is taken."""
        while not self._paused and self._socket is not None:
            if self._rest is not None:
                rest, self._rest = self._rest, None
                self._queued -= sum(map(len, rest))
                self._write_in_slices(rest)
            elif self._first:
                parts = self._encode([bytes(self._first)])
                self.bytes_out += len(self._first)
                self._first = None
                self._write_parts(parts)
            elif self._queue:
                data = self._queue.popleft()
                parts = data if isinstance(data, list) else [memoryview(data)]
                self._queued -= sum(map(len, parts))
                self._write_parts(parts)
            else:
                self._queue = None
                return

    def _write_in_slices(self, parts: list[memoryview]) -> None:
        """Write *parts* until the loop's transport is full; keep what is left.

        Under TLS only what waits in front of the encryption is counted, and that begins to wait
        when the write before has filled the socket: written in one piece, it would never count.
        """
        for number, part in enumerate(parts):
            while part and not self._paused and self._socket is not None:
                self._socket.write(part[:HIGH_WATER])
                part = part[HIGH_WATER:]
            if part:
                self._rest = [part, *parts[number + 1 :]]
                self._queued += sum(map(len, self._rest))
                return

    def _check_waiting(self) -> None:
        waiting = self.outbound_size()
        if waiting > self._max_outbound:
            self._fail(self._slow_reader(waiting))

    def _forget_waiting(self) -> None:
        self._rest = self._queue = None
        self._queued = 0

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
                    f"{self.name}: {waiting} bytes could not be sent within {self.linger:g} s "
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
