"""C-66 to C-79 and C-88 to C-90: calls, streams, credit; and what is of no known stream.

The halves of channels have a module of their own, `channels`.
"""

from __future__ import annotations

from rsocket_mesh.errors import ConnectionClosed, ErrorCode, RSocketError
from rsocket_mesh.protocol.frames import (
    CANCEL,
    PAYLOAD,
    REQUEST_FNF,
    REQUEST_N,
    encode_cancel,
    encode_error,
    encode_payload,
    encode_request,
    encode_request_n,
)
from rsocket_mesh.testing.conformance.bench import Bench, error_of, until
from rsocket_mesh.testing.conformance.cases.framing import head
from rsocket_mesh.testing.conformance.raw_peer import RawPeer
from rsocket_mesh.testing.conformance.registry import asking, serving
from rsocket_mesh.testing.conformance.verdicts import check

BAD_N = (0, 0x8000_0000, 0xFFFF_FFFF)


async def expect_completion(peer: RawPeer, stream_id: int) -> None:
    """Expect PAYLOAD with COMPLETE and no item."""
    frame = await peer.expect(PAYLOAD, stream_id, f"the completion of stream {stream_id}")
    check(frame.complete and not frame.next, "COMPLETE without NEXT", frame)


async def expect_last(peer: RawPeer, stream_id: int, data: bytes) -> None:
    """Expect the last item, with the completion in it or behind it."""
    frame = await peer.expect_answer(stream_id, data)
    if not frame.complete:
        await expect_completion(peer, stream_id)


@serving("C-66")
async def an_answer_is_one_payload(bench: Bench) -> None:
    peer = await bench.caller()
    answer = await peer.expect_answer(await peer.ask("echo", b"x"), b"x")
    check(answer.complete, "NEXT and COMPLETE in one frame", answer)
    await peer.silence()


@asking("C-66")
async def an_answer_completes_the_call(bench: Bench) -> None:
    await _answered(bench, encode_payload(1, b"m", b"data", complete=True), (b"data", b"m"))


@asking("C-67")
async def an_answer_without_complete_completes_it_too(bench: Bench) -> None:
    await _answered(bench, encode_payload(1, None, b"data"), (b"data", None))


@asking("C-68")
async def a_completion_alone_completes_it_without_an_item(bench: Bench) -> None:
    frame = encode_payload(1, None, b"", next=False, complete=True)
    await _answered(bench, frame, (b"", None))


async def _answered(bench: Bench, frame: bytes, wanted: tuple[bytes, bytes | None]) -> None:
    peer, caller = await bench.responder()
    call = bench.task(caller.response())
    request = await peer.frame("a request")
    await peer.send(request.raw[:4] + frame[4:])
    answer = await call
    check(answer == wanted, f"the answer {wanted}", repr(answer))
    await peer.silence()


@serving("C-69")
async def cancel_stops_the_handler(bench: Bench) -> None:
    seen = bench.seen
    peer = await bench.caller()
    stream_id = await peer.ask("never")
    await until(lambda: seen.calls, "the request to reach the application")
    await peer.send(encode_cancel(stream_id))
    await until(lambda: seen.ended == ["never"], "the handler to be cancelled")
    await peer.silence()


@serving("C-69")
async def cancel_ends_a_stream(bench: Bench) -> None:
    peer = await bench.caller()
    stream_id = await peer.ask("stream", b"9", n=1)
    await peer.expect_items(stream_id, [b"1"])
    await peer.send(encode_cancel(stream_id), encode_request_n(stream_id, 5))
    await peer.silence()


@asking("C-70")
async def items_after_the_own_cancel_are_dropped(bench: Bench) -> None:
    peer, caller = await bench.responder()
    call = bench.task(caller.response())
    stream_id = (await peer.frame("a request")).stream_id
    call.cancel()
    await peer.expect(CANCEL, stream_id)
    await peer.send(encode_payload(stream_id, None, b"late", complete=True))
    await peer.silence()
    second = bench.task(caller.response())
    stream_id = (await peer.frame("another request")).stream_id
    await peer.send(encode_payload(stream_id, None, b"in time", complete=True))
    answer = await second
    check(answer.data == b"in time", "the second answer", repr(answer))


