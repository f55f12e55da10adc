"""Fragmentation and reassembly: one message, as many frames as it needs.

A message (a request or an item) that does not fit into one frame of the limit leaves as several;
frames of other streams may go between them, so a large message delays nobody. On the way in the
pieces of one message are kept here, charged to a budget of the connection: an endless series of
fragments, or many streams that never finish one, costs bounded memory (C-99, C-103).
Source: RSocket Protocol 1.0, "Fragmentation and Reassembly".
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from rsocket_mesh.errors import Canceled, Invalid, LocalProtocolError
from rsocket_mesh.protocol.frames import (
    FLAG_COMPLETE,
    FLAG_FOLLOWS,
    FLAG_METADATA,
    FLAG_NEXT,
    HEADER,
    MAX_FRAME_SIZE,
    MAX_REQUEST_N,
    PAYLOAD,
    REQUEST_STREAM,
    STREAM_ID,
)
from rsocket_mesh.protocol.payload import Payload

# Bytes of one frame, header included. A frame holds up the others for its own length only:
# 64 KiB are half a millisecond at 1 Gbit/s, and the cost per frame no longer shows.
DEFAULT_FRAGMENT_SIZE: Final = 65_536
MIN_FRAGMENT_SIZE: Final = 64  # bytes; rsocket-java refuses shorter fragments that are not the last
MAX_METADATA_SIZE: Final = MAX_FRAME_SIZE  # bytes in all fragments; rsocket-java cannot join more

DEFAULT_MESSAGE_LIMIT: Final = 128 * 1024 * 1024  # bytes of one message: twice what must pass
DEFAULT_CONNECTION_LIMIT: Final = 256 * 1024 * 1024  # bytes of all unfinished ones together
PIECE_OVERHEAD: Final = 64  # bytes charged per fragment: what an object and its place cost

_NEXT_PAYLOAD: Final = PAYLOAD << 10 | FLAG_NEXT


# -- sending --------------------------------------------------------------------------------------


def request_frames(
    kind: int,
    stream_id: int,
    payload: Payload,
    limit: int,
    initial_n: int = 0,
    complete: bool = False,
) -> bytes | Iterator[bytes]:
    """Return the one frame of a request, or an iterator over its fragments.

    Args:
        limit: bytes of the largest frame, header included; at least `MIN_FRAGMENT_SIZE`.
        initial_n: credit for the responder; stream and channel only.
        complete: this is also the last payload of the requester; channel only.
    Raises:
        LocalProtocolError: an argument is out of its range; nothing was encoded.
    """
    fixed = b""
    if kind >= REQUEST_STREAM:
        if not 1 <= initial_n <= MAX_REQUEST_N:
            raise LocalProtocolError(f"initial request n is {initial_n}, must be 1 to 2^31-1")
        fixed = STREAM_ID.pack(initial_n)
    return _frames(stream_id, kind << 10, fixed, payload, limit, complete)


def payload_frames(
    stream_id: int, payload: Payload, limit: int, complete: bool = False
) -> bytes | Iterator[bytes]:
    """Return the one PAYLOAD frame of an item, or an iterator over its fragments.

    Args:
        limit: bytes of the largest frame, header included; at least `MIN_FRAGMENT_SIZE`.
        complete: the sender's half ends with this item.
    Raises:
        LocalProtocolError: an argument is out of its range; nothing was encoded.
    """
    return _frames(stream_id, _NEXT_PAYLOAD, b"", payload, limit, complete)


def _frames(
    stream_id: int, word: int, fixed: bytes, payload: Payload, limit: int, complete: bool
) -> bytes | Iterator[bytes]:
    data, metadata = payload
    size = HEADER.size + len(fixed) + len(data)
    if metadata is None:
        if size <= limit:
            last = word | FLAG_COMPLETE if complete else word
            return HEADER.pack(stream_id, last) + fixed + data
    else:
        word |= FLAG_METADATA
        if size + 3 + len(metadata) <= limit:
            last = word | FLAG_COMPLETE if complete else word
            length = len(metadata).to_bytes(3, "big")
            return b"".join((HEADER.pack(stream_id, last), fixed, length, metadata, data))
        if len(metadata) > MAX_METADATA_SIZE:
            raise LocalProtocolError(
                f"metadata of {len(metadata)} bytes exceeds {MAX_METADATA_SIZE}"
            )
    if not MIN_FRAGMENT_SIZE <= limit <= MAX_FRAME_SIZE:
        raise LocalProtocolError(
            f"frame limit of {limit} bytes must be {MIN_FRAGMENT_SIZE} to {MAX_FRAME_SIZE}"
        )
    return _cut(stream_id, word, fixed, payload, limit, complete)


def _cut(
    stream_id: int, word: int, fixed: bytes, payload: Payload, limit: int, complete: bool
) -> Iterator[bytes]:
    """Yield full frames, the rest in the last; metadata before data (C-91, C-92, C-96)."""
    data, metadata = memoryview(payload.data), memoryview(payload.metadata or b"")
    while True:
        room = limit - HEADER.size - len(fixed)
        parts: list[bytes | memoryview] = [fixed]
        if word & FLAG_METADATA:
            piece, metadata = metadata[: room - 3], metadata[room - 3 :]
            parts += (len(piece).to_bytes(3, "big"), piece)
            room -= 3 + len(piece)
        parts.append(data[:room])
        data = data[room:]
        follows = bool(data or metadata)
        if follows:
            word |= FLAG_FOLLOWS
        elif complete:
            word |= FLAG_COMPLETE
        yield b"".join((HEADER.pack(stream_id, word), *parts))
        if not follows:
            return
        word = _NEXT_PAYLOAD | (FLAG_METADATA if metadata else 0)
        fixed = b""


# -- receiving ------------------------------------------------------------------------------------


class ReassemblyBudget:
    """What the unfinished messages of one connection may occupy, and do occupy; bytes."""

    __slots__ = ("connection_limit", "message_limit", "used")

    def __init__(
        self,
        message_limit: int = DEFAULT_MESSAGE_LIMIT,
        connection_limit: int = DEFAULT_CONNECTION_LIMIT,
    ) -> None:
        self.message_limit = message_limit
        self.connection_limit = connection_limit
        self.used = 0


class Reassembly:
    """The pieces of one message that has not arrived completely.

    Whoever gives it up before `finish` calls `drop`; both return its bytes to the budget.
    """

    __slots__ = ("_budget", "_data", "_has_metadata", "_metadata", "_metadata_open", "_size")

    def __init__(self, budget: ReassemblyBudget) -> None:
        self._budget = budget
        self._metadata: list[bytes] = []
        self._data: list[bytes] = []
        self._has_metadata = False
        self._metadata_open = True  # until a fragment carries none of it, or data
        self._size = 0

    def add(self, metadata: bytes | None, data: bytes) -> None:
        """Keep one fragment.

        Raises:
            Canceled: the message or the connection's sum grows over its limit (C-99, C-103).
            Invalid: metadata behind the data, or behind a fragment without any. Java and js lose
                or mix up bytes here, so it is refused instead of guessed.
        """
        if metadata is None:
            self._metadata_open = False
        elif self._metadata_open:
            self._has_metadata = True
            self._metadata_open = not data
        else:
            raise Invalid("a fragment carries metadata although the metadata had ended before it")
        cost = len(data) + len(metadata or b"") + PIECE_OVERHEAD
        budget = self._budget
        if self._size + cost > budget.message_limit:
            raise Canceled(
                f"fragmented message exceeds {budget.message_limit} bytes; send less at a time"
            )
        if budget.used + cost > budget.connection_limit:
            raise Canceled(
                f"unfinished messages of this connection exceed {budget.connection_limit} bytes; "
                "finish some before you begin others"
            )
        self._size += cost
        budget.used += cost
        if metadata:
            self._metadata.append(metadata)
        if data:
            self._data.append(data)

    def finish(self) -> Payload:
        """Return the whole message and give its bytes back to the budget."""
        metadata = b"".join(self._metadata) if self._has_metadata else None
        payload = Payload(b"".join(self._data), metadata)
        self.drop()
        return payload

    def drop(self) -> None:
        """Forget the pieces; idempotent."""
        self._budget.used -= self._size
        self._size = 0
        self._metadata.clear()
        self._data.clear()
