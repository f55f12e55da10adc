"""What RSocket asks, tried on what is ours: one test per subject and requirement.

The cases are public (`rsocket_mesh.testing.conformance`); here they are run, and the page about
them is compared with what came.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from rsocket_mesh.testing.conformance import (
    REQUIREMENTS,
    SECTIONS,
    Outcome,
    Report,
    Subject,
    Verdict,
    to_markdown,
    try_requirement,
)
from rsocket_mesh.testing.conformance.__main__ import own_subjects
from rsocket_mesh.testing.conformance.registry import CASES, NOT_APPLICABLE, load
from rsocket_mesh.testing.conformance.report import failure_text
from tests.support.processes import ROOT

PATIENCE = 20.0  # seconds for a case; generous, since only a case that fails uses it up
SUBJECTS = [subject.name for subject in own_subjects()]
OUTCOMES: dict[tuple[str, str], Outcome] = {}


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=SUBJECTS)
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    """One of ours, open for all requirements."""
    made = next(subject for subject in own_subjects() if subject.name == request.param)
    await made.open()
    yield made
    await made.close()
    await asyncio.sleep(0)


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("name", REQUIREMENTS)
async def test_conformance(subject: Subject, name: str) -> None:
    outcome = await try_requirement(subject, REQUIREMENTS[name], PATIENCE)
    OUTCOMES[subject.name, name] = outcome
    if outcome.verdict is Verdict.FAILED:
        pytest.fail(f"{name} {outcome.requirement.text}\n{failure_text(outcome)}", pytrace=False)
    assert outcome.verdict in (Verdict.PASSED, Verdict.NOT_APPLICABLE)
    assert outcome.reason or outcome.verdict is Verdict.PASSED


def test_the_page_says_what_came() -> None:
    if len(OUTCOMES) < len(SUBJECTS) * len(REQUIREMENTS):
        pytest.skip("only some of the requirements were tried")
    reports = [
        Report(name, tuple(OUTCOMES[name, requirement] for requirement in REQUIREMENTS))
        for name in SUBJECTS
    ]
    page = (ROOT / "docs" / "conformance.md").read_text()
    assert page == to_markdown(reports), "run `make conformance` and look at what has changed"


def test_every_requirement_has_a_case_or_a_reason() -> None:
    load()
    for name in REQUIREMENTS:
        assert bool(CASES[name]) is not (name in NOT_APPLICABLE), name


def test_the_catalogue_has_no_gaps() -> None:
    numbers = [n for section in SECTIONS for n in range(section.first, section.last + 1)]
    assert numbers == list(range(1, 151))
    assert list(REQUIREMENTS) == [f"C-{number:02}" for number in numbers]
    texts = [requirement.text for requirement in REQUIREMENTS.values()]
    assert len(set(texts)) == len(texts)
