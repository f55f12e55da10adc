"""Sessions over sockets that break: streams in flight go on, nothing is lost or comes twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker.config import AdminConfig, Config, Limits, ListenerConfig
from broker.daemon import Broker
from rsocket_mesh import PeerLost, Service, SetupRefused, Unavailable, connect
from rsocket_mesh.protocol.frames import REQUEST_STREAM, Setup, encode_setup
from rsocket_mesh.protocol.framing import prefix_lengths
from rsocket_mesh.protocol.metadata import COMPOSITE, OCTET_STREAM
from tests.support.cutting_proxy import CuttingProxy
from tests.support.raw_peers import request
from tests.support.waiting import until


@asynccontextmanager
async def a_broker(url: str = "tcp://127.0.0.1:0", **limits: float) -> AsyncIterator[Broker]:
    config = Config(
        listeners=(ListenerConfig(url),),
        admin=AdminConfig(url=""),
        limits=Limits(**limits),  # type: ignore[arg-type]
    )
    broker = Broker(config)
    await broker.start()
    try:
        yield broker
    finally:
        await broker.stop()


def url_of(broker: Broker) -> str:
    return broker.listeners[0].url


class Numbers:
    """A service that counts in both directions and checks the order of what it gets."""

    def __init__(self) -> None:
        self.service = Service("numbers")
        self.got = 0
        self.sent = 0
        self.stop = asyncio.Event()

        @self.service.request_channel
        async def both(items: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
            taking = asyncio.ensure_future(self._take(items))
            while not taking.done():
                yield item(self.sent)
                self.sent += 1
                await asyncio.sleep(0)
            await taking

        self.slow = 0

        @self.service.request_response
        async def slow(seconds: float) -> float:
            self.slow += 1
            await asyncio.sleep(seconds)
            return seconds

    async def _take(self, items: AsyncIterator[bytes]) -> None:
        async for got in items:
            assert got == item(self.got)
            self.got += 1


def item(number: int) -> bytes:
    """Of many sizes, so that a cut falls into all parts of frames."""
    return b"%d " % number + bytes(number * 7919 % 500)


async def counted_while(proxies: list[CuttingProxy]) -> AsyncIterator[bytes]:
    number = 0
    while not all(proxy.is_done for proxy in proxies):
        yield item(number)
        number += 1
        await asyncio.sleep(0)
    yield item(number)


def cut(broker: Broker) -> None:
    """Break the socket under every session, as a network would."""
    for link in list(broker.hub.links.values()):
        if link.session is not None and link.session._socket is not None:
            link.session._socket.abort()


def detached(broker: Broker) -> int:
    return sum(connection.detached for connection in broker.snapshot().connections)


@pytest.mark.parametrize("seed", [1, 2])
async def test_a_channel_goes_on_over_every_cut_and_no_item_is_lost_or_comes_twice(
    seed: int,
) -> None:
    """C-115: the shorter brother of the acceptance test."""
    numbers = Numbers()
    async with (
        a_broker() as broker,
        CuttingProxy(url_of(broker), seed) as near,
        CuttingProxy(url_of(broker), seed + 100) as far,
        connect(far.url, serve=[numbers.service], resume=True, app="numbers"),
        connect(near.url, resume=True) as mesh,
    ):
        near.cut(6)
        far.cut(6)
        expected = 0
        channel = mesh.service("numbers").request_channel(
            "both", counted_while([near, far]), returns=bytes
        )
        async with channel:
            async with asyncio.timeout(60):
                async for got in channel:
                    assert got == item(expected)
                    expected += 1
        assert expected == numbers.sent > 0
        assert numbers.got > 0
        assert near.cuts == far.cuts == 6
        assert broker.counters.resumed >= 4
        assert broker.counters.accepted == 2  # no session began anew
        assert broker.hub.sessions.pool.overflowed == 0


@pytest.mark.parametrize("scheme", ["tcp", "ws", "unix"])
async def test_sessions_go_on_over_every_transport(scheme: str, tmp_path: Path) -> None:
    url = f"unix://{tmp_path}/broker" if scheme == "unix" else f"{scheme}://127.0.0.1:0"
    numbers = Numbers()
    async with (
        a_broker(url) as broker,
        connect(url_of(broker), serve=[numbers.service], resume=True, app="numbers"),
        connect(url_of(broker), resume=True) as mesh,
    ):
        cuts = 0
        expected = 0
        done = asyncio.Event()

        async def up() -> AsyncIterator[bytes]:
            number = 0
            while not done.is_set():
                yield item(number)
                number += 1
                await asyncio.sleep(0)
            yield item(number)

        async with asyncio.timeout(30):
            channel = mesh.service("numbers").request_channel("both", up(), returns=bytes)
            async with channel:
                async for got in channel:
                    assert got == item(expected)
                    expected += 1
                    if expected % 100 == 0 and cuts < 5 and not detached(broker):
                        cuts += 1
                        cut(broker)
                    elif cuts == 5 and not detached(broker):
                        done.set()
        assert expected == numbers.sent
        assert broker.counters.resumed == 2 * cuts == 10
        assert broker.counters.accepted == 2


async def test_a_large_stream_passes_through_small_stores_without_filling_them() -> None:
    """The position is asked for, and who writes pauses until it has come."""
    service = Service("bytes")
    count, size = 200, 100_000

    @service.request_stream
    async def many() -> AsyncIterator[bytes]:
        for number in range(count):
            yield number.to_bytes(4, "big") + bytes(size)

    async with (
        a_broker(resume_bytes=1_000_000) as broker,
        connect(url_of(broker), serve=[service], resume=True),
        connect(url_of(broker), resume=True) as mesh,
    ):
        got = 0
        stream = mesh.service("bytes").request_stream("many", returns=bytes, prefetch=4)
        async with stream, asyncio.timeout(30):
            async for data in stream:
                assert int.from_bytes(data[:4], "big") == got
                got += 1
                assert broker.hub.sessions.pool.used <= 2_000_000
        assert got == count
        assert broker.hub.sessions.pool.overflowed == 0


async def test_calls_wait_for_the_session_and_a_deadline_still_ends_them() -> None:
    numbers = Numbers()
    async with (
        a_broker() as broker,
        CuttingProxy(url_of(broker), 1) as proxy,
        connect(url_of(broker), serve=[numbers.service]),
        connect(proxy.url, resume=True) as mesh,
    ):
        handle = mesh.service("numbers")
        running = asyncio.create_task(handle.request_response("slow", 0.1, timeout=10))
        await until(lambda: numbers.slow == 1, "the call has arrived")
        outage = asyncio.create_task(proxy.refuse(0.5))
        await until(lambda: detached(broker) == 1, "detached")
        await until(lambda: not mesh.is_connected, "the caller knows")
        with pytest.raises(Unavailable, match="resuming"):
            await handle.request_response("slow", 0.0, timeout=0.1)
        assert await handle.request_response("slow", 0.0, timeout=10, returns=float) == 0.0
        assert await running == 0.1
        await outage
        assert numbers.slow == 2  # the one that ran out of time was never sent


async def test_a_session_that_comes_too_late_ends_and_the_library_begins_a_new_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """C-117, C-119, C-125: refused with the reason; then as without resume."""
    numbers = Numbers()
    async with (
        a_broker(resume_timeout=0.2) as broker,
        CuttingProxy(url_of(broker), 1) as proxy,
        connect(proxy.url, serve=[numbers.service], resume=True, app="late"),
        connect(url_of(broker)) as mesh,
    ):
        handle = mesh.service("numbers")
        running = asyncio.create_task(handle.request_response("slow", 30.0))
        await until(lambda: numbers.slow == 1, "the call has arrived")
        await proxy.refuse(0.5)
        with pytest.raises(PeerLost, match="resume-timeout"):
            await running
        await until(lambda: broker.hub.table.services("default"), "registered again")
        assert await handle.request_response("slow", 0.0, returns=float) == 0.0
        assert broker.counters.resume_refused == {"ended": 1}
        assert broker.counters.closes["resume-timeout"] == 1
        assert broker.hub.sessions.pool.used < 1000
    assert "resume-timeout" in caplog.text


async def test_a_broker_that_was_started_again_knows_no_session_and_says_so() -> None:
    async with a_broker() as broker:
        url = url_of(broker)
        async with connect(url, resume=True) as mesh:
            opening = mesh.service("mesh.broker")
            assert await opening.request_response("info", codec="json")
            cut(broker)
            await broker.stop()
            await until(lambda: not mesh.is_connected, "the client knows")
            async with a_broker(url) as again:
                assert await opening.request_response("info", codec="json")
                assert again.counters.resume_refused == {"unknown-token": 1}
                assert again.counters.accepted == 1


async def test_a_broker_that_stops_in_order_ends_resumable_sessions_too() -> None:
    async with a_broker() as broker, connect(url_of(broker), resume=True) as mesh:
        assert mesh.is_connected
        await broker.stop()
        await until(lambda: not mesh.is_connected, "the session has ended")
        assert broker.counters.resumed == 0


async def test_a_broker_without_resume_refuses_with_the_reason() -> None:
    """C-36."""
    async with a_broker(resume_timeout=0) as broker:
        with pytest.raises(SetupRefused, match="resume is not supported"):
            await connect(url_of(broker), resume=True)


async def test_leaving_in_order_leaves_no_detached_session_behind() -> None:
    numbers = Numbers()
    async with a_broker() as broker:
        async with connect(url_of(broker), serve=[numbers.service], resume=True):
            assert broker.hub.sessions.pool.used >= 0
        await until(lambda: not broker.hub.links, "gone")
        assert broker.counters.closes["resume-timeout"] == 0
        assert broker.hub.sessions._links == {}


async def test_a_hundred_sessions_that_fill_their_stores_stay_within_the_total() -> None:
    """Store growth as an attack: they ask for everything, cut, and do not come back."""
    service = Service("bytes")

    @service.request_stream
    async def many() -> AsyncIterator[bytes]:
        while True:
            yield bytes(10_000)

    limits = {"resume_bytes": 200_000, "resume_total_bytes": 1_000_000, "resume_timeout": 1}
    async with (
        a_broker(**limits) as broker,
        connect(url_of(broker), serve=[service]),
    ):
        most = 0
        for index in range(100):
            await greedy(broker, index)
            most = max(most, broker.hub.sessions.pool.used)
        assert most <= 1_000_000
        assert broker.hub.sessions.pool.overflowed > 0
        await until(lambda: len(broker.hub.links) == 1, "all have timed out or overflowed")
        assert broker.hub.sessions.pool.used == 0
        assert broker.hub.streams_open() == 0


async def greedy(broker: Broker, index: int) -> None:
    """Begin a session, ask for all there is, read nothing of it, and vanish."""
    host, _, port = url_of(broker).removeprefix("tcp://").rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    setup = Setup(
        20_000, 90_000, COMPOSITE, OCTET_STREAM, resume_token=b"greedy token %08d" % index
    )
    asked = request(REQUEST_STREAM, 1, "bytes.many", n=0x7FFF_FFFF)
    writer.write(b"".join(prefix_lengths([encode_setup(setup), asked])))
    before = broker.hub.sessions.pool.used + broker.hub.sessions.pool.overflowed
    await until(
        lambda: broker.hub.sessions.pool.used + broker.hub.sessions.pool.overflowed != before
    )
    writer.transport.abort()
