"""Faults of the network in memory: what they do to the two sides, whose code is the real one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from rsocket_mesh import (
    ConnectionClosed,
    DeadlineExceeded,
    Mesh,
    PeerLost,
    SetupRefused,
    Unreachable,
)
from rsocket_mesh.testing import MeshBroker
from tests.rsocket_mesh.testing.orders import an_order_service

LIFETIME = 60.0  # s; the library's default


async def taken(items: AsyncIterator[int], into: list[int]) -> None:
    async for item in items:
        into.append(item)  # noqa: PERF401  # one by one: the test looks meanwhile


async def test_a_cut_between_two_items_ends_the_stream_and_both_sides_go_on(
    mesh_broker: MeshBroker, mesh: Mesh
):
    orders = an_order_service()
    await mesh_broker.serve(orders)
    mesh_broker.link(orders).cut_after(items=1)
    got: list[int] = []
    async with mesh.service("orders").request_stream("ticks", 5, returns=int) as ticks:
        consumer = asyncio.create_task(taken(ticks, got))
        await mesh_broker.clock.advance(3600)
    assert got == [0]
    assert isinstance(consumer.exception(), PeerLost)
    assert mesh_broker.link(orders).is_connected
    assert await mesh.service("orders").request_response("total", 7, returns=int) == 42


async def test_a_cut_of_the_caller_loses_its_calls(mesh_broker: MeshBroker, mesh: Mesh):
    await mesh_broker.serve(an_order_service())
    call = asyncio.create_task(mesh.service("orders").request_response("slow", 5))
    await mesh_broker.clock.advance(1)
    mesh_broker.link(mesh).cut()
    await mesh_broker.clock.advance(0)
    assert isinstance(call.exception(), ConnectionClosed)
    assert mesh_broker.calls[0].outcome == "lost"
    await mesh_broker.clock.advance(1)
    assert mesh.is_connected


async def test_a_session_with_resume_survives_a_cut(mesh_broker: MeshBroker):
    await mesh_broker.serve(an_order_service())
    got: list[int] = []
    async with mesh_broker.connect(resume=True) as mesh:
        link = mesh_broker.link(mesh)
        link.cut_after(items=2)
        async with mesh.service("orders").request_stream("ticks", 5, returns=int) as ticks:
            await mesh_broker.clock.until(taken(ticks, got))
    assert got == [0, 1, 2, 3, 4]
    (call,) = mesh_broker.calls
    assert (call.outcome, call.items) == ("ok", 5)
    assert any("test resumes its session" in line for line in mesh_broker.trace)


async def test_a_session_with_resume_that_is_not_resumed_loses_its_calls(mesh_broker: MeshBroker):
    await mesh_broker.serve(an_order_service())
    async with mesh_broker.connect(resume=True) as mesh:
        call = asyncio.create_task(
            mesh.service("orders").request_response("slow", 500, timeout=900)
        )
        await mesh_broker.clock.advance(1)
        mesh_broker.link(mesh).down()
        await mesh_broker.clock.advance(5)
        assert mesh_broker.calls[0].outcome == ""
        await mesh_broker.clock.advance(120)
        assert isinstance(call.exception(), ConnectionClosed)
        mesh_broker.link(mesh).up()
        await mesh_broker.clock.advance(5)
    assert mesh_broker.calls[0].outcome == "lost"


async def test_what_is_sent_again_after_a_resume_is_counted_once(mesh_broker: MeshBroker):
    await mesh_broker.serve(an_order_service())
    async with mesh_broker.connect(resume=True) as mesh:
        link = mesh_broker.link(mesh)
        link.delay(0.5)  # so that there is always something under way
        orders = mesh.service("orders")
        ticks = orders.request_stream("ticks", 20, returns=int)
        consumer = asyncio.create_task(taken(ticks, got := []))
        calls = []
        for _ in range(6):
            calls.append(asyncio.create_task(orders.request_response("slow", 0.1, timeout=60)))
            await mesh_broker.clock.advance(1.2)
            link.cut()
            await mesh_broker.clock.advance(2.9)
        await mesh_broker.clock.until(asyncio.gather(consumer, *calls))
        link.heal()
    assert got == list(range(20))
    assert [(c.outcome, c.items) for c in mesh_broker.calls_to("orders.ticks")] == [("ok", 20)]
    assert {(c.outcome, c.items) for c in mesh_broker.calls_to("orders.slow")} == {("ok", 1)}
    assert len(mesh_broker.calls) == 7


async def test_a_link_that_is_down_takes_no_connection_until_it_is_up(
    mesh_broker: MeshBroker, mesh: Mesh
):
    link = mesh_broker.link(mesh)
    link.down()
    await mesh_broker.clock.advance(60)
    assert not mesh.is_connected
    link.up()
    await mesh_broker.clock.advance(2)  # no longer waits whoever connects again
    assert mesh.is_connected


async def test_faults_can_wait_for_a_program_that_is_not_there_yet(mesh_broker: MeshBroker):
    mesh_broker.link("shop").down()
    with pytest.raises(Unreachable, match="the network is down, says the test"):
        await mesh_broker.connect(app="shop")


async def test_a_setup_can_be_refused_as_often_as_wanted(mesh_broker: MeshBroker):
    link = mesh_broker.link("shop")
    link.reject("FORBIDDEN: rule 7", times=1)
    with pytest.raises(SetupRefused, match="FORBIDDEN: rule 7"):
        await mesh_broker.connect(app="shop")
    mesh = await mesh_broker.connect(app="shop")
    link = mesh_broker.link(mesh)
    assert "shop is told REJECTED_SETUP: FORBIDDEN: rule 7" in "\n".join(mesh_broker.trace)
    link.reject()
    link.cut()
    await mesh_broker.clock.advance(100)
    assert not mesh.is_connected
    link.heal()
    await mesh_broker.clock.advance(10)  # who was refused comes back after so long
    assert mesh.is_connected


async def test_a_frozen_link_is_silent_until_both_sides_take_each_other_for_dead(
    mesh_broker: MeshBroker, mesh: Mesh
):
    link = mesh_broker.link(mesh)
    link.freeze()
    await mesh_broker.clock.advance(LIFETIME - 25)
    assert mesh.is_connected  # nobody can know
    await mesh_broker.clock.advance(30)
    assert not mesh.is_connected
    await mesh_broker.clock.advance(LIFETIME)
    assert mesh_broker.broker.counters.closes["keepalive-timeout"] == 1
    link.thaw()
    await mesh_broker.clock.advance(10)
    assert mesh.is_connected


async def test_a_link_that_thaws_in_time_delivers_all_that_was_held(
    mesh_broker: MeshBroker, mesh: Mesh
):
    await mesh_broker.serve(an_order_service())
    link = mesh_broker.link(mesh)
    link.freeze()
    call = asyncio.create_task(mesh.service("orders").request_response("total", 7))
    await mesh_broker.clock.advance(5)
    assert mesh_broker.calls[0].provider is None
    link.thaw()
    await mesh_broker.clock.advance(0)
    assert call.result() == 42


async def test_a_call_over_a_frozen_link_ends_at_its_deadline(mesh_broker: MeshBroker, mesh: Mesh):
    await mesh_broker.serve(an_order_service())
    mesh_broker.link("orders").freeze()
    with pytest.raises(DeadlineExceeded):
        await mesh_broker.clock.until(
            mesh.service("orders").request_response("total", 7, timeout=2)
        )
    assert mesh_broker.clock.now == pytest.approx(2, abs=0.05)
    mesh_broker.link("orders").thaw()


async def test_a_delay_counts_once_per_direction_and_link(mesh_broker: MeshBroker, mesh: Mesh):
    await mesh_broker.serve(an_order_service())
    mesh_broker.link(mesh).delay(0.25)
    mesh_broker.link("orders").delay(1, to="client")
    call = mesh.service("orders").request_response("total", 7)
    assert await mesh_broker.clock.until(call) == 42
    assert mesh_broker.calls[0].duration == 1.5  # there 0.25 and 1, back 0.25
    mesh_broker.link(mesh).delay(0)


async def test_connecting_takes_the_time_that_the_delay_makes_it_take(mesh_broker: MeshBroker):
    mesh_broker.link("shop").delay(2)
    await mesh_broker.connect(app="shop")
    assert mesh_broker.clock.now == 4.0


async def test_a_slow_link_moves_so_many_bytes_per_second(mesh_broker: MeshBroker, mesh: Mesh):
    await mesh_broker.serve(an_order_service())
    link = mesh_broker.link(mesh)
    link.slow(1000, to="client")
    async with mesh.service("orders").request_stream("blobs", 4975, limit=4) as blobs:
        consumer = asyncio.create_task(taken(blobs, got := []))
        await mesh_broker.clock.advance(10.1)
        assert len(got) == 2
        link.slow(None)
        await mesh_broker.clock.until(consumer)
    assert len(got) == 4


async def test_what_a_slow_reader_is_sent_stops_its_producer(mesh_broker: MeshBroker, mesh: Mesh):
    await mesh_broker.serve(an_order_service())
    link = mesh_broker.link(mesh)
    got: list[int] = []
    link.stop_reading()
    endless = mesh.service("orders").request_stream("blobs", 65_536, prefetch=100, limit=100)
    async with endless as blobs:
        consumer = asyncio.create_task(taken(blobs, got))
        await mesh_broker.clock.advance(5)
        (connection,) = (c for c in mesh_broker.broker.snapshot().connections if c.app == "test")
        assert 256 * 1024 < connection.outbound < 2 * 1024 * 1024
        assert got == []
        link.read_on()
        await mesh_broker.clock.until(consumer)
    assert len(got) == 100


async def test_lost_keepalives_end_a_connection_and_a_lost_answer_a_call(
    mesh_broker: MeshBroker, mesh: Mesh
):
    await mesh_broker.serve(an_order_service())
    link = mesh_broker.link(mesh)
    link.drop("PAYLOAD", to="client")
    call = asyncio.create_task(mesh.service("orders").request_response("total", 7))
    await mesh_broker.clock.advance(20)
    assert isinstance(call.exception(), DeadlineExceeded)
    assert "(lost on the way to the client: PAYLOAD(stream 1" in "\n".join(mesh_broker.trace)
    assert await mesh.service("orders").request_response("total", 7) == 42
    link.drop("KEEPALIVE", count=None)
    await mesh_broker.clock.advance(LIFETIME + 25)
    assert not mesh.is_connected
    link.heal()
    await mesh_broker.clock.advance(10)
    assert mesh.is_connected


async def test_faults_that_make_no_sense_are_refused(mesh_broker: MeshBroker, mesh: Mesh):
    link = mesh_broker.link(mesh)
    for fault, text in (
        (lambda: link.cut_after(0), "at least 1"),
        (lambda: link.delay(-1), "cannot delay by -1 s"),
        (lambda: link.slow(0), "more than 0"),
        (lambda: link.drop("PAYLAOD"), "no frame type 'PAYLAOD'; there are SETUP, "),
        (lambda: link.delay(1, to="server"), "to='server': client, broker or None"),
    ):
        with pytest.raises(ValueError, match=text):
            fault()


async def test_a_mesh_ends_whatever_faults_its_links_have(mesh_broker: MeshBroker, mesh: Mesh):
    await mesh_broker.serve(an_order_service())
    mesh_broker.link(mesh).freeze()
    mesh_broker.link("orders").stop_reading()
    before = mesh_broker.clock.now
    await mesh_broker.close()
    assert mesh_broker.clock.now - before < 60
