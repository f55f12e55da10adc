"""CPU of the broker per relayed request-response, beside two measuring sticks in the same run.

Run: python -m benchmarks.relay [--calls N] [--rounds N] [--json FILE]
Prints, per payload size and calls in flight, the microseconds of CPU that each process in the
middle used per call: a byte relay that looks at nothing (what the kernel and the loop cost), a bare
frame relay without any feature (what relaying costs at least in Python), and the broker. The load
is raw frames (`benchmarks.load`).
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

CASES: Final = ((128, 1, 0.1), (128, 64, 1.0), (128, 1024, 1.0), (4096, 64, 0.5))
ROUNDS: Final = 5  # of each case and contender, in turn; the median counts


def measure(contender: Contender, payload: int, in_flight: int, calls: int, kind: str) -> float:
    """Return microseconds of CPU in the middle per call."""
    load = [sys.executable, "-m", "benchmarks.load"]
    end = [str(contender.port), str(payload)]
    service = subprocess.Popen([*load, "serve", *end, kind], stdout=subprocess.PIPE, text=True)
    try:
        assert service.stdout is not None
        if service.stdout.readline().strip() != "ready":
            raise RuntimeError("the echo service did not start")
        before = contender.cpu_seconds()
        command = [*load, "call", *end, str(in_flight), str(calls), kind]
        subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=300)
        return (contender.cpu_seconds() - before) / calls * 1e6
    finally:
        service.terminate()
        service.wait()
        if service.stdout is not None:
            service.stdout.close()


def run(calls: int, rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """Measure all cases; return one row per case with medians in microseconds."""
    rows = []
    with ExitStack() as stack:
        byte_relay = stack.enter_context(python("benchmarks.byte_relay"))
        bare_relay = stack.enter_context(python("benchmarks.bare_relay"))
        broker = stack.enter_context(
            python("broker", "--listen", "tcp://127.0.0.1:0", "--admin", "")
        )
        progress = stack.enter_context(Progress(console=Console(stderr=True)))
        task = progress.add_task("relay", total=len(CASES) * rounds * 3)
        for payload, in_flight, share in CASES:
            figures: dict[str, list[float]] = {"bytes": [], "bare": [], "broker": []}
            count = max(1000, int(calls * share))
            for _ in range(rounds):
                for name, contender, kind in (
                    ("bytes", byte_relay, "bytes"),
                    ("bare", bare_relay, "rsocket"),
                    ("broker", broker, "rsocket"),
                ):
                    figures[name].append(measure(contender, payload, in_flight, count, kind))
                    progress.advance(task)
            pairs = zip(figures["broker"], figures["bare"], strict=True)
            rows.append(
                {
                    "payload_bytes": payload,
                    "in_flight": in_flight,
                    "calls": count,
                    "byte_relay_us": statistics.median(figures["bytes"]),
                    "bare_relay_us": statistics.median(figures["bare"]),
                    "broker_us": statistics.median(figures["broker"]),
                    "ratio_to_bare": statistics.median(ours / bare for ours, bare in pairs),
                    "broker_spread_us": [min(figures["broker"]), max(figures["broker"])],
                }
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=100_000, help="per round (default 100000)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default {ROUNDS}")
    parser.add_argument("--json", type=Path, help="write the rows here as well")
    options = parser.parse_args()
    rows = run(options.calls, options.rounds)
    table = Table(title="CPU of the process in the middle, microseconds per request-response")
    for name in (
        "payload",
        "in flight",
        "byte relay",
        "bare relay",
        "broker",
        "broker : bare",
        "broker min..max",
    ):
        table.add_column(name, justify="right")
    for row in rows:
        low, high = row["broker_spread_us"]
        table.add_row(
            f"{row['payload_bytes']} B",
            str(row["in_flight"]),
            f"{row['byte_relay_us']:.2f}",
            f"{row['bare_relay_us']:.2f}",
            f"{row['broker_us']:.2f}",
            f"{row['ratio_to_bare']:.2f}",
            f"{low:.2f}..{high:.2f}",
        )
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
