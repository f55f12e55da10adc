"""What one side of a connection sends, in fair turns and in no more than the transport takes.

Small frames leave at once. The fragments of large messages wait here as iterators, not as bytes,
and go out round-robin between the streams, never within one, so that a message of 64 MiB delays a
small call by a few frames. Each turn of the loop sends a bounded share, so that the transport gets
to write (and to say that it can't) between two shares. Who finds nothing left queues up, first come
first served: a permission is for one frame, so a source that never pauses can't starve the others.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Final

from rsocket_mesh.protocol.fragments import DEFAULT_FRAGMENT_SIZE
from rsocket_mesh.protocol.frames import (
    FLAG_COMPLETE,
    FLAG_NEXT,
    HEADER,
    MAX_REQUEST_N,
    PAYLOAD,
    encode_request_n,
)
from rsocket_mesh.protocol.payload import Payload

TURN_BYTES: Final = 262_144  # bytes of requests and items per turn of the loop, without a queue
FRAGMENT_BYTES: Final = 131_072  # bytes of fragments per turn: two frames, beside the items
PERMISSIONS: Final = 32  # frames per turn for those who queue
FRAME_COST: Final = 1024  # bytes charged at least: 256 small items per turn, a quarter of a ms
UNCHARGED: Final = 1024  # bytes: requests and answers up to this leave without an account

_ANSWER: Final = PAYLOAD << 10 | FLAG_NEXT | FLAG_COMPLETE


class Queue:
    """The rest of one message; `owed` is credit that may not go between its fragments."""

    __slots__ = ("done", "frames", "owed")

    def __init__(self, frames: Iterator[bytes]) -> None:
        self.frames = frames
        self.owed = 0
        self.done: asyncio.Future[None] | None = None


def _discard(frame: bytes) -> None:
    """The connection has ended: tasks that are being cancelled may still want to say something."""


class Outbox:
    """Sends frames through *send*, which takes one whole frame without its prefix.

    Attributes:
        open: whether a message may leave now, without waiting for a `turn`.
        busy: by stream id, the messages that have not left completely.
        fragment_size: bytes of the largest frame of a message.
        emptied: called when the last message that waited has left or was dropped.
        small: bytes behind the header of a frame that leaves without an account.
        send: for frames that never wait: credit, cancels, errors, and small messages.
    """

    __slots__ = (
        "_fragment_share",
        "_loop",
        "_share",
        "_turn_due",
        "_waiters",
        "_writable",
        "busy",
        "emptied",
        "fragment_size",
        "open",
        "send",
        "small",
    )

    def __init__(
        self, send: Callable[[bytes], None], *, fragment_size: int = DEFAULT_FRAGMENT_SIZE
    ) -> None:
        self.send = send
        self.fragment_size = fragment_size
        self.small = min(UNCHARGED, fragment_size) - HEADER.size
        self.open = True
        self.emptied: Callable[[], None] | None = None
        self._writable = True
        self._share = TURN_BYTES
        self._fragment_share = FRAGMENT_BYTES
        self._turn_due = False
        self._loop = asyncio.get_running_loop()
        self.busy: OrderedDict[int, Queue] = OrderedDict()
        self._waiters: OrderedDict[asyncio.Future[None], None] = OrderedDict()

    # -- messages ---------------------------------------------------------------------------------

    def put_request(self, stream_id: int, frames: bytes | Iterator[bytes]) -> None:
        """Send a request: its first frame at once, so that stream ids rise on the wire."""
        if type(frames) is not bytes:
            assert not isinstance(frames, bytes)
            first = next(frames)
            self.busy[stream_id] = Queue(frames)
            self.send(first)
            self._charge(len(first))
        else:
            self.send(frames)
            if len(frames) > UNCHARGED:
                self._charge(len(frames))

    def put_answer(self, stream_id: int, frames: bytes | Iterator[bytes]) -> None:
        """Send the one message of a stream: now if it is small and may go, else in its turn."""
        if type(frames) is bytes:
            if self.open and len(frames) <= UNCHARGED:
                self.send(frames)
                return
            frames = iter((frames,))
        assert not isinstance(frames, bytes)
        self.busy[stream_id] = Queue(frames)
        self._pump()
        self._schedule_turn()

    def put_small_answer(self, stream_id: int, answer: Payload) -> bool:
        """Send an answer that may leave at once in one frame: most of them. False if it can't."""
        data, metadata = answer
        if metadata is not None or len(data) > self.small or not self.open:
            return False
        self.send(HEADER.pack(stream_id, _ANSWER) + data)
        return True

    def put_item(self, stream_id: int, frames: bytes | Iterator[bytes]) -> None:
        """Send one of many items, while the stream is not `busy` and after `open` or `turn`."""
        if isinstance(frames, bytes):
            self.send(frames)
            self._charge(len(frames))
        else:
            self.busy[stream_id] = Queue(frames)
            self._pump()
            self._schedule_turn()

    def put_request_n(self, stream_id: int, n: int) -> None:
        """Send credit, but not between the fragments of a message of the same stream: rsocket-js
        ends the stream if that happens."""
        queue = self.busy.get(stream_id)
        if queue is None:
            self.send(encode_request_n(stream_id, n))
        else:
            queue.owed = min(queue.owed + n, MAX_REQUEST_N)

    def drop(self, stream_id: int) -> None:
        """Give up the rest of a stream's message; harmless if there is none."""
        queue = self.busy.pop(stream_id, None)
        if queue is None:
            return
        if queue.done is not None and not queue.done.done():
            queue.done.set_result(None)
        if self.emptied is not None and not self.busy:
            self.emptied()

    # -- waiting ----------------------------------------------------------------------------------

    async def turn(self) -> None:
        """Wait for the permission to send one message, or for the end of the connection.

        The permission does not expire: a source may take its time for the item that it is for. If
        cancelled: nothing has changed.
        """
        waiter = self._loop.create_future()
        self._waiters[waiter] = None
        self.open = False
        self._schedule_turn()
        try:
            await waiter
        finally:
            self._waiters.pop(waiter, None)

    async def drained(self, stream_id: int) -> None:
        """Wait until the stream's message has left or was dropped. If cancelled: it goes on."""
        queue = self.busy.get(stream_id)
        if queue is None:
            return
        if queue.done is None:
            queue.done = self._loop.create_future()
        await asyncio.shield(queue.done)

    def set_writable(self, ready: bool) -> None:
        """The transport is over its high watermark (False) or down at the low one (True)."""
        self._writable = ready
        if ready:
            self._schedule_turn()
        else:
            self.open = False

    def close(self) -> None:
        """Forget what waits to be sent, send nothing more, and wake all who wait."""
        self.open = self._writable = False
        self.send = _discard
        for stream_id in list(self.busy):
            self.drop(stream_id)
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    # -- turns ------------------------------------------------------------------------------------

    def _charge(self, size: int) -> None:
        self._share -= max(size, FRAME_COST)
        if self._share <= 0:
            self.open = False
        self._schedule_turn()

    def _schedule_turn(self) -> None:
        if not self._turn_due:
            self._turn_due = True
            self._loop.call_soon(self._new_turn)

    def _new_turn(self) -> None:
        self._turn_due = False
        self._share, self._fragment_share = TURN_BYTES, FRAGMENT_BYTES
        if not self._writable:
            return
        # Those who queue come first: their frames are in front of this turn's fragments.
        for _ in range(min(len(self._waiters), PERMISSIONS)):
            waiter, _ = self._waiters.popitem(last=False)
            if not waiter.done():
                waiter.set_result(None)
        self.open = not self._waiters
        self._pump()
        if self._waiters or self.busy:
            self._schedule_turn()

    def _pump(self) -> None:
        queues = self.busy
        while queues and self._writable and self._fragment_share > 0:
            stream_id, queue = next(iter(queues.items()))
            frame = next(queue.frames, None)
            if frame is not None:
                queues.move_to_end(stream_id)
                self.send(frame)
                self._fragment_share -= max(len(frame), FRAME_COST)
                continue
            self.drop(stream_id)
            if queue.owed:
                self.send(encode_request_n(stream_id, queue.owed))
