"""What a workload gets: contenders that take turns, and a place for what was found.

Turns within one run are what makes ratios worth something: a machine gets faster and slower within
minutes, and every contender of a round sees the same weather.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

import msgspec

from benchmarks import raw
from benchmarks.figures import Histogram, merged
from benchmarks.model import UNITS, Row, Skip
from benchmarks.raw import Load, Measured
from benchmarks.stage import Contender, Options, Running, Unavailable

ROUNDS: Final = 5  # of each case and contender, in turns; the median counts
SECONDS: Final = 0.4  # of each measurement: tens of thousands of calls
WARM: Final = 0.15  # seconds of load before each: caches, allocator, and the interpreter
QUICK_ROUNDS: Final = 2
QUICK_SECONDS: Final = 0.15
QUICK_WARM: Final = 0.05

DEFAULT: Final = Options()

Sample = tuple[dict[str, float], Histogram]


class Context:
    """One run: its length, its contenders, and who was skipped so far.

    Attributes:
        quick: fewer rounds and cases; to see that it works.
        rounds, seconds, warm: of each measurement.
        skips: what was left out and why.
        versions: of the contenders that ran.
    """

    def __init__(
        self,
        contenders: Sequence[Contender],
        *,
        quick: bool = False,
        rounds: int | None = None,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.quick = quick
        self.rounds = rounds or (QUICK_ROUNDS if quick else ROUNDS)
        self.seconds = QUICK_SECONDS if quick else SECONDS
        self.warm = QUICK_WARM if quick else WARM
        self.skips: list[Skip] = []
        self.versions: dict[str, str] = {}
        self.workload = ""
        self.tell = tell
        self._contenders = list(contenders)

    def contenders(self, *speaks: str, can: str = "", names: Sequence[str] = ()) -> list[Contender]:
        """Return who takes part in the running workload.

        Args:
            speaks: languages; none for all.
            can: an interaction that they have to know.
            names: only these.
        """
        return [
            one
            for one in self._contenders
            if (not speaks or one.speaks in speaks)
            and (not can or can in one.can)
            and (not names or one.name in names)
            and (self.workload in one.only if one.only else True)
        ]

    def skip(self, contender: str, reason: str) -> None:
        """Note that *contender* is left out of the running workload; once for each reason."""
        found = Skip(contender, reason, self.workload)
        if not any((old.contender, old.reason) == (contender, reason) for old in self.skips):
            self.skips.append(found)
            self.tell(f"{contender} is left out: {reason}")

    @contextmanager
    def started(
        self, contenders: Sequence[Contender], options: Options = DEFAULT
    ) -> Iterator[dict[str, tuple[Contender, Running]]]:
        """Start all of *contenders* that can be had; the others become skip lines."""
        with ExitStack() as stack:
            running = {}
            for one in contenders:
                try:
                    running[one.name] = (one, stack.enter_context(one.start(options)))
                except Unavailable as exc:
                    self.skip(one.name, str(exc))
                else:
                    self.versions[one.name] = running[one.name][1].version
            yield running

    def load(self, load: Load) -> Load:
        """Return *load* with this run's times, unless it has its own."""
        return msgspec.structs.replace(
            load, seconds=load.seconds or self.seconds, warm=load.warm or self.warm
        )

    def drive(self, load: Load, contender: Contender, running: Running) -> Measured:
        """Send *load* to a contender in its language."""
        return raw.drive(self.load(load), running, contender.speaks)

    def interleave(
        self,
        parameters: Mapping[str, str | int | float],
        running: Mapping[str, tuple[Contender, Running]],
        sample: Callable[[Contender, Running], Sample],
        *,
        rounds: int | None = None,
    ) -> list[Row]:
        """Let the contenders take turns; return one row for each.

        Args:
            sample: measures one contender once; raises Unavailable where it cannot, and the
                contender is left out of this case from then on.
        """
        found: dict[str, list[Sample]] = {}
        out: set[str] = set()
        for _ in range(rounds or self.rounds):
            for name, (contender, one) in running.items():
                if name in out:
                    continue
                try:
                    found.setdefault(name, []).append(sample(contender, one))
                except Unavailable as exc:
                    out.add(name)
                    found.pop(name, None)
                    case = ", ".join(f"{key} {value}" for key, value in parameters.items())
                    self.skip(name, f"{self.workload}, {case}: {exc}")
        return [self.row(name, parameters, samples) for name, samples in found.items() if samples]

    def row(
        self,
        contender: str,
        parameters: Mapping[str, str | int | float],
        samples: Sequence[Sample],
        note: str = "",
    ) -> Row:
        """Return the row of several samples; metrics that one of them lacks keep what there is."""
        metrics: dict[str, list[float]] = {}
        for values, _ in samples:
            for name, value in values.items():
                assert name in UNITS, f"{name} is no metric"
                metrics.setdefault(name, []).append(value)
        histogram = merged(histogram for _, histogram in samples)
        return Row(self.workload, contender, dict(parameters), metrics, histogram, note)
