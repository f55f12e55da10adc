"""Dialing over real sockets, on both kinds of event loop."""

import asyncio
import sys

import pytest

from rsocket_mesh.errors import ErrorCode, SetupRefused, Unreachable
from rsocket_mesh.peer import Peer, open_peer
from rsocket_mesh.protocol.frames import Setup
from rsocket_mesh.protocol.payload import Payload
from rsocket_mesh.transport import listen

HELLO = Setup(20_000, 90_000, "message/x.rsocket.composite-metadata.v0", "application/cbor")


class Echo:
    async def request_response(self, payload):
        return payload

    async def fire_and_forget(self, payload):
        pass

    async def request_stream(self, payload):
        for index in range(int(payload.data)):
            yield Payload(b"%d" % index)

    async def request_channel(self, payload, incoming):
        async for item in incoming:
            yield item

    def metadata_pushed(self, metadata):
        pass


class Server:
    """Listens with server peers."""

    def __init__(self, acceptor=None):
        self.peers = []
        self.acceptor = acceptor
        self.listener = None

    async def __aenter__(self):
        self.listener = await listen("tcp://127.0.0.1:0", self.accept)
        return self

    def accept(self):
        self.peers.append(Peer(Echo(), acceptor=self.acceptor))
        return self.peers[-1]

    @property
    def url(self):
        return self.listener.url

    async def __aexit__(self, *exc):
        await self.listener.close()
        for peer in self.peers:
            peer.close()
            await asyncio.wait_for(asyncio.shield(peer.closed), 5)


async def talk():
    async with Server() as server:
        peer = await open_peer(server.url, setup=HELLO, handler=Echo(), timeout=5.0)
        assert server.peers[0].setup == HELLO
        data = bytes(5_000_000)
        large = asyncio.create_task(peer.requester.request_response(Payload(data), timeout=10.0))
        for index in range(20):
            answer = await peer.requester.request_response(Payload(b"%d" % index, b"m"))
            assert answer == (b"%d" % index, b"m")
        assert (await large).data == data
        async with peer.requester.request_stream(Payload(b"5000"), prefetch=100) as stream:
            assert len([item async for item in stream]) == 5000
        back = await server.peers[0].requester.request_response(Payload(b"back"))
        assert back.data == b"back"
        peer.close()
        await asyncio.wait_for(asyncio.shield(server.peers[0].closed), 5)


def test_two_peers_talk_on_the_standard_loop():
    asyncio.run(talk())


@pytest.mark.skipif(sys.platform == "win32", reason="uvloop does not exist there")
def test_two_peers_talk_on_uvloop():
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(talk())


async def test_a_refusal_is_told_with_its_reason():
    """C-41."""

    def refuse(setup):
        raise SetupRefused(ErrorCode.REJECTED_SETUP, "UNAUTHENTICATED: who are you")

    async with Server(refuse) as server:
        with pytest.raises(SetupRefused, match="who are you") as caught:
            await open_peer(server.url, setup=HELLO, timeout=5.0)
        assert caught.value.token == "UNAUTHENTICATED"


async def test_nobody_listening_is_unreachable():
    """b06: connecting to a refused address raises, and at once."""
    async with Server() as server:
        url = server.url
    with pytest.raises(Unreachable):
        await open_peer(url, setup=HELLO, timeout=5.0)


async def silent_server():
    """A server that only reads; also its URL, and what is set once somebody has connected."""
    connected = asyncio.Event()

    async def hold(reader, writer):
        connected.set()
        try:
            await reader.read()
        finally:
            writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    return server, f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}", connected


async def test_a_server_that_does_not_answer_is_unreachable_at_the_deadline():
    server, url, _ = await silent_server()
    async with server:
        with pytest.raises(Unreachable, match=r"0\.1 s"):
            await asyncio.wait_for(open_peer(url, setup=HELLO, timeout=0.1), 5)


async def test_without_confirmation_a_silent_server_is_good_enough():
    server, url, _ = await silent_server()
    async with server:
        peer = await open_peer(url, setup=HELLO, timeout=5.0, confirm=False)
        assert not peer.confirmed.done()
        peer.close()
        await asyncio.wait_for(asyncio.shield(peer.closed), 5)


async def test_a_server_that_hangs_up_is_unreachable():
    async def hang_up(reader, writer):
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        url = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(Unreachable, match="before it answered"):
            await open_peer(url, setup=HELLO, timeout=5.0)


async def test_giving_up_while_connecting_closes_the_connection():
    server, url, connected = await silent_server()
    async with server:
        task = asyncio.create_task(open_peer(url, setup=HELLO, timeout=5.0))
        await asyncio.wait_for(connected.wait(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
