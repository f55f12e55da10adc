"""What ends and what goes on: workers that die, supervisors that die, drain, broken sockets."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import trustme

from rsocket_mesh import Draining, Mesh, PeerLost, RSocketError, connect
from rsocket_mesh.protocol.frames import Resume, encode_resume
from tests.support.raw_clients import RawClient
from tests.support.stopped_consumer import begin
from tests.support.waiting import until
from tests.support.worker_brokers import Models, Workers, a_broker_of


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that only waits to be buried does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def _all(items: AsyncIterator[object]) -> None:
    async for _ in items:
        pass


async def _for_ever(mesh: Mesh) -> None:
    while True:
        await mesh.service("far").request_response("who", 1, returns=str)


async def test_a_worker_that_is_killed_takes_only_its_own_with_it_and_comes_back():
    with a_broker_of(2) as workers:
        near, far = Models("near"), Models("far")
        async with (
            connect(workers.url, app="near", serve=[near.service]),  # at worker 0
            connect(workers.url, app="far", serve=[far.service]),  # at worker 1
            connect(workers.url, app="caller") as mesh,  # at worker 0
        ):
            assert await asyncio.to_thread(workers.worker_of, "caller") == 0
            ask = asyncio.ensure_future
            crossing = ask(
                mesh.service("far").request_response("slow", 30, returns=str, timeout=30)
            )
            staying = ask(mesh.service("near").request_response("slow", 3, returns=str))
            await until(lambda: near.working and far.working)
            started = await asyncio.to_thread(
                workers.metric, "calls_started_total", '{service="far"}'
            )
            pids = await asyncio.to_thread(workers.pids)
            os.kill(pids[1], signal.SIGKILL)
            with pytest.raises(PeerLost, match="worker/1"):
                await crossing
            assert await staying == "near"
            # Back, with its connections: the library dials again, and announces again.
            await workers.until(
                lambda: workers.api("/api/v1/workers")["workers"][1]["state"] == "ready",
                "restarted",
            )
            new = await asyncio.to_thread(workers.pids)
            assert new[0] == pids[0] != new[1] != pids[1]
            await workers.until(
                lambda: len(workers.api("/api/v1/services")["services"]) == 2, "announced again"
            )
            assert await mesh.service("far").request_response("who", 1, returns=str) == "far 1"
            assert (
                await asyncio.to_thread(workers.metric, "worker_restarts_total", '{worker="1"}')
                == 1
            )
            again = await asyncio.to_thread(
                workers.metric, "calls_started_total", '{service="far"}'
            )
            assert again == started + 1  # no total goes back
            assert workers.broker.process.returncode is None
        report = workers.broker.process.report()
        assert "worker 1" in report
        assert "ended by SIGKILL" in report


async def test_the_connections_of_a_worker_that_was_killed_come_back_to_it():
    with a_broker_of(2) as workers:
        async with AsyncExitStack() as stack:
            for number in range(8):
                await stack.enter_async_context(connect(workers.url, app=f"app-{number}"))
            assert await asyncio.to_thread(workers.placed) == [4, 4]
            pids = await asyncio.to_thread(workers.pids)
            os.kill(pids[0], signal.SIGKILL)
            await workers.until(lambda: workers.placed() == [4, 4] and workers.pids()[0], "back")
            assert (await asyncio.to_thread(workers.pids))[0] != pids[0]


async def test_a_stream_from_a_worker_that_is_killed_ends_with_an_error():
    with a_broker_of(2) as workers:
        models = Models("far")
        async with (
            connect(workers.url, app="far", serve=[models.service]),  # at worker 0
            connect(workers.url, app="caller") as mesh,  # at worker 1
        ):
            pids = await asyncio.to_thread(workers.pids)
            stream = mesh.service("far").request_stream("numbers", 10**9, returns=int)
            async with stream as items:
                async for item in items:
                    if item == 1000:
                        break
                os.kill(pids[0], signal.SIGKILL)
                with pytest.raises(PeerLost):
                    await _all(items)


async def test_no_worker_outlives_its_supervisor():
    with a_broker_of(3) as workers:
        pids = await asyncio.to_thread(workers.pids)
        assert len(set(pids)) == 3
        os.kill(workers.broker.process.pid, signal.SIGKILL)
        await workers.until(lambda: not any(map(is_alive, pids)), "all are gone")


async def test_a_hung_worker_does_not_outlive_its_supervisor_either():
    with a_broker_of(2) as workers:
        pids = await asyncio.to_thread(workers.pids)
        os.kill(pids[0], signal.SIGSTOP)
        os.kill(workers.broker.process.pid, signal.SIGKILL)
        await workers.until(lambda: not any(map(is_alive, pids)), "all are gone")


async def test_a_hung_worker_is_seen_in_the_health_and_keeps_nobody_from_connecting():
    with a_broker_of(2) as workers:
        pids = await asyncio.to_thread(workers.pids)
        os.kill(pids[0], signal.SIGSTOP)
        try:
            models = Models("one")
            async with AsyncExitStack() as stack:
                # The hung one is handed connections until it has not taken some.
                for _ in range(6):
                    with suppress(RSocketError):
                        await stack.enter_async_context(
                            connect(workers.url, serve=[models.service], connect_timeout=2)
                        )
                (service,) = (await asyncio.to_thread(workers.api, "/api/v1/services"))["services"]
                assert service["instances"] == 4
                with pytest.raises(OSError, match="503"):
                    await asyncio.to_thread(workers.api, "/healthz")
        finally:
            os.kill(pids[0], signal.SIGCONT)
        assert await asyncio.to_thread(workers.api, "/healthz") == {"status": "ok"}


async def test_all_workers_drain_and_a_call_that_crosses_finishes():
    with a_broker_of(2) as workers:
        models = Models("far")
        async with (
            connect(workers.url, app="far", serve=[models.service]),
            connect(workers.url, app="caller") as mesh,
        ):
            running = asyncio.ensure_future(
                mesh.service("far").request_response("slow", 1.0, returns=str)
            )
            await until(lambda: models.working)
            workers.broker.process.signal(signal.SIGTERM)  # to the whole group, as a terminal does
            with pytest.raises(Draining):
                await _for_ever(mesh)
            assert await running == "far"
        assert await workers.broker.process.ended() == 0


async def test_a_second_signal_stops_all_workers_at_once():
    with a_broker_of(2) as workers:
        pids = await asyncio.to_thread(workers.pids)
        models = Models("far")
        async with (
            connect(workers.url, app="far", serve=[models.service]),
            connect(workers.url, app="caller") as mesh,
        ):
            running = asyncio.ensure_future(
                mesh.service("far").request_response("slow", 60, returns=str, timeout=60)
            )
            await until(lambda: models.working)
            workers.broker.process.signal(signal.SIGINT)
            await workers.broker.process.line("draining", stream="stderr")
            workers.broker.process.signal(signal.SIGINT)
            assert await workers.broker.process.ended() == 1
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        assert not any(map(is_alive, pids))


async def test_one_slow_consumer_holds_up_nobody_behind_the_same_link():
    with a_broker_of(2) as workers:
        models = Models("far")

        @models.service.request_stream
        async def flood(size: int) -> AsyncIterator[bytes]:
            while True:
                yield bytes(size)

        @models.service.request_stream
        async def ticks(every: float) -> AsyncIterator[int]:
            number = 0
            while True:
                yield number
                number += 1
                await asyncio.sleep(every)

        async with AsyncExitStack() as stack:
            enter = stack.enter_async_context
            await enter(connect(workers.url, app="far", serve=[models.service]))  # worker 0
            stuck = await asyncio.open_connection(*workers.url.removeprefix("tcp://").split(":"))
            await begin(stuck[1], "far.flood", 4096)  # at worker 1; reads nothing, ever
            meshes: list[Mesh] = []
            while len(meshes) < 3:
                mesh = await enter(connect(workers.url, app=f"reads-{len(meshes)}"))
                meshes.append(mesh)
            await asyncio.sleep(0.5)  # whatever can pile up has done so
            loop = asyncio.get_running_loop()
            gaps = []
            for mesh in meshes:
                largest, last = 0.0, loop.time()
                async with mesh.service("far").request_stream("ticks", 0.01, returns=int) as items:
                    async for number in items:
                        now = loop.time()
                        largest, last = max(largest, now - last), now
                        if number == 100:
                            break
                gaps.append(largest)
            assert max(gaps) < 0.25
            stuck[1].close()


# -- sessions that outlive their sockets -----------------------------------------------------------


@pytest.fixture
def trust(tmp_path: Path) -> ssl.SSLContext:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(tmp_path / "chain.pem", append=True)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


async def _fill(workers: Workers, stack: AsyncExitStack, full: int, **options: Any) -> None:
    """Have worker *full* have two connections more, so that the next ones go to the other."""
    meshes = [await connect(workers.url, app=f"fills-{number}", **options) for number in range(4)]
    for mesh in meshes:
        if await asyncio.to_thread(workers.worker_of, mesh.app) == full:
            stack.push_async_callback(mesh.close)
        else:
            await mesh.close()


async def _break(workers: Workers, mesh: Mesh) -> None:
    """Cut the socket of *mesh*, and return when its session goes on."""
    resumed = await asyncio.to_thread(workers.metric, "sessions_resumed_total")
    transport = mesh._session._peer._redial.transport._socket
    transport.abort()
    await workers.until(
        lambda: workers.metric("sessions_resumed_total") == resumed + 1, "the session goes on"
    )


@pytest.mark.parametrize("scheme", ["tcp", "unix", "tls", "ws", "wss"])
async def test_a_session_goes_on_at_its_worker_wherever_its_next_connection_comes(
    scheme: str, tmp_path: Path, trust: ssl.SSLContext
) -> None:
    url = f"unix://{tmp_path}/broker.sock" if scheme == "unix" else f"{scheme}://127.0.0.1:0"
    secret = ""
    if scheme in ("tls", "wss"):
        secret = f'certificate = "{tmp_path}/chain.pem"\nkey = "{tmp_path}/key.pem"\n'
    config = tmp_path / "broker.toml"
    config.write_text(f'[[listeners]]\nurl = "{url}"\n{secret}')
    with a_broker_of(2, "--config", str(config), listen=()) as workers:
        models = Models("far")
        tls = trust if secret else None
        async with AsyncExitStack() as stack:
            enter = stack.enter_async_context
            await enter(connect(workers.url, app="far", serve=[models.service], tls=tls))
            mesh = await enter(connect(workers.url, app="caller", resume=True, tls=tls))
            home = await asyncio.to_thread(workers.worker_of, "caller")
            await _fill(workers, stack, home, tls=tls)
            placed = await asyncio.to_thread(workers.placed)
            expected = 0
            stream = mesh.service("far").request_stream("numbers", 30_000, returns=int, prefetch=64)
            async with stream as items:
                async for item in items:
                    assert item == expected  # nothing lost, nothing twice
                    expected += 1
                    if expected in (5000, 15_000):
                        await _break(workers, mesh)
            assert expected == 30_000
            # A plain socket came home; any other is where it came to, with a pipe to its session.
            came_to = 0 if scheme in ("tcp", "unix") else 1
            now = await asyncio.to_thread(workers.placed)
            assert (now[home], now[1 - home]) == (placed[home], placed[1 - home] + came_to)
            assert await asyncio.to_thread(workers.worker_of, "caller") == home
            assert await asyncio.to_thread(workers.metric, "connections_accepted_total") == 6


async def test_a_resume_for_a_session_that_no_worker_has_is_refused():
    with a_broker_of(2) as workers:
        client = await asyncio.to_thread(RawClient, workers.broker)
        client.send(encode_resume(Resume(b"x" * 16, 0, 0)))
        code, text = await asyncio.to_thread(client.refused)
        client.close()
        assert code == 0x004
        assert "no session with this token" in text
        await workers.until(lambda: workers.placed() == [0, 0], "it is gone everywhere")
