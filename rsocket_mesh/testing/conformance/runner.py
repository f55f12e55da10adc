"""Runs cases against one subject and keeps what came of them.

One case after the other, each with its deadline, on connections of its own. What a case cannot do
is a verdict, never an exception: a subject that closes, hangs or sends rubbish is reported.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from typing import Final, NamedTuple

from rsocket_mesh.testing.conformance.bench import Bench
from rsocket_mesh.testing.conformance.catalogue import REQUIREMENTS, Requirement
from rsocket_mesh.testing.conformance.registry import CASES, NOT_APPLICABLE, Case, Kind, load
from rsocket_mesh.testing.conformance.subjects import Subject
from rsocket_mesh.testing.conformance.verdicts import Failed, NotApplicable, Verdict

CASE_TIMEOUT: Final = 5.0  # seconds; a round trip takes milliseconds, a busy machine some more
CLOSE_TIMEOUT: Final = 5.0  # seconds for the connections of a case to end
_LACKING: Final = {  # what a case needs -> why a subject without it has no such case
    "broker": "about what a broker does of its own",
    "no-broker": "the broker passes this on and takes no part in it",
    "server": "about our library as server",
    "client": "about our library as client",
    "short-resume": "needs a subject that gives a lost session up soon",
}
_SIDES: Final = {
    frozenset((Kind.ACCEPTING,)): "about the side that accepts connections",
    frozenset((Kind.DIALLING,)): "about the side that dials",
    frozenset((Kind.ASKING,)): "about the requesting side, which nothing makes a server be",
}
_ORDER: Final = (Verdict.NOT_APPLICABLE, Verdict.PASSED, Verdict.DIFFERS, Verdict.FAILED)


class Outcome(NamedTuple):
    """What came of one requirement on one subject.

    Attributes:
        reason: why it is not applicable, or which case failed; empty for a passed one.
        expected, came: of a failure; what was wanted, and what was seen.
        transcript: the last frames of a failed case; `->` is the case's, `<-` the subject's.
    """

    requirement: Requirement
    verdict: Verdict
    seconds: float = 0.0
    reason: str = ""
    expected: str = ""
    came: str = ""
    transcript: tuple[str, ...] = ()


class Report(NamedTuple):
    """The outcomes of one subject, in the order of the catalogue."""

    subject: str
    outcomes: tuple[Outcome, ...]

    def count(self, verdict: Verdict) -> int:
        return sum(outcome.verdict is verdict for outcome in self.outcomes)

    @property
    def is_clean(self) -> bool:
        """Whether nothing failed."""
        return self.count(Verdict.FAILED) == 0


async def run(
    subject: Subject,
    *,
    only: Collection[str] = (),
    timeout: float = CASE_TIMEOUT,  # noqa: ASYNC109 - of each case, not of the whole
    progress: Callable[[Outcome], None] | None = None,
) -> Report:
    """Try every requirement, or those of *only*, on a subject that is open.

    Args:
        timeout: seconds that a case may take.
        progress: called after each requirement.
    If cancelled: the connections of the running case are closed.
    """
    load()
    outcomes: list[Outcome] = []
    for name, requirement in REQUIREMENTS.items():
        if not only or name in only:
            outcome = await try_requirement(subject, requirement, timeout)
            outcomes.append(outcome)
            if progress is not None:
                progress(outcome)
    return Report(subject.name, tuple(outcomes))


async def try_requirement(
    subject: Subject,
    requirement: Requirement,
    timeout: float = CASE_TIMEOUT,  # noqa: ASYNC109 - as in `run`
) -> Outcome:
    """Run all cases of *requirement* that apply to *subject*; the worst verdict counts."""
    load()
    cases = CASES[requirement.id]
    if not cases:
        reason = NOT_APPLICABLE[requirement.id]
        return Outcome(requirement, Verdict.NOT_APPLICABLE, reason=reason)
    fitting = [case for case in cases if case.kind in subject.kinds]
    if not fitting:
        reason = _SIDES.get(frozenset(case.kind for case in cases), "about the other side")
        return Outcome(requirement, Verdict.NOT_APPLICABLE, reason=reason)
    begun = time.perf_counter()
    worst: Outcome | None = None
    for case in fitting:
        outcome = await _try_case(subject, requirement, case, timeout)
        if worst is None or _ORDER.index(outcome.verdict) > _ORDER.index(worst.verdict):
            worst = outcome
    assert worst is not None
    return worst._replace(seconds=time.perf_counter() - begun)


def _lacks(subject: Subject, case: Case) -> str:
    """Return what *subject* does not have that *case* needs; empty if it has all."""
    for need in sorted(case.needs):
        wanted = need.removeprefix("no-")
        if (wanted in subject.offers) is (need != wanted):
            verb = "does not offer" if need == wanted else "offers"
            return _LACKING.get(need, f"the subject {verb} {wanted}")
    return ""


async def _try_case(
    subject: Subject, requirement: Requirement, case: Case, seconds: float
) -> Outcome:
    lacking = _lacks(subject, case)
    if lacking:
        return Outcome(requirement, Verdict.NOT_APPLICABLE, reason=lacking)
    bench = Bench(subject)
    try:
        await _run_case(bench, case, seconds)
    except NotApplicable as exc:
        return Outcome(requirement, Verdict.NOT_APPLICABLE, reason=str(exc))
    except Failed as exc:
        expected, came = exc.expected, exc.came
    except TimeoutError:
        waiting = [peer.waiting_for for peer in bench.peers if peer.waiting_for]
        expected = waiting[-1] if waiting else "the case to end"
        came = f"nothing came within {seconds:g} s"
    except Exception as exc:  # whatever a subject does is a verdict, never a traceback
        expected, came = "a subject that can be talked to", f"{type(exc).__name__}: {exc}"
    else:
        return Outcome(requirement, Verdict.PASSED)
    may_differ = subject.is_foreign and requirement.open
    verdict = Verdict.DIFFERS if may_differ else Verdict.FAILED
    return Outcome(requirement, verdict, 0.0, case.name, expected, came, tuple(bench.transcript))


async def _run_case(bench: Bench, case: Case, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await case.run(bench)
    finally:
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await bench.__aexit__()
        except TimeoutError:
            pass  # a subject that does not let go of its connections; what it did is known
