"""What a second worker gains, and what it costs: calls per second and CPU per call.

Run: python -m benchmarks.workers [--calls N] [--rounds N] [--json FILE]
Raw frames (`benchmarks.load`) from several callers to several instances of one service, with one
worker and with two. CPU is that of all processes of the broker together, by the kernel's account;
the share of calls that crossed from one worker to the other is the broker's own count. On a machine
with two cores the load takes its part of them: the CPU per call tells what a broker on cores of its
own could do, calls per second what was left of these.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

ROUNDS: Final = 5  # of each case, in turn; the median counts
PAYLOAD: Final = 128  # bytes
IN_FLIGHT: Final = 64  # per caller
_ROOT: Final = Path(__file__).resolve().parent.parent


class Case(NamedTuple):
    """So many workers; connections are placed in turn, instances first."""

    name: str
    workers: int
    instances: int
    callers: int


CASES: Final = (
    Case("1 worker", 1, 2, 2),
    Case("2 workers", 2, 2, 2),
    # The one instance is at the first worker, the one caller at the second.
    Case("2 workers, every call crosses", 2, 1, 1),
    Case("1 worker, one caller", 1, 1, 1),
)


class Broker:
    """A broker of some workers, while the block runs."""

    def __init__(self, workers: int) -> None:
        command = [sys.executable, "-m", "broker", "--workers", str(workers)]
        command += ["--listen", "tcp://127.0.0.1:0", "--admin", "http://127.0.0.1:0"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=_ROOT
        )
        urls: list[str] = []
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.strip() == "ready":
                break
            urls += line.split()[1:]
        if len(urls) < 2:
            raise RuntimeError(f"the broker ended with {self.process.wait()} before it was ready")
        self.port = int(urls[0].rpartition(":")[2])
        self._admin = urls[-1]
        with urllib.request.urlopen(f"{self._admin}/api/v1/workers") as answer:
            rows = json.load(answer)["workers"]
        self._pids = [self.process.pid, *(row["pid"] for row in rows)]

    def cpu_seconds(self) -> float:
        """Return the time on a processor of all its processes so far."""
        tasks = (task for pid in self._pids for task in Path(f"/proc/{pid}/task").iterdir())
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def passed_on(self) -> float:
        """Return how many calls have crossed."""
        with urllib.request.urlopen(f"{self._admin}/metrics") as answer:
            text = answer.read().decode()
        counts = re.findall(r"(?m)^rsocket_broker_worker_calls_passed_on_total\S* (\S+)$", text)
        return sum(map(float, counts))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def measure(case: Case, broker: Broker, calls: int) -> dict[str, float]:
    """Make *calls* calls in all; return what they took, per call in microseconds of CPU."""
    load = [sys.executable, "-m", "benchmarks.load"]
    end = [str(broker.port), str(PAYLOAD)]
    each = calls // case.callers
    with ExitStack() as stack:
        for _ in range(case.instances):
            command = [*load, "serve", *end, "rsocket"]
            service = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=_ROOT)
            stack.callback(_end, service)
            assert service.stdout is not None
            if service.stdout.readline().strip() != "ready":
                raise RuntimeError("the echo service did not start")
        crossed, before = broker.passed_on(), broker.cpu_seconds()
        callers = [
            subprocess.Popen(
                [*load, "call", *end, str(IN_FLIGHT), str(each), "rsocket"],
                stdout=subprocess.PIPE,
                text=True,
                cwd=_ROOT,
            )
            for _ in range(case.callers)
        ]
        took = [float(caller.communicate(timeout=300)[0]) for caller in callers]
        cpu = broker.cpu_seconds() - before
        return {
            "calls_per_second": sum(each / seconds for seconds in took),
            "cpu_us": cpu / (each * case.callers) * 1e6,
            "crossed": (broker.passed_on() - crossed) / (each * case.callers),
        }


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def run(calls: int, rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """Measure all cases in turn; return one row per case with medians."""
    found: dict[str, list[dict[str, float]]] = {case.name: [] for case in CASES}
    with ExitStack() as stack:
        brokers = {count: stack.enter_context(Broker(count)) for count in (1, 2)}
        progress = stack.enter_context(Progress(console=Console(stderr=True)))
        task = progress.add_task("workers", total=rounds * len(CASES))
        for _ in range(rounds):
            for case in CASES:
                found[case.name].append(measure(case, brokers[case.workers], calls))
                progress.advance(task)
    rows = []
    for case in CASES:
        results = found[case.name]
        medians = {key: statistics.median(one[key] for one in results) for key in results[0]}
        spread = [one["cpu_us"] for one in results]
        row = {**case._asdict(), **medians, "cpu_us_min": min(spread), "cpu_us_max": max(spread)}
        rows.append(row)
    return rows


def show(rows: list[dict[str, Any]]) -> Table:
    """Return *rows* for people."""
    table = Table("case", "calls/s", "CPU us per call", "min to max", "crossed")
    for row in rows:
        table.add_row(
            row["name"],
            f"{row['calls_per_second']:,.0f}",
            f"{row['cpu_us']:.2f}",
            f"{row['cpu_us_min']:.2f} to {row['cpu_us_max']:.2f}",
            f"{row['crossed']:.0%}",
        )
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path, help="write the rows here as well")
    options = parser.parse_args()
    rows = run(options.calls, options.rounds)
    Console().print(show(rows))
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
