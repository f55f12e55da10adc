"""The responder against a requester that the test plays frame by frame."""

import asyncio
import gc

import pytest

from rsocket_mesh.errors import Canceled, ConnectionClosed, Draining, Invalid, NoRoute
from rsocket_mesh.peer.handler import NoHandler
from rsocket_mesh.peer.responder import Responder
from rsocket_mesh.protocol import frames
from rsocket_mesh.protocol.fragments import ReassemblyBudget, request_frames
from rsocket_mesh.protocol.frames import (
    CANCEL,
    ERROR,
    FLAG_COMPLETE,
    FLAG_NEXT,
    MAX_REQUEST_N,
    PAYLOAD,
    REQUEST_CHANNEL,
    REQUEST_FNF,
    REQUEST_N,
    REQUEST_RESPONSE,
    REQUEST_STREAM,
    peek,
)
from rsocket_mesh.protocol.payload import Payload
from tests.support.waiting import settled, until

CLOSED = ConnectionClosed("the wire was cut", "transport-lost")


class Handler:
    """Answers as its attributes say; remembers what reached it."""

    def __init__(self):
        self.seen = []
        self.ended = []
        self.release = asyncio.Event()

    async def request_response(self, payload):
        self.seen.append(payload)
        if payload.data == b"wait":
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.ended.append("cancelled")
                raise
        if payload.data == b"raise":
            raise LookupError("no such thing")
        if payload.data == b"refuse":
            raise NoRoute("not here")
        if payload.data == b"bytes":
            return b"not a payload"
        if payload.data == b"cancel":
            raise asyncio.CancelledError
        return payload

    async def fire_and_forget(self, payload):
        self.seen.append(payload)
        if payload.data == b"raise":
            raise LookupError("nobody hears")
        if payload.data == b"wait":
            await self.release.wait()

    async def request_stream(self, payload):
        """b"3": three items; b"3!": then an error."""
        self.seen.append(payload)
        try:
            for index in range(int(payload.data.rstrip(b"!"))):
                self.ended.append(index)
                yield Payload(b"%d" % index)
            if payload.data.endswith(b"!"):
                raise LookupError("no more")
        finally:
            self.ended.append("closed")

    async def request_channel(self, payload, incoming):
        """Echo."""
        self.seen.append(payload)
        yield payload
        async for item in incoming:
            self.seen.append(item)
            yield item

    def metadata_pushed(self, metadata):
        self.seen.append(metadata)


class Played:
    """A responder, what it sent, and the requests that the test makes."""

    def __init__(self, handler=None, **options):
        self.sent = []
        self.handler = handler or Handler()
        self.responder = Responder(self.sent.append, self.handler, **options)

    def receive(self, frame):
        stream_id, kind, flags = peek(frame)
        self.responder.receive_frame(stream_id, kind, flags, frame)

    def request(self, kind, stream_id, data=b"q", n=None, **flags):
        if kind in (REQUEST_STREAM, REQUEST_CHANNEL):
            n = n or 10
        self.receive(frames.encode_request(kind, stream_id, None, data, n, **flags))

    def item(self, stream_id, data=b"x", **flags):
        self.receive(frames.encode_payload(stream_id, None, data, **flags))

    def credit(self, stream_id, n):
        self.receive(frames.encode_request_n(stream_id, n))

    def cancel(self, stream_id):
        self.receive(frames.encode_cancel(stream_id))

    def items(self, stream_id=1):
        found = [frames.decode_payload(f) for f in self.sent if peek(f)[:2] == (stream_id, PAYLOAD)]
        return [frame.data for frame in found if frame.next]

    def completed(self, stream_id=1):
        return any(
            peek(f)[:2] == (stream_id, PAYLOAD) and peek(f)[2] & FLAG_COMPLETE for f in self.sent
        )

    def error(self, stream_id=1):
        errors = [frames.decode_error(f) for f in self.sent if peek(f)[:2] == (stream_id, ERROR)]
        return (errors[0].code, errors[0].text) if errors else None

    def kinds(self):
        return [peek(frame)[1] for frame in self.sent]


@pytest.fixture
async def played():
    played = Played()
    yield played
    played.responder.close(CLOSED)
    await settled()


# -- request-response -----------------------------------------------------------------------------


