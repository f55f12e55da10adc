"""Peers that break every rule they can: what they do harms them alone, and nothing of theirs stays.

`test_relay` and `test_sessions` hold the laws for peers that mean well; here are the ways in which
one session could have leaked, stalled or ended something of another.
"""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Callable
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.config import Config, Limits, RoutingConfig
from broker.forwarding.hub import MAX_SHAPES
from broker.forwarding.limiter import FREE_FRAGMENTS, SMALL_FRAGMENT
from broker.forwarding.link import Link
from broker.forwarding.requests import OWN_STREAMS
from rsocket_mesh.errors import ErrorCode
from rsocket_mesh.protocol.frames import (
    CANCEL,
    FLAG_COMPLETE,
    FLAG_METADATA,
    FLAG_NEXT,
    HEADER,
    METADATA_PUSH,
    PAYLOAD,
    REQUEST_CHANNEL,
    REQUEST_FNF,
    REQUEST_RESPONSE,
    REQUEST_STREAM,
    Setup,
    decode_error,
    decode_metadata_push,
    decode_payload,
    decode_request,
    encode_cancel,
    encode_error,
    encode_metadata_push,
    encode_payload,
    encode_setup,
    peek,
)
from rsocket_mesh.protocol.metadata import (
    ANNOUNCE,
    AUTHENTICATION,
    CALLER,
    COMPOSITE,
    JSON,
    NOTICE,
    ROUTING,
    BearerCredentials,
    decode_composite,
    encode_authentication,
    encode_composite,
    encode_entry,
    encode_routing,
)
from tests.support.raw_peers import Bench, RawPeer, request, routed

WAITING = Config(routing=RoutingConfig(route_wait=5.0))
# A PAYLOAD whose metadata is longer than the frame: it ends its sender's connection (C-21).
BROKEN_TAIL = b"\0\0\5ab"


def broken(stream_id: int) -> bytes:
    flags = FLAG_METADATA | FLAG_NEXT | FLAG_COMPLETE
    return HEADER.pack(stream_id, PAYLOAD << 10 | flags) + BROKEN_TAIL


def nothing_is_left(bench: Bench) -> None:
    assert bench.hub.streams_open() == 0
    assert (bench.hub.held, bench.hub.held_bytes) == ({}, 0)
    assert all(link.in_flight == 0 for link in bench.hub.links.values())


def announcement(**more: object) -> bytes:
    return encode_entry(ANNOUNCE, json.dumps({"app": "app", **more}).encode())


async def turns() -> None:
    """Let the tasks of the broker's own services run."""
    for _ in range(5):
        await asyncio.sleep(0)


def error_text(peer: RawPeer) -> str:
    (frame,) = peer.received()
    return decode_error(frame).text


# -- a session that has ended ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", [REQUEST_RESPONSE, REQUEST_STREAM, REQUEST_FNF])
async def test_requests_behind_a_violation_in_the_same_batch_reach_nobody(kind: int) -> None:
    bench = Bench()
    provider, caller = bench.provider(), bench.caller()
    caller.send(request(REQUEST_CHANNEL, 1, n=1))
    provider.received()
    n = 1 if kind == REQUEST_STREAM else None
    caller.send(broken(1), request(kind, 3, n=n), request(kind, 5, n=n))
    assert caller.transport.closed
    assert CANCEL in {peek(frame)[1] for frame in provider.received()}
    nothing_is_left(bench)


async def test_waiting_requests_of_a_session_that_ended_while_others_were_retried_stay_dead() -> (
    None
):
    """What is held behind the first one breaks the protocol, and that shows when it is sent on."""
    bench = Bench(WAITING)
    caller = bench.caller()
    caller.send(
        request(REQUEST_CHANNEL, 1, n=1),
        broken(1),
        request(REQUEST_STREAM, 3, n=1),
        request(REQUEST_STREAM, 5, n=1),
    )
    provider = bench.provider()
    assert caller.transport.closed
    assert provider.link.open
    assert [peek(frame)[1] for frame in provider.received()].count(REQUEST_STREAM) == 0
    nothing_is_left(bench)


