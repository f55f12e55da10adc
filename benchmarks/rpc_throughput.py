"""Typed calls per second through one broker, as many as this machine's processors give.

Run: python -m benchmarks.rpc_throughput [--callers N] [--services N] [--in-flight N] [--json FILE]
Callers, services and the broker are processes of their own and share the machine; the calls are
`total(Order(6, 7)) -> int`. Also prints what each of them used per call, so that the figure can be
checked: calls per second times microseconds per call is at most the number of processors. What
other programs took of the processors meanwhile is read from `/proc/stat`, and `alone` is the figure
without them; time that a processor had nothing to do counts against us.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from benchmarks.processes import Contender, python
from benchmarks.rpc import CONTENDERS, Running, caller, expect, go_on, start

CALLERS: Final = 2
SERVICES: Final = 2
IN_FLIGHT: Final = 128  # per caller; more no longer makes the batches much larger
ROUNDS: Final = 3
SECONDS: Final = 2.0
PROCESSORS: Final = os.cpu_count() or 1


def measure(
    running: Running, services: list[Contender], callers: int, in_flight: int, seconds: float
) -> dict[str, float]:
    """Let *callers* processes call at the same time; return what all of them reached."""
    broker = running.middle
    assert broker is not None
    with ExitStack() as stack:
        loads = [
            stack.enter_context(caller(running, "total", in_flight, seconds))
            for _ in range(callers)
        ]
        for load in loads:
            expect(load)
        before = [process.cpu_seconds() for process in (broker, *services)]
        busy, began = busy_seconds(), perf_counter()
        for load in loads:
            go_on(load)
        found = [json.loads(expect(load)) for load in loads]
        busy, took = busy_seconds() - busy, perf_counter() - began
        after = [process.cpu_seconds() for process in (broker, *services)]
        for load in loads:
            go_on(load)
        for load in loads:
            load.wait(30)
    calls = sum(one["calls"] for one in found)
    used = [b - a for a, b in zip(before, after, strict=True)]
    calling = sum(one["cpu_seconds"] for one in found)
    everything = PROCESSORS * took
    others = max(0.0, busy - calling - sum(used))
    # Each caller's own seconds: they do not end in the same moment.
    rate = sum(one["calls"] / one["seconds"] for one in found)
    return {
        "calls_per_second": rate,
        "alone_per_second": rate * everything / (everything - others),
        "others_share": others / everything,
        "callers_us": calling / calls * 1e6,
        "broker_us": used[0] / calls * 1e6,
        "services_us": sum(used[1:]) / calls * 1e6,
    }


def busy_seconds() -> float:
    """Return the time that all processors of this machine have worked so far."""
    user, nice, system, _idle, _iowait, irq, softirq = map(
        int, Path("/proc/stat").read_text().split(maxsplit=8)[1:8]
    )
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def samples(
    callers: int, services: int, in_flight: int, rounds: int, seconds: float
) -> Iterator[dict[str, float]]:
    """Measure one set-up *rounds* times."""
    with ExitStack() as stack:
        running = start(stack, CONTENDERS["ours, through the broker"])
        assert running.middle is not None
        port = str(running.middle.port)
        more = [
            stack.enter_context(python("benchmarks.rpc_ends", "mesh", "join", port))
            for _ in range(services - 1)
        ]
        everyone = [running.service, *more]
        for _ in range(rounds):
            yield measure(running, everyone, callers, in_flight, seconds)


def run(
    callers: int = CALLERS,
    services: int = SERVICES,
    in_flight: int = IN_FLIGHT,
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
) -> dict[str, Any]:
    """Return the row of one set-up: the median of calls per second, and of each one's share."""
    found = list(samples(callers, services, in_flight, rounds, seconds))
    rates = [one["alone_per_second"] for one in found]
    return {
        "callers": callers,
        "services": services,
        "in_flight": in_flight,
        "processors": PROCESSORS,
        **{name: statistics.median(one[name] for one in found) for name in found[0]},
        "alone_spread": [min(rates), max(rates)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--callers", type=int, default=CALLERS, help=f"default {CALLERS}")
    parser.add_argument("--services", type=int, default=SERVICES, help=f"default {SERVICES}")
    parser.add_argument("--in-flight", type=int, default=IN_FLIGHT, help=f"default {IN_FLIGHT}")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default {ROUNDS}")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"default {SECONDS:g}")
    parser.add_argument("--json", type=Path, help="write the row here as well")
    options = parser.parse_args()
    row = run(options.callers, options.services, options.in_flight, options.rounds, options.seconds)
    low, high = row["alone_spread"]
    table = Table(
        title=f"{row['callers']} callers, {row['services']} services, one broker, "
        f"{row['processors']} processors"
    )
    for name in ("calls/s", "others took", "alone", "min..max", "callers", "services", "broker"):
        table.add_column(name, justify="right")
    table.add_row(
        f"{row['calls_per_second']:.0f}",
        f"{row['others_share']:.0%}",
        f"{row['alone_per_second']:.0f}",
        f"{low:.0f}..{high:.0f}",
        *(f"{row[f'{name}_us']:.1f} us" for name in ("callers", "services", "broker")),
    )
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps(row, indent=2) + "\n")


if __name__ == "__main__":
    main()
