"""Contenders as processes: start, wait until ready, read their CPU time, end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).resolve().parent.parent


class Contender:
    """A running process that listens somewhere."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port

    def cpu_seconds(self) -> float:
        """Return the time on a processor so far, of all threads. The kernel counts nanoseconds
        here, and hundredths of a second in `/proc/PID/stat`."""
        tasks = Path(f"/proc/{self.process.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def resident_bytes(self) -> int:
        """Return the resident memory now."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def python(*arguments: str) -> Iterator[Contender]:
    """Run `python -m ARGUMENTS` until it prints `ready`; its first `listening` line has the port.

    Raises:
        RuntimeError: it ended before it was ready.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", *arguments], stdout=subprocess.PIPE, text=True, cwd=_ROOT
    )
    try:
        port = 0
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("listening") and not port:
                port = int(line.strip().rpartition(":")[2])
            if line.strip() == "ready":
                yield Contender(process, port)
                return
        raise RuntimeError(f"{' '.join(arguments)} ended with {process.wait()} before it was ready")
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