async def test_a_caller_that_withdraws_its_default_service_ends_only_its_own_waiting_request() -> (
    None
):
    bench = Bench(WAITING)
    caller = bench.peer().setup()
    caller.send(encode_metadata_push(announcement(default_service="later")))
    caller.send(request(REQUEST_RESPONSE, 1, metadata=None))
    caller.send(encode_metadata_push(announcement()))
    provider = bench.provider("later")
    assert provider.link.open
    assert error_text(caller).startswith("NO_ROUTE: ")
    nothing_is_left(bench)


# -- metadata that cannot be passed on ------------------------------------------------------------


BAD_TYPE = b"\x02\xff\xfe\xfd" + b"\0\0\1x"  # an entry whose MIME type is not ASCII


async def test_an_entry_that_cannot_be_written_again_costs_its_request_alone() -> None:
    bench = Bench()
    provider, caller = bench.provider(), bench.caller()
    caller.send(
        request(REQUEST_RESPONSE, 1, metadata=routed("echo.say") + BAD_TYPE),
        request(REQUEST_RESPONSE, 3),
    )
    assert error_text(caller).startswith("INVALID: ")
    (frame,) = provider.received()
    provider.send(encode_payload(peek(frame)[0], None, b"", complete=True))
    nothing_is_left(bench)


async def test_a_data_type_too_long_for_an_entry_costs_its_callers_requests_alone() -> None:
    bench = Bench(WAITING)
    caller = bench.peer()
    setup = encode_setup(Setup(20_000, 90_000, COMPOSITE, "DATA"))
    caller.send(setup.replace(b"\x04DATA", b"\xc8" + b"y" * 200))
    caller.send(request(REQUEST_RESPONSE, 1))
    provider = bench.provider()
    assert provider.link.open
    assert error_text(caller).startswith("INVALID: ")
    nothing_is_left(bench)


async def test_a_push_that_cannot_be_written_again_is_dropped() -> None:
    bench = Bench()
    provider, caller = bench.provider(), bench.caller()
    caller.send(encode_metadata_push(routed("echo.say") + BAD_TYPE))
    assert (provider.received(), caller.received()) == ([], [])
    assert bench.counters.dropped["push_invalid"] == 1


@settings(max_examples=200)
@given(raw=st.binary(max_size=40), prefix=st.sampled_from([b"", routed("echo.say")]))
@pytest.mark.parametrize("mime", [COMPOSITE, ROUTING, JSON, ""])
async def test_no_metadata_of_a_caller_ends_a_session(raw: bytes, prefix: bytes, mime: str) -> None:
    bench = Bench(WAITING)
    provider = bench.provider(announce={"caller": True}, data_mime=JSON)
    caller = bench.peer("caller", "echo").setup(metadata_mime=mime)
    caller.send(
        request(REQUEST_RESPONSE, 1, metadata=prefix + raw),
        encode_metadata_push(prefix + raw),
    )
    assert caller.link.open
    assert provider.link.open
    caller.close()
    nothing_is_left(bench)


# -- a channel whose pieces come in any order -----------------------------------------------------


async def test_complete_on_the_last_of_the_fragments_survives_a_splice() -> None:
    bench = Bench()
    provider = bench.provider(announce={"caller": True})
    caller = bench.caller()
    metadata = routed("echo.say")
    caller.send(
        request(REQUEST_CHANNEL, 1, n=4, data=b"", metadata=metadata[:5], follows=True),
        encode_payload(1, metadata[5:], b"all", complete=True),
    )
    (frame,) = provider.received()
    sent = decode_request(frame)
    assert (sent.complete, sent.follows, sent.data) == (True, False, b"all")
    caller.send(encode_payload(1, None, b"more"))
    assert provider.received() == []
    provider.send(encode_payload(sent.stream_id, None, b"", False, True))
    nothing_is_left(bench)


async def test_fire_and_forget_in_fragments_is_not_answered_when_its_provider_is_lost() -> None:
    """C-71."""
    bench = Bench()
    provider, caller = bench.provider(), bench.caller()
    caller.send(request(REQUEST_FNF, 1, data=b"1", follows=True))
    provider.close()
    assert caller.received() == []
    assert bench.counters.dropped["peer_lost"] == 1
    nothing_is_left(bench)


# -- what a peer can make the broker hold ---------------------------------------------------------


