"""A connection in memory that can fail: what the faults of a link do to the bytes under way.

Stands on `rsocket_mesh.transport.memory`, whose ends these are: whoever sits on one, the library or
the broker, runs its real code, watermarks and limits included. What one end has written and the
other has not taken waits here, as it would in the sockets of a network that stands still.
"""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from rsocket_mesh.errors import RemoteProtocolError
from rsocket_mesh.protocol.frames import (
    FLAG_FOLLOWS,
    FLAG_NEXT,
    KEEPALIVE,
    MIN_SIZE,
    PAYLOAD,
    describe,
    peek,
)
from rsocket_mesh.protocol.framing import PREFIX_SIZE, cut, prefix_lengths
from rsocket_mesh.transport.memory import MemoryTransport

if TYPE_CHECKING:
    from collections.abc import Callable

    from rsocket_mesh.testing.links import Link
    from rsocket_mesh.testing.sessions import SessionRecord
    from rsocket_mesh.testing.switchboard import Switchboard

KEEPALIVE_SIZE: Final = PREFIX_SIZE + MIN_SIZE[KEEPALIVE]  # bytes; two frames are 18 or more
KIND_AT: Final = PREFIX_SIZE + 4  # the byte of a batch that holds the type of its first frame
ALWAYS: Final = -1  # of a count that does not run out


class Drop:
    """Frames of one type that get lost, *left* of them."""

    def __init__(self, kind: int, left: int) -> None:
        self.kind = kind
        self.left = left

    def takes(self, kind: int) -> bool:
        """Return whether a frame of type *kind* gets lost now."""
        if kind != self.kind or not self.left:
            return False
        self.left -= self.left != ALWAYS
        return True


class Lane:
    """The faults of one direction of a link, over all of its connections.

    Attributes:
        delay: seconds that each batch is under way.
        rate: bytes per second; None for no bound.
        is_held: nothing arrives.
        drops: what gets lost.
    """

    def __init__(self) -> None:
        self.delay = 0.0
        self.rate: float | None = None
        self.is_held = False
        self.drops: list[Drop] = []


class Coming(NamedTuple):
    """Something under way: a batch, or (None) the end of the connection with its error."""

    due: float
    batch: bytes | None
    error: Exception | None = None


