"""Contenders as processes: start, wait until ready, read their CPU time, end."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent


def cpu_seconds(process: int | str) -> float:
    """Return the time on a processor of *process* so far (`self` is this one), of all threads.

    The kernel counts nanoseconds here, and hundredths of a second in `/proc/PID/stat`. A thread
    that ends takes its time along: measure while they live.
    """
    tasks = Path(f"/proc/{process}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


class Contender:
    """A running process that listens somewhere."""

    def __init__(self, process: subprocess.Popen[str], port: int) -> None:
        self.process = process
        self.port = port

    def cpu_seconds(self) -> float:
        """Return the time on a processor so far, of all threads."""
        return cpu_seconds(self.process.pid)

    def resident_bytes(self) -> int:
        """Return the resident memory now."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def command(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command with pipes for its input and output; end it afterwards. What it has to say of
    errors goes where ours goes."""
    quiet = subprocess.DEVNULL if arguments[0] != sys.executable else None
    process = subprocess.Popen(
        arguments,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=quiet,
        text=True,
        cwd=ROOT,
        env={**os.environ, "RSOCKET_BROKER_LOG__LEVEL": "warning"},
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


@contextmanager
def python(*arguments: str) -> Iterator[Contender]:
    """Run `python -m ARGUMENTS` until it prints `ready`; its first `listening` line has the port.

    Raises:
        RuntimeError: it ended before it was ready.
    """
    with command(sys.executable, "-m", *arguments) as process:
        port = 0
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("listening") and not port:
                port = int(line.strip().rpartition(":")[2])
            if line.strip() == "ready":
                yield Contender(process, port)
                return
        raise RuntimeError(f"{' '.join(arguments)} ended with {process.wait()} before it was ready")
