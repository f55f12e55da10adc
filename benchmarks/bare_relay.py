"""A relay of RSocket frames with no features at all: what the same work costs at the very least.

It cuts frames, gives requests a stream id towards the one service, restamps, and writes once per
read. No routes, limits, credit, deadlines, errors or counters: the broker's price for those is its
ratio to this. A connection whose SETUP has metadata is the service.
Run: python -m benchmarks.bare_relay
"""

from __future__ import annotations

import asyncio
from struct import Struct
from typing import cast

import uvloop

from rsocket_mesh.protocol.frames import KEEPALIVE, SETUP, encode_keepalive
from rsocket_mesh.protocol.framing import prefix_lengths

HEAD = Struct(">BHIH").unpack_from
STAMP = Struct(">I").pack
COMPLETE = 0x40
METADATA = 0x100
ALIVE = b"".join(prefix_lengths([encode_keepalive(respond=False)]))


class Bare(asyncio.Protocol):
    """One connection."""

    service: Bare | None = None
    transport: asyncio.WriteTransport

    def __init__(self) -> None:
        self.rest = b""
        self.out: list[bytes] = []
        self.streams: dict[int, tuple[Bare, int, bytes]] = {}
        self.next_id = 2

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)  # uvloop's only look like it

    def data_received(self, data: bytes) -> None:
        if self.rest:
            data = self.rest + data
        position, end = 0, len(data)
        touched = set()
        while end - position >= 9:
            high, low, stream_id, word = HEAD(data, position)
            stop = position + 3 + (high << 16 | low)
            if stop > end:
                break
            pair = self.streams.get(stream_id)
            if pair is None and stream_id and Bare.service is not None:
                service = Bare.service
                there = service.next_id
                service.next_id = there + 2
                pair = self.streams[stream_id] = (service, there, STAMP(there))
                service.streams[there] = (self, stream_id, STAMP(stream_id))
            if pair is not None:
                peer, there, stamp = pair
                peer.out += (data[position : position + 3], stamp, data[position + 7 : stop])
                touched.add(peer)
                if word & COMPLETE:
                    del self.streams[stream_id]
                    del peer.streams[there]
            elif word >> 10 == SETUP and word & METADATA:
                Bare.service = self
            elif word >> 10 == KEEPALIVE:
                self.out.append(ALIVE)
                touched.add(self)
            position = stop
        self.rest = data[position:]
        for peer in touched:
            peer.transport.write(b"".join(peer.out))
            peer.out.clear()


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Bare, "127.0.0.1", 0)
    print(f"listening tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
