"""The lease of a client: granted at once, renewed in time, out of what its providers can take."""

from __future__ import annotations

from typing import Any

import pytest

from broker.config import Config, LeaseConfig, Limits
from rsocket_mesh.errors import ErrorCode, Overloaded, error_from_wire
from rsocket_mesh.protocol.announce import Announcement, ServiceInfo
from rsocket_mesh.protocol.frames import (
    ERROR,
    HEADER,
    LEASE,
    PAYLOAD,
    REQUEST_CHANNEL,
    REQUEST_FNF,
    REQUEST_RESPONSE,
    REQUEST_STREAM,
    Lease,
    Setup,
    decode_error,
    decode_lease,
    encode_keepalive,
    encode_lease,
    encode_payload,
    encode_request,
    encode_setup,
    peek,
)
from rsocket_mesh.protocol.metadata import COMPOSITE, OCTET_STREAM
from tests.support.raw_peers import Bench, RawPeer, request, routed

FEW = Config(lease=LeaseConfig(ttl=10.0, first_requests=4, max_requests=1000))


def leased(bench: Bench) -> tuple[RawPeer, Lease]:
    """A client with a lease, and its first."""
    caller = bench.caller(lease=True)
    (frame,) = caller.received()
    return caller, decode_lease(frame)


def leases(peer: RawPeer) -> list[Lease]:
    """The LEASE frames that have come; other frames are dropped."""
    return [decode_lease(frame) for frame in peer.received() if peek(frame)[1] == LEASE]


def errors(peer: RawPeer) -> list[Any]:
    return [decode_error(frame) for frame in peer.received() if peek(frame)[1] == ERROR]


def served(provider: RawPeer) -> int:
    """Answer all requests that have come; return how many there were."""
    count = 0
    for frame in provider.received():
        there, kind, _ = peek(frame)
        if REQUEST_RESPONSE <= kind <= REQUEST_CHANNEL:
            count += 1
            if kind != REQUEST_FNF:
                provider.send(encode_payload(there, None, b"done", complete=True))
    return count


async def test_a_client_that_asks_for_leases_gets_one_right_behind_its_acceptance() -> None:
    """C-107."""
    bench = Bench()
    caller = bench.peer()
    setup = Setup(20_000, 90_000, COMPOSITE, OCTET_STREAM, lease=True)
    caller.send(encode_setup(setup), encode_keepalive(respond=True))
    lease, answer = caller.received()
    assert decode_lease(lease) == Lease(10_000, 8)
    assert peek(answer)[1] == peek(encode_keepalive(respond=False))[1]
    assert bench.counters.leases_granted == 1


async def test_a_client_that_did_not_ask_sees_no_lease_whatever_it_does() -> None:
    bench = Bench(FEW)
    provider, caller = bench.provider(info={"concurrency": 100}), bench.caller()
    for stream in range(1, 41, 2):
        caller.send(request(REQUEST_RESPONSE, stream))
    served(provider)
    bench.pass_time(20.0)
    assert {peek(frame)[1] for frame in caller.received()} == {PAYLOAD}
    assert caller.link.leasing is None
    assert caller.link.routes is not None


async def test_a_lease_is_renewed_before_its_time_is_over_also_without_calls() -> None:
    bench = Bench(FEW)
    caller, first = leased(bench)
    assert first == Lease(10_000, 4)
    bench.pass_time(4.9)
    assert leases(caller) == []
    bench.pass_time(0.2)
    assert leases(caller) == [Lease(10_000, 4)]
    bench.pass_time(5.1)
    assert leases(caller) == [Lease(10_000, 4)]


async def test_a_client_of_providers_without_limits_is_in_fact_not_limited() -> None:
    bench = Bench(FEW)
    provider = bench.provider()
    caller, _ = leased(bench)
    caller.send(request(REQUEST_RESPONSE, 1), request(REQUEST_RESPONSE, 3))
    # Half of the first was used up, and the other half may be under way.
    assert leases(caller) == [Lease(10_000, 998)]
    for stream in range(5, 4005, 2):
        caller.send(request(REQUEST_RESPONSE, stream))
    assert served(provider) == 2002
    assert errors(caller) == []


