"""Ends at the worst moment: cancelled while it begins, cancelled and deaf to it, lost credit."""

import asyncio

import pytest

from rsocket_mesh.errors import Canceled, ConnectionClosed
from rsocket_mesh.peer import Peer, open_peer
from rsocket_mesh.peer.requester import Requester
from rsocket_mesh.peer.responder import Responder
from rsocket_mesh.protocol import frames
from rsocket_mesh.protocol.frames import (
    CANCEL,
    ERROR,
    PAYLOAD,
    REQUEST_N,
    REQUEST_STREAM,
    Setup,
    peek,
)
from rsocket_mesh.protocol.payload import Payload
from rsocket_mesh.protocol.phases import Role
from rsocket_mesh.transport import listen
from tests.support.waiting import settled, until

CLOSED = ConnectionClosed("the wire was cut", "transport-lost")
PAYLOAD_NEITHER = (PAYLOAD << 10).to_bytes(2, "big")  # type, and neither NEXT nor COMPLETE
HELLO = Setup(20_000, 90_000, "message/x.rsocket.composite-metadata.v0", "application/cbor")


class Wire:
    """Keeps what one side sends, and plays the other side's frames to it."""

    def __init__(self):
        self.sent = []

    def requester(self):
        self.side = Requester(self.sent.append, Role.CLIENT)
        return self.side

    def responder(self, handler):
        self.side = Responder(self.sent.append, handler)
        return self.side

    def receive(self, frame):
        stream_id, kind, flags = peek(frame)
        self.side.receive_frame(stream_id, kind, flags, frame)

    def kinds(self):
        return [peek(frame)[1] for frame in self.sent]


class Deaf:
    """A handler that takes a cancel for a reason to go on."""

    def __init__(self):
        self.cancels = 0
        self.closed = False

    async def request_stream(self, payload):
        try:
            while True:
                yield await self.next()
        finally:
            self.closed = True

    async def request_channel(self, payload, incoming):
        async for item in self.request_stream(payload):
            yield item

    async def next(self):
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancels += 1
        return Payload(b"still here")


# -- connecting -----------------------------------------------------------------------------------


async def test_giving_up_in_the_moment_of_the_confirmation_leaves_no_connection(monkeypatch):
    clients, servers = [], []

    def accept():
        servers.append(Peer())
        return servers[-1]

    def client(*args, **options):
        clients.append(Peer(*args, **options))
        clients[-1].confirmed.add_done_callback(lambda _: opening.cancel())
        return clients[-1]

    monkeypatch.setattr("rsocket_mesh.peer.opening.Peer", client)
    listener = await listen("memory://verdict", accept)
    try:
        opening = asyncio.create_task(open_peer("memory://verdict", setup=HELLO, timeout=10.0))
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert clients[0].confirmed.done()
        await until(lambda: clients[0].closed.done() and servers[0].closed.done())
    finally:
        await listener.close()


# -- handlers and sources that do not hear --------------------------------------------------------


@pytest.mark.parametrize("kind", [REQUEST_STREAM, frames.FrameType.REQUEST_CHANNEL])
@pytest.mark.parametrize("credit", [1, 2, 100])
async def test_a_lost_connection_ends_a_stream_whose_handler_ignores_the_cancel(kind, credit):
    wire, handler = Wire(), Deaf()
    responder = wire.responder(handler)
    wire.receive(frames.encode_request(kind, 1, None, b"", initial_n=credit))
    await settled()
    responder.close(CLOSED)
    await until(lambda: handler.closed and not responder.open_streams)
    assert handler.cancels == 1
    assert PAYLOAD not in wire.kinds()


async def test_a_lost_connection_ends_a_channel_whose_source_ignores_the_cancel():
    wire, source = Wire(), Deaf()
    requester = wire.requester()
    stream = requester.request_channel(Payload(b"q"), source.request_stream(Payload()))
    async with stream:
        wire.receive(frames.encode_request_n(1, 100))
        await settled()
        requester.close(CLOSED)
        await until(lambda: source.closed)
        with pytest.raises(ConnectionClosed):
            await anext(stream)


async def test_a_channel_that_is_closed_before_its_half_began_closes_its_source():
    closed = []

    class Source:
        def __aiter__(self):
            return self

        async def __anext__(self):
            raise AssertionError("nobody asked for an item")

        async def aclose(self):
            closed.append(True)

    requester = Wire().requester()
    async with requester.request_channel(Payload(b"q"), Source()):
        pass
    await until(lambda: closed)


async def test_a_source_that_was_cancelled_ends_its_channel_on_both_sides():
    async def source():
        raise asyncio.CancelledError
        yield

    wire = Wire()
    requester = wire.requester()
    async with requester.request_channel(Payload(b"q"), source()) as stream:
        wire.receive(frames.encode_request_n(1, 1))
        with pytest.raises(Canceled, match="cancelled"):
            await asyncio.wait_for(anext(stream), 5)
    assert wire.kinds()[1:] == [ERROR]
    assert not requester.open_streams


async def test_a_source_that_fails_behind_the_end_of_its_half_is_logged_and_the_answers_go_on(
    caplog,
):
    async def source():
        try:
            yield Payload(b"1")
            yield Payload(b"2")
        finally:
            raise LookupError("cannot close")

    wire = Wire()
    requester = wire.requester()
    async with requester.request_channel(Payload(b"q"), source()) as stream:
        wire.receive(frames.encode_request_n(1, 1))
        await settled()
        wire.receive(frames.encode_cancel(1))  # enough of ours; its own items go on
        await until(lambda: "cannot close" in caplog.text)
        wire.receive(frames.encode_payload(1, None, b"a", complete=True))
        assert [item.data async for item in stream] == [b"a"]
    assert ERROR not in wire.kinds()


# -- credit and cancelled waits -------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 10])
async def test_an_item_that_was_lost_at_its_sender_counts_towards_no_limit(limit):
    wire = Wire()
    requester = wire.requester()
    async with requester.request_stream(Payload(b"q"), limit=limit) as stream:
        for _ in range(limit - 1):
            wire.receive(frames.encode_payload(1, None, b"x"))
            await anext(stream)
        # Neither NEXT nor COMPLETE, as one library sends an empty item.
        wire.receive(frames.encode_payload(1, None, b"")[:4] + PAYLOAD_NEITHER)
        granted = [
            frames.decode_request_n(frame) for frame in wire.sent if peek(frame)[1] == REQUEST_N
        ]
        assert sum(granted) == 1
        wire.receive(frames.encode_payload(1, None, b"last"))
        assert (await anext(stream)).data == b"last"
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
    assert wire.kinds()[-1] == CANCEL


async def test_a_first_wait_that_was_cancelled_while_the_peer_did_not_read_loses_nothing():
    wire = Wire()
    requester = wire.requester()
    requester.set_writable(False)
    stream = requester.request_stream(Payload(b"q"))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(stream), 0.01)
    assert wire.sent == []
    requester.set_writable(True)
    first = asyncio.create_task(anext(stream))
    await until(lambda: wire.sent)
    wire.receive(frames.encode_payload(1, None, b"a", complete=True))
    assert (await first).data == b"a"
