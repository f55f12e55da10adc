"""Who is better than we are, and where: found in the data, not chosen."""

from __future__ import annotations

from typing import Final

import msgspec

from benchmarks.figures import median
from benchmarks.model import UNITS, Results, Row
from benchmarks.report.promises import ratios

STICKS: Final = {
    "direct",
    "direct HTTP/2",
    "byte relay",
    "bare relay",
}  # no peers: measuring sticks
OURS: Final = ("broker (compiled)", "broker (plain)", "ours, through the broker", "ours, direct")
IMPORT: Final = "import rsocket_mesh.rpc"  # all that callers and services load
NOISE: Final = 1.05  # a difference below this is none
METRICS: Final = (
    "cpu_us",
    "both_us",
    "per_second",
    "p50_us",
    "p99_us",
    "added_p50_us",
    "added_p99_us",
    "bytes_each",
    "ready_ms",
    "import_ms",
)


class Worse(msgspec.Struct, frozen=True):
    """We need *times* as much as a peer, or reach as much less."""

    workload: str
    parameters: dict[str, str | int | float]
    metric: str
    ours: str
    peer: str
    times: float


def is_ours(name: str) -> bool:
    """Return whether a contender is this project."""
    return name in OURS or name.startswith("import rsocket_mesh")


def ours_in(rows: list[Row]) -> Row | None:
    """Return the row that stands for us: the compiled kernel where it was measured."""
    for name in (*OURS, IMPORT):
        for row in rows:
            if row.contender == name:
                return row
    return None


def worse(results: Results) -> list[Worse]:
    """Return every case in which a peer is better by more than noise, the worst first."""
    cases: dict[tuple[str, str], list[Row]] = {}
    for row in results.rows:
        cases.setdefault((row.workload, str(row.parameters)), []).append(row)
    found = []
    for rows in cases.values():
        ours = ours_in(rows)
        if ours is None:
            continue
        for peer in rows:
            if peer.contender in STICKS or is_ours(peer.contender):
                continue
            found += [one for metric in METRICS if (one := _compare(ours, peer, metric))]
    return sorted(found, key=lambda one: -one.times)


def _compare(ours: Row, peer: Row, metric: str) -> Worse | None:
    figures = ratios(ours, peer, metric)
    if not figures:
        return None
    times = median(figures)
    if UNITS[metric][1] == "more":
        times = 1 / times if times else float("inf")
    if times <= NOISE:
        return None
    return Worse(ours.workload, ours.parameters, metric, ours.contender, peer.contender, times)