async def test_a_request_is_answered_with_next_and_complete(played):
    """C-66."""
    played.receive(frames.encode_request(REQUEST_RESPONSE, 1, b"m", b"q"))
    await until(lambda: played.sent)
    assert played.sent == [frames.encode_payload(1, b"m", b"q", complete=True)]
    assert played.responder.open_streams == 0


async def test_a_slow_handler_does_not_delay_the_others(played):
    """b03: handlers run beside the receive loop, not in it."""
    for stream_id in (1, 3, 5):
        played.request(REQUEST_RESPONSE, stream_id, b"wait")
    played.request(REQUEST_RESPONSE, 7, b"q")
    await until(lambda: played.items(7))
    assert played.responder.open_streams == 3
    played.handler.release.set()
    await until(lambda: len(played.sent) == 4)


async def test_cancel_reaches_the_handler_and_nothing_is_sent_any_more(played):
    """C-69, b03."""
    played.request(REQUEST_RESPONSE, 1, b"wait")
    await until(lambda: played.handler.seen)
    assert played.responder.owns(1)
    played.cancel(1)
    assert not played.responder.owns(1)
    await until(lambda: played.handler.ended == ["cancelled"])
    await until(lambda: played.responder.open_streams == 0)
    assert played.sent == []


@pytest.mark.parametrize("kind", [REQUEST_RESPONSE, REQUEST_STREAM, REQUEST_CHANNEL])
async def test_cancel_in_the_same_batch_as_its_request_leaves_nothing_behind(played, kind):
    """b11."""
    for stream_id in range(1, 201, 2):
        played.request(kind, stream_id, b"5")
        played.cancel(stream_id)
    await until(lambda: played.responder.open_streams == 0)
    assert played.kinds().count(ERROR) == 0


async def test_a_request_that_is_canceled_before_its_turn_never_reaches_the_handler(played):
    played.request(REQUEST_RESPONSE, 1, b"wait")  # the task of all is its own from here on
    for stream_id in (3, 5, 7):
        played.request(REQUEST_RESPONSE, stream_id, b"%d" % stream_id)
    played.cancel(3)
    played.request(REQUEST_RESPONSE, 3, b"anew")
    played.cancel(5)
    await settled()
    assert [payload.data for payload in played.handler.seen] == [b"wait", b"7", b"anew"]
    assert [peek(frame)[0] for frame in played.sent] == [7, 3]
    assert played.responder.open_streams == 1


async def test_a_handler_that_raises_is_an_application_error(played, caplog):
    played.request(REQUEST_RESPONSE, 1, b"raise")
    await until(lambda: played.sent)
    assert played.error() == (0x201, "APPLICATION: LookupError: no such thing")
    assert "no such thing" in caplog.text


async def test_an_error_of_ours_goes_as_it_is(played):
    played.request(REQUEST_RESPONSE, 1, b"refuse")
    await until(lambda: played.sent)
    assert played.error() == (0x202, "NO_ROUTE: not here")


async def test_an_answer_that_is_no_payload_is_an_error_not_silence(played):
    """b15."""
    played.request(REQUEST_RESPONSE, 1, b"bytes")
    await until(lambda: played.sent)
    assert "must be a Payload, not bytes" in played.error()[1]
    assert played.responder.open_streams == 0


async def test_a_handler_that_cancels_itself_is_answered_too(played):
    played.request(REQUEST_RESPONSE, 1, b"cancel")
    await until(lambda: played.sent)
    assert played.error()[0] == Canceled.code


async def test_request_n_for_a_request_response_is_ignored(played):
    """C-77."""
    played.request(REQUEST_RESPONSE, 1, b"wait")
    played.credit(1, 5)
    played.credit(99, 5)
    played.handler.release.set()
    await until(lambda: played.sent)
    assert played.items() == [b"wait"]


async def test_without_a_handler_every_request_is_refused():
    """The caller may try elsewhere: it is certain that nothing was processed."""
    played = Played(NoHandler())
    played.request(REQUEST_RESPONSE, 1)
    played.request(REQUEST_STREAM, 3)
    played.request(REQUEST_CHANNEL, 5)
    played.request(REQUEST_FNF, 7)
    await until(lambda: len(played.sent) == 3)
    await settled()
    assert {played.error(stream_id)[0] for stream_id in (1, 3, 5)} == {0x202}
    assert played.responder.open_streams == 0


