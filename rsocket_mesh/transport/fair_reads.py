"""Who may read, and how much at once: no connection keeps the loop for longer than its turn.

One buffer per event loop is shared by all of its sockets. `asyncio.BufferedProtocol` lets a
protocol say where to read to; asyncio and uvloop ask for the buffer and hand over what was read
into it without doing anything else in between, also under TLS, so one buffer serves every
connection as long as `buffer_updated` copies out first. It spares idle connections a buffer of
their own, and reads the allocation of the largest possible size: libuv and asyncio otherwise
allocate 64 KiB and 256 KiB per read, through mmap, and cut it down afterwards.

How long a read takes depends on what is in it: 128 KiB are two frames or fourteen thousand, which
take 40 ms if each of them is out of place. So each connection reads a part of the buffer that it
works off in `TURN` seconds: it begins small, doubles as long as that is quick, and shrinks when it
is not. And whoever has filled its part does not read again in the same turn of the loop, as libuv
would do up to 32 times: it waits in a queue, of which each turn lets one go on. All others are
looked at in between.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol
from weakref import WeakKeyDictionary

# Bytes; the most that one event reads from one socket. Measured, CPU per MB received, uvloop: from
# 64 KiB up large frames cost the same; 128-byte frames cost 2.3 ms at 128 KiB and 3.1 at 256, where
# a read makes more objects than the caches hold.
READ_SIZE: Final = 128 * 1024
FIRST_STEP: Final = 1  # a new connection begins with 2 KiB: 20 requests, or a bad start
STEPS: Final = 8  # parts of 1, 2, 4, 8, 16, 32, 64 and 128 KiB
TIMED_FROM: Final = 1024  # bytes; less never takes a turn's time
ENDINGS_PER_TURN: Final = 32  # of connections: thousands may be cut off at once
TURN: Final = (
    0.001  # seconds that one connection may keep the loop; a call meets up to four of them
)


class Reading(Protocol):
    """A connection that waits for its turn."""

    def read_on(self) -> None:
        """Read again."""


class FairReads:
    """The shared buffer of one loop, and the queue of those who have used up their turn."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        whole = memoryview(bytearray(READ_SIZE))
        self.parts = tuple(whole[: READ_SIZE >> (STEPS - 1 - step)] for step in range(STEPS))
        self._waiting: deque[Reading] = deque()
        self._endings: deque[Callable[[], None]] = deque()
        self._endings_left = ENDINGS_PER_TURN

    def wait(self, reading: Reading) -> None:
        """Call `read_on` of *reading* in a later turn of the loop; one turn lets one go on."""
        self._waiting.append(reading)
        if len(self._waiting) == 1:
            self._loop.call_soon(self._next)

    def _next(self) -> None:
        reading = self._waiting.popleft()
        if self._waiting:
            self._loop.call_soon(self._next)
        reading.read_on()

    def end(self, ending: Callable[[], None]) -> None:
        """Call *ending*, at once or, if many connections end in this turn, in a later one."""
        if self._endings_left == ENDINGS_PER_TURN:
            self._loop.call_soon(self._end_more)
        if self._endings_left:
            self._endings_left -= 1
            ending()
        else:
            self._endings.append(ending)

    def _end_more(self) -> None:
        self._endings_left = ENDINGS_PER_TURN
        if self._endings:
            self._loop.call_soon(self._end_more)
        while self._endings and self._endings_left:
            self._endings_left -= 1
            self._endings.popleft()()


def next_step(step: int, took: float) -> int:
    """Return which part to read after one of *step* took *took* seconds to work off."""
    while took > TURN and step:
        took /= 2
        step -= 1
    return step + 1 if took < TURN / 4 and step < STEPS - 1 else step


_by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, FairReads] = WeakKeyDictionary()


def fair_reads(loop: asyncio.AbstractEventLoop) -> FairReads:
    """Return those of *loop*; its buffers are valid only until the loop does anything else.

    One per loop and not per process: a loop in another thread reads at the same time.
    """
    found = _by_loop.get(loop)
    if found is None:
        found = _by_loop[loop] = FairReads(loop)
    return found
