"""Messages, and sockets with them, between the supervisor and one worker, over a Unix socket.

Bottom of this room. A message is its length, the number of its descriptors and MessagePack. The
system attaches descriptors to bytes and hands them out no later than these, so they are counted off
in the order in which the messages come. Sending never blocks: what the other side does not take
waits here, up to a limit beyond which the other side counts as dead.
Source: unix(7), SCM_RIGHTS.
"""

from __future__ import annotations

import array
import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Any, Final

import msgspec

MAX_WAITING: Final = 256 * 1024 * 1024  # bytes; a registry of a million instances is less
READ_SIZE: Final = 256 * 1024  # bytes
MAX_DESCRIPTORS: Final = 16  # that one read may bring; the system gives those of one message
MESSAGES_PER_TURN: Final = 64  # then calls have their turn; a message costs some 20 us
_HEAD: Final = Struct(">IB")
_ROOM: Final = socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize)

_encode: Final = msgspec.msgpack.Encoder().encode


class Channel:
    """One end. Owns the socket, and every descriptor from `send` on and until it is received."""

    def __init__(
        self,
        sock: socket.socket,
        kinds: Any,
        received: Callable[[Any, list[int]], None],
        lost: Callable[[], None],
    ) -> None:
        """Begin to read with the next turn of the loop.

        Args:
            kinds: the union of the messages that may come.
            received: called with each message and its descriptors, which are the callee's then.
            lost: called once when the other side is gone, and not after `close`.
        """
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = sock
        self._decoder = msgspec.msgpack.Decoder(kinds)
        self._received = received
        self._lost = lost
        self._buffer = bytearray()
        self._descriptors: deque[int] = deque()
        self._queue: deque[tuple[memoryview, Sequence[int]]] = deque()
        self._waiting = 0
        sock.setblocking(False)
        self._loop.add_reader(sock, self._read)

    def send(self, message: object, *descriptors: int) -> None:
        """Send *message*; the *descriptors* are closed here once they are on their way."""
        if self._socket is None:
            _close_all(descriptors)
            return
        body = _encode(message)
        data = memoryview(_HEAD.pack(len(body), len(descriptors)) + body)
        is_idle = not self._queue
        self._queue.append((data, descriptors))
        self._waiting += len(data)
        if is_idle:
            self._write()
        elif self._waiting > MAX_WAITING:
            self._end()

    def close(self) -> None:
        """Close the socket and whatever was not sent or received. Idempotent."""
        sock, self._socket = self._socket, None
        if sock is None:
            return
        self._loop.remove_reader(sock)
        self._loop.remove_writer(sock)
        sock.close()
        for _, descriptors in self._queue:
            _close_all(descriptors)
        self._queue.clear()
        _close_all(self._descriptors)
        self._descriptors.clear()

    # -- inside -----------------------------------------------------------------------------------

    def _end(self) -> None:
        if self._socket is not None:
            self.close()
            self._lost()

    def _write(self) -> None:
        sock = self._socket
        while sock is not None and self._queue:
            data, descriptors = self._queue[0]
            try:
                sent = (
                    socket.send_fds(sock, [data], list(descriptors))
                    if descriptors
                    else (sock.send(data))
                )
            except (BlockingIOError, InterruptedError):
                self._loop.add_writer(sock, self._write)
                return
            except OSError:
                self._end()
                return
            self._waiting -= sent
            _close_all(descriptors)
            if sent == len(data):
                self._queue.popleft()
            else:
                self._queue[0] = (data[sent:], ())
        if sock is not None:
            self._loop.remove_writer(sock)

    def _read(self) -> None:
        assert self._socket is not None
        try:
            data, ancillary, _, _ = self._socket.recvmsg(READ_SIZE, _ROOM)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data, ancillary = b"", []
        for level, kind, content in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
                self._descriptors.extend(numbers)
        if not data:
            self._end()
            return
        self._buffer += data
        self._take()

    def _take(self) -> None:
        """Deliver what is complete, some of it now and the rest after others have had a turn."""
        position = 0
        try:
            for _ in range(MESSAGES_PER_TURN):
                if self._socket is None or len(self._buffer) - position < _HEAD.size:
                    return
                size, count = _HEAD.unpack_from(self._buffer, position)
                stop = position + _HEAD.size + size
                if stop > len(self._buffer):
                    return
                message = self._decoder.decode(self._buffer[position + _HEAD.size : stop])
                position = stop
                descriptors = [self._descriptors.popleft() for _ in range(count)]
                self._received(message, descriptors)
        finally:  # also if there is a bug in dealing with one: it is not dealt with twice
            del self._buffer[:position]
        if self._socket is not None:  # nothing is read meanwhile: the system's buffer bounds it
            self._loop.remove_reader(self._socket)
            self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        if self._socket is not None:
            self._loop.add_reader(self._socket, self._read)
            self._take()


def _close_all(descriptors: Sequence[int] | deque[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
