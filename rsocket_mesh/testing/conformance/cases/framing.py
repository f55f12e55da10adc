"""C-01 to C-16: how bytes become frames, and what a frame that nobody understands may do."""

from __future__ import annotations

from rsocket_mesh.errors import ConnectionClosed, LocalProtocolError, RSocketError
from rsocket_mesh.protocol.frames import (
    CANCEL,
    ERROR,
    KEEPALIVE,
    MAX_FRAME_SIZE,
    METADATA_PUSH,
    PAYLOAD,
    REQUEST_N,
    encode_keepalive,
    encode_setup,
)
from rsocket_mesh.protocol.framing import prefix_lengths
from rsocket_mesh.testing.conformance.bench import Bench, error_of, until
from rsocket_mesh.testing.conformance.raw_peer import SETUP, RawPeer
from rsocket_mesh.testing.conformance.registry import accepting, asking, serving
from rsocket_mesh.testing.conformance.verdicts import check

IGNORE = 0x200


def head(stream_id: int, kind: int, flags: int = 0) -> bytes:
    """Return a header, whatever it says."""
    return stream_id.to_bytes(4, "big") + (kind << 10 | flags).to_bytes(2, "big")


def with_flags(frame: bytes, flags: int) -> bytes:
    """Return *frame* with more flags set."""
    word = int.from_bytes(frame[4:6], "big") | flags
    return frame[:4] + word.to_bytes(2, "big") + frame[6:]


def on_wire(peer: RawPeer, frame: bytes) -> bytes:
    """Return the bytes that carry *frame*."""
    return frame if peer.wire.is_websocket else b"".join(prefix_lengths([frame]))


@serving("C-01")
async def answers_stand_behind_their_length(bench: Bench) -> None:
    bench.need_tcp("WebSocket messages have their own ends")
    peer = await bench.caller()
    for data in (b"1", b"x" * 300):  # a length that counts itself would shift the second
        await peer.expect_answer(await peer.ask("echo", data), data)


@serving("C-02")
async def answers_are_binary_messages(bench: Bench) -> None:
    bench.need_websocket("this connection is a byte stream")
    peer = await bench.caller()
    answer = await peer.expect_answer(await peer.ask("echo", b"hello"), b"hello")
    check(answer.raw[4:6] == b"\x28\x60", "a frame that begins with its header", answer.raw.hex())


@serving("C-03")
async def frames_survive_being_cut_anywhere(bench: Bench) -> None:
    peer = await bench.caller()
    frame = peer.request("echo", b"cut to pieces", stream_id=(stream_id := peer.next_id()))
    data = on_wire(peer, frame)
    await peer.wire.send_pieces(data[at : at + 1] for at in range(len(data)))
    await peer.expect_answer(stream_id, b"cut to pieces")


@serving("C-04")
async def frames_that_come_together_are_all_handled_in_order(bench: Bench) -> None:
    peer = await bench.caller()
    ids = [peer.next_id() for _ in range(50)]
    await peer.send(*(peer.request("echo", b"%d" % i, stream_id=i) for i in ids))
    for stream_id in ids:
        await peer.expect_answer(stream_id, b"%d" % stream_id)


@serving("C-05")
async def the_largest_frame_is_accepted(bench: Bench) -> None:
    seen = bench.seen
    peer = await bench.caller()
    stream_id = peer.next_id()
    room = MAX_FRAME_SIZE - len(peer.request("fire", b"", stream_id=stream_id))
    frame = peer.request("fire", b"x" * room, stream_id=stream_id)
    check(len(frame) == MAX_FRAME_SIZE, "a frame of the largest size", len(frame))
    await peer.send(frame)
    await until(lambda: seen.calls, "the request to reach the application")
    check(len(seen.calls[0].payload.data) == room, f"{room} bytes", len(seen.data()[0]))


@asking("C-05", "no-broker")
async def a_larger_frame_is_never_begun(bench: Bench) -> None:
    peer, caller = await bench.responder()
    try:
        caller.requester.metadata_push(bytes(MAX_FRAME_SIZE))
    except LocalProtocolError:
        pass
    else:
        check(False, "a refusal", "METADATA_PUSH of 16,777,221 bytes was accepted")
    await peer.silence()


@serving("C-06")
async def a_length_over_the_limit_ends_the_connection_unread(bench: Bench) -> None:
    strict = await bench.strict()
    peer = await strict.caller()
    if bench.subject.is_websocket:
        await peer.wire.send([bytes(100_000)])
    else:
        await peer.wire.send_pieces([(100_000).to_bytes(3, "big")])  # and none of the body
    await peer.expect_end()


@serving("C-07")
async def a_frame_without_room_for_a_header_ends_the_connection(bench: Bench) -> None:
    for size in (1, 5) if bench.subject.is_websocket else (0, 5):
        peer = await bench.caller()
        await peer.wire.send_pieces([on_wire(peer, bytes(size))])
        await peer.expect_end()


@serving("C-08")
async def half_a_frame_at_the_end_is_dropped_and_handlers_are_cancelled(bench: Bench) -> None:
    bench.need_tcp("whoever tests cannot end a WebSocket within a frame")
    seen = bench.seen
    peer = await bench.caller()
    await peer.ask("never")
    half = peer.request("echo", b"half a frame", stream_id=peer.next_id())
    await peer.wire.send_pieces([on_wire(peer, half)[:-4]])
    await until(lambda: seen.calls, "the first request to reach the application")
    await peer.close()
    await until(lambda: seen.ended == ["never"], "the handler to be cancelled")
    check([call.behaviour for call in seen.calls] == ["never"], "only `never`", seen.calls)


