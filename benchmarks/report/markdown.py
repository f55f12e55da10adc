"""The report as Markdown: promises, what is slower, every workload, and how it was measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from benchmarks.figures import spread
from benchmarks.model import UNITS, About, Results, Row
from benchmarks.report.promises import Verdict, verdicts
from benchmarks.report.slower import Worse, worse

TITLES: Final[dict[str, str]] = {
    "both_us": "both us",
    "caller_us": "caller us",
    "service_us": "service us",
    "cpu_us": "CPU us",
    "per_second": "per second",
    "alone_per_second": "alone",
    "others_share": "others took",
    "p50_us": "p50 us",
    "p90_us": "p90 us",
    "p99_us": "p99 us",
    "p999_us": "p99.9 us",
    "added_p50_us": "added p50 us",
    "added_p99_us": "added p99 us",
    "bytes_per_cpu_second": "MB per CPU s",
    "load_share": "load share",
    "middle_share": "middle share",
    "late_us": "sent late us",
    "failed": "refused",
    "bytes_each": "bytes each",
    "total_mib": "MiB in all",
    "idle_share": "of a core",
    "ready_ms": "ms",
    "import_ms": "ms",
}
MOST_WORSE: Final = 40  # lines of what is slower; the JSON has all


def report(results: Results, plots: Sequence[tuple[str, str]], data: str) -> str:
    """Return the whole page.

    Args:
        plots: files beside the page and their captions.
        data: the name of the JSON file beside it.
    """
    return "\n".join(_lines(results, plots, data)).rstrip() + "\n"


def _lines(results: Results, plots: Sequence[tuple[str, str]], data: str) -> Iterator[str]:
    yield "# What it costs, beside others"
    yield ""
    yield "Made by `make bench` (`python -m benchmarks`); do not edit. The figures of every round"
    yield f"are in [{data}]({data}). Absolute figures are of one machine on one day: quote ratios."
    yield ""
    yield "## What is promised, and what was seen"
    yield ""
    yield from _promises(verdicts(results))
    yield "## What is slower than a peer"
    yield ""
    yield from _worse(worse(results))
    if plots:
        yield "## Plots"
        yield ""
        for file, caption in plots:
            yield f"![{caption}]({file})"
            yield ""
    for about in results.about:
        if rows := results.of(about.name):
            yield from _workload(about, rows)
    yield from _left_out(results)
    yield from _how(results)


def _promises(found: list[Verdict]) -> Iterator[str]:
    lines = []
    for one in found:
        if one.seen is None:
            lines.append([one.what, f"{one.limit} {one.unit}", "not measured in this run", ""])
            continue
        seen = f"{figure(one.seen)} {one.unit} (±{one.spread / 2:.0%})"
        lines.append(
            [one.what, f"{one.limit} {one.unit}", seen, "kept" if one.kept else "**not kept**"]
        )
    yield from table(["promise", "limit", "seen", ""], lines)
    yield "`x` is a multiple of the other in the same run: the median of the rounds' ratios."
    yield ""


def _worse(found: list[Worse]) -> Iterator[str]:
    if not found:
        yield "In nothing that this run measured is a peer better by more than 5 %."
        yield ""
        return
    yield "Found in the data: every case in which a peer (not a measuring stick) is better by more"
    shown = f"; {MOST_WORSE} of {len(found)}" if len(found) > MOST_WORSE else ""
    yield f"than 5 %, the worst first{shown}."
    yield ""
    lines = [
        [
            one.workload,
            ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in one.parameters.items()),
            TITLES.get(one.metric, one.metric),
            one.ours,
            one.peer,
            f"{one.times:.2f}",
        ]
        for one in found[:MOST_WORSE]
    ]
    yield from table(["workload", "case", "figure", "ours", "peer", "times worse"], lines)


def _workload(about: About, rows: list[Row]) -> Iterator[str]:
    yield f"## {about.title}"
    yield ""
    yield about.text
    yield ""
    names = list(dict.fromkeys(name for row in rows for name in row.parameters))
    metrics = [name for name in TITLES if any(name in row.metrics for row in rows)]
    lines = []
    for row in rows:
        line = [str(row.parameters.get(name, "")) for name in names] + [row.contender]
        line += [cell(row, metric) for metric in metrics]
        lines.append([*line, spread_of(row)])
    heads = [name.replace("_", " ") for name in names]
    heads += ["contender", *(TITLES[metric] for metric in metrics), "spread"]
    yield from table(heads, lines)
    for note in dict.fromkeys(f"{row.contender}: {row.note}" for row in rows if row.note):
        yield f"- {note}"
    yield ""


def _left_out(results: Results) -> Iterator[str]:
    yield "## Who was left out"
    yield ""
    if not results.skips:
        yield "Nobody."
    for skip in results.skips:
        yield f"- **{skip.contender}** ({skip.workload or 'everywhere'}): {skip.reason}"
    yield ""


def _how(results: Results) -> Iterator[str]:
    yield "## How it was measured"
    yield ""
    for name, text in (*results.machine.items(), *results.conditions.items()):
        yield f"- **{name}**: {text}"
    before, after = results.load_average[0], results.load_average[-1]
    yield f"- **started**: {results.started}, took {results.seconds / 60:.1f} minutes"
    yield f"- **load average**: {before:.2f} before, {after:.2f} after"
    versions = dict.fromkeys(text for text in results.versions.values() if text)
    yield f"- **versions**: {'; '.join(versions)}"
    yield ""


def cell(row: Row, metric: str) -> str:
    """Return the median of one metric; shares as per cent."""
    value = row.median(metric)
    if value is None:
        return ""
    return f"{value:.1%}" if UNITS[metric][0] == "" else figure(value)


def spread_of(row: Row) -> str:
    """Return how far the rounds lie apart, of the first metric that counts."""
    for metric in TITLES:
        samples = row.metrics.get(metric)
        if samples and UNITS[metric][1] != "none" and any(samples):
            return f"±{spread(samples) / 2:.0%}" if len(samples) > 1 else "one round"
    return ""


def figure(value: float) -> str:
    """Return three digits that say something."""
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield a Markdown table."""
    yield "| " + " | ".join(heads) + " |"
    yield "|" + "|".join(" --- " for _ in heads) + "|"
    for line in lines:
        yield "| " + " | ".join(text.replace("|", "\\|") for text in line) + " |"
    yield ""
