"""C-126 to C-135: what is written in metadata."""

from __future__ import annotations

from rsocket_mesh.errors import ErrorCode, Invalid, LocalProtocolError
from rsocket_mesh.protocol.frames import REQUEST_RESPONSE, encode_payload, encode_request
from rsocket_mesh.protocol.metadata import (
    ACCEPT_MIME_TYPES,
    AUTHENTICATION,
    DATA_MIME_TYPE,
    JSON,
    ROUTING,
    TRACING,
    SimpleCredentials,
    TraceContext,
    decode_authentication,
    decode_composite,
    decode_mime,
    decode_tracing,
    encode_composite,
    encode_mime,
    encode_mimes,
    encode_routing,
    find_entry,
)
from rsocket_mesh.rpc.service import Service
from rsocket_mesh.testing.conformance.application import SERVICE
from rsocket_mesh.testing.conformance.bench import Bench
from rsocket_mesh.testing.conformance.cases.stream_ids import answer_one
from rsocket_mesh.testing.conformance.raw_peer import SETUP, RawPeer
from rsocket_mesh.testing.conformance.registry import accepting, asking, dialling, serving
from rsocket_mesh.testing.conformance.verdicts import Failed, check

ECHO = f"{SERVICE}.echo"
ROUTED = encode_composite([(ROUTING, encode_routing([ECHO]))])
TRACE, SPAN, PARENT = bytes(range(16)), bytes(range(8)), bytes(range(8, 16))


async def arrives(bench: Bench, peer: RawPeer, metadata: bytes) -> None:
    """Send an echo request with *metadata*, which has to arrive as it is."""
    seen = bench.seen
    stream_id = await peer.ask("echo", b"x", metadata=metadata)
    await peer.expect_answer(stream_id, b"x")
    arrived = seen.calls[-1].payload.metadata
    check(arrived == metadata, metadata.hex(" "), arrived)


async def is_refused(bench: Bench, metadata: bytes) -> None:
    """Send an echo request with *metadata*, which has to fail alone."""
    seen = bench.seen
    peer = await bench.caller()
    stream_id = await peer.ask("echo", b"refused", metadata=metadata)
    await peer.expect_error(stream_id, ErrorCode.INVALID)
    await peer.silence()
    check(
        b"refused" not in [call.payload.data for call in seen.calls if call.behaviour == "echo"],
        "no handler",
        seen.calls,
    )


@serving("C-126")
async def entries_of_unknown_types_are_passed_over_and_kept(bench: Bench) -> None:
    peer = await bench.caller()
    before = encode_composite([("a/b", b"1"), (0x55, b"2")])
    behind = encode_composite([("a/b", b"3"), (0x56, b"")])
    await arrives(bench, peer, before + ROUTED + behind)


@serving("C-127")
async def mime_texts_of_1_to_128_characters_are_understood(bench: Bench) -> None:
    peer = await bench.caller()
    for text in (b"x", b"x" * 128):
        entry = bytes((len(text) - 1,)) + text + b"\0\0\1y"
        await arrives(bench, peer, entry + ROUTED)


@serving("C-127", "no-broker")
async def no_others_are_written(bench: Bench) -> None:
    await bench.caller()  # on the wire they cannot even be said
    bench.seen  # noqa: B018 - not of a foreign server
    for text in ("", "x" * 129):
        try:
            encode_mime(text)
        except LocalProtocolError:
            continue
        raise Failed(f"a refusal of {len(text)} characters", "it was encoded")


@serving("C-128")
async def a_cut_off_entry_fails_its_request_only(bench: Bench) -> None:
    for cut in (b"\x7fa/b", b"\xfe\0\0", b"\xfe\0\0\x64abc"):
        await is_refused(bench, cut)


@serving("C-129")
async def a_well_known_type_may_be_written_as_text(bench: Bench) -> None:
    peer = await bench.caller()
    text = ROUTING.encode()
    content = encode_routing([ECHO])
    entry = bytes((len(text) - 1,)) + text + len(content).to_bytes(3, "big") + content
    await arrives(bench, peer, entry)


