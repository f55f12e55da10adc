"""C-17 to C-25: where metadata ends and data begins."""

from __future__ import annotations

from rsocket_mesh.protocol.frames import (
    LEASE,
    METADATA_PUSH,
    PAYLOAD,
    REQUEST_CHANNEL,
    REQUEST_FNF,
    REQUEST_RESPONSE,
    REQUEST_STREAM,
    Lease,
    encode_lease,
    encode_payload,
    encode_request,
)
from rsocket_mesh.protocol.metadata import encode_composite
from rsocket_mesh.protocol.payload import Payload
from rsocket_mesh.testing.conformance.bench import Bench, until
from rsocket_mesh.testing.conformance.cases.framing import head
from rsocket_mesh.testing.conformance.raw_peer import RawPeer
from rsocket_mesh.testing.conformance.registry import asking, dialling, serving
from rsocket_mesh.testing.conformance.subjects import LIBRARY_SETUP
from rsocket_mesh.testing.conformance.verdicts import NotApplicable, check


def length(data: bytes) -> bytes:
    """Return the 3-byte length of *data*."""
    return len(data).to_bytes(3, "big")


@serving("C-17")
async def metadata_behind_its_length_reaches_the_application(bench: Bench) -> None:
    seen = bench.seen
    peer = await bench.caller()
    metadata = peer.routed("echo", [("a/b", b"more")]) or b""
    stream_id = peer.next_id()
    await peer.send(head(stream_id, REQUEST_RESPONSE, 0x100) + length(metadata) + metadata + b"d")
    await peer.expect_answer(stream_id, b"d")
    check(seen.calls[0].payload == (b"d", metadata), "the metadata as sent", seen.calls[0])


@asking("C-17")
async def a_request_carries_metadata_behind_its_length(bench: Bench) -> None:
    peer, caller = await bench.responder()
    bench.task(caller.response(b"data"))
    request = await peer.frame("a request")
    metadata = caller.payload().metadata or b""
    wanted = head(request.stream_id, REQUEST_RESPONSE, 0x100) + length(metadata)
    check(request.raw == wanted + metadata + b"data", (wanted + metadata).hex(" "), request)


@dialling("C-17")
async def setup_carries_metadata_behind_its_length(bench: Bench) -> None:
    peer, _ = await bench.accept(LIBRARY_SETUP._replace(metadata=b"meta", data=b"data"))
    setup = await peer.frame("SETUP")
    check(setup.raw.endswith(b"\0\0\x04metadata"), "00 00 04, metadata, data", setup.raw.hex(" "))


@serving("C-18")
async def an_answer_without_metadata_has_no_length(bench: Bench) -> None:
    peer = await bench.caller()
    stream_id = await peer.ask("echo", b"\0\0\1ab")
    answer = await peer.expect_answer(stream_id, b"\0\0\1ab")
    if answer.metadata is None:
        wanted = head(stream_id, PAYLOAD, 0x60) + b"\0\0\1ab"
        check(answer.raw == wanted, wanted.hex(" "), answer.raw.hex(" "))


@serving("C-19")
async def empty_and_absent_metadata_are_told_apart(bench: Bench) -> None:
    seen = bench.seen
    peer = await bench.caller()
    for metadata in (b"", None):
        await peer.expect_answer(await peer.ask("echo", b"x", metadata=metadata), b"x")
    arrived = [call.payload.metadata for call in seen.calls]
    check(arrived == [b"", None], "metadata empty, then absent", arrived)


@asking("C-19")
async def empty_and_absent_metadata_of_answers_are_told_apart(bench: Bench) -> None:
    peer, caller = await bench.responder()
    for metadata in (b"", None):
        call = bench.task(caller.response())
        request = await peer.frame("a request")
        await peer.send(encode_payload(request.stream_id, metadata, b"x", complete=True))
        answer = await call
        check(answer.metadata == metadata, f"metadata {metadata!r}", repr(answer))


@serving("C-20")
async def pushed_metadata_has_no_length(bench: Bench) -> None:
    seen = bench.seen
    peer = await bench.caller()
    metadata = encode_composite([("a/b", b"pushed")])
    await peer.send(head(0, METADATA_PUSH, 0x100) + metadata)
    await until(lambda: seen.pushed, "the push to reach the application")
    check(seen.pushed == [metadata], repr(metadata), seen.pushed)


