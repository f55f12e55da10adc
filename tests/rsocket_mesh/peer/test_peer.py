"""Two live peers, and one peer against raw frames: both sides, the batch, and every end."""

import asyncio

import pytest

from rsocket_mesh.errors import (
    ApplicationError,
    ConnectionClosed,
    Draining,
    ErrorCode,
    NoRoute,
    SetupRefused,
)
from rsocket_mesh.peer import Peer
from rsocket_mesh.protocol import frames
from rsocket_mesh.protocol.frames import (
    ERROR,
    FLAG_IGNORE,
    KEEPALIVE,
    METADATA_PUSH,
    PAYLOAD,
    REQUEST_RESPONSE,
    SETUP,
    Setup,
    peek,
)
from rsocket_mesh.protocol.framing import cut, prefix_lengths
from rsocket_mesh.protocol.payload import Payload
from tests.support.waiting import settled, until
from tests.support.wire import join

HELLO = Setup(20_000, 90_000, "message/x.rsocket.composite-metadata.v0", "application/cbor")
Q = Payload(b"q")


class Echo:
    """Echoes; `b"wait"` waits for `release`."""

    def __init__(self):
        self.seen = []
        self.cancelled = 0
        self.release = asyncio.Event()

    async def request_response(self, payload):
        self.seen.append(payload.data)
        if payload.data == b"wait":
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        return payload

    async def fire_and_forget(self, payload):
        self.seen.append(payload.data)

    async def request_stream(self, payload):
        for index in range(int(payload.data)):
            yield Payload(b"%d" % index)

    async def request_channel(self, payload, incoming):
        yield payload
        async for item in incoming:
            yield item

    def metadata_pushed(self, metadata):
        self.seen.append(metadata)
        if metadata == b"raise":
            raise LookupError("in metadata_pushed")


class Pair:
    """A client and a server, their handlers, and the two ends of the wire."""

    def __init__(self, **server):
        self.client_handler, self.server_handler = Echo(), Echo()
        self.client = Peer(self.client_handler, setup=HELLO)
        self.server = Peer(self.server_handler, **server)
        self.client_end, self.server_end = join(self.client, self.server)

    async def over(self):
        await asyncio.wait_for(asyncio.gather(self.client.closed, self.server.closed), 5)


@pytest.fixture
async def pair():
    pair = Pair()
    await pair.client.confirmed
    yield pair
    pair.client.close()
    pair.server.close()
    await pair.over()


class Raw:
    """Plays a client without a library against one server peer."""

    def __init__(self, **server):
        self.handler = Echo()
        self.peer = Peer(self.handler, **server)
        self.near, self.far = join(self, self.peer)
        self.received = []
        self.ended = False

    def connected(self, transport):
        pass

    def batch_received(self, data):
        found, used = cut(data)
        self.received += found
        return used

    def protocol_violated(self, text, reason="protocol-error"):
        raise AssertionError(text)

    def disconnected(self, error):
        self.ended = True

    def writable(self, ready):
        pass

    def send(self, *frames_out):
        """All in one batch."""
        self.near.outbound += prefix_lengths(frames_out)
        self.near.flush()

    def error(self):
        errors = [frames.decode_error(f) for f in self.received if peek(f)[1] == ERROR]
        return errors[0] if errors else None


SETUP_FRAME = frames.encode_setup(HELLO)


def request(stream_id, data=b"q", **flags):
    return frames.encode_request(REQUEST_RESPONSE, stream_id, None, data, **flags)


@pytest.fixture
async def raw():
    raw = Raw()
    raw.send(SETUP_FRAME)
    await settled()
    yield raw
    raw.peer.close()
    await settled()


# -- both sides -----------------------------------------------------------------------------------