async def test_a_request_beyond_the_lease_is_refused_and_not_processed() -> None:
    """C-111."""
    bench = Bench(FEW)
    provider = bench.provider(info={"concurrency": 2})
    caller, _ = leased(bench)
    for stream in range(1, 11, 2):
        caller.send(request(REQUEST_RESPONSE, stream))
    # Two at work; two more within the first lease found no room; the fifth is beyond it.
    assert served(provider) == 2
    first, second, beyond = errors(caller)
    assert "echo: none of 1 providers" in first.text
    assert "echo: none of 1 providers" in second.text
    assert (beyond.stream_id, beyond.code) == (9, ErrorCode.REJECTED)
    found = error_from_wire(beyond.code, beyond.text)
    assert isinstance(found, Overloaded)
    assert found.text == "beyond the lease of this connection; wait for the next LEASE"
    assert found.details["retry_after_ms"] >= 1
    assert bench.counters.leased_requests == {"used": 4, "refused": 1}


async def test_fire_and_forget_beyond_the_lease_is_dropped_and_counted() -> None:
    bench = Bench(FEW)
    provider = bench.provider(info={"rate": 1.0})
    caller, _ = leased(bench)
    for stream in range(1, 13, 2):
        caller.send(request(REQUEST_FNF, stream))
    assert served(provider) == 1
    assert errors(caller) == []
    assert bench.counters.leased_requests["refused"] == 2
    assert bench.counters.dropped["overloaded"] == 5


@pytest.mark.parametrize("kind", [REQUEST_STREAM, REQUEST_CHANNEL])
async def test_streams_and_channels_are_one_unit_each(kind: int) -> None:
    bench = Bench(FEW)
    bench.provider(info={"concurrency": 1})
    caller, _ = leased(bench)
    for stream in range(1, 11, 2):
        caller.send(request(kind, stream, n=1000))
    assert [error.stream_id for error in errors(caller)] == [3, 5, 7, 9]
    assert bench.counters.leased_requests == {"used": 4, "refused": 1}


async def test_a_request_in_fragments_is_one_unit() -> None:
    """C-94."""
    bench = Bench(FEW)
    provider = bench.provider()
    caller, _ = leased(bench)
    metadata = routed("echo.say")
    caller.send(
        encode_request(REQUEST_RESPONSE, 1, metadata[:5], b"", None, follows=True),
        encode_payload(1, metadata[5:], b"", follows=True),
        encode_payload(1, None, b"a", follows=True),
        encode_payload(1, None, b"b"),
    )
    assert served(provider) == 1
    assert bench.counters.leased_requests == {"used": 1}


async def test_what_is_refused_for_itself_is_a_unit_too_and_renewed_all_the_same() -> None:
    bench = Bench(FEW)
    caller, _ = leased(bench)
    for stream in range(1, 41, 2):
        header = HEADER.pack(stream, REQUEST_STREAM << 10)
        caller.send(header + bytes(4) + b"an initial n of 0")
    assert [error.code for error in errors(caller)] == [ErrorCode.INVALID] * 20
    assert bench.counters.leased_requests == {"used": 20}


async def test_what_a_limit_refuses_is_a_unit_too() -> None:
    bench = Bench(Config(lease=FEW.lease, limits=Limits(streams=1)))
    bench.provider()
    caller, _ = leased(bench)
    caller.send(*(request(REQUEST_STREAM, stream, n=1) for stream in (1, 3, 5, 7)))
    frames = caller.received()
    assert len([frame for frame in frames if peek(frame)[1] == ERROR]) == 3
    # It has sent all that it was granted, and waits for more.
    assert any(peek(frame)[1] == LEASE for frame in frames)
    assert bench.counters.leased_requests == {"used": 4}


async def test_a_client_is_granted_what_its_provider_has_room_for_and_more_when_it_has() -> None:
    bench = Bench(FEW)
    provider = bench.provider(info={"concurrency": 3})
    caller, _ = leased(bench)
    caller.send(request(REQUEST_RESPONSE, 1), request(REQUEST_RESPONSE, 3))
    assert leases(caller) == []  # room for one, and it has two
    caller.send(request(REQUEST_RESPONSE, 5), request(REQUEST_RESPONSE, 7))
    assert leases(caller) == []  # no room, and nothing is never granted
    assert served(provider) == 3
    bench.pass_time(0.1)
    assert leases(caller) == [Lease(10_000, 3)]


