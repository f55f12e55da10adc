"""Sessions: admitted, refused, announced, replaced, silent, draining - and what they are told."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from broker.config import Config, Limits
from rsocket_mesh.errors import ErrorCode
from rsocket_mesh.protocol.announce import Announcement, ServiceInfo, encode_announcement
from rsocket_mesh.protocol.frames import (
    KEEPALIVE,
    METADATA_PUSH,
    REQUEST_FNF,
    REQUEST_RESPONSE,
    REQUEST_STREAM,
    Resume,
    Setup,
    decode_error,
    decode_metadata_push,
    decode_payload,
    encode_cancel,
    encode_keepalive,
    encode_metadata_push,
    encode_payload,
    encode_request_n,
    encode_resume,
    encode_setup,
    peek,
)
from rsocket_mesh.protocol.metadata import (
    ANNOUNCE,
    CBOR,
    COMPOSITE,
    JSON,
    NOTICE,
    OCTET_STREAM,
    ROUTING,
    decode_composite,
    encode_composite,
    encode_entry,
    encode_mime,
    encode_routing,
)
from tests.support.raw_peers import Bench, RawPeer, request, routed

PLAIN = Setup(20_000, 90_000, COMPOSITE, OCTET_STREAM)


def announcement(**more: Any) -> Announcement:
    return Announcement("shop", services=(ServiceInfo("orders"),), **more)


def announce_entry(value: object) -> bytes:
    return encode_entry(ANNOUNCE, json.dumps(value).encode())


def refusal(peer: RawPeer) -> tuple[int, str]:
    """The one frame that a refused peer gets; its connection is closed."""
    (frame,) = peer.received()
    error = decode_error(frame)
    assert error.stream_id == 0
    assert peer.transport.closed
    return error.code, error.text


async def ask(peer: RawPeer, route: str, argument: object = None, stream_id: int = 1) -> Any:
    """Call a service of the broker with JSON; return the answer, or the error's text."""
    data = b"" if argument is None else json.dumps(argument).encode()
    metadata = routed(route) + encode_entry("message/x.rsocket.mime-type.v0", encode_mime(JSON))
    peer.send(request(REQUEST_RESPONSE, stream_id, data=data, metadata=metadata))
    for _ in range(5):
        await asyncio.sleep(0)
    (frame,) = peer.received()
    if peek(frame)[1] == 0x0B:
        return decode_error(frame).text
    return json.loads(decode_payload(frame).data)


# -- SETUP ----------------------------------------------------------------------------------------


async def test_nothing_is_sent_for_an_accepted_setup() -> None:
    """C-29."""
    peer = Bench().peer()
    peer.send(encode_setup(PLAIN))
    assert peer.received() == []
    assert peer.link.open


async def test_the_keepalive_behind_setup_is_answered_when_the_services_are_registered() -> None:
    bench = Bench()
    peer = bench.peer()
    entry = encode_entry(ANNOUNCE, encode_announcement(announcement()))
    peer.send(encode_setup(PLAIN._replace(metadata=entry)), encode_keepalive(True, 0, b"data"))
    (answer,) = peer.received()
    assert answer == encode_keepalive(False, 0, b"data")
    assert bench.hub.table.services("default") == ("orders",)


async def test_requests_pipelined_behind_setup_are_served_in_order() -> None:
    """C-30."""
    bench = Bench()
    provider, caller = bench.provider(), bench.peer()
    caller.send(encode_setup(PLAIN), *(request(REQUEST_FNF, i, data=b"%d" % i) for i in (1, 3, 5)))
    assert [frame[-1:] for frame in provider.received()] == [b"1", b"3", b"5"]


async def test_requests_pipelined_behind_a_refused_setup_reach_nobody() -> None:
    """C-31."""
    bench = Bench()
    provider, caller = bench.provider(), bench.peer()
    setup = PLAIN._replace(metadata=announce_entry({"app": 7}))
    caller.send(encode_setup(setup), request(REQUEST_FNF, 1))
    assert refusal(caller)[0] == ErrorCode.REJECTED_SETUP
    assert provider.received() == []


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"app": 7}, "$.app"),
        ({}, "app"),
        ({"app": "no spaces"}, "app"),
        ({"app": "a", "services": [{"name": "mesh.own"}]}, "services[0].name"),
        ({"app": "a", "services": [{"name": "s", "version": "new"}]}, "services[0].version"),
        ({"app": "a", "services": [{"name": "s", "routes": [""]}]}, "services[0].routes[0]"),
    ],
)
async def test_a_bad_announcement_is_refused_with_the_name_of_the_field(
    value: object, field: str
) -> None:
    bench = Bench()
    peer = bench.peer()
    peer.send(encode_setup(PLAIN._replace(metadata=announce_entry(value))))
    code, text = refusal(peer)
    assert code == ErrorCode.REJECTED_SETUP
    assert text.startswith("INVALID: ")
    assert field in text
    assert bench.counters.refused["invalid"] == 1
    assert bench.hub.links == {}


