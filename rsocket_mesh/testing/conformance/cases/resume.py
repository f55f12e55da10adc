"""C-113 to C-125: sessions that outlive their transport."""

from __future__ import annotations

import asyncio
import secrets
from typing import NamedTuple

from rsocket_mesh.errors import ErrorCode
from rsocket_mesh.protocol.frames import (
    LEASE,
    RESUME,
    RESUME_OK,
    SETUP,
    Resume,
    encode_cancel,
    encode_keepalive,
    encode_metadata_push,
    encode_payload,
    encode_request_n,
    encode_resume,
    encode_resume_ok,
    encode_setup,
)
from rsocket_mesh.rpc.mesh import Mesh
from rsocket_mesh.testing.conformance import raw_peer
from rsocket_mesh.testing.conformance.bench import Bench, until
from rsocket_mesh.testing.conformance.raw_peer import RawPeer
from rsocket_mesh.testing.conformance.registry import accepting, dialling
from rsocket_mesh.testing.conformance.verdicts import Failed, check
from rsocket_mesh.testing.conformance.wire import WireListener

REFUSED = (ErrorCode.INVALID_SETUP, ErrorCode.UNSUPPORTED_SETUP, ErrorCode.REJECTED_SETUP)
QUIET = 0.1  # seconds without a frame, where a question would be one frame too many


def token() -> bytes:
    """Return a resume token; hexadecimal, since some implementations read it as text."""
    return secrets.token_hex(16).encode()


class Session(NamedTuple):
    """A session of the case's own, on its first connection; `streamed` items have come."""

    peer: RawPeer
    token: bytes
    sent: int  # position of what this side sent
    received: int  # position of what came
    stream_id: int


async def open_session(bench: Bench, key: bytes | None = None, lease: bool = False) -> RawPeer:
    """Return a connection that may be resumed with *key*."""
    peer = await bench.dial()
    await peer.introduce(raw_peer.SETUP._replace(resume_token=key or token(), lease=lease))
    return peer


async def streaming(bench: Bench) -> Session:
    """Return a session with a stream that has sent the two items asked for."""
    key = token()
    peer = await open_session(bench, key)
    request = peer.request("stream", b"10", stream_id=peer.next_id(), n=2)
    stream_id = 1
    await peer.send(request)
    frames = [await peer.expect_answer(stream_id, item) for item in (b"1", b"2")]
    return Session(peer, key, len(request), sum(len(frame.raw) for frame in frames), stream_id)


async def resume(bench: Bench, key: bytes, received: int, first: int = 0) -> RawPeer:
    """Return a new connection on which RESUME was sent."""
    peer = await bench.dial()
    await peer.send(encode_resume(Resume(key, received, first)))
    return peer


async def expect_resumed(peer: RawPeer, position: int) -> None:
    """Expect RESUME_OK with what the server has received."""
    frame = await peer.expect(RESUME_OK, 0)
    check(frame.position == position, f"position {position}", frame)


@accepting("C-113", "resume")
async def positions_count_the_bytes_of_tracked_frames(bench: Bench) -> None:
    peer = await open_session(bench)
    check((await peer.fence()).position == 0, "position 0 behind SETUP", "another")
    frames = [peer.request("stream", b"9", stream_id=1, n=1)]
    frames += [encode_request_n(1, 1), encode_cancel(1)]
    untracked = [encode_keepalive(False, 0, b"x"), encode_metadata_push(b"")]
    await peer.send(*frames, *untracked)
    wanted = sum(map(len, frames))
    answer = await peer.fence()
    check(answer.position == wanted, f"position {wanted}", answer)


@accepting("C-114", "resume")
async def a_position_trims_the_store(bench: Bench) -> None:
    session = await streaming(bench)
    answer = await session.peer.fence()
    check(answer.position == session.sent, f"position {session.sent}", answer)
    await session.peer.send(encode_keepalive(False, session.received))
    await session.peer.fence()
    session.peer.wire.abort()
    again = await resume(bench, session.token, 0)  # from before what was given up
    await again.expect_end(ErrorCode.REJECTED_RESUME)


