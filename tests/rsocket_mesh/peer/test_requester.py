"""The requester against a responder that the test plays frame by frame."""

import asyncio
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsocket_mesh.errors import (
    ApplicationError,
    Canceled,
    ConnectionClosed,
    DeadlineExceeded,
    Invalid,
    NoRoute,
    Overloaded,
)
from rsocket_mesh.peer.requester import LOOKS_PER_SECOND, Requester
from rsocket_mesh.protocol import frames
from rsocket_mesh.protocol.fragments import ReassemblyBudget
from rsocket_mesh.protocol.frames import (
    CANCEL,
    ERROR,
    METADATA_PUSH,
    PAYLOAD,
    REQUEST_CHANNEL,
    REQUEST_FNF,
    REQUEST_N,
    REQUEST_RESPONSE,
    REQUEST_STREAM,
    peek,
)
from rsocket_mesh.protocol.payload import Payload
from rsocket_mesh.protocol.phases import Role
from tests.support.waiting import settled, until

CLOSED = ConnectionClosed("the wire was cut", "transport-lost")


class Played:
    """A requester, what it sent, and the answers that the test gives."""

    def __init__(self, role=Role.CLIENT, **options):
        self.sent = []
        self.requester = Requester(self.sent.append, role, **options)

    def answer(self, frame):
        stream_id, kind, flags = peek(frame)
        self.requester.receive_frame(stream_id, kind, flags, frame)

    def item(self, stream_id, data=b"x", **flags):
        self.answer(frames.encode_payload(stream_id, None, data, **flags))

    def kinds(self):
        return [peek(frame)[1] for frame in self.sent]

    async def sends(self, count):
        await until(lambda: len(self.sent) >= count, f"{count} frames, saw {self.kinds()}")
        return self.sent[count - 1]


@pytest.fixture
async def played():
    return Played()


async def items(*values):
    for value in values:
        yield Payload(value)


QUESTION = Payload(b"q")


def call(played, payload=QUESTION, **options):
    return asyncio.create_task(played.requester.request_response(payload, **options))


# -- request-response -----------------------------------------------------------------------------


async def test_an_answer_completes_its_call(played):
    """C-66."""
    task = call(played, Payload(b"q", b"m"))
    assert await played.sends(1) == frames.encode_request(REQUEST_RESPONSE, 1, b"m", b"q")
    played.answer(frames.encode_payload(1, b"n", b"a", complete=True))
    assert await task == Payload(b"a", b"n")
    assert played.requester.open_streams == 0


async def test_completion_without_an_item_is_an_empty_answer(played):
    """C-68."""
    task = call(played)
    await played.sends(1)
    played.item(1, b"", next=False, complete=True)
    assert await task == Payload(b"", None)


@pytest.mark.parametrize(("role", "ids"), [(Role.CLIENT, [1, 3, 5]), (Role.SERVER, [2, 4, 6])])
async def test_ids_rise_in_the_order_of_sending(role, ids):
    """C-57."""
    played = Played(role)
    tasks = [call(played) for _ in range(3)]
    await played.sends(3)
    assert [peek(frame)[0] for frame in played.sent] == ids
    played.requester.close(CLOSED)
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_an_error_becomes_the_class_of_its_token(played):
    task = call(played)
    await played.sends(1)
    played.answer(frames.encode_error(1, *NoRoute("nobody serves x").to_wire()))
    with pytest.raises(NoRoute, match="nobody serves x") as caught:
        await task
    assert caught.value.safe_to_retry


