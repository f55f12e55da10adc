"""When a call stays with our own instances of a service, and when it goes to another worker.

A hop between workers costs about as much as the relay itself, and more per call the fewer calls go
that way at a time. So a call stays as long as our instance is not clearly busier than those of the
others: each worker tells how many calls of its own callers are at work with its own instances, and
how many of ours are at work elsewhere we know ourselves. Sans-IO.
"""

from __future__ import annotations

from typing import Final

# How many times as busy, for its weight, our own instance has to be for a call to go elsewhere.
# Where callers and instances are spread evenly nothing goes; from a worker that has all the callers
# a third of what is at work is with the other one.
NEAR: Final = 2


class Balance:
    """One service whose instances are here and elsewhere.

    Attributes:
        told: calls of their own callers that the other workers have at work, when they told last.
    """

    __slots__ = ("_far_weight", "told")

    def __init__(self, far_weight: int) -> None:
        """*far_weight* is that of all instances elsewhere together."""
        self._far_weight = far_weight
        self.told = 0

    def stays(self, at_work: int, weight: int, elsewhere: int) -> bool:
        """Return whether a call stays.

        Args:
            at_work: calls that our instance works on; *weight* is its own.
            elsewhere: calls of our own callers that others work on.
        """
        far = elsewhere + self.told + 1  # with this one
        return at_work * self._far_weight <= NEAR * far * weight