# -- fire-and-forget ------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"q", b"raise"])
async def test_fire_and_forget_never_causes_a_frame(played, data, caplog):
    """C-71, b21."""
    played.request(REQUEST_FNF, 1, data)
    await until(lambda: played.handler.seen)
    await settled()
    assert played.sent == []
    assert ("nobody hears" in caplog.text) == (data == b"raise")


async def test_loss_of_the_connection_cancels_fire_and_forget_too(played):
    played.request(REQUEST_FNF, 1, b"wait")
    await until(lambda: played.handler.seen)
    assert played.responder.open_streams == 1
    played.responder.close(CLOSED)
    await until(lambda: played.responder.open_streams == 0)


# -- ids ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [4, 5, 6, 7])
async def test_a_request_on_an_open_id_is_ignored(played, kind):
    """C-59."""
    played.request(REQUEST_RESPONSE, 1, b"wait")
    played.request(kind, 1, b"other")
    await settled()
    played.handler.release.set()
    await until(lambda: played.sent)
    assert [payload.data for payload in played.handler.seen] == [b"wait"]
    assert played.items() == [b"wait"]


async def test_an_id_may_be_used_again_after_its_stream(played):
    """C-63: after an end, and at once after a cancel, however long the handler takes."""
    played.request(REQUEST_RESPONSE, 1, b"a")
    await until(lambda: played.items() == [b"a"])
    played.request(REQUEST_RESPONSE, 1, b"wait")
    played.cancel(1)
    played.request(REQUEST_RESPONSE, 1, b"b")
    await until(lambda: played.items() == [b"a", b"b"])


async def test_frames_of_unknown_streams_change_nothing(played):
    """C-48, C-89, C-100."""
    played.item(1, b"x" * 1000)
    played.item(1, b"x" * 1000, follows=True)
    played.cancel(1)
    played.credit(1, 1)
    played.receive(frames.encode_error(1, 0x201, "x"))
    assert played.sent == []
    assert played.responder.open_streams == 0
    assert played.responder.budget.used == 0
    assert played.responder.ignored == 5


async def test_requests_beyond_the_limit_are_refused():
    played = Played(max_streams=2)
    for stream_id in (1, 3, 5):
        played.request(REQUEST_RESPONSE, stream_id, b"wait")
    played.request(REQUEST_FNF, 7, b"q")
    assert played.error(5)[0] == 0x202
    assert "OVERLOADED: 2 requests" in played.error(5)[1]
    assert played.responder.refused == 2
    assert played.error(7) is None
    played.responder.close(CLOSED)
    await settled()


async def test_cancelled_handlers_that_do_not_end_count_too():
    """Else request and cancel in turns would run without bound."""

    class Stubborn(Handler):
        async def request_response(self, payload):
            while not self.release.is_set():
                try:
                    await self.release.wait()
                except asyncio.CancelledError:
                    continue
            return payload

    played = Played(Stubborn(), max_streams=2)
    for stream_id in (1, 3):
        played.request(REQUEST_RESPONSE, stream_id)
        await settled()
        played.cancel(stream_id)
    played.request(REQUEST_RESPONSE, 5)
    assert played.error(5)[0] == 0x202
    played.handler.release.set()
    await until(lambda: played.responder.open_streams == 0)
    assert played.items(1) == []


async def test_a_draining_responder_refuses_what_is_new():
    """C-46."""
    played = Played()
    played.request(REQUEST_RESPONSE, 1, b"wait")
    played.responder.refuse_new(Draining("going away"))
    played.request(REQUEST_RESPONSE, 3)
    assert played.error(3) == (0x202, "DRAINING: going away")
    played.handler.release.set()
    await until(lambda: played.items(1))


# -- streams --------------------------------------------------------------------------------------


async def test_never_more_items_are_sent_than_were_asked_for(played):
    """C-72, C-74."""
    played.request(REQUEST_STREAM, 1, b"100", n=3)
    await settled()
    assert played.items() == [b"0", b"1", b"2"]
    played.credit(1, 2)
    played.credit(1, 1)
    await settled()
    assert played.items() == [b"%d" % index for index in range(6)]
    assert not played.completed()


async def test_the_source_is_not_asked_for_what_nobody_asked_for(played):
    """b16: two asked, a hundred thousand pulled."""
    played.request(REQUEST_STREAM, 1, b"100000", n=2)
    await settled()
    assert played.handler.ended == [0, 1]