async def test_room_is_shared_equally_by_the_leased_clients_that_call_for_it() -> None:
    bench = Bench(FEW)
    provider = bench.provider(info={"concurrency": 9})
    callers = [leased(bench)[0] for _ in range(3)]
    for caller in callers:
        caller.send(request(REQUEST_RESPONSE, 1))
        caller.received()
    served(provider)
    idle, _ = leased(bench)
    bench.pass_time(5.1)
    assert [leases(caller) for caller in callers] == [[Lease(10_000, 3)]] * 3
    assert leases(idle) == [Lease(10_000, 4)]  # it has called nothing
    callers[0].close()
    for caller in callers[1:]:
        caller.send(request(REQUEST_RESPONSE, 3))
    served(provider)
    bench.pass_time(5.1)
    assert [leases(caller) for caller in callers[1:]] == [[Lease(10_000, 4)]] * 2


async def test_one_free_place_is_offered_to_one_client_and_if_it_does_not_come_to_the_next() -> (
    None
):
    bench = Bench(FEW)
    provider = bench.provider(info={"concurrency": 1})
    callers = [leased(bench)[0] for _ in range(3)]
    for caller in callers:
        caller.send(request(REQUEST_RESPONSE, 1))
        served(provider)
        caller.received()
    bench.pass_time(5.1)
    offers = [leases(caller) for caller in callers]
    assert sorted(offers) == [[], [], [Lease(10_000, 1)]]
    for _ in range(6):
        bench.pass_time(0.5)
    offers = [one + leases(caller) for one, caller in zip(offers, callers, strict=True)]
    assert all(Lease(10_000, 1) in one for one in offers)


async def test_what_is_granted_of_several_services_adds_up() -> None:
    bench = Bench(FEW)
    services = (ServiceInfo("a", concurrency=2), ServiceInfo("b", concurrency=5))
    provider = bench.peer("provider").setup(Announcement("app", services=services))
    caller, _ = leased(bench)
    caller.send(request(REQUEST_RESPONSE, 1, "a.do"))
    caller.send(request(REQUEST_RESPONSE, 3, "b.do"))
    served(provider)
    caller.received()
    bench.pass_time(5.1)
    assert leases(caller) == [Lease(10_000, 7)]


async def test_a_service_that_is_not_called_any_more_does_not_count() -> None:
    bench = Bench(FEW)
    provider = bench.provider(info={"concurrency": 1})
    caller, _ = leased(bench)
    caller.send(request(REQUEST_RESPONSE, 1))
    served(provider)
    caller.received()
    bench.pass_time(5.1)
    assert leases(caller) == [Lease(10_000, 1)]
    bench.pass_time(5.1)
    assert leases(caller) == [Lease(10_000, 4)]
    assert not bench.hub.desk.callers


async def test_a_service_that_nobody_serves_any_more_does_not_count() -> None:
    bench = Bench(FEW)
    provider = bench.provider(info={"concurrency": 1})
    caller, _ = leased(bench)
    caller.send(request(REQUEST_RESPONSE, 1))
    provider.close()
    bench.pass_time(5.1)
    assert leases(caller) == [Lease(10_000, 4)]


async def test_a_lease_of_a_provider_is_what_its_callers_are_granted_of() -> None:
    bench = Bench(FEW)
    provider = bench.provider(lease=True)
    provider.send(encode_lease(Lease(60_000, 6)))
    caller, _ = leased(bench)
    caller.send(request(REQUEST_RESPONSE, 1))
    served(provider)
    caller.received()
    bench.pass_time(5.1)
    assert leases(caller) == [Lease(10_000, 5)]


async def test_calls_to_the_broker_itself_are_requests_like_others() -> None:
    bench = Bench(FEW)
    caller, _ = leased(bench)
    caller.send(request(REQUEST_RESPONSE, 1, "mesh.broker.info", b""))
    assert bench.counters.leased_requests == {"used": 1}


async def test_a_client_that_leaves_leaves_nothing_behind() -> None:
    bench = Bench(FEW)
    provider = bench.provider(info={"concurrency": 1})
    for _ in range(5):
        caller, _ = leased(bench)
        caller.send(request(REQUEST_RESPONSE, 1))
        served(provider)
        caller.close()
    assert not bench.hub.desk.callers
    assert bench.hub.held_bytes == 0
    granted = bench.counters.leases_granted
    bench.pass_time(60.0)
    assert bench.counters.leases_granted == granted


async def test_a_setup_with_leases_from_a_session_that_announces_is_registered_as_usual() -> None:
    bench = Bench()
    provider = bench.provider(instance="one", lease=True)
    assert leases(provider) == [Lease(10_000, 8)]
    assert bench.hub.table.services("default") == ("echo",)
