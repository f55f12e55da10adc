"""Raw RSocket frames as load: a caller and an echoing service, both far cheaper than a broker.

Frames have one size, so neither side parses: the service echoes by slicing, the caller counts
bytes. Requests leave in batches of as many answers as one read brought. Each side is a process of
its own, so that what is in the middle has a core.
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from typing import Final

from rsocket_mesh.protocol.announce import Announcement, ServiceInfo, encode_announcement
from rsocket_mesh.protocol.frames import (
    KEEPALIVE,
    REQUEST_RESPONSE,
    Setup,
    encode_keepalive,
    encode_payload,
    encode_request,
    encode_setup,
)
from rsocket_mesh.protocol.framing import prefix
from rsocket_mesh.protocol.metadata import (
    ANNOUNCE,
    COMPOSITE,
    OCTET_STREAM,
    ROUTING,
    encode_entry,
    encode_routing,
)

ROUTE: Final = "bench.EchoService.echo"
READ_SIZE: Final = 1 << 20  # bytes
LIFETIME_MS: Final = 600_000  # the load sends no keepalive: it is never idle that long


def framed(frame: bytes) -> bytes:
    """Return *frame* with its length prefix."""
    return prefix(len(frame)) + frame


def connect(port: int, announcement: Announcement | None, confirm: bool) -> socket.socket:
    """Return a connection whose SETUP was sent and, if *confirm*, accepted."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    metadata = None
    if announcement is not None:
        metadata = encode_entry(ANNOUNCE, encode_announcement(announcement))
    setup = Setup(LIFETIME_MS, LIFETIME_MS, COMPOSITE, OCTET_STREAM, metadata)
    if not confirm:
        return sock
    sock.sendall(framed(encode_setup(setup)) + framed(encode_keepalive(respond=True)))
    answer = sock.recv(READ_SIZE)
    if len(answer) < 9 or answer[7] >> 2 != KEEPALIVE:
        raise RuntimeError(f"the broker did not accept the SETUP: {answer!r}")
    return sock


def serve(port: int, payload: int, confirm: bool) -> None:
    """Echo every request with *payload* bytes of data, until the connection ends."""
    service = ServiceInfo("bench.EchoService")
    sock = connect(port, Announcement(app="bench", services=(service,)), confirm)
    print("ready", flush=True)
    size = len(request(1, payload))
    head = prefix(6 + payload)
    tail = encode_payload(1, None, b"x" * payload, complete=True)[4:]
    rest = b""
    while data := sock.recv(READ_SIZE):
        rest += data
        whole = len(rest) // size * size
        pieces: list[bytes] = []
        for start in range(3, whole, size):
            pieces += (head, rest[start : start + 4], tail)
        sock.sendall(b"".join(pieces))
        rest = rest[whole:]


def request(stream_id: int, payload: int) -> bytes:
    """Return one framed request with the routing entry first."""
    metadata = encode_entry(ROUTING, encode_routing([ROUTE]))
    return framed(encode_request(REQUEST_RESPONSE, stream_id, metadata, b"x" * payload))


def call(port: int, payload: int, in_flight: int, calls: int, confirm: bool) -> float:
    """Make *calls* requests, *in_flight* at a time; return the seconds it took."""
    sock = connect(port, None, confirm)
    sample = request(1, payload)
    head, tail = sample[:3], sample[7:]
    answer_size = 3 + 6 + payload
    pack = struct.Struct(">I").pack
    sent = done = partial = 0
    stream_id = 1
    begin = time.perf_counter()
    ready = in_flight
    while done < calls:
        pieces: list[bytes] = []
        for _ in range(min(ready, calls - sent)):
            pieces += (head, pack(stream_id), tail)
            stream_id += 2
            sent += 1
        sock.sendall(b"".join(pieces))
        data = sock.recv(READ_SIZE)
        if not data:
            raise RuntimeError(f"connection closed after {done} of {calls} calls")
        ready, partial = divmod(partial + len(data), answer_size)
        done += ready
    return time.perf_counter() - begin


def main() -> None:
    role, port, payload, *more = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:]
    confirm = more[-1] == "rsocket"
    if role == "serve":
        serve(port, payload, confirm)
    else:
        print(call(port, payload, int(more[0]), int(more[1]), confirm), flush=True)


if __name__ == "__main__":
    main()
