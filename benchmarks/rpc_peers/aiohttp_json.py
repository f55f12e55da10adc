"""aiohttp: POST with JSON by msgspec over kept connections, one per call in flight."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import aiohttp
import msgspec
from aiohttp import web

from benchmarks.rpc_peers.messages import INVOICE, ORDER, Call, Invoice, Order, for_ever, listening

USES_UVLOOP: Final = True
_HEADERS: Final = {"Content-Type": "application/json"}


async def serve(port: int) -> None:
    """Serve both methods as POST."""
    read_order = msgspec.json.Decoder(Order).decode
    read_invoice = msgspec.json.Decoder(Invoice).decode

    async def total(request: web.Request) -> web.Response:
        order = read_order(await request.read())
        return _answer(order.item * order.quantity)

    async def echo(request: web.Request) -> web.Response:
        return _answer(read_invoice(await request.read()))

    app = web.Application()
    app.router.add_post("/bench/total", total)
    app.router.add_post("/bench/echo", echo)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    listening(runner.addresses[0][1])
    await for_ever()


def _answer(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


@asynccontextmanager
async def caller(port: int, method: str) -> AsyncIterator[Call]:
    """Call with one session, as many connections as there are calls, and a deadline."""
    argument: object = ORDER if method == "total" else INVOICE
    read = msgspec.json.Decoder(int if method == "total" else Invoice).decode
    url = f"http://127.0.0.1:{port}/bench/{method}"
    connector = aiohttp.TCPConnector(limit=0)
    timeout = aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

        async def call() -> object:
            data = msgspec.json.encode(argument)
            async with session.post(url, data=data, headers=_HEADERS) as response:
                return read(await response.read())

        yield call