class End(MemoryTransport):
    """One end of a wire: delivers what the other end has sent, when the lane says so."""

    __slots__ = ("_coming", "_free_at", "_is_broken", "_last_call", "_timer", "wire")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        name: str,
        max_frame: int,
        max_outbound: int,
        wire: Wire,
    ) -> None:
        super().__init__(loop, name, max_frame, max_outbound)
        self.wire = wire
        self._coming: deque[Coming] = deque()
        self._free_at = 0.0  # when a lane with a rate has moved all that was sent
        self._timer: asyncio.TimerHandle | None = None
        self._last_call: asyncio.TimerHandle | None = None
        self._is_broken = False

    @property
    def error(self) -> Exception | None:
        """Why the connection has ended; None for an end in order."""
        return self._error

    def release(self) -> None:
        """The lane has changed: what was held may arrive."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._arm()

    def break_off(self, text: str) -> None:
        """The connection is cut: nothing more arrives, and this end learns of it."""
        self._is_broken = True
        self._coming.clear()
        super().put_end(ConnectionResetError(errno.ECONNRESET, text))

    # -- what the other end calls -----------------------------------------------------------------

    def put(self, batch: bytes) -> None:
        kept = self.wire.sent(self, batch)
        lost = len(batch) - len(kept)
        if lost and self._far is not None:
            self._far.taken(lost)
        if kept and not self._is_broken:
            self._send(kept, None)

    def put_end(self, error: Exception | None) -> None:
        self._send(None, error)

    def _send(self, batch: bytes | None, error: Exception | None) -> None:
        lane = self.wire.lane(self)
        if not (self._coming or lane.is_held or lane.delay or lane.rate):
            self._arrive(Coming(0.0, batch, error))
            return
        due = max(self._loop.time() + lane.delay, self._free_at)
        if lane.rate and batch is not None:  # each frame arrives by itself
            for piece in self.wire.pieces(batch):
                due = self._free_at = due + len(piece) / lane.rate
                self._coming.append(Coming(due, piece))
        else:
            self._coming.append(Coming(due, batch, error))
        self._arm()

    def _arm(self) -> None:
        if self._timer is None and self._coming and not self.wire.lane(self).is_held:
            self._timer = self._loop.call_at(self._coming[0].due, self._arrive_due)

    def _arrive_due(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._coming and self._coming[0].due <= now and not self.wire.lane(self).is_held:
            self._arrive(self._coming.popleft())
        self._arm()

    def _arrive(self, coming: Coming) -> None:
        if coming.batch is not None:
            super().put(coming.batch)
        else:
            super().put_end(coming.error)

    # -- this end ---------------------------------------------------------------------------------

    def _deliver(self, data: bytes) -> None:
        if not self._is_broken:
            self.wire.deliver(self, data, super()._deliver)

    def close(self) -> None:
        super().close()
        # A peer that nothing reaches answers no goodbye.
        if self._far is not None and self._last_call is None:
            self._last_call = self._loop.call_later(self.linger, self._leave)

    def abort(self) -> None:
        super().abort()
        self._loop.call_soon(self._leave)

    def _leave(self) -> None:
        if self._far is not None:
            self.finish()

    def finish(self) -> None:
        is_first = self._far is not None
        for timer in (self._timer, self._last_call):
            if timer is not None:
                timer.cancel()
        self._coming.clear()
        super().finish()
        if is_first:
            self.wire.ended(self)


class Wire:
    """Both ends of one connection, from the dialling on; it belongs to a link from its SETUP on.

    Attributes:
        near, far: the ends of the client and of the broker.
        session: what reads its frames; None before SETUP.
        link: whose connection it is; None before SETUP.
    """

    def __init__(
        self,
        board: Switchboard,
        loop: asyncio.AbstractEventLoop,
        name: str,
        near: tuple[int, int],
        far: tuple[int, int],
    ) -> None:
        self.near = End(loop, name, *near, wire=self)
        self.far = End(loop, name, *far, wire=self)
        self.session: SessionRecord | None = None
        self.link: Link | None = None
        self._board = board
        self._no_faults = Lane()
        self._is_opaque = False  # somebody sends what is no frame: it passes, unseen

    def lane(self, end: End) -> Lane:
        """Return the direction that leads to *end*."""
        if self.link is None:
            return self._no_faults
        return self.link.to_client if end is self.near else self.link.to_broker

    def cut(self, text: str) -> None:
        """Break the connection; both ends learn of it with this turn of the loop."""
        self.near.break_off(text)
        self.far.break_off(text)

    def answer(self, frame: bytes) -> None:
        """Send *frame* to the client as if it came from the broker."""
        self.far.outbound += prefix_lengths([frame])
        self.far.flush_soon()

    def refuse(self, frame: bytes) -> None:
        """Send *frame* to the client as the last word of the broker."""
        self.far.outbound += prefix_lengths([frame])
        self.far.close()

    # -- what the ends call -----------------------------------------------------------------------

    def sent(self, end: End, batch: bytes) -> bytes:
        """Return what of *batch* goes on its way to *end*."""
        if is_keepalive(batch) and not self.lane(end).drops:
            return batch
        frames = self._frames(batch)
        kept = [frame for frame in frames if self._passes(end, frame)]
        return batch if len(kept) == len(frames) else b"".join(prefix_lengths(kept))

    def deliver(self, end: End, data: bytes, deliver: Callable[[bytes], None]) -> None:
        """Give *data* to whoever sits at *end*; cut behind an item if that was asked for."""
        if is_keepalive(data):
            deliver(data)
            return
        position = 0
        for frame in self._frames(data):
            position += PREFIX_SIZE + len(frame)
            self._board.arrived(self, end, frame)
            if self.link is not None and self.link.items_left and is_item(frame):
                self.link.items_left -= 1
                if self.link.items_left:
                    continue
                deliver(data[:position])
                self.link.cut()
                return
        deliver(data)

    def pieces(self, batch: bytes) -> list[bytes]:
        """Return the frames of *batch*, each with its prefix."""
        return [b"".join(prefix_lengths([frame])) for frame in self._frames(batch)] or [batch]

    def ended(self, end: End) -> None:
        """*end* has said goodbye to its receiver."""
        if end is self.near:
            self._board.ended(self)

    def _frames(self, batch: bytes) -> list[bytes]:
        if self._is_opaque:
            return []
        try:
            frames, used = cut(batch)
        except RemoteProtocolError:
            used, frames = 0, []
        if used < len(batch):
            self._is_opaque = True
            return []
        return frames

    def _passes(self, end: End, frame: bytes) -> bool:
        if not self._board.passes(self, end, frame):
            return False
        for drop in self.lane(end).drops:
            if drop.takes(peek(frame)[1]):
                where = "broker" if end is self.far else "client"
                self._board.say(f"(lost on the way to the {where}: {describe(frame)})")
                return False
        return True


def is_keepalive(batch: bytes) -> bool:
    """Return whether *batch* is one KEEPALIVE and nothing else: most of what passes in an hour."""
    return len(batch) == KEEPALIVE_SIZE and batch[KIND_AT] >> 2 == KEEPALIVE


def is_item(frame: bytes) -> bool:
    """Return whether *frame* completes an answer or an item."""
    _, kind, flags = peek(frame)
    return kind == PAYLOAD and bool(flags & FLAG_NEXT) and not flags & FLAG_FOLLOWS