async def test_both_sides_call_each_other_at_the_same_time(pair):
    """C-58."""
    calls = [
        side.requester.request_response(Payload(b"%d" % index))
        for index in range(100)
        for side in (pair.client, pair.server)
    ]
    answers = await asyncio.gather(*calls)
    assert [answer.data for answer in answers] == [b"%d" % (i // 2) for i in range(200)]
    assert pair.client.streams_open == pair.server.streams_open == 0
    ids = [peek(f)[0] for f in pair.server_end.sent if peek(f)[1] == REQUEST_RESPONSE]
    assert ids == list(range(2, 202, 2))  # C-57


async def test_all_five_interactions_work(pair):
    assert await pair.client.requester.request_response(Payload(b"a", b"m")) == (b"a", b"m")
    await pair.client.requester.fire_and_forget(Payload(b"f"))
    pair.client.requester.metadata_push(b"p")
    async with pair.client.requester.request_stream(Payload(b"100"), prefetch=7) as stream:
        assert [int(item.data) async for item in stream] == list(range(100))

    async def source():
        for index in range(50):
            yield Payload(b"%d" % index)

    async with pair.client.requester.request_channel(Payload(b"-1"), source()) as channel:
        assert [int(item.data) async for item in channel] == list(range(-1, 50))
    assert sorted(pair.server_handler.seen) == [b"a", b"f", b"p"]


async def test_requests_may_follow_the_setup_at_once():
    """C-29, C-30: pipelined, in order, none lost."""
    pair = Pair()
    calls = [pair.client.requester.request_response(Payload(b"%d" % i)) for i in range(20)]
    await asyncio.gather(*calls)
    assert pair.server_handler.seen == [b"%d" % i for i in range(20)]
    pair.client.close()
    await pair.over()


async def test_64_mib_cross_and_small_calls_do_not_wait_for_them(pair):
    """C-95, b13: no truncation, no silence meanwhile."""
    data = bytes(range(256)) * (64 * 4096)
    large = asyncio.create_task(pair.client.requester.request_response(Payload(data)))
    small = 0
    while not large.done():
        await pair.client.requester.request_response(Q)
        small += 1
    assert (await large).data == data
    assert small > 50
    assert max(map(len, pair.client_end.sent)) <= 65_536


# -- before the SETUP, and its refusal ------------------------------------------------------------


async def test_nothing_is_served_before_setup():
    """C-27 and b01."""
    raw = Raw()
    raw.send(request(1))
    await until(lambda: raw.ended)
    assert raw.error().code == ErrorCode.INVALID_SETUP
    assert raw.handler.seen == []
    assert (await raw.peer.closed).reason == "invalid-setup"


async def test_nothing_is_served_behind_a_refused_setup_and_the_socket_is_closed():
    """C-31, C-32 and b02."""

    def refuse(setup):
        raise SetupRefused(ErrorCode.REJECTED_SETUP, "FORBIDDEN: not you")

    raw = Raw(acceptor=refuse)
    raw.send(SETUP_FRAME, request(1), request(3))
    await until(lambda: raw.ended)
    assert [peek(frame)[1] for frame in raw.received] == [ERROR]
    assert raw.error() == (0, ErrorCode.REJECTED_SETUP, "FORBIDDEN: not you")
    assert raw.handler.seen == []


async def test_a_refused_client_fails_its_connect_and_its_calls():
    """C-41."""

    def refuse(setup):
        raise SetupRefused(ErrorCode.REJECTED_SETUP, "FORBIDDEN: not you")

    pair = Pair(acceptor=refuse)
    call = asyncio.create_task(pair.client.requester.request_response(Q))
    with pytest.raises(SetupRefused, match="not you"):
        await pair.client.confirmed
    with pytest.raises(ConnectionClosed, match="not you"):
        await call
    assert isinstance(await pair.client.closed, SetupRefused)
    with pytest.raises(ConnectionClosed):
        await pair.client.requester.request_response(Q)


async def test_the_acceptor_sees_the_setup():
    """C-43."""
    seen = []
    raw = Raw(acceptor=seen.append)
    setup = HELLO._replace(metadata=b"m", data=b"d")
    raw.send(frames.encode_setup(setup))
    await settled()
    assert seen == [setup]
    raw.peer.close()
    await settled()


async def test_setup_is_the_first_frame_and_the_keepalive_behind_it_is_confirmed(pair):
    """C-26."""
    assert [peek(frame)[1] for frame in pair.client_end.sent] == [SETUP, KEEPALIVE]
    assert [peek(frame)[1] for frame in pair.server_end.sent] == [KEEPALIVE]


# -- the batch ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 64])
async def test_frames_are_whole_however_the_bytes_are_cut(size):
    """C-03, C-04."""
    raw = Raw()
    wire = b"".join(prefix_lengths([SETUP_FRAME, *(request(i) for i in range(1, 21, 2))]))
    rest = b""
    for start in range(0, len(wire), size):
        rest += wire[start : start + size]
        rest = rest[raw.peer.batch_received(rest) :]
    await settled()
    assert rest == b""
    assert raw.handler.seen == [b"q"] * 10
    raw.peer.close()
    await settled()


BAD = {
    "a length below a header": b"\0\0\x05hello",
    "the reserved bit (C-10)": b"".join(prefix_lengths([bytes.fromhex("800000051000") + b"q"])),
    "metadata beyond the frame (C-21)": b"".join(
        prefix_lengths([bytes.fromhex("0000000511000000646162")])
    ),
    "metadata without a length (C-22)": b"".join(prefix_lengths([bytes.fromhex("00000005110000")])),
    "a body too short (C-16)": b"".join(prefix_lengths([bytes.fromhex("00000005180000")])),
    "a short REQUEST_N": b"".join(prefix_lengths([bytes.fromhex("000000032000") + b"\0"])),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
async def test_frames_in_front_of_a_bad_one_are_delivered(raw, bad):
    """C-07 and the others: what came before counts, then CONNECTION_ERROR and the end."""
    raw.near.outbound += prefix_lengths(
        [
            frames.encode_metadata_push(b"before"),
            frames.encode_request(frames.REQUEST_STREAM, 3, None, b"5", 1),
        ]
    )
    raw.near.outbound.append(bad)
    raw.near.outbound += prefix_lengths([frames.encode_metadata_push(b"behind")])
    raw.near.flush()
    await until(lambda: raw.ended)
    assert raw.handler.seen == [b"before"]
    assert raw.error().code == ErrorCode.CONNECTION_ERROR
    assert (await raw.peer.closed).reason == "protocol-error"


async def test_a_malformed_frame_that_may_be_ignored_is(raw):
    """C-23."""
    body = bytes.fromhex("0000000000000064") + b"ab"
    bad = frames.HEADER.pack(5, REQUEST_RESPONSE << 10 | FLAG_IGNORE | frames.FLAG_METADATA)
    raw.send(bad + body[5:], request(7))
    await until(lambda: raw.handler.seen == [b"q"])
    assert not raw.ended


@pytest.mark.parametrize("word", [0x0F << 10, 0, frames.EXT << 10, 0x0F << 10 | FLAG_IGNORE])
async def test_an_unknown_type_on_a_stream_disturbs_nothing(raw, word):
    """C-12 to C-15."""
    raw.send(
        request(1, b"wait"),
        frames.HEADER.pack(1, word) + b"\0\0\0\1x",
        frames.HEADER.pack(9, word) + b"\0\0\0\1x",
    )
    await settled()
    raw.handler.release.set()
    await until(lambda: any(peek(frame)[1] == PAYLOAD for frame in raw.received))
    assert not raw.ended


async def test_one_batch_is_answered_with_one_write(raw):
    written = []
    take = raw.batch_received

    def batch_received(data):
        written.append(len(cut(data)[0]))
        return take(data)

    raw.batch_received = batch_received
    raw.send(*(request(i) for i in range(1, 201, 2)))
    await until(lambda: len(raw.received) == 100)
    assert written == [100]


async def test_frames_that_belong_to_nobody_are_counted_or_dropped_silently(raw):
    """C-56, C-60, C-61, C-89: wrong stream, wrong parity, stream 0, unknown ids."""
    push_on_stream = frames.restamp(frames.encode_metadata_push(b"x"), 5)
    request_on_0 = frames.restamp(request(1), 0)
    raw.send(
        push_on_stream,
        request(2),  # the server's own parity
        request_on_0,
        frames.encode_payload(99, None, b"x"),
        frames.encode_payload(98, None, b"x", follows=True),
        frames.encode_cancel(98),
        frames.encode_request_n(98, 1),
        frames.encode_error(98, 0x201, "x"),
        frames.encode_error(99, 0x201, "x"),
    )
    await settled()
    assert raw.handler.seen == []
    assert raw.received == []
    assert raw.peer.streams_open == 0
    assert raw.peer.ignored == {"REQUEST_RESPONSE on stream 0": 1}
    assert not raw.ended


async def test_a_request_with_our_parity_does_not_touch_our_own_stream(raw):
    """C-60."""
    call = asyncio.create_task(raw.peer.requester.request_response(Q))
    await until(lambda: raw.received)
    raw.send(request(2, b"theirs"), frames.encode_payload(2, None, b"answer", complete=True))
    assert (await call).data == b"answer"
    assert raw.handler.seen == []


# -- keepalive ------------------------------------------------------------------------------------


async def test_keepalive_is_answered_while_handlers_run(raw):
    """b24, b03."""
    raw.send(*(request(i, b"wait") for i in range(1, 101, 2)))
    raw.send(frames.encode_keepalive(True, data=b"alive?"))
    await until(lambda: frames.encode_keepalive(False, data=b"alive?") in raw.received)
    assert raw.peer.streams_open == 50


async def test_a_peer_that_says_nothing_is_given_up_and_calls_fail():
    """C-52, b07: half-open connections end by themselves."""
    client = Peer(setup=HELLO._replace(keepalive_ms=20, lifetime_ms=100))
    silent = Raw()
    end, _ = join(client, silent)
    call = asyncio.create_task(client.requester.request_response(Q))
    with pytest.raises(ConnectionClosed, match="nothing heard") as caught:
        await asyncio.wait_for(call, 5)
    assert caught.value.reason == "keepalive-timeout"
    assert sum(peek(f)[1] == KEEPALIVE for f in end.sent) >= 3  # C-49
    await until(lambda: silent.ended)


async def test_a_peer_that_answers_lives_beyond_its_lifetime():
    server = Peer(Echo())
    client = Peer(setup=HELLO._replace(keepalive_ms=20, lifetime_ms=200))
    join(client, server)
    await asyncio.sleep(0.5)
    assert not client.closed.done()
    assert not server.closed.done()
    client.close()
    await server.closed


async def test_a_fault_in_metadata_pushed_is_logged_and_hurts_nobody(pair, caplog):
    pair.client.requester.metadata_push(b"raise")
    assert (await pair.client.requester.request_response(Q)).data == b"q"
    assert "in metadata_pushed" in caplog.text
    assert pair.server_handler.seen[0] == b"raise"


# -- slow readers ---------------------------------------------------------------------------------


async def test_a_peer_that_does_not_read_costs_bounded_memory(pair):
    """b10, b23: streams stop, calls wait, and everything arrives when it reads again."""
    got = []

    async def consume():
        async with pair.client.requester.request_stream(
            Payload(b"20000"), prefetch=20_000
        ) as stream:
            got.extend([int(item.data) async for item in stream])

    pair.client_end.reading = False
    consuming = asyncio.create_task(consume())
    for _ in range(200):
        await asyncio.sleep(0)
    assert pair.server_end.outbound_size() < 1_000_000
    assert got == []
    pair.client_end.reading = True
    await asyncio.wait_for(consuming, 10)
    assert got == list(range(20_000))


async def test_one_stuck_consumer_delays_no_other_stream(pair):
    stuck = pair.client.requester.request_stream(Payload(b"100000"), prefetch=4)
    async with stuck:
        await anext(stuck)
        async with pair.client.requester.request_stream(Payload(b"1000")) as quick:
            assert len([item async for item in quick]) == 1000


# -- the end --------------------------------------------------------------------------------------


async def test_loss_of_the_transport_ends_everything_on_both_sides(pair):
    """C-90, C-08."""
    calls = [
        asyncio.create_task(side.requester.request_response(Payload(b"wait")))
        for side in (pair.client, pair.server)
    ]
    await until(lambda: pair.client_handler.seen and pair.server_handler.seen)
    pair.client_end.abort()
    results = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 5)
    assert [type(result) for result in results] == [ConnectionClosed] * 2
    await pair.over()
    await until(lambda: pair.client_handler.cancelled and pair.server_handler.cancelled)
    assert pair.client.streams_open == pair.server.streams_open == 0


async def test_connection_error_ends_all_streams(raw):
    """C-45."""
    call = asyncio.create_task(raw.peer.requester.request_response(Q))
    raw.send(request(1, b"wait"))
    await until(lambda: raw.handler.seen)
    raw.send(frames.encode_error(0, ErrorCode.CONNECTION_ERROR, "broken"))
    with pytest.raises(ConnectionClosed, match="broken") as caught:
        await call
    assert caught.value.reason == "peer-error"
    await until(lambda: raw.handler.cancelled and raw.ended)
    assert raw.error() is None


async def test_our_close_tells_the_peer_and_fails_calls_with_its_text(pair):
    call = asyncio.create_task(pair.client.requester.request_response(Payload(b"wait")))
    await until(lambda: pair.server_handler.seen)
    pair.client.close("enough")
    pair.client.close("twice")
    with pytest.raises(ConnectionClosed, match="enough"):
        await call
    assert frames.decode_error(pair.client_end.sent[-1]) == (0, 0x102, "enough")
    assert (await pair.client.closed).reason == "closed"
    await pair.over()


async def test_connection_close_lets_open_streams_finish(raw):
    """C-46."""
    call = asyncio.create_task(raw.peer.requester.request_response(Q))
    await until(lambda: raw.received)
    raw.send(request(1, b"wait"), frames.encode_error(0, ErrorCode.CONNECTION_CLOSE, "bye"))
    await settled()
    with pytest.raises(ConnectionClosed, match="bye"):
        await raw.peer.requester.request_response(Q)
    raw.send(request(3))
    await settled()
    assert not raw.ended
    raw.send(frames.encode_payload(2, None, b"a", complete=True))
    assert (await call).data == b"a"
    assert not raw.ended
    raw.handler.release.set()
    await until(lambda: raw.ended)
    answered = [peek(frame)[0] for frame in raw.received if peek(frame)[1] == PAYLOAD]
    assert answered == [1]
    refused = next(frames.decode_error(f) for f in raw.received if peek(f)[:2] == (3, ERROR))
    assert refused.code == Draining.code


async def test_a_drain_finishes_what_is_open_and_then_closes(pair):
    call = asyncio.create_task(pair.client.requester.request_response(Payload(b"wait")))
    await until(lambda: pair.server_handler.seen)
    draining = asyncio.create_task(pair.server.drain(5.0))
    await settled()
    with pytest.raises(Draining):
        await pair.client.requester.request_response(Q)
    assert not draining.done()
    pair.server_handler.release.set()
    await asyncio.wait_for(draining, 5)
    assert (await call).data == b"wait"
    assert pair.server.closed.done()


async def test_a_drain_is_over_at_its_deadline(pair):
    call = asyncio.create_task(pair.client.requester.request_response(Payload(b"wait")))
    await until(lambda: pair.server_handler.seen)
    await asyncio.wait_for(pair.server.drain(0.02), 5)
    with pytest.raises(ConnectionClosed):
        await call


async def test_a_drain_with_nothing_open_closes_at_once(pair):
    await asyncio.wait_for(pair.client.drain(60.0), 5)
    await pair.over()


async def test_without_a_handler_the_peer_is_told_that_nobody_serves_here():
    server = Peer()
    client = Peer(setup=HELLO)
    join(client, server)
    with pytest.raises(NoRoute):
        await client.requester.request_response(Q)
    client.close()
    await server.closed


async def test_a_broken_framing_below_is_told_to_the_peer(raw):
    """The transport found a length over the limit (C-06)."""
    raw.peer.protocol_violated("frame length 99 exceeds the limit of 10 bytes")
    await until(lambda: raw.ended)
    assert raw.error().code == ErrorCode.CONNECTION_ERROR
    assert METADATA_PUSH not in [peek(frame)[1] for frame in raw.received]


async def test_the_text_of_a_handlers_error_crosses_unchanged(pair):
    class Failing(Echo):
        async def request_response(self, payload):
            raise ApplicationError("Käse is out")

    pair.server._responder._handler = Failing()
    with pytest.raises(ApplicationError, match="Käse is out"):
        await pair.client.requester.request_response(Q)
