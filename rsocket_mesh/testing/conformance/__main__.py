"""`python -m rsocket_mesh.testing.conformance [--markdown FILE]`: our own subjects, all of them.

Prints a line per subject and what failed; with `--markdown` it writes docs/conformance.md. Exit
code 1 if anything failed.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from pathlib import Path

from rsocket_mesh.testing.conformance import (
    BrokerSubject,
    ClientSubject,
    Report,
    ServerSubject,
    Subject,
    Verdict,
    run,
    to_markdown,
)
from rsocket_mesh.testing.conformance.report import failure_text


def own_subjects() -> list[Subject]:
    """Return what this project tests of itself; they are not open."""
    return [
        BrokerSubject("tcp"),
        BrokerSubject("ws"),
        ServerSubject("tcp"),
        ServerSubject("ws"),
        ClientSubject(),
    ]


async def run_own() -> list[Report]:
    """Try every requirement on each of them."""
    reports = []
    for subject in own_subjects():
        await subject.open()
        try:
            reports.append(await run(subject))
        finally:
            await subject.close()
    return reports


def main() -> int:
    """Run with the arguments of this process; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m rsocket_mesh.testing.conformance")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the report there")
    arguments = parser.parse_args()
    logging.getLogger().addHandler(logging.NullHandler())  # hostile peers are what this is about
    reports = asyncio.run(run_own())
    for report in reports:
        numbers = ", ".join(f"{report.count(verdict)} {verdict.value}" for verdict in Verdict)
        sys.stdout.write(f"{report.subject}: {numbers}\n")
        for outcome in report.outcomes:
            if outcome.verdict is Verdict.FAILED:
                sys.stdout.write(f"{outcome.requirement.id} {failure_text(outcome)}\n")
    if arguments.markdown is not None:
        arguments.markdown.write_text(to_markdown(reports))
    return 0 if all(report.is_clean for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