@accepting("C-115", "resume")
async def a_stream_goes_on_over_a_new_connection(bench: Bench) -> None:
    session = await streaming(bench)
    one_item = session.received // 2
    session.peer.wire.abort()
    peer = await resume(bench, session.token, one_item)  # as if the second had been lost
    await expect_resumed(peer, session.sent)
    await peer.expect_items(session.stream_id, [b"2"])
    await peer.send(encode_request_n(session.stream_id, 20))
    await peer.expect_items(session.stream_id, [b"%d" % item for item in range(3, 11)])


@accepting("C-115", "resume")
async def what_was_lost_on_the_way_there_is_sent_again(bench: Bench) -> None:
    session = await streaming(bench)
    demand = encode_request_n(session.stream_id, 20)  # kept, but never sent on the first
    session.peer.wire.abort()
    peer = await resume(bench, session.token, session.received)
    await expect_resumed(peer, session.sent)
    await peer.send(demand)
    await peer.expect_items(session.stream_id, [b"%d" % item for item in range(3, 11)])


@accepting("C-117")
async def an_unknown_session_cannot_be_resumed(bench: Bench) -> None:
    peer = await resume(bench, token(), 0)
    await peer.expect_end(ErrorCode.REJECTED_RESUME)


@accepting("C-118", "resume")
async def positions_that_the_server_cannot_serve_are_rejected(bench: Bench) -> None:
    for beyond_received, first in ((1000, 0), (0, 1_000_000)):
        session = await streaming(bench)
        session.peer.wire.abort()
        received = session.received + beyond_received
        peer = await resume(bench, session.token, received, first)
        await peer.expect_end(ErrorCode.REJECTED_RESUME)


@accepting("C-121")
async def resume_behind_setup_is_an_error(bench: Bench) -> None:
    peer = await bench.caller()
    await peer.send(encode_resume(Resume(token(), 0, 0)))
    await peer.expect_end()


@accepting("C-121", "resume")
async def a_second_resume_is_an_error(bench: Bench) -> None:
    session = await streaming(bench)
    session.peer.wire.abort()
    peer = await resume(bench, session.token, session.received)
    await expect_resumed(peer, session.sent)
    await peer.send(encode_resume(Resume(session.token, session.received, 0)))
    await peer.expect_end()


@accepting("C-122", "resume")
async def a_token_in_use_is_not_accepted_again(bench: Bench) -> None:
    key = token()
    first = await open_session(bench, key)
    second = await bench.dial()
    await second.send(encode_setup(raw_peer.SETUP._replace(resume_token=key)))
    await second.expect_end(*REFUSED)
    await first.silence()


@accepting("C-123", "resume", "lease")
async def a_resumed_connection_is_leased_anew(bench: Bench) -> None:
    key = token()
    first = await open_session(bench, key, lease=True)
    await first.expect(LEASE, 0)
    first.wire.abort()
    peer = await resume(bench, key, 0)
    await peer.expect(RESUME_OK, 0)
    await peer.expect(LEASE, 0)


@accepting("C-124", "resume")
async def a_position_between_frames_ends_the_session(bench: Bench) -> None:
    session = await streaming(bench)
    session.peer.wire.abort()
    peer = await resume(bench, session.token, session.received - 3)
    await peer.expect_end(ErrorCode.REJECTED_RESUME, ErrorCode.CONNECTION_ERROR)


@accepting("C-125", "resume", "short-resume")
async def a_session_given_up_ends_its_streams(bench: Bench) -> None:
    strict = await bench.strict()
    session = await streaming(strict)
    session.peer.wire.abort()
    await until(lambda: strict.seen.ended == ["stream"], "the handler to be cancelled")
    peer = await resume(strict, session.token, session.received)
    await peer.expect_end(ErrorCode.REJECTED_RESUME)


