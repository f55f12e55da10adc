"""Our library: typed calls with CBOR, either through a broker or straight to the service.

A program connects to a broker; there is no other way in the public API. To show what the library
alone costs, the direct service accepts the connection itself, with the same dispatcher.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from benchmarks.rpc_peers.messages import INVOICE, ORDER, Call, Invoice, Order, for_ever, listening
from rsocket_mesh import Service, connect
from rsocket_mesh.codec import find_codec
from rsocket_mesh.peer import Peer
from rsocket_mesh.rpc.dispatch import Dispatcher
from rsocket_mesh.transport import listen

USES_UVLOOP: Final = True
bench = Service("bench", version="1.0.0")


@bench.request_response
async def total(order: Order) -> int:
    """Return what the order costs."""
    return order.item * order.quantity


@bench.request_response
async def echo(invoice: Invoice) -> Invoice:
    """Return the invoice."""
    return invoice


async def serve(port: int) -> None:
    """Serve callers that connect straight to us."""
    listener = await listen(
        f"tcp://127.0.0.1:{port}",
        lambda: Peer(Dispatcher(find_codec("cbor"), [bench])),
    )
    listening(int(listener.url.rpartition(":")[2]))
    await for_ever()


async def join(port: int) -> None:
    """Serve through the broker on *port*."""
    async with connect(f"tcp://127.0.0.1:{port}", app="bench-service", serve=[bench]):
        listening(port)
        await for_ever()


@asynccontextmanager
async def caller(port: int, method: str) -> AsyncIterator[Call]:
    """Call `bench` at a broker, or at the service itself."""
    argument, returns = (ORDER, int) if method == "total" else (INVOICE, Invoice)
    async with connect(f"tcp://127.0.0.1:{port}", app="bench-caller") as mesh:
        request_response = mesh.service("bench").request_response

        def call() -> Any:
            return request_response(method, argument, returns=returns)

        yield call
