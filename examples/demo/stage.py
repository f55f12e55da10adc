"""The processes of the demo: each is started in the open and ended in any case."""

import asyncio
import contextlib
import os
import sys
import tempfile
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from examples.demo.show import Surprise
from rsocket_mesh import Mesh

ROOT = Path(__file__).parents[2]
ANY_PORT = {"--listen": "tcp://127.0.0.1:0", "--admin": "http://127.0.0.1:0"}
START_TIMEOUT = 30.0  # s; a cold start on a machine with much else to do
END_TIMEOUT = 5.0  # s between SIGTERM and SIGKILL
SHOWN = 12  # lines of each process that a failure shows


class Stage:
    """A broker, services, and a directory for files; leaving the block ends and removes all.

    Attributes:
        broker: the process of the broker that runs now.
        url: where services and callers connect.
        admin: the broker's page for people with browsers.
        directory: for files of the demo.
    """

    broker: Process
    url: str
    admin: str

    def __init__(self) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="rsocket-mesh-demo-")
        self.directory = Path(self._temporary.name)
        self._logs = self.directory / "logs"
        self._logs.mkdir()
        self._processes: list[tuple[str, Process]] = []

    async def start_broker(self) -> None:
        """Start the broker on free ports, and later again on the same ones."""
        again = {"--listen": self.url, "--admin": self.admin} if self._processes else ANY_PORT
        options = [word for option in again.items() for word in option]
        self.broker = await self._start("broker", "-m", "broker", *options)
        assert self.broker.stdout is not None
        try:
            async with asyncio.timeout(START_TIMEOUT):
                urls = []
                while (line := (await self.broker.stdout.readline()).decode().strip()) != "ready":
                    if not line:
                        raise Surprise("the broker ended before it was ready")
                    urls.append(line.removeprefix("listening "))
        except TimeoutError:
            raise Surprise(f"the broker was not ready after {START_TIMEOUT:g} s") from None
        self.url, self.admin = urls

    async def start(self, example: str, *arguments: str) -> Process:
        """Start an example as a process of its own; it connects by itself."""
        return await self._start(example, "-m", f"examples.{example}", *arguments)

    def named(self, example: str) -> Process:
        """The first process that was started of this example."""
        return next(process for name, process in self._processes if name == example)

    async def registered(self, mesh: Mesh, **instances: int) -> None:
        """Return when the broker has so many instances of each of these services."""
        registry = mesh.service("mesh.registry")
        try:
            async with (
                asyncio.timeout(START_TIMEOUT),
                registry.request_stream("watch") as changes,
            ):
                async for _ in changes:
                    there = {
                        service["name"]: service["instances"]
                        for service in await registry.request_response("list")
                    }
                    if all(there.get(name, 0) == count for name, count in instances.items()):
                        return
        except TimeoutError:
            pass
        raise Surprise(f"not all services registered within {START_TIMEOUT:g} s: {instances}")

    def last_words(self) -> str:
        """The last lines that each process has logged."""
        parts = []
        for log in sorted(self._logs.iterdir()):
            lines = log.read_text(errors="replace").splitlines()[-SHOWN:]
            parts.append("\n".join([f"--- {log.stem}", *lines]))
        return "\n".join(parts)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for _, process in reversed(self._processes):
            _signal(process.terminate)
        try:
            async with asyncio.timeout(END_TIMEOUT):
                for _, process in self._processes:
                    await process.wait()
        except TimeoutError:
            pass
        finally:
            for _, process in self._processes:
                _signal(process.kill)
                await process.wait()
            self._temporary.cleanup()

    async def _start(self, name: str, *arguments: str) -> Process:
        number = len(self._processes)
        with (self._logs / f"{number}-{name}.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *arguments,
                stdin=DEVNULL,
                stdout=PIPE if name == "broker" else log,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, "RSOCKET_MESH_BROKER": self.url if number else ""},
                start_new_session=True,  # Ctrl-C reaches the demo, and the demo ends the others
            )
        self._processes.append((name, process))
        return process


def _signal(send: Callable[[], None]) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended already
        send()