@serving("C-71")
async def fire_and_forget_is_never_answered(bench: Bench) -> None:
    peer = await bench.caller()
    await peer.ask("fire", b"good")
    if "fail" in bench.subject.routes:
        metadata = peer.routed("fail")
        await peer.send(encode_request(REQUEST_FNF, peer.next_id(), metadata, b"bad"))
    if bench.is_broker:  # nobody serves it
        metadata = b"\xfe\0\0\x0c\x0bnobody.here"
        await peer.send(encode_request(REQUEST_FNF, peer.next_id(), metadata, b"lost"))
    await peer.silence()


@serving("C-72")
async def no_more_items_than_asked_for_are_sent(bench: Bench) -> None:
    peer = await bench.caller()
    stream_id = await peer.ask("stream", b"10", n=3)
    await peer.expect_items(stream_id, [b"1", b"2", b"3"])
    await peer.silence()
    await peer.send(encode_request_n(stream_id, 2))
    await peer.expect_items(stream_id, [b"4", b"5"])
    await peer.silence()


@serving("C-73")
async def completion_and_error_wait_for_no_further_credit(bench: Bench) -> None:
    # A source is asked for an item only when that may be sent, so its end is known with one credit
    # to spare; what is known must not wait.
    peer = await bench.caller()
    stream_id = await peer.ask("stream", b"2", n=3)
    await peer.expect_items(stream_id, [b"1"])
    await expect_last(peer, stream_id, b"2")
    if not bench.subject.is_foreign:
        stream_id = await peer.ask("stream", b"not a number", n=1)
        await peer.expect_error(stream_id, ErrorCode.INVALID)


@asking("C-73")
async def completion_and_error_are_taken_when_no_credit_is_left(bench: Bench) -> None:
    for ending in (
        encode_payload(1, None, b"", next=False, complete=True),
        encode_error(1, ErrorCode.APPLICATION_ERROR, "over"),
    ):
        peer, caller = await bench.responder()
        stream = caller.stream(n=2)
        begun = bench.task(stream.__aenter__())
        request = await peer.frame("a request")
        await begun
        items = [encode_payload(request.stream_id, None, b"item")] * request.number
        await peer.send(*items, request.raw[:4] + ending[4:])
        came = 0
        try:
            async for _ in stream:
                came += 1
        except RSocketError as exc:
            check("over" in str(exc), "the error of the responder", repr(exc))
        check(came == request.number, f"{request.number} items", came)


@serving("C-74")
async def credit_adds_up_and_survives_large_sums(bench: Bench) -> None:
    peer = await bench.caller()
    stream_id = await peer.ask("stream", b"8", n=1)
    await peer.send(encode_request_n(stream_id, 2), encode_request_n(stream_id, 2))
    await peer.expect_items(stream_id, [b"1", b"2", b"3", b"4", b"5"])
    await peer.silence()
    most = encode_request_n(stream_id, 0x7FFF_FFFF)
    await peer.send(most, most, most)
    await peer.expect_items(stream_id, [b"6", b"7"])
    await expect_last(peer, stream_id, b"8")
    await peer.silence()


@serving("C-75")
async def an_impossible_initial_n_starts_nothing(bench: Bench) -> None:
    peer = await bench.caller()
    offered = [name for name in ("stream", "channel") if name in bench.subject.routes]
    for behaviour in offered or ["stream"]:
        for n in BAD_N:
            stream_id = peer.next_id()
            frame = peer.request(behaviour, b"5", stream_id=stream_id)
            await peer.send(frame[:6] + n.to_bytes(4, "big") + frame[10:])
            await peer.expect_error(stream_id, ErrorCode.INVALID)
    await peer.silence()
    if not bench.subject.is_foreign:
        check(b"5" not in bench.seen.data(), "no handler", bench.seen.calls)


