"""The attacks, one function each: what a peer could send to make the broker slow, full or wrong.

All of them are bounded in time and aim at a broker that the tests have started on loopback. Each is
named in `ATTACKS`; what must come of it is in `tests.attacks.outcomes`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from itertools import count
from os import urandom
from time import monotonic, sleep

from rsocket_mesh.protocol.frames import (
    FLAG_FOLLOWS,
    FLAG_METADATA,
    FLAG_NEXT,
    HEADER,
    PAYLOAD,
    REQUEST_CHANNEL,
    REQUEST_N,
    REQUEST_RESPONSE,
    REQUEST_STREAM,
    decode_request_n,
    encode_cancel,
    encode_keepalive,
    encode_metadata_push,
    encode_payload,
    encode_request_n,
    peek,
)
from rsocket_mesh.protocol.framing import prefix_lengths
from rsocket_mesh.protocol.metadata import ANNOUNCE, COMPOSITE, OCTET_STREAM, encode_entry
from tests.attacks.attacker import Ground, Hostile
from tests.support.raw_peers import request, routed

BATCH = 64 * 1024  # bytes that a flood sends at once
ITEM = bytes(20_000)  # of a stream that nobody reads


def flood(peer: Hostile, *frames: bytes, ground: Ground) -> None:
    """Send *frames* over and over until the connection or the time is over, and read nothing."""
    some = b"".join(prefix_lengths(frames))
    batch = some * max(1, BATCH // len(some))
    while peer.is_open and not ground.is_over():
        peer.send_bytes(batch)


def nothing(frame: bytes) -> Iterable[bytes]:
    return ()


def feed(frame: bytes) -> Iterable[bytes]:
    stream_id, kind, _ = peek(frame)
    asked = 0
    if kind == REQUEST_STREAM:
        asked = int.from_bytes(frame[6:10], "big")
    elif kind == REQUEST_N:
        asked = decode_request_n(frame)
    return [encode_payload(stream_id, None, ITEM)] * min(asked, 16)


# -- stream 0 -------------------------------------------------------------------------------------


def keepalive_flood(ground: Ground) -> None:
    """Echoes that nobody reads."""
    for peer in ground.again_and_again():
        flood(peer.setup(), encode_keepalive(respond=True, data=bytes(100)), ground=ground)


def announcement_churn(ground: Ground) -> None:
    """A thousand changes per second, each of which makes all routes be looked up anew."""
    for peer in ground.again_and_again():
        peer.setup()
        for version in count():
            if not peer.is_open or ground.is_over():
                break
            text = f'{{"app":"churn","services":[{{"name":"churn","version":"1.{version}"}}]}}'
            peer.send(encode_metadata_push(encode_entry(ANNOUNCE, text.encode())))
            sleep(0.001)


def push_flood(ground: Ground) -> None:
    """METADATA_PUSH has no flow control."""
    for peer in ground.again_and_again():
        flood(peer.setup(), encode_metadata_push(routed("bystander.echo")), ground=ground)


# -- framing --------------------------------------------------------------------------------------


def lying_lengths(ground: Ground) -> None:
    """Lengths of frames and of metadata that promise more, or less, than there is."""
    lies = (
        b"\0\0\1\0",  # a frame shorter than its header
        b"\xff\xff\xff" + HEADER.pack(1, PAYLOAD << 10 | FLAG_NEXT) + bytes(1000),
        *prefix_lengths(
            [HEADER.pack(1, REQUEST_RESPONSE << 10 | FLAG_METADATA) + b"\xff\xff\xff" + bytes(50)]
        ),
    )
    for number, peer in enumerate(ground.again_and_again()):
        peer.setup()
        lie = number % 3
        peer.send_bytes(lies[1] if lie == 1 else b"".join(lies[2:]) if lie == 2 else lies[0])


def slowloris(ground: Ground) -> None:
    """A byte per second, in front of SETUP and in the middle of a frame; and no byte at all."""
    with ExitStack() as stack:
        peers = [stack.enter_context(ground.connect()) for _ in range(150)]
        for peer in peers[:50]:
            peer.setup()
        setup = b"\0\0\x30\0\0\0\0\x04\0" + bytes(40)
        began, sent = monotonic(), 0
        while not ground.is_over():
            second = int(monotonic() - began)
            for peer in peers[:100]:
                peer.send_bytes(setup[sent : second + 1])
            sent = second + 1
            for peer in peers:  # who was refused has half a second to read why
                peer.read()
            sleep(0.1)


def connection_storm(ground: Ground) -> None:
    """Ten thousand connections as fast as they can be made, all kept, none with a word."""
    held: list[socket.socket] = []
    began = monotonic()
    try:
        while len(held) < 10_000 and not ground.is_over():
            peer = socket.socket()
            held.append(peer)
            peer.setblocking(False)
            with suppress(BlockingIOError):
                peer.connect(("127.0.0.1", ground.port))
            ahead = len(held) / 10_000 - (monotonic() - began)
            if ahead > 0.01:
                sleep(ahead)
        ground.connections = len(held)
        while not ground.is_over():
            sleep(0.05)
    finally:
        for peer in held:
            peer.close()


# -- requests -------------------------------------------------------------------------------------


def huge_metadata(ground: Ground) -> None:
    """Composite metadata of thousands of entries, of composite metadata, and beyond its limit."""
    nested = b""
    for _ in range(5000):
        nested = encode_entry(COMPOSITE, nested)[-60_000:]
    for peer in ground.again_and_again():
        peer.setup()
        for stream_id in count(1, 6):
            if not peer.is_open or ground.is_over():
                break
            many = routed("bystander.echo") + encode_entry(OCTET_STREAM, b"") * 15_000
            peer.send(
                request(REQUEST_RESPONSE, stream_id, metadata=many),
                request(REQUEST_RESPONSE, stream_id + 2, metadata=nested),
                request(REQUEST_RESPONSE, stream_id + 4, metadata=bytes(1 << 20)),
            )
            ground.streams += 3
            peer.read()


def empty_metadata_fragments(ground: Ground) -> None:
    """A request whose metadata never ends and never grows."""
    word = PAYLOAD << 10 | FLAG_NEXT | FLAG_FOLLOWS | FLAG_METADATA
    for peer in ground.again_and_again():
        peer.setup()
        for stream_id in range(1, 201, 2):
            peer.send(
                request(REQUEST_RESPONSE, stream_id, data=b"", metadata=b"\x7f", follows=True)
            )
            ground.streams += 1
        for content in (b"\0\0\0", b"\0\0\1x"):
            for _ in range(20):
                fragments = [HEADER.pack(i, word) + content for i in range(1, 201, 2)]
                peer.send(*fragments * 50)
                peer.read()


def empty_fragments(ground: Ground) -> None:
    """A request whose data never ends and never grows."""
    ground.accomplice(nothing)
    for peer in ground.again_and_again():
        peer.setup()
        peer.send(request(REQUEST_RESPONSE, 1, "accomplice.take", follows=True))
        ground.streams += 1
        flood(peer, encode_payload(1, None, b"", follows=True), ground=ground)


def endless_fragments(ground: Ground) -> None:
    """A request that never ends and grows all the time."""
    ground.accomplice(nothing)
    for peer in ground.again_and_again():
        peer.setup()
        peer.send(request(REQUEST_RESPONSE, 1, "accomplice.take", follows=True))
        ground.streams += 1
        flood(peer, encode_payload(1, None, bytes(60_000), follows=True), ground=ground)


def interleaved_fragments(ground: Ground) -> None:
    """Fragments of several messages on one stream, and new requests in the middle of one."""
    ground.accomplice(nothing)
    for peer in ground.again_and_again():
        peer.setup()
        peer.send(request(REQUEST_CHANNEL, 1, "accomplice.take", n=1, follows=True))
        ground.streams += 1
        flood(
            peer,
            encode_payload(1, None, b"a", follows=True),
            request(REQUEST_RESPONSE, 1, "accomplice.take", follows=True),
            encode_payload(1, b"late metadata", b"b", follows=True),
            encode_request_n(1, 1),
            request(REQUEST_CHANNEL, 1, "accomplice.take", n=1, follows=True),
            ground=ground,
        )


def open_and_cancel(ground: Ground) -> None:
    """50,000 requests per second, each cancelled at once."""
    ground.accomplice(nothing)
    for peer in ground.again_and_again():
        peer.setup()
        began = monotonic()
        for first in count(1, 1000):
            if not peer.is_open or ground.is_over():
                break
            frames = []
            for stream_id in range(first, first + 1000, 2):
                frames += [
                    request(REQUEST_RESPONSE, stream_id, "accomplice.take"),
                    encode_cancel(stream_id),
                ]
            peer.send(*frames)
            ground.streams = max(ground.streams, 500)
            ahead = (first / 2) / 50_000 - (monotonic() - began)
            if ahead > 0.001:
                sleep(ahead)


def trickle_without_reading(ground: Ground) -> None:
    """Items of 20 kB, asked for one by one on many streams, and never read."""

    ground.accomplice(feed)
    for peer in ground.again_and_again():
        peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        peer.setup()
        ids = range(1, 101, 2)
        peer.send(*[request(REQUEST_STREAM, i, "accomplice.feed", n=1) for i in ids])
        ground.streams += len(ids)
        while peer.is_open and not ground.is_over():
            peer.send(*[encode_request_n(i, 1) for i in ids])
            sleep(0.005)


# -- sessions -------------------------------------------------------------------------------------


def lease_ignored(ground: Ground) -> None:
    """A client that asked for leases and sends whatever it likes, to a service that is full."""
    ground.accomplice(nothing, concurrency=4)
    for peer in ground.again_and_again():
        peer.setup(lease=True)
        for first in count(1, 400):
            if not peer.is_open or ground.is_over():
                break
            ids = range(first, first + 400, 2)
            peer.send(*[request(REQUEST_RESPONSE, i, "accomplice.take") for i in ids])
            ground.streams += len(ids)
            peer.read()


def resume_stores(ground: Ground) -> None:
    """Sessions that could be resumed: each reads what it can, never says what it has, and goes."""
    ground.accomplice(feed)
    for peer in ground.again_and_again():
        peer.setup(token=urandom(16))
        ids = range(1, 101, 2)
        peer.send(*[request(REQUEST_STREAM, i, "accomplice.feed", n=1000) for i in ids])
        ground.streams += len(ids)
        until = monotonic() + 0.3
        while peer.is_open and monotonic() < until:
            peer.read()
            sleep(0.005)
        peer.socket.close()


# -- stream ids -----------------------------------------------------------------------------------


def wrong_stream_ids(ground: Ground) -> None:
    """Ids of the broker's parity, in use, going down, and the last there is."""
    ground.accomplice(nothing)
    for peer in ground.again_and_again():
        peer.setup()
        ground.streams += 40
        flood(
            peer,
            request(REQUEST_RESPONSE, 2, "accomplice.take"),
            request(REQUEST_RESPONSE, 0x7FFF_FFFE, "accomplice.take"),
            *[request(REQUEST_RESPONSE, i, "accomplice.take") for i in range(79, 0, -2)],
            *[encode_cancel(i) for i in range(79, 0, -4)],
            request(REQUEST_RESPONSE, 0x7FFF_FFFF, "accomplice.take"),
            ground=ground,
        )


def unknown_streams(ground: Ground) -> None:
    """The smallest frames there are, for streams that never were or have ended."""
    for peer in ground.again_and_again():
        peer.setup()
        frames = [encode_cancel(i) for i in range(1, 4001, 2)]
        frames += [encode_payload(i, None, b"") for i in range(2, 4002, 2)]
        frames += [encode_request_n(1, 1)] * 100
        flood(peer, *frames, ground=ground)


ATTACKS: dict[str, Callable[[Ground], None]] = {
    attack.__name__: attack
    for attack in (
        keepalive_flood,
        announcement_churn,
        push_flood,
        lying_lengths,
        slowloris,
        connection_storm,
        huge_metadata,
        empty_metadata_fragments,
        empty_fragments,
        endless_fragments,
        interleaved_fragments,
        open_and_cancel,
        trickle_without_reading,
        lease_ignored,
        resume_stores,
        wrong_stream_ids,
        unknown_streams,
    )
}
