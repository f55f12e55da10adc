"""`Service.run` in a process of its own: one line when registered, leaving by signal."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from tests.support.processes import running
from tests.support.small_server import SmallServer
from tests.support.waiting import until

PROGRAM = """
import sys
from rsocket_mesh import Service

orders = Service("orders", version="1.4.0")

@orders.request_response
async def total(a: int, b: int) -> int:
    return a * b

orders.run(sys.argv[1])
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_service_serves_until_the_signal_and_leaves_in_order(
    tmp_path: Path, number: signal.Signals
):
    program = tmp_path / "shop.py"
    program.write_text(PROGRAM)
    async with SmallServer() as server:
        with running(sys.executable, program, server.url) as process:
            await process.line("registered orders 1.4.0 at", stream="stderr")
            assert server.announced[0].app == "shop"
            assert (await server.call("orders.total", b"\x82\x02\x03")).data == b"\x06"
            process.signal(number)
            await until(lambda: len(server.announced) == 2, "withdrawn")
            assert server.announced[1].services == ()
            assert await process.ended() == 0


async def test_a_service_waits_for_its_broker(tmp_path: Path):
    program = tmp_path / "shop.py"
    program.write_text(PROGRAM)
    server = SmallServer()
    async with server:
        pass  # the port is known and free again
    with running(sys.executable, program, server.url) as process:
        await process.line("trying again until one answers", stream="stderr")
        async with server:
            await process.line("registered orders 1.4.0 at", stream="stderr")
