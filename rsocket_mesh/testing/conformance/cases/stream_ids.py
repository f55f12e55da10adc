"""C-57 to C-65: who may use which stream id, and when again."""

# ruff: noqa: SLF001 - nobody makes 2^30 requests to see which id comes behind the last

from __future__ import annotations

from rsocket_mesh.errors import LocalProtocolError
from rsocket_mesh.protocol.frames import (
    MAX_STREAM_ID,
    REQUEST_FNF,
    REQUEST_RESPONSE,
    encode_payload,
    encode_request,
    encode_request_n,
)
from rsocket_mesh.protocol.stream_ids import StreamIds
from rsocket_mesh.testing.conformance.bench import Bench, Caller
from rsocket_mesh.testing.conformance.raw_peer import RawPeer
from rsocket_mesh.testing.conformance.registry import asking, serving
from rsocket_mesh.testing.conformance.subjects import BrokerSubject
from rsocket_mesh.testing.conformance.verdicts import Failed, check


async def answer_one(peer: RawPeer) -> int:
    """Answer the next request with its own data; return its stream id."""
    request = await peer.frame("a request")
    check(request.kind == REQUEST_RESPONSE, "REQUEST_RESPONSE", request)
    await peer.send(encode_payload(request.stream_id, None, request.data, complete=True))
    return request.stream_id


@asking("C-57")
async def ids_are_counted_by_two(bench: Bench) -> None:
    peer, caller = await bench.responder()
    first = 3 - peer.first_id  # of the other side
    for number in range(4):
        await caller.requester.fire_and_forget(caller.payload(b"%d" % number))
        await peer.expect(REQUEST_FNF, first + 2 * number)


@asking("C-58")
async def both_sides_request_at_once(bench: Bench) -> None:
    peer, caller = await bench.responder()
    call = bench.task(caller.response(b"theirs"))
    request = await peer.frame("a request")
    await peer.expect_answer(await peer.ask("echo", b"ours"), b"ours")
    await peer.send(encode_payload(request.stream_id, None, b"answer", complete=True))
    answer = await call
    check(answer.data == b"answer", "the answer", repr(answer))


@serving("C-59")
async def a_request_on_an_open_stream_is_ignored(bench: Bench) -> None:
    peer = await bench.caller()
    stream_id = await peer.ask("stream", b"3", n=1)
    await peer.expect_items(stream_id, [b"1"])
    await peer.ask("echo", b"intruder", stream_id=stream_id)
    await peer.silence()
    await peer.send(encode_request_n(stream_id, 5))
    await peer.expect_items(stream_id, [b"2", b"3"])


@serving("C-60")
async def an_id_of_the_wrong_parity_opens_nothing(bench: Bench) -> None:
    peer = await bench.caller()
    await peer.ask("echo", b"parity", stream_id=1003 - peer.first_id)
    if await peer.alive_or_ended():
        await peer.silence()
    if not bench.subject.is_foreign:
        check(b"parity" not in bench.seen.data(), "no handler for it", bench.seen.calls)


@asking("C-60")
async def such_a_request_leaves_the_own_stream_alone(bench: Bench) -> None:
    peer, caller = await bench.responder()
    call = bench.task(caller.response())
    stream_id = (await peer.frame("a request")).stream_id
    await peer.send(encode_request(REQUEST_RESPONSE, stream_id, None, b"x"))
    if await peer.alive_or_ended():
        await peer.send(encode_payload(stream_id, None, b"answer", complete=True))
        answer = await call
        check(answer.data == b"answer", "the answer", repr(answer))


@serving("C-61")
async def a_request_on_stream_0_reaches_no_handler(bench: Bench) -> None:
    peer = await bench.caller()
    frame = peer.request("echo", b"stream 0", stream_id=2)
    await peer.send(bytes(4) + frame[4:])
    if await peer.alive_or_ended():
        await peer.silence()
    if not bench.subject.is_foreign:
        check(b"stream 0" not in bench.seen.data(), "no handler for it", bench.seen.calls)


@asking("C-62")
async def behind_the_last_id_it_wraps_over_those_in_use(bench: Bench) -> None:
    peer, caller = await bench.responder()
    first = 3 - peer.first_id
    last = MAX_STREAM_ID - 3 + first % 2  # the last but one of this side
    await _fire(peer, caller)  # id `first` is free again
    bench.task(caller.response(b"stays open"))
    await peer.expect(REQUEST_RESPONSE, first + 2)
    if isinstance(bench.subject, BrokerSubject):
        bench.subject.set_next_id(caller.service, last)
    else:
        caller.requester._ids._next = last
    ids = [await _fire(peer, caller) for _ in range(4)]
    wanted = [last, last + 2, first, first + 4]  # `first + 2` is in use
    check(ids == wanted, f"ids {wanted}", ids)


async def _fire(peer: RawPeer, caller: Caller) -> int:
    await caller.requester.fire_and_forget(caller.payload(b"x"))
    return (await peer.frame("a fire-and-forget")).stream_id


@serving("C-63")
async def the_id_of_an_ended_stream_may_be_used_again(bench: Bench) -> None:
    peer = await bench.caller()
    stream_id = peer.next_id()
    for data in (b"once", b"twice"):
        await peer.ask("echo", data, stream_id=stream_id)
        await peer.expect_answer(stream_id, data)


@asking("C-64", "no-broker")
async def with_all_ids_in_use_a_request_fails_at_once(bench: Bench) -> None:
    peer, caller = await bench.responder()
    first = 3 - peer.first_id
    caller.requester._ids = StreamIds(first, first + 2)
    for number in range(2):
        bench.task(caller.response())
        await peer.expect(REQUEST_RESPONSE, first + 2 * number)
    try:
        await caller.response()
    except LocalProtocolError:
        await peer.silence()
    else:
        raise Failed("LocalProtocolError", "came an answer")


@asking("C-65")
async def an_id_is_not_used_twice(bench: Bench) -> None:
    peer, caller = await bench.responder()
    ids: list[int] = []
    for _ in range(5):
        call = bench.task(caller.response())
        ids.append(await answer_one(peer))
        await call
    check(len(set(ids)) == 5, "five ids for five calls", ids)
