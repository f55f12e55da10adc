"""Whole sessions as targets: what any bytes of one peer may do to a broker, a library, a WebSocket.

The first byte of an input says in pieces of which size the rest arrives. Nothing may be raised, no
callback may fail, others go on being served, what is written stays in proportion to what came, and
once the connection is over, nothing of it is left in any table.
"""

from __future__ import annotations

import asyncio
import atexit
import base64
import hashlib
import re
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import partial
from typing import Any, Final

from websockets.frames import Frame, Opcode

from broker.builtin.services import BuiltinServices
from broker.config import Config
from broker.forwarding.hub import Hub
from broker.observe.counters import Counters
from rsocket_mesh.errors import RSocketError
from rsocket_mesh.peer import Peer
from rsocket_mesh.protocol.announce import Announcement, ServiceInfo, encode_announcement
from rsocket_mesh.protocol.frames import (
    REQUEST_CHANNEL,
    REQUEST_FNF,
    REQUEST_RESPONSE,
    REQUEST_STREAM,
    Setup,
    encode_cancel,
    encode_keepalive,
    encode_payload,
    encode_setup,
    peek,
)
from rsocket_mesh.protocol.framing import prefix_lengths
from rsocket_mesh.protocol.metadata import ANNOUNCE, COMPOSITE, OCTET_STREAM, encode_entry
from rsocket_mesh.protocol.payload import Payload
from rsocket_mesh.transport.url import parse_url
from rsocket_mesh.transport.websocket import ClientTransport, server_factory
from tests.fuzz.ends import End, FakeSocket
from tests.support.raw_peers import request
from tests.support.transport_ends import Recorder

TURNS: Final = 12  # of the loop; more than any chain of callbacks here needs
FIXED_ANSWER: Final = 20 * 1024  # bytes that one session may make us write in any case
MAX_FRAME: Final = 4096  # bytes; small, so that inputs reach it

_loop: asyncio.AbstractEventLoop | None = None


def _run(session: Callable[[bytes], Coroutine[Any, Any, None]], data: bytes) -> None:
    """Run *session* to its end on the one loop of all inputs; a failed callback fails it."""
    global _loop
    if _loop is None:
        _loop = asyncio.new_event_loop()
        atexit.register(_loop.close)
    failures: list[dict[str, Any]] = []
    _loop.set_exception_handler(lambda _, context: failures.append(context))
    _loop.run_until_complete(session(data))
    assert not failures, failures


async def _settled() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


async def _no_task_is_left() -> None:
    await _settled()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, left


def _pieces(data: bytes) -> Iterator[bytes]:
    size, stream = (data[0] or 1 << 20) if data else 1, data[1:]
    return (stream[start : start + size] for start in range(0, len(stream), size))


def batch(*frames: bytes) -> bytes:
    """Return *frames* as they stand on TCP."""
    return b"".join(prefix_lengths(frames))


def setup_frames(*services: str) -> bytes:
    """Return SETUP of a caller, or of a provider of *services*, with a KEEPALIVE behind it."""
    metadata = None
    if services:
        infos = tuple(ServiceInfo(name) for name in services)
        said = encode_announcement(Announcement("fuzz", services=infos))
        metadata = encode_entry(ANNOUNCE, said)
    setup = Setup(20_000, 90_000, COMPOSITE, OCTET_STREAM, metadata)
    return batch(encode_setup(setup), encode_keepalive(respond=True))


# -- the broker -----------------------------------------------------------------------------------


