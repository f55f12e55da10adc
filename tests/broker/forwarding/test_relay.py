"""What the broker forwards, restamps, ends and refuses, frame by frame."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.config import Config, Limits, RoutingConfig
from rsocket_mesh.errors import ErrorCode
from rsocket_mesh.protocol.announce import Announcement, ServiceInfo, encode_announcement
from rsocket_mesh.protocol.frames import (
    CANCEL,
    ERROR,
    FLAG_COMPLETE,
    FLAG_FOLLOWS,
    FLAG_NEXT,
    HEADER,
    PAYLOAD,
    REQUEST_CHANNEL,
    REQUEST_FNF,
    REQUEST_N,
    REQUEST_RESPONSE,
    REQUEST_STREAM,
    decode_error,
    decode_payload,
    decode_request,
    decode_request_n,
    describe,
    encode_cancel,
    encode_error,
    encode_payload,
    encode_request_n,
    peek,
    restamp,
)
from rsocket_mesh.protocol.framing import prefix_lengths
from rsocket_mesh.protocol.metadata import (
    COMPOSITE,
    ROUTING,
    BearerCredentials,
    decode_composite,
    encode_authentication,
    encode_composite,
    encode_routing,
)
from tests.support.raw_peers import Bench, RawPeer, request, routed


async def joined(
    kind: int, n: int | None = None, **more: object
) -> tuple[Bench, RawPeer, RawPeer, int]:
    """A caller (stream 1) and a provider with one open call; its stream id at the provider."""
    bench = Bench()
    provider, caller = bench.provider(), bench.caller()
    caller.send(request(kind, 1, n=n, **more))  # type: ignore[arg-type]
    (frame,) = provider.received()
    return bench, caller, provider, peek(frame)[0]


def only(peer: RawPeer) -> bytes:
    frames = peer.received()
    assert len(frames) == 1, [describe(frame) for frame in frames]
    return frames[0]


def error_of(peer: RawPeer) -> tuple[int, int, str]:
    error = decode_error(only(peer))
    return error.stream_id, error.code, error.text


# -- request-response -----------------------------------------------------------------------------


async def test_a_plain_request_is_forwarded_byte_for_byte_but_for_its_stream_id() -> None:
    bench = Bench()
    provider, caller = bench.provider(), bench.caller()
    sent = request(REQUEST_RESPONSE, 7)
    caller.send(sent)
    assert only(provider) == restamp(sent, 2)


async def test_an_answer_comes_back_on_the_callers_stream_and_ends_the_call() -> None:
    bench, caller, provider, there = await joined(REQUEST_RESPONSE)
    answer = encode_payload(there, b"meta", b"data", complete=True)
    provider.send(answer)
    assert only(caller) == restamp(answer, 1)
    assert bench.hub.streams_open() == 0
    assert provider.link.in_flight == 0
    assert bench.counters.calls["echo"].ok == 1


async def test_an_answer_without_complete_gets_it() -> None:
    """C-67."""
    _, caller, provider, there = await joined(REQUEST_RESPONSE)
    provider.send(encode_payload(there, None, b"data"))
    assert decode_payload(only(caller)).complete


async def test_what_comes_behind_the_answer_is_ignored() -> None:
    bench, caller, provider, there = await joined(REQUEST_RESPONSE)
    answer = encode_payload(there, None, b"data", complete=True)
    provider.send(answer, answer, encode_error(there, 0x201, "late"))
    assert len(caller.received()) == 1
    assert bench.counters.ignored["PAYLOAD"] == 1


async def test_a_fragmented_answer_passes_in_fragments() -> None:
    _, caller, provider, there = await joined(REQUEST_RESPONSE)
    provider.send(
        encode_payload(there, b"m", b"1", follows=True),
        encode_payload(there, None, b"2", follows=True),
        encode_payload(there, None, b"3", complete=True),
    )
    payloads = [decode_payload(frame) for frame in caller.received()]
    assert [(p.data, p.follows, p.complete) for p in payloads] == [
        (b"1", True, False),
        (b"2", True, False),
        (b"3", False, True),
    ]


async def test_an_error_passes_with_its_code_and_text_and_is_counted_by_token() -> None:
    bench, caller, provider, there = await joined(REQUEST_RESPONSE)
    provider.send(encode_error(there, ErrorCode.REJECTED, "OVERLOADED(retry_after_ms=5): later"))
    assert error_of(caller) == (1, ErrorCode.REJECTED, "OVERLOADED(retry_after_ms=5): later")
    assert bench.counters.calls["echo"].others["overloaded"] == 1


async def test_an_applications_own_code_becomes_one_that_every_client_understands() -> None:
    """rsocket-py drops an ERROR with a code it does not know, and its call then hangs."""
    _, caller, provider, there = await joined(REQUEST_RESPONSE)
    provider.send(encode_error(there, 0x301, "mine"))
    assert error_of(caller) == (1, ErrorCode.APPLICATION_ERROR, "APPLICATION(code=769): mine")


async def test_cancel_reaches_the_provider_and_nothing_comes_back() -> None:
    bench, caller, provider, there = await joined(REQUEST_RESPONSE)
    caller.send(encode_cancel(1))
    assert only(provider) == encode_cancel(there)
    provider.send(encode_payload(there, None, b"late", complete=True))
    assert caller.received() == []
    assert bench.counters.calls["echo"].others["caller_canceled"] == 1


async def test_request_n_on_a_request_response_is_ignored() -> None:
    """C-77."""
    bench, caller, provider, _ = await joined(REQUEST_RESPONSE)
    caller.send(encode_request_n(1, 5))
    assert provider.received() == []
    assert bench.counters.ignored["REQUEST_N"] == 1


async def test_a_request_on_an_open_id_is_ignored_and_the_open_call_undisturbed() -> None:
    """C-59, C-87."""
    _bench, caller, provider, there = await joined(REQUEST_RESPONSE)
    caller.send(request(REQUEST_RESPONSE, 1, data=b"second"))
    assert provider.received() == []
    provider.send(encode_payload(there, None, b"data", complete=True))
    assert decode_payload(only(caller)).data == b"data"


@pytest.mark.parametrize("stream_id", [0, 2, 4])
async def test_a_request_on_stream_0_or_with_our_parity_opens_nothing(stream_id: int) -> None:
    """C-60, C-61."""
    bench = Bench()
    provider, caller = bench.provider(), bench.caller()
    caller.send(restamp(request(REQUEST_RESPONSE, 1), stream_id))
    assert provider.received() == []
    assert caller.received() == []
    assert caller.link.open


async def test_an_id_may_be_used_again_after_its_call_has_ended() -> None:
    """C-63."""
    _, caller, provider, there = await joined(REQUEST_RESPONSE)
    provider.send(encode_payload(there, None, b"data", complete=True))
    caller.send(request(REQUEST_RESPONSE, 1))
    assert peek(only(provider))[0] == there + 2


async def test_ids_towards_a_provider_wrap_and_skip_those_in_use() -> None:
    """C-62."""
    _bench, caller, provider, there = await joined(REQUEST_RESPONSE)
    provider.link.next_id = 0x7FFF_FFFE
    caller.send(*(request(REQUEST_RESPONSE, 3 + 2 * i) for i in range(3)))
    ids = [peek(frame)[0] for frame in provider.received()]
    assert there == 2
    assert ids == [0x7FFF_FFFE, 4, 6]


# -- fire-and-forget ------------------------------------------------------------------------------


async def test_fire_and_forget_is_forwarded_and_leaves_no_state() -> None:
    bench = Bench()
    provider, caller = bench.provider(), bench.caller()
    caller.send(request(REQUEST_FNF, 1))
    assert peek(only(provider))[1] == REQUEST_FNF
    assert bench.hub.streams_open() == 0
    assert bench.counters.calls["echo"].ok == 1


async def test_a_fragmented_fire_and_forget_passes_whole_and_leaves_no_state() -> None:
    bench = Bench()
    provider, caller = bench.provider(), bench.caller()
    caller.send(
        request(REQUEST_FNF, 1, data=b"1", follows=True),
        encode_payload(1, None, b"2", follows=True),
        encode_payload(1, None, b"3"),
    )
    assert [peek(f)[2] & FLAG_FOLLOWS for f in provider.received()] == [0x80, 0x80, 0]
    assert bench.hub.streams_open() == 0


async def test_fire_and_forget_to_nobody_is_dropped_without_an_answer_and_counted() -> None:
    """C-71."""
    bench = Bench()
    caller = bench.caller()
    caller.send(request(REQUEST_FNF, 1, "nobody.here"))
    assert caller.received() == []
    assert bench.counters.dropped["no_route"] == 1


# -- request-stream -------------------------------------------------------------------------------


async def test_credit_passes_and_items_come_back_in_order() -> None:
    bench, caller, provider, there = await joined(REQUEST_STREAM, 2)
    caller.send(encode_request_n(1, 3))
    assert provider.received() == []  # one item until its size is known
    provider.send(encode_payload(there, None, b"first"))
    assert decode_request_n(only(provider)) == 4
    assert decode_payload(only(caller)).data == b"first"
    provider.send(*(encode_payload(there, None, bytes((i,))) for i in range(4)))
    assert [decode_payload(f).data for f in caller.received()] == [bytes((i,)) for i in range(4)]
    credit = next(iter(caller.link.streams.values()))[3].down
    assert credit is not None
    assert (credit.asked, credit.granted, credit.delivered) == (5, 5, 5)
    provider.send(encode_payload(there, None, b"", next=False, complete=True))
    assert bench.hub.streams_open() == 0


@pytest.mark.parametrize("n", [0, 0x8000_0000])
async def test_an_initial_n_out_of_range_starts_nothing(n: int) -> None:
    """C-75."""
    bench = Bench()
    provider, caller = bench.provider(), bench.caller()
    good = request(REQUEST_STREAM, 1, n=1)
    caller.send(good[:6] + n.to_bytes(4, "big") + good[10:])
    stream_id, code, text = error_of(caller)
    assert (stream_id, code) == (1, ErrorCode.INVALID)
    assert str(n) in text
    assert provider.received() == []


@pytest.mark.parametrize("n", [0, 0x8000_0000])
async def test_request_n_out_of_range_ends_the_stream_both_ways(n: int) -> None:
    """C-76."""
    bench, caller, provider, there = await joined(REQUEST_STREAM, 1)
    caller.send(HEADER.pack(1, REQUEST_N << 10) + n.to_bytes(4, "big"))
    assert error_of(caller)[1] == ErrorCode.INVALID
    assert only(provider) == encode_cancel(there)
    assert bench.hub.streams_open() == 0


async def test_a_payload_that_is_no_item_is_dropped_and_its_credit_given_back() -> None:
    """C-88: rsocket-py sends empty items without NEXT, and has counted them."""
    _, caller, provider, there = await joined(REQUEST_STREAM, 2)
    provider.send(HEADER.pack(there, PAYLOAD << 10))
    assert caller.received() == []
    assert decode_request_n(only(provider)) == 1


async def test_an_item_without_data_is_an_item() -> None:
    """C-24."""
    _, caller, provider, there = await joined(REQUEST_STREAM, 2)
    provider.send(encode_payload(there, None, b""))
    assert decode_payload(only(caller)) == (1, None, b"", True, False, False)


# -- request-channel ------------------------------------------------------------------------------


async def test_both_halves_of_a_channel_close_by_themselves() -> None:
    """C-81."""
    bench, caller, provider, there = await joined(REQUEST_CHANNEL, 4)
    provider.send(encode_request_n(there, 2))
    assert decode_request_n(only(caller)) == 1
    caller.send(encode_payload(1, None, b"up"), encode_payload(1, None, b"", False, True))
    assert decode_request_n(only(caller)) == 1
    assert [peek(f)[2] for f in provider.received()] == [FLAG_NEXT, FLAG_COMPLETE]
    provider.send(encode_payload(there, None, b"down"))
    assert decode_request_n(only(provider)) == 3
    assert decode_payload(only(caller)).data == b"down"
    caller.send(encode_payload(1, None, b"after the end"))  # C-86
    assert provider.received() == []
    provider.send(encode_payload(there, None, b"last", complete=True))
    assert decode_payload(only(caller)).complete
    assert bench.hub.streams_open() == 0
    assert bench.counters.calls["echo"].ok == 1


async def test_the_provider_may_complete_first_and_go_on_receiving() -> None:
    bench, caller, provider, there = await joined(REQUEST_CHANNEL, 4)
    provider.send(encode_payload(there, None, b"", False, True))
    caller.received()
    caller.send(encode_payload(1, None, b"up"))
    assert decode_payload(only(provider)).data == b"up"
    caller.send(encode_payload(1, None, b"", False, True))
    assert bench.hub.streams_open() == 0


async def test_a_channel_that_begins_complete_has_one_open_half() -> None:
    """C-82."""
    bench, caller, provider, there = await joined(REQUEST_CHANNEL, 4, complete=True)
    caller.send(encode_payload(1, None, b"more"))
    assert provider.received() == []
    provider.send(encode_payload(there, None, b"", False, True))
    assert bench.hub.streams_open() == 0


async def test_cancel_by_a_channels_responder_stops_the_requesters_half_only() -> None:
    """C-85."""
    bench, caller, provider, there = await joined(REQUEST_CHANNEL, 4)
    provider.send(encode_cancel(there))
    assert only(caller) == encode_cancel(1)
    provider.send(encode_payload(there, None, b"down"))
    assert decode_payload(only(caller)).data == b"down"
    provider.send(encode_payload(there, None, b"", False, True))
    assert bench.hub.streams_open() == 0


async def test_cancel_by_a_channels_requester_ends_both_halves() -> None:
    """C-84; the ERROR behind it is for responders that end only their own half on CANCEL."""
    bench, caller, provider, _there = await joined(REQUEST_CHANNEL, 4)
    caller.send(encode_cancel(1))
    assert [peek(f)[1] for f in provider.received()] == [CANCEL, ERROR]
    assert bench.hub.streams_open() == 0


@pytest.mark.parametrize("side", ["caller", "provider"])
async def test_an_error_ends_a_channel_also_when_one_half_was_closed(side: str) -> None:
    """C-83."""
    bench, caller, provider, there = await joined(REQUEST_CHANNEL, 4)
    sender, here, receiver = (
        (caller, 1, provider) if side == "caller" else (provider, there, caller)
    )
    other = there if side == "caller" else 1
    receiver.send(encode_payload(other, None, b"", False, True))
    sender.received()
    sender.send(encode_error(here, 0x201, "broken"))
    assert decode_error(only(receiver)).text == "broken"
    assert bench.hub.streams_open() == 0


# -- fragments of requests ------------------------------------------------------------------------


async def test_metadata_in_many_fragments_is_collected_until_the_route_is_known() -> None:
    bench = Bench()
    provider, caller = bench.provider(), bench.caller()
    metadata = routed("echo.say")
    first = request(REQUEST_RESPONSE, 1, data=b"", metadata=metadata[:3], follows=True)
    frames = [first]
    frames += [
        encode_payload(1, metadata[i : i + 4], b"", follows=True)
        for i in range(3, len(metadata), 4)
    ]
    frames += [encode_payload(1, None, b"da", follows=True), encode_payload(1, None, b"ta")]
    for frame in frames:
        caller.send(frame)
    got = provider.received()
    assert [peek(f)[1] for f in got] == [REQUEST_RESPONSE] + [PAYLOAD] * (len(frames) - 1)
    there = decode_request(got[0])
    pieces = [decode_payload(f) for f in got[1:]]
    assert (there.metadata or b"") + b"".join(p.metadata or b"" for p in pieces) == metadata
    assert b"".join(p.data for p in pieces) == b"data"
    assert bench.hub.held_bytes == 0
    provider.send(encode_payload(there.stream_id, None, b"ok", complete=True))
    assert decode_payload(only(caller)).data == b"ok"


async def test_endless_metadata_is_refused_at_the_limit_and_released() -> None:
    """C-99, C-103."""
    bench = Bench(Config(limits=Limits(metadata_bytes=1024)))
    caller = bench.caller()
    caller.send(request(REQUEST_RESPONSE, 1, data=b"", metadata=b"\x7f" * 512, follows=True))
    caller.send(encode_payload(1, b"\x7f" * 512, b"", follows=True))
    assert caller.received() == []
    caller.send(encode_payload(1, b"\x7f", b"", follows=True))
    stream_id, code, text = error_of(caller)
    assert (stream_id, code) == (1, ErrorCode.INVALID)
    assert "1025" in text
    assert "1024" in text
    assert bench.hub.held_bytes == 0


async def test_metadata_that_never_completes_is_given_up_at_its_deadline() -> None:
    bench = Bench(Config(limits=Limits(setup_timeout=2.0)))
    caller = bench.caller()
    caller.send(request(REQUEST_RESPONSE, 1, data=b"", metadata=b"\xfe", follows=True))
    bench.pass_time(1.9)
    assert caller.received() == []
    bench.pass_time(0.2)
    assert error_of(caller)[1] == ErrorCode.INVALID


@pytest.mark.parametrize("end", [encode_cancel(1), encode_error(1, ErrorCode.CANCELED, "no")])
async def test_the_requesters_end_during_collection_leaves_nothing(end: bytes) -> None:
    """C-98; ERROR is how the requester of a channel gives up its items."""
    bench = Bench()
    caller = bench.caller()
    caller.send(request(REQUEST_CHANNEL, 1, data=b"", metadata=b"\xfe", n=1, follows=True))
    caller.send(end)
    assert (bench.hub.held, bench.hub.held_bytes) == ({}, 0)
    bench.pass_time(60)
    assert caller.received() == []


# -- ends -----------------------------------------------------------------------------------------


async def test_a_lost_provider_is_an_error_to_each_caller_at_once() -> None:
    bench = Bench()
    provider = bench.provider()
    callers = [bench.caller() for _ in range(3)]
    for caller in callers:
        caller.send(*(request(REQUEST_RESPONSE, 1 + 2 * i) for i in range(10)))
    provider.close()
    for caller in callers:
        errors = [decode_error(frame) for frame in caller.received()]
        assert [e.stream_id for e in errors] == [1 + 2 * i for i in range(10)]
        assert {e.code for e in errors} == {ErrorCode.CANCELED}
        assert all(e.text.startswith("PEER_LOST: ") for e in errors)
    assert bench.hub.streams_open() == 0
    callers[0].send(request(REQUEST_RESPONSE, 101))
    assert error_of(callers[0])[2].startswith("NO_ROUTE: ")


async def test_a_lost_caller_is_a_cancel_to_each_provider_at_once() -> None:
    _bench, caller, provider, there = await joined(REQUEST_STREAM, 5)
    caller.close()
    assert only(provider) == encode_cancel(there)
    assert provider.link.in_flight == 0


async def test_a_session_may_call_itself_and_leave_in_the_middle() -> None:
    bench = Bench()
    both = bench.provider()
    both.send(request(REQUEST_CHANNEL, 1, n=3))
    (frame,) = both.received()
    there = peek(frame)[0]
    both.send(encode_request_n(there, 1), encode_payload(there, None, b"down"))
    assert [peek(f)[:2] for f in both.received()] == [(1, REQUEST_N), (1, PAYLOAD), (2, REQUEST_N)]
    both.send(encode_payload(1, None, b"up"))
    assert decode_payload(only(both)).stream_id == there
    both.close()
    assert bench.hub.streams_open() == 0


# -- deadlines ------------------------------------------------------------------------------------


async def test_the_deadline_of_the_request_cancels_and_answers() -> None:
    bench, caller, provider, there = await joined(REQUEST_RESPONSE, deadline_ms=500)
    bench.pass_time(0.49)
    assert caller.received() == []
    bench.pass_time(0.04)
    assert only(provider) == encode_cancel(there)
    stream_id, code, text = error_of(caller)
    assert (stream_id, code) == (1, ErrorCode.CANCELED)
    assert text.startswith("DEADLINE_EXCEEDED: ")
    assert bench.hub.streams_open() == 0


async def test_a_plain_clients_call_has_the_default_deadline() -> None:
    bench = Bench(Config(routing=RoutingConfig(default_deadline=3.0)))
    provider, caller = bench.provider(), bench.caller()
    caller.send(request(REQUEST_RESPONSE, 1))
    bench.pass_time(2.9)
    assert caller.received() == []
    bench.pass_time(0.2)
    assert error_of(caller)[2].startswith("DEADLINE_EXCEEDED: ")
    assert len(provider.received()) == 2


@pytest.mark.parametrize("kind", [REQUEST_STREAM, REQUEST_CHANNEL])
async def test_the_deadline_of_a_stream_ends_with_its_first_item(kind: int) -> None:
    bench, caller, provider, there = await joined(kind, 5, deadline_ms=500)
    provider.send(encode_payload(there, None, b"first"))
    bench.pass_time(10)
    assert decode_payload(only(caller)).data == b"first"
    provider.send(encode_payload(there, None, b"second"))
    assert decode_payload(only(caller)).data == b"second"
    credit = next(iter(caller.link.streams.values()))[3].down
    assert credit is not None
    assert credit.delivered == 2


@pytest.mark.parametrize("kind", [REQUEST_STREAM, REQUEST_CHANNEL])
async def test_a_stream_without_a_first_item_ends_at_its_deadline(kind: int) -> None:
    bench, caller, provider, _ = await joined(kind, 5, deadline_ms=500)
    bench.pass_time(0.6)
    assert error_of(caller)[2].startswith("DEADLINE_EXCEEDED: ")
    assert peek(provider.received()[0])[1] == CANCEL
    assert bench.hub.streams_open() == 0


# -- routes ---------------------------------------------------------------------------------------


async def test_nobody_serves_it() -> None:
    bench = Bench()
    caller = bench.caller()
    caller.send(request(REQUEST_RESPONSE, 1, "ghost.say"))
    stream_id, code, text = error_of(caller)
    assert (stream_id, code) == (1, ErrorCode.REJECTED)
    assert text.startswith("NO_ROUTE: ")
    assert "ghost" in text


async def test_a_call_may_wait_for_somebody_who_serves_it() -> None:
    bench = Bench(Config(routing=RoutingConfig(route_wait=2.0)))
    caller = bench.caller()
    caller.send(
        request(REQUEST_STREAM, 1, n=1, data=b"1", follows=True),
        encode_payload(1, None, b"2"),
        encode_request_n(1, 4),
    )
    assert caller.received() == []
    bench.pass_time(1.0)
    provider = bench.provider()
    frames = provider.received()
    assert [peek(f)[1] for f in frames] == [REQUEST_STREAM, PAYLOAD]
    assert bench.hub.held_bytes == 0
    provider.send(encode_payload(peek(frames[0])[0], None, b"first"))
    assert decode_request_n(only(provider)) == 4
    assert bench.counters.frames_in == 3 + 1 + 4  # and the two SETUPs with their KEEPALIVEs


async def test_a_waiting_call_is_refused_when_its_wait_is_over() -> None:
    bench = Bench(Config(routing=RoutingConfig(route_wait=2.0)))
    caller = bench.caller()
    caller.send(request(REQUEST_RESPONSE, 1), request(REQUEST_RESPONSE, 3, deadline_ms=1000))
    bench.pass_time(1.1)
    stream_id, _, text = error_of(caller)
    assert stream_id == 3
    assert text.startswith("DEADLINE_EXCEEDED: ")
    bench.pass_time(1.0)
    assert error_of(caller)[2].startswith("NO_ROUTE: ")


async def test_a_waiting_calls_deadline_is_restamped_with_what_remains() -> None:
    bench = Bench(Config(routing=RoutingConfig(route_wait=2.0)))
    caller = bench.caller()
    caller.send(request(REQUEST_RESPONSE, 1, deadline_ms=1000))
    bench.pass_time(0.4)
    provider = bench.provider()
    metadata = decode_request(only(provider)).metadata
    assert metadata is not None
    assert decode_composite(metadata)[1].content == (600).to_bytes(4, "big")


async def test_waiting_requests_are_bounded_in_number_and_bytes() -> None:
    limits = Limits(waiting_requests=2, waiting_bytes=300)
    bench = Bench(Config(routing=RoutingConfig(route_wait=2.0), limits=limits))
    caller = bench.caller()
    caller.send(*(request(REQUEST_RESPONSE, i) for i in (1, 3, 5)))
    assert error_of(caller)[0::2] == (5, "OVERLOADED: 2 requests are waiting, the limit is 2")
    caller.send(encode_cancel(1))
    caller.send(request(REQUEST_RESPONSE, 7, data=b"x" * 300))
    stream_id, code, text = error_of(caller)
    assert (stream_id, code) == (7, ErrorCode.REJECTED)
    assert "300" in text


async def test_several_instances_share_the_calls() -> None:
    bench = Bench()
    providers = [bench.provider(instance=f"i{i}") for i in range(3)]
    caller = bench.caller()
    caller.send(*(request(REQUEST_RESPONSE, 1 + 2 * i) for i in range(300)))
    shares = [provider.link.in_flight for provider in providers]
    assert sum(shares) == 300
    assert max(shares) - min(shares) <= 6  # power of two choices keeps them level


@pytest.mark.parametrize(
    ("tags", "instance"),
    [(["version=^1.0"], "old"), (["version=2.0.0"], "new"), (["instance=new"], "new")],
)
async def test_selectors_choose_among_instances(tags: list[str], instance: str) -> None:
    bench = Bench()
    providers = {
        "old": bench.provider(instance="old", version="1.2.0"),
        "new": bench.provider(instance="new", version="2.0.0"),
    }
    caller = bench.caller()
    caller.send(
        *(request(REQUEST_FNF, 1 + 2 * i, metadata=routed("echo.say", *tags)) for i in range(10))
    )
    assert {name: len(peer.received()) for name, peer in providers.items()} == {
        name: 10 if name == instance else 0 for name in providers
    }


async def test_a_provider_that_is_behind_with_reading_gets_no_new_calls() -> None:
    bench = Bench()
    slow, fast = bench.provider(instance="slow"), bench.provider(instance="fast")
    caller = bench.caller()
    slow.link.writable(False)
    caller.send(*(request(REQUEST_RESPONSE, 1 + 2 * i) for i in range(20)))
    assert (len(slow.received()), len(fast.received())) == (0, 20)
    fast.link.writable(False)
    caller.send(request(REQUEST_RESPONSE, 99))
    assert error_of(caller)[2].startswith("UNAVAILABLE: ")
    slow.link.writable(True)
    caller.send(request(REQUEST_RESPONSE, 101))
    assert len(slow.received()) == 1


# -- callers and providers that differ ------------------------------------------------------------


async def test_a_routing_connections_metadata_is_wrapped_for_a_composite_provider() -> None:
    bench = Bench()
    provider = bench.provider()
    caller = bench.caller(metadata_mime=ROUTING)
    tags = encode_routing(["echo.say", "version=1.0.0"])
    caller.send(request(REQUEST_RESPONSE, 1, metadata=tags))
    metadata = decode_request(only(provider)).metadata
    assert metadata is not None
    assert decode_composite(metadata) == [(ROUTING, tags)]


async def test_metadata_that_needs_no_change_is_passed_on_as_it_was_written() -> None:
    bench = Bench()
    provider, caller = bench.provider(), bench.caller()
    tags = encode_routing(["echo.say"])
    text = ROUTING.encode()  # this type has an id, and the text is as good
    entry = bytes((len(text) - 1,)) + text + len(tags).to_bytes(3, "big") + tags
    caller.send(request(REQUEST_RESPONSE, 1, metadata=entry))
    assert decode_request(only(provider)).metadata == entry


async def test_a_caller_without_routing_reaches_the_default_service() -> None:
    bench = Bench()
    provider = bench.provider()
    caller = bench.peer("plain", default_service="echo").setup(metadata_mime="application/json")
    caller.send(
        request(REQUEST_RESPONSE, 1, metadata=b'{"any": 1}'),
        request(REQUEST_RESPONSE, 3, metadata=None),
    )
    first, second = map(decode_request, provider.received())
    assert decode_composite(first.metadata or b"") == [("application/json", b'{"any": 1}')]
    assert second.metadata is None


async def test_a_provider_without_composite_metadata_gets_what_it_understands() -> None:
    bench = Bench()
    provider = bench.peer().setup(metadata_mime=ROUTING, data_mime="application/json")
    announcement = encode_announcement(Announcement("app", services=(ServiceInfo("echo"),)))
    tags = encode_routing(["mesh.registry.announce"])
    provider.send(request(REQUEST_RESPONSE, 1, data=announcement, metadata=tags))
    await asyncio.sleep(0)
    assert b'"echo"' in decode_payload(only(provider)).data
    caller = bench.caller()
    caller.send(request(REQUEST_RESPONSE, 1, deadline_ms=500))
    assert decode_request(only(provider)).metadata == encode_routing(["echo.say"])


async def test_a_caller_without_routing_and_default_service_is_told_so() -> None:
    bench = Bench()
    caller = bench.caller(metadata_mime="application/json")
    caller.send(request(REQUEST_RESPONSE, 1, metadata=None))
    assert error_of(caller)[2].startswith("NO_ROUTE: ")


async def test_the_data_type_of_the_caller_is_stated_where_the_providers_differs() -> None:
    bench = Bench()
    provider = bench.provider(data_mime="application/cbor")
    caller = bench.caller(data_mime="application/json")
    caller.send(request(REQUEST_RESPONSE, 1))
    metadata = decode_request(only(provider)).metadata
    assert metadata is not None
    assert metadata == routed("echo.say") + b"\xfa\x00\x00\x01\x85"


@pytest.mark.parametrize("takes", [COMPOSITE, ROUTING, "application/json"])
async def test_credentials_stay_on_their_hop(takes: str) -> None:
    bench = Bench()
    provider, caller = bench.provider(), bench.caller()
    provider.link.takes = provider.link.takes._replace(metadata_mime=takes)
    secret = encode_authentication(BearerCredentials("secret"))
    metadata = encode_composite(
        [("message/x.rsocket.authentication.v0", secret), (ROUTING, encode_routing(["echo.say"]))]
    )
    caller.send(request(REQUEST_RESPONSE, 1, metadata=metadata))
    frame = only(provider)
    assert b"secret" not in frame
    tags = encode_routing(["echo.say"])
    assert decode_request(frame).metadata == (tags if takes == ROUTING else routed("echo.say"))


async def test_a_provider_that_asked_is_told_who_calls_first_of_all() -> None:
    bench = Bench()
    provider = bench.provider(announce={"caller": True})
    caller = bench.caller()
    caller.send(request(REQUEST_RESPONSE, 1))
    metadata = decode_request(only(provider)).metadata
    assert metadata is not None
    first, *others = decode_composite(metadata)
    assert first.mime == "message/x.rsocket-mesh.caller.v1"
    assert b'"app":"anonymous"' in first.content
    assert [entry.mime for entry in others] == [ROUTING]


# -- hostile input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(lambda sid: HEADER.pack(sid, PAYLOAD << 10 | 0x160) + b"\0\0\5ab", id="C-21"),
        pytest.param(lambda sid: HEADER.pack(sid, PAYLOAD << 10 | 0x160) + b"\0", id="C-22"),
        pytest.param(lambda sid: HEADER.pack(sid, ERROR << 10) + b"\0\0", id="short ERROR"),
    ],
)
async def test_a_malformed_frame_ends_its_senders_connection_and_reaches_nobody(
    frame: Callable[[int], bytes],
) -> None:
    _, caller, provider, there = await joined(REQUEST_RESPONSE)
    provider.send(frame(there))
    assert provider.transport.closed
    last = decode_error(provider.received()[-1])
    assert (last.stream_id, last.code) == (0, ErrorCode.CONNECTION_ERROR)
    assert error_of(caller)[2].startswith("PEER_LOST: ")
    assert not caller.transport.closed


async def test_a_malformed_request_with_the_ignore_flag_is_dropped() -> None:
    """C-23."""
    bench = Bench()
    caller = bench.caller()
    caller.send(HEADER.pack(1, REQUEST_RESPONSE << 10 | 0x300) + b"\0\0\x64ab")
    assert caller.received() == []
    assert caller.link.open


async def test_undecodable_metadata_is_an_error_of_its_request_alone() -> None:
    """C-128."""
    bench = Bench()
    provider, caller = bench.provider(), bench.caller()
    caller.send(request(REQUEST_RESPONSE, 1, metadata=b"\xfe\0\0\x50ab"))
    assert error_of(caller)[:2] == (1, ErrorCode.INVALID)
    caller.send(request(REQUEST_RESPONSE, 3))
    assert len(provider.received()) == 1


async def test_the_reserved_bit_never_reaches_the_stream_without_it() -> None:
    """C-10."""
    _, caller, provider, there = await joined(REQUEST_RESPONSE)
    provider.send(HEADER.pack(there | 1 << 31, PAYLOAD << 10 | FLAG_NEXT | FLAG_COMPLETE))
    assert provider.transport.closed
    assert error_of(caller)[2].startswith("PEER_LOST: ")


@settings(max_examples=150)
@given(
    junk=st.lists(
        st.tuples(
            st.sampled_from([0, 1, 2, 3, 4, 5]),
            st.integers(0, 0x3F),
            st.integers(0, 0x3FF),
            st.binary(max_size=30),
        ),
        max_size=12,
    )
)
async def test_no_frame_of_a_caller_disturbs_anybody_else(
    junk: list[tuple[int, int, int, bytes]],
) -> None:
    """C-13, and the product's first promise: the victim's call completes whatever is sent."""
    bench = Bench()
    provider, hostile, victim = bench.provider(), bench.caller(), bench.caller()
    victim.send(request(REQUEST_RESPONSE, 1, data=b"victim"))
    there = peek(only(provider))[0]
    hostile.send(request(REQUEST_STREAM, 1, n=1))
    for stream_id, kind, flags, body in junk:
        hostile.send(HEADER.pack(stream_id, kind << 10 | flags) + body)
    provider.received()
    provider.send(encode_payload(there, None, b"answer", complete=True))
    assert decode_payload(only(victim)).data == b"answer"
    assert provider.link.open
    hostile.close()
    assert bench.hub.streams_open() == 0
    assert provider.link.in_flight == 0
    assert (bench.hub.held, bench.hub.held_bytes) == ({}, 0)


@settings(max_examples=50)
@given(cuts=st.lists(st.integers(0, 400), max_size=8))
async def test_frames_are_forwarded_whole_however_the_batch_is_cut(cuts: list[int]) -> None:
    """C-03, C-04."""
    bench = Bench()
    provider, caller = bench.provider(), bench.caller()
    frames = [request(REQUEST_RESPONSE, 1 + 2 * i, data=bytes((i,)) * i) for i in range(8)]
    wire = b"".join(prefix_lengths(frames))
    rest = b""
    ends = sorted({min(cut, len(wire)) for cut in cuts} | {len(wire)})
    start = 0
    for end in ends:
        piece = rest + wire[start:end]
        rest = piece[caller.send_bytes(piece) :]
        start = end
    assert rest == b""
    assert [decode_request(f).data for f in provider.received()] == [
        decode_request(f).data for f in frames
    ]


async def test_peers_are_flushed_once_per_batch() -> None:
    bench = Bench()
    provider, caller = bench.provider(), bench.caller()
    before = provider.transport.flushes
    caller.send(*(request(REQUEST_RESPONSE, 1 + 2 * i) for i in range(50)))
    assert provider.transport.flushes <= before + 2  # the first request may take the general way
