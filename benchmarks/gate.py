"""The regression gate: fails when something has come to cost 15 % more than what is committed.

    python -m benchmarks.gate             compare with benchmarks/gate.json
    python -m benchmarks.gate --update    write what is measured now into it

Each case is a ratio: what our processes cost per unit, over what a measuring stick costs in the
same run, taken in turns. The stick is a relay of frames in Python without any feature
(`bare_relay`), because it does the same kind of work: slices, dictionaries, one write per read. A
relay of bytes spends its time in the kernel, whose share of the cost differs between machines. For
payloads of 1 MiB, where moving bytes is all there is to do, the stick is the relay of bytes.

A noisy neighbour makes work dearer and never cheaper, so of all rounds the lower quartile counts,
of ours and of the stick alike, and only who is over in each of three measurements has regressed.
Measure with --update on a quiet machine: noise tells on the stick more, and makes ratios smaller.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks import load
from benchmarks.counting import CpuTime, Meter, best_meter
from benchmarks.gate_ends import IN_FLIGHT, stream

FILE: Final = Path(__file__).with_name("gate.json")
ALLOWED: Final = 1.15  # times the committed ratio
TRIES: Final = 3  # measurements that have to be over, each on its own
ROUNDS: Final = 12  # per measurement, ours and the stick's in turns
PRIORITY: Final = -15  # of all processes that are started
PURE: Final = "RSOCKET_MESH_PURE"  # set, the plain kernel is used where there is a compiled one
_ROOT: Final = FILE.parent.parent
_MIB: Final = 1024 * 1024
_BROKER: Final = ("broker", "--listen", "tcp://127.0.0.1:0", "--admin", "")

Ratios = dict[str, dict[str, dict[str, float]]]  # kernel -> meter -> case -> ratio


class Side(NamedTuple):
    """What is measured: the processes that count, and how to have them do *units* of work."""

    pids: list[int]
    work: Callable[[int], object]
    units: int


# Starts the processes of a case, ours and the stick's, which end with the stack.
Begin = Callable[[ExitStack, Mapping[str, str]], tuple[Side, Side]]


class Verdict(NamedTuple):
    """*ratios* in the order they were measured; *allowed* is the limit, if there is one."""

    ratios: list[float]
    allowed: float | None

    @property
    def ratio(self) -> float:
        """The best of all measurements: noise only adds."""
        return min(self.ratios)

    @property
    def has_regressed(self) -> bool:
        return self.allowed is not None and self.ratio > self.allowed


# -- arithmetic -----------------------------------------------------------------------------------


def low(figures: list[float]) -> float:
    """Return the lower quartile."""
    return statistics.quantiles(figures, n=4, method="inclusive")[0]


def judge(measure: Callable[[], float], committed: float | None) -> Verdict:
    """Measure once, and again, up to `TRIES` times in all, as long as it is over the limit."""
    allowed = None if committed is None else committed * ALLOWED
    ratios = [measure()]
    while allowed is not None and ratios[-1] > allowed and len(ratios) < TRIES:
        ratios.append(measure())
    return Verdict(ratios, allowed)


def ratio_of(meter: Meter, ours: Side, stick: Side, rounds: int = ROUNDS) -> float:
    """Return what a unit of ours costs in units of the stick."""
    figures: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds + 1):
        # Who comes second in one round comes first in the next.
        for index in (0, 1) if number % 2 else (1, 0):
            side = (ours, stick)[index]
            before = sum(map(meter.read, side.pids))
            side.work(side.units)
            if number:  # the first round warms up
                used = sum(map(meter.read, side.pids)) - before
                figures[index].append(used / side.units)
    return low(figures[0]) / low(figures[1])


# -- processes ------------------------------------------------------------------------------------


class Child(NamedTuple):
    """A process that listens on *port*, if it listens."""

    process: subprocess.Popen[str]
    port: int

    def ask(self, line: str) -> None:
        """Write *line* and wait for a line."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        if not self.process.stdout.readline():
            raise RuntimeError(f"{self.process.args!r} has failed")


