"""A service's own limits, and connections that ask for leases, over real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Self

import pytest

from rsocket_mesh import DeadlineExceeded, Overloaded, Service, connect
from rsocket_mesh.protocol.frames import (
    KEEPALIVE,
    LEASE,
    REQUEST_RESPONSE,
    SETUP,
    Lease,
    decode_lease,
    decode_setup,
    encode_keepalive,
    encode_lease,
    encode_payload,
    peek,
)
from rsocket_mesh.protocol.framing import cut, prefix_lengths
from tests.support.processes import BrokerProcess, broker_process
from tests.support.small_server import SmallServer
from tests.support.waiting import settled, until


class Desk:
    """A service that holds its calls until `gate` is set."""

    def __init__(self, **limits: float) -> None:
        self.service = Service("desk", "1.0.0", **limits)  # type: ignore[arg-type]
        self.gate = asyncio.Event()
        self.begun = 0
        self.service.request_response(self.hold)
        self.service.request_response(self.quick)
        self.service.request_stream(self.ticks)
        self.service.fire_and_forget(self.note)

    async def hold(self) -> str:
        self.begun += 1
        await self.gate.wait()
        return "done"

    async def quick(self) -> str:
        self.begun += 1
        return "done"

    async def ticks(self) -> AsyncIterator[int]:
        self.begun += 1
        yield 1
        await self.gate.wait()
        yield 2

    async def note(self) -> None:
        self.begun += 1
        await self.gate.wait()


@pytest.mark.parametrize(
    ("limits", "text"),
    [
        ({"concurrency": 0}, r"Service\.concurrency: 0 must be 1 to 1000000"),
        ({"rate": 0.0}, r"Service\.rate: 0 must be above 0"),
        ({"rate": float("nan")}, r"Service\.rate: nan must be above 0"),
    ],
)
def test_a_limit_that_makes_no_sense_is_an_error_at_once(limits: dict[str, float], text: str):
    with pytest.raises(ValueError, match=text):
        Service("desk", **limits)  # type: ignore[arg-type]


async def test_limits_are_announced_and_a_service_without_has_none():
    desk, free = Desk(concurrency=8, rate=2.5), Service("free")
    async with SmallServer() as server, connect(server.url, serve=[desk.service, free]):
        limited, unlimited = server.announced[0].services
        assert (limited.concurrency, limited.rate) == (8, 2.5)
        assert unlimited.concurrency is unlimited.rate is None
        assert free.capacity is None


async def test_a_call_over_the_concurrency_is_refused_before_a_handler_sees_it():
    desk = Desk(concurrency=2)
    async with SmallServer(desk.service) as server, connect(server.url) as mesh:
        handle = mesh.service("desk")
        held = asyncio.create_task(handle.request_response("hold", returns=str))
        async with handle.request_stream("ticks", returns=int) as ticks:
            assert await anext(ticks) == 1
            await until(lambda: desk.begun == 2)
            with pytest.raises(Overloaded, match="2 calls are at work, the limit is 2") as caught:
                await handle.request_response("quick")
            assert caught.value.safe_to_retry
            assert caught.value.details == {"retry_after_ms": 100}
            with pytest.raises(Overloaded):
                async with handle.request_stream("ticks", returns=int) as more:
                    await anext(more)
            assert desk.begun == 2
        await until(lambda: desk.service.capacity.at_work == 1)  # the stream was left
        desk.gate.set()
        assert await held == "done"
        assert await handle.request_response("quick", returns=str) == "done"
    assert desk.service.capacity.at_work == 0
    assert desk.service.capacity.refused == 2


async def test_fire_and_forget_over_the_concurrency_is_dropped_and_counted():
    desk = Desk(concurrency=1)
    async with SmallServer(desk.service) as server, connect(server.url) as mesh:
        handle = mesh.service("desk")
        for _ in range(3):
            await handle.fire_and_forget("note")
        await until(lambda: desk.service.capacity.refused == 2)
        assert desk.begun == 1
        desk.gate.set()
        await until(lambda: desk.service.capacity.at_work == 0)


async def test_a_call_over_the_rate_is_told_when_to_come_back():
    desk = Desk(rate=0.5)
    async with SmallServer(desk.service) as server, connect(server.url) as mesh:
        handle = mesh.service("desk")
        for _ in range(2):  # one, and one of patience
            await handle.request_response("quick")
        with pytest.raises(Overloaded, match=r"its rate is 0\.5 calls per second") as caught:
            await handle.request_response("quick")
        assert desk.begun == 2
        assert 1000 <= caught.value.details["retry_after_ms"] <= 2000


# -- leases ---------------------------------------------------------------------------------------


async def test_a_server_peer_and_our_client_lease_to_each_other():
    desk = Desk(concurrency=2)
    async with SmallServer() as server, connect(server.url, serve=[desk.service], lease=True):
        assert server.setups[0].lease
        requester = server.peers[0].requester
        await until(lambda: requester.leased.left == 2)  # what the desk can take
        calls = [asyncio.create_task(server.call("desk.hold")) for _ in range(5)]
        await until(lambda: desk.begun == 2)
        await settled()
        assert desk.begun == 2  # the others wait for a lease
        desk.gate.set()
        assert len(await asyncio.gather(*calls)) == 5
        assert desk.service.capacity.refused == 0


class RawServer:
    """A socket that says what the test tells it to: any RSocket server that leases."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"tcp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        data = b""
        while more := await reader.read(65_536):
            frames, used = cut(data + more)
            data = (data + more)[used:]
            for frame in frames:
                self.received.append(frame)
                if peek(frame)[1] == KEEPALIVE and peek(frame)[2]:
                    self.send(encode_keepalive(respond=False))
        writer.close()

    def send(self, *frames: bytes) -> None:
        self._writer.write(b"".join(prefix_lengths(frames)))

    def of(self, kind: int) -> list[bytes]:
        return [frame for frame in self.received if peek(frame)[1] == kind]