async def test_completion_uses_no_credit(played):
    """C-73: the end is sent as soon as the source says so, with credit left or none."""
    played.request(REQUEST_STREAM, 1, b"3", n=4)
    await until(played.completed)
    assert played.items() == [b"0", b"1", b"2"]
    assert played.responder.open_streams == 0
    last = played.sent[-1]
    assert peek(last)[2] & (FLAG_NEXT | FLAG_COMPLETE) == FLAG_COMPLETE


async def test_an_error_uses_no_credit(played):
    """C-73."""
    played.request(REQUEST_STREAM, 1, b"1!", n=2)
    await until(played.error)
    assert played.error() == (0x201, "APPLICATION: LookupError: no more")
    assert played.responder.open_streams == 0


async def test_an_empty_stream_completes(played):
    played.request(REQUEST_STREAM, 1, b"0", n=1)
    await until(played.completed)
    assert played.items() == []


async def test_cancel_closes_the_source(played):
    """C-69, b16."""
    played.request(REQUEST_STREAM, 1, b"100", n=1)
    await settled()
    played.cancel(1)
    await until(lambda: "closed" in played.handler.ended)
    await until(lambda: played.responder.open_streams == 0)
    assert played.kinds() == [PAYLOAD]


@pytest.mark.parametrize("kind", [REQUEST_STREAM, REQUEST_CHANNEL])
@pytest.mark.parametrize("n", [0, 1 << 31, 0xFFFF_FFFF])
async def test_an_invalid_initial_n_does_not_reach_the_handler(played, kind, n):
    """C-75."""
    frame = frames.HEADER.pack(1, kind << 10) + n.to_bytes(4, "big") + b"5"
    played.receive(frame)
    await settled()
    assert played.error()[0] == Invalid.code
    assert played.handler.seen == []
    assert played.responder.open_streams == 0


async def test_an_invalid_request_n_ends_the_stream(played):
    """C-76."""
    played.request(REQUEST_STREAM, 1, b"100", n=1)
    await settled()
    played.receive(frames.HEADER.pack(1, REQUEST_N << 10) + bytes(4))
    assert played.error()[0] == Invalid.code
    await until(lambda: "closed" in played.handler.ended)


async def test_unlimited_credit_does_not_flood_a_transport_that_is_full(played):
    """b10: 842 MiB in 6 s; here a share of one turn."""
    played.request(REQUEST_STREAM, 1, b"100000000", n=MAX_REQUEST_N)
    await until(lambda: played.sent)
    played.responder.set_writable(False)
    await settled()
    count = len(played.sent)
    assert count < 2000
    await settled()
    assert len(played.sent) == count
    assert len(played.handler.ended) <= count + 1
    played.responder.set_writable(True)
    await until(lambda: len(played.sent) > count)
    played.cancel(1)


async def test_a_source_that_never_pauses_leaves_the_loop_to_others(played):
    played.request(REQUEST_STREAM, 1, b"100000000", n=MAX_REQUEST_N)
    await settled()
    played.request(REQUEST_RESPONSE, 3, b"q")
    await until(lambda: played.items(3))
    played.cancel(1)


async def test_answers_wait_while_the_peer_does_not_read(played):
    """b23: 353 000 replies queued for a peer that reads nothing."""
    played.responder.set_writable(False)
    for stream_id in range(1, 201, 2):
        played.request(REQUEST_RESPONSE, stream_id, b"x" * 100)
    await settled()
    assert played.sent == []
    assert played.responder.open_streams == 100
    played.responder.set_writable(True)
    await until(lambda: len(played.sent) == 100)
    await until(lambda: played.responder.open_streams == 0)


async def test_a_handler_that_returns_no_iterator_is_an_error(played):
    class Wrong(Handler):
        async def request_stream(self, payload):
            return payload

    played.responder._handler = Wrong()
    played.request(REQUEST_STREAM, 1)
    await until(played.error)
    assert "async iterator" in played.error()[1]


async def test_an_item_that_is_no_payload_is_an_error(played):
    class Wrong(Handler):
        async def request_stream(self, payload):
            yield b"bytes"

    played.responder._handler = Wrong()
    played.request(REQUEST_STREAM, 1)
    await until(played.error)
    assert "must be a Payload, not bytes" in played.error()[1]


