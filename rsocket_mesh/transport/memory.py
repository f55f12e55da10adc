"""Both ends in one process and on one loop: no socket, the same rules.

Stands on `framed`. For tests and for services that live in the broker's process. Batches travel
with the next turn of the loop, so each end sees what a socket would show it: nothing arrives inside
a `flush`, bytes written before a close arrive before the end, bytes written before an abort do not.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import Final, NamedTuple

from rsocket_mesh.transport.framed import HIGH_WATER, LOW_WATER, Accept, FramedTransport

# Makes both ends of a connection, the dialling one first, of what `MemoryTransport` takes.
Pair = Callable[
    [asyncio.AbstractEventLoop, str, tuple[int, int], tuple[int, int]],
    "tuple[MemoryTransport, MemoryTransport]",
]


def plain_pair(
    loop: asyncio.AbstractEventLoop, name: str, near: tuple[int, int], far: tuple[int, int]
) -> tuple[MemoryTransport, MemoryTransport]:
    """Return both ends of a connection that does not fail; *near* and *far* are their limits."""
    return MemoryTransport(loop, name, *near), MemoryTransport(loop, name, *far)


class _Entry(NamedTuple):
    loop: asyncio.AbstractEventLoop
    accept: Accept
    limits: tuple[int, int]
    pair: Pair


_listening: Final[dict[str, _Entry]] = {}  # by name, in this process


def listen_memory(name: str, accept: Accept, max_frame: int, max_outbound: int) -> None:
    """Take *name* until `forget_memory`. Raises OSError if it is taken."""
    if name in _listening:
        raise OSError(errno.EADDRINUSE, "the name is taken in this process")
    loop = asyncio.get_running_loop()
    _listening[name] = _Entry(loop, accept, (max_frame, max_outbound), plain_pair)


def pair_memory_by(name: str, pair: Pair) -> None:
    """Have later connections to *name* made by *pair*: for test kits, where they may fail on their
    way. Nobody listening there is an error of the caller's."""
    _listening[name] = _listening[name]._replace(pair=pair)


def forget_memory(name: str) -> None:
    """Accept no more under *name*; connections live on."""
    _listening.pop(name, None)


def connect_memory(name: str, accept: Accept, max_frame: int, max_outbound: int) -> MemoryTransport:
    """Return the dialling end, both ends attached. Raises OSError if nobody listens here."""
    loop = asyncio.get_running_loop()
    entry = _listening.get(name)
    if entry is None:
        raise ConnectionRefusedError(errno.ECONNREFUSED, "nobody listens there in this process")
    if entry.loop is not loop:
        raise ConnectionRefusedError(errno.ECONNREFUSED, "the listener is on another event loop")
    near, far = entry.pair(loop, name, (max_frame, max_outbound), entry.limits)
    far.meet(near, entry.accept)
    near.meet(far, accept)
    return near


class MemoryTransport(FramedTransport):
    """One end. `connect_memory` makes both."""

    __slots__ = ("_congested", "_error", "_far", "_inbox", "_input_ended", "_take_due", "_waiting")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, name: str, max_frame: int, max_outbound: int
    ) -> None:
        super().__init__(loop, "memory", max_frame, max_outbound)
        self.name = f"memory {name}"
        self._far: MemoryTransport | None = None  # None once the connection has ended
        self._inbox: list[bytes] = []  # for us, not delivered yet
        self._waiting = 0  # bytes of ours in the far inbox
        self._congested = False
        self._take_due = False
        self._input_ended = False
        self._error: Exception | None = None

    def meet(self, far: MemoryTransport, accept: Accept) -> None:
        """Join this end to *far* and give it to its receiver."""
        self._far = far
        self._attach(accept)

    def flush(self) -> None:
        if self._closing or self._far is None:
            self.outbound.clear()
        elif self.outbound or self._first:
            batch = b"".join((self._first or b"", *self.outbound))
            self._first = None
            self.outbound.clear()
            self.bytes_out += len(batch)
            self._waiting += len(batch)
            self._far.put(batch)
            if self._waiting > self._max_outbound:
                self._error = self._slow_reader(self._waiting)
                self.abort()
            elif self._waiting > HIGH_WATER and not self._congested:
                self._congested = True
                self._notify_writable(False)

    def outbound_size(self) -> int:
        return self._waiting

    def close(self) -> None:
        if not self._closing and self._last_flush():
            self._closing = True
            if self._far is not None:
                self._far.put_end(None)

    def abort(self) -> None:
        self._closing = True
        self.outbound.clear()
        if self._far is not None:
            self._far.put_end(ConnectionResetError(errno.ECONNRESET, "the peer aborted"))

    # What the other end calls

    def put(self, batch: bytes) -> None:
        """Take *batch*, to be delivered with the next turn of the loop."""
        self._take_soon()
        self._inbox.append(batch)

    def put_end(self, error: Exception | None) -> None:
        """Nothing more will come; an *error* also drops what was not delivered."""
        self._take_soon()
        self._input_ended = True
        if error is not None:
            self._inbox.clear()
            if not self._closing:
                self._error = error

    def taken(self, size: int) -> None:
        """So many bytes of ours were delivered."""
        self._waiting -= size
        if self._congested and self._waiting <= LOW_WATER:
            self._congested = False
            if not self._closing:
                self._notify_writable(True)

    def finish(self) -> None:
        """Both ends know: the connection is over."""
        self._far = None
        self._waiting = 0
        self._ended(self._error)

    def _take_soon(self) -> None:
        if not self._take_due:
            self._take_due = True
            self._loop.call_soon(self._take)

    def _take(self) -> None:
        """Deliver what has come, in order; after the last of it, end the connection."""
        self._take_due = False
        inbox, self._inbox = self._inbox, []
        far = self._far
        if far is None:
            return
        for batch in inbox:
            self._deliver(batch)
            far.taken(len(batch))
        if self._input_ended:
            if not self._closing and self._error is None:
                self._error = self._end_of_input()
            self.finish()
            far.finish()
