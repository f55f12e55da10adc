"""Many deadlines, one timer: a wheel of short ticks.

Nearly every call ends before its deadline, so setting and forgetting one must be cheap: an entry of
a set each, where a timer of the loop would cost a microsecond and a heap operation. Sans-IO: the
owner arms one timer for `next_deadline` and calls `handle_deadline`.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Final

TICKS_PER_SECOND: Final = 64  # a deadline is kept to within 16 ms, late and never early


class Deadlines:
    """Deadlines by key, in seconds of the caller's clock. Memory: one entry per key that waits and
    one number per tick that is still to come."""

    __slots__ = ("_buckets", "_ticks")

    def __init__(self) -> None:
        self._buckets: dict[int, set[int]] = {}
        self._ticks: list[int] = []

    def add(self, key: int, when: float) -> int:
        """Remember *key* until *when*; return the tick that `discard` wants."""
        tick = int(when * TICKS_PER_SECOND) + 1
        bucket = self._buckets.get(tick)
        if bucket is None:
            self._buckets[tick] = {key}
            heappush(self._ticks, tick)
        else:
            bucket.add(key)
        return tick

    def discard(self, key: int, tick: int) -> None:
        """Forget *key*; harmless if it is already gone."""
        bucket = self._buckets.get(tick)
        if bucket is not None:
            bucket.discard(key)

    def next_deadline(self) -> float | None:
        """Return when to call `handle_deadline`; None if there is nothing to wait for."""
        return self._ticks[0] / TICKS_PER_SECOND if self._ticks else None

    def handle_deadline(self, now: float) -> list[int]:
        """Return the keys that are due at *now* and forget them."""
        due: list[int] = []
        ticks = self._ticks
        while ticks and ticks[0] <= now * TICKS_PER_SECOND:
            due += self._buckets.pop(heappop(ticks))
        # Skip what is empty by now, so that an idle connection wakes up once and not per tick.
        while ticks and not self._buckets[ticks[0]]:
            del self._buckets[heappop(ticks)]
        return due
