"""Contenders as process trees: start, wait until ready, CPU and memory, end.

A proxy has workers and an interpreter has threads: what counts is the sum over the process that was
started and all its descendants, from the operating system's accounts.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks import cores

ROOT: Final = Path(__file__).resolve().parent.parent
READY_TIMEOUT: Final = 20.0  # seconds; a cold start on a busy machine
STOP_TIMEOUT: Final = 5.0  # seconds between SIGTERM and SIGKILL
PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class Unavailable(Exception):
    """A contender cannot be had here; the text says what is missing and how to get it."""


@dataclass(frozen=True)
class Running:
    """A contender that is ready.

    Attributes:
        address: what the load connects to: `tcp:PORT`, `unix:PATH`, `tls:PORT`, `ws:PORT`, or
            `self` where the load connects to itself.
        pids: the roots of the process trees in the middle; none for a direct call.
        behind: the port where a proxy expects the service; the load listens there.
        version: for the report.
    """

    address: str
    pids: tuple[int, ...] = ()
    behind: int = 0
    version: str = ""

    def tree(self) -> list[int]:
        """Return the processes in the middle, descendants included."""
        return [pid for root in self.pids for pid in tree(root)]

    def cpu_seconds(self) -> float:
        """Return the time on a processor so far, of all processes and threads in the middle."""
        return sum(cpu_seconds(pid) for pid in self.tree())

    def resident_bytes(self) -> int:
        """Return the resident memory of the middle now. Pages that are shared count for each."""
        return sum(resident_bytes(pid) for pid in self.tree())


@dataclass(frozen=True)
class Contender:
    """Somebody to measure.

    Attributes:
        name: unique; the report's.
        speaks: `rsocket`, `bytes` (RSocket that nobody looks at), `nats`, `http2` or `direct`.
        start: starts it for one load case; raises Unavailable.
        about: one line for the report.
        can: which interactions it knows besides request-response: `stream`, `channel`, `fnf`,
            `many` (routes and instances), `sessions` (connections are something it knows of).
        only: workloads that it takes part in; empty for all that speak its language.
    """

    name: str
    speaks: str
    start: Callable[[Options], AbstractContextManager[Running]]
    about: str
    can: frozenset[str] = frozenset()
    only: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Options:
    """What a workload asks of a contender.

    Attributes:
        core: where the middle runs; None for anywhere.
        room: connections and streams in the thousands are coming.
    """

    core: int | None = cores.MIDDLE
    room: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)


def cpu_seconds(pid: int) -> float:
    """Return the time on a processor so far, of all threads. The kernel counts nanoseconds here,
    and hundredths of a second in `/proc/PID/stat`. A thread that ends takes its time along."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            total += int((task / "schedstat").read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            pass  # a thread that ended while we looked
    return total / 1e9


def resident_bytes(pid: int) -> int:
    """Return the resident memory of one process now."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def tree(root: int) -> list[int]:
    """Return *root* and its descendants."""
    found, at = [root], 0
    while at < len(found):
        try:
            tasks = list(Path(f"/proc/{found[at]}/task").iterdir())
            for task in tasks:
                found += [int(pid) for pid in (task / "children").read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            pass
        at += 1
    return found


def said_by(*command: str) -> str:
    """Return what a short command prints, on both streams; empty if it is not there."""
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, cwd=ROOT, timeout=READY_TIMEOUT
        )
    except FileNotFoundError:
        return ""
    return (done.stdout + done.stderr).strip()


def free_port() -> int:
    """Return a port that was free a moment ago, for programs that cannot choose one."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
    return port


@contextmanager
def process(
    command: Sequence[str],
    *,
    core: int | None,
    ready: Callable[[subprocess.Popen[str]], bool],
    environment: Mapping[str, str] | None = None,
) -> Iterator[subprocess.Popen[str]]:
    """Run *command* while the block runs, in a process group of its own.

    Args:
        core: where it runs, with all it starts; None for anywhere.
        ready: asked again and again until it says so.
    Raises:
        Unavailable: the command is not there, ended early or was not ready in time; with the last
            line that it wrote to stderr.
    """
    with tempfile.TemporaryFile("w+") as errors:
        try:
            child = subprocess.Popen(
                cores.pinned(core, *command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=ROOT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(environment or {})},
                start_new_session=True,
            )
        except FileNotFoundError as exc:
            raise Unavailable(f"{command[0]} is not installed") from exc
        try:
            deadline = time.monotonic() + READY_TIMEOUT
            while not ready(child):
                if child.poll() is not None or time.monotonic() > deadline:
                    errors.seek(0)
                    said = errors.read().strip().splitlines() or ["it said nothing"]
                    raise Unavailable(f"{Path(command[0]).name} did not start: {said[-1][:200]}")
                time.sleep(0.002)
            yield child
        finally:
            _end(child)


def _end(child: subprocess.Popen[str]) -> None:
    """End *child* and its whole group."""
    try:
        os.killpg(child.pid, signal.SIGTERM)
        child.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        pass
    except ProcessLookupError:
        pass
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:
                pass  # a line that nobody read any more


def listens(port: int) -> Callable[[subprocess.Popen[str]], bool]:
    """Return a check that somebody accepts connections at *port*."""

    def check(child: subprocess.Popen[str]) -> bool:
        if child.poll() is not None:
            return False
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            return False
        return True

    return check


class Lines:
    """A check for programs that print `listening URL` and then `ready`; keeps the addresses."""

    def __init__(self) -> None:
        self.urls: list[str] = []

    def __call__(self, child: subprocess.Popen[str]) -> bool:
        assert child.stdout is not None
        line = child.stdout.readline().strip()  # blocks until it says something or ends
        if line.startswith("listening "):
            self.urls.append(line.split()[1])
        if not line:
            child.wait()
        return line == "ready"
