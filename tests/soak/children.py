"""The processes of a soak: killed, stopped, woken and started again; what they said is kept."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tests.support.processes import Process

PAGE: Final = os.sysconf("SC_PAGE_SIZE")
START_TIMEOUT: Final = 60.0  # s; a cold interpreter beside all the others
STOP_TIMEOUT: Final = 20.0  # s from SIGTERM to SIGKILL


class Child:
    """A process that is started again and again.

    Attributes:
        name, kind: `service`, `caller` or `broker`.
        violations: what it printed as such, in all its lives.
        totals: the numbers of its last `STATS` line, added up over its lives.
        busy: somebody is doing something to it; leave it alone.
    """

    def __init__(self, name: str, kind: str, command: Sequence[str], ready: str) -> None:
        self.name = name
        self.kind = kind
        self.violations: list[str] = []
        self.totals: Counter[str] = Counter()
        self.lives = 0
        self.busy = False
        self.before: list[str] = []  # what stays the same of a command that changes
        self.final: dict[str, Any] | None = None
        self._command = list(command)
        self._ready = ready
        self._process: Process | None = None
        # Reads until it is ready, also when whoever started it is cancelled: one reader at a time.
        self._starting: asyncio.Task[object] | None = None

    def use(self, command: Sequence[str]) -> None:
        """Have *command* run at the next start."""
        self._command = list(command)

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    async def start(self) -> Process:
        """Start it; return when it is ready."""
        process = Process(self._command, name=self.name)
        self._process = process
        self.lives += 1
        stream, _, pattern = self._ready.partition(":")
        ready = process.line(
            pattern,
            within=START_TIMEOUT,
            stream="stderr" if stream == "stderr" else "stdout",
        )
        self._starting = asyncio.create_task(ready)
        await asyncio.shield(self._starting)
        return process

    async def kill(self) -> None:
        """SIGKILL; also while it is stopped."""
        process, self._process = self._process, None
        if process is not None:
            process.signal(signal.SIGKILL)
            await asyncio.to_thread(process.kill)
            self._collect(process)

    async def end(self) -> str | None:
        """SIGTERM, and wait for an orderly end; return what was wrong with it."""
        process, self._process = self._process, None
        if process is None:
            return None
        status = await asyncio.to_thread(process.stop, STOP_TIMEOUT)
        self._collect(process)
        return None if status == 0 else f"{self.name} ended with status {status}"

    def freeze(self) -> None:
        if self._process is not None:
            self._process.signal(signal.SIGSTOP)

    def wake(self) -> None:
        if self._process is not None:
            self._process.signal(signal.SIGCONT)

    async def finish(self, within: float) -> str | None:
        """Ask a caller to come to an end; return what was wrong with that."""
        process = self._process
        if process is None:
            return None
        try:
            if self._starting is not None:
                await self._starting
            process.send_line("stop")
            match = await process.line(r"^FINAL (.*)", within=within)
        except AssertionError as exc:
            return f"{self.name} did not finish: {str(exc)[:2000]}"
        self.final = json.loads(match[1])
        await process.ended()
        return None

    def died(self) -> str | None:
        """Return the last words of a process that ended without being told to."""
        process = self._process
        if process is None or process.returncode is None or self.busy:
            return None
        return f"{self.name} ended by itself: {process.report()[-2000:]}"

    def current(self) -> Counter[str]:
        """The numbers so far, its present life included."""
        now = Counter(self.totals)
        if self._process is not None:
            now.update(_stats(self._process.lines()))
        return now

    def new_violations(self) -> list[str]:
        """Everything it complained of in all its lives."""
        if self._process is None:
            return self.violations
        return self.violations + _violations(self.name, self._process.lines())

    def _collect(self, process: Process) -> None:
        lines = process.lines()
        self.violations += _violations(self.name, lines)
        self.totals.update(_stats(lines))


def _violations(name: str, lines: list[str]) -> list[str]:
    return [f"{name}: {line[10:]}" for line in lines if line.startswith("VIOLATION ")]


def _stats(lines: list[str]) -> Counter[str]:
    for line in reversed(lines):
        word, _, rest = line.partition(" ")
        if word in ("STATS", "FINAL"):
            try:
                said = json.loads(rest)
            except ValueError:
                continue  # cut by a kill
            numbers = {key: said[key] for key in ("calls", "items", "bytes")}
            return Counter({**numbers, **{f"end {k}": v for k, v in said["ends"].items()}})
    return Counter()


def resident(pid: int) -> int:
    """Return the resident memory of a process in bytes; 0 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except OSError:
        return 0


def descriptors(pid: int) -> int:
    """Return how many file descriptors a process has open; 0 if it is gone."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def python(*arguments: str) -> list[str]:
    """Return the command that runs a module of ours."""
    return [sys.executable, "-m", *arguments]
