"""A broker of several workers as processes, and who is at which of them."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rsocket_mesh import Service
from tests.support.processes import BrokerProcess, broker_process

WAIT = 20.0  # s; a worker that is started again takes half of one, a busy machine some


class Workers:
    """A running broker that has several.

    Attributes:
        broker: its processes; `url` of the first listener.
    """

    def __init__(self, broker: BrokerProcess) -> None:
        self.broker = broker
        self.url = broker.urls[0]

    def api(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.broker.url('http')}{path}") as answer:
            return json.load(answer)

    def metric(self, name: str, labels: str = "") -> float:
        with urllib.request.urlopen(f"{self.broker.url('http')}/metrics") as answer:
            text = answer.read().decode()
        found = re.search(rf"^rsocket_broker_{name}{re.escape(labels)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def pids(self) -> list[int]:
        return [one["pid"] for one in self.api("/api/v1/workers")["workers"]]

    def placed(self) -> list[int]:
        """How many connections each worker has."""
        return [one["connections"] for one in self.api("/api/v1/workers")["workers"]]

    def worker_of(self, app: str) -> int:
        """The worker that has the one connection of *app*."""
        rows = self.api("/api/v1/connections")["connections"]
        (worker,) = [row["worker"] for row in rows if row["app"] == app]
        return int(worker)

    async def until(self, condition: Any, what: str) -> None:
        """Return when *condition*, which may ask the broker, holds."""
        deadline = asyncio.get_running_loop().time() + WAIT
        while not await asyncio.to_thread(condition):
            assert asyncio.get_running_loop().time() < deadline, f"not within {WAIT} s: {what}"
            await asyncio.sleep(0.02)


@contextmanager
def a_broker_of(
    workers: int,
    *arguments: str,
    listen: Sequence[str] = ("tcp://127.0.0.1:0",),
    **limits: object,
) -> Iterator[Workers]:
    """Run a broker of so many workers while the block runs."""
    env = {f"RSOCKET_BROKER_LIMITS__{key.upper()}": str(value) for key, value in limits.items()}
    with broker_process(
        *("--workers", str(workers), *arguments),
        listen=listen,
        admin="http://127.0.0.1:0",
        env=env,
    ) as broker:
        yield Workers(broker)


class Models:
    """A service with one method per model; `name` is its name, and what it answers."""

    def __init__(self, name: str, **options: Any) -> None:
        self.service = Service(name, **options)
        self.noted: list[int] = []
        self.working = 0

        @self.service.request_response
        async def who(number: int) -> str:
            return f"{name} {number}"

        @self.service.request_response
        async def slow(seconds: float) -> str:
            self.working += 1
            try:
                await asyncio.sleep(seconds)
            finally:
                self.working -= 1
            return name

        @self.service.request_response
        async def fail(text: str) -> None:
            raise ValueError(text)

        @self.service.request_stream
        async def numbers(how_many: int) -> AsyncIterator[int]:
            for number in range(how_many):
                yield number

        @self.service.request_channel
        async def doubled(items: AsyncIterator[int]) -> AsyncIterator[int]:
            async for number in items:
                yield 2 * number

        @self.service.fire_and_forget
        async def note(number: int) -> None:
            self.noted.append(number)

    def answers_where(self, answer: Callable[[], int]) -> None:
        """Add a method `where` that answers what *answer* returns."""

        @self.service.request_response
        async def where(number: int) -> int:
            return answer()