# -- channels -------------------------------------------------------------------------------------


async def test_a_channel_grants_credit_when_its_handler_asks(played):
    """C-80: and not before."""
    played.request(REQUEST_CHANNEL, 1, b"first", n=1)
    await settled()
    assert played.items() == [b"first"]
    assert played.kinds() == [PAYLOAD]  # the handler can't ask yet: it has no credit to go on
    played.credit(1, 10)
    await settled()
    assert played.kinds() == [PAYLOAD, REQUEST_N]
    played.item(1, b"second")
    await until(lambda: played.items() == [b"first", b"second"])


async def test_a_channel_that_begins_complete_delivers_its_item_and_ends_incoming(played):
    """C-82."""
    played.request(REQUEST_CHANNEL, 1, b"only", complete=True)
    await until(played.completed)
    assert played.items() == [b"only"]
    assert played.responder.open_streams == 0
    assert REQUEST_N not in played.kinds()


async def test_incoming_ends_when_the_requester_completes(played):
    """C-81: the requester first."""
    played.request(REQUEST_CHANNEL, 1, b"a")
    await settled()
    played.item(1, b"b")
    played.item(1, b"c", complete=True)
    await until(played.completed)
    assert played.items() == [b"a", b"b", b"c"]
    assert played.responder.open_streams == 0


async def test_a_handler_may_complete_its_half_and_go_on_reading():
    """C-81: the responder first; what holds *incoming* keeps the half open."""

    class Sink(Handler):
        def request_channel(self, payload, incoming):
            async def read():
                async for item in incoming:
                    self.seen.append(item.data)
                self.ended.append("read")

            self.task = asyncio.create_task(read())

            async def nothing():
                return
                yield

            return nothing()

    played = Played(Sink())
    played.request(REQUEST_CHANNEL, 1)
    await until(played.completed)
    gc.collect()
    await settled()
    assert CANCEL not in played.kinds()
    assert played.responder.open_streams == 1
    for _ in range(100):
        played.item(1)
        await settled()
    played.item(1, b"", next=False, complete=True)
    await until(lambda: played.handler.ended == ["read"])
    assert len(played.handler.seen) == 100
    assert played.responder.open_streams == 0


async def test_a_half_that_nobody_reads_any_more_is_cancelled():
    """C-85, the sending side: else it would stay open for ever."""

    class OneAnswer(Handler):
        async def request_channel(self, payload, incoming):
            yield payload

    played = Played(OneAnswer())
    played.request(REQUEST_CHANNEL, 1)
    await until(lambda: CANCEL in played.kinds())
    assert played.completed()
    assert played.responder.open_streams == 0


async def test_cancel_ends_both_halves_and_incoming_raises(played):
    """C-84."""
    errors = []

    class Reader(Handler):
        async def request_channel(self, payload, incoming):
            try:
                async for item in incoming:
                    yield item
            except BaseException as exc:
                errors.append(type(exc))
                raise

    played.responder._handler = Reader()
    played.request(REQUEST_CHANNEL, 1)
    await settled()
    played.cancel(1)
    played.receive(frames.encode_error(1, 0x203, "canceled by the requester"))
    await until(lambda: errors)
    await until(lambda: played.responder.open_streams == 0)
    assert errors[0] in (asyncio.CancelledError, Canceled)
    assert played.kinds() == [REQUEST_N]


async def test_an_error_of_the_requester_ends_both_halves(played):
    """C-83, b18: also when the handler had completed its half."""
    played.request(REQUEST_CHANNEL, 1)
    await settled()
    played.receive(frames.encode_error(1, 0x201, "x"))
    await until(lambda: played.responder.open_streams == 0)
    assert not played.completed()


async def test_an_error_of_the_handler_ends_both_halves():
    """C-83."""

    class Failing(Handler):
        async def request_channel(self, payload, incoming):
            yield payload
            await anext(incoming)
            raise LookupError("broke")

    played = Played(Failing())
    played.request(REQUEST_CHANNEL, 1)
    await settled()
    played.item(1)
    await until(played.error)
    played.item(1)
    await settled()
    assert played.responder.open_streams == 0
    assert played.kinds().count(ERROR) == 1


