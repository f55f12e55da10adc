"""C-91 to C-104: messages in pieces."""

from __future__ import annotations

from collections.abc import Iterator

from rsocket_mesh.errors import ErrorCode
from rsocket_mesh.protocol.fragments import payload_frames, request_frames
from rsocket_mesh.protocol.frames import (
    ERROR,
    METADATA_PUSH,
    PAYLOAD,
    REQUEST_CHANNEL,
    REQUEST_RESPONSE,
    REQUEST_STREAM,
    encode_cancel,
    encode_error,
    encode_keepalive,
    encode_payload,
    encode_request_n,
)
from rsocket_mesh.protocol.metadata import encode_composite
from rsocket_mesh.protocol.payload import Payload
from rsocket_mesh.testing.conformance.bench import Bench, until
from rsocket_mesh.testing.conformance.cases.channels import open_channel
from rsocket_mesh.testing.conformance.cases.framing import head
from rsocket_mesh.testing.conformance.raw_peer import MODELS, RawPeer
from rsocket_mesh.testing.conformance.registry import asking, serving
from rsocket_mesh.testing.conformance.seen_frame import SeenFrame
from rsocket_mesh.testing.conformance.verdicts import check

BIG = bytes(range(256)) * 800  # 204,800 bytes: more than one frame of our own
PIECE = 64  # bytes of the frames that cases cut
SMALL = 10  # bytes of data in a fragment that is shorter than most senders make them


def pieces(
    peer: RawPeer, behaviour: str, payload: Payload, stream_id: int, **more: bool
) -> list[bytes]:
    """Return a request for *behaviour* in fragments of `PIECE` bytes, or in one frame."""
    kind = MODELS[behaviour]
    n = 100 if kind in (REQUEST_STREAM, REQUEST_CHANNEL) else 0
    cut = request_frames(kind, stream_id, payload, PIECE, n, **more)
    return [cut] if isinstance(cut, bytes) else list(cut)


def short_pieces(peer: RawPeer, stream_id: int, data: bytes) -> list[bytes]:
    """Return an echo request whose data follows in very short fragments."""
    frames = [peer.request("echo", b"", stream_id=stream_id, follows=True)]
    for at in range(0, len(data), SMALL):
        follows = at + SMALL < len(data)
        piece = data[at : at + SMALL]
        frames.append(encode_payload(stream_id, None, piece, follows=follows))
    return frames


async def message(peer: RawPeer) -> list[SeenFrame]:
    """Return the next frame with all fragments behind it."""
    frames = [await peer.frame("a message")]
    while frames[-1].follows and not frames[-1].complete:
        frames.append(await peer.expect(PAYLOAD, frames[0].stream_id, "the next fragment"))
    return frames


def check_fragments(frames: list[SeenFrame]) -> None:
    """F on all but the last, N on every PAYLOAD, COMPLETE on the last only."""
    for frame in frames[:-1]:
        check(frame.follows and not frame.complete, "F, no COMPLETE, on all but the last", frame)
    for frame in frames[1:]:
        check(frame.kind == PAYLOAD and frame.next, "PAYLOAD with NEXT", frame)
    check(not frames[-1].follows, "no F on the last", frames[-1])


def metadata_of(frames: list[SeenFrame]) -> bytes:
    return b"".join(frame.metadata or b"" for frame in frames)


def data_of(frames: list[SeenFrame]) -> bytes:
    return b"".join(frame.data for frame in frames)


@asking("C-91")
async def a_large_request_leaves_in_fragments(bench: Bench) -> None:
    peer, caller = await bench.responder()
    bench.task(caller.response(BIG))
    frames = await message(peer)
    check(len(frames) > 1, "several fragments", len(frames))
    check(frames[0].kind == REQUEST_RESPONSE, "REQUEST_RESPONSE first", frames[0])
    check_fragments(frames)
    check(data_of(frames) == BIG, "the data", f"{len(data_of(frames))} bytes")


@serving("C-91")
async def a_large_answer_leaves_in_fragments(bench: Bench) -> None:
    peer = await bench.caller()
    await peer.ask("echo", BIG)
    frames = await message(peer)
    check_fragments(frames)
    check(data_of(frames) == BIG, "the data", f"{len(data_of(frames))} bytes")


@asking("C-92")
async def metadata_goes_before_data(bench: Bench) -> None:
    peer, caller = await bench.responder()
    caller.requester.outbox.fragment_size = PIECE
    payload = caller.payload(bytes(200))
    metadata = (payload.metadata or b"") + encode_composite([("a/b", bytes(300))])
    bench.task(caller.requester.request_response(Payload(payload.data, metadata)))
    frames = await message(peer)
    check_fragments(frames)
    is_over = False
    for frame in frames:
        check(not (is_over and frame.metadata is not None), "no metadata behind data", frame)
        is_over = is_over or frame.metadata is None or bool(frame.data)
    check(metadata_of(frames) == metadata, "the metadata", metadata_of(frames))
    check(data_of(frames) == bytes(200), "the data", data_of(frames))


