"""A service program for the tests of the command: `python desk.py URL`; prints `ready`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import msgspec

from rsocket_mesh import Call, Mesh, Overloaded, Payload, Service, connect
from rsocket_mesh.protocol.metadata import CBOR, DATA_MIME_TYPE, decode_mime


@dataclass
class Order:
    sku: str
    quantity: int = 1
    note: str | None = None


desk = Service(
    "desk",
    version="1.4.2",
    tags={"zone": "eu-1"},
    description="For tests.",
    concurrency=1000,
    rate=100_000,
)
seen_here: dict[str, Any] = {"fired": [], "cancelled": [], "made": 0}


@desk.request_response(idempotent=True)
async def total(order: Order) -> int:
    """Return what an order costs."""
    return order.quantity * 3


@desk.request_response
async def echo(value: object) -> object:
    return value


@desk.request_response
async def add(left: int, right: int) -> int:
    return left + right


@desk.request_response
async def hello() -> str:
    return "hello"


@desk.request_response
async def escape() -> str:
    return "a\x1b[31mb"


@desk.request_response
async def fail(text: str) -> None:
    raise ValueError(text)


@desk.request_response
async def refuse() -> None:
    raise Overloaded("the desk is full", retry_after_ms=250)


@desk.request_response
async def sleep() -> None:
    await asyncio.sleep(60)


@desk.request_response
async def packed(call: Call) -> dict[str, str | int]:
    """Say how the request was coded; the announcement below offers CBOR only."""
    entry = call.entry(DATA_MIME_TYPE)
    return {"came_as": "the connection's" if entry is None else decode_mime(entry)}


@desk.request_response
async def reverse(payload: Payload) -> Payload:
    return Payload(payload.data[::-1])


@desk.request_stream
async def count(to: int) -> AsyncIterator[dict[str, int]]:
    for number in range(1, to + 1):
        yield {"number": number, "square": number * number}


@desk.request_stream
async def made() -> AsyncIterator[dict[str, int]]:
    while True:
        seen_here["made"] += 1
        yield {"number": seen_here["made"]}


@desk.request_stream
async def forever(name: str) -> AsyncIterator[int]:
    number = 0
    try:
        while True:
            number += 1
            yield number
            await asyncio.sleep(0.01)
    finally:
        seen_here["cancelled"].append(name)


@desk.request_stream
async def breaks() -> AsyncIterator[int]:
    yield 1
    raise RuntimeError("after one item")


@desk.request_stream
async def silence() -> AsyncIterator[int]:
    await asyncio.sleep(60)
    yield 0


@desk.request_stream
async def slow() -> AsyncIterator[int]:
    yield 1
    await asyncio.sleep(0.6)
    yield 2
    yield 3


@desk.fire_and_forget
async def note(text: str) -> None:
    seen_here["fired"].append(text)


@desk.request_response
async def seen() -> dict[str, Any]:
    return seen_here


@desk.request_channel
async def double(numbers: AsyncIterator[int]) -> AsyncIterator[int]:
    async for number in numbers:
        yield 2 * number


async def main(url: str) -> None:
    async with connect(url, app="desk", instance="desk-1", serve=[desk]) as mesh:
        await announce_packed(mesh)
        print("ready", flush=True)
        await asyncio.Event().wait()


async def announce_packed(mesh: Mesh) -> None:
    """Announce all again, `packed` as a method that takes nothing but CBOR."""
    document = msgspec.to_builtins(mesh.announcement)
    document["services"][0]["methods"]["packed"]["mime"] = [CBOR]
    await mesh.service("mesh.registry").request_response("announce", document)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