@asking("C-08")
async def half_a_frame_at_the_end_fails_the_calls(bench: Bench) -> None:
    bench.need_tcp("whoever tests cannot end a WebSocket within a frame")
    peer, caller = await bench.responder()
    call = bench.task(caller.response())
    request = await peer.frame("a request")
    answer = head(request.stream_id, PAYLOAD, 0x60) + b"half an answer"
    await peer.wire.send_pieces([on_wire(peer, answer)[:-4]])
    await peer.close()
    await error_of(call, RSocketError if bench.is_broker else ConnectionClosed)


@serving("C-09")
async def numbers_are_read_and_written_big_endian(bench: Bench) -> None:
    peer = await bench.caller()
    stream_id = 0x01020300 + peer.first_id
    await peer.ask("echo", b"x", stream_id=stream_id)
    await peer.expect_answer(stream_id, b"x")
    if "stream" in bench.subject.routes:
        streaming = await peer.ask("stream", b"300", n=0x0102)
        await peer.expect_items(streaming, (b"%d" % i for i in range(1, 0x0103)))
        await peer.silence()


@asking("C-09")
async def request_n_is_written_big_endian(bench: Bench) -> None:
    peer, caller = await bench.responder()
    async with caller.stream(n=0x0102):
        request = await peer.frame("a request")
        check(1 <= request.number <= 0x0102, "an initial request n up to 258", request)


@serving("C-10")
async def the_reserved_bit_is_not_masked_away(bench: Bench) -> None:
    peer = await bench.caller()
    frame = peer.request("echo", b"aliased", stream_id=peer.next_id())
    await peer.send(bytes((frame[0] | 0x80,)) + frame[1:])
    await peer.expect_end()


@serving("C-11")
async def undefined_flags_change_nothing(bench: Bench) -> None:
    peer = await bench.caller()
    stream_id = peer.next_id()
    await peer.send(with_flags(peer.request("echo", b"x", stream_id=stream_id), 0x07F))
    answer = await peer.expect_answer(stream_id, b"x")
    check(not answer.flags & 0x01F, "no undefined flags in an answer", answer)
    await peer.send(with_flags(encode_keepalive(False, 0, b""), 0x17F))
    await peer.send(with_flags(head(0, ERROR) + b"\0\0\0\1", 0x1FF))  # a setup error, ignored
    await peer.send(head(0, METADATA_PUSH, 0x1FF))
    await peer.silence()
    if "stream" in bench.subject.routes:
        stream_id = peer.next_id()
        frame = peer.request("stream", b"9", stream_id=stream_id, n=1)
        await peer.send(with_flags(frame, 0x05F))
        await peer.expect_items(stream_id, [b"1"])
        await peer.send(head(stream_id, REQUEST_N, 0x1FF) + b"\0\0\0\1")
        await peer.expect_items(stream_id, [b"2"])
        await peer.send(head(stream_id, CANCEL, 0x1FF))
        await peer.silence()


@accepting("C-11")
async def undefined_flags_of_setup_change_nothing(bench: Bench) -> None:
    peer = await bench.dial()
    await peer.send(with_flags(encode_setup(SETUP), 0x03F))
    await peer.silence()


@serving("C-12")
async def an_unknown_type_with_the_ignore_flag_is_dropped(bench: Bench) -> None:
    peer = await bench.caller()
    await peer.send(head(0, 0x0F, IGNORE), head(peer.next_id(), 0x3E, IGNORE) + b"what is this?")
    await peer.silence()


@serving("C-13")
async def an_unknown_type_ends_the_connection_or_does_nothing(bench: Bench) -> None:
    for stream_id in (0, None):
        peer = await bench.caller()
        await peer.send(head(peer.next_id() if stream_id is None else 0, 0x0F))
        await peer.alive_or_ended()


@serving("C-14")
async def an_unknown_extended_type_goes_by_the_ignore_flag(bench: Bench) -> None:
    peer = await bench.caller()
    await peer.send(head(0, 0x3F, IGNORE) + b"\0\0\0\1", head(0, 0x3F, IGNORE) + b"\0\0\0\2more")
    await peer.silence()
    await peer.send(head(0, 0x3F) + b"\0\0\0\1")
    await peer.alive_or_ended()


@serving("C-15")
async def type_0_counts_as_unknown(bench: Bench) -> None:
    peer = await bench.caller()
    await peer.send(head(0, 0, IGNORE))
    await peer.silence()
    await peer.send(head(0, 0))
    await peer.alive_or_ended()


@serving("C-16")
async def a_body_too_short_for_its_type_ends_the_connection(bench: Bench) -> None:
    for kind, flags, body in (
        (KEEPALIVE, 0x080, bytes(4)),
        (ERROR, 0, bytes(2)),
        (0x06, 0, bytes(2)),  # REQUEST_STREAM without its request n
        (0x07, 0, b""),
    ):
        peer = await bench.caller()
        stream_id = 0 if kind in (KEEPALIVE, ERROR) else peer.next_id()
        await peer.send(head(stream_id, kind, flags) + body)
        await peer.expect_end()
