"""A link between two workers that breaks although both live: errors at once, then another link."""

from __future__ import annotations

import asyncio

import pytest

from broker.config import AdminConfig, Config, ListenerConfig, WorkersConfig
from broker.workers.hub import WorkerHub
from broker.workers.siblings import UNBOUNDED
from broker.workers.supervisor import Supervisor
from rsocket_mesh import NoRoute, PeerLost, connect
from rsocket_mesh.protocol.frames import MAX_STREAM_ID
from rsocket_mesh.protocol.metadata import CBOR
from tests.support.waiting import until
from tests.support.worker_brokers import Models
from tests.support.worker_threads import WorkerThreads


@pytest.fixture
async def running(monkeypatch):
    threads = WorkerThreads(monkeypatch)
    supervisor = Supervisor(
        Config(
            listeners=(ListenerConfig("tcp://127.0.0.1:0"),),
            admin=AdminConfig(url=""),
            workers=WorkersConfig(2),
        )
    )
    await supervisor.start()
    yield supervisor, threads
    await supervisor.stop()
    assert not any(thread._thread.is_alive() for thread in threads.started)


def _break(hub: WorkerHub) -> None:
    (sibling,) = hub.siblings.values()
    sibling.out[CBOR].transport.abort()


async def test_a_link_that_breaks_is_made_again(running):
    supervisor, threads = running
    url = supervisor.listeners[0].url
    models = Models("far")
    async with (
        connect(url, app="far", serve=[models.service]),
        connect(url, app="caller") as mesh,
    ):
        service = mesh.service("far")
        slow = asyncio.ensure_future(service.request_response("slow", 30, returns=str, timeout=30))
        await until(lambda: models.working)
        threads.started[1].do(_break)
        with pytest.raises(PeerLost, match="worker/0"):
            await slow
        with pytest.raises(NoRoute):  # there is no way just now, and nothing was begun
            await service.request_response("who", 1, returns=str)
        answers: list[str] = []
        while not answers:
            try:
                answers.append(await service.request_response("who", 1, returns=str))
            except NoRoute:
                await asyncio.sleep(0.02)
        assert answers == ["far 1"]


async def test_stream_ids_of_a_link_begin_anew_when_they_are_used_up(running):
    supervisor, threads = running
    url = supervisor.listeners[0].url
    models = Models("far")

    def use_up(hub: WorkerHub) -> None:
        (sibling,) = hub.siblings.values()
        sibling.out[CBOR].next_id = MAX_STREAM_ID - 2
        assert sibling.inward[CBOR].requests_left > UNBOUNDED // 2

    async with (
        connect(url, app="far", serve=[models.service]),
        connect(url, app="caller") as mesh,
    ):
        service = mesh.service("far")
        assert await service.request_response("who", 0, returns=str) == "far 0"
        threads.started[1].do(use_up)
        for number in range(10):
            assert await service.request_response("who", number, returns=str) == f"far {number}"
