"""The lasting connection: what SETUP says, refusals, outages, failing over, leaving in order."""

from __future__ import annotations

import asyncio
import json
import logging
import time

import pytest

from rsocket_mesh import (
    ConnectionClosed,
    Mesh,
    Service,
    SetupRefused,
    Unavailable,
    Unreachable,
    connect,
)
from rsocket_mesh.protocol.announce import Announcement
from rsocket_mesh.protocol.metadata import (
    AUTHENTICATION,
    NOTICE,
    BearerCredentials,
    decode_authentication,
    encode_composite,
    find_entry,
)
from rsocket_mesh.rpc.session import MAX_DELAY, REFUSED_DELAY
from rsocket_mesh.testing import MeshBroker
from tests.support.small_server import SmallServer
from tests.support.waiting import until

NOBODY = "tcp://127.0.0.1:1"  # a port that nothing listens on
DRAINING = encode_composite([(NOTICE, json.dumps({"type": "draining"}).encode())])


def a_service(name: str = "orders") -> Service:
    service = Service(name, "1.4.0")

    @service.request_response
    async def total(a: int, b: int) -> int:
        return a * b

    return service


async def test_setup_announces_everything_and_carries_the_token():
    async with SmallServer() as server:
        async with connect(
            server.url, app="shop", serve=[a_service()], tags={"zone": "eu"}, token="secret"
        ) as mesh:
            assert mesh.is_connected
            assert mesh.instance.startswith("shop-")
            setup = server.setups[0]
            announced = server.announced[0]
            token = find_entry(setup.metadata or b"", AUTHENTICATION)
        assert announced == Announcement(
            "shop", mesh.instance, {"zone": "eu"}, notices=True, services=(a_service().info(),)
        )
        assert decode_authentication(token or b"") == BearerCredentials("secret")
        assert setup.data_mime == "application/cbor"
        assert "secret" not in repr(mesh)


async def test_a_refused_setup_raises_with_the_reason():
    async with SmallServer() as server:
        server.refusal = SetupRefused(0x003, "UNAUTHENTICATED: no such token")
        with pytest.raises(SetupRefused, match="no such token") as caught:
            await connect(server.url)
        assert caught.value.token == "UNAUTHENTICATED"


async def test_the_next_url_is_used_when_the_first_refuses():
    async with SmallServer() as first, SmallServer() as second:
        first.refusal = SetupRefused(0x003, "FORBIDDEN: rule 7")
        async with connect([first.url, second.url]) as mesh:
            assert mesh.url == second.url
        with pytest.raises(SetupRefused, match="rule 7"):
            await connect([NOBODY, first.url, "tcp://localhost:1"])


async def test_nobody_there_is_unreachable_and_lists_what_was_tried():
    began = time.monotonic()
    with pytest.raises(Unreachable, match=r"tcp://127\.0\.0\.1:1: .*tcp://localhost:1: "):
        await connect([NOBODY, "tcp://localhost:1"])
    assert time.monotonic() - began < 5


async def test_the_next_url_is_used_when_the_first_does_not_answer():
    async with SmallServer(a_service()) as server, connect([NOBODY, server.url]) as mesh:
        assert mesh.url == server.url
        assert await mesh.service("orders").request_response("total", 2, 3) == 6


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"app": "bad app"}, "app: 'bad app'"),
        ({"codec": "yaml"}, "no codec 'yaml'"),
        ({"instance": "a b"}, "instance"),
    ],
)
def test_bad_arguments_fail_at_once(arguments: dict[str, str], text: str):
    with pytest.raises(ValueError, match=text):
        connect(NOBODY, **arguments)  # type: ignore[arg-type]  # the names are checked by the test


@pytest.mark.parametrize("urls", [[], "nonsense", ["tcp://127.0.0.1:1", "gopher://x"]])
def test_bad_urls_fail_at_once(urls: list[str] | str):
    with pytest.raises(ValueError, match=r"no broker URL|expected tcp://"):
        connect(urls)


async def test_after_an_outage_it_registers_again_completely_and_waiting_calls_go_through(
    mesh_broker: MeshBroker, caplog: pytest.LogCaptureFixture
):
    clock = mesh_broker.clock
    async with mesh_broker.connect(serve=[a_service("client"), a_service()]) as mesh:
        handle = mesh.service("orders")
        assert await handle.request_response("total", 2, 3) == 6
        before = await mesh.service("mesh.registry").request_response("describe", "client")
        await mesh_broker.stop()
        assert not mesh.is_connected
        await clock.advance(3600)
        waiting = asyncio.create_task(handle.request_response("total", 4, 5))
        await clock.advance(5)
        assert not waiting.done()
        await mesh_broker.start()
        await clock.advance(MAX_DELAY)
        assert waiting.result() == 20
        after = await mesh.service("mesh.registry").request_response("describe", "client")
        assert after == before
        assert await mesh.service("client").request_response("total", 2, 3) == 6
    assert "reconnecting" in caplog.text


async def test_a_call_in_an_outage_fails_at_its_deadline_naming_what_was_tried(
    mesh_broker: MeshBroker, mesh: Mesh
):
    await mesh_broker.stop()
    orders = mesh.service("orders")
    for call in (
        orders.request_response("total", timeout=20),
        orders.fire_and_forget("total", timeout=20),
        anext(orders.request_stream("total", timeout=20)),
    ):
        began = mesh_broker.clock.now
        with pytest.raises(Unavailable, match="nothing was sent: memory://mesh") as caught:
            await mesh_broker.clock.until(call)
        assert mesh_broker.clock.now == began + 20
        assert caught.value.safe_to_retry
        assert caught.value.route == "orders.total"


