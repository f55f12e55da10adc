"""What the kernel and one event loop cost: two connections, bytes copied from one to the other.

The measure for every relay in Python: it reads and writes as often, and looks at nothing.
Run: python -m benchmarks.byte_relay
"""

from __future__ import annotations

import asyncio
from typing import cast

import uvloop


class Pipe(asyncio.Protocol):
    """Connections in pairs: the second is joined to the first."""

    waiting: Pipe | None = None
    transport: asyncio.WriteTransport

    def __init__(self) -> None:
        self.other: Pipe | None = None
        self.held: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)  # uvloop's only look like it
        if Pipe.waiting is None:
            Pipe.waiting = self
            return
        self.other, Pipe.waiting.other = Pipe.waiting, self
        Pipe.waiting = None

    def data_received(self, data: bytes) -> None:
        if self.other is not None:
            self.other.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if Pipe.waiting is self:
            Pipe.waiting = None
        if self.other is not None:
            self.other.transport.close()


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Pipe, "127.0.0.1", 0)
    print(f"listening tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
