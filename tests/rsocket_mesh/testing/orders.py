"""A service to test the test kit with."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from rsocket_mesh import Service


def an_order_service(name: str = "orders") -> Service:
    """Return a service with methods of each kind; `ticks` and `slow` take their time."""
    orders = Service(name, version="1.4.0")
    _add_answers(orders)
    _add_streams(orders)
    return orders


def _add_answers(orders: Service) -> None:

    @orders.request_response
    async def total(quantity: int) -> int:
        return 6 * quantity

    @orders.request_response
    async def price(quantity: int, each: int) -> int:
        return quantity * each

    @orders.request_response
    async def slow(seconds: float) -> str:
        await asyncio.sleep(seconds)
        return "done"

    @orders.request_response
    def blocking(seconds: float) -> str:
        time.sleep(seconds)
        return "done"

    @orders.request_response
    async def fail() -> None:
        raise LookupError("no such order")

    @orders.fire_and_forget
    async def note(text: str) -> None:
        pass


def _add_streams(orders: Service) -> None:
    @orders.request_stream
    async def ticks(count: int) -> AsyncIterator[int]:
        for number in range(count):
            yield number
            await asyncio.sleep(1)

    @orders.request_stream
    async def blobs(size: int) -> AsyncIterator[bytes]:
        while True:
            yield bytes(size)

    @orders.request_channel
    async def double(numbers: AsyncIterator[int]) -> AsyncIterator[int]:
        async for number in numbers:
            yield 2 * number
