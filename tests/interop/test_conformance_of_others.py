"""The conformance suite on a server that we did not write: it reports, whatever that server does.

What is said of rsocket-py here is known of it from elsewhere; a version that mends it may change
these lines.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rsocket_mesh.testing.conformance import REQUIREMENTS, ForeignServer, Verdict, run
from tests.support.processes import ROOT, running

SERVER = Path(__file__).parent / "peers" / "rsocket_py_server.py"
PATIENCE = 1.0  # seconds for a case; what this server does not refuse, it says nothing about
ROUTES = {"echo": "", "stream": "", "fire": ""}


@pytest.fixture(scope="module")
def rsocket_py() -> Iterator[str]:
    """The address of an rsocket-py server."""
    with running(sys.executable, SERVER, env={"PYTHONPATH": str(ROOT)}) as process:
        yield process.wait_for_line(r"^listening (.*)$")[1]


async def test_rsocket_py_is_reported_on(rsocket_py: str) -> None:
    subject = ForeignServer(rsocket_py, ROUTES)
    await subject.open()
    report = await run(subject, timeout=PATIENCE)
    assert len(report.outcomes) == len(REQUIREMENTS)
    verdicts = {outcome.requirement.id: outcome.verdict for outcome in report.outcomes}
    assert report.count(Verdict.PASSED) > 25
    assert {verdicts[name] for name in ("C-03", "C-09", "C-12", "C-50", "C-72")} == {Verdict.PASSED}
    assert verdicts["C-27"] is Verdict.FAILED  # it serves before any SETUP
    assert verdicts["C-31"] is Verdict.FAILED  # and behind one that it refuses
    assert verdicts["C-24"] is Verdict.FAILED  # it loses empty items
    assert verdicts["C-60"] is Verdict.DIFFERS  # it takes ids of its own parity


async def test_whether_it_echoes_is_found_out(rsocket_py: str) -> None:
    subject = ForeignServer(rsocket_py)
    await subject.open()
    assert subject.routes == {"echo": ""}
