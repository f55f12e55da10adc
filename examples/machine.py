"""How busy this machine is, measured from `/proc`: the service `machine`.

    python -m examples.machine

`load` is an endless request-stream. Nobody is flooded by it: the loop below stands still until the
caller has taken what came before, and ends in `finally` as soon as the caller leaves.
Needs Linux; the files are described in proc(5).
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from examples import BROKER
from rsocket_mesh import Invalid, Service

PROC = Path("/proc")
MAX_INTERVAL = 60_000  # ms; whoever wants to know less often can ask again


@dataclass
class Load:
    """What the machine does at one moment."""

    cpu: list[float]  # per core: how much of the time since the last look it worked, 0 to 100
    load: tuple[float, float, float]  # tasks that run or want to, mean of 1, 5 and 15 minutes
    memory_used: int  # bytes
    memory_total: int  # bytes


@dataclass
class Watchers:
    """What the callers of this process cost it."""

    now: int = 0  # streams that are open
    measured: int = 0  # measurements made for all streams so far


machine = Service("machine", version="1.0.0", description="How busy this machine is")
seen = Watchers()


@machine.request_stream
async def load(interval_ms: int = 1000) -> AsyncIterator[Load]:
    """One measurement each `interval_ms`, without end."""
    if not 1 <= interval_ms <= MAX_INTERVAL:
        raise Invalid(f"interval_ms is {interval_ms}, must be 1 to {MAX_INTERVAL}")
    before = core_times()
    seen.now += 1
    try:
        while True:
            await asyncio.sleep(interval_ms / 1000)
            after = core_times()
            seen.measured += 1
            yield measure(before, after)
            before = after
    finally:
        seen.now -= 1


@machine.request_response(idempotent=True)
async def now() -> Load:
    """One measurement, over a tenth of a second."""
    before = core_times()
    await asyncio.sleep(0.1)
    return measure(before, core_times())


@machine.request_response(idempotent=True)
async def watchers() -> Watchers:
    """Who is looking, and what it has cost so far."""
    return seen


def measure(before: list[tuple[int, int]], after: list[tuple[int, int]]) -> Load:
    """What happened between two readings of `core_times`, and the memory and load right now."""
    memory = memory_sizes()
    one, five, fifteen = (PROC / "loadavg").read_text().split()[:3]
    return Load(
        cpu=[busy_share(*times) for times in zip(before, after, strict=False)],
        load=(float(one), float(five), float(fifteen)),
        memory_used=memory["MemTotal"] - memory["MemAvailable"],
        memory_total=memory["MemTotal"],
    )


def busy_share(before: tuple[int, int], after: tuple[int, int]) -> float:
    """How much of the time between two readings a core worked, in per cent."""
    busy, total = (late - early for early, late in zip(before, after, strict=True))
    return round(100 * max(0, busy) / total, 1) if total > 0 else 0.0


def core_times() -> list[tuple[int, int]]:
    """For each core: ticks that it worked, and ticks altogether, since the machine started."""
    times = []
    for line in (PROC / "stat").read_text().splitlines():
        name, *fields = line.split()
        if name.startswith("cpu") and name != "cpu":  # the line `cpu` is the sum of the others
            # Guests' time, behind the eighth field, is contained in the first two already.
            ticks = [int(field) for field in fields[:8]]
            idle, waiting_for_disk = ticks[3:5]
            times.append((sum(ticks) - idle - waiting_for_disk, sum(ticks)))
    return times


def memory_sizes() -> dict[str, int]:
    """The lines of `/proc/meminfo` that are sizes, in bytes."""
    lines = (line.split() for line in (PROC / "meminfo").read_text().splitlines())
    return {name.rstrip(":"): int(size) * 1024 for name, size, *unit in lines if unit == ["kB"]}


if __name__ == "__main__":
    machine.run(BROKER)
