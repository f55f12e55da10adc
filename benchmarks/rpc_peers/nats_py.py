"""nats-py: request and reply through a nats-server, the messages as JSON by msgspec."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec

from benchmarks.rpc_peers.messages import INVOICE, ORDER, Call, Invoice, Order, for_ever, listening

USES_UVLOOP: Final = True


async def join(port: int) -> None:
    """Answer on two subjects of the server on *port*."""
    import nats  # only there with the extra

    client = await nats.connect(f"nats://127.0.0.1:{port}")
    read_order = msgspec.json.Decoder(Order).decode
    read_invoice = msgspec.json.Decoder(Invoice).decode

    async def total(message: Any) -> None:
        order = read_order(message.data)
        await message.respond(msgspec.json.encode(order.item * order.quantity))

    async def echo(message: Any) -> None:
        await message.respond(msgspec.json.encode(read_invoice(message.data)))

    await client.subscribe("bench.total", cb=total)
    await client.subscribe("bench.echo", cb=echo)
    await client.flush()
    listening(port)
    await for_ever()


@asynccontextmanager
async def caller(port: int, method: str) -> AsyncIterator[Call]:
    """Call with the deadline that our library has."""
    import nats  # only there with the extra

    client = await nats.connect(f"nats://127.0.0.1:{port}")
    argument: object = ORDER if method == "total" else INVOICE
    read = msgspec.json.Decoder(int if method == "total" else Invoice).decode
    subject = f"bench.{method}"

    async def call() -> object:
        message = await client.request(subject, msgspec.json.encode(argument), timeout=10)
        return read(message.data)

    try:
        yield call
    finally:
        await client.close()
