"""CPU of caller and service per typed call in Python, through the broker.

Run: python -m benchmarks.rpc [--calls N] [--in-flight N] [--json FILE]
`total` is the call of the README, `total(Order(6, 7)) -> int`; `echo` sends and returns a record of
about 128 bytes. Both ends are processes of their own, and so is the broker between them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.processes import Contender, python

METHODS: Final = ("total", "echo")
ROUNDS: Final = 5  # of each method, in turn; the median counts
IN_FLIGHT: Final = 64


def measure(
    service: Contender, url: str, method: str, in_flight: int, calls: int
) -> tuple[float, float]:
    """Return microseconds of CPU per call of the caller and of the service."""
    before = service.cpu_seconds()
    command = [sys.executable, "-m", "benchmarks.rpc_ends", "call", url, method]
    command += [str(in_flight), str(calls)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    return float(done.stdout), (service.cpu_seconds() - before) / calls * 1e6


def run(calls: int, rounds: int = ROUNDS, in_flight: int = IN_FLIGHT) -> list[dict[str, Any]]:
    """Measure all methods; return one row per method with medians in microseconds."""
    figures: dict[str, list[tuple[float, float]]] = {method: [] for method in METHODS}
    with ExitStack() as stack:
        broker = stack.enter_context(
            python("broker", "--listen", "tcp://127.0.0.1:0", "--admin", "")
        )
        url = f"tcp://127.0.0.1:{broker.port}"
        service = stack.enter_context(python("benchmarks.rpc_ends", "serve", url))
        progress = stack.enter_context(Progress(console=Console(stderr=True)))
        task = progress.add_task("rpc", total=rounds * len(METHODS))
        for _ in range(rounds):
            for method in METHODS:
                figures[method].append(measure(service, url, method, in_flight, calls))
                progress.advance(task)
    return [
        {
            "method": method,
            "in_flight": in_flight,
            "calls": calls,
            "caller_us": statistics.median(caller for caller, _ in found),
            "service_us": statistics.median(serving for _, serving in found),
            "both_spread_us": [min(map(sum, found)), max(map(sum, found))],
        }
        for method, found in figures.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=30_000, help="per round (default 30000)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default {ROUNDS}")
    parser.add_argument("--in-flight", type=int, default=IN_FLIGHT, help=f"default {IN_FLIGHT}")
    parser.add_argument("--json", type=Path, help="write the rows here as well")
    options = parser.parse_args()
    rows = run(options.calls, options.rounds, options.in_flight)
    table = Table(title="CPU in Python, microseconds per typed call")
    for name in ("method", "in flight", "caller", "service", "both min..max"):
        table.add_column(name, justify="right")
    for row in rows:
        low, high = row["both_spread_us"]
        table.add_row(
            row["method"],
            str(row["in_flight"]),
            f"{row['caller_us']:.1f}",
            f"{row['service_us']:.1f}",
            f"{low:.1f}..{high:.1f}",
        )
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
