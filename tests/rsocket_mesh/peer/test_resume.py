"""A client whose socket breaks, against a server that is played frame by frame."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from rsocket_mesh.errors import ConnectionClosed, DeadlineExceeded, ErrorCode, Unreachable
from rsocket_mesh.peer import Peer, open_peer, redial
from rsocket_mesh.peer import peer as peer_module
from rsocket_mesh.protocol import frames
from rsocket_mesh.protocol.frames import (
    ERROR,
    KEEPALIVE,
    LEASE,
    REQUEST_RESPONSE,
    RESUME,
    RESUME_OK,
    SETUP,
    Setup,
    peek,
)
from rsocket_mesh.protocol.framing import PREFIX_SIZE, prefix_lengths
from rsocket_mesh.protocol.payload import Payload
from rsocket_mesh.protocol.resume import MIN_TOKEN, SESSION_BYTES
from tests.support.raw_peers import ListTransport
from tests.support.waiting import settled, until

HELLO = Setup(20_000, 90_000, "message/x.rsocket.composite-metadata.v0", "application/cbor")
WAIT = 5.0  # seconds for what has to come
QUIET = 0.2  # seconds in which nothing may come


class Socket:
    """One connection, as the server has it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def frame(self) -> bytes:
        """Return the next frame."""
        async with asyncio.timeout(WAIT):
            size = int.from_bytes(await self._reader.readexactly(PREFIX_SIZE), "big")
            return await self._reader.readexactly(size)

    async def expect(self, kind: int) -> bytes:
        frame = await self.frame()
        assert peek(frame)[1] == kind, frames.describe(frame)
        return frame

    async def is_quiet(self) -> bool:
        """Whether nothing comes for a while."""
        try:
            async with asyncio.timeout(QUIET):
                await self.frame()
        except TimeoutError:
            return True
        return False

    async def ended(self) -> None:
        async with asyncio.timeout(WAIT):
            assert await self._reader.read() == b""

    def send(self, *some: bytes) -> None:
        self._writer.write(b"".join(prefix_lengths(some)))

    def send_bytes(self, data: bytes) -> None:
        self._writer.write(data)

    def cut(self) -> None:
        self._writer.transport.abort()

    def close(self) -> None:
        self._writer.close()


