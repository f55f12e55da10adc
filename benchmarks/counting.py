"""What processes have cost so far: instructions, where the machine counts them, else CPU time.

Instructions hardly differ from run to run, whatever else the machine does; but few virtual machines
pass the processor's counters on. CPU time is the kernel's account, in nanoseconds. Neither knows of
time spent waiting.
Source: perf_event_open(2).
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Final

HARDWARE: Final = 0  # types of events
SOFTWARE: Final = 1
INSTRUCTIONS: Final = 1  # an event of the hardware
TASK_CLOCK: Final = 1  # an event of the software: nanoseconds on a processor
_SYSCALLS: Final = {"x86_64": 298, "aarch64": 241}
_SIZE: Final = 112  # bytes of the first versions' attributes, which every kernel takes
_INHERIT: Final = 1 << 1  # threads that are started later count too
_EXCLUDE_KERNEL: Final = 1 << 5  # what ordinary users may count
_EXCLUDE_HYPERVISOR: Final = 1 << 6


class Meter(ABC):
    """Reads one kind of cost of processes. Attributes: name: a stable word for it."""

    name: str

    @abstractmethod
    def read(self, pid: int) -> float:
        """Return what the process has cost since the first read of it, or since its start."""


class CpuTime(Meter):
    """Seconds on a processor, of all threads."""

    name = "cpu"

    def read(self, pid: int) -> float:
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


class Events(Meter):
    """Events of one kind outside of the kernel, counted from the first `read` of a process on.

    The thread that the process began with is counted, and those that start later.
    """

    def __init__(self, name: str, kind: int, event: int) -> None:
        """Raises:
        OSError: the machine, or the kernel's policy, does not let us count them.
        """
        self.name = name
        self._attributes = struct.pack(
            "<IIQQQQQ",
            kind,
            _SIZE,
            event,
            0,  # no sampling
            0,
            0,
            _INHERIT | _EXCLUDE_KERNEL | _EXCLUDE_HYPERVISOR,
        ).ljust(_SIZE, b"\0")
        self._files: dict[int, int] = {}
        os.close(self._open(0))

    def read(self, pid: int) -> float:
        if pid not in self._files:
            self._files[pid] = self._open(pid)
        (count,) = struct.unpack("<q", os.read(self._files[pid], 8))
        return float(count)

    def close(self) -> None:
        """Count no more."""
        for file in self._files.values():
            os.close(file)
        self._files.clear()

    def _open(self, pid: int) -> int:
        number = _SYSCALLS.get(platform.machine())
        if number is None:
            raise OSError(f"the number of perf_event_open on {platform.machine()} is not known")
        library = ctypes.CDLL(None, use_errno=True)
        file: int = library.syscall(number, self._attributes, pid, -1, -1, 0)
        if file < 0:
            error = ctypes.get_errno()
            raise OSError(error, f"perf_event_open: {os.strerror(error)}")
        return file


def best_meter() -> Meter:
    """Return the meter that differs least from run to run, of those that work here."""
    try:
        return Events("instructions", HARDWARE, INSTRUCTIONS)
    except OSError:
        return CpuTime()
