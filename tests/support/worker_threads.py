"""A supervisor whose workers are threads of this process: for what cannot be done to a process."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from broker.workers import process, worker
from broker.workers.hub import WorkerHub
from broker.workers.siblings import Sibling, SiblingLink
from tests.support.waiting import until


class WorkerThreads:
    """Takes the place of `subprocess.Popen` in `broker.workers.process`.

    Attributes:
        started: the workers, in the order in which they were started.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started: list[WorkerThread] = []
        names = {name: getattr(subprocess, name) for name in ("DEVNULL", "TimeoutExpired")}
        monkeypatch.setattr(process, "subprocess", SimpleNamespace(Popen=self._start, **names))
        monkeypatch.setattr(worker.logs, "configure", lambda *_, **__: None)
        links = self._links = set[SiblingLink]()
        meet = WorkerHub.meet

        def meet_and_remember(hub: WorkerHub, index: int, number: int) -> Sibling:
            sibling = meet(hub, index, number)
            links.update(sibling.links())
            return sibling

        monkeypatch.setattr(WorkerHub, "meet", meet_and_remember)

    def _start(self, command: list[str], **_: Any) -> WorkerThread:
        started = WorkerThread(os.dup(int(command[3])), self._links)
        self.started.append(started)
        return started


class WorkerThread:
    """One worker; the part of `Popen` that is used."""

    pid = 0

    def __init__(self, descriptor: int, links: set[SiblingLink]) -> None:
        self._links = links
        self._worker: worker.Worker | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, args=(descriptor,), daemon=True)
        self._thread.start()

    def _run(self, descriptor: int) -> None:
        asyncio.run(self._serve(descriptor))

    async def _serve(self, descriptor: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._worker = worker.Worker(socket.socket(fileno=descriptor))
        await self._worker.run()
        ours = [link for link in self._links if link.hub is self._worker._hub]
        await until(lambda: not any(link.transport._socket for link in ours))

    def do(self, act: Callable[[WorkerHub], None]) -> None:
        """Do *act* with the hub of the worker, in its thread."""
        assert self._loop is not None
        assert self._worker is not None
        self._loop.call_soon_threadsafe(act, self._worker._hub)

    def wait(self, timeout: float | None = None) -> int:
        self._thread.join(timeout)
        return 0

    def kill(self) -> None:
        """It ends when its channel is closed."""
