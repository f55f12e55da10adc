"""Every limit on a connection as such: the last that passes, the first that does not, the count.

What a limit costs whoever breaks it is part of the law: the one request, the one push, or the
connection.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest

from broker.config import Config, Limits
from broker.forwarding.admission import TurnedAway
from rsocket_mesh.errors import ErrorCode
from rsocket_mesh.protocol.announce import Announcement, ServiceInfo
from rsocket_mesh.protocol.frames import (
    ERROR,
    KEEPALIVE,
    REQUEST_RESPONSE,
    Lease,
    Setup,
    decode_error,
    decode_payload,
    encode_cancel,
    encode_keepalive,
    encode_lease,
    encode_metadata_push,
    encode_setup,
    peek,
)
from rsocket_mesh.protocol.metadata import (
    ANNOUNCE,
    COMPOSITE,
    JSON,
    OCTET_STREAM,
    ROUTING,
    encode_entry,
    encode_mime,
    encode_routing,
)
from tests.support.raw_peers import Bench, ListTransport, RawPeer, request, routed

PING = encode_keepalive(respond=True)


def bench_with(**limits: Any) -> Bench:
    return Bench(Config(limits=Limits(**limits)))


def from_address(bench: Bench, address: str | None) -> RawPeer:
    """A connection that has said nothing yet."""
    return bench.peer(address=address)


def told(peer: RawPeer) -> tuple[int, str]:
    """What a peer whose connection was ended was told last; it is closed."""
    assert peer.transport.closed
    error = decode_error(peer.received()[-1])
    assert error.stream_id == 0
    return error.code, error.text


def announced(**service: Any) -> bytes:
    value = {"app": "app", "services": [{"name": "s", **service}]}
    return encode_entry(ANNOUNCE, json.dumps(value).encode())


async def answered(peer: RawPeer, stream_id: int, route: str, value: object = None) -> str:
    """Call a service of the broker in JSON; return `ok` or the error's text."""
    data = b"" if value is None else json.dumps(value).encode()
    metadata = routed(route) + encode_entry("message/x.rsocket.mime-type.v0", encode_mime(JSON))
    peer.send(request(REQUEST_RESPONSE, stream_id, data=data, metadata=metadata))
    for _ in range(5):
        await asyncio.sleep(0)
    frame = peer.received()[0]  # a long answer has more than one
    if peek(frame)[1] == ERROR:
        return decode_error(frame).text
    assert decode_payload(frame).data
    return "ok"


# -- how many there may be ------------------------------------------------------------------------


async def test_connections_beyond_the_total_are_told_and_cost_no_session() -> None:
    bench = bench_with(connections=2)
    first, _ = bench.peer(), bench.peer()
    receiver, transport = bench.hub.receiver(""), ListTransport("third")
    assert isinstance(receiver, TurnedAway)
    receiver.connected(transport)
    assert transport.closed
    error = decode_error(transport.written[3:])
    assert (error.stream_id, error.code) == (0, ErrorCode.REJECTED_SETUP)
    assert error.text.startswith("OVERLOADED: this broker has 2 connections")
    assert len(bench.hub.links) == 2
    assert bench.counters.limits["connections"] == 1
    assert bench.counters.closes["too-many-connections"] == 1
    first.close()
    assert bench.hub.receiver("") is not receiver
    assert len(bench.hub.links) == 2


async def test_connections_of_one_address_beyond_its_limit_are_refused_and_others_are_not() -> None:
    bench = bench_with(connections_per_address=2)
    mine = [from_address(bench, "192.0.2.1") for _ in range(3)]
    other, unix = from_address(bench, "192.0.2.2"), from_address(bench, None)
    code, text = told(mine[2])
    assert code == ErrorCode.REJECTED_SETUP
    assert text.startswith("OVERLOADED: 192.0.2.1 has 2 connections already")
    assert bench.counters.limits["connections_per_address"] == 1
    assert bench.counters.closes["too-many-connections"] == 1
    assert not any(peer.transport.closed for peer in (*mine[:2], other, unix))
    mine[0].close()
    assert not from_address(bench, "192.0.2.1").transport.closed


