"""Flow control in the middle: windows, fragments, peers that do not read, and their traps."""

from __future__ import annotations

import pytest

from broker.config import Config, Limits
from broker.forwarding.credit import UNLIMITED
from broker.forwarding.hub import Hub
from broker.forwarding.turns import SMALLEST_PIECE
from rsocket_mesh.errors import ErrorCode
from rsocket_mesh.protocol.frames import (
    CANCEL,
    ERROR,
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
    encode_cancel,
    encode_payload,
    encode_request_n,
    peek,
)
from tests.support.raw_peers import Bench, RawPeer, request

MIB = 1024 * 1024
WINDOW = Limits().stream_window_bytes


class Pair:
    """A caller and a provider with one open stream, number 1 at the caller."""

    def __init__(self, kind: int, n: int, config: Config | None = None, **more: object) -> None:
        self.bench = Bench(config) if config is not None else Bench()
        self.provider, self.caller = self.bench.provider(), self.bench.caller()
        self.caller.send(request(kind, 1, n=n, **more))  # type: ignore[arg-type]
        (frame,) = self.provider.received()
        self.there = peek(frame)[0]
        self.granted = decode_request(frame).initial_n or 0

    @property
    def hub(self) -> Hub:
        return self.bench.hub

    def item(self, data: bytes = b"x", **more: bool) -> bytes:
        return encode_payload(self.there, None, data, **more)

    def produce(self, count: int, size: int) -> int:
        """Send items of *size* bytes while there is credit, at most *count*; return how many."""
        sent = 0
        while sent < count and self.credit() > 0:
            self.provider.send(self.item(b"x" * size))
            self.granted -= 1
            sent += 1
        return sent

    def credit(self) -> int:
        """What the provider may still send."""
        for frame in self.provider.received():
            if peek(frame)[1] == REQUEST_N:
                self.granted += decode_request_n(frame)
        return self.granted

    def stop_reading(self, peer: RawPeer, waiting: int) -> None:
        peer.transport.waiting = waiting
        peer.link.writable(False)

    def go_on_reading(self, peer: RawPeer) -> None:
        peer.transport.waiting = 0
        peer.link.writable(True)


def kinds(peer: RawPeer) -> list[int]:
    return [peek(frame)[1] for frame in peer.received()]


# -- windows --------------------------------------------------------------------------------------


async def test_an_unlimited_wish_is_granted_in_windows() -> None:
    pair = Pair(REQUEST_STREAM, UNLIMITED)
    assert pair.granted == 1  # until the size of an item is known
    pair.produce(1, 10_000)
    assert 0 < pair.credit() <= WINDOW // 10_000


async def test_all_that_was_asked_for_is_granted_in_the_end_and_nothing_more() -> None:
    pair = Pair(REQUEST_STREAM, 1000)
    assert pair.produce(5000, 2_000) == 1000
    assert len(pair.caller.received()) == 1000
    assert pair.credit() == 0


async def test_the_next_call_of_a_route_begins_with_the_window_that_the_last_one_had() -> None:
    pair = Pair(REQUEST_STREAM, UNLIMITED)
    pair.produce(40, 50_000)
    pair.caller.send(encode_cancel(1), request(REQUEST_STREAM, 3, n=UNLIMITED))
    *_, frame = pair.provider.received()
    assert decode_request(frame).initial_n == WINDOW // 50_006


async def test_a_request_that_asks_for_little_is_forwarded_as_it_is() -> None:
    pair = Pair(REQUEST_STREAM, 2)
    pair.produce(2, 10)
    pair.provider.send(pair.item(b"", next=False, complete=True))
    pair.caller.received()
    sent = request(REQUEST_STREAM, 3, n=2)
    pair.caller.send(sent)
    (frame,) = pair.provider.received()
    assert frame[4:] == sent[4:]


