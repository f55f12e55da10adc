"""C-79 to C-87: the two halves of a channel."""

from __future__ import annotations

from collections.abc import AsyncIterator

from rsocket_mesh.errors import ErrorCode, RSocketError
from rsocket_mesh.protocol.frames import (
    CANCEL,
    PAYLOAD,
    REQUEST_CHANNEL,
    REQUEST_N,
    encode_cancel,
    encode_error,
    encode_payload,
    encode_request_n,
)
from rsocket_mesh.protocol.payload import Payload
from rsocket_mesh.testing.conformance.bench import Bench, error_of, until
from rsocket_mesh.testing.conformance.cases.models import expect_completion, expect_last
from rsocket_mesh.testing.conformance.raw_peer import RawPeer
from rsocket_mesh.testing.conformance.registry import asking, serving
from rsocket_mesh.testing.conformance.verdicts import check


async def numbers(count: int = 100) -> AsyncIterator[Payload]:
    """Yield 1, 2, 3... as text."""
    for number in range(1, count + 1):
        yield Payload(str(number).encode())


async def open_channel(peer: RawPeer, behaviour: str = "channel", n: int = 100) -> int:
    """Open a channel, take the echo of its first item and the demand for more; return its id."""
    stream_id = await peer.ask(behaviour, b"first", n=n)
    await peer.expect_answer(stream_id, b"first")
    demand = await peer.expect(REQUEST_N, stream_id)
    check(demand.number >= 1, "a request n of 1 or more", demand)
    peer.passes_over.add(REQUEST_N)  # it may ask for more whenever it likes
    return stream_id


@asking("C-79")
async def no_item_is_sent_before_it_is_asked_for(bench: Bench) -> None:
    peer, caller = await bench.responder()
    async with caller.channel(numbers(), b"first"):
        request = await peer.frame("a request")
        stream_id = request.stream_id
        check((request.kind, request.data) == (REQUEST_CHANNEL, b"first"), "the first", request)
        peer.passes_over.add(REQUEST_N)
        check(await caller.fence(peer) == [], "no PAYLOAD before REQUEST_N", "some")
        await peer.send(encode_request_n(stream_id, 2))
        await peer.expect_items(stream_id, [b"1", b"2"])
        check(await caller.fence(peer) == [], "two PAYLOADs for a REQUEST_N of 2", "more")


@serving("C-80")
async def the_responder_asks_for_items(bench: Bench) -> None:
    peer = await bench.caller()
    stream_id = await open_channel(peer)
    await peer.send(encode_payload(stream_id, None, b"second"))
    await peer.expect_answer(stream_id, b"second")


@serving("C-81")
async def the_responders_half_goes_on_behind_the_requesters_end(bench: Bench) -> None:
    peer = await bench.caller()
    stream_id = await open_channel(peer, n=2)
    await peer.send(
        encode_payload(stream_id, None, b"second"),
        encode_payload(stream_id, None, b"third", complete=True),
    )
    await peer.expect_answer(stream_id, b"second")
    await peer.silence()  # there is no credit for the third
    await peer.send(encode_request_n(stream_id, 2))
    await expect_last(peer, stream_id, b"third")


@serving("C-81")
async def the_requesters_half_goes_on_behind_the_responders_end(bench: Bench) -> None:
    seen = bench.seen
    peer = await bench.caller()
    await _open_talk(peer, b"last")
    stream_id = peer.last_id
    await peer.send(encode_payload(stream_id, None, b"still"))
    await until(lambda: seen.items == [b"still"], "the item to reach the application")
    await peer.send(encode_payload(stream_id, None, b"", next=False, complete=True))
    await until(lambda: seen.completed == 1, "the completion to reach the application")
    await peer.silence()


async def _open_talk(peer: RawPeer, data: bytes) -> None:
    """Open a channel whose responder completes its half and asks for more, in either order."""
    stream_id = await peer.ask("talk", data)
    await peer.expect_answer(stream_id, data)
    kinds = [(await peer.expect_one_of(stream_id, PAYLOAD, REQUEST_N)).kind for _ in range(2)]
    check(sorted(kinds) == [REQUEST_N, PAYLOAD], "completion and REQUEST_N", kinds)
    peer.passes_over.add(REQUEST_N)


@serving("C-82")
async def a_channel_that_begins_complete_has_one_item(bench: Bench) -> None:
    peer = await bench.caller()
    stream_id = await peer.ask("channel", b"only", complete=True)
    await peer.expect_answer(stream_id, b"only")
    await expect_completion(peer, stream_id)
    if not bench.subject.is_foreign:
        check(bench.seen.completed == 1, "the end of the inbound half", bench.seen.completed)


