"""What is joined before it is written, and what is written as it is.

Stands on `base`; `sockets` writes. Joining small chunks is cheaper than an iovec each; a large one
is never copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rsocket_mesh.transport.base import Chunk

LARGE_CHUNK: Final = 32 * 1024  # bytes; from here on copying costs more than another iovec


def is_small(last: Chunk) -> bool:
    """Whether chunks that end in *last* are joined: parts of large frames are views, and whoever
    sends such a frame flushes behind it."""
    return type(last) is bytes and len(last) < LARGE_CHUNK


def gathered(parts: Sequence[Chunk]) -> list[memoryview]:
    """Return *parts* with neighbours joined that are small: under TLS each becomes a record."""
    gathered: list[memoryview] = []
    small: list[Chunk] = []
    for part in parts:
        if len(part) < LARGE_CHUNK:
            small.append(part)
            continue
        if small:
            gathered.append(memoryview(b"".join(small)))
            small = []
        gathered.append(memoryview(part))
    if small:
        gathered.append(memoryview(b"".join(small)))
    return gathered