async def test_fragments_are_charged_for_what_they_cost_here() -> None:
    bench = Bench(Config(limits=Limits(waiting_bytes=10_000)))
    caller = bench.caller()
    caller.send(request(REQUEST_RESPONSE, 1, data=b"", metadata=b"\x7f", follows=True))
    caller.send(*[encode_payload(1, bytes(SMALL_FRAGMENT), b"", follows=True)] * 500)
    assert error_text(caller).startswith("OVERLOADED: ")
    nothing_is_left(bench)


@pytest.mark.parametrize("size", [0, 1, SMALL_FRAGMENT - 1])
async def test_metadata_in_fragments_too_small_to_pay_for_themselves_is_refused(size: int) -> None:
    bench = Bench()
    caller = bench.caller()
    caller.send(request(REQUEST_RESPONSE, 1, data=b"", metadata=b"\x7f", follows=True))
    caller.send(*[encode_payload(1, bytes(size), b"", follows=True)] * 1000)
    text = error_text(caller)
    assert text.startswith("INVALID: metadata of ")
    assert f"send at least {SMALL_FRAGMENT} bytes of it in each" in text
    assert bench.counters.limits["metadata_bytes"] == 1
    nothing_is_left(bench)


async def test_metadata_byte_by_byte_is_no_fault_if_it_is_short() -> None:
    bench = Bench()
    provider, caller = bench.provider(), bench.caller()
    metadata = routed("echo.say")
    assert len(metadata) < FREE_FRAGMENTS
    caller.send(request(REQUEST_RESPONSE, 1, data=b"", metadata=metadata[:1], follows=True))
    caller.send(*[encode_payload(1, bytes((byte,)), b"", follows=True) for byte in metadata[1:]])
    caller.send(encode_payload(1, None, b"data"))
    assert len(provider.received()) == len(metadata) + 1


async def test_many_fragments_of_metadata_cost_time_in_proportion_to_their_number() -> None:
    bench = Bench(Config(limits=Limits(metadata_bytes=16_000_000)))
    caller = bench.caller()
    caller.send(request(REQUEST_RESPONSE, 1, data=b"", metadata=b"\x7f", follows=True))
    began = process_time()
    part = encode_payload(1, bytes(SMALL_FRAGMENT), b"", follows=True)
    for _ in range(60):
        caller.send(*[part] * 1000)
    assert process_time() - began < 5.0  # seconds; it was a minute when each summed up all before
    caller.close()
    nothing_is_left(bench)


async def test_a_message_to_the_brokers_own_services_is_bounded() -> None:
    bench = Bench()
    caller = bench.caller()
    caller.send(request(REQUEST_RESPONSE, 1, "mesh.broker.info", follows=True))
    for _ in range(200):
        caller.send(encode_payload(1, None, b"x" * 65_536, follows=True))
        if frames := caller.received():
            break
    (frame,) = frames
    assert "exceed" in decode_error(frame).text
    assert caller.link.local.budget.used == 0


async def test_answers_of_the_broker_that_nobody_reads_are_bounded_in_number() -> None:
    bench = Bench()
    caller = bench.caller()
    caller.send(request(REQUEST_RESPONSE, 1, "mesh.registry.list", b""))
    await turns()
    caller.received()
    requests = [
        request(REQUEST_RESPONSE, 3 + 2 * i, "mesh.registry.list", b"")
        for i in range(OWN_STREAMS + 10)
    ]
    caller.send(*requests)
    caller.link.writable(False)
    await turns()
    errors = [decode_error(frame) for frame in caller.received()]
    assert len(errors) == 10
    assert all(error.text.startswith("OVERLOADED: ") for error in errors)
    caller.link.writable(True)
    await turns()
    assert len(caller.received()) == OWN_STREAMS


async def test_an_answer_of_the_broker_that_waits_to_be_sent_can_be_cancelled() -> None:
    bench = Bench()
    caller = bench.caller()
    caller.send(request(REQUEST_RESPONSE, 1, "mesh.registry.list", b""))
    caller.link.writable(False)
    await turns()
    assert caller.link.local.open_streams == 1
    caller.send(encode_cancel(1))
    assert caller.link.local.open_streams == 0


