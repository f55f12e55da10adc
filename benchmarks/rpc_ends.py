"""The two ends of `benchmarks.rpc`: a typed service, and a caller that keeps calls in flight."""

from __future__ import annotations

import asyncio
import resource
import sys
from dataclasses import dataclass

import uvloop

from rsocket_mesh import Service, connect


@dataclass
class Order:
    """The argument of the typed call in the README."""

    item: int
    quantity: int


@dataclass
class Invoice:
    """An argument and result of about 128 bytes."""

    id: int
    customer: str
    note: str
    lines: list[int]


INVOICE = Invoice(1, "a customer's name", "x" * 64, [1, 2, 3, 4, 5, 6, 7, 8])
bench = Service("bench", version="1.0.0")


@bench.request_response
async def total(order: Order) -> int:
    """Return what the order costs."""
    return order.item * order.quantity


@bench.request_response
async def echo(invoice: Invoice) -> Invoice:
    """Return the invoice."""
    return invoice


async def call(url: str, method: str, in_flight: int, calls: int) -> float:
    """Make *calls* typed calls of *method*; return this process's CPU microseconds per call."""
    argument, returns = (Order(6, 7), int) if method == "total" else (INVOICE, Invoice)
    async with connect(url, app="bench-caller") as mesh:
        service = mesh.service("bench")
        expected = await service.request_response(method, argument, returns=returns)
        left = calls

        async def worker() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                answer = await service.request_response(method, argument, returns=returns)
                assert answer == expected

        before = resource.getrusage(resource.RUSAGE_SELF)
        await asyncio.gather(*(worker() for _ in range(in_flight)))
        after = resource.getrusage(resource.RUSAGE_SELF)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return used / calls * 1e6


async def serve(url: str) -> None:
    """Serve until this process is told to end."""
    async with connect(url, app="bench-service", serve=[bench]):
        print("ready", flush=True)
        await asyncio.Event().wait()


def main() -> None:
    role, url, *more = sys.argv[1:]
    if role == "serve":
        uvloop.run(serve(url))
    else:
        print(uvloop.run(call(url, more[0], int(more[1]), int(more[2]))), flush=True)


if __name__ == "__main__":
    main()