@serving("C-83")
async def an_error_of_the_requester_ends_both_halves(bench: Bench) -> None:
    seen = bench.seen
    peer = await bench.caller()
    stream_id = await open_channel(peer)
    await peer.send(encode_error(stream_id, ErrorCode.APPLICATION_ERROR, "no more"))
    await until(lambda: seen.ended == ["channel"], "the handler to end")
    await peer.send(encode_payload(stream_id, None, b"late"))
    await peer.silence()


@serving("C-83")
async def also_when_the_responder_had_completed(bench: Bench) -> None:
    seen = bench.seen
    peer = await bench.caller()
    await _open_talk(peer, b"last")
    await peer.send(encode_error(peer.last_id, ErrorCode.APPLICATION_ERROR, "no more"))
    await until(lambda: seen.ended == ["talk"], "the inbound half to fail")
    await peer.silence()


@asking("C-83")
async def an_error_of_the_responder_ends_both_halves(bench: Bench) -> None:
    peer, caller = await bench.responder()
    async with caller.channel(numbers()) as items:
        stream_id = (await peer.frame("a request")).stream_id
        peer.passes_over.add(REQUEST_N)
        error = encode_error(stream_id, ErrorCode.APPLICATION_ERROR, "no more")
        await peer.send(error, encode_request_n(stream_id, 5))
        await error_of(anext(items), RSocketError)
        check(await caller.fence(peer) == [], "no item behind the error", "some")


@serving("C-84")
async def cancel_of_the_requester_ends_both_halves(bench: Bench) -> None:
    seen = bench.seen
    peer = await bench.caller()
    stream_id = await open_channel(peer)
    await peer.send(encode_cancel(stream_id))
    await until(lambda: seen.ended == ["channel"], "the handler to be cancelled")
    await peer.send(encode_payload(stream_id, None, b"late"), encode_request_n(stream_id, 5))
    await peer.silence()
    check(seen.items == [], "no item behind it", seen.items)


@serving("C-85")
async def a_responder_may_refuse_more_items(bench: Bench) -> None:
    peer = await bench.caller()
    stream_id = await peer.ask("one", b"first")
    await peer.expect(REQUEST_N, stream_id)
    peer.passes_over.add(REQUEST_N)
    await peer.send(encode_payload(stream_id, None, b"one"))
    await peer.expect(CANCEL, stream_id)
    await peer.silence()


@asking("C-85")
async def cancel_of_the_responder_ends_the_requesters_half_only(bench: Bench) -> None:
    peer, caller = await bench.responder()
    async with caller.channel(numbers()) as items:
        stream_id = (await peer.frame("a request")).stream_id
        await peer.send(encode_request_n(stream_id, 1))
        await peer.expect_items(stream_id, [b"1"])
        await peer.send(encode_cancel(stream_id), encode_request_n(stream_id, 5))
        await peer.send(encode_payload(stream_id, None, b"item"))
        item = await anext(items)
        check(item.data == b"item", "an item behind CANCEL", repr(item))
        frames = [frame for frame in await caller.fence(peer) if frame.kind == PAYLOAD]
        check(not any(frame.next for frame in frames), "no item after CANCEL", frames)


@serving("C-86")
async def items_behind_the_requesters_end_are_ignored(bench: Bench) -> None:
    seen = bench.seen
    peer = await bench.caller()
    stream_id = await open_channel(peer, n=2)
    await peer.send(
        encode_payload(stream_id, None, b"second"),
        encode_payload(stream_id, None, b"last", complete=True),
        encode_payload(stream_id, None, b"too late"),
    )
    await peer.expect_answer(stream_id, b"second")
    await peer.silence()
    await peer.send(encode_request_n(stream_id, 5))
    await expect_last(peer, stream_id, b"last")
    await peer.silence()
    check(seen.items == [b"second", b"last"], "two items", seen.items)


@serving("C-87")
async def a_second_channel_request_is_ignored(bench: Bench) -> None:
    peer = await bench.caller()
    stream_id = await open_channel(peer)
    await peer.ask("channel", b"again", stream_id=stream_id)
    await peer.silence()
    await peer.send(encode_payload(stream_id, None, b"goes on", complete=True))
    await expect_last(peer, stream_id, b"goes on")
    if not bench.subject.is_foreign:
        check(b"again" not in bench.seen.data(), "no handler for it", bench.seen.calls)