# -- our library as the client that resumes -------------------------------------------------------


class Resuming(NamedTuple):
    """A session of our library: where it dials, its first connection, and its token."""

    listener: WireListener
    peer: RawPeer
    mesh: Mesh
    token: bytes


async def resuming(bench: Bench) -> Resuming:
    """Let our library open a session that it wants to resume."""
    listener = await bench.listen()
    peer, mesh = await bench.session(listener, resume=True)
    assert peer.setup is not None
    raw = peer.setup.raw
    check(peer.setup.flags & 0x080, "a resume token in SETUP", peer.setup)
    size = int.from_bytes(raw[18:20], "big")
    return Resuming(listener, peer, mesh, raw[20 : 20 + size])


async def expect_resume(bench: Bench, session: Resuming) -> RawPeer:
    """Return the next connection, on which RESUME with the session's token has come."""
    peer = await bench.take(session.listener)
    frame = await peer.expect(RESUME, 0)
    check(session.token in frame.raw[10:], "the token of the SETUP", frame)
    return peer


@dialling("C-113", "resume")
async def a_client_counts_the_bytes_of_tracked_frames(bench: Bench) -> None:
    session = await resuming(bench)
    call = bench.task(session.mesh.route("a.b").request_response(b"x"))
    request = await session.peer.frame("a request")
    answer = encode_payload(request.stream_id, None, b"answer", complete=True)
    await session.peer.send(answer, encode_keepalive(False), encode_metadata_push(b""))
    await call
    position = (await session.peer.fence()).position
    check(position == len(answer), f"position {len(answer)}", position)


@dialling("C-115", "resume")
async def a_call_of_the_client_goes_on_over_a_new_connection(bench: Bench) -> None:
    session = await resuming(bench)
    call = bench.task(session.mesh.route("a.b").request_response(b"x"))
    request = await session.peer.frame("a request")
    session.peer.wire.abort()
    peer = await expect_resume(bench, session)
    await peer.send(encode_resume_ok(0))  # as if the request had been lost
    again = await peer.frame("the request once more")
    check(again.raw == request.raw, str(request), again)
    await peer.send(encode_payload(request.stream_id, None, b"answer", complete=True))
    answer = await call
    check(answer.data == b"answer", "the answer", repr(answer))


@dialling("C-116", "resume")
async def behind_resume_the_client_is_silent(bench: Bench) -> None:
    session = await resuming(bench)
    session.peer.wire.abort()
    peer = await expect_resume(bench, session)
    bench.task(session.mesh.route("a.b").request_response(b"x"))
    waiting = asyncio.create_task(peer.frame())
    done, _ = await asyncio.wait((waiting,), timeout=QUIET)
    if done:
        raise Failed("nothing behind RESUME", f"came {waiting.result()}")
    await peer.send(encode_resume_ok(0))
    request = await waiting
    await peer.send(encode_payload(request.stream_id, None, b"", complete=True))


async def expect_new_session(bench: Bench, session: Resuming) -> None:
    """The session is over: the client's next connections begin new ones."""
    peer = await bench.take(session.listener)
    frame = await peer.frame("SETUP")
    check(frame.kind == SETUP, "SETUP, not another RESUME", frame)
    check(session.token not in frame.raw, "another token", frame)


@dialling("C-119", "resume")
async def a_rejected_session_is_not_resumed_again(bench: Bench) -> None:
    session = await resuming(bench)
    session.peer.wire.abort()
    peer = await expect_resume(bench, session)
    await peer.send(bytes(4) + b"\x2c\0\0\0\0\4" + b"gone")
    await peer.wire.close()
    await expect_new_session(bench, session)


@dialling("C-120", "resume")
async def an_impossible_position_ends_the_session(bench: Bench) -> None:
    session = await resuming(bench)
    session.peer.wire.abort()
    peer = await expect_resume(bench, session)
    await peer.send(encode_resume_ok(1_000_000))
    await peer.expect_end()
    await expect_new_session(bench, session)