async def test_late_and_foreign_frames_are_ignored(played):
    """C-48, C-70, C-89, C-100: nothing is stored, nothing answered."""
    task = call(played)
    await played.sends(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    before = played.requester.budget.used
    played.item(1, complete=True)
    played.item(1, b"x" * 1000, follows=True)
    played.item(99, b"x" * 1000, follows=True)
    played.answer(frames.encode_error(99, 0x201, "x"))
    played.answer(frames.encode_request_n(99, 1))
    played.answer(frames.encode_cancel(99))
    assert played.requester.ignored == 6
    assert played.requester.budget.used == before == 0
    assert played.kinds() == [REQUEST_RESPONSE, CANCEL]


async def test_a_cancelled_call_sends_cancel_and_is_forgotten(played):
    task = call(played, timeout=10.0)
    await played.sends(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert played.sent[1:] == [frames.encode_cancel(1)]
    assert played.requester.open_streams == 0


async def test_a_cancelled_call_whose_answer_has_come_sends_nothing(played):
    """b05: the race between an answer and a timeout must not break anything."""
    task = call(played)
    await played.sends(1)
    played.item(1, complete=True)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert played.kinds() == [REQUEST_RESPONSE]


async def test_a_deadline_cancels_the_call_and_says_how_long_it_was(played):
    loop = asyncio.get_running_loop()
    begun = loop.time()
    with pytest.raises(DeadlineExceeded, match=r"0\.05 s") as caught:
        await played.requester.request_response(Payload(b"q"), timeout=0.05)
    assert isinstance(caught.value, TimeoutError)
    assert 0.05 <= loop.time() - begun < 1.0
    assert played.kinds() == [REQUEST_RESPONSE, CANCEL]
    assert played.requester.open_streams == 0


async def test_an_earlier_deadline_does_not_wait_for_a_later_one(played):
    long = call(played, timeout=30.0)
    await played.sends(1)
    with pytest.raises(DeadlineExceeded):
        await asyncio.wait_for(call(played, timeout=0.02), 5)
    assert not long.done()
    played.item(1, complete=True)
    await long


async def test_a_fragmented_answer_is_put_together(played):
    """C-93, C-95: with frames of another stream in between."""
    first, second = call(played), call(played)
    await played.sends(2)
    played.item(1, b"a", follows=True)
    played.item(3, b"A", follows=True)
    played.item(1, b"b", follows=True)
    played.item(3, b"B", complete=True)
    played.item(1, b"c", complete=True)
    assert (await first).data == b"abc"
    assert (await second).data == b"AB"


async def test_an_answer_over_the_limit_cancels_and_fails_the_call():
    """C-99."""
    played = Played(budget=ReassemblyBudget(message_limit=500))
    task = call(played)
    await played.sends(1)
    played.item(1, b"x" * 600, follows=True)
    with pytest.raises(Canceled, match="500 bytes"):
        await task
    assert played.kinds() == [REQUEST_RESPONSE, CANCEL]


async def test_a_large_request_leaves_in_fragments_and_small_ones_go_between():
    """C-91, C-95."""
    played = Played(fragment_size=1024)
    large = call(played, Payload(b"x" * 5_000_000))
    await settled()
    small = call(played)
    await until(lambda: 3 in [peek(frame)[0] for frame in played.sent])
    assert played.requester.outbox.busy
    await until(lambda: not played.requester.outbox.busy)
    of_1 = [peek(frame)[1] for frame in played.sent if peek(frame)[0] == 1]
    assert of_1[0] == REQUEST_RESPONSE
    assert set(of_1[1:]) == {PAYLOAD}
    for stream_id in (1, 3):
        played.item(stream_id, complete=True)
    await asyncio.gather(large, small)


async def test_an_early_error_stops_a_large_request():
    played = Played(fragment_size=1024)
    played.requester.set_writable(True)
    task = call(played, Payload(b"x" * 2_000_000))
    await played.sends(1)
    assert played.requester.outbox.busy
    played.answer(frames.encode_error(1, *NoRoute("no").to_wire()))
    with pytest.raises(NoRoute):
        await task
    count = len(played.sent)
    await settled()
    assert len(played.sent) == count
    assert played.requester.open_streams == 0


async def test_a_cancelled_large_request_is_abandoned_in_the_middle():
    played = Played(fragment_size=1024)
    task = call(played, Payload(b"x" * 2_000_000))
    await played.sends(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await settled()
    assert played.kinds()[-1] == CANCEL
    assert played.kinds().count(CANCEL) == 1


# -- the connection -------------------------------------------------------------------------------


async def test_all_that_waits_fails_at_once_when_the_connection_ends(played):
    """C-90, C-08 and b06."""
    calls = [call(played), call(played, timeout=100.0)]
    stream = played.requester.request_stream(Payload(b"q"))
    channel = played.requester.request_channel(Payload(b"q"), items(b"1"))
    waiting = [*calls, asyncio.create_task(anext(stream)), asyncio.create_task(anext(channel))]
    await played.sends(4)
    played.requester.close(CLOSED)
    results = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5)
    assert [type(result) for result in results] == [ConnectionClosed] * 4
    assert {result.reason for result in results} == {"transport-lost"}
    assert len({id(result) for result in results}) == 4
    assert played.requester.open_streams == 0
    assert len(played.sent) == 4


async def test_a_call_on_a_closed_connection_fails_at_once(played):
    """b06."""
    played.requester.close(CLOSED)
    assert not played.requester.accepting
    with pytest.raises(ConnectionClosed, match="cut"):
        await played.requester.request_response(Payload())
    with pytest.raises(ConnectionClosed):
        await played.requester.fire_and_forget(Payload())
    with pytest.raises(ConnectionClosed):
        played.requester.request_stream(Payload())
    with pytest.raises(ConnectionClosed):
        played.requester.metadata_push(b"")
    assert played.sent == []


async def test_a_draining_connection_lets_calls_finish_and_begins_none(played):
    """C-46."""
    task = call(played)
    await played.sends(1)
    played.requester.refuse_new(ConnectionClosed("closing", "peer-closing"))
    with pytest.raises(ConnectionClosed, match="closing"):
        await played.requester.request_response(Payload())
    played.item(1, b"a", complete=True)
    assert (await task).data == b"a"


async def test_requests_wait_while_the_peer_does_not_read(played):
    """b10: nothing piles up towards a peer that reads nothing."""
    played.requester.set_writable(False)
    waiting = [call(played), call(played)]
    forgotten = asyncio.create_task(played.requester.fire_and_forget(Payload(b"f")))
    await settled()
    assert played.sent == []
    with pytest.raises(DeadlineExceeded, match="did not read"):
        await played.requester.request_response(Payload(), timeout=0.02)
    with pytest.raises(Overloaded):
        played.requester.metadata_push(b"m")
    played.requester.set_writable(True)
    await played.sends(3)
    await forgotten
    assert sorted(played.kinds()) == [REQUEST_RESPONSE, REQUEST_RESPONSE, REQUEST_FNF]
    for stream_id in (1, 3):
        played.item(stream_id, complete=True)
    await asyncio.gather(*waiting)


async def test_requests_that_wait_for_the_transport_fail_when_it_ends(played):
    played.requester.set_writable(False)
    waiting = call(played)
    await settled()
    played.requester.close(CLOSED)
    with pytest.raises(ConnectionClosed):
        await asyncio.wait_for(waiting, 5)


# -- fire-and-forget and metadata push ------------------------------------------------------------


async def test_fire_and_forget_sends_one_frame_and_keeps_nothing(played):
    await played.requester.fire_and_forget(Payload(b"f", b"m"))
    assert played.sent == [frames.encode_request(REQUEST_FNF, 1, b"m", b"f")]
    assert played.requester.open_streams == 0


async def test_a_large_fire_and_forget_returns_when_it_has_left():
    played = Played(fragment_size=1024)
    await played.requester.fire_and_forget(Payload(b"f" * 1_000_000))
    assert sum(len(frame) - 6 for frame in played.sent) == 1_000_000


async def test_a_fire_and_forget_that_is_cancelled_is_never_processed():
    """C-98: CANCEL before the last fragment."""
    played = Played(fragment_size=1024)
    task = asyncio.create_task(played.requester.fire_and_forget(Payload(b"f" * 2_000_000)))
    await played.sends(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await settled()
    assert played.sent[-1] == frames.encode_cancel(1)
    assert played.requester.open_streams == 0


async def test_a_fire_and_forget_that_can_not_leave_in_time_says_so():
    played = Played(fragment_size=1024)
    task = asyncio.create_task(
        played.requester.fire_and_forget(Payload(b"f" * 5_000_000), timeout=0.05)
    )
    await played.sends(1)
    played.requester.set_writable(False)
    with pytest.raises(DeadlineExceeded, match="did not leave"):
        await task


async def test_a_metadata_push_is_one_frame_on_stream_0(played):
    played.requester.metadata_push(b"m")
    assert peek(played.sent[0])[:2] == (0, METADATA_PUSH)


# -- streams --------------------------------------------------------------------------------------


async def test_nothing_is_sent_for_a_stream_before_somebody_wants_it(played):
    """b21: results that nobody subscribes to must not stay registered."""
    stream = played.requester.request_stream(Payload(b"q"))
    await settled()
    assert played.sent == []
    await stream.aclose()
    assert [item async for item in stream] == []
    assert played.sent == []
    assert played.requester.open_streams == 0


async def test_items_come_in_order_until_complete(played):
    async with played.requester.request_stream(Payload(b"q"), prefetch=8) as stream:
        assert frames.decode_request(played.sent[0]).initial_n == 8
        for value in (b"a", b"", b"c"):
            played.item(1, value)
        played.item(1, b"d", complete=True)
        assert [item.data async for item in stream] == [b"a", b"", b"c", b"d"]
    assert played.kinds() == [REQUEST_STREAM]
    assert played.requester.open_streams == 0


async def test_credit_is_topped_up_in_halves_as_items_are_consumed(played):
    async with played.requester.request_stream(Payload(b"q"), prefetch=8) as stream:
        for _ in range(8):
            played.item(1)
        assert played.kinds() == [REQUEST_STREAM]
        for _ in range(3):
            await anext(stream)
        assert played.kinds() == [REQUEST_STREAM]
        await anext(stream)
        assert played.sent[1:] == [frames.encode_request_n(1, 4)]
    assert played.kinds()[-1] == CANCEL


@pytest.mark.parametrize("prefetch", [1, 2, 3, 7, 32])
async def test_never_more_is_outstanding_than_the_prefetch(played, prefetch):
    async with played.requester.request_stream(Payload(b"q"), prefetch=prefetch) as stream:
        granted, seen = prefetch, 1
        for consumed in range(1, 101):
            played.item(1)
            await anext(stream)
            granted += sum(frames.decode_request_n(frame) for frame in played.sent[seen:])
            seen = len(played.sent)
            assert 0 < granted - consumed <= prefetch


async def test_a_limit_is_all_that_is_ever_asked_for(played):
    stream = played.requester.request_stream(Payload(b"q"), prefetch=4, limit=10)
    assert len([item async for item in consume(played, stream, 1)]) == 10
    asked = frames.decode_request(played.sent[0]).initial_n
    asked += sum(frames.decode_request_n(f) for f in played.sent[1:] if peek(f)[1] == REQUEST_N)
    assert asked == 10
    assert played.kinds()[-1] == CANCEL


async def test_a_limit_that_the_producer_meets_exactly_needs_no_cancel(played):
    stream = played.requester.request_stream(Payload(b"q"), limit=2)
    async with stream:
        assert frames.decode_request(played.sent[0]).initial_n == 2
        played.item(1)
        played.item(1, complete=True)
        assert len([item async for item in stream]) == 2
    assert played.kinds() == [REQUEST_STREAM]


async def consume(played, stream, stream_id):
    """Iterate, with a producer that always uses up its credit at once."""
    async with stream:
        credit = frames.decode_request(played.sent[0]).initial_n
        seen = 1
        while True:
            for _ in range(credit):
                if played.requester.open_streams:
                    played.item(stream_id)
            try:
                yield await anext(stream)
            except StopAsyncIteration:
                return
            credit = sum(
                frames.decode_request_n(f) for f in played.sent[seen:] if peek(f)[1] == REQUEST_N
            )
            seen = len(played.sent)


async def test_a_producer_beyond_its_credit_is_cancelled(played):
    """C-78 and b21."""
    async with played.requester.request_stream(Payload(b"q"), prefetch=2) as stream:
        for _ in range(1000):
            played.item(1)
        for _ in range(3):  # two, and the one that is tolerated
            await anext(stream)
        with pytest.raises(Invalid, match="beyond the credit"):
            await anext(stream)
    assert played.kinds() == [REQUEST_STREAM, CANCEL]


async def test_the_credit_of_a_lost_item_is_granted_again(played):
    """b25."""
    async with played.requester.request_stream(Payload(b"q"), prefetch=1) as stream:
        played.answer(frames.HEADER.pack(1, PAYLOAD << 10) + b"lost")
        assert played.sent[1:] == [frames.encode_request_n(1, 1)]
        played.item(1, b"kept")
        assert (await anext(stream)).data == b"kept"


async def test_leaving_the_block_sends_cancel(played):
    async with played.requester.request_stream(Payload(b"q")) as stream:
        played.item(1)
        await anext(stream)
    assert played.kinds() == [REQUEST_STREAM, CANCEL]
    await stream.aclose()
    assert played.kinds() == [REQUEST_STREAM, CANCEL]
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_a_stream_that_nobody_holds_any_more_is_cancelled(played):
    stream = played.requester.request_stream(Payload(b"q"))
    task = asyncio.create_task(anext(stream))
    await played.sends(1)
    played.item(1)
    await task
    del stream, task
    await until(lambda: played.kinds() == [REQUEST_STREAM, CANCEL])


async def test_a_failed_stream_delivers_its_items_first(played):
    async with played.requester.request_stream(Payload(b"q")) as stream:
        played.item(1, b"a")
        played.answer(frames.encode_error(1, 0x201, "APPLICATION: broke"))
        assert (await anext(stream)).data == b"a"
        with pytest.raises(ApplicationError, match="broke"):
            await anext(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
    assert played.kinds() == [REQUEST_STREAM]


async def test_an_item_is_not_lost_when_the_wait_for_it_is_cancelled(played):
    async with played.requester.request_stream(Payload(b"q")) as stream:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await anext(stream)
        played.item(1, b"a")
        assert (await anext(stream)).data == b"a"


async def test_two_tasks_can_not_share_the_wait_for_an_item(played):
    async with played.requester.request_stream(Payload(b"q")) as stream:
        first = asyncio.create_task(anext(stream))
        await settled()
        with pytest.raises(RuntimeError, match="another task"):
            await anext(stream)
        played.item(1)
        await first


async def test_the_timeout_of_a_stream_is_for_its_first_item(played):
    stream = played.requester.request_stream(Payload(b"q"), timeout=0.02)
    with pytest.raises(DeadlineExceeded, match=r"0\.02 s"):
        await anext(stream)
    assert played.kinds() == [REQUEST_STREAM, CANCEL]
    async with played.requester.request_stream(Payload(b"q"), timeout=0.05) as stream:
        played.item(3)
        await anext(stream)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.15):
                await anext(stream)
        played.item(3)
        await anext(stream)


async def test_a_stream_that_waits_for_the_transport_can_be_closed(played):
    played.requester.set_writable(False)
    stream = played.requester.request_stream(Payload(b"q"))
    waiting = asyncio.create_task(anext(stream))
    await settled()
    await stream.aclose()
    played.requester.set_writable(True)
    with pytest.raises(Canceled):
        await waiting
    assert played.sent == []


@pytest.mark.parametrize("options", [{"prefetch": 0}, {"prefetch": 1 << 31}, {"limit": 0}])
async def test_impossible_credit_is_refused_at_once(played, options):
    with pytest.raises(ValueError, match="must be"):
        played.requester.request_stream(Payload(), **options)


# -- channels -------------------------------------------------------------------------------------


async def test_our_items_wait_for_the_responders_request_n(played):
    """C-79: the first goes with the request, the others with credit."""
    async with played.requester.request_channel(Payload(b"0"), items(b"1", b"2", b"3")):
        await settled()
        assert played.kinds() == [REQUEST_CHANNEL]
        played.answer(frames.encode_request_n(1, 2))
        await settled()
        assert [frame[6:] for frame in played.sent[1:]] == [b"1", b"2"]
        played.answer(frames.encode_request_n(1, 2))
        await settled()
        assert played.sent[-1] == frames.encode_payload(1, None, b"", next=False, complete=True)


async def test_a_source_is_asked_for_no_item_without_credit(played):
    asked = []

    async def source():
        for value in range(100):
            asked.append(value)
            yield Payload(b"%d" % value)

    async with played.requester.request_channel(Payload(b"q"), source()):
        await settled()
        assert asked == []
        played.answer(frames.encode_request_n(1, 3))
        await settled()
        assert asked == [0, 1, 2]


async def test_a_channel_goes_on_when_either_half_completes_first(played):
    """C-81."""
    async with played.requester.request_channel(Payload(b"q"), items(b"1")) as channel:
        played.answer(frames.encode_request_n(1, 10))
        await settled()
        assert peek(played.sent[-1])[2] & frames.FLAG_COMPLETE
        played.item(1, b"a")
        played.item(1, b"b", complete=True)
        assert [item.data async for item in channel] == [b"a", b"b"]
    assert played.requester.open_streams == 0
    channel = played.requester.request_channel(Payload(b"q"), items(b"1", b"2"))
    async with channel:
        played.item(3, b"", next=False, complete=True)
        assert [item async for item in channel] == []
        before = len(played.sent)
        played.answer(frames.encode_request_n(3, 10))
        await settled()
        assert len(played.sent) - before == 3
    assert played.kinds().count(CANCEL) == 0
    assert played.requester.open_streams == 0


async def test_cancel_by_the_responder_closes_our_source_and_receiving_goes_on(played):
    """C-85."""
    closed = []

    async def source():
        try:
            while True:
                yield Payload(b"x")
        finally:
            closed.append(True)

    async with played.requester.request_channel(Payload(b"q"), source()) as channel:
        played.answer(frames.encode_request_n(1, 2))
        await settled()
        played.answer(frames.encode_cancel(1))
        await until(lambda: closed)
        count = len(played.sent)
        played.answer(frames.encode_request_n(1, 5))
        await settled()
        assert len(played.sent) == count
        played.item(1, b"still", complete=True)
        assert [item.data async for item in channel] == [b"still"]


async def test_a_source_that_fails_ends_both_halves(played):
    """C-83: ERROR from the requester."""

    async def source():
        yield Payload(b"1")
        raise LookupError("no more paper")

    async with played.requester.request_channel(Payload(b"q"), source()) as channel:
        played.answer(frames.encode_request_n(1, 5))
        with pytest.raises(LookupError, match="paper"):
            await anext(channel)
    error = frames.decode_error(played.sent[-1])
    assert (error.code, error.text) == (0x201, "APPLICATION: LookupError: no more paper")
    assert played.requester.open_streams == 0


async def test_closing_a_channel_ends_both_halves_and_its_source(played):
    """C-84, row 23."""
    closed = []

    async def source():
        try:
            while True:
                yield Payload(b"x")
        finally:
            closed.append(True)

    async with played.requester.request_channel(Payload(b"q"), source()):
        played.answer(frames.encode_request_n(1, 1))
        await settled()
    assert played.kinds()[-2:] == [CANCEL, ERROR]
    await until(lambda: closed)


async def test_an_error_of_the_responder_stops_our_source(played):
    """C-83 and b18: both halves, also when the responder had completed."""
    async with played.requester.request_channel(Payload(b"q"), items(b"1", b"2")) as channel:
        played.item(1, b"", next=False, complete=True)
        played.answer(frames.encode_error(1, 0x201, "x"))
        played.answer(frames.encode_request_n(1, 5))
        await settled()
        assert played.kinds() == [REQUEST_CHANNEL]
        assert [item async for item in channel] == []
    assert played.requester.open_streams == 0


async def test_large_items_of_a_channel_keep_their_order():
    """b09: the rest of an item is never overtaken by the next one."""
    played = Played(fragment_size=1024)
    sizes = [50_000, 10, 50_000, 10]
    source = items(*(b"%d" % index * size for index, size in enumerate(sizes)))
    async with played.requester.request_channel(Payload(b"q"), source):
        played.answer(frames.encode_request_n(1, 100))
        await until(lambda: peek(played.sent[-1])[2] & frames.FLAG_COMPLETE)
    whole, piece = [], b""
    for frame in played.sent[1:]:
        _, kind, flags = peek(frame)
        if kind != PAYLOAD or not flags & frames.FLAG_NEXT:
            continue
        piece += frame[6:]
        if not flags & frames.FLAG_FOLLOWS:
            whole.append(piece)
            piece = b""
    assert whole == [b"%d" % index * size for index, size in enumerate(sizes)]


async def test_something_that_is_no_source_fails_the_channel(played):
    async def not_a_source():
        return Payload()

    channel = played.requester.request_channel(Payload(b"q"), not_a_source())
    with pytest.raises(TypeError, match="coroutine"):
        await anext(channel)


# -- deadlines ------------------------------------------------------------------------------------


class ManualLoop:
    """What a requester wants of its loop, with a clock that the test moves."""

    def __init__(self):
        self.now = 0.0
        self.timers = []
        self.wakes = 0
        self.create_future = asyncio.get_running_loop().create_future

    def time(self):
        return self.now

    def call_at(self, when, callback):
        timer = SimpleNamespace(when=when, callback=callback, cancel=lambda: None)
        timer.cancel = lambda: self.timers.remove(timer)
        self.timers.append(timer)
        return timer

    def advance(self, now):
        while due := [timer for timer in self.timers if timer.when <= now]:
            (timer,) = due  # one for all deadlines
            self.timers.remove(timer)
            self.now = timer.when
            self.wakes += 1
            timer.callback()
        self.now = now


@given(
    st.lists(st.tuples(st.floats(0, 9), st.floats(0.001, 9), st.booleans()), max_size=30),
)
async def test_no_deadline_is_early_and_none_later_than_one_look(calls):
    played = Played()
    loop = played.requester.loop = ManualLoop()
    waiting = {}
    for at, timeout, answered in sorted(calls):
        loop.advance(at)
        call = played.requester.begin_call(b"\0\0\0", timeout)
        waiting[call] = at + timeout
        if answered:
            played.item(call.stream_id, complete=True)
            assert call.answer.result() == b"x"
            del waiting[call]
        for other, due in list(waiting.items()):
            assert other.answer.done() or due > at - 1 / LOOKS_PER_SECOND - 1e-9
    for call, due in sorted(waiting.items(), key=lambda pair: pair[1]):
        if not call.answer.done():
            loop.advance(due - 1e-9)
            assert not call.answer.done()
            loop.advance(due + 1 / LOOKS_PER_SECOND + 1e-9)
        assert isinstance(call.answer.exception(), DeadlineExceeded)
    assert played.requester.open_streams == 0
    loop.advance(100.0)
    assert loop.timers == []
    assert loop.wakes <= 2 * len(calls)


async def test_thousands_of_answered_calls_wake_the_loop_once(played):
    loop = played.requester.loop = ManualLoop()
    for number in range(5000):
        loop.advance(number / 1000)
        call = played.requester.begin_call(b"\0\0\0", 10.0)
        played.item(call.stream_id, complete=True)
    loop.advance(100.0)
    assert loop.wakes == 1
    assert loop.timers == []


async def test_a_call_that_cannot_leave_at_once_is_not_begun(played):
    large = b"\0\0\0" + bytes(played.requester.outbox.small)
    assert played.requester.begin_call(large, 1.0) is None
    played.requester.set_writable(False)
    assert played.requester.begin_call(b"\0\0\0", 1.0) is None
    played.requester.set_writable(True)
    await settled()
    call = played.requester.begin_call(b"\0\0\x01mdata", 1.0)
    assert frames.decode_request(played.sent[-1])[2:4] == (b"m", b"data")
    call.cancel()
    call.cancel()
    assert played.kinds() == [REQUEST_RESPONSE, CANCEL]
    played.requester.close(CLOSED)
    assert played.requester.begin_call(b"\0\0\0", 1.0) is None


async def test_an_answer_in_one_frame_behind_an_unfinished_one_is_its_last_piece(played):
    task = call(played)
    await played.sends(1)
    played.answer(frames.encode_payload(1, None, b"one ", follows=True))
    played.item(1, b"two", complete=True)
    assert await task == Payload(b"one two")
    assert played.requester.budget.used == 0


async def test_an_answer_to_the_beginning_of_a_request_drops_the_rest_of_it(played):
    task = call(played, Payload(b"q" * 5_000_000))
    await played.sends(1)
    played.item(1, b"enough", complete=True)
    assert await task == Payload(b"enough")
    assert not played.requester.outbox.busy
