"""One end of a contender of `benchmarks.rpc` in a process of its own.

    python -m benchmarks.rpc_ends MODULE serve|serve_raw PORT     a service that listens
    python -m benchmarks.rpc_ends MODULE join PORT                a service behind a middle
    python -m benchmarks.rpc_ends MODULE caller|caller_raw PORT METHOD IN_FLIGHT SECONDS

A caller keeps IN_FLIGHT calls open for SECONDS, behind a warm-up of a fifth of that, and takes part
in a small conversation, so that the runner reads every process's account at the same moments: it
prints `warm` and waits for a line, works, prints what it found as JSON, and waits for a line again
before it hangs up.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
from contextlib import AbstractAsyncContextManager
from time import perf_counter
from typing import Any, Final

import uvloop

from benchmarks.processes import cpu_seconds
from benchmarks.rpc_peers.messages import ANSWERS, Call

WARM_UP: Final = 0.2  # of the seconds that are measured
FEWEST_CALLS: Final = 50  # per measurement, however slow the contender


async def load(call: Call, expected: object, in_flight: int, seconds: float) -> tuple[int, float]:
    """Keep *in_flight* calls open for *seconds*; return how many were made, and the seconds."""
    made = 0
    began = perf_counter()
    until = began + seconds

    async def worker() -> None:
        nonlocal made
        while perf_counter() < until or made < FEWEST_CALLS:
            answer = await call()
            if answer != expected:
                raise RuntimeError(f"the answer is {answer!r}, not {expected!r}")
            made += 1

    await asyncio.gather(*(worker() for _ in range(in_flight)))
    return made, perf_counter() - began


async def _hear() -> None:
    """Wait for a line of the runner's."""
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)


async def measure(
    caller: AbstractAsyncContextManager[Call], method: str, in_flight: int, seconds: float
) -> None:
    """Be the caller of one measurement."""
    async with caller as call:
        await load(call, ANSWERS[method], in_flight, seconds * WARM_UP)
        print("warm", flush=True)
        await _hear()
        before = cpu_seconds("self")
        calls, took = await load(call, ANSWERS[method], in_flight, seconds)
        used = cpu_seconds("self") - before
        print(json.dumps({"calls": calls, "seconds": took, "cpu_seconds": used}), flush=True)
        await _hear()


def main() -> None:
    name, role, port, *more = sys.argv[1:]
    module: Any = importlib.import_module(f"benchmarks.rpc_peers.{name}")
    end = getattr(module, role)
    if role.startswith("caller"):
        method, in_flight, seconds = more
        coroutine = measure(end(int(port), method), method, int(in_flight), float(seconds))
    else:
        coroutine = end(int(port))
    run = uvloop.run if module.USES_UVLOOP else asyncio.run
    run(coroutine)


if __name__ == "__main__":
    main()
