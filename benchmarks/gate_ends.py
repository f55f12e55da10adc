"""The ends of `benchmarks.gate`: what is behind the middle, and the typed caller.

    python -m benchmarks.gate_ends raw PORT      a service of raw frames: echoes, feeds streams
    python -m benchmarks.gate_ends serve PORT    a typed service of the library
    python -m benchmarks.gate_ends call PORT     a typed caller: each line on stdin is a number of
                                                 calls to make, answered by a line when all are

The functions are the raw callers, which run in the gate's own process.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from dataclasses import dataclass
from typing import Final

import uvloop

from benchmarks.load import READ_SIZE, ROUTE, connect, framed
from rsocket_mesh import Service
from rsocket_mesh import connect as connect_mesh
from rsocket_mesh.protocol.announce import Announcement, ServiceInfo
from rsocket_mesh.protocol.frames import (
    REQUEST_N,
    REQUEST_RESPONSE,
    REQUEST_STREAM,
    decode_request_n,
    encode_cancel,
    encode_payload,
    encode_request,
    encode_request_n,
    peek,
)
from rsocket_mesh.protocol.framing import cut
from rsocket_mesh.protocol.metadata import ROUTING, encode_entry, encode_routing

ITEM: Final = 32  # bytes of an item's data
CREDIT: Final = 1024  # items that a consumer asks for at first; half of it again when that has come
IN_FLIGHT: Final = 64

bench = Service("gate", version="1.0.0")


@dataclass
class Order:
    """The argument of the typed call."""

    item: int
    quantity: int


@bench.request_response
async def total(order: Order) -> int:
    """Return what the order costs."""
    return order.item * order.quantity


def serve_raw(port: int) -> None:
    """Answer requests with what they are, and streams with as many items as they have credit."""
    name = ROUTE.rpartition(".")[0]
    sock = connect(port, Announcement(app="gate", services=(ServiceInfo(name),)), confirm=True)
    print("ready", flush=True)
    rest = b""
    while data := sock.recv(READ_SIZE):
        frames, used = cut(rest + data)
        rest = (rest + data)[used:]
        answers: list[bytes] = []
        for frame in frames:
            stream_id, kind, _ = peek(frame)
            if kind == REQUEST_RESPONSE:
                answers.append(framed(encode_payload(stream_id, None, frame[-128:], complete=True)))
            elif kind == REQUEST_STREAM:
                answers.append(_items(stream_id, int.from_bytes(frame[6:10], "big")))
            elif kind == REQUEST_N:
                answers.append(_items(stream_id, decode_request_n(frame)))
        sock.sendall(b"".join(answers))


def _items(stream_id: int, count: int) -> bytes:
    return framed(encode_payload(stream_id, None, bytes(ITEM))) * count


def stream(port: int, items: int) -> None:
    """Take at least *items* of one stream, half of the credit at a time, and cancel it. All that
    was asked for is taken: the stick knows no cancelling."""
    with connect(port, None, confirm=True) as sock:
        metadata = encode_entry(ROUTING, encode_routing([ROUTE]))
        sock.sendall(framed(encode_request(REQUEST_STREAM, 1, metadata, b"", initial_n=CREDIT)))
        size = len(_items(1, 1))
        half = CREDIT // 2
        more = framed(encode_request_n(1, half))
        received, asked = 0, CREDIT
        while received < asked * size:
            data = sock.recv(READ_SIZE)
            if not data:
                raise RuntimeError(f"closed after {received // size} of {items} items")
            received += len(data)
            while asked < items and received // size >= asked - half:
                sock.sendall(more)
                asked += half
        sock.sendall(framed(encode_cancel(1)))
        sock.shutdown(socket.SHUT_WR)


async def serve(url: str) -> None:
    """Serve until this process is told to end."""
    async with connect_mesh(url, app="gate-service", serve=[bench]):
        print("ready", flush=True)
        await asyncio.Event().wait()


async def call(url: str) -> None:
    """Make as many typed calls as each line says, `IN_FLIGHT` at a time."""
    async with connect_mesh(url, app="gate-caller") as mesh:
        service = mesh.service("gate")
        left = 0

        async def worker() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                answer = await service.request_response("total", Order(6, 7), returns=int)
                if answer != 42:
                    raise RuntimeError(f"6 * 7 = {answer}")

        print("ready", flush=True)
        # The loop has nothing to do while the runner reads accounts, so waiting may block it.
        for line in sys.stdin:
            left = int(line)
            await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
            print("done", flush=True)


def main() -> None:
    role, port = sys.argv[1], sys.argv[2]
    url = f"tcp://127.0.0.1:{port}"
    if role == "raw":
        serve_raw(int(port))
    else:
        uvloop.run(serve(url) if role == "serve" else call(url))


if __name__ == "__main__":
    main()