@serving("C-93")
async def requests_of_every_model_are_put_together(bench: Bench) -> None:
    seen = bench.seen
    peer = await bench.caller()
    for behaviour in ("echo", "fire", "stream", "channel"):
        for extra, data in ((400, b"1" * 300), (400, b"1"), (0, b"1" * 300)):
            entries = [("a/b", bytes(extra))] if extra else []
            wanted = Payload(data, peer.routed(behaviour, entries))
            before = len(seen.calls)
            frames = pieces(peer, behaviour, wanted, peer.next_id())
            check(len(frames) > 1, "fragments to send", len(frames))
            await peer.send(*frames)
            await until(lambda known=before: len(seen.calls) > known, f"{behaviour} to arrive")  # type: ignore[misc]
            arrived = seen.calls[-1].payload
            check(arrived == wanted, f"{behaviour} as it was sent", repr(arrived)[:200])


@serving("C-93")
async def items_of_channels_are_put_together(bench: Bench) -> None:
    seen = bench.seen
    peer = await bench.caller()
    stream_id = await open_channel(peer)
    for data, metadata in ((bytes(300), bytes(200)), (b"", bytes(200)), (bytes(200), None)):
        cut = payload_frames(stream_id, Payload(data, metadata), PIECE)
        await peer.send(*_frames(cut))
        await peer.expect_answer(stream_id, data)
    first = encode_payload(stream_id, None, b"", follows=True)
    await peer.send(first, encode_payload(stream_id, None, b""))  # nothing, in two pieces
    await peer.expect_answer(stream_id, b"")
    check(len(seen.items) == 4, "four items", len(seen.items))


def _frames(cut: bytes | Iterator[bytes]) -> list[bytes]:
    return [cut] if isinstance(cut, bytes) else list(cut)


@serving("C-94")
async def a_fragmented_item_costs_one_credit(bench: Bench) -> None:
    peer = await bench.caller()
    stream_id = await open_channel(peer, n=2)
    await peer.send(*(encode_payload(stream_id, None, item) for item in (b"1", BIG, b"2")))
    await peer.expect_answer(stream_id, b"1")
    await peer.silence()
    await peer.send(encode_request_n(stream_id, 1))
    frames = await message(peer)
    check(data_of(frames) == BIG, "the whole item", f"{len(data_of(frames))} bytes")
    await peer.silence()
    await peer.send(encode_request_n(stream_id, 1))
    await peer.expect_answer(stream_id, b"2")


@asking("C-94")
async def fragments_of_a_responder_count_as_one_item(bench: Bench) -> None:
    peer, caller = await bench.responder()
    async with caller.stream(n=2) as items:
        request = await peer.frame("a request")
        for _ in range(request.number):
            item = payload_frames(request.stream_id, Payload(bytes(300)), PIECE)
            await peer.send(*_frames(item))
        for _ in range(request.number):
            check((await anext(items)).data == bytes(300), "the item", "another")


@serving("C-95")
async def fragments_of_several_streams_may_be_interleaved(bench: Bench) -> None:
    peer = await bench.caller()
    data = {peer.next_id(): bytes((65 + i,)) * (60 + 10 * i) for i in range(3)}
    queues = [short_pieces(peer, stream_id, text) for stream_id, text in data.items()]
    while any(queues):
        await peer.send(encode_keepalive(False), head(0, METADATA_PUSH, 0x100))
        for queue in queues:
            if queue:
                await peer.send(queue.pop(0))
    came = {(frame := await peer.frame("an answer")).stream_id: frame.data for _ in data}
    check(came == data, "each stream's own data", came)


@serving("C-96")
async def complete_counts_behind_the_fragments_of_a_request(bench: Bench) -> None:
    peer = await bench.caller()
    stream_id = peer.next_id()
    payload = Payload(bytes(300), peer.routed("channel"))
    await peer.send(*pieces(peer, "channel", payload, stream_id, complete=True))
    answer = await peer.expect_answer(stream_id, bytes(300))
    if not answer.complete:
        await peer.expect(PAYLOAD, stream_id, "the completion")
    if not bench.subject.is_foreign:
        check(bench.seen.completed == 1, "the completion", bench.seen.completed)


@asking("C-96")
async def complete_counts_behind_the_fragments_of_an_item(bench: Bench) -> None:
    peer, caller = await bench.responder()
    async with caller.stream() as items:
        request = await peer.frame("a request")
        cut = payload_frames(request.stream_id, Payload(bytes(300)), PIECE, complete=True)
        await peer.send(*_frames(cut))
        came = [item.data async for item in items]
        check(came == [bytes(300)], "one item, then the end", f"{len(came)} items")


