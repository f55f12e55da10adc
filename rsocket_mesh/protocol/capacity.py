"""Capacity: what one instance of a service can take, in calls at once and calls per second.

Sans-IO. The same account on both sides: a service keeps one to refuse what is beyond, whoever sent
it, and a broker one per instance, to choose another instance before that happens. It works without
the LEASE frames of the protocol: the two numbers are part of the announcement.
"""

from __future__ import annotations

from typing import Final

from rsocket_mesh.errors import Overloaded
from rsocket_mesh.protocol.lease import MAX_REQUESTS
from rsocket_mesh.protocol.rates import Bucket, Rate

MAX_CONCURRENCY: Final = 1_000_000  # calls; more than a process can have, so a mistake
MAX_RATE: Final = 1_000_000.0  # calls per second; likewise
BURST: Final = 1.0  # s of the rate that may come at once after a silence
BUSY_PAUSE: Final = 0.1  # s; nobody knows when a call at work will end


class Capacity:
    """Calls at work, and the tokens of a bucket that fills with the rate.

    Attributes:
        concurrency: calls at work at once, or None.
        rate: calls per second, or None.
        at_work: calls that have entered and not left.
        refused: calls for which there was no room; a count.
    """

    __slots__ = (
        "_bucket",
        "_slack",
        "at_work",
        "concurrency",
        "rate",
        "refused",
    )

    def __init__(self, concurrency: int | None, rate: float | None, *, slack: float = 0.0) -> None:
        """Begin with nothing at work and a full bucket.

        Args:
            slack: seconds of the rate, and one call, that are tolerated on top. Who stands behind
                another account of the same rate needs it: calls that were spaced out there arrive
                here closer together.
        """
        self.at_work = self.refused = 0
        self.concurrency: int | None = None
        self.rate: float | None = None
        self._slack = slack
        self._bucket: Bucket | None = None
        self.limit(concurrency, rate)

    def limit(self, concurrency: int | None, rate: float | None) -> None:
        """Have other limits from now on; what is at work goes on."""
        self.concurrency = concurrency
        if rate == self.rate:
            return
        self.rate = rate
        if rate is None:
            self._bucket = None
        else:
            patience = 1 + rate * self._slack if self._slack else 0.0
            self._bucket = Bucket(Rate(rate, max(1.0, rate * BURST) + patience))

    def free(self, now: float) -> int:
        """Return how many calls could enter at *now*; `MAX_REQUESTS` if nothing is limited."""
        free = MAX_REQUESTS
        if self.concurrency is not None:
            free = max(0, self.concurrency - self.at_work)
        if self._bucket is not None:
            free = min(free, int(self._bucket.level(now)))
        return free

    def spend(self, now: float) -> None:
        """Count a call against the rate only: one whose end nobody hears of."""
        if self._bucket is not None:
            self._bucket.take(now)

    def enter(self, now: float) -> None:
        """Count a call that begins, after `free` has said that it may; `leave` has to follow."""
        self.spend(now)
        self.at_work += 1

    def leave(self) -> None:
        """A call that has entered is over."""
        self.at_work -= 1

    def retry_after(self, now: float) -> float:
        """Return in how many seconds there may be room; above 0."""
        if self._bucket is not None and self.rate is not None:
            missing = 1 - self._bucket.level(now)
            if missing > 0:
                return max(0.001, missing / self.rate)
        return BUSY_PAUSE

    def refuse(self, what: str, now: float) -> Overloaded:
        """Count a call to *what* that found no room; return the error for its caller."""
        self.refused += 1
        if self.concurrency is not None and self.at_work >= self.concurrency:
            text = f"{what}: {self.at_work} calls are at work, the limit is {self.concurrency}"
        else:
            text = f"{what}: its rate is {self.rate:g} calls per second"
        return Overloaded(text, retry_after_ms=max(1, round(self.retry_after(now) * 1000)))
