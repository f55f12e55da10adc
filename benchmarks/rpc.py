"""CPU of caller and service per typed call in Python, beside other libraries in the same run.

Run: python -m benchmarks.rpc [--seconds N] [--rounds N] [--in-flight N ...] [--method NAME ...]
                              [--contender NAME ...] [--json FILE]
`total` is the call of the README, `total(Order(6, 7)) -> int`; `echo` sends and returns a record of
about 128 bytes. Caller, service and what is between them are processes of their own; the contenders
take turns, round by round, and each is given the same seconds. Who isn't installed is left out, and
the run says so.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from benchmarks.processes import Contender, command, python
from benchmarks.rpc_peers.messages import METHODS

ROUNDS: Final = 5  # of each case and contender, in turn; the median counts
IN_FLIGHT: Final = (1, 64, 256)
SECONDS: Final = 1.0  # of each measurement; ours makes some 20 000 calls in it


class Kind(NamedTuple):
    """How one contender is run.

    Attributes:
        module: of `benchmarks.rpc_peers`.
        middle: what stands between both ends: `broker`, `nats-server` or nothing.
        suffix: of the names of its two ends, where a module has more than one.
        needs: what has to be installed.
        note: for the report, where the comparison is not quite even.
    """

    module: str
    middle: str = ""
    suffix: str = ""
    needs: str = ""
    note: str = ""


CONTENDERS: Final[dict[str, Kind]] = {
    "ours, through the broker": Kind("mesh", "broker"),
    "ours, direct": Kind("mesh"),
    "grpc.aio": Kind("grpc_aio", needs="grpc"),
    "rsocket-py": Kind("rsocket_py", needs="rsocket"),
    "rsocket-py, raw bytes": Kind(
        "rsocket_py", suffix="_raw", needs="rsocket", note="less work: no route, no codec"
    ),
    "nats-py": Kind("nats_py", "nats-server", needs="nats"),
    "aiohttp JSON": Kind("aiohttp_json", needs="aiohttp"),
}


Key = tuple[str, str, int]  # contender, method, calls in flight


class Measured(NamedTuple):
    """One measurement: microseconds of CPU per call of each process, and calls per second."""

    caller_us: float
    service_us: float
    middle_us: float
    calls_per_second: float

    @property
    def both_us(self) -> float:
        """Caller and service together; the middle is another matter."""
        return self.caller_us + self.service_us


def missing(kind: Kind) -> str:
    """Return what has to be installed for *kind*, or nothing."""
    if kind.needs and importlib.util.find_spec(kind.needs) is None:
        return f"the package of {kind.needs!r} is not installed (pip install '.[bench]')"
    if kind.middle == "nats-server" and shutil.which("nats-server") is None:
        return "nats-server is not installed"
    return ""


class Running(NamedTuple):
    """A contender whose service can be called."""

    kind: Kind
    service: Contender
    middle: Contender | None


def start(stack: ExitStack, kind: Kind) -> Running:
    """Start the middle, if there is one, and the service."""
    middle: Contender | None = None
    port = 0
    if kind.middle:
        run = _broker if kind.middle == "broker" else _nats_server
        middle = stack.enter_context(run())
        port = middle.port
    role = "join" if kind.middle else f"serve{kind.suffix}"
    service = stack.enter_context(python("benchmarks.rpc_ends", kind.module, role, str(port)))
    return Running(kind, service, middle)


def _broker() -> Any:
    return python("broker", "--listen", "tcp://127.0.0.1:0", "--admin", "")


@contextmanager
def _nats_server() -> Iterator[Contender]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with command("nats-server", "--addr", "127.0.0.1", "--port", str(port)) as process:
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
        yield Contender(process, port)


def measure(running: Running, method: str, in_flight: int, seconds: float) -> Measured:
    """Load *running* once, with a new process as the caller."""
    _, service, middle = running
    with caller(running, method, in_flight, seconds) as process:
        expect(process)
        before = service.cpu_seconds(), middle.cpu_seconds() if middle else 0.0
        go_on(process)
        found = json.loads(expect(process))
        after = service.cpu_seconds(), middle.cpu_seconds() if middle else 0.0
        go_on(process)
        process.wait(30)
    calls = found["calls"]
    return Measured(
        found["cpu_seconds"] / calls * 1e6,
        (after[0] - before[0]) / calls * 1e6,
        (after[1] - before[1]) / calls * 1e6,
        calls / found["seconds"],
    )


def caller(
    running: Running, method: str, in_flight: int, seconds: float
) -> AbstractContextManager[subprocess.Popen[str]]:
    """Run a caller of *running*; it says when it is warm, and waits for `go_on`."""
    kind = running.kind
    port = str((running.middle or running.service).port)
    arguments = [kind.module, f"caller{kind.suffix}", port, method, str(in_flight), str(seconds)]
    return command(sys.executable, "-m", "benchmarks.rpc_ends", *arguments)


def expect(caller: subprocess.Popen[str]) -> str:
    """Return the next line of a caller."""
    assert caller.stdout is not None
    line = caller.stdout.readline()
    if not line:
        raise RuntimeError(f"the caller ended with {caller.wait(10)}")
    return line


def go_on(caller: subprocess.Popen[str]) -> None:
    """Let a caller that waits do its next step."""
    assert caller.stdin is not None
    caller.stdin.write("\n")
    caller.stdin.flush()


def run(
    seconds: float = SECONDS,
    rounds: int = ROUNDS,
    in_flight: Sequence[int] = IN_FLIGHT,
    methods: Sequence[str] = METHODS,
    contenders: Sequence[str] = tuple(CONTENDERS),
) -> list[dict[str, Any]]:
    """Measure all; return one row per contender, method and calls in flight."""
    console = Console(stderr=True)
    present = []
    for name in contenders:
        if why := missing(CONTENDERS[name]):
            console.print(f"{name} is left out: {why}")
        else:
            present.append(name)
    cases = [(method, count) for method in methods for count in in_flight]
    figures: dict[Key, list[Measured]] = {}
    with Progress(console=console) as progress:
        task = progress.add_task("rpc", total=rounds * len(cases) * len(present))
        for key, found in samples(present, cases, rounds, seconds):
            figures.setdefault(key, []).append(found)
            progress.advance(task)
    return [_row(key, found) for key, found in figures.items()]


def samples(
    contenders: Sequence[str], cases: Sequence[tuple[str, int]], rounds: int, seconds: float
) -> Iterator[tuple[Key, Measured]]:
    """Measure each case (a method, calls in flight) *rounds* times, the contenders in turns."""
    with ExitStack() as stack:
        running = {name: start(stack, CONTENDERS[name]) for name in contenders}
        for method, in_flight in cases:
            for _ in range(rounds):
                for name, contender in running.items():
                    found = measure(contender, method, in_flight, seconds)
                    yield (name, method, in_flight), found


def _row(key: Key, found: list[Measured]) -> dict[str, Any]:
    name, method, in_flight = key
    return {
        "contender": name,
        "method": method,
        "in_flight": in_flight,
        "caller_us": statistics.median(one.caller_us for one in found),
        "service_us": statistics.median(one.service_us for one in found),
        "middle_us": statistics.median(one.middle_us for one in found),
        "both_us": statistics.median(one.both_us for one in found),
        "both_spread_us": [min(one.both_us for one in found), max(one.both_us for one in found)],
        "calls_per_second": statistics.median(one.calls_per_second for one in found),
        "note": CONTENDERS[name].note,
    }


def show(rows: Sequence[dict[str, Any]]) -> Table:
    """Return *rows* as a table, each beside ours through the broker in the same case."""
    ours = {
        (row["method"], row["in_flight"]): row["both_us"]
        for row in rows
        if row["contender"] == "ours, through the broker"
    }
    table = Table(title="CPU in Python, microseconds per typed call")
    for name in (
        "method",
        "in flight",
        "contender",
        "caller",
        "service",
        "both",
        "min..max",
        "x ours",
        "middle",
        "calls/s",
    ):
        table.add_column(name, justify="left" if name == "contender" else "right")
    for row in sorted(rows, key=lambda row: (row["method"] != METHODS[0], row["in_flight"])):
        low, high = row["both_spread_us"]
        base = ours.get((row["method"], row["in_flight"]))
        table.add_row(
            row["method"],
            str(row["in_flight"]),
            row["contender"],
            f"{row['caller_us']:.1f}",
            f"{row['service_us']:.1f}",
            f"{row['both_us']:.1f}",
            f"{low:.1f}..{high:.1f}",
            f"{row['both_us'] / base:.1f}" if base else "",
            f"{row['middle_us']:.1f}" if row["middle_us"] else "",
            f"{row['calls_per_second']:.0f}",
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"default {SECONDS:g}")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default {ROUNDS}")
    parser.add_argument("--in-flight", type=int, nargs="+", default=IN_FLIGHT)
    parser.add_argument("--method", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--contender", nargs="+", choices=CONTENDERS, default=tuple(CONTENDERS))
    parser.add_argument("--json", type=Path, help="write the rows here as well")
    options = parser.parse_args()
    rows = run(
        options.seconds, options.rounds, options.in_flight, options.method, options.contender
    )
    Console(width=130).print(show(rows))
    for name, kind in CONTENDERS.items():
        if kind.note and name in options.contender:
            print(f"{name}: {kind.note}")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
