"""The 24-bit length prefix: byte stream <-> whole frames, however the bytes are cut.

Inside this project a *batch* is any number of whole, length-prefixed frames back to back: what TCP
carries as it is, and what the other transports take apart (WebSocket: one message per frame).
Whoever receives a batch cuts it and says how many bytes it used; what is left begins a frame that
is not complete yet, and `Backlog` keeps it without copying it again on each read, or `LargeFrame`
without copying it at all.
Source: RSocket Protocol 1.0, "Framing Format".
"""

from __future__ import annotations

from collections.abc import Iterable
from struct import Struct
from typing import Final

from rsocket_mesh.errors import FrameTooLong, LocalProtocolError, RemoteProtocolError
from rsocket_mesh.protocol.frames import HEADER, MAX_FRAME_SIZE

PREFIX_SIZE: Final = 3  # bytes
# The length (24 bits: the high 16, the low 8) and the frame's header behind it, in one step.
PREFIXED_HEADER: Final = Struct(">HBIH")
SMALL_PIECE: Final = 1024  # bytes; a piece costs some 60 bytes more than it holds
LARGE: Final = 64 * 1024  # bytes; a frame from here on is read into memory of its own
# Bytes that such memory grows by: at least so much, at most so much, and in between by what has
# come already, so that a length alone makes nobody hold more than twice of what was sent.
SMALLEST_SEGMENT: Final = 4 * 1024
LARGEST_SEGMENT: Final = 1024 * 1024


def prefix(size: int) -> bytes:
    """Return the length prefix for a frame of *size* bytes."""
    if size > MAX_FRAME_SIZE:
        raise LocalProtocolError(f"frame of {size} bytes exceeds {MAX_FRAME_SIZE}")
    return size.to_bytes(PREFIX_SIZE, "big")


def prefix_lengths(frames: Iterable[bytes]) -> list[bytes]:
    """Return the chunks of a batch: each frame behind its length, ready for one write."""
    chunks: list[bytes] = []
    for frame in frames:
        chunks.append(prefix(len(frame)))
        chunks.append(frame)
    return chunks


def check_size(size: int, limit: int) -> None:
    """Raise if no frame may have *size* bytes: too short for a header, or over *limit*."""
    if size < HEADER.size:
        raise RemoteProtocolError(f"frame length {size}, the header alone needs {HEADER.size}")
    if size > limit:
        raise FrameTooLong(f"frame length {size} exceeds the limit of {limit} bytes")


def cut(batch: bytes, limit: int = MAX_FRAME_SIZE) -> tuple[list[bytes], int]:
    """Return the whole frames at the start of *batch* and how many bytes they took.

    Frames in front of a bad length are returned first; the rest then begins with the bad one, and
    `Backlog.keep` (or the next `cut`) refuses it.

    Raises:
        RemoteProtocolError: *batch* begins with a length below a header's size or above *limit*.
    """
    frames: list[bytes] = []
    position, end = 0, len(batch)
    while end - position >= PREFIX_SIZE:
        size = batch[position] << 16 | batch[position + 1] << 8 | batch[position + 2]
        if not HEADER.size <= size <= limit:
            if frames:
                break
            check_size(size, limit)
        stop = position + PREFIX_SIZE + size
        if stop > end:
            break
        frames.append(batch[position + PREFIX_SIZE : stop])
        position = stop
    return frames, position


class Backlog:
    """The bytes of one frame that has not arrived completely.

    Pieces are joined once, when the frame is complete: a 16 MiB frame that arrives in 64 KiB
    reads is copied once, not once per read. Memory is bounded by *limit* plus one read and the
    overhead of the pieces: small ones are gathered, or two-byte reads would cost twenty-fold.
    """

    __slots__ = ("_limit", "_needed", "_pieces", "_size")

    def __init__(self, limit: int = MAX_FRAME_SIZE) -> None:
        self._limit = limit
        self._pieces: list[bytes | bytearray] = []
        self._size = 0
        self._needed = 0

    def __len__(self) -> int:
        return self._size

    def feed(self, data: bytes) -> bytes | None:
        """Take what was read; return bytes to be cut, or None while the frame is incomplete."""
        if not self._pieces:
            return data
        last = self._pieces[-1]
        if len(data) >= SMALL_PIECE:
            self._pieces.append(data)
        elif isinstance(last, bytearray):
            last += data
        else:
            self._pieces.append(bytearray(data))
        self._size += len(data)
        if self._size < self._needed:
            return None
        joined = b"".join(self._pieces)
        self._pieces.clear()
        self._size = 0
        return joined

    def keep(self, rest: bytes) -> None:
        """Keep *rest*, which begins a frame and does not hold all of it.

        Raises:
            RemoteProtocolError: the announced length is not allowed; nothing more is buffered
                (C-06, C-07).
        """
        self._needed = PREFIX_SIZE
        if len(rest) >= PREFIX_SIZE:
            size = int.from_bytes(rest[:PREFIX_SIZE], "big")
            check_size(size, self._limit)
            self._needed += size
        self._pieces.append(rest)
        self._size = len(rest)


class LargeFrame:
    """A frame that is read into where it stays until it is sent on: nothing of it is copied.

    It consists of a head, the bytes that had come when it was seen to be large, and of segments
    that are filled one after the other: `room` says where to, `filled` how far.

    Attributes:
        head: the first bytes, from the prefix on.
        size: of the whole frame with its prefix, in bytes.
        arrived: how many bytes of it there are.
    """

    __slots__ = ("_free", "_segments", "arrived", "head", "size")

    def __init__(self, head: bytes, size: int) -> None:
        self.head = head
        self.size = size
        self.arrived = len(head)
        self._segments: list[memoryview] = []
        self._free = memoryview(b"")  # of the last segment

    @property
    def is_complete(self) -> bool:
        return self.arrived == self.size

    def room(self, most: int = LARGEST_SEGMENT) -> memoryview:
        """Return memory for the next bytes, at most *most* of them; only for an incomplete frame.

        It is valid until `filled` is called, and until then the same.
        """
        if not self._free:
            grow = min(max(self.arrived, SMALLEST_SEGMENT), LARGEST_SEGMENT)
            self._free = memoryview(bytearray(min(grow, self.size - self.arrived)))
            self._segments.append(self._free)
        return self._free[:most]

    def filled(self, count: int) -> None:
        """The first *count* bytes of what `room` returned are there."""
        self.arrived += count
        self._free = self._free[count:]

    def feed(self, data: bytes) -> int:
        """Copy what belongs to this frame from *data*; return how many bytes that were."""
        taken = 0
        while taken < len(data) and not self.is_complete:
            room = self.room()
            count = min(len(room), len(data) - taken)
            room[:count] = memoryview(data)[taken : taken + count]
            self.filled(count)
            taken += count
        return taken

    def tail(self) -> list[memoryview]:
        """Return what follows the head; only for a complete frame."""
        return self._segments

    def join(self) -> bytes:
        """Return the whole frame with its prefix, copied."""
        return b"".join((self.head, *self._segments))


def large_frame(rest: bytes, limit: int = MAX_FRAME_SIZE) -> LargeFrame | None:
    """Return the frame that *rest* begins and does not hold all of, if it is a large one whose
    length is allowed."""
    size = int.from_bytes(rest[:PREFIX_SIZE], "big") if len(rest) >= PREFIX_SIZE else 0
    if not LARGE <= size <= limit or PREFIX_SIZE + size <= len(rest):
        return None
    return LargeFrame(rest, PREFIX_SIZE + size)