async def test_calls_wait_for_the_lease_of_any_server_each_within_its_own_time():
    async with RawServer() as server, connect(server.url, lease=True) as mesh:
        (setup,) = map(decode_setup, server.of(SETUP))
        assert setup.lease
        await until(lambda: server.of(LEASE))
        assert decode_lease(server.of(LEASE)[0]).requests == 0x7FFF_FFFF
        handle = mesh.service(
            "any",
        )
        with pytest.raises(DeadlineExceeded, match="granted no lease for it"):
            await handle.request_response("do", timeout=0.05)
        calls = [asyncio.create_task(handle.request_response("do")) for _ in range(3)]
        await settled()
        assert server.of(REQUEST_RESPONSE) == []
        server.send(encode_lease(Lease(60_000, 2)))
        await until(lambda: len(server.of(REQUEST_RESPONSE)) == 2)
        server.send(encode_lease(Lease(60_000, 1)))
        await until(lambda: len(server.of(REQUEST_RESPONSE)) == 3)
        for frame in server.of(REQUEST_RESPONSE):
            server.send(encode_payload(peek(frame)[0], None, b"\xf6", complete=True))
        assert await asyncio.gather(*calls) == [None] * 3
        server.send(encode_lease(Lease(0, 0)))  # leaving says goodbye without a call


async def test_a_connection_that_did_not_ask_for_leases_is_not_bound_by_any():
    """C-112."""
    async with RawServer() as server, connect(server.url) as mesh:
        server.send(encode_lease(Lease(0, 0)))
        call = asyncio.create_task(mesh.service("any").request_response("do"))
        await until(lambda: server.of(REQUEST_RESPONSE))
        assert server.of(LEASE) == []
        server.send(encode_payload(1, None, b"\xf6", complete=True))
        assert await call is None


# -- through a broker -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def broker() -> AsyncIterator[BrokerProcess]:
    with broker_process(listen=("tcp://127.0.0.1:0",)) as process:
        yield process


async def test_a_leased_caller_waits_where_another_is_refused(broker: BrokerProcess):
    desk, url = Desk(concurrency=4), broker.url("tcp")
    async with (
        connect(url, serve=[desk.service]),
        connect(url, lease=True) as patient,
        connect(url) as hasty,
    ):
        desk.gate.set()
        handle = patient.service("desk")
        for _ in range(100):  # by now the broker knows what it calls
            assert await handle.request_response("quick", returns=str) == "done"
        desk.gate.clear()
        held = [asyncio.create_task(handle.request_response("hold")) for _ in range(6)]
        await until(lambda: desk.service.capacity.at_work == 4)
        with pytest.raises(Overloaded, match="none of 1 providers"):
            await hasty.service("desk").request_response("quick")
        desk.gate.set()
        assert await asyncio.gather(*held) == ["done"] * 6  # two of them waited for a lease
        assert desk.service.capacity.refused == 0  # nothing reached it that was too much


async def test_no_call_is_lost_when_many_leased_callers_share_few_places(broker: BrokerProcess):
    desk, url = Desk(concurrency=3), broker.url("tcp")
    desk.gate.set()
    async with connect(url, serve=[desk.service], lease=True):

        async def work() -> int:
            done = 0
            async with connect(url, lease=True) as mesh:
                handle = mesh.service("desk")
                for _ in range(100):
                    with suppress(Overloaded):  # a lease is an offer, no reservation
                        await handle.request_response("quick")
                        done += 1
            return done

        done = await asyncio.gather(*(work() for _ in range(5)))
        assert desk.begun == sum(done) > 0
        assert desk.service.capacity.at_work == 0
        assert desk.service.capacity.refused == 0
