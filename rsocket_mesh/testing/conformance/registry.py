"""Which cases there are: one function per requirement and kind of subject, entered by decorators.

A case says what has to be true of one of four kinds of subjects:

    accepting   it accepts connections; the case dials
    dialling    it dials; the case accepts
    serving     it responds to requests; the case asks, on whichever side of the connection
    asking      it requests; the case responds

A requirement may have a case of each kind. A subject passes if it passes all that apply to it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple

from rsocket_mesh.testing.conformance.catalogue import REQUIREMENTS

if TYPE_CHECKING:
    from rsocket_mesh.testing.conformance.bench import Bench


class Kind(Enum):
    """What a subject has to do for a case."""

    ACCEPTING = "accepting"
    DIALLING = "dialling"
    SERVING = "serving"
    ASKING = "asking"


Function = Callable[["Bench"], Awaitable[None]]


class Case(NamedTuple):
    """One way to try a requirement.

    Attributes:
        needs: what the subject must offer: `resume`, `lease`, or the name of a subject.
    """

    requirement: str
    kind: Kind
    needs: frozenset[str]
    run: Function

    @property
    def name(self) -> str:
        """What is tried, in the words of the function's name."""
        return self.run.__name__.replace("_", " ")


CASES: Final[dict[str, list[Case]]] = {name: [] for name in REQUIREMENTS}
NOT_APPLICABLE: Final[dict[str, str]] = {}  # requirement -> why no case can exist


def _case(kind: Kind, requirement: str, needs: tuple[str, ...]) -> Callable[[Function], Function]:
    def enter(function: Function) -> Function:
        CASES[requirement].append(Case(requirement, kind, frozenset(needs), function))
        return function

    return enter


def accepting(requirement: str, *needs: str) -> Callable[[Function], Function]:
    """A case for subjects that accept connections."""
    return _case(Kind.ACCEPTING, requirement, needs)


def dialling(requirement: str, *needs: str) -> Callable[[Function], Function]:
    """A case for subjects that dial."""
    return _case(Kind.DIALLING, requirement, needs)


def serving(requirement: str, *needs: str) -> Callable[[Function], Function]:
    """A case for subjects that respond."""
    return _case(Kind.SERVING, requirement, needs)


def asking(requirement: str, *needs: str) -> Callable[[Function], Function]:
    """A case for subjects that request."""
    return _case(Kind.ASKING, requirement, needs)


def not_applicable(reason: str, *requirements: str) -> None:
    """Enter why there is no case for *requirements*."""
    for requirement in requirements:
        NOT_APPLICABLE[requirement] = reason


def load() -> None:
    """Import every module of cases; idempotent."""
    from rsocket_mesh.testing.conformance import cases  # here: they import this module

    cases.load()
