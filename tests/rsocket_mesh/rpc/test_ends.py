"""Ends and mistakes: who leaves early, who raises what should not be raised, what is no number."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator

import pytest

from rsocket_mesh import (
    ApplicationError,
    ConnectionClosed,
    DeadlineExceeded,
    Service,
    Unavailable,
    connect,
    current_call,
)
from tests.support.small_server import SmallServer
from tests.support.waiting import settled, until

FOREVER = 3600.0  # s


# -- handlers -------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["stream", "channel"])
async def test_a_handler_is_closed_in_its_own_task_when_the_consumer_leaves(model: str):
    seen: list[object] = []
    service = Service("ticks")

    async def endless() -> AsyncIterator[int]:
        seen.append((asyncio.current_task(), current_call()))
        try:
            while True:
                yield 1
        finally:
            seen.append((asyncio.current_task(), current_call()))

    service.request_stream(name="stream")(endless)

    @service.request_channel
    async def channel(items: AsyncIterator[int]) -> AsyncIterator[int]:
        return endless()

    async with SmallServer(service) as server, connect(server.url) as mesh:
        handle = mesh.service("ticks")
        if model == "stream":
            items = handle.request_stream("stream", prefetch=1)
        else:
            items = handle.request_channel("channel", [1], prefetch=1)
        async with items:
            await anext(items)
        await until(lambda: len(seen) == 2)
        assert seen[0] == seen[1]


async def test_a_blocking_handler_that_lets_stop_iteration_out_fails_at_once():
    service = Service("shop")

    @service.request_response
    def first() -> int:
        return next(iter(()))

    async with SmallServer(service) as server, connect(server.url) as mesh:
        with pytest.raises(ApplicationError, match="StopIteration"):
            await mesh.service("shop").request_response("first", timeout=2.0)


# -- time-outs ------------------------------------------------------------------------------------


async def test_an_infinite_timeout_is_a_long_one():
    service = Service("shop")

    @service.request_response
    async def remaining() -> float | None:
        call = current_call()
        return call and call.remaining()

    async with SmallServer(service) as server:
        for default in (10.0, math.inf):
            async with connect(server.url, timeout=default) as mesh:
                handle = mesh.service("shop")
                left = await handle.request_response("remaining", returns=float, timeout=math.inf)
                assert FOREVER < left < math.inf
                assert await handle.request_response("remaining", returns=float) > 5
                route = mesh.route("shop.remaining")
                await route.fire_and_forget(timeout=math.inf)


@pytest.mark.parametrize(
    "arguments",
    [
        {"timeout": 0},
        {"timeout": -1.0},
        {"timeout": math.nan},
        {"lifetime": 0},
        {"lifetime": math.inf},
        {"lifetime": 1e8},
        {"connect_timeout": math.nan},
    ],
)
def test_times_that_are_none_fail_at_once(arguments: dict[str, float]):
    with pytest.raises(ValueError, match=f"^{next(iter(arguments))} is .* s"):
        connect("tcp://127.0.0.1:1", **arguments)  # type: ignore[arg-type]  # names as in the test


async def test_a_time_out_of_the_callers_own_items_is_not_taken_for_ours():
    async def items() -> AsyncIterator[int]:
        raise TimeoutError("the sensor is silent")
        yield

    async with SmallServer() as server, connect(server.url) as mesh:
        with pytest.raises(TimeoutError, match="sensor") as caught:
            async with mesh.service("shop").request_channel("sum", items()):
                pass
        assert not isinstance(caught.value, DeadlineExceeded)


# -- streams that have not begun ------------------------------------------------------------------


async def test_a_channel_whose_beginning_was_cancelled_does_not_begin_again_without_its_items():
    async def items() -> AsyncIterator[int]:
        yield 1
        yield 2

    server = SmallServer()
    async with server, connect(server.url) as mesh:
        await server.stop()
        await until(lambda: not mesh.is_connected)
        channel = mesh.service("shop").request_channel("sum", items())
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(channel), 0.05)
        with pytest.raises(ConnectionClosed, match="never began"):
            await anext(channel)


async def test_two_tasks_cannot_begin_one_stream():
    server = SmallServer()
    async with server, connect(server.url) as mesh:
        await server.stop()
        await until(lambda: not mesh.is_connected)
        stream = mesh.service("shop").request_stream("ticks", timeout=0.2)
        first = asyncio.create_task(anext(stream))
        await settled()
        with pytest.raises(RuntimeError, match="another task"):
            await anext(stream)
        with pytest.raises(Unavailable):
            await first


async def test_a_stream_that_is_closed_while_it_waits_for_a_connection_sends_nothing():
    service = Service("shop")
    asked: list[int] = []

    @service.request_stream
    async def ticks() -> AsyncIterator[int]:
        asked.append(1)
        yield 1

    server = SmallServer(service)
    async with server, connect(server.url) as mesh:
        await server.stop()
        await until(lambda: not mesh.is_connected)
        stream = mesh.service("shop").request_stream("ticks")
        first = asyncio.create_task(anext(stream))
        await settled()
        await stream.aclose()
        await server.start()
        with pytest.raises(ConnectionClosed, match="never began"):
            await first
        assert asked == []


# -- the connection -------------------------------------------------------------------------------


async def test_calls_that_wait_for_a_connection_fail_as_soon_as_the_program_closes_it():
    server = SmallServer()
    async with server:
        mesh = await connect(server.url)
        await server.stop()
        await until(lambda: not mesh.is_connected)
        waiting = asyncio.create_task(mesh.service("shop").request_response("total"))
        await settled()
        closing = asyncio.create_task(mesh.close())
        with pytest.raises(ConnectionClosed, match="has closed"):
            await asyncio.wait_for(waiting, 1)
        await closing


async def test_one_connecting_is_for_one_connection():
    async with SmallServer() as server:
        connecting = connect(server.url)
        async with connecting:
            with pytest.raises(RuntimeError, match="call connect"):
                await connecting
        with pytest.raises(RuntimeError, match="call connect"):
            await connecting
        assert len(server.peers) == 1
