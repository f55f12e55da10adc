"""The command `conformance`: raw frames to any RSocket server, and what came of them.

The cases are `rsocket_mesh.testing.conformance`; here are the options, a progress bar, and a table
in which each requirement is one sign, so that a person sees at a glance where a server stands.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from rsocket_mesh.cli.failures import OK, REMOTE, UNREACHABLE, one_line
from rsocket_mesh.cli.options import MAX_TIMEOUT, log_to_stderr, run_on_loop
from rsocket_mesh.cli.output import Mode, Printer, cell

if TYPE_CHECKING:
    from rsocket_mesh.testing.conformance import Outcome, Report, Subject

CASE_TIMEOUT: Final = 5.0  # seconds; as in the suite
_SIGNS: Final = {"passed": "✓", "failed": "✗", "differs": "≠", "not applicable": "·"}
_NEEDS_VALUE: Final = "=NAME says by which routing tag; without it, no routing is needed."


@click.command()
@click.argument("url", metavar="URL")
@click.option(
    "--only", multiple=True, metavar="C-27,...", help="Only these requirements; may be repeated."
)
@click.option(
    "--section", "sections", multiple=True, metavar="NAME", help="Only this section, as `framing`."
)
@click.option(
    "--route",
    "routes",
    multiple=True,
    metavar="BEHAVIOUR[=NAME]",
    help="What the server's application does; see below. May be repeated. [default: whether its "
    "request-response echoes is found out]",
)
@click.option(
    "--as",
    "role",
    type=click.Choice(["server", "broker"]),
    default="server",
    show_default=True,
    help="broker: a broker of this project; the suite registers a service of its own there.",
)
@click.option("--resume", is_flag=True, help="The server offers resume: try it, not its refusal.")
@click.option("--lease", is_flag=True, help="The server offers lease: try it, not its refusal.")
@click.option(
    "--junit", type=click.Path(dir_okay=False, path_type=Path), help="Write JUnit XML there."
)
@click.option(
    "--timeout",
    "-t",
    type=click.FloatRange(0, MAX_TIMEOUT, min_open=True),
    default=CASE_TIMEOUT,
    show_default=True,
    metavar="SECONDS",
    help="For each case.",
)
@click.option(
    "--output",
    "-o",
    type=click.Choice(["table", "json"]),
    help="json: one document per requirement. [default: table on a terminal, else json]",
)
def conformance(
    url: str,
    only: tuple[str, ...],
    sections: tuple[str, ...],
    routes: tuple[str, ...],
    role: str,
    resume: bool,
    lease: bool,
    junit: Path | None,
    timeout: float,
    output: Mode | None,
) -> int:
    """Test whether a server keeps the rules of RSocket.

    Sends raw frames, good ones and malformed ones, and reports each of 150 requirements as passed,
    failed, different (where implementations may differ) or not applicable, with the reason. Some
    cases break connections on purpose: use a server that serves nobody else.

    More can be tried if the server's application is known. BEHAVIOUR is one of:

    \b
      echo     request-response: answers with the request's data
      never    request-response: does not answer
      fail     request-response: an application error, the data as its text
      stream   request-stream: the data is a number N; sends 1 to N as text
      channel  request-channel: sends each item back
      fire     fire-and-forget: takes it

    \b
    Examples:
      rsocket-mesh conformance tcp://127.0.0.1:7000
      rsocket-mesh conformance ws://127.0.0.1:7000/rsocket --section framing
      rsocket-mesh conformance tcp://127.0.0.1:7000 --route echo=my.echo --route stream=my.numbers
      rsocket-mesh conformance tcp://127.0.0.1:7878 --as broker --junit report.xml

    \b
    Exit codes: 0 nothing failed, 1 something did, 2 wrong usage, 3 no server there.
    """
    log_to_stderr(verbose=False)
    if junit is not None and not junit.parent.is_dir():  # found out before the run, not after it
        raise click.UsageError(f"--junit {junit}: there is no folder {junit.parent}")
    chosen = _chosen(only, sections)
    offers = frozenset(
        name for name, is_offered in (("resume", resume), ("lease", lease)) if is_offered
    )
    subject = _subject(url, role, _routes(routes), offers)
    return run_on_loop(_conformance(subject, chosen, timeout, junit, Printer.of(output)))


def _chosen(only: tuple[str, ...], sections: tuple[str, ...]) -> set[str]:
    """Return the names of the requirements to try; empty means all."""
    from rsocket_mesh.testing.conformance import REQUIREMENTS, SECTIONS  # here: only this needs it

    names = {name.strip().upper() for part in only for name in part.split(",")}
    for name in sorted(names - REQUIREMENTS.keys()):
        raise click.UsageError(f"--only {name}: there are C-01 to C-150")
    known = [section.name for section in SECTIONS]
    for wanted in sections:
        if wanted not in known:
            raise click.UsageError(f"--section {wanted}: there are {', '.join(known)}")
        names |= {r.id for r in REQUIREMENTS.values() if r.section.name == wanted}
    return names


def _routes(given: tuple[str, ...]) -> dict[str, str] | None:
    from rsocket_mesh.testing.conformance.application import BEHAVIOURS  # here: only this needs it

    routes: dict[str, str] = {}
    for text in given:
        behaviour, _, route = text.partition("=")
        if behaviour not in BEHAVIOURS:
            known = ", ".join(BEHAVIOURS)
            raise click.UsageError(f"--route {text}: the behaviours are {known}. {_NEEDS_VALUE}")
        if len(route.encode()) > 255:
            raise click.UsageError(f"--route {behaviour}: a routing tag has 255 bytes at most")
        routes[behaviour] = route
    return routes or None


def _subject(url: str, role: str, routes: dict[str, str] | None, offers: frozenset[str]) -> Subject:
    from rsocket_mesh.testing.conformance import BrokerSubject, ForeignServer  # as above
    from rsocket_mesh.transport.url import InvalidUrl, parse_url

    try:
        target = parse_url(url)
    except InvalidUrl as exc:
        raise click.UsageError(str(exc)) from exc
    if target.scheme == "memory":
        raise click.UsageError(f"{url}: only its own process could reach it")
    if role == "server":
        return ForeignServer(url, routes, offers)
    if routes is not None:
        raise click.UsageError("--route: with --as broker the suite brings its own application")
    subject = BrokerSubject(url=url)
    subject.offers |= offers
    return subject


async def _conformance(
    subject: Subject, chosen: set[str], seconds: float, junit: Path | None, printer: Printer
) -> int:
    from rsocket_mesh.testing.conformance import run, to_document  # as above

    try:
        await subject.open()
    except OSError as exc:  # a TimeoutError is one, and has no text
        why = str(exc) or "no connection in time"
        click.echo(f"rsocket-mesh: no server at {subject.name}: {one_line(why)}", err=True)
        return UNREACHABLE
    try:
        if printer.mode == "json":
            report = await run(
                subject,
                only=chosen,
                timeout=seconds,
                progress=lambda outcome: printer.item(to_document(outcome)),
            )
        else:
            report = await _run_with_bar(subject, chosen, seconds)
            _print(printer, report)
    finally:
        await subject.close()
    if junit is not None:
        _write_junit(junit, report)
    return OK if report.is_clean else REMOTE


def _write_junit(path: Path, report: Report) -> None:
    from rsocket_mesh.testing.conformance import to_junit  # as above

    try:
        path.write_bytes(to_junit(report))
    except OSError as exc:
        raise click.UsageError(f"--junit {path}: {exc.strerror}") from exc


async def _run_with_bar(subject: Subject, chosen: set[str], seconds: float) -> Report:
    """Run with a bar on stderr, if that is a terminal."""
    from rich.console import Console  # here: only tables need it
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from rsocket_mesh.testing.conformance import REQUIREMENTS, run  # as above

    columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    console = Console(stderr=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("C-01", total=len(chosen) or len(REQUIREMENTS))

        def advance(outcome: Outcome) -> None:
            progress.update(task, advance=1, description=outcome.requirement.id)

        return await run(subject, only=chosen, timeout=seconds, progress=advance)


def _print(printer: Printer, report: Report) -> None:
    from rsocket_mesh.testing.conformance import SECTIONS, Verdict  # as above

    rows = []
    for section in SECTIONS:
        of_section = [o for o in report.outcomes if o.requirement.section is section]
        if of_section:
            signs = "".join(_SIGNS[outcome.verdict.value] for outcome in of_section)
            rows.append((section.name, f"C-{section.first:02}...", signs))
    printer.table(("SECTION", "FROM", "REQUIREMENTS"), rows)
    for outcome in report.outcomes:
        if outcome.verdict in (Verdict.FAILED, Verdict.DIFFERS):
            _print_difference(printer, outcome)
    _print_reasons(printer, report)
    counts = [f"{_SIGNS[v.value]} {report.count(v)} {v.value}" for v in Verdict]
    printer.line(f"\n{cell(report.subject, nested=True)}: {'   '.join(counts)}")


def _print_difference(printer: Printer, outcome: Outcome) -> None:
    requirement = outcome.requirement
    sign = _SIGNS[outcome.verdict.value]
    printer.line(f"\n{sign} {requirement.id} {requirement.text} [{requirement.source}]")
    printer.line(f"    case      {outcome.reason}")
    printer.line(f"    expected  {cell(outcome.expected, nested=True)}")
    printer.line(f"    but       {cell(outcome.came, nested=True)}")
    for line in outcome.transcript[-8:]:
        printer.line(f"      {cell(line, nested=True)}")


def _print_reasons(printer: Printer, report: Report) -> None:
    """One line per reason why something is not applicable."""
    from rsocket_mesh.testing.conformance import Verdict  # as above

    reasons: dict[str, list[str]] = {}
    for outcome in report.outcomes:
        if outcome.verdict is Verdict.NOT_APPLICABLE:
            reasons.setdefault(outcome.reason, []).append(outcome.requirement.id)
    if reasons:
        printer.line("\nnot applicable:")
    for reason, names in reasons.items():
        printer.line(f"  {cell(reason, nested=True)}: {', '.join(names)}")
