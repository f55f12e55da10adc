"""The memory of this process and of the machine, as far as the system tells.

Linux tells both. Elsewhere `resident` is 0, and so nothing is ever near a budget.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Final

SHARE: Final = 0.75  # of the machine: the rest is for its other programs, and for its files

_STATM: Final = Path("/proc/self/statm")
_CGROUP: Final = Path("/sys/fs/cgroup/memory.max")


def resident() -> int:
    """Return the resident memory of this process in bytes; 0 where the system does not tell."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def default_budget() -> int:
    """Return three quarters of what the machine has, or the control group that we are in; bytes."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        total = min(total, int(_CGROUP.read_text()))
    except (OSError, ValueError):  # there is none, or it says `max`
        pass
    return int(total * SHARE)


def trimmer() -> Callable[[], None]:
    """Return what has freed memory given back to the system; does nothing without the GNU library.

    It takes 1 ms per 10 MiB, so a thread does it: nobody waits for it, unless for a large piece of
    memory in that moment.
    """
    try:
        trim = ctypes.CDLL(ctypes.util.find_library("c")).malloc_trim
    except (OSError, AttributeError):
        return lambda: None
    return lambda: Thread(target=trim, args=(0,), name="malloc_trim", daemon=True).start()