async def test_the_oldest_of_too_many_silent_connections_makes_room() -> None:
    bench = bench_with(connections_without_setup=2)
    speaks = bench.caller()
    oldest, second, third = (bench.peer(name) for name in ("oldest", "second", "third"))
    code, text = told(oldest)
    assert code == ErrorCode.REJECTED_SETUP
    assert text.startswith("OVERLOADED: more than 2 connections have not sent SETUP")
    assert bench.counters.limits["connections_without_setup"] == 1
    assert bench.counters.closes["crowded-out"] == 1
    assert not any(peer.transport.closed for peer in (speaks, second, third))
    second.setup()
    assert not bench.peer().transport.closed
    assert not third.transport.closed


async def test_whoever_says_nothing_is_closed_after_five_seconds() -> None:
    bench = Bench()
    peer = bench.peer()
    bench.pass_time(4.9)
    assert not peer.transport.closed
    bench.pass_time(0.2)
    assert told(peer)[1] == "no SETUP within 5 s"
    assert bench.counters.closes["setup-timeout"] == 1
    assert bench.counters.limits["setup_timeout"] == 1


# -- what one frame may be ------------------------------------------------------------------------


def a_setup(size: int) -> bytes:
    """A SETUP frame of *size* bytes."""
    empty = encode_setup(Setup(20_000, 90_000, COMPOSITE, OCTET_STREAM))
    return encode_setup(
        Setup(20_000, 90_000, COMPOSITE, OCTET_STREAM, data=bytes(size - len(empty)))
    )


async def test_a_setup_is_refused_by_its_length_before_it_has_come() -> None:
    bench = bench_with(setup_bytes=2048)
    fits, too_long = bench.peer(), bench.peer()
    fits.send(a_setup(2048), PING)
    assert peek(fits.received()[0])[1] == KEEPALIVE
    too_long.send_bytes((2049).to_bytes(3, "big") + a_setup(2049)[:100])
    assert told(too_long) == (
        ErrorCode.INVALID_SETUP,
        "SETUP frame of 2049 bytes exceeds the limit of 2048",
    )
    assert bench.counters.limits["setup_bytes"] == 1


async def test_a_frame_that_is_too_long_is_counted_and_named() -> None:
    bench = Bench()
    peer = bench.caller()
    peer.link.protocol_violated("frame length 11 exceeds the limit of 10 bytes", "frame-too-long")
    assert told(peer)[0] == ErrorCode.CONNECTION_ERROR
    assert bench.counters.limits["frame_bytes"] == 1
    assert bench.counters.closes["frame-too-long"] == 1


async def test_a_frame_that_does_not_get_complete_ends_its_connection() -> None:
    bench = bench_with(frame_timeout=8.0)
    slow, healthy = bench.caller(), bench.caller()
    slow.transport.partial_since = bench.time
    bench.pass_time(7.9)
    healthy.transport.partial_since = bench.time
    assert not slow.transport.closed
    bench.pass_time(2.2)
    code, text = told(slow)
    assert code == ErrorCode.CONNECTION_ERROR
    assert text == "a frame was not complete 8 s after its first byte"
    assert bench.counters.limits["frame_timeout"] == 1
    assert bench.counters.closes["slow-frame"] == 1
    assert not healthy.transport.closed


# -- stream 0 -------------------------------------------------------------------------------------


async def test_keepalives_at_their_rate_are_answered_and_a_flood_ends_the_connection() -> None:
    bench = bench_with(keepalives_per_second=5)
    peer = bench.caller()  # its setup sends one
    peer.send(*[PING] * 49)
    assert len(peer.received()) == 49
    bench.pass_time(1)
    peer.send(*[PING] * 5)
    assert len(peer.received()) == 5
    peer.send(*[PING] * 1000)
    code, text = told(peer)
    assert code == ErrorCode.CONNECTION_ERROR
    assert text.startswith("more than 5 frames per second on stream 0 (50 at once)")
    assert bench.counters.limits["keepalives_per_second"] == 1
    assert bench.counters.closes["keepalive-flood"] == 1