class Server:
    """Accepts; the test says what happens then."""

    def __init__(self) -> None:
        self._waiting: asyncio.Queue[Socket] = asyncio.Queue()
        self._sockets: list[Socket] = []
        self._server: asyncio.Server | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        socket = Socket(reader, writer)
        self._sockets.append(socket)
        self._waiting.put_nowait(socket)

    async def socket(self) -> Socket:
        """Return the next connection."""
        async with asyncio.timeout(WAIT):
            return await self._waiting.get()

    async def nobody_comes(self) -> bool:
        await asyncio.sleep(QUIET)
        return self._waiting.empty()

    def stop(self) -> None:
        """Accept nobody any more; connections live on."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def close(self) -> None:
        self.stop()
        for socket in self._sockets:
            socket.cut()


class Session:
    """A client that has been accepted, and what the server knows."""

    def __init__(self, server: Server, peer: Peer, socket: Socket, setup: Setup) -> None:
        self.server = server
        self.peer = peer
        self.socket = socket
        self.setup = setup

    def call(self, data: bytes = b"q", timeout: float | None = None) -> asyncio.Task[Payload]:
        return asyncio.create_task(
            self.peer.requester.request_response(Payload(data), timeout=timeout)
        )

    async def cut(self) -> None:
        """Cut the socket, and return when the client knows."""
        self.socket.cut()
        await until(lambda: not self.peer.requester.outbox.open, "detached")

    async def resumed(self, position: int) -> frames.Resume:
        """Take the next connection, answer RESUME_OK(*position*), and return what was asked."""
        self.socket = await self.server.socket()
        asked = frames.decode_resume(await self.socket.expect(RESUME))
        self.socket.send(frames.encode_resume_ok(position))
        return asked


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    await server.start()
    yield server
    server.close()


@asynccontextmanager
async def a_session(server: Server, setup: Setup = HELLO, **options: Any) -> AsyncIterator[Session]:
    opening = asyncio.create_task(
        open_peer(server.url, setup=setup, timeout=WAIT, resume=True, **options)
    )
    socket = await server.socket()
    said = frames.decode_setup(await socket.expect(SETUP))
    assert frames.decode_keepalive(await socket.expect(KEEPALIVE)) == (True, 0, b"")
    socket.send(frames.encode_keepalive(respond=False))
    peer = await opening
    session = Session(server, peer, socket, said)
    yield session
    peer.close()
    session.socket.close()  # as a server does that has read the goodbye
    await asyncio.wait_for(peer.wait_closed(), WAIT)


@pytest.fixture
async def session(server: Server) -> AsyncIterator[Session]:
    async with a_session(server) as session:
        yield session


def answer(stream_id: int, data: bytes) -> bytes:
    return frames.encode_payload(stream_id, None, data, complete=True)


# -- asking ---------------------------------------------------------------------------------------


async def test_a_session_with_resume_says_so_in_setup_with_a_token_that_is_text(session):
    token = session.setup.resume_token
    assert len(token) >= MIN_TOKEN
    assert token.isalnum()
    assert session.setup._replace(resume_token=None) == HELLO


async def test_every_session_has_a_token_of_its_own(server, session):
    async with a_session(server) as other:
        assert other.setup.resume_token != session.setup.resume_token


async def test_a_session_without_resume_has_no_token_and_ends_with_its_socket(server):
    opening = asyncio.create_task(open_peer(server.url, setup=HELLO, timeout=WAIT))
    socket = await server.socket()
    assert frames.decode_setup(await socket.expect(SETUP)) == HELLO
    await socket.expect(KEEPALIVE)
    socket.send(frames.encode_keepalive(respond=False))
    peer = await opening
    socket.cut()
    assert isinstance(await asyncio.wait_for(peer.closed, WAIT), ConnectionClosed)
    assert await server.nobody_comes()


async def test_keepalives_carry_the_position_of_what_was_received(server):
    """C-114."""
    async with a_session(server, HELLO._replace(keepalive_ms=50)) as session:
        call = session.call()
        await session.socket.expect(REQUEST_RESPONSE)
        got = answer(1, b"a")
        session.socket.send(got, frames.encode_keepalive(respond=True, data=b"d"))
        await call
        assert frames.decode_keepalive(await session.socket.frame()) == (False, len(got), b"d")
        assert frames.decode_keepalive(await session.socket.frame()) == (True, len(got), b"")


# -- going on -------------------------------------------------------------------------------------


async def test_a_call_in_flight_goes_on_over_another_socket(session):
    """C-115: the request had arrived, its answer had not."""
    call = session.call()
    request = await session.socket.expect(REQUEST_RESPONSE)
    await session.cut()
    asked = await session.resumed(len(request))
    assert asked == frames.Resume(session.setup.resume_token, 0, 0)
    session.socket.send(answer(1, b"a"))
    assert (await call).data == b"a"
    assert session.peer.ignored == {}


async def test_what_the_server_has_not_got_is_sent_again_and_nothing_else(session):
    """C-115: one request had arrived, one was lost, one was made while there was no socket."""
    calls = [session.call(b"1"), session.call(b"2")]
    first, second = await session.socket.frame(), await session.socket.frame()
    await session.cut()
    calls.append(session.call(b"3", timeout=WAIT))
    await session.resumed(len(first))
    assert await session.socket.frame() == second
    assert (await session.socket.frame())[-1:] == b"3"
    session.socket.send(*(answer(index, b"a") for index in (1, 3, 5)))
    assert len(await asyncio.gather(*calls)) == 3


async def test_nothing_is_sent_behind_resume_until_it_is_answered(session):
    """C-116."""
    await session.cut()
    socket = session.socket = await session.server.socket()
    await socket.expect(RESUME)
    call = session.call(timeout=WAIT)
    assert await socket.is_quiet()
    socket.send(frames.encode_resume_ok(0))
    await socket.expect(REQUEST_RESPONSE)
    socket.send(answer(1, b"a"))
    assert (await call).data == b"a"


async def test_frames_in_one_batch_with_resume_ok_count(session):
    call = session.call()
    request = await session.socket.frame()
    await session.cut()
    socket = session.socket = await session.server.socket()
    await socket.expect(RESUME)
    got = answer(1, b"a")
    whole = b"".join(prefix_lengths([frames.encode_resume_ok(len(request)), got]))
    for at in range(0, len(whole), 5):  # in pieces that fit no frame
        socket.send_bytes(whole[at : at + 5])
        await settled()
    assert (await call).data == b"a"
    socket.send(frames.encode_keepalive(respond=True))
    assert frames.decode_keepalive(await socket.frame()).position == len(got)


async def test_a_frame_that_was_cut_in_the_middle_does_not_count(session):
    call = session.call()
    request = await session.socket.frame()
    got = b"".join(prefix_lengths([answer(1, bytes(100))]))
    session.socket.send_bytes(got[:50])
    await settled()
    session.socket.close()
    assert (await session.resumed(len(request))).last_server_position == 0
    session.socket.send_bytes(got)
    assert (await call).data == bytes(100)


async def test_the_same_session_survives_many_sockets(session):
    position = 0
    for index in range(5):
        call = session.call()
        position += len(await session.socket.frame())
        await session.cut()
        await session.resumed(position)
        session.socket.send(answer(2 * index + 1, b"a"))
        await call


async def test_a_cut_in_the_exchange_itself_is_followed_by_another_attempt(session):
    call = session.call()
    request = await session.socket.frame()
    await session.cut()
    (await session.server.socket()).cut()
    socket = session.socket = await session.server.socket()
    await socket.expect(RESUME)
    socket.send_bytes(b"\0\0")
    socket.close()
    await session.resumed(len(request))
    session.socket.send(answer(1, b"a"))
    await call


async def test_a_server_that_cannot_be_reached_for_a_while_is_tried_again(session):
    session.server.stop()
    await session.cut()
    await asyncio.sleep(0.1)
    await session.server.start()
    await session.resumed(0)
    call = session.call()
    await session.socket.expect(REQUEST_RESPONSE)
    session.socket.send(answer(1, b"a"))
    await call


async def test_another_error_than_rejected_resume_is_followed_by_another_attempt(session):
    await session.cut()
    socket = session.socket = await session.server.socket()
    await socket.expect(RESUME)
    socket.send(frames.encode_error(0, ErrorCode.CONNECTION_ERROR, "busy"))
    await session.resumed(0)


async def test_a_server_that_does_not_answer_resume_is_left(session, monkeypatch):
    monkeypatch.setattr(redial, "ATTEMPT_TIMEOUT", 0.1)
    await session.cut()
    socket = session.socket = await session.server.socket()
    await socket.expect(RESUME)
    await socket.ended()
    await session.resumed(0)


async def test_an_answer_in_the_turn_of_the_loop_in_which_its_time_is_over_is_the_answer(
    session, monkeypatch
):
    """And no second RESUME follows, with which the server would close what runs."""
    monkeypatch.setattr(redial, "ATTEMPT_TIMEOUT", 0.5)
    await session.cut()
    socket = session.socket = await session.server.socket()
    await socket.expect(RESUME)
    socket.send(frames.encode_resume_ok(0))
    time.sleep(0.6)  # noqa: ASYNC251  # the loop is busy beyond the time of the attempt
    await until(lambda: not session.peer.is_detached, "resumed")
    assert await session.server.nobody_comes()
    call = session.call()
    await socket.expect(REQUEST_RESPONSE)
    socket.send(answer(1, b"a"))
    await call


async def test_an_answer_behind_the_end_of_its_time_attaches_nothing(session):
    session.server.stop()
    await session.cut()
    transport = session.peer._redial.transport
    exchange = redial._Exchange(transport, b"token")
    late = ListTransport("late")
    exchange.connected(late)
    exchange.answered.cancel()  # what the time-out does; the task learns of it a turn later
    data = b"".join(prefix_lengths([frames.encode_resume_ok(0)]))
    assert exchange.batch_received(data) == len(data)
    assert session.peer.is_detached
    exchange.close()
    assert late.closed


async def test_one_looks_for_a_socket_at_a_time_and_one_socket_carries_the_session(session):
    session.server.stop()
    await session.cut()
    looking = session.peer._redial._task
    session.peer._redial.start()
    await settled()
    assert looking.cancelled()
    await session.server.start()
    await session.resumed(0)
    await until(lambda: not session.peer.is_detached, "resumed")
    other = ListTransport("other")
    session.peer._redial.transport.resumed(other, 0)
    await session.socket.ended()
    other.receiver.disconnected(None)
    await session.resumed(0)


async def test_a_silent_socket_is_left_and_the_session_goes_on_over_another(server):
    """C-52: silence for the lifetime ends the socket, not the session."""
    async with a_session(server, HELLO._replace(lifetime_ms=200, keepalive_ms=100)) as session:
        call = session.call()
        request = await session.socket.expect(REQUEST_RESPONSE)
        old = session.socket
        await session.resumed(len(request))
        assert session.peer.closed.done() is False
        session.socket.send(answer(1, b"a"))
        await call
        while True:  # its keepalives, and then the end
            try:
                await old.expect(KEEPALIVE)
            except (asyncio.IncompleteReadError, ConnectionResetError):
                break


async def test_calls_made_without_a_socket_wait_within_their_deadline(session):
    session.server.stop()
    await session.cut()
    with pytest.raises(DeadlineExceeded, match="not sent"):
        await session.call(timeout=0.1)
    await session.server.start()
    await session.resumed(0)
    assert await session.socket.is_quiet()


async def test_leases_begin_anew_on_the_new_socket(server):
    """C-123: calls wait for a LEASE there, and the server is granted a new one."""
    async with a_session(server, HELLO._replace(lease=True)) as session:
        await session.socket.expect(LEASE)
        session.socket.send(frames.encode_lease(frames.Lease(10_000, 5)))
        await until(lambda: session.peer.requester.leased.left == 5)
        await session.cut()
        await session.resumed(0)
        await session.socket.expect(LEASE)
        call = session.call(timeout=WAIT)
        assert await session.socket.is_quiet()
        session.socket.send(frames.encode_lease(frames.Lease(10_000, 5)))
        await session.socket.expect(REQUEST_RESPONSE)
        session.socket.send(answer(1, b"a"))
        await call


async def test_requests_within_the_old_lease_may_come_again_where_there_is_no_room_now(server):
    room = 2
    setup = HELLO._replace(lease=True)
    async with a_session(server, setup, free=lambda _: room) as session:
        assert frames.decode_lease(await session.socket.expect(LEASE)).requests == 2
        room = 0
        await session.cut()  # two requests are lost with it
        await session.resumed(0)
        request = frames.encode_request(REQUEST_RESPONSE, 2, None, b"q")
        session.socket.send(request, b"\0\0\0\4" + request[4:], b"\0\0\0\6" + request[4:])
        errors = [frames.decode_error(await session.socket.expect(ERROR)) for _ in range(3)]
        beyond = [error.stream_id for error in errors if "beyond the lease" in error.text]
        assert beyond == [6]


# -- the store ------------------------------------------------------------------------------------


async def test_the_position_is_asked_for_while_much_is_sent_and_the_store_stays_low(session):
    data = bytes(SESSION_BYTES // 64)
    books = session.peer._redial.transport.books
    position, asked, most = 0, 0, 0
    sending = asyncio.create_task(send_many(session.peer, data, 256))
    while not sending.done() or books.stored > SESSION_BYTES // 8:
        try:
            async with asyncio.timeout(QUIET):
                frame = await session.socket.frame()
        except TimeoutError:
            break
        most = max(most, books.stored)
        if peek(frame)[1] == KEEPALIVE:
            asked += 1
            session.socket.send(frames.encode_keepalive(respond=False, position=position))
        else:
            position += len(frame)
    await sending
    assert position > 4 * SESSION_BYTES - 256 * 100
    assert asked >= 4 * 8 / 2
    assert books.first > 0
    assert most < SESSION_BYTES


async def send_many(peer: Peer, data: bytes, count: int) -> None:
    for _ in range(count):
        await peer.requester.fire_and_forget(Payload(data))


async def test_who_never_acknowledges_is_not_written_to_beyond_half_a_store(session):
    data = bytes(SESSION_BYTES // 64)
    books = session.peer._redial.transport.books
    sending = asyncio.create_task(send_many(session.peer, data, 256))
    reading = asyncio.create_task(read_all(session.socket))
    await until(lambda: books.is_filling, "half full")
    await asyncio.sleep(QUIET)
    assert not sending.done()
    assert books.first == 0
    assert books.stored < SESSION_BYTES * 3 / 4
    session.socket.send(frames.encode_keepalive(respond=False, position=books.sent))
    await until(lambda: books.first > 0, "trimmed, and going on")
    sending.cancel()
    reading.cancel()


async def read_all(socket: Socket) -> None:
    while True:
        await socket.frame()


# -- the end --------------------------------------------------------------------------------------


async def test_rejected_resume_ends_the_session_for_good(session):
    """C-119."""
    call = session.call()
    await session.cut()
    socket = session.socket = await session.server.socket()
    await socket.expect(RESUME)
    socket.send(frames.encode_error(0, ErrorCode.REJECTED_RESUME, "no such session"))
    with pytest.raises(ConnectionClosed, match="no such session"):
        await call
    assert (await session.peer.closed).reason == "resume-refused"
    assert await session.server.nobody_comes()


@pytest.mark.parametrize("position", [1, 7, 1000], ids=["inside a frame", "trimmed", "ahead"])
async def test_a_resume_ok_that_cannot_be_served_ends_the_session(session, position):
    """C-120, C-124."""
    calls = [session.call(), session.call()]
    first = await session.socket.frame()
    await session.socket.frame()
    assert len(first) == 7
    session.socket.send(frames.encode_keepalive(respond=False, position=14))
    await until(lambda: session.peer._redial.transport.books.first == 14)
    await session.cut()
    await session.resumed(position)
    error = frames.decode_error(await session.socket.frame())
    assert error.code == ErrorCode.CONNECTION_ERROR
    assert str(position) in error.text
    assert (await session.peer.closed).reason == "resume-refused"
    assert await session.server.nobody_comes()
    for result in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(result, ConnectionClosed)


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(answer(1, b"x"), id="PAYLOAD"),
        pytest.param(frames.encode_keepalive(respond=True), id="KEEPALIVE"),
        pytest.param(b"\x80\0\0\0\x38\0", id="reserved bit"),
        pytest.param(b"\0\0\0\0\x38\0", id="too short"),
        pytest.param(b"\0\0", id="no header"),
    ],
)
async def test_anything_else_in_answer_to_resume_ends_the_session(session, frame):
    await session.cut()
    socket = session.socket = await session.server.socket()
    await socket.expect(RESUME)
    socket.send(frame)
    assert frames.decode_error(await socket.frame()).code == ErrorCode.CONNECTION_ERROR
    assert (await session.peer.closed).reason == "resume-refused"


async def test_a_session_that_is_not_resumed_in_its_time_ends(server, monkeypatch):
    """C-125."""
    monkeypatch.setattr(peer_module, "RESUME_TIME", 0.2)
    async with a_session(server) as session:
        server.stop()
        call = session.call()
        await session.socket.frame()
        await session.cut()
        with pytest.raises(ConnectionClosed):
            await call
        assert (await session.peer.closed).reason == "resume-timeout"
        assert session.peer._redial.transport.books.stored == 0


async def test_a_position_that_was_never_sent_ends_the_session(session):
    """C-124."""
    session.socket.send(frames.encode_keepalive(respond=False, position=99))
    error = frames.decode_error(await session.socket.frame())
    assert error.code == ErrorCode.CONNECTION_ERROR
    assert "99" in error.text
    await session.peer.closed
    assert await session.server.nobody_comes()


async def test_a_server_that_said_goodbye_is_not_resumed(session):
    session.socket.send(frames.encode_error(0, ErrorCode.CONNECTION_CLOSE, "bye"))
    await session.socket.ended()
    assert await session.server.nobody_comes()


async def test_a_socket_that_breaks_before_the_verdict_is_not_resumed(server):
    opening = asyncio.create_task(open_peer(server.url, setup=HELLO, timeout=WAIT, resume=True))
    socket = await server.socket()
    await socket.expect(SETUP)
    socket.cut()
    with pytest.raises(Unreachable):
        await opening
    assert await server.nobody_comes()


@pytest.mark.parametrize("dialling", [True, False])
async def test_closing_without_a_socket_ends_everything_at_once(session, dialling):
    if not dialling:
        session.server.stop()
    call = session.call()
    await session.cut()
    if dialling:
        await (await session.server.socket()).expect(RESUME)
    session.peer.close()
    with pytest.raises(ConnectionClosed):
        await call
    await asyncio.wait_for(session.peer.wait_closed(), WAIT)
    assert await session.server.nobody_comes()


async def test_resume_ok_out_of_place_is_ignored(session):
    session.socket.send(frames.encode_resume_ok(5), frames.encode_keepalive(respond=True))
    await session.socket.expect(KEEPALIVE)
    assert session.peer.ignored == {"RESUME_OK on stream 0": 1}
    assert RESUME_OK == 0x0E
