"""Calls through a broker of several processes: as through one, whoever is connected where."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from functools import partial
from typing import Self

import pytest
import trustme

from rsocket_mesh import ApplicationError, Mesh, NoRoute, Overloaded, connect
from rsocket_mesh.protocol.announce import Announcement, ServiceInfo, encode_announcement
from rsocket_mesh.protocol.frames import (
    METADATA_PUSH,
    PAYLOAD,
    REQUEST_RESPONSE,
    Setup,
    decode_payload,
    decode_request,
    encode_keepalive,
    encode_metadata_push,
    encode_payload,
    encode_request,
    encode_setup,
    peek,
)
from rsocket_mesh.protocol.metadata import (
    ANNOUNCE,
    CALLER,
    CBOR,
    COMPOSITE,
    DATA_MIME_TYPE,
    JSON,
    ROUTING,
    SHARD,
    decode_composite,
    encode_composite,
    encode_entry,
    encode_mime,
    encode_routing,
)
from tests.support.raw_clients import RawClient
from tests.support.raw_peers import routed
from tests.support.waiting import until
from tests.support.worker_brokers import Models, Workers, a_broker_of

ITEMS = 100_000  # of one stream from one worker to another


async def _numbers(how_many: int) -> AsyncIterator[int]:
    for number in range(how_many):
        yield number


async def _try_all_models(mesh: Mesh, name: str, models: Models) -> None:
    service = mesh.service(name)
    for number in range(20):
        assert await service.request_response("who", number, returns=str) == f"{name} {number}"
    async with service.request_stream("numbers", 3000, returns=int) as items:
        assert [item async for item in items] == list(range(3000))
    async with service.request_channel("doubled", _numbers(1000), returns=int) as items:
        assert [item async for item in items] == [2 * number for number in range(1000)]
    before = len(models.noted)
    await service.fire_and_forget("note", before)
    assert await service.request_response("who", 1, returns=str) == f"{name} 1"
    assert models.noted[before:] == [before]  # its frames keep their order
    with pytest.raises(ApplicationError, match="because"):
        await service.request_response("fail", "because", returns=None)
    with pytest.raises(NoRoute):
        await service.request_response("unknown", 1, returns=None)


async def test_calls_of_all_models_go_between_all_pairs_of_workers():
    with a_broker_of(2) as workers:
        async with AsyncExitStack() as stack:
            models = [Models("one"), Models("two")]
            for one in models:
                name = one.service.name
                await stack.enter_async_context(
                    connect(workers.url, app=f"serves-{name}", serve=[one.service])
                )
            meshes = [
                await stack.enter_async_context(connect(workers.url, app=f"caller-{number}"))
                for number in range(2)
            ]
            apps = ("serves-one", "serves-two", "caller-0", "caller-1")
            places = [await asyncio.to_thread(workers.worker_of, app) for app in apps]
            assert places == [0, 1, 0, 1]
            for mesh in meshes:
                for one in models:
                    await _try_all_models(mesh, one.service.name, one)
            passed_on = await asyncio.to_thread(
                workers.metric, "calls_started_total", '{service="one"}'
            )
            assert passed_on == 2 * 25  # each call counts once


async def test_a_hundred_thousand_items_cross_in_order():
    with a_broker_of(2) as workers:
        models = Models("far")
        async with (
            connect(workers.url, app="provider", serve=[models.service]),
            connect(workers.url, app="caller") as mesh,
        ):
            expected = 0
            far = mesh.service("far")
            async with far.request_stream("numbers", ITEMS, returns=int, prefetch=256) as items:
                async for item in items:
                    assert item == expected
                    expected += 1
            assert expected == ITEMS
            assert (
                await asyncio.to_thread(
                    workers.metric, "worker_calls_passed_on_total", '{worker="0"}'
                )
                == 1
            )


async def test_large_messages_cross_in_fragments():
    with a_broker_of(2) as workers:
        models = Models("far")

        @models.service.request_response
        async def echo(data: bytes) -> bytes:
            return data

        async with (
            connect(workers.url, app="provider", serve=[models.service]),
            connect(workers.url, app="caller") as mesh,
        ):
            data = bytes(range(256)) * 20_000
            calls = (
                mesh.service("far").request_response("echo", data, returns=bytes) for _ in "ab"
            )
            assert await asyncio.gather(*calls) == [data, data]


async def test_who_has_connected_can_be_called_at_once_from_every_worker():
    with a_broker_of(3) as workers:
        async with AsyncExitStack() as stack:
            callers = [
                await stack.enter_async_context(connect(workers.url, app="caller"))
                for _ in range(3)
            ]
            for number in range(10):
                name = f"new-{number}"
                models = Models(name)
                await stack.enter_async_context(connect(workers.url, serve=[models.service]))
                answers = [
                    mesh.service(name).request_response("who", 1, returns=str) for mesh in callers
                ]
                assert await asyncio.gather(*answers) == [f"{name} 1"] * 3


async def test_the_registry_is_one_whichever_worker_is_asked():
    with a_broker_of(2) as workers:
        async with AsyncExitStack() as stack:
            asked = [
                await stack.enter_async_context(
                    connect(workers.url, app=f"asks-{number}", codec="json")
                )
                for number in range(2)
            ]
            watches = [
                await stack.enter_async_context(
                    mesh.route("mesh.registry.watch").request_stream(b"")
                )
                for mesh in asked
            ]
            firsts = [json.loads((await anext(watch)).data) for watch in watches]
            assert [first["type"] for first in firsts] == ["snapshot", "snapshot"]
            full = Models("busy", concurrency=3)
            for number in range(2):
                await stack.enter_async_context(
                    connect(
                        workers.url, app="busy", instance=f"busy-{number}", serve=[full.service]
                    )
                )
            for watch in watches:
                changes = [json.loads((await anext(watch)).data) for _ in range(2)]
                assert sorted(one["instance"] for one in changes) == ["busy-0", "busy-1"]
            at_work = [
                asyncio.ensure_future(
                    mesh.service("busy").request_response("slow", 20, returns=str)
                )
                for mesh in asked
            ]
            await until(lambda: full.working == 2)
            lists, described = [], []
            for mesh in asked:
                listed = await mesh.route("mesh.registry.list").request_response(b"")
                lists.append(json.loads(listed.data))
                about = await mesh.route("mesh.registry.describe").request_response(b'"busy"')
                rows = json.loads(about.data)["instances"]
                described.append(
                    sorted((r["instance"], r["in_flight"], r["at_work"]) for r in rows)
                )
            assert lists[0] == lists[1]
            assert lists[0][0]["instances"] == 2
            assert described[0] == described[1]
            assert sum(row[2] for row in described[0]) == 2
            info = [
                json.loads((await mesh.route("mesh.broker.info").request_response(b"")).data)
                for mesh in asked
            ]
            assert [one["connections"] for one in info] == [4, 4]
            assert [one["workers"] for one in info] == [2, 2]
            assert [one["streams_open"] for one in info] == [2, 2]
            for call in at_work:
                call.cancel()
            await asyncio.gather(*at_work, return_exceptions=True)


async def test_a_new_session_of_an_instance_takes_the_place_of_the_old_one_at_another_worker():
    with a_broker_of(2) as workers:
        old = await asyncio.to_thread(RawClient, workers.broker)
        new = await asyncio.to_thread(RawClient, workers.broker)
        announced = Announcement("app", "same", services=(ServiceInfo("s"),))
        await asyncio.to_thread(old.setup, announced)
        await asyncio.to_thread(new.setup, announced)
        assert "a new session of app/same has come" in await asyncio.to_thread(old.verdict)
        old.close()
        await workers.until(lambda: workers.placed() == [0, 1], "the old one is gone")
        (service,) = (await asyncio.to_thread(workers.api, "/api/v1/services"))["services"]
        assert service["instances"] == 1
        new.close()


async def test_calls_stay_at_their_worker_while_its_provider_is_not_busy():
    with a_broker_of(2) as workers:
        one, two = Models("same"), Models("same")
        async with (
            connect(workers.url, app="one", serve=[one.service]),
            connect(workers.url, app="two", serve=[two.service]),
            connect(workers.url, app="caller") as mesh,
        ):
            for number in range(300):
                await mesh.service("same").request_response("who", number, returns=str)
            name = "worker_calls_passed_on_total"
            assert await asyncio.to_thread(workers.metric, name, '{worker="1"}') == 0


async def test_a_far_provider_gets_its_part_when_the_own_one_is_busy():
    with a_broker_of(2) as workers:
        one, two = Models("same"), Models("same")
        async with (
            connect(workers.url, app="one", serve=[one.service]),
            connect(workers.url, app="two", serve=[two.service]),
            connect(workers.url, app="caller") as mesh,
        ):
            service = mesh.service("same")

            def call() -> asyncio.Future[str]:
                slow = service.request_response("slow", 30, returns=str, timeout=30)
                return asyncio.ensure_future(slow)

            calls = [call() for _ in range(30)]
            await until(lambda: one.working + two.working == 30)
            while not two.working:
                await asyncio.sleep(0.02)
                calls.append(call())
                assert len(calls) < 200
            calls += [call() for _ in range(60)]
            await until(lambda: one.working + two.working == len(calls))
            # A third, since the other worker has no callers of its own.
            assert 0.25 * len(calls) < two.working < 0.4 * len(calls)
            for pending in calls:
                pending.cancel()
            await asyncio.gather(*calls, return_exceptions=True)


async def test_a_far_provider_helps_out_when_the_own_one_is_full():
    with a_broker_of(2) as workers:
        one, two = Models("same", concurrency=2), Models("same", concurrency=2)
        async with (
            connect(workers.url, app="one", serve=[one.service]),
            connect(workers.url, app="two", serve=[two.service]),
            connect(workers.url, app="caller") as mesh,
        ):
            service = mesh.service("same")
            calls = []

            def has(working: int) -> bool:
                return one.working + two.working == working

            for working in range(1, 5):
                calls.append(
                    asyncio.ensure_future(
                        service.request_response("slow", 30, returns=str, timeout=30)
                    )
                )
                await until(partial(has, working))
                assert one.working == min(working, 2)  # near before far
            with pytest.raises(Overloaded) as refused:
                await service.request_response("slow", 1, returns=str)
            assert "retry_after_ms" in refused.value.details
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)


# -- what only raw frames show ---------------------------------------------------------------------


class Raw:
    """A provider and a caller at different workers, on blocking sockets."""

    def __init__(
        self, workers: Workers, announced: Announcement, provider: Setup, caller: Setup
    ) -> None:
        self.provider, self.caller = RawClient(workers.broker), RawClient(workers.broker)
        entry = encode_entry(ANNOUNCE, encode_announcement(announced))
        for client, setup in (
            (self.provider, provider._replace(metadata=entry)),
            (self.caller, caller),
        ):
            client.send(encode_setup(setup), encode_keepalive(True))
            client.frame()
        assert workers.placed() == [1, 1]

    def request(self, metadata: bytes | None, data: bytes = b"x") -> tuple[bytes | None, bytes]:
        """Send a request; return what the provider got of it, and answer."""
        self.caller.send(encode_request(REQUEST_RESPONSE, 1, metadata, data, None))
        got = decode_request(self.provider.frame())
        self.provider.send(encode_payload(got.stream_id, None, b"answer", True, True))
        answer = self.caller.frame()
        assert peek(answer)[:2] == (1, PAYLOAD)
        assert decode_payload(answer).data == b"answer"
        return got.metadata, got.data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.provider.close()
        self.caller.close()


COMPOSITE_CBOR = Setup(20_000, 90_000, COMPOSITE, CBOR)
COMPOSITE_JSON = Setup(20_000, 90_000, COMPOSITE, JSON)


def an_echo(**more: object) -> Announcement:
    return Announcement("app", "provider", services=(ServiceInfo("echo"),), **more)  # type: ignore[arg-type]


def test_a_provider_is_told_who_calls_also_across_workers():
    with (
        a_broker_of(2) as workers,
        Raw(workers, an_echo(caller=True), COMPOSITE_CBOR, COMPOSITE_CBOR) as raw,
    ):
        metadata, _ = raw.request(routed("echo.say"))
        entries = decode_composite(metadata or b"")
        assert entries[0].mime == CALLER
        said = json.loads(entries[0].content)
        assert (said["app"], said["tenant"]) == ("anonymous", "default")
        assert said["instance"].startswith("session-")
        assert entries[1].mime == ROUTING
        # What a caller claims to be is taken off, as within one process.
        lie = encode_composite(
            [(CALLER, b'{"app":"root"}'), (ROUTING, encode_routing(["echo.say"]))]
        )
        raw.caller.send(encode_request(REQUEST_RESPONSE, 3, lie, b"", None))
        told = decode_composite(decode_request(raw.provider.frame()).metadata or b"")
        assert [entry.mime for entry in told] == [CALLER, ROUTING]
        assert json.loads(told[0].content)["app"] == "anonymous"


def test_a_plain_request_crosses_byte_by_byte():
    with a_broker_of(2) as workers, Raw(workers, an_echo(), COMPOSITE_CBOR, COMPOSITE_CBOR) as raw:
        metadata = routed("echo.say", deadline_ms=5000)
        assert raw.request(metadata, b"data") == (metadata, b"data")


def test_another_data_type_is_stated_across_workers_as_within_one():
    with a_broker_of(2) as workers, Raw(workers, an_echo(), COMPOSITE_CBOR, COMPOSITE_JSON) as raw:
        metadata, _ = raw.request(routed("echo.say"))
        entries = decode_composite(metadata or b"")
        assert [entry.mime for entry in entries] == [ROUTING, DATA_MIME_TYPE]


def test_a_caller_without_routes_reaches_the_default_service_across_workers(tmp_path):
    config = tmp_path / "broker.toml"
    config.write_text('[[listeners]]\nurl = "tcp://127.0.0.1:0"\ndefault_service = "echo"\n')
    with a_broker_of(2, "--config", str(config), listen=()) as workers:
        plain = Setup(20_000, 90_000, "application/x-own", "text/plain")
        with Raw(workers, an_echo(), plain._replace(metadata_mime=COMPOSITE), plain) as raw:
            metadata, _ = raw.request(b"own")
            (entry,) = decode_composite(metadata or b"")
            assert entry == ("application/x-own", b"own")  # as within one process


def test_a_push_reaches_a_provider_of_another_worker():
    with a_broker_of(2) as workers, Raw(workers, an_echo(), COMPOSITE_CBOR, COMPOSITE_CBOR) as raw:
        raw.caller.send(encode_metadata_push(routed("echo.say")))
        frame = raw.provider.frame()
        assert peek(frame)[:2] == (0, METADATA_PUSH)
        assert decode_composite(frame[6:])[0].mime == ROUTING


async def test_a_shard_key_has_one_instance_whichever_worker_is_asked():
    def ask(caller: RawClient, key: int) -> bytes:
        entries = [(ROUTING, encode_routing(["sharded.where"])), (SHARD, str(key).encode())]
        metadata = encode_composite([*entries, (DATA_MIME_TYPE, encode_mime(CBOR))])
        caller.send(encode_request(REQUEST_RESPONSE, 2 * key + 1, metadata, b"\x01", None))
        return decode_payload(caller.frame()).data

    with a_broker_of(2) as workers:
        async with AsyncExitStack() as stack:
            for number in range(4):
                models = Models("sharded")
                models.answers_where(partial(int, number))
                await stack.enter_async_context(
                    connect(workers.url, app="s", instance=f"{number}", serve=[models.service])
                )
            callers = [
                stack.enter_context(closing(RawClient(workers.broker).setup())) for _ in range(2)
            ]
            assert await asyncio.to_thread(workers.placed) == [3, 3]
            found = [
                [await asyncio.to_thread(ask, caller, key) for key in range(40)]
                for caller in callers
            ]
            assert found[0] == found[1]
            assert len(set(found[0])) == 4


@pytest.mark.parametrize("scheme", ["tls", "ws", "wss", "unix"])
async def test_connections_of_every_kind_are_shared_out(scheme, tmp_path):
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    certificate.private_key_pem.write_to_path(key)
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(chain, append=True)
    url = f"unix://{tmp_path}/broker.sock" if scheme == "unix" else f"{scheme}://127.0.0.1:0"
    config = tmp_path / "broker.toml"
    secret = f'certificate = "{chain}"\nkey = "{key}"\n' if scheme in ("tls", "wss") else ""
    config.write_text(f'[[listeners]]\nurl = "{url}"\n{secret}')
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    tls = trust if secret else None
    with a_broker_of(2, "--config", str(config), listen=()) as workers:
        models = Models("far")
        async with (
            connect(workers.url, app="provider", serve=[models.service], tls=tls),
            connect(workers.url, app="caller", tls=tls) as mesh,
        ):
            assert await asyncio.to_thread(workers.placed) == [1, 1]
            await _try_all_models(mesh, "far", models)
        await workers.until(lambda: workers.placed() == [0, 0], "the ends are counted")