async def test_leases_of_a_provider_have_a_rate_of_their_own() -> None:
    bench = bench_with(keepalives_per_second=1, leases_per_second=50)
    peer = bench.provider(lease=True)
    peer.send(*[encode_lease(Lease(1000, 1))] * 50)
    assert peer.link.open
    peer.send(encode_lease(Lease(1000, 1)))
    assert told(peer)[0] == ErrorCode.CONNECTION_ERROR
    assert bench.counters.closes["lease-flood"] == 1


async def test_a_flood_of_frames_on_stream_0_that_mean_nothing_is_one_too() -> None:
    bench = bench_with(keepalives_per_second=5)
    peer = bench.caller()
    peer.send(*[encode_keepalive(respond=False)] * 1000)
    assert told(peer)[0] == ErrorCode.CONNECTION_ERROR
    assert bench.counters.closes["keepalive-flood"] == 1


async def test_keepalive_data_at_the_limit_comes_back_and_more_ends_the_connection() -> None:
    bench = bench_with(keepalive_bytes=100)
    peer = bench.caller()
    peer.send(encode_keepalive(respond=True, data=bytes(100)))
    assert len(peer.received()[0]) == 114
    peer.send(encode_keepalive(respond=True, data=bytes(101)))
    assert told(peer) == (
        ErrorCode.CONNECTION_ERROR,
        "KEEPALIVE with 101 bytes of data exceeds 100",
    )
    assert bench.counters.limits["keepalive_bytes"] == 1
    assert bench.counters.closes["keepalive-too-large"] == 1


async def test_pushes_beyond_their_rate_are_dropped_and_a_flood_ends_the_connection() -> None:
    bench = bench_with(pushes_per_second=5)
    provider, peer = bench.provider(), bench.caller()
    push = encode_metadata_push(routed("echo.say"))
    peer.send(*[push] * 12)
    assert len(provider.received()) == 10
    assert bench.counters.dropped["push_rate_limited"] == 2
    assert bench.counters.limits["pushes_per_second"] == 2
    bench.pass_time(1)
    peer.send(*[push] * 5)
    assert len(provider.received()) == 5
    peer.send(*[push] * 1000)
    assert told(peer)[1].startswith("more than 5 METADATA_PUSH frames per second")
    assert bench.counters.closes["push-flood"] == 1
    assert provider.received() == []


async def test_a_push_larger_than_an_announcement_with_its_metadata_is_dropped() -> None:
    bench = bench_with(announcement_bytes=1024, metadata_bytes=1024)
    provider, peer = bench.provider(), bench.caller()
    route = routed("echo.say")
    for size, arrives in ((2048, True), (2049, False)):
        padding = encode_entry(OCTET_STREAM, bytes(size - len(route) - 4))
        peer.send(encode_metadata_push(route + padding))
        assert bool(provider.received()) is arrives
    assert bench.counters.limits["metadata_bytes"] == 1


async def test_a_flood_of_frames_for_streams_that_are_not_there_is_read_at_its_rate() -> None:
    """And not closed: a provider cannot help what others cancelled."""
    bench = bench_with(stray_frames_per_second=100)
    peer = bench.provider()
    peer.send(*[encode_cancel(1)] * 500)
    assert peer.transport.rests == []
    peer.send(*[encode_cancel(1)] * 50)
    assert peer.transport.rests[-1] == pytest.approx(0.5)
    peer.send(*[encode_cancel(1)] * 5000)
    assert peer.transport.rests[-1] == 1.0
    assert peer.link.open
    assert bench.counters.limits["stray_frames_per_second"] == 1
    assert bench.counters.ignored["CANCEL"] == 5550
    for _ in range(20):
        peer.transport.rests.clear()
        peer.send(*[encode_cancel(1)] * 100)
    assert peer.link.open


async def test_a_caller_that_goes_on_with_such_frames_is_closed() -> None:
    bench = bench_with(stray_frames_per_second=100)
    peer = bench.caller()
    peer.send(*[encode_cancel(1)] * 600)
    assert peer.link.open
    bench.pass_time(10)
    peer.send(*[encode_cancel(1)] * 600)
    assert peer.link.open
    peer.send(*[encode_cancel(1)] * 10)
    assert told(peer)[1] == "more than 100 frames per second for streams that are not there"
    assert bench.counters.closes["stray-flood"] == 1


