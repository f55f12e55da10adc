"""One read buffer per event loop, shared by all of its sockets.

`asyncio.BufferedProtocol` lets a protocol say where to read to. Both asyncio and uvloop ask for the
buffer and hand over what was read into it without doing anything else in between, also under TLS,
so one buffer serves every connection as long as `buffer_updated` copies out first. It spares idle
connections a buffer of their own, and reads the allocation of the largest possible size: libuv and
asyncio otherwise allocate 64 KiB and 256 KiB per read, through mmap, and cut it down afterwards.
"""

from __future__ import annotations

import asyncio
from typing import Final
from weakref import WeakKeyDictionary

# Bytes; the most that one event reads from one socket. Measured, CPU per MB received, uvloop: from
# 64 KiB up large frames cost the same; 128-byte frames cost 2.3 ms at 128 KiB and 3.1 at 256, where
# a read makes more objects than the caches hold. One read also is how long all others wait.
READ_SIZE: Final = 128 * 1024

_buffers: WeakKeyDictionary[asyncio.AbstractEventLoop, memoryview] = WeakKeyDictionary()


def shared_read_buffer(loop: asyncio.AbstractEventLoop) -> memoryview:
    """Return the buffer of *loop*; valid only until the loop does anything else.

    One per loop and not per process: a loop in another thread reads at the same time.
    """
    buffer = _buffers.get(loop)
    if buffer is None:
        buffer = _buffers[loop] = memoryview(bytearray(READ_SIZE))
    return buffer
