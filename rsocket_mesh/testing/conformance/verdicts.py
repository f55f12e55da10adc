"""What a case can come to, and how it says so.

A case that returns has passed. Otherwise it raises one of these; the runner makes a verdict of it.
"""

from __future__ import annotations

from enum import Enum


class Verdict(Enum):
    """What is known of one requirement; the value is the word in reports."""

    PASSED = "passed"
    FAILED = "failed"
    DIFFERS = "differs"  # a foreign server does otherwise where implementations may
    NOT_APPLICABLE = "not applicable"


class Failed(Exception):
    """The subject did something else.

    Attributes:
        expected: what the requirement wants, in words.
        came: what was seen instead, frames in readable form.
    """

    def __init__(self, expected: str, came: str) -> None:
        super().__init__(f"expected {expected}; {came}")
        self.expected = expected
        self.came = came


class NotApplicable(Exception):
    """The requirement cannot be tried on this subject; the text is the reason."""


def check(condition: object, expected: str, came: object) -> None:
    """Raise `Failed` unless *condition* holds; *came* is shown as it is."""
    if not condition:
        raise Failed(expected, f"came {came}")
