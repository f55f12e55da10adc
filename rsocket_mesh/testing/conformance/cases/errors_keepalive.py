"""C-44 to C-56: errors of connections and streams, signs of life, metadata push."""

from __future__ import annotations

from rsocket_mesh.errors import ApplicationError, ConnectionClosed, ErrorCode, RSocketError
from rsocket_mesh.protocol.frames import (
    ERROR,
    METADATA_PUSH,
    REQUEST_RESPONSE,
    encode_error,
    encode_keepalive,
    encode_metadata_push,
    encode_payload,
    encode_request_n,
)
from rsocket_mesh.protocol.metadata import encode_composite
from rsocket_mesh.protocol.payload import Payload
from rsocket_mesh.testing.conformance.bench import Bench, error_of, until
from rsocket_mesh.testing.conformance.cases.framing import head
from rsocket_mesh.testing.conformance.cases.stream_ids import answer_one
from rsocket_mesh.testing.conformance.registry import asking, dialling, serving
from rsocket_mesh.testing.conformance.subjects import LIBRARY_SETUP
from rsocket_mesh.testing.conformance.verdicts import check

LARGE = 1_048_576  # bytes of KEEPALIVE data that nobody sends in good faith
MANY = 1000  # KEEPALIVE frames sent without reading an answer


@serving("C-44")
async def codes_go_with_their_kind_of_stream(bench: Bench) -> None:
    peer = await bench.caller()
    if "fail" in bench.subject.routes:
        await peer.expect_error(await peer.ask("fail", b"no"), ErrorCode.APPLICATION_ERROR)
    await peer.send(head(0, 0x03) + b"short")  # a KEEPALIVE that is none
    await peer.alive_or_ended()


@serving("C-45")
async def connection_error_cancels_the_handlers(bench: Bench) -> None:
    seen = bench.seen
    peer = await bench.caller()
    await peer.ask("never")
    await until(lambda: seen.calls, "the request to reach the application")
    await peer.send(encode_error(0, ErrorCode.CONNECTION_ERROR, "over"))
    await peer.expect_closed()
    await until(lambda: seen.ended == ["never"], "the handler to be cancelled")


@asking("C-45")
async def connection_error_fails_the_calls(bench: Bench) -> None:
    peer, caller = await bench.responder()
    call = bench.task(caller.response())
    await peer.frame("a request")
    await peer.send(encode_error(0, ErrorCode.CONNECTION_ERROR, "over"))
    await error_of(call, RSocketError if bench.is_broker else ConnectionClosed)


@serving("C-46")
async def open_streams_finish_after_connection_close(bench: Bench) -> None:
    peer = await bench.caller()
    stream_id = await peer.ask("stream", b"2", n=1)
    await peer.expect_items(stream_id, [b"1"])
    await peer.send(encode_error(0, ErrorCode.CONNECTION_CLOSE, "soon"))
    await peer.fence()
    await peer.send(encode_request_n(stream_id, 5))
    last = await peer.expect_items(stream_id, [b"2"])
    if not last.complete:
        await peer.frame("the completion")
    await peer.expect_closed()


@asking("C-46")
async def calls_finish_after_connection_close(bench: Bench) -> None:
    peer, caller = await bench.responder()
    first = bench.task(caller.response())
    await answer_one(peer)  # an answer proves that the connection is established
    await first
    call = bench.task(caller.response())
    request = await peer.frame("a request")
    await peer.send(encode_error(0, ErrorCode.CONNECTION_CLOSE, "soon"))
    await peer.send(encode_payload(request.stream_id, None, b"still", complete=True))
    answer = await call
    check(answer.data == b"still", "the answer", repr(answer))


@serving("C-47")
async def error_text_is_utf8_without_terminator(bench: Bench) -> None:
    peer = await bench.caller()
    text = "nicht möglich ✗"
    error = await peer.expect_error(await peer.ask("fail", text.encode()), 0x201)
    check(text in error.data.decode("utf-8", "replace"), f"{text!r} in it", error)
    check(not error.data.endswith(b"\0"), "no zero byte at the end", error)


@asking("C-47")
async def error_text_that_is_not_utf8_does_no_harm(bench: Bench) -> None:
    peer, caller = await bench.responder()
    call = bench.task(caller.response())
    request = await peer.frame("a request")
    await peer.send(head(request.stream_id, ERROR) + b"\0\0\2\1\xff\xfe broken")
    error = await error_of(call, ApplicationError)
    check("broken" in str(error), "the rest of the text", repr(error))


