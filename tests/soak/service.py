"""The service under soak: `python -m tests.soak.service URL NAME LIFETIME`.

Checks what it is asked and sends what can be checked. What is wrong is printed as `VIOLATION ...`,
which the director collects also from processes that it killed.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Final

from rsocket_mesh import Service
from tests.soak.payloads import HEAD, Ask, Wrong, call_of, check, item_size, make

KEPT_NOTES: Final = 100_000  # calls whose repetition would be noticed

soak = Service("soak", version="1.0.0")
_notes: dict[int, None] = {}


def violation(text: str) -> None:
    """Say what must not be, where the director sees it."""
    print(f"VIOLATION {text}", flush=True)


def _checked(ask: Ask) -> None:
    try:
        check(ask.data, ask.call, 0, len(ask.data))
    except Wrong as exc:
        violation(f"request: {exc}")
        raise


@soak.request_response
async def echo(ask: Ask) -> bytes:
    """Answer with a payload of the size that was asked for."""
    _checked(ask)
    if ask.pause:
        await asyncio.sleep(ask.pause)
    return make(ask.call, 1, ask.size)


@soak.fire_and_forget
async def note(ask: Ask) -> None:
    """Take each note at most once."""
    _checked(ask)
    if ask.call in _notes:
        violation(f"fire-and-forget of call {ask.call:#x} arrived twice")
    _notes[ask.call] = None
    if len(_notes) > KEPT_NOTES:
        del _notes[next(iter(_notes))]


@soak.request_stream
async def items(ask: Ask) -> AsyncIterator[bytes]:
    """Yield items of any size up to the one that was asked for."""
    _checked(ask)
    for item in range(ask.count):
        yield make(ask.call, item, item_size(ask.call, item, ask.size))
        if ask.pause:
            await asyncio.sleep(ask.pause)


@soak.request_channel
async def pipe(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Check each chunk and send it back."""
    call, item = None, 0
    async for chunk in chunks:
        try:
            call = call_of(chunk) if call is None else call
            check(chunk, call, item, len(chunk))
        except Wrong as exc:
            violation(f"channel: {exc}")
            raise
        item += 1
        yield chunk


@soak.request_response
async def tasks() -> int:
    """Return how many tasks this process has, this call's own included."""
    return len(asyncio.all_tasks())


assert HEAD.size < 64  # the smallest chunk of a channel holds a head

if __name__ == "__main__":
    soak.run(sys.argv[1], instance=sys.argv[2], app="soak", lifetime=float(sys.argv[3]))
