"""What a run leaves behind: rows of samples, who was skipped and why, and on what machine.

The report is made from this alone, so that it can be made again from the JSON without measuring.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks.figures import median

FORMAT: Final = 1  # of the JSON; a report of another format has to be measured again

# Unit and direction of every metric. `less` means that a smaller figure is the better one, `more`
# the opposite; `none` is information about the measurement itself, and never compared.
UNITS: Final[dict[str, tuple[str, str]]] = {
    "cpu_us": ("us", "less"),  # of the process tree in the middle, per call or item
    "per_second": ("1/s", "more"),
    "alone_per_second": ("1/s", "none"),  # without what other programs took of the processors
    "others_share": ("", "none"),  # of all processors, taken by other programs
    "p50_us": ("us", "less"),
    "p90_us": ("us", "less"),
    "p99_us": ("us", "less"),
    "p999_us": ("us", "less"),
    "added_p50_us": ("us", "less"),  # beyond a direct call at the same rate in the same round
    "added_p99_us": ("us", "less"),
    "bytes_per_cpu_second": ("MB/s", "more"),
    "load_cpu_us": ("us", "none"),  # what the load side itself used per call
    "load_share": ("", "none"),  # of one core, used by the load side
    "middle_share": ("", "none"),  # of one core, used by the middle
    "late_us": ("us", "none"),  # how long after its time the open-loop load sent, on average
    "failed": ("", "less"),  # share of calls that were refused
    "rate": ("1/s", "none"),  # asked for, open loop
    "bytes_each": ("B", "less"),
    "total_mib": ("MiB", "less"),
    "idle_share": ("", "less"),  # of one core, used while nothing happens
    "ready_ms": ("ms", "less"),
    "import_ms": ("ms", "less"),
    "caller_us": ("us", "less"),
    "service_us": ("us", "less"),
    "both_us": ("us", "less"),  # caller and service together
}


class Row(msgspec.Struct, frozen=True):
    """One contender under one set of parameters.

    Attributes:
        parameters: in the order in which the report shows them.
        metrics: per name (a key of `UNITS`) the samples, one for each round.
        histogram: latencies of all rounds: `[microseconds, calls]`, the upper edge of each bucket.
        note: where the comparison is not quite even.
    """

    workload: str
    contender: str
    parameters: dict[str, str | int | float]
    metrics: dict[str, list[float]]
    histogram: list[tuple[float, int]] = []
    note: str = ""

    def median(self, metric: str) -> float | None:
        """Return the median of *metric*, or None if it was not measured."""
        samples = self.metrics.get(metric)
        return median(samples) if samples else None

    def matches(self, **parameters: str | float) -> bool:
        """Return whether every one of *parameters* is this row's."""
        return all(self.parameters.get(name) == value for name, value in parameters.items())


class Skip(msgspec.Struct, frozen=True):
    """A contender that could not take part, and the reason, for people."""

    contender: str
    reason: str
    workload: str = ""  # empty: in all of them


class About(msgspec.Struct, frozen=True):
    """What the report says of a workload."""

    name: str
    title: str
    text: str


class Results(msgspec.Struct):
    """One whole run.

    Attributes:
        machine: processor, memory, system, Python.
        versions: of each contender that ran.
        conditions: pinning, warm-up, rounds, allocator: what has to be known to repeat it.
        load_average: before and after.
    """

    machine: dict[str, str]
    versions: dict[str, str]
    conditions: dict[str, str]
    started: str
    seconds: float
    load_average: list[float]
    about: list[About]
    rows: list[Row]
    skips: list[Skip]
    format: int = FORMAT

    def of(self, workload: str, **parameters: str | float) -> list[Row]:
        """Return the rows of *workload* that match *parameters*."""
        return [row for row in self.rows if row.workload == workload and row.matches(**parameters)]


def write(results: Results, path: Path) -> None:
    """Write *results* as JSON, one line per row: a report is committed, and read as a change."""
    path.write_bytes(msgspec.json.encode(results).replace(b'{"workload"', b'\n{"workload"') + b"\n")


def read(path: Path) -> Results:
    """Return what `write` wrote.

    Raises:
        ValueError: it is no result of this version; the text says what is wrong with it.
    """
    try:
        found: Any = msgspec.json.decode(path.read_bytes(), type=Results)
    except msgspec.MsgspecError as exc:
        raise ValueError(f"{path} holds no results of a benchmark: {exc}") from exc
    if found.format != FORMAT:
        raise ValueError(f"{path} has format {found.format}, this program reads {FORMAT}")
    assert isinstance(found, Results)
    return found