@contextmanager
def child(env: Mapping[str, str], *arguments: str) -> Iterator[Child]:
    """Run `python -m ARGUMENTS` from its line `ready` to the end of the block.

    Raises:
        RuntimeError: it ended before it was ready; what it said is on stderr.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=_ROOT,
        env=env,
    )
    with suppress(PermissionError):  # who shares the machine with us is not what is measured
        os.setpriority(os.PRIO_PROCESS, process.pid, PRIORITY)
    with process:
        try:
            port = 0
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("listening"):
                    port = port or int(line.strip().rpartition(":")[2])
                if line.strip() == "ready":
                    break
            else:
                raise RuntimeError(f"{' '.join(arguments)} ended with {process.wait()}")
            yield Child(process, port)
        finally:
            process.terminate()


def kernel(env: Mapping[str, str]) -> str:
    """Return which kernel a broker started with *env* has, as `rsocket-broker --version` says."""
    command = [sys.executable, "-m", "broker", "--version"]
    text = subprocess.run(
        command, env=env, cwd=_ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    found = re.search(r"kernel: (\w+)", text.stdout)
    return found[1] if found else "plain"


# -- cases ----------------------------------------------------------------------------------------


def _middles(stack: ExitStack, env: Mapping[str, str], stick: str) -> tuple[Child, Child]:
    broker = stack.enter_context(child(env, *_BROKER))
    return broker, stack.enter_context(child(env, f"benchmarks.{stick}"))


def _raw(middle: Child, env: Mapping[str, str], stack: ExitStack) -> None:
    stack.enter_context(child(env, "benchmarks.gate_ends", "raw", str(middle.port)))


def _calls(middle: Child, payload: int, in_flight: int, units: int) -> Side:
    def work(calls: int) -> None:
        load.call(middle.port, payload, in_flight, calls, confirm=True)

    return Side([middle.process.pid], work, units)


def relay(stack: ExitStack, env: Mapping[str, str]) -> tuple[Side, Side]:
    """Request-response, 128 bytes each way, 64 in flight: CPU of the middle per call."""
    both = _middles(stack, env, "bare_relay")
    for middle in both:
        _raw(middle, env, stack)
    ours, stick = (_calls(middle, 128, IN_FLIGHT, 15_000) for middle in both)
    return ours, stick


def items(stack: ExitStack, env: Mapping[str, str]) -> tuple[Side, Side]:
    """Items of 32 bytes with credit: CPU of the middle per item."""
    both = _middles(stack, env, "bare_relay")
    for middle in both:
        _raw(middle, env, stack)
    ours, stick = (
        Side([middle.process.pid], partial(stream, middle.port), 60_000) for middle in both
    )
    return ours, stick


def typed(stack: ExitStack, env: Mapping[str, str]) -> tuple[Side, Side]:
    """A typed call of the library, 64 in flight: CPU of caller and service per call, over what the
    stick needs to relay one."""
    broker, bare = _middles(stack, env, "bare_relay")
    _raw(bare, env, stack)
    ends = [
        stack.enter_context(child(env, "benchmarks.gate_ends", role, str(broker.port)))
        for role in ("serve", "call")
    ]
    ours = Side([end.process.pid for end in ends], lambda calls: ends[1].ask(str(calls)), 4_000)
    return ours, _calls(bare, 128, IN_FLIGHT, 15_000)


def large(stack: ExitStack, env: Mapping[str, str]) -> tuple[Side, Side]:
    """Request-response, 1 MiB each way, 4 in flight: CPU of the middle per call, over that of a
    relay of bytes."""
    broker, pipe = _middles(stack, env, "byte_relay")
    service = ("benchmarks.load", "serve")
    stack.enter_context(child(env, *service, str(broker.port), str(_MIB), "rsocket"))

    def through_pipe(calls: int) -> None:
        # It joins connections in pairs: with the caller's, the service's ends.
        with child(env, *service, str(pipe.port), str(_MIB), "bytes"):
            load.call(pipe.port, _MIB, 4, calls, confirm=False)

    return _calls(broker, _MIB, 4, 60), Side([pipe.process.pid], through_pipe, 60)


CASES: Final = {
    "relay, 128 B, 64 in flight": relay,
    "stream items, 32 B": items,
    "typed call": typed,
    "relay, 1 MiB": large,
}


# -- the command ----------------------------------------------------------------------------------


def environments() -> dict[str, dict[str, str]]:
    """Return an environment for each kernel that can be had here, by its name."""
    plain = {**os.environ, PURE: "1", "RSOCKET_BROKER_LOG__LEVEL": "warning"}
    default = {name: value for name, value in plain.items() if name != PURE}
    return {kernel(default): default, kernel(plain): plain}


def measure(meter: Meter, begin: Begin, env: Mapping[str, str]) -> float:
    """Start all processes of a case, and return its ratio."""
    with ExitStack() as stack:
        return ratio_of(meter, *begin(stack, env))


def run(committed: Ratios, meter: Meter, console: Console) -> dict[tuple[str, str], Verdict]:
    """Judge all cases with all kernels; return the verdicts by kernel and case."""
    verdicts = {}
    for name, env in environments().items():
        known = committed.get(name, {}).get(meter.name, {})
        for case, begin in CASES.items():
            console.print(f"[dim]{name}: {case}")
            verdicts[name, case] = judge(partial(measure, meter, begin, env), known.get(case))
    return verdicts


def report(verdicts: Mapping[tuple[str, str], Verdict], console: Console) -> bool:
    """Print a table; return whether all is well."""
    table = Table("kernel", "case", "committed", "measured", "change", "verdict")
    for (kernel_name, case), verdict in verdicts.items():
        if verdict.allowed is None:
            row = ("-", f"{verdict.ratio:.3f}", "-", "[red]nothing is committed[/]")
        else:
            before = verdict.allowed / ALLOWED
            change = verdict.ratio / before - 1
            words = "[red]REGRESSED[/]" if verdict.has_regressed else "ok"
            more = f", after {len(verdict.ratios)} measurements" if len(verdict.ratios) > 1 else ""
            row = (f"{before:.3f}", f"{verdict.ratio:.3f}", f"{change:+.1%}", words + more)
        table.add_row(kernel_name, case, *row)
    console.print(table)
    bad = [v for v in verdicts.values() if v.has_regressed or v.allowed is None]
    if bad:
        console.print(
            f"{len(bad)} of {len(verdicts)} cost more than {ALLOWED - 1:.0%} above what is "
            "committed, in each of three measurements, or were never measured. If that is meant: "
            "python -m benchmarks.gate --update, and commit gate.json with the reason."
        )
    return not bad


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare costs with benchmarks/gate.json.")
    parser.add_argument("--update", action="store_true", help="write what is measured into it")
    options = parser.parse_args()
    console, meter = Console(), best_meter()
    committed: Ratios = json.loads(FILE.read_text()) if FILE.exists() else {}
    if not options.update and not any(meter.name in known for known in committed.values()):
        meter = CpuTime()
    console.print(f"ratios of {meter.name}, ours to the stick's in the same run")
    if options.update:
        for (name, case), verdict in run({}, meter, console).items():
            committed.setdefault(name, {}).setdefault(meter.name, {})[case] = round(
                verdict.ratio, 3
            )
        FILE.write_text(json.dumps(committed, indent=2, sort_keys=True) + "\n")
        console.print_json(FILE.read_text())
        return
    sys.exit(0 if report(run(committed, meter, console), console) else 1)


if __name__ == "__main__":
    main()