@asking("C-20", "no-broker")
async def metadata_is_pushed_without_a_length(bench: Bench) -> None:
    peer, caller = await bench.responder()
    caller.requester.metadata_push(b"pushed")
    push = await peer.expect(METADATA_PUSH, 0)
    check(push.raw == head(0, METADATA_PUSH, 0x100) + b"pushed", "header and metadata", push)


@dialling("C-20", "lease")
async def metadata_of_a_lease_has_no_length(bench: Bench) -> None:
    peer, client = await bench.accept(LIBRARY_SETUP._replace(lease=True))
    peer.passes_over.add(LEASE)
    await peer.frame("SETUP")
    await client.confirmed
    await peer.send(encode_lease(Lease(60_000, 1, b"\0\0\x64 and that is not a length")))
    bench.task(client.requester.request_response(Payload(b"x")))
    await peer.expect(REQUEST_RESPONSE, 1)


@serving("C-21")
async def metadata_longer_than_its_frame_ends_the_connection(bench: Bench) -> None:
    peer = await bench.caller()
    await peer.send(head(peer.next_id(), REQUEST_RESPONSE, 0x100) + b"\0\0\x64ab")
    await peer.expect_end()


@serving("C-21")
async def so_does_that_of_a_channels_item(bench: Bench) -> None:
    peer = await bench.caller()
    stream_id = await peer.ask("sink", b"first")
    await peer.send(head(stream_id, PAYLOAD, 0x120) + b"\0\0\x64ab")
    await peer.expect_end()


@asking("C-21")
async def so_does_that_of_an_answer(bench: Bench) -> None:
    peer, caller = await bench.responder()
    call = bench.task(caller.response())
    request = await peer.frame("a request")
    await peer.send(head(request.stream_id, PAYLOAD, 0x160) + b"\0\0\x64ab")
    if bench.is_broker:  # whatever ends the call, nobody gets short metadata for an answer
        await peer.expect_end()
        return
    await peer.expect_end()
    check((await _outcome(call)) is None, "no answer", "an answer")


async def _outcome(call: object) -> object:
    try:
        return await call  # type: ignore[misc]  # any awaitable
    except Exception:
        return None


@serving("C-22")
async def a_frame_with_no_room_for_the_length_ends_the_connection(bench: Bench) -> None:
    for rest in (b"", b"\0\0"):
        peer = await bench.caller()
        await peer.send(head(peer.next_id(), REQUEST_RESPONSE, 0x100) + rest)
        await peer.expect_end()


@serving("C-23")
async def the_same_with_the_ignore_flag_is_dropped(bench: Bench) -> None:
    peer = await bench.caller()
    await peer.send(head(peer.next_id(), REQUEST_RESPONSE, 0x300) + b"\0\0\x64ab")
    await peer.silence()


@serving("C-24")
async def an_empty_item_is_an_item(bench: Bench) -> None:
    peer = await bench.caller()
    stream_id = await peer.ask("echo", b"")
    answer = await peer.expect_answer(stream_id, b"")
    check(answer.next, "NEXT on the empty answer", answer)


@asking("C-24")
async def an_empty_item_is_delivered(bench: Bench) -> None:
    peer, caller = await bench.responder()
    async with caller.stream() as items:
        request = await peer.frame("a request")
        await peer.send(head(request.stream_id, PAYLOAD, 0x20))
        item = await anext(items)
        check(item == (b"", None), "an empty item", repr(item))


@serving("C-25")
async def a_request_of_nothing_is_accepted(bench: Bench) -> None:
    if bench.subject.is_foreign and bench.subject.routes.get("echo") != "":
        raise NotApplicable("needs requests that are served without any routing")
    peer = await bench.caller()
    stream_id = peer.next_id()
    await peer.send(head(stream_id, REQUEST_RESPONSE))
    await peer.expect_answer(stream_id, b"")
    if not bench.subject.is_foreign:
        await _every_model_accepts_nothing(bench, peer)


async def _every_model_accepts_nothing(bench: Bench, peer: RawPeer) -> None:
    seen = bench.seen
    before = len(seen.calls)
    for kind, n in ((REQUEST_FNF, None), (REQUEST_STREAM, 1), (REQUEST_CHANNEL, 1)):
        await peer.send(encode_request(kind, peer.next_id(), None, b"", n))
    await until(lambda: len(seen.calls) == before + 3, "three more requests to arrive")
    arrived = [call.payload for call in seen.calls[before:]]
    check(arrived == [(b"", None)] * 3, "nothing in each", arrived)
