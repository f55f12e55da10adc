"""WebSocket as other implementations speak it, from both ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK, InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.typing import Origin

from rsocket_mesh.errors import ConnectionClosed, Unreachable
from rsocket_mesh.transport import dial, listen, websocket
from tests.support.transport_ends import Place, Recorder, send
from tests.support.waiting import until

LISTED = "https://console.example"


@asynccontextmanager
async def foreign_client(
    far: Recorder, *, path: str = "/rsocket", origin: str | None = None, **options: Any
) -> AsyncIterator[ClientConnection]:
    """Yield a client of another implementation, connected to a listener of ours."""
    listener = await listen(
        "ws://127.0.0.1:0", lambda: far, allowed_origins=[LISTED], max_frame=100_000
    )
    url = listener.url.removesuffix("/") + path
    try:
        async with connect(url, origin=Origin(origin) if origin else None, **options) as client:
            yield client
    finally:
        await listener.close()
        if far.transport is not None:
            far.transport.abort()
            await far.ended()


@asynccontextmanager
async def raw_client(
    far: Recorder,
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    listener = await listen("ws://127.0.0.1:0", lambda: far)
    port = int(listener.url.rstrip("/").rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        await listener.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        await until(lambda: far.transport is None or far.gone)


async def handshake(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(
        b"GET / HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")


async def test_one_binary_message_is_one_frame_in_both_directions() -> None:
    far = Recorder(echo=True)
    async with foreign_client(far) as client:
        await client.send(b"123456")
        await client.send(b"x" * 100_000)
        assert await client.recv() == b"123456"
        assert await client.recv() == b"x" * 100_000
        assert far.frames == [b"123456", b"x" * 100_000]


async def test_fragments_of_a_message_are_one_frame() -> None:
    far = Recorder()
    async with foreign_client(far) as client:
        await client.send([b"1", b"", b"2345", b"67"])
        await client.ping()
        await client.send(b"second")
        assert await far.arrived(2) == [b"1234567", b"second"]


async def test_fragments_that_exceed_the_limit_together_are_refused() -> None:
    far = Recorder(last_word=b"ERROR: too long")
    async with foreign_client(far) as client:
        await client.send([b"x" * 60_000, b"y" * 60_000])
        assert await client.recv() == b"ERROR: too long"
        with pytest.raises(ConnectionClosedError):
            await client.recv()
        assert client.close_code == 1009
        assert "100000" in far.violations[0]


async def test_compression_is_never_agreed_to() -> None:
    async with foreign_client(Recorder(), compression="deflate") as client:
        assert client.protocol.extensions == []


@pytest.mark.parametrize("path", ["/", "/rsocket", "/any/where?token=x"])
async def test_any_path_is_accepted(path: str) -> None:
    far = Recorder()
    async with foreign_client(far, path=path) as client:
        await client.send(b"123456")
        assert await far.arrived(1)


async def test_a_page_of_a_listed_origin_gets_in() -> None:
    async with foreign_client(Recorder(), origin=LISTED) as client:
        assert client.close_code is None


@pytest.mark.parametrize("origin", ["https://evil.example", "null", LISTED + ".evil.example"])
async def test_a_page_of_any_other_origin_is_refused(origin: str) -> None:
    far = Recorder()
    with pytest.raises(InvalidStatus, match="403"):
        async with foreign_client(far, origin=origin):
            pass
    assert far.calls == []


async def test_text_is_a_violation_and_closes_with_1003() -> None:
    far = Recorder(last_word=b"ERROR: text")
    async with foreign_client(far) as client:
        await client.send(b"before")
        await client.send("text")
        await client.send(b"behind")
        assert await client.recv() == b"ERROR: text"
        with pytest.raises(ConnectionClosedError):
            await client.recv()
        assert client.close_code == 1003
        assert far.frames == [b"before"]
        assert far.violations == ["text message; frames are binary messages"]


@pytest.mark.parametrize("size", range(6))
async def test_a_message_below_a_header_is_a_violation(size: int) -> None:
    far = Recorder(last_word=b"ERROR: short")
    async with foreign_client(far) as client:
        await client.send(b"x" * size)
        assert await client.recv() == b"ERROR: short"
        with pytest.raises(ConnectionClosedError):
            await client.recv()
        assert client.close_code == 1002
        assert far.violations == [f"frame length {size}, the header alone needs 6"]


async def test_pings_are_answered_and_close_is_answered() -> None:
    far = Recorder()
    async with foreign_client(far) as client:
        await asyncio.wait_for(await client.ping(), 5)
        await client.close()
        assert client.close_code == 1000
        assert await far.ended() is None


async def test_our_close_is_a_normal_closure() -> None:
    far = Recorder()
    async with foreign_client(far) as client:
        send(far.transport, b"goodbye")
        far.transport.close()
        assert await client.recv() == b"goodbye"
        with pytest.raises(ConnectionClosedOK):
            await client.recv()
        assert await far.ended() is None


async def test_a_close_with_an_error_code_is_told() -> None:
    far = Recorder()
    async with foreign_client(far) as client:
        await client.close(1011, "out of order")
        error = await far.ended()
        assert isinstance(error, ConnectionClosed)
        assert "1011 out of order" in str(error)


async def test_a_peer_that_vanishes_without_a_close_frame_is_an_error() -> None:
    far = Recorder()
    async with foreign_client(far) as client:
        client.transport.abort()
        error = await far.ended()
        assert isinstance(error, ConnectionClosed | ConnectionError)


async def test_a_peer_that_does_not_answer_our_close_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rsocket_mesh.transport.framed.CLOSE_TIMEOUT", 0.05)
    far = Recorder()
    async with raw_client(far) as (reader, writer):
        await handshake(reader, writer)
        await until(lambda: far.transport is not None)
        far.transport.close()
        assert (await reader.readexactly(4))[:2] == b"\x88\x02"
        assert await far.ended() is None


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: here\r\n\r\n", b"HTTP/1.1 426 "),
        (b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 4"),
        (b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\n\r\n", b"HTTP/1.1 414 "),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", b"HTTP/1.1 431 "),
        (
            b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
            b"HTTP/1.1 400 ",
        ),
    ],
)
async def test_plain_http_gets_an_http_answer_and_the_end(request_: bytes, status: bytes) -> None:
    far = Recorder()
    async with raw_client(far) as (reader, writer):
        writer.write(request_)
        answer = await reader.read()
        assert answer.startswith(status), answer
        assert b"\r\n\r\n" in answer
        assert far.calls == []


@pytest.mark.parametrize("rubbish", [b"\0\0\x1d" + b"x" * 29 + b"\n", b"\x16\x03\x01\x02\n"])
async def test_what_is_not_http_is_closed(rubbish: bytes) -> None:
    far = Recorder()
    async with raw_client(far) as (reader, writer):
        writer.write(rubbish)
        assert await reader.read() == b""
        assert far.calls == []


async def test_a_client_that_never_asks_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "HANDSHAKE_TIMEOUT", 0.05)
    far = Recorder()
    async with raw_client(far) as (reader, writer):
        writer.write(b"GET / HT")
        assert await reader.read() == b""
        assert far.calls == []


async def test_frames_in_front_of_our_answer_end_the_connection() -> None:
    far = Recorder()
    async with raw_client(far) as (reader, writer):
        frame = Frame(Opcode.CLOSE, b"").serialize(mask=True)
        writer.write(b"GET / HTTP/1.1\r\n\r\n" + frame)
        with suppress(ConnectionError):
            assert await reader.read() == b""
        assert far.calls == []


async def test_an_unmasked_frame_is_a_violation() -> None:
    far = Recorder(last_word=b"ERROR: unmasked")
    async with raw_client(far) as (reader, writer):
        await handshake(reader, writer)
        writer.write(Frame(Opcode.BINARY, b"123456").serialize(mask=False))
        answer = await reader.read()
        assert answer.startswith(b"\x82\x0fERROR: unmasked\x88")
        assert len(far.violations) == 1


async def test_a_flood_of_pings_from_a_peer_that_does_not_read_is_cut_off() -> None:
    far = Recorder()
    listener = await listen("ws://127.0.0.1:0", lambda: far, max_outbound=1_000_000)
    port = int(listener.url.rstrip("/").rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        await handshake(reader, writer)
        reader._transport.pause_reading()  # type: ignore[attr-defined]  # no public way
        pings = Frame(Opcode.PING, b"x" * 125).serialize(mask=True) * 2000
        with suppress(ConnectionError):
            while not far.gone:
                writer.write(pings)
                await asyncio.wait_for(writer.drain(), 5)
        error = await far.ended()
        assert isinstance(error, ConnectionClosed)
        assert error.reason == "slow-reader"
    finally:
        await listener.close()
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()


# Our client against a foreign server


@asynccontextmanager
async def foreign_server(
    handler: Callable[[ServerConnection], Any], **options: Any
) -> AsyncIterator[str]:
    async with serve(handler, "127.0.0.1", 0, **options) as server:
        yield f"ws://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}/path?q=1"


async def test_our_client_speaks_to_a_foreign_server() -> None:
    seen: list[Any] = []

    async def echo(connection: ServerConnection) -> None:
        assert connection.request is not None
        seen.append(connection.request)
        async for message in connection:
            seen.append(message)
            await connection.send([message[:3], message[3:]])

    near = Recorder()
    async with foreign_server(echo) as url:
        transport = await dial(url, near, timeout=5)
        send(transport, b"123456", b"x" * 70_000)
        assert await near.arrived(2) == [b"123456", b"x" * 70_000]
        transport.close()
        assert await near.ended() is None
    assert seen[0].path == "/path?q=1"
    assert "Origin" not in seen[0].headers
    assert "Sec-WebSocket-Extensions" not in seen[0].headers
    assert seen[1:] == [b"123456", b"x" * 70_000]


async def test_a_frame_right_behind_the_handshake_is_not_lost() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from websockets.utils import accept_key

        request = await reader.readuntil(b"\r\n\r\n")
        key = request.lower().partition(b"sec-websocket-key: ")[2]
        start = len(request) - len(key)
        accept = accept_key(request[start:].partition(b"\r")[0].decode()).encode()
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n\x82\x06123456"
        )
        await reader.read()
        writer.close()

    near = Recorder()
    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        transport = await dial(f"ws://127.0.0.1:{port}", near, timeout=5)
        assert await near.arrived(1) == [b"123456"]
        transport.abort()
        await near.ended()


async def test_a_server_that_refuses_is_unreachable_with_its_words() -> None:
    def refuse(connection: ServerConnection, request: Any) -> Any:
        return connection.respond(503, "the house is full\n")

    async def never(connection: ServerConnection) -> None:
        raise AssertionError

    near = Recorder()
    async with foreign_server(never, process_request=refuse) as url:
        with pytest.raises(Unreachable, match=r"503.*the house is full"):
            await dial(url, near, timeout=5)
    assert near.calls == []


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 503 Busy\r\n\r\nthe house is full", "503: the house is full"),
        (b"", "did not receive a valid HTTP response"),
        (b"\0\0\x06123456\n", "did not receive a valid HTTP response"),
    ],
)
async def test_a_server_that_answers_and_closes_is_unreachable_with_the_cause(
    answer: bytes, why: str
) -> None:
    async def serve_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    near = Recorder()
    async with await asyncio.start_server(serve_once, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(Unreachable, match=f"WebSocket handshake: .*{why}"):
            await dial(f"ws://127.0.0.1:{port}", near, timeout=5)
    assert near.calls == []


async def test_our_own_refusal_says_why(make_place: Callable[[str], Place]) -> None:
    listener = await make_place("ws").listen(Recorder)
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", int(listener.url.split(":")[2].split("/")[0])
    )
    writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
    assert b"You need a WebSocket client" in await reader.read()
    writer.close()
    await writer.wait_closed()
    await listener.close()
