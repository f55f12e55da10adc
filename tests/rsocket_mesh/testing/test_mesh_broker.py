"""A mesh in memory: real services and callers, what is recorded of them, and seeded chance."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import unittest
from collections.abc import AsyncIterator

import pytest

from broker.config import Config, Limits, RoutingConfig
from rsocket_mesh import (
    ApplicationError,
    DeadlineExceeded,
    NoRoute,
    Overloaded,
    PeerLost,
    Unreachable,
    connect,
)
from rsocket_mesh.peer import open_peer
from rsocket_mesh.protocol.frames import Setup
from rsocket_mesh.protocol.metadata import ROUTING, encode_routing
from rsocket_mesh.protocol.payload import Payload
from rsocket_mesh.testing import MeshBroker, RecordedCall, broker, run
from rsocket_mesh.testing.record import Record
from rsocket_mesh.transport import Transport, dial
from tests.rsocket_mesh.testing.orders import an_order_service
from tests.support.processes import ROOT


async def test_a_service_is_called_through_the_real_broker(mesh_broker: MeshBroker):
    await mesh_broker.serve(an_order_service())
    async with mesh_broker.connect() as mesh:
        assert await mesh.service("orders").request_response("total", 7, returns=int) == 42
        (listed,) = await mesh.service("mesh.registry").request_response("list")
    assert listed["name"] == "orders"
    assert mesh_broker.broker.counters.calls["orders"].ok == 1


async def test_a_program_connects_by_the_url_itself(mesh_broker: MeshBroker):
    async with (
        connect(mesh_broker.url, serve=[an_order_service()], app="shop"),
        connect("memory://mesh", app="till") as till,
    ):
        assert await till.service("orders").request_response("price", 1, 9) == 9
    (call,) = mesh_broker.calls
    assert (call.caller, call.provider) == ("till", "shop")


async def test_a_call_is_recorded_as_its_caller_saw_it(mesh_broker: MeshBroker):
    await mesh_broker.serve(an_order_service())
    async with mesh_broker.connect(app="till") as mesh:
        handle = mesh.service("orders", version="^1.4")
        slow = asyncio.create_task(handle.request_response("slow", 2.5, timeout=5))
        await mesh_broker.clock.advance(1)
        (call,) = mesh_broker.calls
        assert (call.outcome, call.ended, call.duration) == ("", None, None)
        await mesh_broker.clock.until(slow)
    assert (call.route, call.model) == ("orders.slow", "request-response")
    assert (call.caller, call.provider) == ("till", "orders")
    assert call.selectors == ("version=^1.4",)
    assert call.arguments == 2.5
    assert (call.outcome, call.error, call.items) == ("ok", None, 1)
    assert (call.began, call.ended, call.duration) == (0.0, 2.5, 2.5)


async def test_every_kind_of_call_is_recorded(mesh_broker: MeshBroker):
    await mesh_broker.serve(an_order_service())
    async with mesh_broker.connect() as mesh:
        orders = mesh.service("orders")
        async with orders.request_stream("ticks", 3, returns=int) as ticks:
            taking = asyncio.create_task(taken(ticks))
            assert await mesh_broker.clock.until(taking) == [0, 1, 2]
        async with orders.request_channel("double", [1, 2, 3], returns=int) as doubled:
            assert [number async for number in doubled] == [2, 4, 6]
        await orders.fire_and_forget("note", "hello")
        await mesh_broker.clock.advance(0)
        assert await orders.request_response("price", 2, 3, codec="json") == 6
    seen = [
        (c.model, c.outcome, c.provider, c.items, c.items_sent, c.arguments)
        for c in mesh_broker.calls
    ]
    assert seen == [
        ("request-stream", "ok", "orders", 3, 0, 3),
        ("request-channel", "ok", "orders", 3, 2, 1),
        ("fire-and-forget", "sent", "orders", 0, 0, "hello"),
        ("request-response", "ok", "orders", 1, 0, [2, 3]),
    ]
    assert mesh_broker.calls[3].mime == "application/json"


async def taken(items) -> list[int]:
    return [item async for item in items]


async def test_a_large_request_is_recorded_whole(mesh_broker: MeshBroker):
    await mesh_broker.serve(an_order_service())
    async with mesh_broker.connect() as mesh:
        await mesh.service("orders").fire_and_forget("note", "x" * 300_000)
        await mesh_broker.clock.advance(0)
    (call,) = mesh_broker.calls
    assert (call.arguments, call.outcome, call.provider) == ("x" * 300_000, "sent", "orders")


async def test_errors_are_recorded_with_their_token(mesh_broker: MeshBroker):
    await mesh_broker.serve(an_order_service())
    async with mesh_broker.connect() as mesh:
        orders = mesh.service("orders")
        with pytest.raises(ApplicationError):
            await orders.request_response("fail")
        with pytest.raises(NoRoute):
            await mesh.service("nobody").request_response("x")
        with pytest.raises(DeadlineExceeded):
            await mesh_broker.clock.until(orders.request_response("slow", 60, timeout=1))
        waiting = asyncio.create_task(orders.request_response("slow", 60))
        await mesh_broker.clock.advance(1)
        waiting.cancel()
        await mesh_broker.clock.advance(0)
    failed, unrouted, late, canceled = mesh_broker.calls
    assert (failed.outcome, failed.provider) == ("APPLICATION", "orders")
    assert isinstance(failed.error, ApplicationError)
    assert (unrouted.outcome, unrouted.provider) == ("NO_ROUTE", None)
    assert (late.outcome, late.timeout) == ("DEADLINE_EXCEEDED", 1.0)
    assert late.duration == pytest.approx(1, abs=0.02)
    assert (canceled.outcome, canceled.duration) == ("canceled", 1.0)
    assert mesh_broker.calls_to("orders") == [failed, late, canceled]
    assert mesh_broker.calls_to("nobody.x") == [unrouted]


async def test_calls_that_run_when_the_mesh_ends_are_lost():
    async with broker() as mesh_broker:
        await mesh_broker.serve(an_order_service())
        mesh = await mesh_broker.connect()
        call = asyncio.create_task(mesh.service("orders").request_response("slow", 60))
        await mesh_broker.clock.advance(1)
    assert mesh_broker.calls[0].outcome == "lost"
    await asyncio.wait([call])
    assert call.exception() is not None


async def test_the_time_waits_for_handlers_in_threads(mesh_broker: MeshBroker):
    await mesh_broker.serve(an_order_service())
    async with mesh_broker.connect() as mesh:
        call = mesh.service("orders").request_response("blocking", 0.05, timeout=0.01)
        assert await mesh_broker.clock.until(call) == "done"
    assert mesh_broker.calls[0].duration == 0.0


async def test_calls_can_be_refused_in_the_place_of_the_broker(mesh_broker: MeshBroker):
    await mesh_broker.serve(an_order_service())
    mesh_broker.reject("orders.total", Overloaded("try later", retry_after_ms=50), times=2)
    async with mesh_broker.connect() as mesh:
        orders = mesh.service("orders")
        for _ in range(2):
            with pytest.raises(Overloaded, match="try later") as caught:
                await orders.request_response("total", 7)
            assert caught.value.details == {"retry_after_ms": 50}
        assert await orders.request_response("total", 7) == 42
        mesh_broker.reject("orders", NoRoute("gone"))
        with pytest.raises(NoRoute):
            await orders.request_response("slow", 1)
        mesh_broker.accept("orders")
        assert await orders.request_response("total", 1) == 6
    outcomes = [(call.outcome, call.provider) for call in mesh_broker.calls]
    assert outcomes[:3] == [("OVERLOADED", None), ("OVERLOADED", None), ("ok", "orders")]


async def test_a_refused_request_in_fragments_reaches_nobody(mesh_broker: MeshBroker):
    await mesh_broker.serve(an_order_service())
    mesh_broker.reject("orders.note", Overloaded("full"))
    async with mesh_broker.connect() as mesh:
        orders = mesh.service("orders")
        with pytest.raises(Overloaded):
            await orders.request_response("note", "x" * 300_000)
        await mesh_broker.clock.advance(10)
        assert await orders.request_response("total", 7) == 42
    assert mesh_broker.broker.counters.calls["orders"].started == 1


async def test_a_channel_that_its_caller_fails_is_recorded_as_failed(mesh_broker: MeshBroker):
    async def numbers() -> AsyncIterator[int]:
        yield 1
        raise LookupError("no more")

    await mesh_broker.serve(an_order_service())
    async with mesh_broker.connect() as mesh:
        channel = mesh.service("orders").request_channel("double", numbers(), returns=int)
        async with channel as doubled:
            with pytest.raises(LookupError):
                await taken(doubled)
        await mesh_broker.clock.advance(0)
    (call,) = mesh_broker.calls
    assert call.outcome == "APPLICATION"
    assert "no more" in str(call.error)


def test_arguments_without_a_codec_are_refused():
    call = RecordedCall(1, "a.b", "request-response", "test", "image/png", 0.0, data=b"x")
    with pytest.raises(ValueError, match="no codec for 'image/png'"):
        _ = call.arguments


def test_a_record_is_bounded_and_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rsocket_mesh.testing.record.RECORD_LIMIT", 3)
    record = Record(lambda: 0.0)
    for _ in range(5):
        record.begin("a.b", "request-response", "test", "application/cbor", ())
    assert [call.number for call in record.calls] == [1, 2, 3]
    assert record.trace[3:] == ["(no more than 3 lines are kept)"]


async def test_a_stopped_broker_is_not_there_and_a_started_one_is_found_again(
    mesh_broker: MeshBroker,
):
    clock = mesh_broker.clock
    await mesh_broker.serve(an_order_service())
    async with mesh_broker.connect() as mesh:
        await mesh_broker.stop()
        with pytest.raises(RuntimeError, match="the broker is stopped"):
            _ = mesh_broker.broker
        with pytest.raises(Unreachable, match="nobody listens there"):
            await connect(mesh_broker.url)
        waiting = asyncio.create_task(mesh.service("orders").request_response("total", 7))
        await clock.advance(5)
        assert not waiting.done()
        await mesh_broker.start()
        await clock.advance(2)  # no longer waits whoever connects again
        assert waiting.result() == 42
        await mesh_broker.restart()
        await clock.advance(2)
        assert await mesh.service("orders").request_response("total", 1) == 6


async def test_the_config_is_that_of_the_broker():
    config = Config(
        limits=Limits(connections=3), routing=RoutingConfig(route_wait=30, default_deadline=40)
    )
    async with broker(config=config) as mesh_broker, mesh_broker.connect() as mesh:
        call = asyncio.create_task(mesh.service("orders").request_response("total", 7, timeout=60))
        await mesh_broker.clock.advance(20)
        await mesh_broker.serve(an_order_service())
        await mesh_broker.clock.advance(0)
        assert call.result() == 42
    assert mesh_broker.calls[0].duration == 20.0


async def test_several_brokers_share_one_clock():
    async with broker() as one, broker() as other:
        assert (one.url, other.url) == ("memory://mesh", "memory://mesh-2")
        assert one.clock is other.clock
        async with connect([one.url, other.url], serve=[an_order_service()]) as mesh:
            await one.stop()
            await one.clock.advance(5)
            assert mesh.url == other.url
    async with broker() as again:
        assert again.url == "memory://mesh"


async def test_links_are_found_by_service_connection_and_name(mesh_broker: MeshBroker):
    orders, stock = an_order_service(), an_order_service("stock")
    first = await mesh_broker.serve(orders)
    second = await mesh_broker.serve(stock, app="orders")
    assert mesh_broker.link(orders).name == mesh_broker.link("orders").name == "orders"
    assert mesh_broker.link(stock) is mesh_broker.link(second) is mesh_broker.link("orders#2")
    assert mesh_broker.link(first).is_connected
    with pytest.raises(ValueError, match="'bills' is served by nobody; links: 'orders', "):
        mesh_broker.link(an_order_service("bills"))
    await mesh_broker.serve(an_order_service())
    with pytest.raises(ValueError, match="'orders' is served by 'orders', 'orders#3'"):
        mesh_broker.link(orders)
    await second.close()
    assert not mesh_broker.link(second).is_connected


async def test_a_link_knows_what_is_announced_later(mesh_broker: MeshBroker):
    orders = an_order_service()
    mesh = await mesh_broker.connect(app="shop")
    await mesh.serve(orders)
    assert mesh_broker.link(orders).name == "shop"
    assert mesh_broker.calls == []  # the library's own talk is none of the test's


async def test_random_names_of_instances_do_not_show_in_the_trace(mesh_broker: MeshBroker):
    await mesh_broker.serve(an_order_service(), instance="1")
    async with connect(mesh_broker.url, app="till") as till:
        waiting = asyncio.create_task(till.service("orders").request_response("slow", 1))
        await mesh_broker.clock.advance(0)
        mesh_broker.link("orders").cut()
        await mesh_broker.clock.advance(0)
        assert isinstance(waiting.exception(), PeerLost)
        async with connect(mesh_broker.url, app="till", instance=till.instance):
            pass  # takes the place of the first one, which is told so
        assert till.instance not in "\n".join(mesh_broker.trace)
    assert "the session of orders/1 ended" in "\n".join(mesh_broker.trace)
    assert "a new session of till/till has come" in "\n".join(mesh_broker.trace)


async def test_a_peer_that_speaks_no_rsocket_is_the_brokers_affair(mesh_broker: MeshBroker):
    class Nobody:
        ended = False

        def connected(self, transport: Transport) -> None:
            transport.outbound.append(b"\0\0\3abc")
            transport.flush()

        def batch_received(self, data: bytes) -> int:
            return len(data)

        def protocol_violated(self, text: str, reason: str = "") -> None:
            pass

        def writable(self, ready: bool) -> None:
            pass

        def disconnected(self, error: Exception | None) -> None:
            self.ended = True

    nobody = Nobody()
    await dial(mesh_broker.url, nobody, timeout=1)
    await mesh_broker.clock.advance(1)
    assert nobody.ended
    assert mesh_broker.broker.counters.closes["protocol-error"] == 1


async def test_a_caller_that_announces_nothing_is_anonymous(mesh_broker: MeshBroker):
    await mesh_broker.serve(an_order_service())
    setup = Setup(20_000, 60_000, ROUTING, "application/cbor", None)
    peer = await open_peer(mesh_broker.url, setup=setup, timeout=1)
    answer = await peer.requester.request_response(
        Payload(b"\x07", encode_routing(["orders.total"]))
    )
    assert answer.data == b"\x18\x2a"
    (call,) = mesh_broker.calls
    assert (call.route, call.caller, call.outcome) == ("orders.total", "anonymous", "ok")
    peer.close()
    await peer.wait_closed()


def test_it_works_in_a_test_case_of_the_standard_library():
    class Case(unittest.IsolatedAsyncioTestCase):
        async def test_total(self) -> None:
            async with broker() as mesh_broker:
                await mesh_broker.serve(an_order_service())
                async with mesh_broker.connect() as mesh:
                    assert await mesh.service("orders").request_response("total", 7) == 42
                await mesh_broker.clock.advance(3600)

    result = unittest.TestResult()
    Case("test_total").run(result)
    assert result.wasSuccessful(), result.errors


async def test_misuse_is_named():
    mesh_broker = broker()
    with pytest.raises(RuntimeError, match="has not begun"):
        mesh_broker.connect()
    async with mesh_broker:
        with pytest.raises(ValueError, match="needs a service"):
            await mesh_broker.serve()
        with pytest.raises(RuntimeError, match="runs already"):
            await mesh_broker.start()
        with pytest.raises(RuntimeError, match="in use already"):
            await mesh_broker.__aenter__()
        await mesh_broker.close()
        await mesh_broker.close()


async def a_busy_day(seed: int) -> list[str]:
    """Three instances, calls to them, outages, and an hour."""
    async with broker(seed=seed) as mesh_broker:
        for _ in range(3):
            await mesh_broker.serve(an_order_service())
        async with mesh_broker.connect() as mesh, connect(mesh_broker.url, app="other"):
            orders = mesh.service("orders")
            for seconds in (5, 7, 1, 3, 2, 6):
                asyncio.create_task(orders.request_response("slow", seconds)).add_done_callback(
                    lambda task: task.exception()
                )
            await mesh_broker.clock.advance(2.5)
            mesh_broker.link("orders").cut()
            mesh_broker.link("other").cut()
            await mesh_broker.clock.advance(10)
            await mesh_broker.restart()
            await mesh_broker.clock.advance(3600)
            mesh_broker.link("orders#2").freeze()
            mesh_broker.link("orders#3").freeze()
            await mesh_broker.clock.advance(3600)
        return mesh_broker.trace


async def test_the_same_seed_gives_the_same_trace_and_another_one_another():
    first = await a_busy_day(1)
    assert first == await a_busy_day(1)
    assert first != await a_busy_day(2)


def test_the_trace_is_the_same_in_another_process():
    program = (
        "import json; from rsocket_mesh.testing import run;"
        "from tests.rsocket_mesh.testing.test_mesh_broker import a_busy_day;"
        "print(json.dumps(run(a_busy_day(3))))"
    )
    here = run(a_busy_day(3))
    for hashes in ("1", "2"):
        ran = subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hashes},
            stdout=subprocess.PIPE,
            check=True,
        )
        assert json.loads(ran.stdout) == here


async def test_links_that_die_in_one_moment_die_in_their_order(mesh_broker: MeshBroker):
    names = [f"s{number}" for number in range(15)]
    for name in names:
        await mesh_broker.serve(an_order_service(name))
    async with mesh_broker.connect() as mesh:
        calls = [
            asyncio.create_task(mesh.service(name).request_response("slow", 500, timeout=400))
            for name in names
        ]
        await mesh_broker.clock.advance(1)
        for name in names:
            mesh_broker.link(name).freeze()
        await mesh_broker.clock.advance(100)
        assert all(isinstance(call.exception(), PeerLost) for call in calls)
    lost = [line for line in mesh_broker.trace if "PEER_LOST" in line]
    assert len({line.split()[0] for line in lost}) == 1
    numbers = [int(line.split("#")[1].split()[0]) for line in lost]
    assert numbers == sorted(numbers)


def test_the_trace_tells_the_story():
    async def story() -> list[str]:
        async with broker() as mesh_broker:
            orders = an_order_service()
            await mesh_broker.serve(orders)
            async with mesh_broker.connect(app="till") as mesh:
                link = mesh_broker.link(orders)
                link.cut_after(items=2)
                async with mesh.service("orders").request_stream("ticks", 5, returns=int) as ticks:
                    with pytest.raises(PeerLost):
                        await mesh_broker.clock.until(taken(ticks))
            return mesh_broker.trace

    trace = run(story())
    assert trace[:9] == [
        "    0.000 the broker is ready",
        "    0.000 orders connects, serves orders",
        "    0.000 till connects",
        "    0.000 #1 till calls orders.ticks (request-stream)",
        "    0.000 #1 goes to orders",
        "    0.000 #1 item 1",
        "    1.000 fault: orders is cut",
        "    1.000 orders is disconnected: the connection was cut by the test",
        "    1.000 #1 item 2",
    ]
    assert trace[9].startswith("    1.000 #1 PEER_LOST, 2 items: the session of orders")
