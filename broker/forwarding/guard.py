"""The last line of defence: what the broker does as its memory nears the configured budget.

Limits bound what one peer can make it hold, not what thousands of them can together. So the memory
of the process is measured a few times per second, and in three steps less is promised, new work is
refused, and whoever holds most is let go. Going back takes a little more room than going forth, so
that a step does not flicker. `step_of` decides and knows no clock; the rest carries it out.

Far below the budget, too, what is over is not kept: the allocator holds what was freed in the
middle of its heap until somebody says that it is not needed soon. `Leftovers` says when.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from rsocket_mesh.errors import Overloaded
from rsocket_mesh.transport.framed import HIGH_WATER

if TYPE_CHECKING:
    from broker.forwarding.hub import Hub
    from broker.forwarding.link import Link

INTERVAL: Final = 0.25  # seconds between two looks: what one core can fill in that time is bounded
RETRY_MS: Final = 1000  # what refused callers are told: four looks
BACK: Final = 0.03  # of the budget; so much below its threshold a step ends
WINDOW_SHARE: Final = 8  # streams get this part of their windows from the first step on
WORTH_CLOSING: Final = 1024 * 1024  # bytes; who has less waiting is not the problem
STILL: Final = 1024 * 1024  # bytes; memory that changes by less between two looks stands still
CALM: Final = 1.0  # seconds that it has to stand still: what goes on needs again what it frees
WORTH_RETURNING: Final = 4 * 1024 * 1024  # bytes above the least that was seen

_log: Final = logging.getLogger("rsocket_broker.memory")


class Step(IntEnum):
    """How near the budget is."""

    CALM = 0
    SHRINK = 1  # windows are smaller
    REFUSE = 2  # new requests and sessions are refused as well
    RESET = 3  # and whoever holds most is let go


THRESHOLDS: Final = {Step.SHRINK: 0.85, Step.REFUSE: 0.92, Step.RESET: 0.95}  # of the budget


def step_of(used: int, budget: int, before: Step) -> Step:
    """Return the step for *used* bytes of *budget*, coming from *before*."""
    share = used / budget
    reached = Step.CALM
    for step, threshold in THRESHOLDS.items():
        if share >= (threshold - BACK if step <= before else threshold):
            reached = step
    return reached


class Leftovers:
    """Notices that memory has grown and stands still: what is freed by now can be given back.

    If nothing is, the growth was needed, and only growth beyond it counts from then on.
    """

    def __init__(self, used: int, now: float) -> None:
        self._least = self._last = used
        self._since = now
        self._is_returned = False  # the next look shows what is really needed

    def look(self, used: int, now: float) -> bool:
        """Return whether it is time to give memory back, *used* bytes being in use."""
        self._least = used if self._is_returned else min(self._least, used)
        self._is_returned = False
        if abs(used - self._last) > STILL:
            self._last, self._since = used, now
        elif used - self._least >= WORTH_RETURNING and now - self._since >= CALM:
            self._last, self._since = used, now
            self._is_returned = True
        return self._is_returned


class MemoryGuard:
    """Watches one process; an entry of the wheel.

    Attributes:
        budget: bytes.
        used: bytes at the last look.
        step: what is in force.
    """

    def __init__(
        self, hub: Hub, budget: int, resident: Callable[[], int], give_back: Callable[[], None]
    ) -> None:
        """*resident* returns the memory of the process in bytes; *give_back* has what the allocator
        holds for later returned to the system, and may take its time for it."""
        self.budget = budget
        self.used = 0
        self.step = Step.CALM
        self._hub = hub
        self._resident = resident
        self._give_back = give_back
        self._leftovers = Leftovers(resident(), hub.now)
        self.expire(hub.now)

    def expire(self, now: float) -> None:
        """Look, act, and come again (called by the wheel)."""
        self.used = self._resident()
        step = step_of(self.used, self.budget, self.step)
        if step is not self.step:
            self._enter(step)
        if step is Step.RESET:
            self._let_go()
        if self._leftovers.look(self.used, now) or step:
            self._give_back()
        self._hub.wheel.bucket(now + INTERVAL).add(self)

    def _enter(self, step: Step) -> None:
        level = logging.WARNING if step > self.step else logging.INFO
        share = 100 * self.used / self.budget
        _log.log(level, "memory at %.0f %% of limits.memory_bytes: %s", share, step.name.lower())
        if step > self.step:
            self._hub.counters.limits["memory_bytes"] += 1
        self.step = step
        part = WINDOW_SHARE if step else 1
        limits = self._hub.config.limits
        self._hub.stream_window = limits.stream_window_bytes // part
        self._hub.items_under_way = (limits.outbound_bytes - HIGH_WATER) // part
        self._hub.refuse_work(self._refusal if step >= Step.REFUSE else None)

    def _refusal(self) -> Overloaded:
        return Overloaded(
            f"the broker uses {self.used} of {self.budget} bytes", retry_after_ms=RETRY_MS
        )

    def _let_go(self) -> None:
        """Free what can be freed at once: requests that wait, what the largest resumable session
        keeps to be sent again (nobody misses it unless a connection breaks), the fullest queue."""
        for arriving in list(self._hub.held):
            arriving.give_up(self._refusal())
        pool = self._hub.sessions.pool
        if pool.used >= WORTH_CLOSING:
            pool.relieve()
        peers = (link for link in self._hub.links.values() if not link.is_sibling)
        fullest = max(peers, key=_waiting, default=None)
        if fullest is not None and (waiting := _waiting(fullest)) >= WORTH_CLOSING:
            fullest.cut_off(
                "memory", f"the broker is short of memory, and {waiting} bytes wait for this peer"
            )


def _waiting(link: Link) -> int:
    return link.transport.outbound_size() if link.congested else 0
