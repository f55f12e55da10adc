"""What is promised, and what was seen: each promise is a ratio or a figure of one run.

A ratio is the median of the ratios of single rounds, because the contenders of a round shared the
machine's mood. What the run did not measure is said to be so, never left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from benchmarks.figures import median, spread
from benchmarks.model import Results, Row

PLAIN: Final = "broker (plain)"
COMPILED: Final = "broker (compiled)"
THROUGH: Final = "ours, through the broker"
KERNELS: Final = (PLAIN, COMPILED)
MIB: Final = 1_048_576


class Verdict(msgspec.Struct, frozen=True):
    """One line of the table.

    Attributes:
        seen: None if the run did not measure it.
        spread: of the rounds, relative.
    """

    what: str
    limit: str
    seen: float | None
    unit: str = "x"
    kept: bool | None = None
    spread: float = 0.0


def ratios(row: Row, other: Row, metric: str) -> list[float]:
    """Return *row* : *other* for each round; of medians, if they had different rounds."""
    ours, theirs = row.metrics.get(metric, []), other.metrics.get(metric, [])
    if not ours or not theirs:
        return []
    if len(ours) != len(theirs):
        return [median(ours) / median(theirs)] if median(theirs) else []
    return [a / b for a, b in zip(ours, theirs, strict=True) if b]


def find(results: Results, workload: str, contender: str, **parameters: str | float) -> Row | None:
    """Return the one row, or None."""
    for row in results.of(workload, **parameters):
        if row.contender == contender:
            return row
    return None


def at_most(what: str, limit: float, samples: Sequence[float], unit: str = "x") -> Verdict:
    """Return the verdict on something that may be at most *limit*."""
    return _verdict(what, "at most", limit, samples, unit, lambda seen: seen <= limit)


def at_least(what: str, limit: float, samples: Sequence[float], unit: str = "x") -> Verdict:
    """Return the verdict on something that has to be at least *limit*."""
    return _verdict(what, "at least", limit, samples, unit, lambda seen: seen >= limit)


def _verdict(
    what: str,
    word: str,
    limit: float,
    samples: Sequence[float],
    unit: str,
    kept: Callable[[float], bool],
) -> Verdict:
    text = f"{word} {limit:,g}" if limit >= 1 else f"{word} {limit:.3g}"
    if not samples:
        return Verdict(what, text, None, unit)
    seen = median(samples)
    return Verdict(what, text, seen, unit, kept(seen), spread(samples))


def beside(
    results: Results,
    ours: str,
    other: str,
    metric: str,
    workload: str = "request-response",
    **parameters: str | float,
) -> list[float]:
    """Return our metric as a multiple of another contender's in the same case."""
    row = find(results, workload, ours, **parameters)
    base = find(results, workload, other, **parameters)
    return ratios(row, base, metric) if row and base else []


def samples(
    results: Results, workload: str, contender: str, metric: str, **parameters: str | float
) -> list[float]:
    """Return what was measured of one metric."""
    row = find(results, workload, contender, **parameters)
    return row.metrics.get(metric, []) if row else []


def small_calls(results: Results) -> list[Verdict]:
    """1: CPU of the broker per call of 128 bytes."""
    found = []
    for ours, nats, envoy in (
        (PLAIN, {64: 1.4, 1024: 1.4}, 6),
        (COMPILED, {64: 0.6, 1024: 0.4}, 12),
    ):
        for in_flight, limit in nats.items():
            what = f"1. {ours}, 128 B, {in_flight} in flight: CPU, beside"
            for peer, name, most in (
                ("nats-server", "nats-server", limit),
                ("Envoy", "one Envoy hop", 1 / envoy),
            ):
                figures = beside(results, ours, peer, "cpu_us", payload=128, in_flight=in_flight)
                found.append(at_most(f"{what} {name}", most, figures))
    figures = beside(results, PLAIN, "byte relay", "cpu_us", payload=128, in_flight=1)
    found.append(at_most(f"1. {PLAIN}, 1 in flight: CPU, beside a byte relay", 1.5, figures))
    return found


