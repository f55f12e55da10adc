"""Figures that acceptance prints, and what processes use, from the operating system's accounts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

PAGE: Final = os.sysconf("SC_PAGE_SIZE")
MIB: Final = 1024 * 1024


def resident(pid: int) -> int:
    """Return the resident memory of a process in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def peak_resident(pid: int) -> int:
    """Return the most resident memory a process ever had, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel gives no VmHWM")


def reset_peak(pid: int) -> None:
    """Forget the peak so far."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def say(what: str, figure: str) -> None:
    """Print one figure where `make acceptance` shows it."""
    print(f"\n  {what}: {figure}", flush=True)