async def test_an_announcement_may_be_as_large_as_its_limit_and_not_a_byte_larger() -> None:
    raw = encode_announcement(announcement())
    for limit, accepted in ((len(raw), True), (len(raw) - 1, False)):
        # The config asks for at least a KiB, so the announcement is padded to it.
        padded = raw + b" " * 2048
        bench = Bench(Config(limits=Limits(announcement_bytes=limit + 2048)))
        peer = bench.peer()
        peer.send(encode_setup(PLAIN._replace(metadata=encode_entry(ANNOUNCE, padded))))
        assert peer.link.open is accepted
        if not accepted:
            assert str(limit + 2048) in refusal(peer)[1]


async def test_metadata_of_setup_that_cannot_be_taken_apart_is_invalid_setup() -> None:
    peer = Bench().peer()
    peer.send(encode_setup(PLAIN._replace(metadata=b"\xfe\x00\x00\x50ab")))
    assert refusal(peer)[0] == ErrorCode.INVALID_SETUP


@pytest.mark.parametrize(
    ("first", "code"),
    [
        pytest.param(request(REQUEST_RESPONSE, 1), ErrorCode.INVALID_SETUP, id="C-27"),
        pytest.param(encode_keepalive(True), ErrorCode.INVALID_SETUP, id="KEEPALIVE"),
        pytest.param(
            encode_setup(PLAIN)[:3] + b"\1" + encode_setup(PLAIN)[4:],
            ErrorCode.INVALID_SETUP,
            id="C-28",
        ),
        pytest.param(
            encode_setup(PLAIN._replace(major=2)), ErrorCode.INVALID_SETUP, id="C-34 version"
        ),
        pytest.param(
            encode_setup(PLAIN._replace(resume_token=b"t" * 16)),
            ErrorCode.REJECTED_SETUP,
            id="C-36",
        ),
        pytest.param(encode_resume(Resume(b"t" * 16, 0, 0)), ErrorCode.REJECTED_RESUME, id="C-117"),
    ],
)
async def test_a_first_frame_that_opens_no_session(first: bytes, code: int) -> None:
    peer = Bench(Config(limits=Limits(resume_timeout=0))).peer()
    peer.send(first)
    assert refusal(peer)[0] == code


async def test_a_first_frame_is_refused_by_its_header_before_it_is_complete() -> None:
    peer = Bench().peer()
    peer.send_bytes(b"\xff\xff\xff" + request(REQUEST_RESPONSE, 1)[:6])
    assert refusal(peer)[0] == ErrorCode.INVALID_SETUP


