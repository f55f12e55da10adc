"""Streams through the broker: complete, in order, exact in demand, and stopped at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from rsocket_mesh import connect
from tests.acceptance.figures import say
from tests.support.processes import BrokerProcess, Process

pytestmark = pytest.mark.acceptance

COUNT = 1_000_000


async def test_a_million_items_arrive_complete_and_in_order(
    broker: BrokerProcess, start_provider: Callable[..., Process]
) -> None:
    start_provider()
    async with connect(broker.url("tcp")) as mesh:
        bench = mesh.service("bench")
        began = time.perf_counter()
        expected = 0
        async with bench.request_stream("numbers", COUNT, returns=int, prefetch=256) as numbers:
            async for number in numbers:
                assert number == expected
                expected += 1
        took = time.perf_counter() - began
    assert expected == COUNT
    say("stream of 1,000,000 items", f"{took:.1f} s, {COUNT / took:,.0f} items/s")


async def test_who_asks_for_ten_gets_ten_and_the_provider_yields_no_more(
    broker: BrokerProcess, start_provider: Callable[..., Process]
) -> None:
    start_provider()
    async with connect(broker.url("tcp")) as mesh:
        bench = mesh.service("bench")
        async with bench.request_stream("numbers", COUNT, returns=int, limit=10) as numbers:
            got = [number async for number in numbers]
            yielded, _ = await bench.request_response("account", returns=tuple[int, float])
    assert got == list(range(10))
    assert yielded <= 10
    say("asked for 10", f"got {len(got)}, the provider yielded {yielded}")


async def test_cancelling_stops_the_provider_within_100_ms(
    broker: BrokerProcess, start_provider: Callable[..., Process]
) -> None:
    start_provider()
    async with connect(broker.url("tcp")) as mesh:
        bench = mesh.service("bench")
        delays = []
        for _ in range(5):
            async with bench.request_stream("ticks", 0.001, returns=int) as ticks:
                async for tick in ticks:
                    if tick == 20:
                        break
                cancelled_at = time.monotonic()  # one clock for all processes of this machine
            stopped_at = 0.0
            while not stopped_at:
                assert time.monotonic() < cancelled_at + 1, "the provider still runs"
                _, stopped_at = await bench.request_response("account", returns=tuple[int, float])
                await asyncio.sleep(0.002)
            delays.append(stopped_at - cancelled_at)
    assert max(delays) < 0.1
    say("cancel to stop", f"{max(delays) * 1000:.1f} ms at most in {len(delays)}")
