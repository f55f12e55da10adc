"""Deadlines of many calls without a timer each: sets of entries per tick.

An entry joins the set of the tick in which its deadline lies and leaves it when it is done, both in
O(1); only what is still there when the tick has passed is looked at. Owns no clock and no timer.

The sets of the next `SLOTS` ticks are made once and used again: a set made in the middle of a storm
and kept until its tick would hold back the whole memory that the allocator has put around it. For
the same reason those far away are few, and sets that have grown and are empty are cut down again: a
thousand calls that were in flight together leave 36 KiB behind, in every tick.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import compress, count
from typing import Final, Protocol

TICK: Final = 0.02  # seconds; a deadline is enforced at most this much late, never early
SLOTS: Final = 4096  # ticks with sets of their own: 82 s, more than the default deadline; 0.9 MiB
MASK: Final = SLOTS - 1
# Ticks; a deadline that is further away may be so much later: 1.3 s, not two per cent of it.
FAR_TICKS: Final = 64
SWEEP_FROM: Final = 8192  # sets far away; fewer are not worth a look, and take less than 4 MiB
STRETCH: Final = 64  # slots that are looked at together: those of the next 1.3 s
TIDIED: Final = 32  # slots per `tidy`: with one per tick, all within 2.6 s


class Entry(Protocol):
    """What can wait in the wheel."""

    def expire(self, now: float) -> None:
        """The deadline has passed."""


class Wheel:
    """`bucket(when).add(entry)` arms, `bucket.discard(entry)` disarms."""

    __slots__ = (
        "_armed",
        "_cursor",
        "_earlier",
        "_far",
        "_far_ticks",
        "_near",
        "_sweep_at",
        "_tidied",
    )

    def __init__(self, earlier: Callable[[float], None], now: float = 0.0) -> None:
        """*earlier* is called when there may be something to look at earlier than was known, with
        the time."""
        self._earlier = earlier
        self._cursor = int(now / TICK)  # the first tick that may not be empty
        self._near: list[set[Entry]] = [set() for _ in range(SLOTS)]
        self._far: dict[int, set[Entry]] = {}
        self._far_ticks: list[int] = []  # heap of the keys of _far
        self._armed = sys.maxsize  # the tick that *earlier*, or `next_deadline`, has told last
        self._sweep_at = SWEEP_FROM
        self._tidied = 0  # the slot that `tidy` looks at next

    def __len__(self) -> int:
        """How many sets there are, empty ones included."""
        return SLOTS + len(self._far)

    def bucket(self, when: float) -> set[Entry]:
        """Return the set for the deadline *when*, in the clock that `expire` is given.

        Whoever adds to it later than at once asks again after each `expire`: the tick of a set that
        is empty then is not waited for.
        """
        tick = int(when / TICK) + 1
        ahead = tick - self._cursor
        if ahead >= SLOTS:
            return self._bucket_far(tick)
        if ahead < 0:
            tick = self._cursor
        if tick < self._armed:
            self._armed = tick
            self._earlier(tick * TICK)
        return self._near[tick & MASK]

    def _bucket_far(self, tick: int) -> set[Entry]:
        tick = -(-tick // FAR_TICKS) * FAR_TICKS
        found = self._far.get(tick)
        if found is None:
            found = self._far[tick] = set()
            heappush(self._far_ticks, tick)
        if tick < self._armed:
            self._armed = tick
            self._earlier(tick * TICK)
        return found

    def next_deadline(self) -> float | None:
        """Return when `expire` has something to look at, or None."""
        armed = self._far_ticks[0] if self._far_ticks else sys.maxsize
        end = min(armed, self._cursor + SLOTS)
        first = self._first(self._cursor, end)
        if first < end:
            armed = first
        self._armed = armed
        return self.told

    @property
    def told(self) -> float | None:
        """What `next_deadline` would return, right behind `expire`."""
        return self._armed * TICK if self._armed != sys.maxsize else None

    def tidy(self) -> None:
        """Forget what is empty and takes memory: tables of sets that have grown, and the sets far
        away if there are many: who names a deadline in a month and ends the call at once must not
        leave a set here for a month.

        Call it with each tick in which something goes on, while nobody keeps an empty set to add
        to. Costs a microsecond, and O(1) per set that was made.
        """
        begin = self._tidied
        for entries in self._near[begin : begin + TIDIED]:
            if not entries:
                entries.clear()  # of a set without a table of its own, this does nothing
        self._tidied = (begin + TIDIED) & MASK
        if len(self._far) < self._sweep_at:
            return
        self._far = {tick: entries for tick, entries in self._far.items() if entries}
        self._far_ticks = list(self._far)
        heapify(self._far_ticks)
        self._sweep_at = max(SWEEP_FROM, 2 * len(self._far))

    def expire(self, now: float, most: int = sys.maxsize) -> int:
        """Call `expire` of the entries whose tick has passed, *most* of them; return how many.

        What is left is due at once: `next_deadline` then lies in the past.
        """
        self._armed = 0  # nobody is to be told of what is seen at the end
        expired = self._expire_near(now, most)
        while self._far_ticks and self._far_ticks[0] * TICK <= now:
            due = self._far[self._far_ticks[0]]
            if not due:
                del self._far[heappop(self._far_ticks)]
            elif expired == most:
                break
            else:
                expired += 1
                due.pop().expire(now)  # which may add to any set, to this one too
        self.next_deadline()
        return expired

    def _expire_near(self, now: float, most: int) -> int:
        expired = 0
        all_round = self._cursor + SLOTS
        while self._cursor * TICK <= now:
            due = self._near[self._cursor & MASK]
            if due:
                if expired == most:
                    break
                expired += 1
                due.pop().expire(now)
                continue
            due.clear()
            self._cursor += 1
            if self._cursor * TICK < now - TICK:
                self._pass_empty(min(all_round, int(now / TICK)))
            if self._cursor == all_round:  # nobody has called for longer than that: all are empty
                self._cursor = max(all_round, int(now / TICK))
        return expired

    def _pass_empty(self, stop: int) -> None:
        """Move the cursor over sets that are empty, at most to the tick *stop*."""
        while self._cursor < stop:
            slot = self._cursor & MASK
            passed = 0
            for entries in self._near[slot : slot + min(STRETCH, stop - self._cursor)]:
                if entries:
                    break
                entries.clear()
                passed += 1
            self._cursor += passed
            if not passed:
                break

    def _first(self, tick: int, end: int) -> int:
        """Return the first tick from *tick* on whose set is not empty; *end* if all are."""
        while tick < end:
            slot = tick & MASK
            stretch = self._near[slot : slot + min(STRETCH, end - tick)]
            found = next(compress(count(tick), stretch), None)
            if found is not None:
                return found
            tick += len(stretch)
        return tick
