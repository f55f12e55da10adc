"""Deadlines of many calls without a timer each: sets of entries per tick.

An entry joins the set of the tick in which its deadline lies and leaves it when it is done, both in
O(1); only what is still there when the tick has passed is looked at. Owns no clock and no timer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Final, Protocol

TICK: Final = 0.02  # seconds; a deadline is enforced at most this much late, never early
SWEEP_FROM: Final = 8192  # sets; fewer are not worth a look, and take less than 4 MiB


class Entry(Protocol):
    """What can wait in the wheel."""

    def expire(self, now: float) -> None:
        """The deadline has passed."""


class Wheel:
    """`bucket(when).add(entry)` arms, `bucket.discard(entry)` disarms.

    Attributes:
        buckets: the sets by their ticks; always the same dictionary.
    """

    __slots__ = ("_earlier", "_sweep_at", "_ticks", "buckets")

    def __init__(self, earlier: Callable[[float], None]) -> None:
        """*earlier* is called when `next_deadline` has become earlier, with its new value."""
        self._earlier = earlier
        self.buckets: dict[int, set[Entry]] = {}
        self._ticks: list[int] = []  # heap of the keys of buckets
        self._sweep_at = SWEEP_FROM

    def __len__(self) -> int:
        """How many sets there are, empty ones included."""
        return len(self.buckets)

    def bucket(self, when: float) -> set[Entry]:
        """Return the set for the deadline *when*, in the clock that `expire` is given."""
        tick = int(when / TICK) + 1
        found = self.buckets.get(tick)
        if found is None:
            found = self.buckets[tick] = set()
            heappush(self._ticks, tick)
            if self._ticks[0] == tick:
                self._earlier(tick * TICK)
        return found

    def next_deadline(self) -> float | None:
        """Return when `expire` has something to look at, or None."""
        return self._ticks[0] * TICK if self._ticks else None

    def sweep(self) -> None:
        """Forget empty sets if there are many: who names a deadline in a month and ends the call
        at once must not leave a set here for a month.

        Call it while nobody keeps an empty set to add to. Costs O(1) per set that was made.
        """
        if len(self.buckets) < self._sweep_at:
            return
        for tick in [tick for tick, entries in self.buckets.items() if not entries]:
            del self.buckets[tick]
        self._ticks = list(self.buckets)
        heapify(self._ticks)
        self._sweep_at = max(SWEEP_FROM, 2 * len(self.buckets))

    def expire(self, now: float, most: int = sys.maxsize) -> int:
        """Call `expire` of the entries whose tick has passed, *most* of them; return how many.

        What is left is due at once: `next_deadline` then lies in the past.
        """
        count = 0
        while self._ticks and self._ticks[0] * TICK <= now:
            due = self.buckets[self._ticks[0]]
            if not due:
                del self.buckets[heappop(self._ticks)]
            elif count == most:
                break
            else:
                count += 1
                due.pop().expire(now)  # which may add to any set, to this one too
        return count
