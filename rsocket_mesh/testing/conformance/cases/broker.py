"""C-136 to C-150: what a broker does between two connections."""

from __future__ import annotations

from rsocket_mesh.errors import ErrorCode, NoRoute, PeerLost
from rsocket_mesh.protocol.frames import (
    REQUEST_CHANNEL,
    REQUEST_N,
    REQUEST_RESPONSE,
    encode_payload,
    encode_request,
    encode_request_n,
)
from rsocket_mesh.protocol.metadata import ROUTING, encode_composite, encode_routing
from rsocket_mesh.testing.conformance.bench import Bench, error_of
from rsocket_mesh.testing.conformance.cases.extensions import ROUTED
from rsocket_mesh.testing.conformance.raw_peer import SETUP
from rsocket_mesh.testing.conformance.registry import accepting, asking, not_applicable
from rsocket_mesh.testing.conformance.verdicts import check

BROKER_FRAME = "message/x.rsocket.broker.frame.v0"

not_applicable(
    "the dialect of rsocket-broker (ROUTE_SETUP, ADDRESS) is not spoken yet",
    "C-136",
    "C-137",
    "C-138",
    "C-139",
    "C-140",
    "C-143",
)
not_applicable("there is no multicast yet", "C-141", "C-142")
not_applicable("brokers are not linked with each other yet", "C-146", "C-149")


@asking("C-144", "broker")
async def data_and_metadata_arrive_unchanged(bench: Bench) -> None:
    peer, caller = await bench.responder()
    metadata = (caller.payload().metadata or b"") + encode_composite([("a/b", bytes(range(256)))])
    raw = await bench.dial()
    await raw.introduce()
    data = bytes(range(256)) * 4
    sent = encode_request(REQUEST_RESPONSE, 1, metadata, data)
    await raw.send(sent)
    came = await peer.frame("the request")
    check(came.raw[4:] == sent[4:], "the same bytes behind the stream id", came)
    back = encode_payload(came.stream_id, metadata, data, complete=True)
    await peer.send(back)
    answer = await raw.frame("the answer")
    check(answer.raw[4:] == back[4:], "the same bytes behind the stream id", answer)


@asking("C-145", "broker")
async def a_lost_destination_is_withdrawn_and_its_streams_fail(bench: Bench) -> None:
    peer, caller = await bench.responder()
    call = bench.task(caller.response())
    await peer.frame("a request")
    peer.wire.abort()
    await error_of(call, PeerLost)
    await error_of(caller.response(), NoRoute)


@accepting("C-147", "broker")
async def malformed_broker_frames_harm_nothing(bench: Bench) -> None:
    for content in (b"", b"\0\0\0\1\x04", b"\0\0\0\1\x14\x80" + b"\xff" * 40, bytes(300)):
        setup = SETUP._replace(metadata=encode_composite([(BROKER_FRAME, content)]))
        peer = await bench.caller(setup)
        metadata = ROUTED + encode_composite([(BROKER_FRAME, content)])
        stream_id = await peer.ask("echo", b"x", metadata=metadata)
        await peer.expect_answer(stream_id, b"x")


@accepting("C-148", "broker")
async def what_nobody_serves_is_answered(bench: Bench) -> None:
    peer = await bench.caller()
    nobody = encode_composite([(ROUTING, encode_routing(["nobody.here"]))])
    for behaviour in ("echo", "stream", "channel"):
        stream_id = await peer.ask(behaviour, b"x", metadata=nobody)
        await peer.expect_error(stream_id, ErrorCode.REJECTED)


@asking("C-150", "broker")
async def later_frames_follow_the_first(bench: Bench) -> None:
    peer, caller = await bench.responder()
    raw = await bench.dial()
    await raw.introduce()
    await raw.send(encode_request(REQUEST_CHANNEL, 1, caller.payload().metadata, b"1", 10))
    stream_id = (await peer.expect(REQUEST_CHANNEL, 2)).stream_id
    peer.passes_over.add(REQUEST_N)
    await peer.send(encode_request_n(stream_id, 2), encode_payload(stream_id, None, b"a"))
    await raw.expect_one_of(1, 0x08)
    await raw.expect_answer(1, b"a")
    await raw.send(encode_payload(1, None, b"2"), encode_payload(1, None, b"3", complete=True))
    await peer.expect_items(stream_id, [b"2", b"3"])
