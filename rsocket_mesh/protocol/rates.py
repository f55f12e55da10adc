"""How often something may happen: a token bucket that is two numbers and owns no clock.

Sans-IO: `now` is an argument, in seconds of any clock that does not go back. One `Rate` (how many
per second, how many at once) is shared by all whom it holds for; each of them has a `Bucket`. A
bucket keeps one moment, the one at which it will be full again, instead of a level and the time of
that level: there is nothing to refill, and an idle bucket costs nothing.
Source: the generic cell rate algorithm, ITU-T I.371, in its virtual scheduling form.
"""

from __future__ import annotations

from typing import Final, NamedTuple

ROUNDING: Final = 1e-9  # seconds: sums of decimal fractions miss by less than this


class Rate(NamedTuple):
    """*per_second* in the long run, and *burst* at once after a pause. Both above 0."""

    per_second: float
    burst: float


class Bucket:
    """What one peer has used of a rate."""

    __slots__ = ("_burst_s", "_full_at", "_token_s")

    def __init__(self, rate: Rate) -> None:
        """Begin full."""
        self._token_s = 1 / rate.per_second
        self._burst_s = rate.burst * self._token_s
        self._full_at = 0.0

    def take(self, now: float, cost: float = 1.0) -> float:
        """Take *cost* tokens; return 0.0, or the seconds to wait until they will be there.

        Nothing is taken if there are too few. A cost above the burst counts as the burst: what is
        allowed at all must be possible once.
        """
        full_at = max(self._full_at, now) + min(cost * self._token_s, self._burst_s)
        wait = full_at - now - self._burst_s
        if wait > ROUNDING:
            return wait
        self._full_at = full_at
        return 0.0

    def level(self, now: float) -> float:
        """Return how many tokens there are; what is at least 1 can be taken."""
        return (self._burst_s + ROUNDING - max(0.0, self._full_at - now)) / self._token_s

    def owe(self, now: float, cost: float = 1.0) -> float:
        """Take *cost* tokens also if they are not there; return the seconds until they will be.

        For what has happened already, and whose next of its kind can be put off.
        """
        self._full_at = max(self._full_at, now) + cost * self._token_s
        return max(0.0, self._full_at - now - self._burst_s)