@serving("C-48")
async def an_error_on_an_unknown_stream_is_ignored(bench: Bench) -> None:
    peer = await bench.caller()
    await peer.send(encode_error(peer.first_id + 1000, ErrorCode.CANCELED, "which?"))
    await peer.send(encode_error(1003 - peer.first_id, ErrorCode.CANCELED, "which?"))
    await peer.silence()


@dialling("C-49")
async def a_client_asks_for_signs_of_life(bench: Bench) -> None:
    setup = LIBRARY_SETUP._replace(keepalive_ms=30)
    peer, _ = await bench.established(setup)
    for _ in range(3):  # idle
        await peer.keepalive_asked()
    before = len(peer.keepalives)
    while len(peer.keepalives) < before + 3:  # busy
        await peer.expect_answer(await peer.ask("echo", b"x"), b"x")
    check(all(frame.flags & 0x080 for frame in peer.keepalives), "R set", peer.keepalives)


@serving("C-50")
async def a_keepalive_is_answered_with_its_data(bench: Bench) -> None:
    peer = await bench.caller()
    answer = await peer.fence()  # whose answer is known by its data
    check(not answer.flags & 0x080, "R not set in the answer", answer)


@serving("C-51")
async def a_keepalive_that_asks_for_nothing_gets_nothing(bench: Bench) -> None:
    peer = await bench.caller()
    await peer.send(encode_keepalive(False, 0, b"no answer, please"))
    await peer.silence()


@dialling("C-52")
async def a_client_gives_a_silent_server_up(bench: Bench) -> None:
    setup = LIBRARY_SETUP._replace(keepalive_ms=200, lifetime_ms=1000)
    peer, client = await bench.established(setup)
    peer.answers_keepalive = False
    call = bench.task(client.requester.request_response(Payload(b"x")))
    await error_of(call, ConnectionClosed)
    await peer.expect(REQUEST_RESPONSE, 1)
    await peer.expect_end()


@serving("C-53")
async def the_position_is_0_without_resume(bench: Bench) -> None:
    peer = await bench.caller()
    await peer.expect_answer(await peer.ask("echo", b"x"), b"x")
    answer = await peer.fence()
    check(answer.position == 0, "position 0", answer)
    asked = [frame.position for frame in peer.keepalives]
    check(not any(asked), "position 0 in what it asks", asked)


@serving("C-54")
async def large_data_is_echoed_or_ends_the_connection(bench: Bench) -> None:
    peer = await bench.caller()
    await peer.send(encode_keepalive(True, 0, b"x" * LARGE))
    frame = await peer.frame("the answer, or CONNECTION_ERROR")
    if frame.kind == ERROR:
        check(frame.number == ErrorCode.CONNECTION_ERROR, "CONNECTION_ERROR", frame)
        await peer.expect_closed()
    else:
        check(frame.data == b"x" * LARGE, "the same data", frame)


@serving("C-54")
async def many_at_once_do_no_harm(bench: Bench) -> None:
    peer = await bench.caller()
    await peer.send(*(encode_keepalive(True, 0, b"many") for _ in range(MANY)))
    for number in range(MANY):
        frame = await peer.frame_or_end(f"answer {number + 1} of {MANY}, or the end")
        if frame is None or frame.kind == ERROR:
            return
    await peer.silence()


@serving("C-55")
async def pushed_metadata_arrives_and_is_not_answered(bench: Bench) -> None:
    seen = bench.seen
    peer = await bench.caller()
    metadata = encode_composite([("a/b", b"news")])
    await peer.send(encode_metadata_push(metadata))
    await until(lambda: seen.pushed == [metadata], "the push to reach the application")
    await peer.silence()


@serving("C-56")
async def pushed_metadata_on_a_stream_is_ignored(bench: Bench) -> None:
    peer = await bench.caller()
    metadata = encode_composite([("a/b", b"news")])
    await peer.send(head(peer.next_id(), METADATA_PUSH, 0x100) + metadata)
    await peer.silence()
    if not bench.subject.is_foreign:
        check(bench.seen.pushed == [], "nothing pushed", bench.seen.pushed)