async def test_deadlines_of_calls_that_have_ended_leave_nothing_behind() -> None:
    bench = Bench()
    provider, caller = bench.provider(), bench.caller()
    for i in range(30_000):
        caller.send(request(REQUEST_RESPONSE, 1, deadline_ms=100_000 + i * 40))
        (frame,) = provider.received()
        provider.send(encode_payload(peek(frame)[0], None, b"", complete=True))
        caller.received()
        bench.time += 0.001
    nothing_is_left(bench)
    assert len(bench.hub.wheel) < 10_000


async def test_made_up_mime_types_of_sessions_that_left_take_nothing_from_others() -> None:
    bench = Bench()
    for i in range(MAX_SHAPES + 10):
        bench.caller(data_mime=f"x/{i}").close()
    provider, caller = bench.provider(data_mime="a/b"), bench.caller(data_mime="a/b")
    assert provider.link.takes is caller.link.sends


# -- what a peer can make others believe ----------------------------------------------------------


@pytest.mark.parametrize("mime", [JSON, NOTICE, ""])
async def test_a_push_cannot_be_made_to_look_like_the_brokers_own(mime: str) -> None:
    """The provider reads composite metadata; its pusher says that it writes something else."""
    bench = Bench()
    provider = bench.provider()
    caller = bench.peer(default_service="echo").setup(metadata_mime=mime)
    caller.send(encode_metadata_push(encode_entry(NOTICE, b'{"type":"brokers"}')))
    for frame in provider.received():
        pushed = decode_composite(decode_metadata_push(frame))
        assert NOTICE not in [entry.mime for entry in pushed]


async def test_credentials_in_a_push_stay_on_their_hop() -> None:
    bench = Bench()
    provider, caller = bench.provider(), bench.caller()
    secret = encode_authentication(BearerCredentials("secret"))
    caller.send(encode_metadata_push(routed("echo.say") + encode_entry(AUTHENTICATION, secret)))
    (frame,) = provider.received()
    assert decode_metadata_push(frame) == routed("echo.say")


@pytest.mark.parametrize("mime", [AUTHENTICATION, CALLER])
@pytest.mark.parametrize("takes", [COMPOSITE, ROUTING, JSON])
async def test_a_connection_whose_metadata_is_all_for_this_hop_passes_none_on(
    mime: str, takes: str
) -> None:
    bench = Bench()
    provider = bench.provider()
    provider.link.takes = provider.link.takes._replace(metadata_mime=takes)
    caller = bench.peer(default_service="echo").setup(metadata_mime=mime)
    caller.send(request(REQUEST_RESPONSE, 1, metadata=b"secret"))
    (frame,) = provider.received()
    assert b"secret" not in frame


async def test_whoever_announces_late_is_shown_to_providers_under_its_own_name() -> None:
    bench = Bench()
    provider = bench.provider(announce={"caller": True})
    caller = bench.caller()
    caller.send(encode_metadata_push(announcement(instance="late")))
    caller.send(request(REQUEST_RESPONSE, 1))
    (frame,) = provider.received()
    entry = decode_composite(decode_request(frame).metadata or b"")[0]
    assert entry.mime == CALLER
    who = json.loads(entry.content)
    assert (who["app"], who["instance"]) == ("app", "late")


# -- peers that are going away --------------------------------------------------------------------


def close_soon() -> bytes:
    return encode_error(0, ErrorCode.CONNECTION_CLOSE, "bye")


async def test_a_provider_that_said_it_closes_gets_no_calls_also_after_it_was_slow() -> None:
    bench = Bench()
    provider, caller = bench.provider(), bench.caller()
    provider.send(close_soon())
    provider.link.writable(False)
    provider.link.writable(True)
    caller.send(request(REQUEST_RESPONSE, 1))
    assert error_text(caller).startswith("UNAVAILABLE: ")
    assert provider.received() == []


async def test_a_peer_that_said_it_closes_and_does_not_is_closed_in_30_s() -> None:
    bench = Bench()
    peer, caller = bench.provider(lifetime_ms=900_000), bench.caller(lifetime_ms=900_000)
    caller.send(request(REQUEST_RESPONSE, 1, deadline_ms=900_000))
    peer.send(close_soon())
    bench.pass_time(29)
    assert not peer.transport.closed
    bench.pass_time(1.1)
    assert peer.transport.closed
    assert bench.counters.closes["peer-closing"] == 1


