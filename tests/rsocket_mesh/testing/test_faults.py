"""The suite can fail: a server with one planted fault is caught by the case that is about it."""

from __future__ import annotations

import pytest

from rsocket_mesh.testing.conformance import REQUIREMENTS, ForeignServer, Verdict, run
from rsocket_mesh.testing.conformance.runner import try_requirement
from tests.rsocket_mesh.testing.faulty_server import FAULTS, FaultyServer

PATIENCE = 0.4  # seconds for a case; a fault is often that nothing comes
ROUTES = {"echo": "", "stream": "", "fire": ""}


async def test_a_server_without_a_fault_passes_all_that_can_be_tried() -> None:
    async with FaultyServer() as server:
        subject = ForeignServer(server.url, ROUTES)
        await subject.open()
        report = await run(subject)
    wrong = [o for o in report.outcomes if o.verdict in (Verdict.FAILED, Verdict.DIFFERS)]
    assert wrong == []
    tried = {o.requirement.id for o in report.outcomes if o.verdict is Verdict.PASSED}
    assert tried >= set(FAULTS.values())


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_is_caught_by_its_requirement(fault: str) -> None:
    async with FaultyServer(fault) as server:
        requirement = REQUIREMENTS[FAULTS[fault]]
        outcome = await try_requirement(ForeignServer(server.url, ROUTES), requirement, PATIENCE)
    assert outcome.verdict is (Verdict.DIFFERS if requirement.open else Verdict.FAILED), outcome
    assert outcome.expected
    assert outcome.came
