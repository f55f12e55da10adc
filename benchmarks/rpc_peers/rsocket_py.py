"""rsocket-py: its router with composite metadata, and the same codec as ours on both ends.

That is the same work as a typed call of ours: a route, an argument, an answer, each decoded to its
type. `raw` is less than that, the bytes of the same message without a route and without a codec:
what its frame engine costs alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, Final

from rsocket.extensions.helpers import composite, route
from rsocket.extensions.mimetypes import WellKnownMimeTypes
from rsocket.helpers import create_future, single_transport_provider
from rsocket.payload import Payload
from rsocket.request_handler import BaseRequestHandler
from rsocket.routing.request_router import RequestRouter
from rsocket.routing.routing_request_handler import RoutingRequestHandler
from rsocket.rsocket_client import RSocketClient
from rsocket.rsocket_server import RSocketServer
from rsocket.transports.tcp import TransportTCP

from benchmarks.rpc_peers.messages import INVOICE, ORDER, Call, Invoice, Order, for_ever, listening
from rsocket_mesh.codec import find_codec

USES_UVLOOP: Final = True
_KEEPALIVE: Final = timedelta(seconds=20)  # as ours; its default of 0.5 s would count against it
_CODEC: Final = find_codec("cbor")


def _router() -> RequestRouter:
    router = RequestRouter(
        lambda wanted, payload: _CODEC.decode(payload.data, wanted),
        lambda _wanted, value: Payload(_CODEC.encode(value)),
    )

    # Its router passes annotations on as they stand: classes, not the strings of this module.
    async def total(order: Any) -> Any:
        return order.item * order.quantity

    async def echo(invoice: Any) -> Any:
        return invoice

    total.__annotations__ = {"order": Order, "return": int}
    echo.__annotations__ = {"invoice": Invoice, "return": Invoice}
    router.response("bench.total")(total)
    router.response("bench.echo")(echo)
    return router


class _RawEcho(BaseRequestHandler):  # type: ignore[misc]  # it has no types
    async def request_response(self, payload: Payload) -> Any:
        return create_future(Payload(payload.data))


async def _serve(port: int, handler_factory: Any) -> None:
    servers = []  # an unreferenced one would be collected

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        servers.append(RSocketServer(TransportTCP(reader, writer), handler_factory=handler_factory))

    server = await asyncio.start_server(accept, "127.0.0.1", port)
    listening(server.sockets[0].getsockname()[1])
    await for_ever()


async def serve(port: int) -> None:
    """Serve typed handlers by route."""
    router = _router()
    await _serve(port, lambda: RoutingRequestHandler(router))


async def serve_raw(port: int) -> None:
    """Send the bytes of each request back."""
    await _serve(port, _RawEcho)


@asynccontextmanager
async def _connect(port: int) -> AsyncIterator[RSocketClient]:
    connection = await asyncio.open_connection("127.0.0.1", port)
    async with RSocketClient(
        single_transport_provider(TransportTCP(*connection)),
        keep_alive_period=_KEEPALIVE,
        data_encoding=_CODEC.mime.encode(),
        metadata_encoding=WellKnownMimeTypes.MESSAGE_RSOCKET_COMPOSITE_METADATA,
    ) as client:
        yield client


@asynccontextmanager
async def caller(port: int, method: str) -> AsyncIterator[Call]:
    """Make typed calls; the metadata of a route is made once, as a careful user would."""
    argument: object = ORDER if method == "total" else INVOICE
    metadata = composite(route(f"bench.{method}"))
    decode = _CODEC.decoder(int if method == "total" else Invoice)
    encode = _CODEC.encode
    async with _connect(port) as client:

        async def call() -> object:
            answer = await client.request_response(Payload(encode(argument), metadata))
            return decode(answer.data)

        yield call


@asynccontextmanager
async def caller_raw(port: int, method: str) -> AsyncIterator[Call]:
    """Send the bytes of the message and get them back."""
    argument: object = ORDER if method == "total" else INVOICE
    data = _CODEC.encode(argument)
    answer = 42 if method == "total" else INVOICE  # the runner compares it
    async with _connect(port) as client:

        async def call() -> object:
            received = await client.request_response(Payload(data))
            return answer if received.data == data else received

        yield call
