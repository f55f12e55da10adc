"""Plots as SVG. matplotlib is an extra (`pip install '.[bench]'`); without it there are none."""

from __future__ import annotations

from collections.abc import Callable
from math import floor, log2
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.model import Results, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Draw = Callable[["Axes", int], bool]
OURS_COLOUR: Final = "#c0392b"
COLOURS: Final = ("#2c3e50", "#2980b9", "#16a085", "#8e44ad", "#d68910", "#7f8c8d", "#27ae60")


def colour_of(name: str, names: list[str]) -> str:
    """Return the colour of a contender: ours stands out, others keep theirs in every plot."""
    if name.startswith(("broker", "ours")):
        return OURS_COLOUR if "compiled" in name or "through" in name else "#e67e73"
    return COLOURS[names.index(name) % len(COLOURS)]


def bars(metric: str, rows: list[Row], axes: Any, names: list[str], title: str, unit: str) -> bool:
    """Draw one bar for each contender, with the spread of its rounds."""
    rows = [row for row in rows if row.metrics.get(metric) and (row.median(metric) or 0) > 0]
    if len(rows) < 2:
        return False
    rows.sort(key=lambda row: row.median(metric) or 0)
    middles = [row.median(metric) or 0 for row in rows]
    low = [middle - min(row.metrics[metric]) for middle, row in zip(middles, rows, strict=True)]
    high = [max(row.metrics[metric]) - middle for middle, row in zip(middles, rows, strict=True)]
    labels = [row.contender for row in rows]
    axes.barh(
        labels,
        middles,
        xerr=[low, high],
        color=[colour_of(name, names) for name in labels],
        error_kw={"elinewidth": 0.8, "ecolor": "#555555"},
    )
    for place, middle in enumerate(middles):
        axes.annotate(f" {middle:,.3g}", (middle, place), va="center", fontsize=7)
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(unit, fontsize=8)
    axes.set_xscale("log")
    axes.tick_params(labelsize=7)
    return True


def histogram(rows: list[Row], axes: Any, names: list[str], title: str) -> bool:
    """Draw the share of calls by latency, of all contenders on one axis."""
    drawn = False
    for row in rows:
        total = sum(calls for _, calls in row.histogram)
        if not total:
            continue
        edges, shares = _coarse([(edge, calls / total) for edge, calls in row.histogram])
        axes.step(
            edges, shares, where="pre", label=row.contender, color=colour_of(row.contender, names)
        )
        drawn = True
    axes.set_xscale("log")
    axes.set_xlabel("microseconds", fontsize=8)
    axes.set_ylabel("share of calls", fontsize=8)
    axes.set_title(title, fontsize=9)
    axes.tick_params(labelsize=7)
    if drawn:
        axes.legend(fontsize=6)
    return drawn


def _coarse(
    pairs: list[tuple[float, float]], per_doubling: int = 8
) -> tuple[list[float], list[float]]:
    """Return fewer buckets: 64 for each doubling are a saw."""
    shares: dict[int, float] = {}
    for edge, share in pairs:
        place = floor(log2(max(edge, 1e-3)) * per_doubling)
        shares[place] = shares.get(place, 0.0) + share
    places = range(min(shares), max(shares) + 2)
    return [2 ** (place / per_doubling) for place in places], [shares.get(p, 0.0) for p in places]


def quantile_lines(rows: list[Row], axes: Any, names: list[str], title: str) -> bool:
    """Draw p50 to p99.9 of each contender."""
    metrics = ("p50_us", "p90_us", "p99_us", "p999_us")
    drawn = False
    for row in rows:
        values = [row.median(metric) for metric in metrics]
        if any(value is None for value in values):
            continue
        axes.plot(
            ["p50", "p90", "p99", "p99.9"],
            values,
            marker="o",
            markersize=3,
            label=row.contender,
            color=colour_of(row.contender, names),
        )
        drawn = True
    axes.set_yscale("log")
    axes.set_ylabel("microseconds", fontsize=8)
    axes.set_title(title, fontsize=9)
    axes.tick_params(labelsize=7)
    if drawn:
        axes.legend(fontsize=6)
    return drawn