async def test_many_streams_to_one_consumer_share_what_may_be_under_way() -> None:
    bench = Bench()
    provider, caller = bench.provider(), bench.caller()
    for number in range(100):
        caller.send(request(REQUEST_STREAM, 1 + 2 * number, n=UNLIMITED))
    there = [peek(frame)[0] for frame in provider.received()]
    for stream in there:
        provider.send(encode_payload(stream, None, b"x" * 10_000))
    granted = sum(decode_request_n(frame) for frame in provider.received())
    assert granted * 10_000 <= Limits().outbound_bytes
    assert caller.link.consuming == 100
    caller.close()
    assert caller.link.consuming == 0


async def test_a_channels_caller_is_granted_windows_too() -> None:
    pair = Pair(REQUEST_CHANNEL, 1)
    pair.provider.send(encode_request_n(pair.there, UNLIMITED))
    (frame,) = pair.caller.received()
    assert decode_request_n(frame) == 1
    pair.caller.send(encode_payload(1, None, b"x" * 10_000))
    assert kinds(pair.provider) == [PAYLOAD]
    (frame,) = pair.caller.received()
    assert decode_request_n(frame) <= WINDOW // 10_000


# -- fragments and credit -------------------------------------------------------------------------


async def test_no_credit_reaches_a_provider_between_the_fragments_of_a_callers_item() -> None:
    """rsocket-js ends the stream if REQUEST_N comes in between."""
    pair = Pair(REQUEST_CHANNEL, 1)
    pair.provider.send(encode_request_n(pair.there, 5))
    pair.caller.received()
    pair.caller.send(encode_payload(1, None, b"1", follows=True), encode_request_n(1, 7))
    assert kinds(pair.provider) == [PAYLOAD]
    pair.provider.send(pair.item(b"down"))  # its credit is used up, and may not be renewed yet
    pair.caller.send(encode_payload(1, None, b"2", follows=True))
    assert kinds(pair.provider) == [PAYLOAD]
    pair.caller.send(encode_payload(1, None, b"3"))
    last, credit = pair.provider.received()
    assert decode_payload(last).data == b"3"
    assert decode_request_n(credit) == 7


async def test_no_credit_reaches_a_caller_between_the_fragments_of_a_providers_item() -> None:
    pair = Pair(REQUEST_CHANNEL, 5)
    pair.provider.send(pair.item(b"1", follows=True), encode_request_n(pair.there, 3))
    assert kinds(pair.caller) == [PAYLOAD]
    pair.provider.send(pair.item(b"2"))
    assert kinds(pair.caller) == [PAYLOAD, REQUEST_N]


async def test_no_credit_reaches_a_provider_between_the_fragments_of_a_request() -> None:
    bench = Bench()
    provider, caller = bench.provider(), bench.caller()
    caller.send(request(REQUEST_STREAM, 1, n=1, follows=True), encode_request_n(1, 9))
    (frame,) = provider.received()
    caller.send(encode_payload(1, None, b"2", follows=True))
    assert kinds(provider) == [PAYLOAD]
    caller.send(encode_payload(1, None, b"3"))
    provider.send(encode_payload(peek(frame)[0], None, b"an item"))
    assert kinds(provider) == [PAYLOAD, REQUEST_N]


