"""What the test kit promises: a mesh inside one test, quick, and the same every time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from rsocket_mesh import PeerLost, Service
from rsocket_mesh.testing import broker, run
from tests.acceptance.figures import say

pytestmark = pytest.mark.acceptance

HOUR = 3600.0  # s
ROUNDS = 15  # the quietest of them says what the test costs; what else a machine does only adds
SERVICES = 100


def cpu_of(test: Callable[[], Awaitable[list[str]]]) -> tuple[float, set[str]]:
    """Return the least CPU seconds of a run of *test*, loop and all, and the traces there were."""
    least, traces = float("inf"), set[str]()
    for _ in range(ROUNDS):
        began = time.process_time()
        traces.add("\n".join(run(test())))  # type: ignore[arg-type]  # it is a coroutine function
        least = min(least, time.process_time() - began)
    return least, traces


def a_ticker(name: str) -> Service:
    ticker = Service(name)

    @ticker.request_stream
    async def ticks(count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number
            await asyncio.sleep(1)

    @ticker.request_response
    async def double(number: int) -> int:
        return 2 * number

    return ticker


async def cut_between_two_items() -> list[str]:
    ticker = a_ticker("ticker")
    async with broker(seed=7) as mesh_broker:
        await mesh_broker.serve(ticker)
        async with mesh_broker.connect() as mesh:
            mesh_broker.link(ticker).cut_after(items=1)
            got: list[int] = []

            async def consume() -> None:
                async with mesh.service("ticker").request_stream("ticks", 5, returns=int) as items:
                    async for item in items:
                        got.append(item)  # noqa: PERF401  # those before the cut count

            consumer = asyncio.create_task(consume())
            await mesh_broker.clock.advance(HOUR)
            assert got == [0]
            assert isinstance(consumer.exception(), PeerLost)
            assert await mesh.service("ticker").request_response("double", 21, returns=int) == 42
        return mesh_broker.trace


async def a_hundred_services() -> list[str]:
    async with broker(seed=7) as mesh_broker:
        for number in range(SERVICES):
            await mesh_broker.serve(a_ticker(f"service-{number}"))
        async with mesh_broker.connect() as mesh:
            answers = await asyncio.gather(
                *(
                    mesh.service(f"service-{number}").request_response("double", number)
                    for number in range(SERVICES)
                )
            )
            assert answers == [2 * number for number in range(SERVICES)]
            for number in range(0, SERVICES, 10):
                mesh_broker.link(f"service-{number}").cut()
            await mesh_broker.clock.advance(60)
            assert len(await mesh.service("mesh.registry").request_response("list")) == SERVICES
        return mesh_broker.trace


def test_a_cut_between_two_items_and_an_hour_take_less_than_50_ms_and_leave_the_same_trace() -> (
    None
):
    seconds, traces = cpu_of(cut_between_two_items)
    (trace,) = traces
    say("a cut between two items, then an hour", f"{1000 * seconds:.1f} ms of CPU, one trace of it")
    print(trace)
    assert seconds < 0.050


def test_a_mesh_of_100_services_fits_into_one_test_of_less_than_a_second() -> None:
    seconds, traces = cpu_of(a_hundred_services)
    (trace,) = traces
    say(
        f"{SERVICES} services connected and called, ten cut off and back, a minute",
        f"{1000 * seconds:.0f} ms of CPU, one trace of {trace.count(chr(10)) + 1} lines",
    )
    assert seconds < 1.0