@serving("C-97")
async def follows_with_complete_is_the_last_fragment_of_a_request(bench: Bench) -> None:
    peer = await bench.caller()
    stream_id = peer.next_id()
    await peer.send(peer.request("echo", b"a", stream_id=stream_id, follows=True))
    await peer.send(head(stream_id, PAYLOAD, 0x0E0) + b"b")
    await peer.expect_answer(stream_id, b"ab")


@asking("C-97")
async def follows_with_complete_is_the_last_fragment_of_an_item(bench: Bench) -> None:
    peer, caller = await bench.responder()
    async with caller.stream() as items:
        request = await peer.frame("a request")
        await peer.send(head(request.stream_id, PAYLOAD, 0x0E0) + b"last")
        came = [item.data async for item in items]
        check(came == [b"last"], "one item, then the end", came)


@serving("C-98")
async def cancel_between_fragments_drops_them(bench: Bench) -> None:
    peer = await bench.caller()
    stream_id = peer.next_id()
    await peer.send(
        peer.request("echo", b"a", stream_id=stream_id, follows=True),
        encode_cancel(stream_id),
        encode_payload(stream_id, None, b"b"),
    )
    await peer.silence()
    if not bench.subject.is_foreign:
        check(b"a" not in bench.seen.data(), "no handler", bench.seen.data())
        check(bench.subject.reassembly_bytes() == 0, "nothing kept", "something")


@serving("C-99")
async def an_endless_series_is_ended(bench: Bench) -> None:
    strict = await bench.strict()
    peer = await strict.caller()
    stream_id = peer.next_id()
    await peer.send(peer.request("echo", b"", stream_id=stream_id, follows=True))
    piece = encode_payload(stream_id, None, bytes(60_000), follows=True)
    for _ in range(25):  # 1.5 MB of a limit of 1 MiB
        await peer.send(piece)
    await peer.expect_error(stream_id, ErrorCode.CANCELED, ErrorCode.INVALID)
    await peer.silence()
    check(strict.subject.reassembly_bytes() == 0, "nothing kept", "something")


@serving("C-100")
async def fragments_of_an_unknown_stream_are_not_kept(bench: Bench) -> None:
    peer = await bench.caller()
    for stream_id in (peer.first_id + 1000, 1003 - peer.first_id):
        await peer.send(*[encode_payload(stream_id, None, bytes(1000), follows=True)] * 50)
    await peer.silence()
    if not bench.subject.is_foreign:
        check(bench.subject.reassembly_bytes() == 0, "nothing kept", "something")


@serving("C-101")
async def a_request_on_an_id_in_reassembly_is_not_mixed_in(bench: Bench) -> None:
    peer = await bench.caller()
    stream_id = peer.next_id()
    await peer.send(
        peer.request("echo", b"a", stream_id=stream_id, follows=True),
        peer.request("echo", b"intruder", stream_id=stream_id),
        encode_payload(stream_id, None, b"b"),
    )
    frame = await peer.expect_one_of(stream_id, PAYLOAD, ERROR)
    check(frame.kind == ERROR or frame.data == b"ab", "ERROR, or the data `ab`", frame)


@serving("C-102")
async def error_or_loss_releases_the_pieces(bench: Bench) -> None:
    seen = bench.seen
    peer = await bench.caller()
    ids = [peer.next_id() for _ in range(2)]
    for stream_id in ids:
        await peer.send(peer.request("echo", bytes(500), stream_id=stream_id, follows=True))
    await peer.send(encode_error(ids[0], ErrorCode.CANCELED, "given up"))
    await peer.silence()
    peer.wire.abort()
    await until(lambda: bench.subject.reassembly_bytes() == 0, "the pieces to be released")
    check(bytes(500) not in seen.data(), "no handler", "one")


@serving("C-103")
async def unfinished_messages_are_bounded_in_sum(bench: Bench) -> None:
    strict = await bench.strict()
    peer = await strict.caller()
    for _ in range(50):  # 3 MB of a limit of 2 MiB
        data = bytes(60_000)
        await peer.send(peer.request("echo", data, stream_id=peer.next_id(), follows=True))
    refused = await peer.frame("ERROR for one of too many")
    check(refused.kind == ERROR, "ERROR", refused)
    check(strict.subject.reassembly_bytes() <= 2 * 1_048_576, "2 MiB at most", "more")


@serving("C-104")
async def short_fragments_are_accepted(bench: Bench) -> None:
    peer = await bench.caller()
    stream_id = peer.next_id()
    await peer.send(*short_pieces(peer, stream_id, b"x" * 55))
    await peer.expect_answer(stream_id, b"x" * 55)


@asking("C-104")
async def fragments_are_not_shorter_than_64_bytes(bench: Bench) -> None:
    peer, caller = await bench.responder()
    caller.requester.outbox.fragment_size = PIECE
    bench.task(caller.response(bytes(500)))
    frames = await message(peer)
    sizes = [len(frame.raw) for frame in frames[:-1]]
    check(min(sizes) >= 64, "64 bytes or more", sizes)
