"""Observables through the broker: a source that outruns its subscriber a thousand times over.

A million items at 1,000 per second take a quarter of an hour. So the subscriber takes that many per
second for ten seconds, in which all that could grow would grow (the provider can give 30,000 per
second and more), and then takes the rest as fast as it comes, to see that nothing was lost.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import pytest

from rsocket_mesh import Demand, Overflow, SlowConsumer, connect
from tests.acceptance.figures import MIB, resident, say
from tests.support.processes import BrokerProcess, Process

pytestmark = pytest.mark.acceptance

MILLION = 1_000_000
PER_SECOND = 1000
SECONDS = 10
AHEAD = 256  # items that may lie between: prefetch and buffer, each 32, and what is under way
GROWTH = 6 * MIB  # of any process in those seconds; a million small items would be 100 MiB


class Subscriber:
    """Takes its items in order and counts them."""

    def __init__(self) -> None:
        self.got = 0
        self.in_order = True
        self.error: Exception | None = None
        self.ended = asyncio.Event()

    def on_next(self, number: int) -> None:
        self.in_order &= number == self.got
        self.got += 1

    def on_error(self, error: Exception) -> None:
        self.error = error
        self.ended.set()

    def on_completed(self) -> None:
        self.ended.set()


async def take(demand: Demand, seconds: float) -> None:
    """Request so many items per second, a few each time."""
    loop = asyncio.get_running_loop()
    began, requested = loop.time(), 0
    while (passed := loop.time() - began) < seconds:
        due = int(passed * PER_SECOND) - requested
        if due > 0:
            demand.request(due)
            requested += due
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("method", ["numbers", "observed"])
async def test_a_source_of_a_million_is_paused_by_a_subscriber_of_a_thousand_per_second(
    method: str, broker: BrokerProcess, start_provider: Callable[..., Process]
) -> None:
    provider = start_provider()
    pids = {"provider": provider.pid, "broker": broker.process.pid, "subscriber": os.getpid()}
    async with connect(broker.url("tcp")) as mesh:
        bench = mesh.service("bench")
        demand, subscriber = Demand(), Subscriber()
        stream: Any = bench.observe_stream(method, MILLION, returns=int, demand=demand)
        subscription = stream.subscribe(subscriber)
        await take(demand, 1.0)  # what is loaded and allocated once, is by now
        before = {name: resident(pid) for name, pid in pids.items()}
        most_ahead = 0
        for _ in range(SECONDS):
            await take(demand, 1.0)
            yielded, _ = await bench.request_response("account", returns=tuple[int, float])
            most_ahead = max(most_ahead, yielded - subscriber.got)
        grown = {name: resident(pid) - before[name] for name, pid in pids.items()}
        got = subscriber.got
        assert got <= (SECONDS + 2) * PER_SECOND
        assert got >= SECONDS * PER_SECOND / 2
        assert most_ahead <= AHEAD
        assert max(grown.values()) < GROWTH, grown
        if method == "numbers":  # the rest of it, to see that nothing was lost
            demand.request(MILLION)
            async with asyncio.timeout(120):
                await subscriber.ended.wait()
            assert subscriber.error is None
            assert subscriber.got == MILLION
        assert subscriber.in_order
        subscription.dispose()
    mib = ", ".join(f"{name} {size / MIB:+.1f} MiB" for name, size in grown.items())
    say(
        f"{method} of 1,000,000 at {PER_SECOND}/s, {SECONDS} s",
        f"taken {got:,}, provider at most {most_ahead} ahead; {mib}",
    )


async def test_under_the_error_policy_the_error_is_behind_exactly_what_was_held(
    broker: BrokerProcess, start_provider: Callable[..., Process]
) -> None:
    start_provider()
    held = 5000
    async with connect(broker.url("tcp")) as mesh:
        bench = mesh.service("bench")
        overflow = Overflow("error", held)
        demand, subscriber = Demand(), Subscriber()
        stream: Any = bench.observe_stream(
            "numbers", MILLION, returns=int, overflow=overflow, demand=demand
        )
        stream.subscribe(subscriber)
        # Nothing is taken until the source was stopped, so it is known where the error has to be.
        stopped_at = 0.0
        while not stopped_at:
            yielded, stopped_at = await bench.request_response("account", returns=tuple[int, float])
            await asyncio.sleep(0.01)
        assert subscriber.got == 0
        assert subscriber.error is None
        assert held < yielded <= held + AHEAD
        async with asyncio.timeout(30):
            while not subscriber.ended.is_set():
                await take(demand, 0.5)
        assert isinstance(subscriber.error, SlowConsumer)
        assert subscriber.got == held
        assert subscriber.in_order

        # And while it takes a thousand per second: in order, and no item behind the error.
        demand, subscriber = Demand(), Subscriber()
        stream = bench.observe_stream(
            "numbers", MILLION, returns=int, overflow=overflow, demand=demand
        )
        stream.subscribe(subscriber)
        async with asyncio.timeout(30):
            while not subscriber.ended.is_set():
                await take(demand, 0.5)
        assert isinstance(subscriber.error, SlowConsumer)
        assert held <= subscriber.got < held + 2 * PER_SECOND
        assert subscriber.in_order
    say(
        f"overflow 'error' of {held} held",
        f"error behind item {held} when none was taken, behind {subscriber.got} at "
        f"{PER_SECOND}/s; the provider was stopped after {yielded}",
    )
