"""Latency that one hop adds, open loop: at shares of what the hop can do, and at fixed rates."""

from __future__ import annotations

from typing import Final

from benchmarks.context import Context, Sample
from benchmarks.figures import quantiles
from benchmarks.model import Row
from benchmarks.raw import Load, Measured
from benchmarks.registry import Workload
from benchmarks.stage import Contender, Running

SHARES: Final = (0.1, 0.5, 0.8)  # of what it reached in a closed loop with 64 in flight
RATES: Final = (1000, 5000, 20_000)  # calls per second
ROUNDS: Final = 3
WINDOW: Final = 0.6  # seconds; three rounds of it hold 1,800 calls at the lowest rate


def sample_of(found: Measured, base: Measured | None, rate: float) -> Sample:
    """Return the metrics of an open-loop measurement beside the direct one at the same rate."""
    here = quantiles(found.histogram)
    values = found.metrics() | here | {"rate": rate, "late_us": found.late_ns / 1e3}
    if base is not None:
        there = quantiles(base.histogram)
        values["added_p50_us"] = max(0.0, here["p50_us"] - there["p50_us"])
        values["added_p99_us"] = max(0.0, here["p99_us"] - there["p99_us"])
    return values, found.histogram


class Hop:
    """Measures contenders beside a direct call in their language."""

    def __init__(self, context: Context, running: dict[str, tuple[Contender, Running]]) -> None:
        self.context = context
        self.running = running

    def sample(self, one: Contender, at: Running, rate: float) -> Sample:
        """Measure one contender and, right after it, the direct call at the same rate."""
        window = 0.2 if self.context.quick else WINDOW
        load = Load(rate=rate, seconds=window)
        found = self.context.drive(load, one, at)
        name = "direct HTTP/2" if one.speaks == "http2" else "direct"
        if one.name == name or name not in self.running:
            return sample_of(found, None, rate)
        return sample_of(found, self.context.drive(load, *self.running[name]), rate)

    def capacity(self, one: Contender, at: Running) -> float:
        """Return calls per second in a closed loop with 64 in flight."""
        found = self.context.drive(Load(in_flight=64), one, at)
        return found.metrics()["per_second"]


def hop(context: Context) -> list[Row]:
    """Measure at shares of each contender's own capacity, which is measured in the same round."""
    rows: list[Row] = []
    rounds = min(ROUNDS, context.rounds)
    everybody = context.contenders("direct", "bytes", "rsocket", "nats", "http2")
    with context.started(everybody) as running:
        measured = Hop(context, running)
        middles = {name: both for name, both in running.items() if both[1].pids}
        for share in SHARES[1:2] if context.quick else SHARES:
            context.tell(f"{share:.0%} load")

            def sample(one: Contender, at: Running, share: float = share) -> Sample:
                return measured.sample(one, at, share * measured.capacity(one, at))

            parameters: dict[str, str | int] = {"payload": 128, "load": f"{share:.0%}"}
            rows += context.interleave(parameters, middles, sample, rounds=rounds)
    return rows


def fixed(context: Context) -> list[Row]:
    """Measure everybody at the same rates."""
    rows: list[Row] = []
    rounds = min(ROUNDS, context.rounds)
    everybody = context.contenders("direct", "bytes", "rsocket", "nats", "http2")
    with context.started(everybody) as running:
        for rate in RATES[:1] if context.quick else RATES:
            context.tell(f"{rate} calls per second")

            def sample(one: Contender, at: Running, rate: float = rate) -> Sample:
                load = Load(rate=rate, seconds=0.2 if context.quick else WINDOW)
                return sample_of(context.drive(load, one, at), None, rate)

            parameters = {"payload": 128, "calls_per_second": rate}
            rows += context.interleave(parameters, running, sample, rounds=rounds)
    return rows


WORKLOADS: Final = (
    Workload(
        "added-latency",
        "Latency added by one hop",
        "Open loop: calls leave at fixed times, whatever became of those before, and their latency"
        " counts from then. The rate is a share of what the contender itself reached right before,"
        " in a closed loop with 64 in flight. Added is what is beyond a direct call at the same"
        " rate, measured right after; since caller and service are one process, that wakes nobody,"
        " and what the hop adds includes being woken, twice.",
        hop,
        order=14,
    ),
    Workload(
        "fixed-rates",
        "Latency at fixed rates",
        "Open loop, the same rate for everybody. Who cannot keep up shows it: calls that could not"
        " leave in time count from when they should have.",
        fixed,
        order=16,
    ),
)