# -- announcements --------------------------------------------------------------------------------


async def test_announcements_by_call_beyond_their_rate_are_told_when_to_come_again() -> None:
    bench = bench_with(announcements_per_second=2)
    peer = bench.provider()
    for i in range(10):
        assert await answered(peer, 1 + 2 * i, "mesh.registry.announce", {"app": "app"}) == "ok"
    text = await answered(peer, 101, "mesh.registry.announce", {"app": "app"})
    assert text.startswith("RATE_LIMITED(retry_after_ms=501): more than 2 announcements per second")
    assert bench.counters.limits["announcements_per_second"] == 1
    bench.pass_time(0.501)
    assert await answered(peer, 103, "mesh.registry.announce", {"app": "app"}) == "ok"


async def test_a_large_announcement_counts_as_several() -> None:
    bench = bench_with(announcements_per_second=1)
    peer = bench.provider()
    value = {"app": "app", "services": [{"name": "s", "description": "x" * 200_000}]}
    assert await answered(peer, 1, "mesh.registry.announce", value) == "ok"
    assert "RATE_LIMITED" in await answered(peer, 3, "mesh.registry.announce", value)


async def test_announcements_that_change_all_the_time_end_their_connection() -> None:
    bench = bench_with(announcements_per_second=2)
    peer = bench.provider()
    for i in range(150):
        peer.send(encode_metadata_push(announced(version=f"1.0.{i}")))
    assert told(peer)[1].startswith("more than 2 announcements per second")
    assert bench.counters.closes["announcement-flood"] == 1
    assert bench.counters.limits["announcements_per_second"] == 101
    assert bench.hub.table.generation < 20


@pytest.mark.parametrize(
    ("limit", "most", "make"),
    [
        (
            "announced_services",
            3,
            lambda n: {"services": [{"name": f"s{i}"} for i in range(n)]},
        ),
        (
            "announced_methods",
            3,
            lambda n: {
                "services": [
                    {"name": "a", "methods": {"first": {}}},
                    {"name": "b", "methods": {f"m{i}": {} for i in range(n - 1)}},
                ]
            },
        ),
        (
            "announced_routes",
            3,
            lambda n: {
                "services": [
                    {"name": "a", "routes": ["a/first"]},
                    {"name": "b", "routes": [f"b/{i}" for i in range(n - 1)]},
                ]
            },
        ),
        ("announced_tags", 3, lambda n: {"tags": {f"t{i}": "" for i in range(n)}}),
        (
            "announced_tags",
            3,
            lambda n: {"services": [{"name": "a", "tags": {f"t{i}": "" for i in range(n)}}]},
        ),
    ],
)
async def test_an_announcement_holds_at_most_so_many(limit: str, most: int, make: Any) -> None:
    bench = bench_with(**{limit: most})
    peer = bench.caller()
    assert await answered(peer, 1, "mesh.registry.announce", {"app": "x", **make(most)}) == "ok"
    too_much = {"app": "x", **make(most + 1)}
    text = await answered(peer, 3, "mesh.registry.announce", too_much)
    assert text.startswith(f"INVALID: announcement: {most + 1} ")
    assert f"exceed the limit of {most}" in text
    assert bench.counters.limits[limit] == 1
    by_setup = bench.peer()
    entry = encode_entry(ANNOUNCE, json.dumps(too_much).encode())
    by_setup.send(encode_setup(Setup(20_000, 90_000, COMPOSITE, OCTET_STREAM, entry)))
    assert told(by_setup) == (ErrorCode.REJECTED_SETUP, text)
    assert bench.counters.limits[limit] == 2


async def test_the_size_of_an_announcement_is_counted_too() -> None:
    bench = bench_with(announcement_bytes=1024)
    peer = bench.caller()
    value = {"app": "x", "instance": "i", "tags": {"t": ""}}
    for size, verdict in ((1024, "ok"), (1025, "INVALID: announcement of 1025 bytes exceeds")):
        value["tags"] = {"t": "x" * (size - len(json.dumps({**value, "tags": {"t": ""}})))}
        assert len(json.dumps(value)) == size
        answer = await answered(peer, 2 * size + 1, "mesh.registry.announce", value)
        assert answer.startswith(verdict)
    assert bench.counters.limits["announcement_bytes"] == 1


