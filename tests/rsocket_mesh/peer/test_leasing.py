"""Connections with leases: requests wait for them, and what is beyond them is refused."""

from __future__ import annotations

import asyncio

import pytest

from rsocket_mesh.errors import ConnectionClosed, DeadlineExceeded, Overloaded
from rsocket_mesh.peer import NoHandler, Peer
from rsocket_mesh.peer.leasing import LEASE_TTL, MAX_WAITING
from rsocket_mesh.protocol.frames import (
    ERROR,
    KEEPALIVE,
    LEASE,
    PAYLOAD,
    REQUEST_CHANNEL,
    REQUEST_FNF,
    REQUEST_RESPONSE,
    REQUEST_STREAM,
    SETUP,
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
from rsocket_mesh.protocol.framing import cut, prefix_lengths
from rsocket_mesh.protocol.lease import Leased
from rsocket_mesh.protocol.payload import Payload
from tests.support.waiting import settled, until
from tests.support.wire import join

HELLO = Setup(20_000, 90_000, "message/x.rsocket.composite-metadata.v0", "text/plain", lease=True)
TTL_MS = round(LEASE_TTL * 1000)


class Far:
    """The other side, without a library: frames in and out."""

    def __init__(self, peer: Peer, is_server: bool) -> None:
        self.received: list[bytes] = []
        self.peer = peer
        near, far = (peer, self) if is_server else (self, peer)
        ends = join(near, far)
        self.end = ends[1] if is_server else ends[0]

    def connected(self, transport):
        pass

    def batch_received(self, data):
        found, used = cut(data)
        self.received += found
        return used

    def protocol_violated(self, text):
        raise AssertionError(text)

    def disconnected(self, error):
        pass

    def writable(self, ready):
        pass

    def send(self, *frames_out):
        """All in one batch."""
        self.end.outbound += prefix_lengths(frames_out)
        self.end.flush()

    def ids(self, kind):
        return [peek(frame)[0] for frame in self.received if peek(frame)[1] == kind]

    def leases(self):
        return [decode_lease(frame) for frame in self.received if peek(frame)[1] == LEASE]

    def answer(self, stream_id):
        self.send(encode_payload(stream_id, None, b"done", complete=True))


class Busy(NoHandler):
    """Serves at most two requests at once (or `places`), each until `go` is set."""

    def __init__(self):
        self.places = 2
        self.go = asyncio.Event()
        self.at_work = 0

    def free(self, now):
        return self.places - self.at_work

    async def request_response(self, payload):
        self.at_work += 1
        try:
            await self.go.wait()
        finally:
            self.at_work -= 1
        return payload


@pytest.fixture
async def client():
    """Our client and the raw server it talks to."""
    far = Far(Peer(setup=HELLO), is_server=True)
    await settled()
    yield far
    far.peer.close()
    await settled()


@pytest.fixture
async def server():
    """A raw client and our server it talks to, which can take two requests at once."""
    handler = Busy()
    far = Far(Peer(handler, free=handler.free), is_server=False)
    far.handler = handler
    yield far
    far.peer.close()
    await settled()


def call(far, data=b"q", timeout=None):
    return asyncio.create_task(far.peer.requester.request_response(Payload(data), timeout=timeout))


# -- as a requester -------------------------------------------------------------------------------


async def test_a_client_asks_for_leases_and_grants_one_itself(client):
    assert [peek(frame)[1] for frame in client.received] == [SETUP, KEEPALIVE, LEASE]
    assert client.leases() == [Lease(TTL_MS, 0x7FFF_FFFF)]  # it serves without limits


async def test_nothing_is_sent_before_the_first_lease_and_then_in_order(client):
    """C-105."""
    calls = [call(client, b"%d" % number) for number in range(4)]
    await settled()
    assert client.ids(REQUEST_RESPONSE) == []
    client.send(encode_lease(Lease(60_000, 3)))
    await settled()
    sent = [frame[-1:] for frame in client.received if peek(frame)[1] == REQUEST_RESPONSE]
    assert sent == [b"0", b"1", b"2"]
    client.send(encode_lease(Lease(60_000, 1)))
    await settled()
    for stream_id in client.ids(REQUEST_RESPONSE):
        client.answer(stream_id)
    assert [answer.data for answer in await asyncio.gather(*calls)] == [b"done"] * 4


async def test_every_kind_of_request_uses_one_unit(client):
    client.send(encode_lease(Lease(60_000, 4)))
    await settled()
    requester = client.peer.requester

    async def outgoing():
        yield Payload(b"more")

    await requester.fire_and_forget(Payload(b"x" * 100_000))  # in fragments: one all the same
    async with (
        requester.request_stream(Payload(b"s")),
        requester.request_channel(Payload(b"c"), outgoing()),
    ):
        last = call(client)
        await settled()
        assert client.ids(REQUEST_FNF) == [1]
        assert client.ids(REQUEST_STREAM) == [3]
        assert client.ids(REQUEST_CHANNEL) == [5]
        assert client.ids(REQUEST_RESPONSE) == [7]
        beyond = call(client)
        await settled()
        assert client.ids(REQUEST_RESPONSE) == [7]
        for task in (last, beyond):
            task.cancel()


async def test_a_new_lease_replaces_the_rest_of_the_old(client):
    """C-109."""
    client.send(encode_lease(Lease(60_000, 5)), encode_lease(Lease(60_000, 1)))
    calls = [call(client) for _ in range(3)]
    await settled()
    assert client.ids(REQUEST_RESPONSE) == [1]
    for task in calls:
        task.cancel()


async def test_a_lease_of_nothing_stops_what_is_new_and_open_calls_go_on(client):
    """C-110."""
    client.send(encode_lease(Lease(60_000, 5)))
    await settled()
    first = call(client)
    await settled()
    client.send(encode_lease(Lease(0, 0)))
    await settled()
    second = call(client)
    await settled()
    assert client.ids(REQUEST_RESPONSE) == [1]
    client.answer(1)
    assert (await first).data == b"done"
    second.cancel()


async def test_a_lease_that_has_ended_in_time_is_none(client):
    client.send(encode_lease(Lease(1, 5)))
    await settled()
    await asyncio.sleep(0.01)
    waiting = call(client)
    await settled()
    assert client.ids(REQUEST_RESPONSE) == []
    waiting.cancel()


async def test_a_call_without_a_lease_ends_at_its_deadline_and_was_not_sent(client):
    with pytest.raises(DeadlineExceeded, match=r"granted no lease for it within 0\.02 s"):
        await call(client, timeout=0.02)
    client.send(encode_lease(Lease(60_000, 5)))
    await settled()
    assert client.ids(REQUEST_RESPONSE) == []


async def test_a_stream_without_a_lease_ends_at_its_deadline(client):
    with pytest.raises(DeadlineExceeded, match="granted no lease"):
        await anext(client.peer.requester.request_stream(Payload(b"s"), timeout=0.02))
    assert client.ids(REQUEST_STREAM) == []


async def test_too_many_who_wait_are_refused_here(client):
    calls = [call(client) for _ in range(MAX_WAITING + 1)]
    with pytest.raises(Overloaded, match=f"{MAX_WAITING} requests wait for a lease"):
        await calls.pop()
    for task in calls:
        task.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    waiting = call(client)  # there is room again
    await settled()
    assert not waiting.done()
    waiting.cancel()


@pytest.mark.parametrize("resumed", [False, True])
async def test_one_that_gives_up_leaves_its_unit_to_the_next(client, resumed):
    first, second = call(client), call(client, b"second")
    await settled()
    if resumed:  # while they wait, the account begins anew
        client.peer.requester.leased = Leased()
    client.peer.requester.lease_arrived(Lease(60_000, 1))
    first.cancel()  # in the same turn of the loop: it had been given the unit already
    await settled()
    sent = [frame for frame in client.received if peek(frame)[1] == REQUEST_RESPONSE]
    assert sent
    assert sent[0].endswith(b"second")
    second.cancel()


async def test_those_who_wait_learn_that_the_connection_has_ended(client):
    waiting = call(client)
    await settled()
    client.peer.close()
    with pytest.raises(ConnectionClosed):
        await waiting


# -- as a responder -------------------------------------------------------------------------------


async def test_a_server_grants_behind_its_acceptance_what_it_can_take(server):
    """C-107."""
    server.send(encode_setup(HELLO))
    await settled()
    assert server.leases() == [Lease(TTL_MS, 2)]


async def test_a_server_grants_nothing_to_a_client_that_did_not_ask(server):
    server.send(encode_setup(HELLO._replace(lease=False)), encode_keepalive(respond=True))
    requests = [encode_request(REQUEST_RESPONSE, stream, None, b"q") for stream in (1, 3, 5)]
    server.send(*requests)
    await settled()
    assert server.leases() == []
    assert server.handler.at_work == 3


async def test_a_request_beyond_the_lease_is_refused_and_not_processed(server):
    """C-111."""
    server.send(encode_setup(HELLO))
    server.send(*(encode_request(REQUEST_RESPONSE, stream, None, b"q") for stream in (1, 3, 5)))
    await settled()
    assert server.handler.at_work == 2
    (frame,) = (frame for frame in server.received if peek(frame)[1] == ERROR)
    error = decode_error(frame)
    assert (error.stream_id, error.code) == (5, 0x202)
    assert error.text.startswith("OVERLOADED(retry_after_ms=")
    assert "beyond the lease" in error.text


async def test_fire_and_forget_beyond_the_lease_is_dropped(server):
    server.send(encode_setup(HELLO))
    server.send(*(encode_request(REQUEST_FNF, stream, None, b"q") for stream in (1, 3, 5)))
    await settled()
    assert server.ids(ERROR) == []
    assert server.peer._responder.refused == 1


async def test_a_fragmented_request_is_one_unit(server):
    """C-94."""
    server.send(encode_setup(HELLO))
    for stream in (1, 3):
        server.send(
            encode_request(REQUEST_RESPONSE, stream, None, b"a", follows=True),
            encode_payload(stream, None, b"b", follows=True),
            encode_payload(stream, None, b"c"),
        )
    await settled()
    assert server.handler.at_work == 2
    assert server.ids(ERROR) == []


async def test_room_that_comes_back_is_granted_again(server):
    server.send(encode_setup(HELLO))
    server.send(*(encode_request(REQUEST_RESPONSE, stream, None, b"q") for stream in (1, 3)))
    await settled()
    assert server.leases() == [Lease(TTL_MS, 2)]
    server.handler.go.set()
    await until(lambda: len(server.leases()) == 2, "a lease after the calls have ended")
    assert server.leases()[1] == Lease(TTL_MS, 2)
    assert len(server.ids(PAYLOAD)) == 2


async def test_half_of_a_lease_used_up_is_renewed_if_there_is_more(server):
    server.send(encode_setup(HELLO))
    await settled()
    server.handler.places = 8
    server.send(encode_request(REQUEST_RESPONSE, 1, None, b"q"))
    await settled()
    # One of eight is at work, and one may be under way.
    assert server.leases() == [Lease(TTL_MS, 2), Lease(TTL_MS, 6)]
