"""Which processor is whose. Load on one core, the middle on another, where there are two.

Without pinning the scheduler moves processes about, and a measurement says more about it than about
the contender. An answering end that is a process of its own (nginx behind a proxy) takes a third
core, or shares the load's.
"""

from __future__ import annotations

import os
import shutil
from typing import Final

AVAILABLE: Final[tuple[int, ...]] = tuple(sorted(os.sched_getaffinity(0)))
PINNED: Final = len(AVAILABLE) > 1 and shutil.which("taskset") is not None
LOAD: Final = AVAILABLE[0]
MIDDLE: Final = AVAILABLE[1] if PINNED else AVAILABLE[0]
ANSWER: Final = AVAILABLE[2] if PINNED and len(AVAILABLE) > 2 else LOAD


def pinned(core: int | None, *command: str) -> list[str]:
    """Return *command* so that it, and all it starts, runs on *core*; None lets it run anywhere."""
    if core is None or not PINNED:
        return list(command)
    return ["taskset", "-c", str(core), *command]


def describe() -> str:
    """Return what was done, for the report."""
    if not PINNED:
        return "nothing is pinned: one processor only, or no `taskset`"
    return (
        f"load on core {LOAD}, the middle on core {MIDDLE}, an answering end of its own on core"
        f" {ANSWER} (taskset, from the start of the process); workers and processes of typed calls"
        " run where the system puts them"
    )