class _Broker:
    """A hub with a bystander that calls and one that serves `echo`."""

    def __init__(self) -> None:
        self.counters = Counters()
        loop = asyncio.get_running_loop()
        self.hub = Hub(
            Config(),
            self.counters,
            lambda hub, link: BuiltinServices(hub, link, _info),
            loop,
        )
        self.provider = self.end(setup_frames("echo"))
        self.caller = self.end(setup_frames())

    def end(self, first: bytes = b"") -> End:
        end = End(asyncio.get_running_loop(), self.hub.new_link("echo"))
        if first:
            end.feed(first)
            assert len(end.frames()) == 1  # the KEEPALIVE: admitted
        return end

    def bystanders_call(self) -> None:
        """A call between the other two works as if nothing had happened."""
        for end in (self.provider, self.caller):
            end.frames()
        self.caller.feed(batch(request(REQUEST_RESPONSE, 0x7FFF_FFF1, "echo.say")))
        asked = [peek(frame)[0] for frame in self.provider.frames()]
        answers = [encode_payload(there, None, b"well", complete=True) for there in asked]
        self.provider.feed(batch(*answers))
        (answer,) = self.caller.frames()
        assert peek(answer)[0] == 0x7FFF_FFF1
        assert answer.endswith(b"well")

    async def check_end(self, offender: End, sent: int) -> None:
        """The offender is gone: nothing is held, and the counters add up."""
        offender.flush()
        room = 2 * sent + FIXED_ANSWER
        assert offender.bytes_out <= room, f"{offender.bytes_out} bytes for {sent}"
        offender.end()
        await _settled()
        self.bystanders_call()
        for end in (self.caller, self.provider):
            end.end()
        await _no_task_is_left()
        hub = self.hub
        assert (hub.links, hub.held, hub.held_bytes, hub.streams_open()) == ({}, {}, 0, 0)
        for name, calls in self.counters.calls.items():
            ended = calls.ok + sum(calls.others.values())
            assert calls.started == ended, f"{name}: {calls.started} started, {ended} ended"
        if hub._timer is not None:
            hub._timer.cancel()


async def _broker_before_setup(data: bytes) -> None:
    """A new connection that sends anything at all."""
    broker = _Broker()
    offender = broker.end()
    for piece in _pieces(data):
        offender.feed(piece)
        await asyncio.sleep(0)
    await _settled()
    await broker.check_end(offender, len(data))


async def _broker_caller(data: bytes) -> None:
    """A caller that was admitted and then sends anything at all."""
    broker = _Broker()
    offender = broker.end(setup_frames())
    for piece in _pieces(data):
        offender.feed(piece)
        await asyncio.sleep(0)
    await _settled()
    await broker.check_end(offender, len(data))


async def _broker_provider(data: bytes) -> None:
    """A provider with an open call of each kind (its streams 2, 4, 6 and 8) sends anything."""
    broker = _Broker()
    offender = broker.end(setup_frames("victim"))
    caller = broker.end(setup_frames())
    kinds = (REQUEST_RESPONSE, REQUEST_STREAM, REQUEST_CHANNEL, REQUEST_CHANNEL)
    for index, kind in enumerate(kinds):
        n = None if kind == REQUEST_RESPONSE else 2 + index
        caller.feed(batch(request(kind, 1 + 2 * index, "victim.say", n=n)))
    caller.feed(batch(request(REQUEST_FNF, 9, "victim.say")))
    assert [peek(frame)[0] for frame in offender.frames()] == [2, 4, 6, 8, 10]
    for piece in _pieces(data):
        offender.feed(piece)
    await _settled()
    assert {peek(frame)[0] for frame in caller.frames()} <= {1, 3, 5, 7}
    caller.feed(batch(*(encode_cancel(stream_id) for stream_id in (1, 3, 5, 7))))
    caller.end()
    await broker.check_end(offender, len(data))


# -- the library ----------------------------------------------------------------------------------


class _Echo:
    """Serves every request with what it was sent."""

    async def request_response(self, payload: Payload) -> Payload:
        return payload

    async def fire_and_forget(self, payload: Payload) -> None:
        pass

    async def request_stream(self, payload: Payload) -> AsyncIterator[Payload]:
        for _ in range(3):
            yield payload

    async def request_channel(
        self, payload: Payload, incoming: AsyncIterator[Payload]
    ) -> AsyncIterator[Payload]:
        yield payload
        async for item in incoming:
            yield item

    def metadata_pushed(self, metadata: bytes) -> None:
        pass


async def _library_as_server(data: bytes) -> None:
    """A peer of ours that serves, admitted or not as the bytes will have it."""
    peer = Peer(_Echo())
    end = End(asyncio.get_running_loop(), peer)
    for piece in _pieces(data):
        end.feed(piece)
        await asyncio.sleep(0)
    await _settled()
    await _check_peer(peer, end)