async def test_tags_of_an_instance_are_not_copied_for_each_of_its_services() -> None:
    bench = Bench()
    services = tuple(ServiceInfo(f"s{i}") for i in range(10))
    bench.peer().setup(Announcement("app", tags={"zone": "eu"}, services=services))
    tags = [bench.hub.table.describe("default", f"s{i}")[0].tags for i in range(10)]
    assert tags[0] == {"zone": "eu"}
    assert all(one is tags[0] for one in tags)


# -- requests -------------------------------------------------------------------------------------


def metadata_of(entries: int) -> bytes:
    return routed("echo.say") + encode_entry(OCTET_STREAM, b"") * (entries - 1)


@pytest.mark.parametrize(
    ("limit", "fits", "too_much", "text"),
    [
        (
            {"metadata_entries": 3},
            metadata_of(3),
            metadata_of(4),
            "metadata has more than 3 entries",
        ),
        (
            {"route_tags": 3},
            routed("echo.say", "a", "b"),
            routed("echo.say", "a", "b", "c"),
            "routing metadata has more than 3 tags",
        ),
        (
            {"route_bytes": 8},
            routed("echo.say"),
            routed("echo.says"),
            "route of 9 bytes exceeds the limit of 8",
        ),
        (
            {"metadata_bytes": 1024},
            routed("echo.say") + encode_entry(OCTET_STREAM, bytes(1024 - 4 - 13)),
            routed("echo.say") + encode_entry(OCTET_STREAM, bytes(1025 - 4 - 13)),
            "metadata of 1025 bytes exceeds the limit of 1024",
        ),
    ],
)
async def test_a_request_with_too_much_metadata_is_refused_alone(
    limit: dict[str, int], fits: bytes, too_much: bytes, text: str
) -> None:
    bench = bench_with(**limit)
    provider, caller = bench.provider(), bench.caller()
    caller.send(request(REQUEST_RESPONSE, 1, metadata=fits))
    assert len(provider.received()) == 1
    caller.send(request(REQUEST_RESPONSE, 3, metadata=too_much))
    (frame,) = caller.received()
    error = decode_error(frame)
    assert (error.stream_id, error.code) == (3, ErrorCode.INVALID)
    assert error.text == f"INVALID: {text}"
    assert caller.link.open
    assert provider.received() == []
    assert dict(bench.counters.limits) == dict.fromkeys(limit, 1)


async def test_a_route_at_the_limit_of_a_tag_passes() -> None:
    bench = Bench()
    caller = bench.caller()
    caller.send(
        request(REQUEST_RESPONSE, 1, metadata=encode_entry(ROUTING, encode_routing(["x" * 255])))
    )
    assert decode_error(caller.received()[0]).text.startswith("NO_ROUTE: ")
    assert not bench.counters.limits


async def test_calls_to_the_brokers_own_services_have_a_rate() -> None:
    bench = bench_with(own_calls_per_second=3)
    caller = bench.caller()
    for i in range(6):
        assert await answered(caller, 1 + 2 * i, "mesh.registry.list") == "ok"
    text = await answered(caller, 21, "mesh.registry.list")
    assert text.startswith("RATE_LIMITED(retry_after_ms=334): more than 3 calls to the broker's")
    assert bench.counters.limits["own_calls_per_second"] == 1
    bench.pass_time(0.334)
    assert await answered(caller, 23, "mesh.registry.list") == "ok"
    assert caller.link.open


async def test_the_same_refusal_of_the_same_peer_is_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = bench_with(route_bytes=8)
    caller = bench.caller()
    with caplog.at_level(logging.WARNING, "rsocket_broker.limits"):
        for i in range(50):
            caller.send(request(REQUEST_RESPONSE, 1 + 2 * i, "echo.says"))
    (line,) = caplog.messages
    assert line.endswith("hit limits.route_bytes: route of 9 bytes exceeds the limit of 8")
    assert bench.counters.limits["route_bytes"] == 50