@serving("C-130")
async def routing_tags_of_0_to_255_bytes_pass(bench: Bench) -> None:
    peer = await bench.caller()
    tags = encode_routing([ECHO, "", "x" * 255, "ä"])
    await arrives(bench, peer, encode_composite([(ROUTING, tags)]))


@serving("C-130")
async def a_routing_tag_past_the_end_is_an_error(bench: Bench) -> None:
    content = encode_routing([ECHO]) + b"\xffshort"
    await is_refused(bench, encode_composite([(ROUTING, content)]))


@dialling("C-131")
async def the_type_of_a_request_overrides_that_of_setup(bench: Bench) -> None:
    service = Service("typed")

    @service.request_response
    async def double(value: int) -> int:
        return 2 * value

    listener = await bench.listen()
    peer, _ = await bench.session(listener, serve=[service], codec="cbor")
    route = (ROUTING, encode_routing(["typed.double"]))
    asked = [route, (DATA_MIME_TYPE, encode_mime(JSON)), (ACCEPT_MIME_TYPES, encode_mimes([JSON]))]
    await peer.send(encode_request(REQUEST_RESPONSE, 2, encode_composite(asked), b"21"))
    answer = await peer.expect_one_of(2, 0x0A)
    check(answer.data == b"42", "42 as JSON", answer)


@accepting("C-131", "broker")
async def a_type_that_the_provider_does_not_assume_is_said(bench: Bench) -> None:
    peer = await bench.caller(SETUP._replace(data_mime="text/plain"))
    await peer.expect_answer(await peer.ask("echo", b"x"), b"x")
    metadata = bench.seen.calls[-1].payload.metadata or b""
    said = find_entry(metadata, DATA_MIME_TYPE)
    check(said is not None and decode_mime(said) == "text/plain", "text/plain", metadata)


@asking("C-132")
async def accepted_types_of_a_responder_are_ignored(bench: Bench) -> None:
    peer, caller = await bench.responder()
    call = bench.task(caller.response())
    request = await peer.frame("a request")
    metadata = encode_composite([(ACCEPT_MIME_TYPES, encode_mimes([JSON, "a/b"]))])
    await peer.send(encode_payload(request.stream_id, metadata, b"as ever", complete=True))
    answer = await call
    check(answer.data == b"as ever", "the answer", repr(answer))
    second = bench.task(caller.response())
    await answer_one(peer)
    await second


@serving("C-133", "no-broker")
async def simple_authentication_is_understood(bench: Bench) -> None:
    peer = await bench.caller()
    for name, password in ((b"u", b"p"), (b"", b""), (b"x" * 300, "pä".encode())):
        entry = b"\x80" + len(name).to_bytes(2, "big") + name + password
        metadata = ROUTED + encode_composite([(AUTHENTICATION, entry)])
        await arrives(bench, peer, metadata)
        came = decode_authentication(decode_composite(metadata)[1].content)
        wanted = SimpleCredentials(name.decode(), password.decode())
        check(came == wanted, "user name and password", came)


@serving("C-134", "no-broker")
async def authentication_that_cannot_be_read_is_refused(bench: Bench) -> None:
    bench.seen  # noqa: B018 - not of a foreign server
    for entry in (b"", b"\x80", b"\x80\0", b"\x80\0\x09short", b"\x05ab"):
        try:
            came = decode_authentication(entry)
        except Invalid:
            continue
        raise Failed(f"a refusal of {entry!r}", f"it was read as {came!r}")


@serving("C-135", "no-broker")
async def trace_entries_are_read_by_their_flags(bench: Bench) -> None:
    peer = await bench.caller()
    for entry, wanted in (
        (b"\x20", TraceContext(sampled=True)),
        (b"\x80" + TRACE[:8] + SPAN, TraceContext(TRACE[:8], SPAN)),
        (b"\xa8" + TRACE + SPAN, TraceContext(TRACE, SPAN, sampled=True)),
        (
            b"\xcc" + TRACE + SPAN + PARENT,
            TraceContext(TRACE, SPAN, PARENT, sampled=True, debug=True),
        ),
        (b"\xcc" + TRACE + SPAN, None),
        (b"", None),
    ):
        await arrives(bench, peer, ROUTED + encode_composite([(TRACING, entry)]))
        came = decode_tracing(entry)
        check(came == wanted, str(wanted), came)