async def _library_as_client(data: bytes) -> None:
    """A peer of ours with open calls of each kind (its streams 1, 3, 5) hears anything."""
    peer = Peer(_Echo(), setup=Setup(20_000, 90_000, COMPOSITE, OCTET_STREAM))
    end = End(asyncio.get_running_loop(), peer)
    end.feed(batch(encode_keepalive(respond=False)))
    payload = Payload(b"question")

    async def collect(items: Any) -> None:
        async with items as stream:
            async for _ in stream:
                pass

    async def outgoing() -> AsyncIterator[Payload]:
        for _ in range(3):
            yield payload

    calls = [
        asyncio.ensure_future(call)
        for call in (
            peer.requester.request_response(payload),
            collect(peer.requester.request_stream(payload)),
            collect(peer.requester.request_channel(payload, outgoing())),
        )
    ]
    await asyncio.sleep(0)
    for piece in _pieces(data):
        end.feed(piece)
        await asyncio.sleep(0)
    await _settled()
    await _check_peer(peer, end)
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        assert outcome is None or isinstance(outcome, Payload | RSocketError), repr(outcome)


async def _check_peer(peer: Peer, end: End) -> None:
    end.end()
    await _settled()
    assert peer.closed.done()
    assert peer.streams_open == 0
    assert peer._timer is None
    assert peer.requester.budget.used == 0  # one budget for both sides
    await asyncio.sleep(0)


# -- WebSocket ------------------------------------------------------------------------------------

_UPGRADE: Final = (
    b"GET / HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_URL: Final = parse_url("ws://127.0.0.1:9/")


async def _websocket_server(data: bytes, first: bytes = b"") -> None:
    """The accepting end, from its first byte or behind a good handshake."""
    receiver = Recorder(limit=MAX_FRAME)
    loop = asyncio.get_running_loop()
    accept: Any = lambda: receiver  # noqa: E731 - `Accept` of one receiver
    transport = server_factory(loop, _URL, accept, MAX_FRAME, 1 << 20, ())()
    await _feed_websocket(transport, receiver, first, data)


async def _websocket_client(data: bytes, opens: bool = False) -> None:
    """The dialling end, from the server's first byte or behind a good answer."""
    receiver = Recorder(limit=MAX_FRAME)
    loop = asyncio.get_running_loop()
    accept: Any = lambda: receiver  # noqa: E731 - as above
    transport = ClientTransport(loop, _URL, accept, MAX_FRAME, 1 << 20)
    await _feed_websocket(transport, receiver, b"", data, opens)
    assert transport.opened.done()
    assert transport.opened.exception() is None or not receiver.calls


async def _feed_websocket(
    transport: Any, receiver: Recorder, first: bytes, data: bytes, opens: bool = False
) -> None:
    socket = FakeSocket()
    transport.connection_made(socket)
    if opens:
        key = re.search(rb"Sec-WebSocket-Key: (\S+)", bytes(socket.written), re.IGNORECASE)
        assert key is not None
        accept = base64.b64encode(hashlib.sha1(key[1] + _GUID).digest())
        first = (
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
    if first:
        transport._bytes_received(first)
    for piece in _pieces(data):
        if not socket.is_over:
            transport._bytes_received(piece)
    if not socket.is_over:
        transport.eof_received()
    transport.connection_lost(None)
    await asyncio.sleep(0)
    assert transport.is_closing
    assert transport._deadline is None
    assert len(receiver.endings) == ("connected" in receiver.calls)
    assert all(6 <= len(frame) <= MAX_FRAME for frame in receiver.frames)
    assert sum(map(len, receiver.frames)) <= len(data)
    assert len(socket.written) <= 2 * len(data) + FIXED_ANSWER


def message(data: bytes, opcode: Opcode = Opcode.BINARY, *, mask: bool = True) -> bytes:
    """Return one WebSocket frame, for the corpus."""
    return Frame(opcode, data).serialize(mask=mask)


SESSIONS: Final[dict[str, Callable[[bytes], None]]] = {
    "broker_before_setup": partial(_run, _broker_before_setup),
    "broker_caller": partial(_run, _broker_caller),
    "broker_provider": partial(_run, _broker_provider),
    "library_as_server": partial(_run, _library_as_server),
    "library_as_client": partial(_run, _library_as_client),
    "websocket_request": partial(_run, _websocket_server),
    "websocket_messages": partial(_run, partial(_websocket_server, first=_UPGRADE)),
    "websocket_answer": partial(_run, _websocket_client),
    "websocket_client": partial(_run, partial(_websocket_client, opens=True)),
}


async def _info() -> dict[str, object]:
    return {"broker": "fuzz"}
