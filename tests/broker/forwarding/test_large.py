"""Large frames in parts: the same comes of them as of the same frames in one piece."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from broker.config import Config, Limits
from rsocket_mesh.protocol.frames import (
    REQUEST_CHANNEL,
    REQUEST_FNF,
    REQUEST_RESPONSE,
    REQUEST_STREAM,
    decode_error,
    encode_payload,
    encode_request_n,
    peek,
)
from rsocket_mesh.protocol.framing import LARGE, prefix_lengths
from tests.support.raw_peers import Bench, RawPeer, request

BODY = bytes(range(256)) * 512  # 128 KiB
Send = Callable[[RawPeer, bytes], bool]


def in_parts(peer: RawPeer, frame: bytes, head: int = 2048) -> bool:
    """Send *frame* as a transport offers a large one; return whether it was taken in parts."""
    assert len(frame) >= LARGE
    (size, _) = prefix_lengths([frame])
    wire = size + frame
    rest = memoryview(bytearray(wire[head:]))
    middle = len(rest) // 3
    if peer.link.large_received(wire[:head], [rest[:middle], rest[middle:]]):
        return True
    assert peer.send_bytes(wire) == len(wire)
    return False


def in_one_piece(peer: RawPeer, frame: bytes) -> bool:
    peer.send(frame)
    return False


def known_route(bench: Bench) -> tuple[RawPeer, RawPeer]:
    """A provider and a caller whose first request has found its way."""
    provider, caller = bench.provider(), bench.caller()
    caller.send(request(REQUEST_FNF, 101))
    provider.received()
    return provider, caller


def response(bench: Bench, send: Send) -> list[Any]:
    provider, caller = known_route(bench)
    taken = [send(caller, request(REQUEST_RESPONSE, 1, data=BODY, deadline_ms=500))]
    (there,) = provider.received()
    taken.append(send(provider, encode_payload(peek(there)[0], b"m", BODY, complete=True)))
    return [there, caller.received(), taken]


def stream(bench: Bench, send: Send) -> list[Any]:
    provider, caller = known_route(bench)
    taken = [send(caller, request(REQUEST_STREAM, 1, data=BODY, n=100))]
    (there,) = provider.received()
    stream_id = peek(there)[0]
    seen: list[Any] = [there]
    for number in range(4):
        taken.append(send(provider, encode_payload(stream_id, None, BODY + bytes([number]))))
        seen += caller.received()
        seen += provider.received()  # the credit for more
    send(provider, encode_payload(stream_id, None, BODY, complete=True))
    return [*seen, caller.received(), taken[:2]]


def channel(bench: Bench, send: Send) -> list[Any]:
    provider, caller = known_route(bench)
    send(caller, request(REQUEST_CHANNEL, 1, data=BODY, n=10))
    (there,) = provider.received()
    stream_id = peek(there)[0]
    provider.send(encode_request_n(stream_id, 2))
    seen: list[Any] = [there, caller.received()]
    taken = [send(caller, encode_payload(1, None, BODY))]
    taken.append(send(provider, encode_payload(stream_id, None, BODY)))
    return [*seen, provider.received(), caller.received(), taken]


def fire_and_forget(bench: Bench, send: Send) -> list[Any]:
    provider, caller = known_route(bench)
    send(caller, request(REQUEST_FNF, 1, data=BODY))
    return provider.received()


def fragments(bench: Bench, send: Send) -> list[Any]:
    provider, caller = bench.provider(), bench.caller()
    caller.send(request(REQUEST_RESPONSE, 1, data=b"?"))
    (there,) = provider.received()
    stream_id = peek(there)[0]
    send(provider, encode_payload(stream_id, None, BODY, follows=True))
    send(provider, encode_payload(stream_id, None, BODY, complete=True))
    return [there, caller.received()]


def unknown_stream(bench: Bench, send: Send) -> list[Any]:
    provider, caller = bench.provider(), bench.caller()
    send(caller, encode_payload(7, None, BODY))
    return [provider.received(), caller.received(), dict(bench.counters.ignored)]


def beyond_the_credit(bench: Bench, send: Send) -> list[Any]:
    provider, caller = bench.provider(), bench.caller()
    caller.send(request(REQUEST_STREAM, 1, n=1))
    (there,) = provider.received()
    for _ in range(4):
        send(provider, encode_payload(peek(there)[0], None, BODY))
    return [caller.received(), provider.received()]


def no_route(bench: Bench, send: Send) -> list[Any]:
    caller = bench.caller()
    send(caller, request(REQUEST_RESPONSE, 1, "nobody.here", data=BODY))
    return caller.received()


def before_setup(bench: Bench, send: Send) -> list[Any]:
    peer = bench.peer()
    send(peer, request(REQUEST_RESPONSE, 1, data=BODY))
    return peer.received()


SCENES = [
    response,
    stream,
    channel,
    fire_and_forget,
    fragments,
    unknown_stream,
    beyond_the_credit,
    no_route,
    before_setup,
]


@pytest.mark.parametrize("scene", SCENES)
async def test_in_parts_everything_is_as_in_one_piece(
    scene: Callable[[Bench, Send], list[Any]],
) -> None:
    parts, whole = Bench(), Bench()
    in_pieces, as_one = scene(parts, in_parts), scene(whole, in_one_piece)
    if scene in (response, stream, channel):  # the plain ways, in which nothing is copied
        assert in_pieces.pop() == [True, True]
        as_one.pop()
    assert in_pieces == as_one
    assert parts.counters.frames_in == whole.counters.frames_in
    assert parts.counters.frames_out == whole.counters.frames_out
    assert dict(parts.counters.ignored) == dict(whole.counters.ignored)
    for one, other in zip(parts.hub.links.values(), whole.hub.links.values(), strict=True):
        assert list(one.streams) == list(other.streams)
        assert (one.in_flight, one.unfinished) == (other.in_flight, other.unfinished)


async def test_a_peer_that_does_not_read_gets_parts_as_long_as_there_is_room() -> None:
    bench = Bench(Config(limits=Limits(large_payload_bytes=1 << 20)))
    provider, caller = bench.provider(), bench.caller()
    for stream_id in (1, 3):
        caller.send(request(REQUEST_RESPONSE, stream_id))
    first, second = (peek(frame)[0] for frame in provider.received())
    caller.link.writable(False)
    caller.transport.waiting = 1 << 20
    assert in_parts(provider, encode_payload(first, None, BODY, complete=True))
    caller.transport.waiting = 1 << 30
    assert in_parts(provider, encode_payload(second, None, BODY, complete=True))
    answer, error = caller.received()
    assert answer == encode_payload(1, None, BODY, complete=True)
    assert decode_error(error).text.startswith("SLOW_CONSUMER")


async def test_a_head_of_a_few_bytes_is_joined() -> None:
    bench = Bench()
    provider, caller = bench.provider(), bench.caller()
    caller.send(request(REQUEST_RESPONSE, 1))
    (there,) = provider.received()
    answer = encode_payload(peek(there)[0], None, BODY, complete=True)
    assert not in_parts(provider, answer, head=5)
    assert caller.received() == [encode_payload(1, None, BODY, complete=True)]


async def test_metadata_longer_than_the_frame_is_a_violation_in_parts_too() -> None:
    bench = Bench()
    provider, caller = bench.provider(), bench.caller()
    caller.send(request(REQUEST_RESPONSE, 1))
    (there,) = provider.received()
    frame = bytearray(encode_payload(peek(there)[0], b"m", BODY, complete=True))
    frame[6:9] = b"\xff\xff\xff"
    assert in_parts(provider, bytes(frame))
    assert not provider.link.open