@serving("C-76")
async def an_impossible_request_n_ends_the_stream(bench: Bench) -> None:
    peer = await bench.caller()
    for n in BAD_N:
        stream_id = await peer.ask("stream", b"9", n=1)
        await peer.expect_items(stream_id, [b"1"])
        await peer.send(head(stream_id, REQUEST_N) + n.to_bytes(4, "big"))
        await peer.expect_error(stream_id, ErrorCode.INVALID)
    await peer.silence()


@serving("C-77")
async def request_n_out_of_place_is_ignored(bench: Bench) -> None:
    peer = await bench.caller()
    await peer.send(encode_request_n(peer.first_id + 1000, 3))
    await peer.send(head(0, REQUEST_N) + b"\0\0\0\3")
    if "never" in bench.subject.routes:
        await peer.send(encode_request_n(await peer.ask("never"), 3))
    await peer.silence()


@asking("C-78")
async def items_beyond_the_credit_are_refused(bench: Bench) -> None:
    peer, caller = await bench.responder()
    stream = caller.stream(n=2)
    begun = bench.task(stream.__aenter__())
    request = await peer.frame("a request")
    await begun
    peer.passes_over.add(REQUEST_N)
    item = encode_payload(request.stream_id, None, b"item")
    await peer.send(*[item] * (request.number + 10))
    await peer.expect(CANCEL, request.stream_id)

    async def consume() -> int:
        return len([item async for item in stream])

    await error_of(consume(), RSocketError)


@serving("C-88")
async def a_payload_with_neither_next_nor_complete_is_not_delivered(bench: Bench) -> None:
    seen = bench.seen
    peer = await bench.caller()
    stream_id = await peer.ask("channel", b"first")
    await peer.expect_answer(stream_id, b"first")
    await peer.expect(REQUEST_N, stream_id)
    peer.passes_over.add(REQUEST_N)  # one may give the credit back
    await peer.send(head(stream_id, PAYLOAD) + b"blank")
    if await peer.alive_or_ended():
        await peer.send(encode_payload(stream_id, None, b"second"))
        await peer.expect_answer(stream_id, b"second")
    check(b"blank" not in seen.items, "no such item", seen.items)


@asking("C-88")
async def nor_is_one_of_a_responder(bench: Bench) -> None:
    peer, caller = await bench.responder()
    async with caller.stream() as items:
        request = await peer.frame("a request")
        peer.passes_over.add(REQUEST_N)
        await peer.send(head(request.stream_id, PAYLOAD) + b"blank")
        if await peer.alive_or_ended():
            await peer.send(encode_payload(request.stream_id, None, b"item"))
            item = await anext(items)
            check(item.data == b"item", "the item behind it", repr(item))


@serving("C-89")
async def frames_of_no_stream_have_no_effect(bench: Bench) -> None:
    peer = await bench.caller()
    for stream_id in (0, peer.first_id + 1000, 1003 - peer.first_id):
        await peer.send(head(stream_id, PAYLOAD, 0x20) + b"lost", head(stream_id, CANCEL))
    await peer.silence()


@serving("C-90")
async def a_lost_connection_cancels_handlers(bench: Bench) -> None:
    seen = bench.seen
    peer = await bench.caller()
    await peer.ask("never")
    stream_id = await peer.ask("stream", b"9", n=1)
    await peer.expect_items(stream_id, [b"1"])
    peer.wire.abort()
    await until(lambda: sorted(seen.ended) == ["never", "stream"], "both handlers to be cancelled")


@asking("C-90")
async def a_lost_connection_fails_calls(bench: Bench) -> None:
    peer, caller = await bench.responder()
    call = bench.task(caller.response())
    await peer.frame("a request")
    async with caller.stream() as items:
        await peer.frame("another request")
        peer.wire.abort()
        kind = RSocketError if bench.is_broker else ConnectionClosed
        await error_of(call, kind)
        await error_of(anext(items), kind)