async def test_a_requester_that_overruns_its_credit_is_stopped():
    """Row 27, C-78: one item is tolerated."""

    class Deaf(Handler):
        async def request_channel(self, payload, incoming):
            await self.release.wait()
            async for item in incoming:
                yield item

    played = Played(Deaf())
    played.request(REQUEST_CHANNEL, 1)
    await settled()
    played.item(1)
    assert played.error() is None
    played.item(1)
    assert played.error()[0] == Invalid.code
    await until(lambda: played.responder.open_streams == 0)


async def test_payload_behind_the_requesters_complete_does_not_reach_the_handler(played):
    """C-86."""
    played.request(REQUEST_CHANNEL, 1, b"a", n=2, complete=True)
    played.item(1, b"late")
    await until(played.completed)
    assert [payload.data for payload in played.handler.seen] == [b"a"]


# -- fragments ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [REQUEST_RESPONSE, REQUEST_FNF, REQUEST_STREAM, REQUEST_CHANNEL])
async def test_a_fragmented_request_reaches_the_handler_whole(played, kind):
    """C-93, C-95: interleaved with others."""
    payload = Payload(b"7" * 1, b"m" * 1000)
    n = 1 if kind in (REQUEST_STREAM, REQUEST_CHANNEL) else 0
    pieces = list(request_frames(kind, 1, payload, 64, n))
    other = list(request_frames(kind, 3, payload, 100, n))
    for index in range(max(len(pieces), len(other))):
        assert index >= min(len(pieces), len(other)) or played.handler.seen == []
        for series in (pieces, other):
            if index < len(series):
                played.receive(series[index])
    await until(lambda: len(played.handler.seen) == 2)
    assert played.handler.seen == [payload, payload]
    assert played.responder.budget.used == 0


async def test_cancel_between_fragments_never_calls_the_handler(played):
    """C-98."""
    played.request(REQUEST_RESPONSE, 1, b"a", follows=True)
    assert played.responder.budget.used > 0
    played.cancel(1)
    played.item(1, b"b")
    await settled()
    assert played.handler.seen == []
    assert played.responder.budget.used == 0
    assert played.responder.open_streams == 0


async def test_an_endless_request_is_ended():
    """C-99."""
    played = Played(budget=ReassemblyBudget(message_limit=10_000))
    played.request(REQUEST_RESPONSE, 1, b"x", follows=True)
    for _ in range(1000):
        played.item(1, b"x" * 100, follows=True)
    assert played.error()[0] == Canceled.code
    assert played.kinds() == [ERROR]
    assert played.responder.budget.used == 0
    assert played.responder.open_streams == 0


async def test_many_unfinished_requests_are_bounded():
    """C-103, b12: 400 frames retained 20 MB."""
    played = Played(budget=ReassemblyBudget(connection_limit=1 << 20))
    for stream_id in range(1, 801, 2):
        played.request(REQUEST_RESPONSE, stream_id, b"x" * 50_000, follows=True)
    assert played.responder.budget.used <= 1 << 20
    assert played.kinds().count(ERROR) == 400 - played.responder.open_streams
    played.responder.close(CLOSED)
    assert played.responder.budget.used == 0  # C-102


async def test_a_large_answer_stops_leaving_when_it_is_cancelled():
    class Large(Handler):
        async def request_response(self, payload):
            return Payload(bytes(10_000_000))

    played = Played(Large())
    played.request(REQUEST_RESPONSE, 1)
    await until(lambda: played.sent)
    assert played.responder.open_streams == 1
    played.cancel(1)
    count = len(played.sent)
    await settled()
    assert len(played.sent) == count
    assert played.responder.open_streams == 0


# -- the end --------------------------------------------------------------------------------------


async def test_loss_of_the_connection_cancels_every_handler(played):
    """C-90."""
    played.request(REQUEST_RESPONSE, 1, b"wait")
    played.request(REQUEST_STREAM, 3, b"100", n=1)
    played.request(REQUEST_CHANNEL, 5)
    await settled()
    count = len(played.sent)
    played.responder.close(CLOSED)
    await until(lambda: played.responder.open_streams == 0)
    assert played.handler.ended[-2:] in (["cancelled", "closed"], ["closed", "cancelled"])
    assert len(played.sent) == count


async def test_it_tells_when_the_last_stream_has_ended():
    played = Played()
    idle = []
    played.responder.idle = lambda: idle.append(played.responder.open_streams)
    played.request(REQUEST_RESPONSE, 1)
    await until(lambda: idle == [0])