async def test_http_is_answered_in_http() -> None:
    bench = Bench()
    peer = bench.peer()
    peer.transport.scheme = "tcp"
    peer.send_bytes(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert peer.transport.written.startswith(b"HTTP/1.1 400 ")
    assert peer.transport.closed
    assert bench.counters.closes["http-on-rsocket-port"] == 1


async def test_whoever_sends_no_setup_is_closed_at_the_deadline_and_not_before() -> None:
    """C-42."""
    bench = Bench(Config(limits=Limits(setup_timeout=3.0)))
    peer = bench.peer()
    bench.pass_time(2.9)
    assert not peer.transport.closed
    bench.pass_time(0.2)
    assert refusal(peer)[0] == ErrorCode.INVALID_SETUP
    assert bench.counters.closes["setup-timeout"] == 1


async def test_a_second_setup_changes_nothing() -> None:
    """C-37."""
    bench = Bench()
    peer = bench.provider("orders")
    entry = encode_entry(ANNOUNCE, encode_announcement(Announcement("other")))
    peer.send(encode_setup(PLAIN._replace(metadata=entry)))
    assert peer.received() == []
    assert peer.link.app == "app"
    assert bench.hub.table.services("default") == ("orders",)


# -- silence --------------------------------------------------------------------------------------


async def test_a_silent_peer_is_dead_after_its_lifetime_and_its_services_with_it() -> None:
    bench = Bench()
    peer = bench.provider(lifetime_ms=5_000)
    bench.pass_time(4.9)
    assert bench.hub.table.services("default") == ("echo",)
    bench.pass_time(0.2)
    assert bench.hub.table.services("default") == ()
    assert peer.transport.closed
    assert bench.counters.closes["keepalive-timeout"] == 1


async def test_any_frame_is_a_sign_of_life() -> None:
    bench = Bench()
    peer = bench.provider(lifetime_ms=5_000)
    for _ in range(4):
        bench.pass_time(4)
        peer.send(encode_cancel(99))
    assert peer.link.open


# -- registration ---------------------------------------------------------------------------------


async def test_a_new_session_of_the_same_instance_replaces_the_old_one_at_once() -> None:
    bench = Bench()
    old = bench.provider(instance="one")
    caller = bench.caller()
    caller.send(request(REQUEST_RESPONSE, 1))
    new = bench.provider(instance="one")
    assert old.transport.closed
    assert bench.counters.closes["replaced"] == 1
    (error,) = caller.received()
    assert decode_error(error).text.startswith("PEER_LOST: ")
    caller.send(request(REQUEST_RESPONSE, 3))
    assert len(new.received()) == 1
    old.close()  # its clean-up, late
    assert bench.hub.table.services("default") == ("echo",)


async def test_other_instances_of_the_same_app_stay() -> None:
    bench = Bench()
    first, second = bench.provider(instance="one"), bench.provider(instance="two")
    assert first.link.open
    assert second.link.open


async def test_announce_replaces_the_whole_announcement_and_answers_what_is_in_force() -> None:
    bench = Bench()
    peer = bench.provider("orders", instance="one")
    answer = await ask(
        peer,
        "mesh.registry.announce",
        {"app": "app", "services": [{"name": "stock", "version": "2.0.0"}]},
    )
    assert answer["instance"] == "one"
    assert [service["name"] for service in answer["services"]] == ["stock"]
    assert bench.hub.table.services("default") == ("stock",)


async def test_announce_changes_neither_app_nor_instance() -> None:
    bench = Bench()
    peer = bench.provider("orders", instance="one")
    assert "app" in await ask(peer, "mesh.registry.announce", {"app": "other"})
    text = await ask(peer, "mesh.registry.announce", {"app": "app", "instance": "two"}, 3)
    assert text.startswith("INVALID: instance")
    assert bench.hub.table.services("default") == ("orders",)


async def test_a_session_that_announced_nothing_may_announce_later() -> None:
    bench = Bench()
    peer = bench.caller()
    await ask(peer, "mesh.registry.announce", {"app": "late", "services": [{"name": "late"}]})
    assert bench.hub.table.services("default") == ("late",)
    peer.close()
    assert bench.hub.table.services("default") == ()


async def test_a_push_with_the_entry_announces_without_an_answer() -> None:
    bench = Bench()
    peer = bench.provider("orders")
    entry = announce_entry({"app": "app", "services": [{"name": "stock"}]})
    peer.send(encode_metadata_push(entry))
    assert peer.received() == []
    assert bench.hub.table.services("default") == ("stock",)
    peer.send(encode_metadata_push(announce_entry({"app": "app", "services": 7})))
    assert peer.received() == []
    assert bench.hub.table.services("default") == ("stock",)
    assert bench.counters.dropped["push_invalid"] == 1


# -- pushes for others ----------------------------------------------------------------------------


async def test_a_push_with_a_route_reaches_a_provider_without_our_entries() -> None:
    bench = Bench()
    provider, caller = bench.provider(), bench.caller()
    entries = [(ROUTING, encode_routing(["echo.push"])), (NOTICE, b'{"type":"lie"}'), ("a/b", b"x")]
    caller.send(encode_metadata_push(encode_composite(entries)))
    (frame,) = provider.received()
    assert [e.mime for e in decode_composite(decode_metadata_push(frame))] == [ROUTING, "a/b"]


async def test_a_push_to_nobody_is_dropped_and_counted() -> None:
    bench = Bench()
    caller = bench.caller()
    caller.send(encode_metadata_push(encode_composite([("a/b", b"x")])))
    assert caller.received() == []
    assert bench.counters.dropped["push_no_route"] == 1


async def test_a_push_of_a_client_without_routing_reaches_its_default_service() -> None:
    bench = Bench()
    provider = bench.provider()
    caller = bench.peer(default_service="echo").setup(metadata_mime="application/json")
    caller.send(encode_metadata_push(b'{"any": 1}'))
    (frame,) = provider.received()
    assert decode_composite(decode_metadata_push(frame)) == [(JSON, b'{"any": 1}')]


# -- the broker's own services --------------------------------------------------------------------


async def test_the_broker_answers_for_itself() -> None:
    bench = Bench()
    bench.provider("orders", instance="one", version="1.2.0")
    caller = bench.caller()
    assert await ask(caller, "mesh.broker.info") == {"broker": "bench"}
    assert await ask(caller, "mesh.health.check", None, 3) == {"status": "serving"}
    assert (await ask(caller, "mesh.health.check", "ghost", 5))["status"] == "unknown"
    (service,) = await ask(caller, "mesh.registry.list", None, 7)
    assert (service["name"], service["versions"], service["instances"]) == ("orders", ["1.2.0"], 1)
    described = await ask(caller, "mesh.registry.describe", "orders", 9)
    assert described["instances"][0]["instance"] == "one"
    assert (await ask(caller, "mesh.registry.describe", "ghost", 11)).startswith("NO_ROUTE: ")
    assert (await ask(caller, "mesh.registry.describe", 7, 13)).startswith("INVALID: ")
    assert (await ask(caller, "mesh.broker.nothing", None, 15)).startswith("NO_ROUTE: ")


async def test_a_cbor_connection_is_answered_in_cbor() -> None:
    import cbor2

    bench = Bench()
    caller = bench.caller(data_mime=CBOR)
    caller.send(request(REQUEST_RESPONSE, 1, "mesh.broker.info", b""))
    for _ in range(5):
        await asyncio.sleep(0)
    (frame,) = caller.received()
    assert cbor2.loads(decode_payload(frame).data) == {"broker": "bench"}


async def test_watch_gives_a_snapshot_and_then_each_change_as_credit_allows() -> None:
    bench = Bench()
    watcher = bench.caller(data_mime=JSON)
    watcher.send(request(REQUEST_STREAM, 1, "mesh.registry.watch", b"", n=2))
    for _ in range(5):
        await asyncio.sleep(0)
    (frame,) = watcher.received()
    assert json.loads(decode_payload(frame).data) == {"type": "snapshot", "services": []}
    provider = bench.provider("orders", instance="one")
    for _ in range(5):
        await asyncio.sleep(0)
    (frame,) = watcher.received()
    change = json.loads(decode_payload(frame).data)
    assert change["added"] == [{"name": "orders", "version": "1.0.0"}]
    provider.close()
    for _ in range(5):
        await asyncio.sleep(0)
    assert watcher.received() == []  # no credit left
    watcher.send(encode_request_n(1, 1))
    for _ in range(5):
        await asyncio.sleep(0)
    (frame,) = watcher.received()
    assert json.loads(decode_payload(frame).data)["removed"][0]["name"] == "orders"
    watcher.send(encode_cancel(1))
    for _ in range(5):
        await asyncio.sleep(0)
    assert bench.hub.watchers == set()


# -- draining -------------------------------------------------------------------------------------


async def test_a_draining_broker_refuses_new_work_and_lets_the_old_finish() -> None:
    bench = Bench()
    provider, caller = bench.provider(), bench.caller()
    caller.send(request(REQUEST_RESPONSE, 1))
    there = peek(provider.received()[0])[0]
    bench.hub.begin_drain(30.0)
    caller.send(request(REQUEST_RESPONSE, 3))
    (error,) = caller.received()
    assert decode_error(error).text.startswith("DRAINING: ")
    provider.send(encode_payload(there, None, b"done", complete=True))
    (answer,) = caller.received()
    assert decode_payload(answer).data == b"done"
    late = bench.peer()
    late.send(encode_setup(PLAIN))
    assert refusal(late)[1].startswith("DRAINING: ")


async def test_only_those_who_asked_for_notices_get_them() -> None:
    bench = Bench()
    asked = bench.provider("a", announce={"notices": True})
    others = [bench.provider("b", instance="b"), bench.caller()]
    bench.hub.begin_drain(30.0)
    (frame,) = asked.received()
    assert peek(frame)[1] == METADATA_PUSH
    (entry,) = decode_composite(decode_metadata_push(frame))
    assert (entry.mime, json.loads(entry.content)["type"]) == (NOTICE, "draining")
    assert all(peer.received() == [] for peer in others)


async def test_keepalives_are_answered_while_draining() -> None:
    bench = Bench()
    peer = bench.caller()
    bench.hub.begin_drain(30.0)
    peer.send(encode_keepalive(True))
    (answer,) = peer.received()
    assert peek(answer)[1] == KEEPALIVE