class Plans:
    """What is in each plot: methods that draw one axes by its place and say whether it is full."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self.names = list(dict.fromkeys(row.contender for row in results.rows))
        self.cases = [(size, count) for size in (128, 4096) for count in (1, 64, 1024)]
        self.loads = _values(results, "added-latency", "load")
        self.rates = _values(results, "fixed-rates", "calls_per_second")
        self.busy = _values(results, "typed-calls", "in_flight")

    def request_response(self, metric: str, unit: str) -> Draw:
        """Bars of one metric, for payloads by calls in flight."""

        def one(axes: Axes, place: int) -> bool:
            size, count = self.cases[place]
            rows = self.results.of("request-response", payload=size, in_flight=count)
            return bars(metric, rows, axes, self.names, f"{size} B, {count} in flight", unit)

        return one

    def streams(self, axes: Axes, place: int) -> bool:
        metric, unit = (("per_second", "items per second"), ("cpu_us", "CPU us per item"))[place]
        rows = self.results.of("request-stream", credit=256)
        most = max((int(row.parameters["streams"]) for row in rows), default=0)
        rows = [row for row in rows if row.parameters["streams"] == most]
        return bars(metric, rows, axes, self.names, f"{most} streams, credit 256", unit)

    def added(self, axes: Axes, place: int) -> bool:
        rows = self.results.of("added-latency", load=self.loads[place])
        title = f"{self.loads[place]} load"
        return bars("added_p50_us", rows, axes, self.names, title, "added p50, us")

    def quantiles(self, axes: Axes, place: int) -> bool:
        rows = self.results.of("fixed-rates", calls_per_second=self.rates[place])
        return quantile_lines(rows, axes, self.names, f"{self.rates[place]} calls/s, open loop")

    def histogram(self, axes: Axes, place: int) -> bool:
        rows = self.results.of("fixed-rates", calls_per_second=self.rates[place])
        return histogram(rows, axes, self.names, f"{self.rates[place]} calls/s, open loop")

    def typed(self, axes: Axes, place: int) -> bool:
        rows = self.results.of("typed-calls", method="total", in_flight=self.busy[place])
        title = f"typed call, {self.busy[place]} in flight"
        return bars("both_us", rows, axes, self.names, title, "CPU us of caller and service")

    def all(self) -> list[tuple[str, str, int, Draw]]:
        """Return file, caption, number of axes and what draws them."""
        cpu = self.request_response("cpu_us", "CPU us per call")
        calls = self.request_response("per_second", "calls per second")
        return [
            ("cpu", "CPU of the middle per call", len(self.cases), cpu),
            ("throughput", "Calls per second", len(self.cases), calls),
            ("streams", "Streams of 32-byte items", 2, self.streams),
            ("added-latency", "Latency that one hop adds", len(self.loads), self.added),
            ("quantiles", "Latency quantiles at fixed rates", len(self.rates), self.quantiles),
            ("histogram", "Latency histogram at fixed rates", len(self.rates), self.histogram),
            ("typed-calls", "Python end to end", len(self.busy), self.typed),
        ]


def _values(results: Results, workload: str, parameter: str) -> list[str | int | float]:
    return list(dict.fromkeys(row.parameters[parameter] for row in results.of(workload)))


def draw(results: Results, folder: Path) -> list[tuple[str, str]]:
    """Write the plots that the results allow; return `(file, caption)`; [] without matplotlib."""
    try:
        import matplotlib as mpl  # an extra, and slow to import
    except ImportError:
        return []
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "benchmarks"  # the same data, the same file
    return [
        (name, caption)
        for file, caption, count, one in Plans(results).all()
        if count and (name := _figure(folder / f"{file}.svg", caption, count, one))
    ]


def _figure(path: Path, title: str, count: int, one: Draw) -> str:
    """Draw up to *count* axes into one file; return its name, or nothing if all were empty."""
    from matplotlib import pyplot as plt

    columns = min(count, 3)
    lines = -(-count // columns)
    figure, grid = plt.subplots(
        lines, columns, figsize=(4.6 * columns, 2.9 * lines), squeeze=False, layout="constrained"
    )
    drawn = [place < count and one(axes, place) for place, axes in enumerate(grid.flat)]
    for axes, full in zip(grid.flat, drawn, strict=True):
        axes.set_visible(full)
    figure.suptitle(title, fontsize=11)
    if any(drawn):
        figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
    return path.name if any(drawn) else ""
