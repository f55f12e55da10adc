"""The service of the acceptance tests: `python -m tests.acceptance.provider URL NAME`."""

from __future__ import annotations

import asyncio
import hashlib
import sys
import time
from collections.abc import AsyncIterator
from itertools import count

import reactivex
from reactivex import Observable
from reactivex import operators as ops

from rsocket_mesh import Service

bench = Service("bench", version="1.0.0")
yielded = 0
stopped_at = 0.0


@bench.request_stream
async def numbers(how_many: int) -> AsyncIterator[int]:
    """Yield 0, 1, 2, ... and keep account of how far it got and when it was stopped."""
    global yielded, stopped_at
    yielded, stopped_at = 0, 0.0
    try:
        for number in range(how_many):
            yielded += 1
            yield number
    finally:
        stopped_at = time.monotonic()


@bench.request_stream
def observed(how_many: int) -> Observable[int]:
    """The same numbers from an Observable."""
    global yielded, stopped_at
    yielded, stopped_at = 0, 0.0

    def count_one(_number: int) -> None:
        global yielded
        yielded += 1

    def stop() -> None:
        global stopped_at
        stopped_at = time.monotonic()

    return reactivex.range(how_many).pipe(ops.do_action(count_one), ops.finally_action(stop))


@bench.request_stream
async def ticks(every: float) -> AsyncIterator[int]:
    """Yield a number every so many seconds, for ever."""
    global yielded, stopped_at
    yielded, stopped_at = 0, 0.0
    try:
        while True:
            yielded += 1
            yield yielded
            await asyncio.sleep(every)
    finally:
        stopped_at = time.monotonic()


@bench.request_stream
async def paced(every: float, size: int) -> AsyncIterator[bytes]:
    """Yield items of *size* bytes that begin with their number, one every so many seconds; who
    takes them late gets the next one later, not several at once."""
    loop = asyncio.get_running_loop()
    due = loop.time()
    for number in count():
        yield number.to_bytes(8, "big") + bytes(size - 8)
        due = max(due + every, loop.time())
        await asyncio.sleep(due - loop.time())


@bench.request_stream
async def flood(size: int) -> AsyncIterator[bytes]:
    """Yield items of *size* bytes as fast as they are taken, for ever."""
    item = bytes(size)
    while True:
        yield item


@bench.request_response
async def large(size: int) -> bytes:
    """Return so many bytes."""
    return bytes(size)


@bench.request_response
async def account() -> tuple[int, float]:
    """Return how many items the last stream yielded, and when it stopped (0: it runs)."""
    return yielded, stopped_at


@bench.request_response
async def hold() -> None:
    """Never answer."""
    await asyncio.Event().wait()


@bench.request_response
async def whoami() -> str:
    """Return the name this process was given."""
    return sys.argv[2]


@bench.request_response
async def echo(data: bytes) -> bytes:
    """Return the data."""
    return data


@bench.request_channel
async def digest(chunks: AsyncIterator[bytes]) -> AsyncIterator[str]:
    """Take a file in chunks; answer its SHA-256."""
    seen = hashlib.sha256()
    async for chunk in chunks:
        seen.update(chunk)
    yield seen.hexdigest()


if __name__ == "__main__":
    bench.run(
        sys.argv[1],
        instance=sys.argv[2],
        app="acceptance",
        lifetime=float(sys.argv[3]) if len(sys.argv) > 3 else 60.0,
    )
