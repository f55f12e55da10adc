"""A consumer that asks for everything and reads nothing."""

from __future__ import annotations

import asyncio

from rsocket_mesh.protocol.frames import (
    MAX_REQUEST_N,
    REQUEST_STREAM,
    Setup,
    encode_request,
    encode_setup,
)
from rsocket_mesh.protocol.framing import prefix_lengths
from rsocket_mesh.protocol.metadata import CBOR, COMPOSITE
from tests.support.raw_peers import routed


async def begin(writer: asyncio.StreamWriter, route: str, argument: int) -> None:
    """Begin a stream without a limit over *writer*'s connection, of which nobody may read."""
    writer.transport.pause_reading()
    data = b"\x19" + argument.to_bytes(2, "big")  # a CBOR number
    frames = [
        encode_setup(Setup(60_000, 600_000, COMPOSITE, CBOR)),
        encode_request(REQUEST_STREAM, 1, routed(route), data, MAX_REQUEST_N),
    ]
    writer.writelines(prefix_lengths(frames))
    await writer.drain()
