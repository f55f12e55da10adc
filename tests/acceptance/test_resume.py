"""Connections cut at random bytes while streams run both ways: every item once and in order."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import AsyncIterator

import pytest

from rsocket_mesh import Service, Unavailable, connect
from tests.acceptance.figures import say
from tests.support.cutting_proxy import CuttingProxy
from tests.support.processes import BrokerProcess

pytestmark = pytest.mark.acceptance

CUTS = 100  # of each of the two connections
SEED = 20_240_607
STREAMS = 4
LARGE = 300_000  # bytes of a payload that leaves in fragments


def item(number: int) -> bytes:
    """The number and a filling of changing length, with a digest over both."""
    body = b"%d " % number + bytes(number * 7919 % 700)
    return hashlib.blake2b(body, digest_size=8).digest() + body


def number_of(data: bytes) -> int:
    digest, body = data[:8], data[8:]
    assert hashlib.blake2b(body, digest_size=8).digest() == digest
    return int(body.split(b" ", 1)[0])


def counting(taken: list[int], sent: list[int]) -> Service:
    """A service that counts up in both directions, per stream, as long as the caller does."""
    service = Service("numbers")

    async def take(stream: int, items: AsyncIterator[bytes]) -> None:
        async for got in items:
            assert number_of(got) == taken[stream], f"stream {stream}, up"
            taken[stream] += 1

    @service.request_channel
    async def both(items: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        stream = int(await anext(items))
        taking = asyncio.ensure_future(take(stream, items))
        while not taking.done():
            yield item(sent[stream])
            sent[stream] += 1
            await asyncio.sleep(0)
        await taking

    @service.request_response
    async def echo(data: bytes) -> bytes:
        return data

    return service


async def test_two_hundred_cuts_at_random_bytes_lose_and_repeat_nothing(
    broker: BrokerProcess,
) -> None:
    """C-115. Both connections are cut: that of the caller and that of the provider."""
    taken, sent = [0] * STREAMS, [0] * STREAMS
    service = counting(taken, sent)
    url = broker.url("tcp")
    async with (
        CuttingProxy(url, SEED, most=100_000) as near,
        CuttingProxy(url, SEED + 1, most=100_000) as far,
        connect(far.url, serve=[service], resume=True, app="provider"),
        connect(near.url, resume=True, app="caller") as mesh,
    ):
        numbers = mesh.service("numbers")
        calls = 0
        given = [0] * STREAMS

        async def up(stream: int) -> AsyncIterator[bytes]:
            yield b"%d" % stream
            while not (near.is_done and far.is_done):
                yield item(given[stream])
                given[stream] += 1
                await asyncio.sleep(0)

        async def run(stream: int) -> int:
            expected = 0
            channel = numbers.request_channel("both", up(stream), returns=bytes)
            async with channel:
                async for got in channel:
                    assert number_of(got) == expected, f"stream {stream}, down"
                    expected += 1
            return expected

        async def call() -> None:
            nonlocal calls
            data = random.Random(SEED).randbytes(LARGE)
            while not (near.is_done and far.is_done):
                try:
                    answer = await numbers.request_response("echo", data, returns=bytes)
                except Unavailable:  # no new calls for a provider without socket; not processed
                    await asyncio.sleep(0.01)
                    continue
                assert answer == data
                calls += 1

        began = time.monotonic()
        near.cut(CUTS)
        far.cut(CUTS)
        async with asyncio.timeout(300):
            *got, _ = await asyncio.gather(*(run(stream) for stream in range(STREAMS)), call())
        took = time.monotonic() - began
        assert (near.cuts, far.cuts) == (CUTS, CUTS)
        assert got == sent
        assert taken == given
    say(
        f"{2 * CUTS} cuts at random bytes in {took:.1f} s",
        f"{sum(taken):,} items up, {sum(got):,} down, {calls} calls of {LARGE:,} bytes: "
        "each once and in order",
    )
