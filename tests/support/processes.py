"""Child processes in tests: started in a group of their own, always ended, their output kept.

`running(...)` is a context manager around one child; `broker_process(...)` is the same for the
broker and knows its addresses. Output is read by threads, so a child never blocks on a full pipe
and the waits work in plain tests and, as `await process.line(...)`, in asyncio ones. Whatever goes
wrong, the last lines of what the child printed are in the failure.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Literal, Self
from urllib.parse import urlsplit

import pytest

__all__ = ["ROOT", "BrokerProcess", "Process", "broker_process", "running"]

ROOT: Final = Path(__file__).resolve().parents[2]
START_TIMEOUT: Final = 30.0  # seconds; a cold interpreter on a busy machine of two cores
LINE_TIMEOUT: Final = 20.0  # seconds
STOP_TIMEOUT: Final = 10.0  # seconds between SIGTERM and SIGKILL
KEPT_LINES: Final = 10_000  # lines per stream; older ones are forgotten
SHOWN_LINES: Final = 60  # lines per stream in a failure
SHOWN_WIDTH: Final = 500  # characters of a line there

Stream = Literal["stdout", "stderr"]


class Process:
    """One child in a process group of its own.

    Attributes:
        name: what failures call it.
    """

    def __init__(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        name: str,
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
    ) -> None:
        self.name = name
        self._command = [os.fspath(part) for part in command]
        self._changed = threading.Condition()
        self._lines: dict[Stream, deque[str]] = {
            "stdout": deque(maxlen=KEPT_LINES),
            "stderr": deque(maxlen=KEPT_LINES),
        }
        self._unread: dict[Stream, deque[str]] = {
            "stdout": deque(maxlen=KEPT_LINES),
            "stderr": deque(maxlen=KEPT_LINES),
        }
        self._open: set[Stream] = {"stdout", "stderr"}
        self._popen = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=cwd,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
            start_new_session=True,
        )
        atexit.register(self.kill)
        assert self._popen.stdout is not None
        assert self._popen.stderr is not None
        self._readers = [
            threading.Thread(target=self._read, args=("stdout", self._popen.stdout), daemon=True),
            threading.Thread(target=self._read, args=("stderr", self._popen.stderr), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        """The process id, which is also the id of its group."""
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """The exit status, negative for a signal; None while it runs."""
        return self._popen.poll()

    def lines(self, stream: Stream = "stdout") -> list[str]:
        """Return all lines so far, also those that `wait_for_line` has consumed."""
        with self._changed:
            return list(self._lines[stream])

    def wait_for_line(
        self, pattern: str, *, timeout: float = LINE_TIMEOUT, stream: Stream = "stdout"
    ) -> re.Match[str]:
        """Return the match of the first unread line in which *pattern* is found.

        That line and those before it then count as read. Blocks the thread: in asyncio tests use
        `line`.

        Raises:
            AssertionError: no such line within *timeout* seconds, or the stream ended before one.
        """
        expression = re.compile(pattern)
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                unread = self._unread[stream]
                while unread:
                    match = expression.search(unread.popleft())
                    if match is not None:
                        return match
                if stream not in self._open:
                    break
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    break
        why = f"in {timeout:g} s" if stream in self._open else "before it ended"
        raise AssertionError(
            f"{self.name}: no line matching {pattern!r} on {stream} {why}\n{self.report()}"
        )

    async def line(
        self, pattern: str, *, within: float = LINE_TIMEOUT, stream: Stream = "stdout"
    ) -> re.Match[str]:
        """`wait_for_line` without blocking the loop. If cancelled, a line may be lost."""
        return await asyncio.to_thread(self.wait_for_line, pattern, timeout=within, stream=stream)

    def send_line(self, text: str) -> None:
        """Write *text* and a line end to the child's standard input.

        Raises:
            AssertionError: the child no longer reads.
        """
        assert self._popen.stdin is not None
        try:
            self._popen.stdin.write(text.encode() + b"\n")
            self._popen.stdin.flush()
        except OSError as exc:
            raise AssertionError(f"{self.name} no longer reads: {exc}\n{self.report()}") from exc

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the whole group; a child that has ended is left alone."""
        if self._popen.poll() is None:
            os.killpg(self._popen.pid, number)

    def wait(self, timeout: float = STOP_TIMEOUT) -> int:
        """Return the exit status, negative for a signal. Blocks the thread.

        Raises:
            AssertionError: it still runs after *timeout* seconds.
        """
        try:
            return self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"{self.name} still runs after {timeout:g} s\n{self.report()}"
            ) from None

    async def ended(self, within: float = STOP_TIMEOUT) -> int:
        """`wait` without blocking the loop."""
        return await asyncio.to_thread(self.wait, within)

    def stop(self, timeout: float = STOP_TIMEOUT) -> int:
        """Send SIGTERM and return the exit status; after *timeout* seconds, SIGKILL. Idempotent."""
        self.signal(signal.SIGTERM)
        try:
            self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            pass
        self.kill()
        return self._popen.wait()

    def kill(self) -> None:
        """End the whole group at once and release everything. Idempotent."""
        try:
            os.killpg(self._popen.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._popen.wait()
        if self._popen.stdin is not None:
            try:
                self._popen.stdin.close()
            except OSError:
                pass  # a line that nobody read any more
        for reader in self._readers:
            reader.join()
        atexit.unregister(self.kill)

    def report(self) -> str:
        """Return the state and the last lines of both streams, for a failure's text."""
        status = self._popen.poll()
        head = f"{self.name} ({' '.join(self._command)}): " + (
            "running" if status is None else f"exit status {status}"
        )
        parts = [head]
        for stream in self._lines:
            lines = self.lines(stream)
            dropped = max(0, len(lines) - SHOWN_LINES)
            parts.append(f"--- {stream}" + (f", {dropped} lines before" if dropped else ""))
            parts.extend(line[:SHOWN_WIDTH] for line in lines[-SHOWN_LINES:])
        return "\n".join(parts)

    def _read(self, stream: Stream, pipe: IO[bytes]) -> None:
        with pipe:
            for raw in pipe:
                line = raw.decode(errors="replace").rstrip("\r\n")
                with self._changed:
                    self._lines[stream].append(line)
                    self._unread[stream].append(line)
                    self._changed.notify_all()
        with self._changed:
            self._open.discard(stream)
            self._changed.notify_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None and not isinstance(error, pytest.skip.Exception):
            error.add_note(self.report())
        self.stop()


@contextmanager
def running(
    *command: str | os.PathLike[str],
    name: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
) -> Iterator[Process]:
    """Run *command* while the block runs; SIGTERM, and if need be SIGKILL, to its group after it.

    A failure inside the block carries the child's last lines as a note.
    """
    with Process(command, name=name or Path(command[0]).name, env=env, cwd=cwd) as process:
        yield process


class BrokerProcess:
    """A broker that is ready.

    Attributes:
        process: the child.
        urls: what it listens on, with the real ports, in the order it was printed.
    """

    def __init__(self, process: Process, urls: list[str]) -> None:
        self.process = process
        self.urls = urls

    def url(self, scheme: str) -> str:
        """Return the first address of *scheme* (`tcp`, `ws`, `http`...)."""
        for url in self.urls:
            if urlsplit(url).scheme == scheme:
                return url
        raise AssertionError(f"the broker has no {scheme} listener: {self.urls}")


@contextmanager
def broker_process(
    *arguments: str,
    listen: Sequence[str] = ("tcp://127.0.0.1:0", "ws://127.0.0.1:0"),
    admin: str = "",
    env: Mapping[str, str] | None = None,
) -> Iterator[BrokerProcess]:
    """Run `python -m broker` while the block runs; yield it when it has printed `ready`.

    Args:
        arguments: further options, such as `--config`, and the file.
        listen: one `--listen` each; empty where a config file names the listeners.
        admin: the address of admin HTTP; empty switches it off.
        env: further environment variables.
    """
    command = [sys.executable, "-m", "broker", "--admin", admin, *arguments]
    for url in listen:
        command += ["--listen", url]
    with running(*command, name="broker", env=env) as process:
        process.wait_for_line(r"^ready$", timeout=START_TIMEOUT)
        urls = [
            line.split(maxsplit=1)[1] for line in process.lines() if line.startswith("listening ")
        ]
        yield BrokerProcess(process, urls)
