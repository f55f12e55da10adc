"""rsocket-py as a server that echoes, streams numbers and takes fire-and-forget.

    rsocket_py_server.py

Prints `listening URL`. Written as users of rsocket-py write.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator

from reactivestreams.publisher import Publisher
from rsocket.helpers import create_response
from rsocket.payload import Payload
from rsocket.request_handler import BaseRequestHandler
from rsocket.rsocket_server import RSocketServer
from rsocket.streams.stream_from_generator import StreamFromGenerator
from rsocket.transports.tcp import TransportTCP


class Handler(BaseRequestHandler):
    async def request_response(self, payload: Payload) -> Awaitable[Payload]:
        return create_response(payload.data)

    async def request_stream(self, payload: Payload) -> Publisher:
        total = int(bytes(payload.data))

        def numbers() -> Iterator[tuple[Payload, bool]]:
            for number in range(1, total + 1):
                yield Payload(str(number).encode()), number == total

        return StreamFromGenerator(numbers)

    async def request_fire_and_forget(self, payload: Payload) -> None:
        pass


def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    RSocketServer(TransportTCP(reader, writer), handler_factory=Handler)


async def main() -> None:
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(f"listening tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
