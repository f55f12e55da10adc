"""Waiting in tests: for a condition and with a deadline, never for luck."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

DEADLINE = 5.0  # s; generous, since it is only used up by a test that fails


async def until(condition: Callable[[], object], what: str = "") -> None:
    """Return when *condition* holds; AssertionError after `DEADLINE`."""
    loop = asyncio.get_running_loop()
    end = loop.time() + DEADLINE
    while not condition():
        assert loop.time() < end, f"not within {DEADLINE} s: {what or condition}"
        await asyncio.sleep(0.001)


async def settled() -> None:
    """Let everything that is ready run; nothing here takes more turns of the loop than this."""
    for _ in range(20):
        await asyncio.sleep(0)
