"""Providers with a budget: chosen only while they have room, whoever told the broker of it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from broker.config import Config, RoutingConfig
from rsocket_mesh.errors import ErrorCode, Overloaded, error_from_wire
from rsocket_mesh.protocol.announce import Announcement, ServiceInfo, encode_announcement
from rsocket_mesh.protocol.frames import (
    CANCEL,
    ERROR,
    LEASE,
    PAYLOAD,
    REQUEST_CHANNEL,
    REQUEST_FNF,
    REQUEST_RESPONSE,
    REQUEST_STREAM,
    Lease,
    Setup,
    decode_error,
    decode_payload,
    encode_cancel,
    encode_error,
    encode_lease,
    encode_payload,
    encode_request,
    encode_setup,
    peek,
)
from rsocket_mesh.protocol.metadata import (
    ANNOUNCE,
    COMPOSITE,
    OCTET_STREAM,
    ROUTING,
    SHARD,
    encode_composite,
    encode_entry,
    encode_routing,
)
from tests.support.raw_peers import Bench, RawPeer, request, routed

WAITING = Config(routing=RoutingConfig(route_wait=5.0))


def limited(bench: Bench, instance: str = "", **info: Any) -> RawPeer:
    return bench.provider(instance=instance, info=info)


def kinds(peer: RawPeer) -> list[int]:
    return [peek(frame)[1] for frame in peer.received()]


def requests_at(peer: RawPeer) -> list[int]:
    """The stream ids of the requests that have come."""
    frames = [peek(frame) for frame in peer.received()]
    return [there for there, kind, _ in frames if REQUEST_RESPONSE <= kind <= REQUEST_CHANNEL]


def refusal(peer: RawPeer) -> Overloaded:
    (frame,) = (frame for frame in peer.received() if peek(frame)[1] == ERROR)
    error = decode_error(frame)
    found = error_from_wire(error.code, error.text)
    assert isinstance(found, Overloaded), error
    return found


def answer(provider: RawPeer, there: int) -> None:
    provider.send(encode_payload(there, None, b"done", complete=True))


# -- concurrency ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [REQUEST_RESPONSE, REQUEST_STREAM, REQUEST_CHANNEL])
async def test_a_call_over_the_concurrency_is_refused_and_says_when_to_come_back(kind: int) -> None:
    bench = Bench()
    provider, caller = limited(bench, concurrency=2), bench.caller()
    n = None if kind == REQUEST_RESPONSE else 1
    caller.send(*(request(kind, stream, n=n) for stream in (1, 3, 5)))
    assert len(requests_at(provider)) == 2
    error = refusal(caller)
    assert error.text == "echo: none of 1 providers can take another call just now"
    assert error.details["retry_after_ms"] == 100
    assert bench.counters.calls["echo"].over_budget == 1
    assert bench.counters.calls["echo"].others["overloaded"] == 1


async def test_a_refused_call_is_not_processed_and_its_fragments_are_dropped() -> None:
    bench = Bench()
    provider, caller = limited(bench, concurrency=1), bench.caller()
    caller.send(request(REQUEST_RESPONSE, 1))
    provider.received()
    caller.send(
        encode_request(REQUEST_RESPONSE, 3, routed("echo.say"), b"a", None, follows=True),
        encode_payload(3, None, b"b", follows=True),
        encode_payload(3, None, b"c"),
    )
    assert provider.received() == []
    refusal(caller)


@pytest.mark.parametrize(
    "end",
    [
        lambda caller, provider, there: answer(provider, there),
        lambda caller, provider, there: provider.send(encode_error(there, 0x201, "failed")),
        lambda caller, provider, there: caller.send(encode_cancel(1)),
        lambda caller, provider, there: caller.hub.wheel.expire(caller.hub.now + 61),
        lambda caller, provider, there: caller.close(),
    ],
    ids=["answer", "error", "cancel", "deadline", "caller lost"],
)
async def test_every_end_of_a_call_makes_room_for_another(end: Any) -> None:
    bench = Bench()
    provider, caller = limited(bench, concurrency=1), bench.caller()
    caller.send(request(REQUEST_RESPONSE, 1))
    (there,) = requests_at(provider)
    end(caller, provider, there)
    other = bench.caller()
    other.send(request(REQUEST_RESPONSE, 1))
    assert len(requests_at(provider)) == 1


async def test_calls_of_several_services_of_one_provider_are_counted_apart() -> None:
    bench = Bench()
    services = (ServiceInfo("small", concurrency=1), ServiceInfo("large"))
    provider = bench.peer("provider").setup(Announcement("app", services=services))
    caller = bench.caller()
    caller.send(*(request(REQUEST_RESPONSE, stream, "large.do") for stream in (1, 3, 5)))
    assert len(requests_at(provider)) == 3
    caller.send(request(REQUEST_RESPONSE, 7, "small.do"))
    assert len(requests_at(provider)) == 1
    caller.send(request(REQUEST_RESPONSE, 9, "small.do"))
    refusal(caller)


async def test_a_full_provider_is_passed_over_for_one_with_room() -> None:
    bench = Bench()
    one, other = limited(bench, "one", concurrency=1), limited(bench, "other", concurrency=3)
    caller = bench.caller()
    caller.send(*(request(REQUEST_RESPONSE, stream) for stream in (1, 3, 5, 7)))
    assert (len(requests_at(one)), len(requests_at(other))) == (1, 3)
    caller.send(request(REQUEST_RESPONSE, 9))
    assert "none of 2 providers" in refusal(caller).text


async def test_a_provider_without_limits_takes_what_the_others_cannot() -> None:
    bench = Bench()
    small, large = limited(bench, "small", concurrency=1), limited(bench, "large")
    caller = bench.caller()
    caller.send(*(request(REQUEST_RESPONSE, stream) for stream in range(1, 41, 2)))
    assert len(requests_at(small)) == 1
    assert len(requests_at(large)) == 19


async def test_a_reserve_gets_calls_when_the_others_are_full() -> None:
    bench = Bench()
    first = limited(bench, "first", concurrency=2)
    reserve = limited(bench, "reserve", concurrency=1, weight=0)
    caller = bench.caller()
    caller.send(request(REQUEST_RESPONSE, 1), request(REQUEST_RESPONSE, 3))
    assert reserve.received() == []
    caller.send(request(REQUEST_RESPONSE, 5))
    assert len(requests_at(first)) == 2
    assert len(requests_at(reserve)) == 1


async def test_a_shard_key_does_not_move_to_another_provider_for_lack_of_room() -> None:
    bench = Bench()
    providers = [limited(bench, name, concurrency=1) for name in "ab"]
    caller = bench.caller()
    keyed = encode_composite([(ROUTING, encode_routing(["echo.say"])), (SHARD, b"key")])
    for stream in (1, 3):
        caller.send(request(REQUEST_RESPONSE, stream, metadata=keyed))
    assert sum(len(requests_at(provider)) for provider in providers) == 1
    assert "none of 1 providers" in refusal(caller).text


async def test_another_announcement_changes_the_limit_and_counts_what_is_at_work() -> None:
    bench = Bench()
    provider, caller = limited(bench, concurrency=1), bench.caller()
    caller.send(request(REQUEST_RESPONSE, 1))
    provider.received()
    bench.hub.announce(
        provider.link, Announcement("app", services=(ServiceInfo("echo", "1.0.0", concurrency=2),))
    )
    caller.send(request(REQUEST_RESPONSE, 3), request(REQUEST_RESPONSE, 5))
    assert len(requests_at(provider)) == 1
    refusal(caller)


async def test_a_limit_that_is_withdrawn_ends_with_its_calls_still_counted_right() -> None:
    bench = Bench()
    provider, caller = limited(bench, concurrency=1), bench.caller()
    caller.send(request(REQUEST_RESPONSE, 1))
    (there,) = requests_at(provider)
    service = ServiceInfo("echo", "1.0.0")
    bench.hub.announce(provider.link, Announcement("app", services=(service,)))
    assert provider.link.budget is None
    caller.send(*(request(REQUEST_RESPONSE, stream) for stream in (3, 5)))
    answer(provider, there)
    assert len(requests_at(provider)) == 2
    assert provider.link.in_flight == 2


# -- rate -----------------------------------------------------------------------------------------


async def test_a_rate_holds_for_all_callers_together_and_room_comes_with_time() -> None:
    bench = Bench()
    provider, caller, other = limited(bench, rate=2.0), bench.caller(), bench.caller()
    for stream, peer in ((1, caller), (1, other)):
        peer.send(request(REQUEST_RESPONSE, stream))
    for there in requests_at(provider):
        answer(provider, there)
    caller.received()
    caller.send(request(REQUEST_RESPONSE, 3))
    assert refusal(caller).details["retry_after_ms"] == 500
    bench.pass_time(0.5)
    caller.send(request(REQUEST_RESPONSE, 5))
    assert len(requests_at(provider)) == 1


async def test_fire_and_forget_counts_against_the_rate_and_is_dropped_beyond_it() -> None:
    bench = Bench()
    provider, caller = limited(bench, rate=2.0, concurrency=5), bench.caller()
    caller.send(*(request(REQUEST_FNF, stream) for stream in (1, 3, 5)))
    assert len(requests_at(provider)) == 2
    assert caller.received() == []
    assert bench.counters.dropped["overloaded"] == 1
    assert bench.counters.calls["echo"].over_budget == 1


# -- waiting --------------------------------------------------------------------------------------


async def test_a_call_waits_for_room_if_the_broker_may_and_goes_on_in_order() -> None:
    bench = Bench(WAITING)
    provider, caller = limited(bench, concurrency=1), bench.caller()
    caller.send(*(request(REQUEST_RESPONSE, s, data=b"%d" % s) for s in (1, 3, 5)))
    seen = []
    for _ in range(3):
        (frame,) = provider.received()
        seen.append(frame[-1:])
        answer(provider, peek(frame)[0])
        await asyncio.sleep(0)
    assert seen == [b"1", b"3", b"5"]
    assert kinds(caller) == [PAYLOAD] * 3
    assert bench.hub.held_bytes == 0


async def test_nobody_overtakes_those_who_wait_for_the_same() -> None:
    bench = Bench(WAITING)
    provider, caller = limited(bench, concurrency=1), bench.caller()
    caller.send(request(REQUEST_RESPONSE, 1), request(REQUEST_RESPONSE, 3, data=b"first"))
    (frame,) = provider.received()
    answer(provider, peek(frame)[0])
    caller.send(request(REQUEST_RESPONSE, 5, data=b"second"))  # in the same turn of the loop
    await asyncio.sleep(0)
    (frame,) = provider.received()
    assert frame.endswith(b"first")


async def test_a_call_waits_for_a_rate() -> None:
    bench = Bench(WAITING)
    provider, caller = limited(bench, rate=1.0), bench.caller()
    caller.send(request(REQUEST_RESPONSE, 1), request(REQUEST_RESPONSE, 3))
    assert len(requests_at(provider)) == 1
    for _ in range(9):
        bench.pass_time(0.1)
        assert requests_at(provider) == []
    bench.pass_time(0.2)
    assert len(requests_at(provider)) == 1


async def test_a_wait_for_room_ends_with_the_refusal() -> None:
    bench = Bench(WAITING)
    _provider, caller = limited(bench, concurrency=1), bench.caller()
    caller.send(request(REQUEST_RESPONSE, 1), request(REQUEST_RESPONSE, 3))
    bench.pass_time(5.1)
    assert refusal(caller).details["retry_after_ms"] == 100
    assert bench.counters.calls["echo"].over_budget == 1
    assert bench.hub.held_bytes == 0


async def test_a_wait_for_room_ends_at_the_deadline() -> None:
    bench = Bench(WAITING)
    _provider, caller = limited(bench, concurrency=1), bench.caller()
    caller.send(request(REQUEST_RESPONSE, 1), request(REQUEST_RESPONSE, 3, deadline_ms=100))
    bench.pass_time(0.2)
    (frame,) = caller.received()
    assert decode_error(frame).text.startswith("DEADLINE_EXCEEDED: echo: none of 1 providers")


async def test_one_that_gives_up_waiting_makes_no_gap() -> None:
    bench = Bench(WAITING)
    provider, caller = limited(bench, concurrency=1), bench.caller()
    caller.send(*(request(REQUEST_RESPONSE, stream, data=b"%d" % stream) for stream in (1, 3, 5)))
    caller.send(encode_cancel(3))
    (frame,) = provider.received()
    answer(provider, peek(frame)[0])
    await asyncio.sleep(0)
    (frame,) = provider.received()
    assert frame.endswith(b"5")


async def test_one_who_waits_for_something_else_blocks_nobody() -> None:
    bench = Bench(WAITING)
    a, b = limited(bench, "a", concurrency=1), limited(bench, "b", concurrency=1)
    caller = bench.caller()
    for stream, name in ((1, "a"), (3, "b"), (5, "a"), (7, "b")):
        caller.send(
            request(REQUEST_RESPONSE, stream, metadata=routed("echo.say", f"instance={name}"))
        )
    a.received()
    (there,) = requests_at(b)
    answer(b, there)
    await asyncio.sleep(0)
    assert len(requests_at(b)) == 1
    assert a.received() == []


async def test_those_who_wait_for_different_default_services_block_nobody() -> None:
    bench = Bench(WAITING)
    providers = {name: bench.provider(name, info={"concurrency": 1}) for name in "ab"}
    callers = {name: bench.peer(name, default_service=name).setup() for name in "ab"}
    for name in "ab":
        for stream in (1, 3):
            callers[name].send(request(REQUEST_RESPONSE, stream, metadata=None))
    providers["a"].received()
    (there,) = requests_at(providers["b"])
    answer(providers["b"], there)
    await asyncio.sleep(0)
    assert len(requests_at(providers["b"])) == 1
    assert providers["a"].received() == []


# -- LEASE frames of a provider -------------------------------------------------------------------


def leasing(bench: Bench, instance: str = "", **info: Any) -> RawPeer:
    provider = bench.provider(instance=instance, lease=True, info=info)
    assert kinds(provider) == [LEASE]  # ours, for its own requests
    return provider


async def test_a_provider_that_asked_for_leases_gets_no_call_before_its_first() -> None:
    """C-106."""
    bench = Bench()
    provider, caller = leasing(bench), bench.caller()
    caller.send(request(REQUEST_RESPONSE, 1))
    assert provider.received() == []
    assert refusal(caller).details["retry_after_ms"] == 100
    provider.send(encode_lease(Lease(1000, 1)))
    caller.send(request(REQUEST_RESPONSE, 3))
    assert len(requests_at(provider)) == 1
    assert bench.counters.leases_received == 1


async def test_a_lease_is_used_up_by_requests_of_every_kind_and_not_given_back() -> None:
    bench = Bench()
    provider, caller = leasing(bench), bench.caller()
    provider.send(encode_lease(Lease(60_000, 4)))
    caller.send(
        request(REQUEST_FNF, 1),
        request(REQUEST_STREAM, 3, n=5),
        request(REQUEST_CHANNEL, 5, n=5),
        request(REQUEST_RESPONSE, 7),
    )
    for there in requests_at(provider):
        answer(provider, there)
    caller.received()
    caller.send(request(REQUEST_RESPONSE, 9))
    refusal(caller)


async def test_a_fragmented_request_is_one_unit() -> None:
    """C-94."""
    bench = Bench()
    provider, caller = leasing(bench), bench.caller()
    provider.send(encode_lease(Lease(60_000, 2)))
    for stream in (1, 3):
        caller.send(
            encode_request(REQUEST_RESPONSE, stream, routed("echo.say"), b"a", None, follows=True),
            encode_payload(stream, None, b"b", follows=True),
            encode_payload(stream, None, b"c"),
        )
    assert len(requests_at(provider)) == 2
    assert caller.received() == []


async def test_a_lease_ends_with_its_time_and_is_replaced_by_the_next() -> None:
    """C-109."""
    bench = Bench()
    provider, caller = leasing(bench), bench.caller()
    provider.send(encode_lease(Lease(1000, 100)), encode_lease(Lease(1000, 1)))
    caller.send(request(REQUEST_RESPONSE, 1), request(REQUEST_RESPONSE, 3))
    assert len(requests_at(provider)) == 1
    refusal(caller)
    provider.send(encode_lease(Lease(1000, 5)))
    bench.pass_time(1.0)
    caller.send(request(REQUEST_RESPONSE, 5))
    refusal(caller)


async def test_a_lease_of_nothing_stops_new_calls_and_open_streams_go_on() -> None:
    """C-110."""
    bench = Bench()
    provider, caller = leasing(bench), bench.caller()
    provider.send(encode_lease(Lease(1000, 100)))
    caller.send(request(REQUEST_STREAM, 1, n=5))
    (there,) = requests_at(provider)
    provider.send(encode_lease(Lease(0, 0)))
    caller.send(request(REQUEST_RESPONSE, 3))
    refusal(caller)
    provider.send(encode_payload(there, None, b"item"))
    (item,) = caller.received()
    assert decode_payload(item).data == b"item"


async def test_a_lease_that_was_not_negotiated_changes_nothing() -> None:
    """C-112."""
    bench = Bench()
    provider, caller = bench.provider(), bench.caller()
    provider.send(encode_lease(Lease(1000, 0)))
    caller.send(request(REQUEST_RESPONSE, 1))
    assert len(requests_at(provider)) == 1
    assert bench.counters.ignored["LEASE on stream 0"] == 1


async def test_lease_and_concurrency_hold_both() -> None:
    bench = Bench()
    provider, caller = leasing(bench, concurrency=1), bench.caller()
    provider.send(encode_lease(Lease(60_000, 2)))
    caller.send(request(REQUEST_RESPONSE, 1), request(REQUEST_RESPONSE, 3))
    (there,) = requests_at(provider)
    refusal(caller)
    answer(provider, there)
    caller.send(request(REQUEST_RESPONSE, 5))
    (there,) = requests_at(provider)
    answer(provider, there)
    caller.received()
    caller.send(request(REQUEST_RESPONSE, 7))
    refusal(caller)


async def test_a_call_that_waited_goes_on_when_a_lease_comes_and_uses_one_unit() -> None:
    bench = Bench(WAITING)
    provider, caller = leasing(bench), bench.caller()
    caller.send(request(REQUEST_RESPONSE, 1), request(REQUEST_RESPONSE, 3))
    provider.send(encode_lease(Lease(60_000, 2)))
    await asyncio.sleep(0)
    assert len(requests_at(provider)) == 2


async def test_a_request_that_cannot_be_passed_on_uses_no_unit() -> None:
    bench = Bench()
    provider = bench.peer("provider").setup(
        Announcement("app", services=(ServiceInfo("echo"),)),
        lease=True,
    )
    provider.received()
    provider.send(encode_lease(Lease(60_000, 1)))
    caller = bench.caller()
    caller.send(request(REQUEST_RESPONSE, 1, "echo.say", metadata=b"\xfe\x00\x00\x09\x08broken"))
    (frame,) = caller.received()
    assert decode_error(frame).code == ErrorCode.INVALID
    caller.send(request(REQUEST_RESPONSE, 3))
    assert len(requests_at(provider)) == 1


# -- what is shown --------------------------------------------------------------------------------


async def test_describe_shows_the_limits_and_what_is_at_work() -> None:
    bench = Bench()
    provider, caller = limited(bench, concurrency=4, rate=10.0), bench.caller()
    caller.send(request(REQUEST_RESPONSE, 1))
    provider.received()
    asking = bench.peer("asking").setup(data_mime="application/json")
    asking.send(request(REQUEST_RESPONSE, 1, "mesh.registry.describe", b'"echo"'))
    for _ in range(10):
        await asyncio.sleep(0)
    (frame,) = asking.received()
    (instance,) = json.loads(decode_payload(frame).data)["instances"]
    assert (instance["concurrency"], instance["rate"], instance["at_work"]) == (4, 10.0, 1)


async def test_an_announcement_with_a_bad_limit_is_refused_by_its_name() -> None:
    bench = Bench()
    bad = encode_announcement(Announcement("app", services=(ServiceInfo("echo", concurrency=0),)))
    asking = bench.peer("asking")
    asking.send(
        encode_setup(Setup(20_000, 90_000, COMPOSITE, OCTET_STREAM, encode_entry(ANNOUNCE, bad)))
    )
    (frame,) = asking.received()
    assert decode_error(frame).text.startswith("INVALID: services[0].concurrency: 0 must be 1")


async def test_cancel_reaches_a_provider_with_a_budget() -> None:
    bench = Bench()
    provider, caller = limited(bench, concurrency=1), bench.caller()
    caller.send(request(REQUEST_STREAM, 1, n=5))
    (there,) = requests_at(provider)
    caller.send(encode_cancel(1))
    (frame,) = provider.received()
    assert peek(frame)[:2] == (there, CANCEL)
