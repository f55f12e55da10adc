"""C-26 to C-43: how a connection begins, and how it does not."""

from __future__ import annotations

from rsocket_mesh.errors import ErrorCode, RSocketError, SetupRefused
from rsocket_mesh.protocol.frames import (
    PAYLOAD,
    REQUEST_RESPONSE,
    SETUP,
    Resume,
    encode_error,
    encode_keepalive,
    encode_resume,
    encode_setup,
)
from rsocket_mesh.protocol.metadata import ANNOUNCE, encode_entry
from rsocket_mesh.protocol.payload import Payload
from rsocket_mesh.testing.conformance import raw_peer
from rsocket_mesh.testing.conformance.bench import Bench, error_of
from rsocket_mesh.testing.conformance.cases.framing import head
from rsocket_mesh.testing.conformance.registry import accepting, dialling
from rsocket_mesh.testing.conformance.subjects import ServerSubject
from rsocket_mesh.testing.conformance.verdicts import check

SETUP_ERRORS = (
    ErrorCode.INVALID_SETUP,
    ErrorCode.UNSUPPORTED_SETUP,
    ErrorCode.REJECTED_SETUP,
)
OUR_SETUP = raw_peer.SETUP
SETUP_FRAME = encode_setup(OUR_SETUP)
VERSION_2 = encode_setup(OUR_SETUP._replace(major=2))


async def expect_refused(bench: Bench, frame: bytes, *codes: int) -> None:
    """Send *frame* first on a new connection and expect one of *codes*, then the end."""
    peer = await bench.dial()
    await peer.send(frame)
    await peer.expect_end(*codes)


@dialling("C-26")
async def a_client_begins_with_setup(bench: Bench) -> None:
    peer, _ = await bench.accept()
    first = await peer.frame("SETUP on stream 0")
    check((first.kind, first.stream_id) == (SETUP, 0), "SETUP on stream 0", first)
    check(first.raw[6:10] == b"\0\1\0\0", "version 1.0", first.raw[6:10].hex(" "))


@accepting("C-27")
async def any_other_first_frame_is_refused(bench: Bench) -> None:
    for frame in (
        encode_keepalive(True),
        head(1, REQUEST_RESPONSE) + b"x",
        head(0, REQUEST_RESPONSE) + b"x",
        head(1, PAYLOAD, 0x20),
        head(0, 0x0F),
        encode_error(0, ErrorCode.CONNECTION_ERROR, "hello"),
    ):
        await expect_refused(bench, frame, ErrorCode.INVALID_SETUP)


@accepting("C-28")
async def setup_on_a_stream_is_refused(bench: Bench) -> None:
    resume = encode_resume(Resume(b"sixteen bytes...", 0, 0))
    for frame in (SETUP_FRAME, resume):
        await expect_refused(bench, b"\0\0\0\1" + frame[4:], ErrorCode.INVALID_SETUP)


@accepting("C-29")
async def a_good_setup_is_not_answered(bench: Bench) -> None:
    peer = await bench.dial()
    await peer.send(SETUP_FRAME)
    await peer.silence()


@accepting("C-30")
async def requests_behind_setup_are_all_served(bench: Bench) -> None:
    peer = await bench.dial()
    ids = [peer.next_id() for _ in range(20)]
    requests = [peer.request("echo", b"%d" % i, stream_id=i) for i in ids]
    await peer.send(SETUP_FRAME, *requests)
    answers = [await peer.frame(f"an answer on each of {len(ids)} streams") for _ in ids]
    came = sorted((answer.stream_id, answer.data) for answer in answers)
    check(came == [(i, b"%d" % i) for i in ids], "each request's own answer", came)
    if not bench.subject.is_foreign:
        wanted = [b"%d" % i for i in ids]
        check(bench.seen.data() == wanted, "the requests in their order", bench.seen.data())


@accepting("C-31")
async def requests_behind_a_refused_setup_are_not_served(bench: Bench) -> None:
    peer = await bench.dial()
    requests = [peer.request("echo", b"x", stream_id=peer.next_id()) for _ in range(3)]
    await peer.send(VERSION_2, *requests)
    await peer.expect_end(*SETUP_ERRORS)
    if not bench.subject.is_foreign:
        check(bench.seen.calls == [], "no request at the application", bench.seen.calls)


@accepting("C-32")
async def a_refused_setup_is_told_so(bench: Bench) -> None:
    await expect_refused(bench, VERSION_2, *SETUP_ERRORS)