def large_calls(results: Results) -> list[Verdict]:
    """2: payloads of 4 KiB and 1 MiB."""
    found = []
    for ours, limit in ((PLAIN, 1.0), (COMPILED, 0.45)):
        figures = beside(results, ours, "nats-server", "cpu_us", payload=4096, in_flight=64)
        found.append(at_most(f"2. {ours}, 4 KiB: CPU, beside nats-server", limit, figures))
    for ours in KERNELS:
        metric = "bytes_per_cpu_second"
        figures = beside(results, ours, "byte relay", metric, payload=MIB, in_flight=1)
        what = f"2. {ours}, 1 MiB: bytes per CPU second, beside a byte relay"
        found.append(at_least(what, 0.5, figures))
    return found


def streams(results: Results) -> list[Verdict]:
    """3: small items under credit."""
    found = []
    rows = [row for row in results.of("request-stream") if row.parameters["credit"] == 256]
    for ours in KERNELS:
        mine = [row for row in rows if row.contender == ours]
        best = max(mine, key=lambda row: row.median("per_second") or 0, default=None)
        figures = best.metrics["per_second"] if best else []
        found.append(at_least(f"3. {ours}, 32 B items, credit 256", 500_000, figures, "items/s"))
        base = find(results, "request-stream", "bare relay", **(best.parameters if best else {}))
        figures = ratios(best, base, "cpu_us") if best and base else []
        what = f"3. {ours}: CPU per item, beside the bare relay's per frame"
        found.append(at_most(what, 1.2, figures))
    return found


def typed_calls(results: Results) -> list[Verdict]:
    """4: Python end to end, caller and service together."""
    found = []
    rows = [row for row in results.of("typed-calls") if row.contender == THROUGH]
    case = rows[0].parameters if rows else {}
    for row in rows:  # the case that keeps a process busy without measuring queues
        if row.parameters.get("in_flight") == 64 and row.parameters.get("method") == "total":
            case = row.parameters
    for other, limit in (("grpc.aio", 10), ("rsocket-py", 5)):
        figures = beside(results, THROUGH, other, "both_us", "typed-calls", **case)
        what = f"4. Python end to end: CPU of caller and service, beside {other}"
        found.append(at_most(what, 1 / limit, figures))
    figures = samples(results, "typed-throughput", THROUGH, "per_second")
    found.append(at_least("4. Typed calls through the broker, two cores", 60_000, figures, "1/s"))
    return found


def latency(results: Results) -> list[Verdict]:
    """5: what the hop adds at half load."""
    found = []
    for ours in KERNELS:
        for metric, limit in (("added_p50_us", 100), ("added_p99_us", 1000)):
            figures = samples(results, "added-latency", ours, metric, load="50%")
            what = f"5. {ours}: latency added at 50 % load, {metric[6:9]}"
            found.append(at_most(what, limit, figures, "us"))
    return found


def scale(results: Results) -> list[Verdict]:
    """6: many routes, many instances, idle connections."""
    found = []
    rows = results.of("many", in_flight=1)
    for ours in KERNELS:
        mine = [row for row in rows if row.contender == ours]
        for name, other in (("routes", "instances"), ("instances", "routes")):
            one = [row for row in mine if row.matches(routes=1, instances=1)]
            most = [row for row in mine if row.parameters[name] != 1 and row.parameters[other] == 1]
            count = most[0].parameters[name] if most else "many"
            figures = ratios(most[0], one[0], "cpu_us") if one and most else []
            found.append(at_most(f"6. {ours}, {count} {name}: CPU, beside one", 1.1, figures))
        idle = [row for row in results.of("idle-connections") if row.contender == ours]
        metrics = idle[0].metrics if idle else {}
        count = idle[0].parameters["count"] if idle else 10_000
        what = f"6. {ours}, {count} idle connections"
        found.append(at_most(f"{what}: memory", 200, metrics.get("total_mib", []), "MiB"))
        shares = [100 * share for share in metrics.get("idle_share", [])]
        found.append(at_most(f"{what}: of a core", 1, shares, "%"))
    return found


def start(results: Results) -> list[Verdict]:
    """7: start-up."""
    found = [
        at_most(
            f"7. {ours}: start to ready", 400, samples(results, "start", ours, "ready_ms"), "ms"
        )
        for ours in KERNELS
    ]
    figures = samples(results, "import", "import rsocket_mesh", "import_ms")
    return [*found, at_most("7. import rsocket_mesh", 100, figures, "ms")]


def verdicts(results: Results) -> list[Verdict]:
    """Return all promises in their order."""
    parts = (small_calls, large_calls, streams, typed_calls, latency, scale, start)
    return [verdict for part in parts for verdict in part(results)]