async def test_an_item_in_fragments_uses_one_credit_and_counts_with_all_its_bytes() -> None:
    """C-94."""
    pair = Pair(REQUEST_STREAM, UNLIMITED)
    piece = b"x" * (WINDOW // 4)
    pair.provider.send(*(pair.item(piece, follows=True) for _ in range(3)), pair.item(piece))
    assert pair.credit() == 2  # the one that was used up, and one more
    assert pair.provider.link.unfinished == 0


async def test_a_last_fragment_without_next_still_ends_the_item() -> None:
    pair = Pair(REQUEST_STREAM, 5)
    pair.provider.send(pair.item(b"1", follows=True), HEADER.pack(pair.there, PAYLOAD << 10) + b"2")
    first, last = pair.caller.received()
    assert decode_payload(first).follows
    assert peek(last)[2] == FLAG_NEXT


async def test_fragments_of_one_large_item_let_other_streams_pass() -> None:
    pair = Pair(REQUEST_STREAM, 5)
    pair.caller.send(request(REQUEST_RESPONSE, 3))
    (frame,) = [f for f in pair.provider.received() if peek(f)[1] == REQUEST_RESPONSE]
    answer = encode_payload(peek(frame)[0], None, b"quick", complete=True)
    pair.provider.send(pair.item(b"1", follows=True), answer, pair.item(b"2"))
    assert [peek(frame)[0] for frame in pair.caller.received()] == [1, 3, 1]


@pytest.mark.parametrize("by", ["caller", "provider"])
async def test_a_call_that_ends_between_fragments_gives_back_what_it_held(by: str) -> None:
    pair = Pair(REQUEST_CHANNEL, 5)
    pair.provider.send(encode_request_n(pair.there, 5), pair.item(b"1", follows=True))
    pair.caller.send(encode_payload(1, None, b"1", follows=True))
    assert pair.provider.link.unfinished > 0
    assert pair.caller.link.unfinished > 0
    getattr(pair, by).close()
    assert pair.provider.link.unfinished == pair.caller.link.unfinished == 0
    assert pair.provider.link.consuming == pair.caller.link.consuming == 0


@pytest.mark.parametrize("requesting", [False, True])
async def test_a_provider_that_wants_no_more_in_the_middle_of_a_message_still_gets_credit(
    requesting: bool,
) -> None:
    pair = Pair(REQUEST_CHANNEL, UNLIMITED, follows=requesting)
    if not requesting:
        pair.provider.send(encode_request_n(pair.there, 10))
        pair.caller.received()
        pair.caller.send(encode_payload(1, None, b"part", follows=True))
        pair.provider.received()
    pair.provider.send(encode_cancel(pair.there))
    assert CANCEL in kinds(pair.caller)
    pair.caller.send(encode_payload(1, None, b"rest", complete=True))
    assert pair.produce(200, 100) == 200
    assert pair.caller.link.unfinished == 0


async def test_an_item_that_is_none_gives_no_credit_back_between_fragments() -> None:
    pair = Pair(REQUEST_CHANNEL, UNLIMITED)
    pair.provider.send(encode_request_n(pair.there, 10))
    pair.provider.send(pair.item(b"part", follows=True))
    pair.caller.received()
    pair.caller.send(HEADER.pack(1, PAYLOAD << 10))
    assert REQUEST_N not in kinds(pair.caller)
    pair.provider.send(pair.item(b"rest"))
    assert kinds(pair.caller) == [PAYLOAD, REQUEST_N]


# -- producers that send too much -----------------------------------------------------------------


async def test_one_item_too_many_is_delivered_and_two_cost_the_stream_and_nothing_else() -> None:
    pair = Pair(REQUEST_STREAM, 1)
    pair.caller.send(request(REQUEST_RESPONSE, 3))
    pair.provider.received()
    pair.provider.send(pair.item(b"1"), pair.item(b"2"))
    assert len(pair.caller.received()) == 2
    pair.provider.send(pair.item(b"3"))
    error = decode_error(pair.caller.received()[0])
    assert (error.stream_id, error.code) == (1, ErrorCode.CANCELED)
    assert "credit" in error.text
    assert kinds(pair.provider) == [CANCEL]
    assert pair.provider.link.open
    assert pair.hub.streams_open() == 1
    assert pair.hub.counters.limits["credit"] == 1


async def test_a_caller_that_overruns_a_channel_loses_it() -> None:
    pair = Pair(REQUEST_CHANNEL, 1)
    pair.provider.send(encode_request_n(pair.there, 1))
    pair.caller.received()
    pair.caller.send(*(encode_payload(1, None, b"x") for _ in range(3)))
    assert kinds(pair.provider) == [PAYLOAD, PAYLOAD, CANCEL, ERROR]
    assert kinds(pair.caller) == [ERROR]


async def test_the_last_item_counts_as_well() -> None:
    pair = Pair(REQUEST_STREAM, 1)
    pair.provider.send(pair.item(), pair.item(), pair.item(complete=True))
    assert kinds(pair.caller) == [PAYLOAD, PAYLOAD, ERROR]


# -- consumers that do not read -------------------------------------------------------------------


async def test_a_consumer_that_does_not_read_gets_no_more_than_was_granted_before() -> None:
    pair = Pair(REQUEST_STREAM, UNLIMITED)
    pair.produce(10, 10_000)
    pair.stop_reading(pair.caller, waiting=300_000)
    left = pair.credit()
    assert pair.produce(10_000, 10_000) == left
    assert pair.credit() == 0


async def test_it_goes_on_with_nothing_lost_when_it_wakes() -> None:
    pair = Pair(REQUEST_STREAM, UNLIMITED)
    sent = pair.produce(10, 10_000)
    pair.stop_reading(pair.caller, waiting=300_000)
    sent += pair.produce(10_000, 10_000)
    pair.go_on_reading(pair.caller)
    assert pair.credit() > 0
    sent += pair.produce(50, 10_000)
    assert len(pair.caller.received()) == sent


async def test_a_source_that_cannot_wait_decides_itself_what_to_leave_out() -> None:
    """A hot source sees finite credit although its consumer asked for everything; what it drops
    meanwhile is its own policy, and nothing of it waits here."""
    pair = Pair(REQUEST_STREAM, UNLIMITED)
    sent, dropped = [], 0
    for tick in range(600):
        if tick == 50:
            pair.stop_reading(pair.caller, waiting=300_000)
        elif tick == 500:
            pair.go_on_reading(pair.caller)
        if pair.credit() > 0:
            pair.provider.send(pair.item(b"%06d" % tick + bytes(20_000)))
            pair.granted -= 1
            sent.append(tick)
        else:
            dropped += 1
    arrived = [int(decode_payload(frame).data[:6]) for frame in pair.caller.received()]
    assert arrived == sent
    assert dropped > 300
    assert sent[-1] == 599
    assert pair.hub.streams_open() == 1


async def test_time_without_credit_is_counted_by_whose_doing_it_was() -> None:
    pair = Pair(REQUEST_STREAM, 1)
    pair.provider.send(pair.item(b"x" * 10_000))
    pair.bench.pass_time(2.0)
    pair.caller.send(encode_request_n(1, UNLIMITED))
    starved = pair.bench.counters.calls["echo"].starved_seconds
    assert starved["caller_demand"] == pytest.approx(2.0, abs=0.1)
    pair.granted = 0
    pair.stop_reading(pair.caller, waiting=300_000)
    pair.produce(10_000, 10_000)
    pair.bench.pass_time(3.0)
    pair.go_on_reading(pair.caller)
    assert starved["caller_socket"] == pytest.approx(3.0, abs=0.1)


async def test_credit_is_accounted_for_to_the_last_item() -> None:
    pair = Pair(REQUEST_CHANNEL, 50)
    pair.provider.send(encode_request_n(pair.there, 20))
    pair.produce(7, 100)
    pair.caller.send(encode_payload(1, None, b"x"))
    pair.caller.close()
    calls = pair.bench.counters.calls["echo"]
    assert calls.credit_used == 8
    assert calls.credit_granted == calls.credit_used + calls.credit_returned


async def test_an_answer_may_use_the_allowance_for_large_payloads_and_no_more() -> None:
    limits = Limits(outbound_bytes=MIB, large_payload_bytes=2 * MIB)
    pair = Pair(REQUEST_STREAM, 5, Config(limits=limits))
    pair.caller.send(request(REQUEST_RESPONSE, 3))
    (frame,) = [f for f in pair.provider.received() if peek(f)[1] == REQUEST_RESPONSE]
    there = peek(frame)[0]
    piece = encode_payload(there, None, b"x" * 100_000, follows=True)
    pair.stop_reading(pair.caller, waiting=3 * MIB - len(piece))
    pair.provider.send(piece)
    assert kinds(pair.caller) == [PAYLOAD]
    pair.caller.transport.waiting = 3 * MIB - len(piece) + 1
    pair.provider.send(piece)
    error = decode_error(pair.caller.received()[0])
    assert (error.stream_id, error.text.split(":")[0]) == (3, "SLOW_CONSUMER")
    assert kinds(pair.provider) == [CANCEL]
    assert pair.hub.counters.limits["large_payload_bytes"] == 1
    assert pair.hub.streams_open() == 1  # the other stream lives


async def test_a_caller_that_does_not_read_may_not_ask_for_more() -> None:
    pair = Pair(REQUEST_STREAM, 5)
    pair.stop_reading(pair.caller, waiting=300_000)
    pair.caller.send(request(REQUEST_RESPONSE, 3), request(REQUEST_FNF, 5))
    (frame,) = pair.caller.received()
    error = decode_error(frame)
    assert (error.stream_id, error.code) == (3, ErrorCode.REJECTED)
    assert error.text.startswith("OVERLOADED: 300000 bytes wait")
    assert pair.provider.received() == []
    pair.go_on_reading(pair.caller)
    pair.caller.send(request(REQUEST_RESPONSE, 7))
    assert kinds(pair.provider) == [REQUEST_RESPONSE]


async def test_two_peers_that_serve_and_call_each_other_do_not_block_each_other() -> None:
    """Both have stopped reading; what either sends is taken all the same."""
    bench = Bench()
    one, other = bench.provider("one"), bench.provider("other")
    one.send(request(REQUEST_STREAM, 1, "other.x", n=UNLIMITED))
    other.send(request(REQUEST_STREAM, 1, "one.x", n=UNLIMITED))
    to_other, to_one = (peek(peer.received()[0])[0] for peer in (other, one))
    for peer in (one, other):
        peer.transport.waiting = 300_000
        peer.link.writable(False)
    one.send(encode_payload(to_one, None, b"a"))
    other.send(encode_payload(to_other, None, b"b"))
    assert decode_payload(one.received()[0]).data == b"b"
    assert decode_payload(other.received()[0]).data == b"a"
    one.transport.waiting = other.transport.waiting = 0
    one.link.writable(True)
    other.link.writable(True)
    assert kinds(one) == kinds(other) == [REQUEST_N]


async def test_who_reads_nothing_over_the_limit_is_closed_after_its_time_and_not_before() -> None:
    pair = Pair(REQUEST_STREAM, 5)
    pair.stop_reading(pair.caller, waiting=Limits().outbound_bytes + 1)
    pair.bench.pass_time(9.9)
    assert pair.caller.link.open
    pair.bench.pass_time(0.2)
    assert not pair.caller.link.open
    assert pair.bench.counters.closes["slow-reader"] == 1
    assert kinds(pair.provider) == [CANCEL]


async def test_a_session_whose_last_flush_fills_its_outbound_leaves_nothing_behind() -> None:
    pair = Pair(REQUEST_STREAM, 5)
    link, close = pair.caller.link, pair.caller.transport.close

    def close_over_the_mark() -> None:
        link.writable(False)
        close()

    pair.caller.transport.close = close_over_the_mark  # type: ignore[method-assign]
    link.fail(ErrorCode.CONNECTION_ERROR, "bad", "protocol-error")
    assert link.slow_reader is None
    assert not link.congested


async def test_who_reads_a_little_or_has_less_waiting_is_slow_and_no_slow_reader() -> None:
    pair = Pair(REQUEST_STREAM, 5)
    pair.stop_reading(pair.caller, waiting=Limits().outbound_bytes + 1000)
    for _ in range(5):
        pair.bench.pass_time(9.0)
        pair.caller.transport.waiting -= 1
    pair.caller.transport.waiting = Limits().outbound_bytes
    pair.bench.pass_time(30.0)
    assert pair.caller.link.open


# -- requests -------------------------------------------------------------------------------------


async def test_no_more_requests_are_open_than_the_limit_allows() -> None:
    bench = Bench(Config(limits=Limits(streams=10)))
    provider, caller = bench.provider(), bench.caller()
    caller.send(*(request(REQUEST_RESPONSE, 1 + 2 * i) for i in range(11)))
    there = [peek(frame)[0] for frame in provider.received()]
    assert len(there) == 10
    error = decode_error(caller.received()[0])
    assert error.stream_id == 21
    assert error.text.startswith("OVERLOADED(retry_after_ms=")
    provider.send(encode_payload(there[0], None, b"", complete=True))
    caller.received()
    caller.send(request(REQUEST_RESPONSE, 23))
    assert kinds(provider) == [REQUEST_RESPONSE]
    assert bench.counters.limits["streams"] == 1


async def test_no_more_requests_begin_per_second_than_the_limit_allows() -> None:
    bench = Bench(Config(limits=Limits(requests_per_second=20)))
    provider, caller = bench.provider(), bench.caller()
    caller.send(*(request(REQUEST_FNF, 1 + 2 * i) for i in range(25)))
    assert len(provider.received()) == 20
    assert bench.counters.dropped["rate_limited"] == 5
    bench.pass_time(1.1)
    caller.send(request(REQUEST_RESPONSE, 101))
    assert kinds(provider) == [REQUEST_RESPONSE]


async def test_opening_and_cancelling_faster_than_the_limit_ends_the_connection() -> None:
    bench = Bench(Config(limits=Limits(resets_per_second=10)))
    provider, caller = bench.provider(), bench.caller()
    for number in range(20):
        caller.send(request(REQUEST_STREAM, 1 + 2 * number, n=1), encode_cancel(1 + 2 * number))
    assert caller.link.open
    caller.send(request(REQUEST_STREAM, 101, n=1), encode_cancel(101))
    assert bench.counters.closes["rapid-reset"] == 1
    assert "10 requests per second" in decode_error(caller.received()[-1]).text
    assert bench.hub.streams_open() == 0
    assert provider.link.open


@pytest.mark.parametrize("by", ["caller", "provider"])
async def test_an_endless_message_ends_its_stream_at_the_limit(by: str) -> None:
    """C-99."""
    pair = Pair(REQUEST_CHANNEL, 5, Config(limits=Limits(payload_bytes=MIB)))
    pair.provider.send(encode_request_n(pair.there, 5))
    pair.caller.received()
    sender = getattr(pair, by)
    stream = 1 if by == "caller" else pair.there
    piece = encode_payload(stream, None, b"x" * 100_000, follows=True)
    for _ in range(11):
        sender.send(piece)
    assert pair.hub.streams_open() == 0
    texts = [decode_error(f).text for f in pair.caller.received() if peek(f)[1] == ERROR]
    assert "1048576 bytes" in texts[0]
    assert CANCEL in kinds(pair.provider)
    assert sender.link.open
    assert sender.link.unfinished == 0
    assert pair.hub.counters.limits["payload_bytes"] == 1


async def test_empty_fragments_count_as_what_they_cost_whoever_joins_them() -> None:
    pair = Pair(REQUEST_CHANNEL, 5, Config(limits=Limits(payload_bytes=MIB)))
    pair.provider.send(encode_request_n(pair.there, 5))
    piece = encode_payload(1, None, b"", follows=True)
    pair.caller.send(*[piece] * (MIB // SMALLEST_PIECE))
    assert pair.hub.streams_open() == 1
    pair.caller.send(piece)
    assert pair.hub.streams_open() == 0
    assert pair.hub.counters.limits["payload_bytes"] == 1


async def test_unfinished_messages_of_a_connection_are_bounded_together() -> None:
    """C-103."""
    bench = Bench(Config(limits=Limits(unfinished_bytes=MIB)))
    provider, caller = bench.provider(), bench.caller()
    for number in range(20):
        caller.send(request(REQUEST_RESPONSE, 1 + 2 * number, data=b"x" * 60_000, follows=True))
    assert caller.link.unfinished <= MIB
    assert len(provider.received()) == MIB // 60_000
    for number in range(20):
        caller.send(encode_payload(1 + 2 * number, None, b"y" * 10, follows=True))
    assert caller.link.unfinished <= MIB
    assert bench.hub.streams_open() < 20
    assert bench.counters.limits["unfinished_bytes"] > 0
    assert provider.link.open


async def test_the_first_item_and_the_deadline_keep_the_books_too() -> None:
    pair = Pair(REQUEST_STREAM, UNLIMITED, deadline_ms=5000)
    pair.provider.send(pair.item(b"x" * 1000))
    assert pair.credit() == 1 + WINDOW // 1006
    pair.provider.send(pair.item(b"", next=False, complete=True))
    assert kinds(pair.caller) == [PAYLOAD, PAYLOAD]
