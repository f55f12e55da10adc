"""Ends of connections without sockets, for machines and fuzzers: every byte in and out is at hand.

`End` is the framing of the real transports (`FramedTransport`) over a list; what its receiver
raises escapes instead of being logged. `FakeSocket` is what a WebSocket transport writes to.
`ManualLoop` is as much of an event loop as a hub uses, with a clock that the test owns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from rsocket_mesh.protocol.frames import MAX_FRAME_SIZE
from rsocket_mesh.protocol.framing import cut, prefix
from rsocket_mesh.transport.base import Receiver
from rsocket_mesh.transport.framed import MAX_OUTBOUND, NOBODY, FramedTransport

HIGH_WATER: Final = 200  # bytes; a few items, so that machines get there
START: Final = 1000.0  # s; where manual clocks begin


class ManualLoop:
    """Time, timers and callbacks of a loop, run only when a test says so."""

    def __init__(self) -> None:
        self.now = START
        self._timers: list[ManualTimer] = []
        self._soon: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any) -> ManualTimer:
        timer = ManualTimer(when, callback, args)
        self._timers.append(timer)
        return timer

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any) -> ManualTimer:
        return self.call_at(self.now + delay, callback, *args)

    def call_soon(self, callback: Callable[..., Any], *args: Any) -> ManualTimer:
        self._soon.append((callback, args))
        return ManualTimer(self.now, callback, args)

    def turn(self) -> None:
        """Run what was asked for with `call_soon` before now."""
        due, self._soon = self._soon, []
        for callback, args in due:
            callback(*args)

    def pass_time(self, seconds: float) -> None:
        """Let time pass and run every timer that comes due, in order."""
        until = self.now + seconds
        while due := [timer for timer in self._timers if timer.deadline <= until]:
            timer = min(due, key=lambda timer: timer.deadline)
            self._timers.remove(timer)
            self.now = max(self.now, timer.deadline)
            if not timer.cancelled():
                timer.callback(*timer.args)
            self.turn()
        self.now = until
        self._timers = [timer for timer in self._timers if not timer.cancelled()]


class ManualTimer:
    """What `ManualLoop.call_at` returns."""

    def __init__(self, when: float, callback: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.deadline = when
        self.callback = callback
        self.args = args
        self._cancelled = False

    def cancel(self) -> None:
        self._cancelled = True

    def cancelled(self) -> bool:
        return self._cancelled

    def when(self) -> float:
        return self.deadline


class End(FramedTransport):
    """The near end of a connection whose far end is the test.

    Attributes:
        written: the bytes of all flushes.
        reading: False while the far end takes nothing; see `stop` and `go_on`.
    """

    def __init__(self, loop: Any, receiver: Receiver, max_frame: int = MAX_FRAME_SIZE) -> None:
        super().__init__(loop, "memory", max_frame, MAX_OUTBOUND)
        self.written = bytearray()
        self.reading = True
        self._congested = False
        self._receiver = receiver
        receiver.connected(self)

    def feed(self, data: bytes) -> None:
        """Let *data* arrive in one read."""
        self._deliver(data)

    def frames(self) -> list[bytes]:
        """Return the whole frames written since the last call."""
        self.flush()
        found, used = cut(bytes(self.written))
        del self.written[:used]
        return found

    def end(self, error: Exception | None = None) -> None:
        """The connection is over. As `_ended`, but what the receiver raises is raised."""
        self._closing = True
        self.outbound.clear()
        receiver, self._receiver = self._receiver, NOBODY
        receiver.disconnected(error)

    def flush(self) -> None:
        self.bytes_out += sum(map(len, self.outbound))
        self.written += b"".join(self.outbound)
        self.outbound.clear()
        if self.outbound_size() > HIGH_WATER and not self._congested:
            self._congested = True
            self._receiver.writable(False)

    def stop(self) -> None:
        """The far end reads no more, so that what is written from now on waits."""
        self.reading = False

    def go_on(self) -> None:
        """The far end has read all that waited."""
        self.reading = True
        if self._congested:
            self._congested = False
            self._receiver.writable(True)

    def send_first(self, frame: bytes) -> None:
        self.outbound[:0] = [prefix(len(frame)), frame]
        self.flush_soon()

    def outbound_size(self) -> int:
        return 0 if self.reading else len(self.written)

    def close(self) -> None:
        self.flush()
        self._closing = True

    def abort(self) -> None:
        self._closing = True

    def _receiver_failed(self) -> None:
        raise  # noqa: PLE0704 - called in an `except` block: a bug must not end as a log line


class FakeSocket(asyncio.Transport):
    """A socket that takes everything at once."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.is_over = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 40_000) if name == "peername" else default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def write(self, data: Any) -> None:
        self.written += data

    def writelines(self, list_of_data: Any) -> None:
        self.written += b"".join(list_of_data)

    def is_closing(self) -> bool:
        return self.is_over

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def close(self) -> None:
        self.is_over = True

    def abort(self) -> None:
        self.is_over = True