async def test_calls_in_flight_fail_at_once_when_the_connection_is_lost():
    service = Service("s")

    @service.request_response
    async def wait() -> None:
        await asyncio.Event().wait()

    async with SmallServer(service) as server, connect(server.url) as mesh:
        task = asyncio.create_task(mesh.service("s").request_response("wait"))
        await until(lambda: server.dispatcher.running == 1)
        await server.stop()
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(task, 2.0)


async def test_a_refusal_while_reconnecting_is_logged_and_tried_again_after_a_while(
    mesh_broker: MeshBroker, mesh: Mesh, caplog: pytest.LogCaptureFixture
):
    await mesh_broker.serve(a_service())
    link = mesh_broker.link(mesh)
    link.reject("FORBIDDEN: rule 7", times=2)
    link.cut()
    await mesh_broker.clock.advance(1)
    assert "FORBIDDEN: rule 7" in caplog.text
    call = mesh.service("orders").request_response("total", 2, 3, timeout=1)
    with pytest.raises(Unavailable, match="refused: FORBIDDEN: rule 7"):
        await mesh_broker.clock.until(call)
    await mesh_broker.clock.advance(REFUSED_DELAY)  # jittered: at least half of that
    assert not mesh.is_connected
    await mesh_broker.clock.advance(REFUSED_DELAY)
    assert await mesh.service("orders").request_response("total", 2, 3) == 6


async def test_a_lost_broker_is_replaced_by_the_next_of_the_list():
    one, two = SmallServer(a_service()), SmallServer(a_service())
    async with one, two, connect([one.url, two.url]) as mesh:
        assert mesh.url == one.url
        await one.stop()
        await until(lambda: not mesh.is_connected or mesh.url == two.url)
        assert await mesh.service("orders").request_response("total", 2, 3) == 6
        assert mesh.url == two.url


async def test_a_draining_broker_gets_no_new_calls_but_finishes_the_old_ones(
    caplog: pytest.LogCaptureFixture,
):
    caplog.set_level(logging.INFO)
    gate = asyncio.Event()
    slow, fast = Service("s"), Service("s")

    @slow.request_response(name="work")
    async def slow_work() -> str:
        await gate.wait()
        return "old"

    @fast.request_response(name="work")
    async def fast_work() -> str:
        return "new"

    one, two = SmallServer(slow), SmallServer(fast)
    async with one, two, connect([one.url, two.url]) as mesh:
        old = asyncio.create_task(mesh.service("s").request_response("work"))
        await until(lambda: one.dispatcher.running == 1)
        one.peers[0].requester.metadata_push(DRAINING)
        await until(lambda: mesh.url == two.url)
        assert await mesh.service("s").request_response("work") == "new"
        assert not one.peers[0].closed.done()
        gate.set()
        assert await old == "old"
        await until(one.peers[0].closed.done, "the old connection is let go")


async def test_with_one_url_a_draining_broker_is_kept_until_it_closes():
    async with SmallServer(a_service()) as server, connect(server.url) as mesh:
        server.peers[0].requester.metadata_push(DRAINING)
        for _ in range(3):
            assert await mesh.service("orders").request_response("total", 2, 3) == 6
        assert len(server.peers) == 1
        server.peers[0].close()
        await until(lambda: not mesh.is_connected or len(server.peers) == 2)
        assert await mesh.service("orders").request_response("total", 2, 3) == 6
        assert len(server.peers) == 2


async def test_other_notices_and_broken_ones_are_ignored():
    async with SmallServer(a_service()) as server, connect(server.url) as mesh:
        for notice in (b'{"type": "news"}', b"[]", b"not json", b"\xff"):
            server.peers[0].requester.metadata_push(encode_composite([(NOTICE, notice)]))
        assert await mesh.service("orders").request_response("total", 2, 3) == 6


async def test_services_come_and_go_while_connected():
    async with SmallServer() as server, connect(server.url) as mesh:
        service = a_service()
        await mesh.serve(service)
        assert [s.name for s in server.announced[-1].services] == ["orders"]
        assert (await server.call("orders.total", b"\x82\x02\x03")).data == b"\x06"
        with pytest.raises(ValueError, match="served already"):
            await mesh.serve(service)
        await mesh.withdraw(service)
        assert server.announced[-1].services == ()


async def test_leaving_withdraws_and_lets_handlers_end():
    service = Service("s")
    gate = asyncio.Event()

    @service.request_response
    async def work() -> int:
        await gate.wait()
        return 1

    async with SmallServer() as server:
        mesh = await connect(server.url, serve=[service])
        working = asyncio.create_task(server.call("s.work"))
        await until(lambda: len(server.announced) == 1 and mesh._dispatcher.running == 1)
        leaving = asyncio.create_task(mesh.close())
        await until(lambda: len(server.announced) == 2)
        assert server.announced[-1].services == ()
        assert not leaving.done()
        gate.set()
        assert (await working).data == b"\x01"
        await leaving
        await server.peers[0].closed


async def test_waiting_calls_fail_when_the_program_closes_its_mesh():
    async with SmallServer() as server:
        mesh = await connect(server.url)
        await server.stop()
        await until(lambda: not mesh.is_connected)
        waiting = asyncio.create_task(mesh.service("s").request_response("x"))
        await asyncio.sleep(0)
        await mesh.close()
        with pytest.raises(ConnectionClosed, match="this program has closed"):
            await waiting