@accepting("C-32", "broker")
async def an_announcement_that_cannot_be_used_is_refused(bench: Bench) -> None:
    setup = OUR_SETUP._replace(metadata=encode_entry(ANNOUNCE, b"this is not JSON"))
    await expect_refused(bench, encode_setup(setup), *SETUP_ERRORS)


@accepting("C-33")
async def times_of_0_are_refused(bench: Bench) -> None:
    for at in (10, 14):  # keepalive interval, max lifetime
        frame = SETUP_FRAME[:at] + bytes(4) + SETUP_FRAME[at + 4 :]
        await expect_refused(bench, frame, ErrorCode.INVALID_SETUP)


@accepting("C-34")
async def an_unknown_version_is_refused(bench: Bench) -> None:
    codes = (ErrorCode.INVALID_SETUP, ErrorCode.UNSUPPORTED_SETUP)
    for version in (b"\0\2\0\0", b"\0\0\0\2", b"\xff\xff\0\0"):
        await expect_refused(bench, SETUP_FRAME[:6] + version + SETUP_FRAME[10:], *codes)


@accepting("C-35")
async def lengths_beyond_the_frame_are_refused(bench: Bench) -> None:
    times = SETUP_FRAME[6:18]
    for flags, rest in (
        (0, b"\x7fa/b\x03c/d"),  # metadata MIME type
        (0, b"\x03a/b\x7fc/d"),  # data MIME type
        (0x080, b"\x7f\xfftoken\x03a/b\x03c/d"),
    ):
        await expect_refused(bench, head(0, SETUP, flags) + times + rest, ErrorCode.INVALID_SETUP)


@accepting("C-36", "no-resume")
async def resume_is_refused_where_it_is_not_offered(bench: Bench) -> None:
    frame = encode_setup(OUR_SETUP._replace(resume_token=b"sixteen bytes..."))
    await expect_refused(bench, frame, ErrorCode.REJECTED_SETUP)


@accepting("C-37")
async def a_second_setup_changes_nothing(bench: Bench) -> None:
    peer = await bench.caller()
    await peer.send(encode_setup(OUR_SETUP._replace(data_mime="text/plain", lifetime_ms=1)))
    await peer.send(VERSION_2)
    await peer.silence()
    if isinstance(bench.subject, ServerSubject):
        setups = bench.subject.setups
        check(len(setups) == 1, "one call of the acceptor", f"{len(setups)} calls")


@dialling("C-38")
async def a_client_ignores_setup(bench: Bench) -> None:
    peer, _ = await bench.established()
    await peer.send(SETUP_FRAME)
    await peer.silence()


@accepting("C-39")
async def a_server_ignores_setup_errors(bench: Bench) -> None:
    peer = await bench.caller()
    for code in range(1, 5):
        await peer.send(encode_error(0, code, "out of place"))
    await peer.silence()


@dialling("C-40")
async def an_established_client_ignores_setup_errors(bench: Bench) -> None:
    peer, _ = await bench.established()
    await peer.expect_answer(await peer.ask("echo", b"x"), b"x")  # a request proves acceptance
    for code in range(1, 5):
        await peer.send(encode_error(0, code, "out of place"))
    await peer.silence()


@dialling("C-41")
async def a_setup_error_fails_all_that_waits(bench: Bench) -> None:
    for code in SETUP_ERRORS:
        peer, client = await bench.accept()
        call = bench.task(client.requester.request_response(Payload(b"x")))
        while (await peer.frame("SETUP, then the request")).kind != REQUEST_RESPONSE:
            pass
        await peer.send(encode_error(0, code, "no"))
        await error_of(call, RSocketError)
        error = await client.closed
        check(isinstance(error, SetupRefused), "SetupRefused", repr(error))
        await peer.expect_closed()


@accepting("C-42")
async def who_sends_nothing_is_disconnected(bench: Bench) -> None:
    strict = bench if bench.subject.is_foreign else await bench.strict()
    peer = await strict.dial()
    await peer.expect_closed()


@accepting("C-43", "server")
async def the_acceptor_sees_the_setup_as_it_was_sent(bench: Bench) -> None:
    setup = OUR_SETUP._replace(
        metadata_mime="a/b", data_mime="not a type", metadata=b"\0meta", data=b"\xffdata"
    )
    await bench.caller(setup)
    assert isinstance(bench.subject, ServerSubject)
    check(bench.subject.setups == [setup], str(setup), bench.subject.setups)


@accepting("C-43", "broker")
async def the_announcement_of_a_setup_is_in_force(bench: Bench) -> None:
    peer, caller = await bench.responder()
    bench.task(caller.response(b"found"))
    request = await peer.expect(REQUEST_RESPONSE, 2, "a call for the announced service")
    check(request.data == b"found", "the call", request)
