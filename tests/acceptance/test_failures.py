"""What a crash costs: of a provider, of the broker, of the network between."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from rsocket_mesh import NoRoute, PeerLost, connect
from tests.acceptance.figures import say
from tests.support.processes import BrokerProcess, Process, broker_process

pytestmark = pytest.mark.acceptance

IN_FLIGHT = 1000


async def test_a_killed_provider_is_a_typed_error_to_every_caller_at_once(
    broker: BrokerProcess, start_provider: Callable[..., Process]
) -> None:
    provider = start_provider("first")
    async with connect(broker.url("tcp")) as mesh:
        bench = mesh.service("bench")
        failed_at: list[float] = []

        async def hold() -> BaseException | None:
            try:
                await bench.request_response("hold", timeout=60)
            except PeerLost as error:
                failed_at.append(time.monotonic())
                return error
            return None

        calls = [asyncio.create_task(hold()) for _ in range(IN_FLIGHT)]
        admin = mesh.service("mesh.registry")
        described: dict[str, Any] = {}
        while described.get("in_flight", 0) < IN_FLIGHT:
            answer = await admin.request_response("describe", "bench", codec="json")
            described = answer["instances"][0]
        second = start_provider("second")
        assert second.returncode is None
        killed_at = time.monotonic()
        provider.signal(signal.SIGKILL)
        errors = await asyncio.wait_for(asyncio.gather(*calls), 10)
        took = max(failed_at) - killed_at
        assert all(isinstance(error, PeerLost) for error in errors)
        for _ in range(100):
            assert await bench.request_response("whoami", returns=str) == "second"
    assert took < 0.2
    say(f"provider killed with {IN_FLIGHT} calls in flight", f"all failed in {took * 1000:.0f} ms")


async def test_a_killed_broker_is_back_with_everything_registered(
    start_provider: Callable[..., Process], broker: BrokerProcess
) -> None:
    url = broker.url("tcp")
    start_provider("one")
    start_provider("two")
    async with connect(url) as mesh:
        bench = mesh.service("bench")
        assert await bench.request_response("echo", b"before", returns=bytes) == b"before"
        broker.process.signal(signal.SIGKILL)
        await broker.process.ended()
        await asyncio.sleep(1)  # an outage long enough for the back-off to have grown
        with broker_process(listen=[url]) as again:
            ready_at = time.monotonic()
            caller_back = 0.0
            instances: set[str] = set()
            while instances != {"one", "two"}:
                assert time.monotonic() - ready_at < 3, f"only {instances} are registered again"
                try:
                    instances.add(await bench.request_response("whoami", returns=str))
                except NoRoute:  # the caller was faster than the services
                    await asyncio.sleep(0.01)
                caller_back = caller_back or time.monotonic() - ready_at
            services_back = time.monotonic() - ready_at
            assert again.process.returncode is None
    say(
        "broker killed and started again",
        f"caller back after {caller_back:.2f} s, both services after {services_back:.2f} s",
    )