async def test_a_peer_that_said_it_closes_is_closed_after_its_last_call() -> None:
    bench = Bench()
    peer, caller = bench.provider(), bench.caller()
    caller.send(request(REQUEST_RESPONSE, 1))
    (called,) = peer.received()
    peer.send(close_soon())
    bench.pass_time(1)
    assert not peer.transport.closed
    peer.send(encode_payload(peek(called)[0], None, b"answer", complete=True))
    bench.pass_time(0.1)
    assert peer.transport.closed
    assert bench.counters.closes["peer-closed"] == 1
    assert decode_payload(caller.received()[0]).data == b"answer"


async def test_requests_that_wait_for_a_provider_are_refused_when_the_broker_drains() -> None:
    bench = Bench(WAITING)
    caller = bench.caller()
    caller.send(request(REQUEST_RESPONSE, 1))
    bench.hub.begin_drain(30.0)
    assert error_text(caller).startswith("DRAINING: ")
    nothing_is_left(bench)


# -- everything at once ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "leave",
    [
        pytest.param(lambda peer: peer.close(), id="closes"),
        pytest.param(lambda peer: peer.send(b"\0\0\0\0\xfc\0"), id="unknown frame"),
        pytest.param(lambda peer: peer.send(encode_error(0, 0x101, "")), id="ERROR on stream 0"),
    ],
)
async def test_a_session_that_calls_itself_and_others_leaves_nothing_however_it_ends(
    leave: Callable[[RawPeer], None],
) -> None:
    bench = Bench(WAITING)
    both, other = bench.provider(instance="both"), bench.provider("other", instance="other")
    for i, route in enumerate(["echo.say", "other.say", "nobody.say", "mesh.registry.watch"]):
        both.send(request(REQUEST_STREAM, 1 + 2 * i, route, n=1))
        both.send(request(REQUEST_CHANNEL, 101 + 2 * i, route, n=1, follows=True))
        both.send(request(REQUEST_RESPONSE, 201 + 2 * i, route, metadata=b"\xfe", follows=True))
    other.send(request(REQUEST_CHANNEL, 1, "echo.say", n=1), request(REQUEST_STREAM, 3, n=1))
    await turns()
    local = both.link.local
    assert local is not None
    assert local.open_streams > 0
    leave(both)
    await turns()
    assert not both.link.open
    assert [peek(frame)[:2] for frame in other.received()][-2:] == [(1, 0x0B), (3, 0x0B)]
    assert bench.hub.watchers == set()
    assert local.open_streams == 0
    nothing_is_left(bench)


async def test_pushes_of_a_client_with_routing_metadata_arrive_as_composite() -> None:
    bench = Bench()
    provider = bench.provider()
    caller = bench.caller(metadata_mime=ROUTING)
    tags = encode_routing(["echo.say"])
    caller.send(encode_metadata_push(tags))
    (frame,) = provider.received()
    assert peek(frame)[1] == METADATA_PUSH
    assert decode_metadata_push(frame) == encode_composite([(ROUTING, tags)])


async def test_an_answer_is_not_disturbed_by_any_of_this() -> None:
    bench = Bench()
    provider, victim, hostile = bench.provider(), bench.caller(), bench.caller()
    victim.send(request(REQUEST_RESPONSE, 1))
    (frame,) = provider.received()
    hostile.send(request(REQUEST_FNF, 1), request(REQUEST_FNF, 3, metadata=b"\xfe" + BAD_TYPE))
    provider.send(encode_payload(peek(frame)[0], None, b"answer", complete=True))
    (answer,) = victim.received()
    assert decode_payload(answer).data == b"answer"


@pytest.mark.parametrize("route", ["mesh.broker.info", "echo.say", "nobody.say"])
async def test_a_session_that_ended_is_gone_without_a_collection(route: str) -> None:
    """So that full collections, which stop everybody, can be rare."""
    bench = Bench()
    provider, caller = bench.provider(), bench.caller()
    caller.send(request(REQUEST_RESPONSE, 1, route))
    await turns()
    gc.collect()  # of what other tests have left
    gc.disable()
    try:
        ended = caller.link.id
        caller.close()
        await turns()
        del caller
        there = {link.id for link in gc.get_objects() if type(link) is Link}
        assert provider.link.id in there
        assert ended not in there
    finally:
        gc.enable()
