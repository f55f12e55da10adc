"""The first promise: one consumer that stands still delays nobody, loses nothing, costs little."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from benchmarks.load import connect as connect_raw
from benchmarks.load import framed
from rsocket_mesh import connect
from rsocket_mesh.codec import find_codec
from rsocket_mesh.protocol.frames import (
    MAX_REQUEST_N,
    REQUEST_RESPONSE,
    REQUEST_STREAM,
    encode_request,
)
from rsocket_mesh.protocol.metadata import (
    CBOR,
    DATA_MIME_TYPE,
    ROUTING,
    encode_composite,
    encode_mime,
    encode_routing,
)
from tests.acceptance.figures import MIB, peak_resident, reset_peak, say
from tests.support.processes import BrokerProcess, Process, running

pytestmark = pytest.mark.acceptance

CONSUMERS = 5
ITEM = 20_000  # bytes
STOPPED = 20.0  # seconds that one of them stands still
OUTBOUND = 4 * MIB  # the default of limits.outbound_bytes
ALLOWANCE = 64 * MIB  # the default of limits.large_payload_bytes


@pytest.mark.parametrize(("every", "limit"), [(0.02, 0.050), (0.001, 0.100)])
async def test_a_consumer_that_is_stopped_for_20_s_is_noticed_by_nobody_and_loses_nothing(
    every: float, limit: float, broker: BrokerProcess, start_provider: Callable[..., Process]
) -> None:
    start_provider()
    url = broker.url("tcp")
    command = [sys.executable, "-m", "tests.acceptance.consumer", url, str(every), str(ITEM)]
    with ExitStack() as stack:
        consumers = [
            stack.enter_context(running(*command, name=f"consumer {number}"))
            for number in range(CONSUMERS)
        ]
        for consumer in consumers:
            await asyncio.to_thread(consumer.wait_for_line, "^first$")
        stopped, *others = consumers
        async with connect(url) as mesh:
            bench = mesh.service("bench")
            await asyncio.sleep(2)
            for consumer in consumers:
                report(consumer)  # from here on it counts
            stopped.signal(signal.SIGSTOP)
            slowest = 0.0
            until = time.monotonic() + STOPPED
            while time.monotonic() < until:
                began = time.monotonic()
                await bench.request_response("echo", b"still there", returns=bytes)
                slowest = max(slowest, time.monotonic() - began)
                await asyncio.sleep(0.01)
            gaps = [report(consumer) for consumer in others]
            before = report_after(stopped)
            await asyncio.sleep(2)
            woken = report(stopped)
    worst = max(seen["gap_s"] for seen in gaps)
    items = min(seen["items"] for seen in gaps)
    say(
        f"20 kB every {every * 1000:g} ms to 5 consumers, one stopped for {STOPPED:g} s",
        f"largest gap of the others {worst * 1000:.0f} ms ({items} items each at least), slowest "
        f"of the provider's other answers {slowest * 1000:.0f} ms, the stopped one lost "
        f"{woken['lost']} and went on with {woken['items'] - before['items']} in 2 s",
    )
    assert worst < limit
    assert slowest < limit
    assert [seen["lost"] for seen in (*gaps, woken)] == [0] * CONSUMERS
    assert woken["items"] > before["items"]


def report(consumer: Process) -> dict[str, Any]:
    consumer.send_line("report")
    return dict(json.loads(consumer.wait_for_line(r"^\{.*\}$").string))


def report_after(stopped: Process) -> dict[str, Any]:
    """Wake the stopped one; what it says first is what it had before it slept, or little more."""
    stopped.signal(signal.SIGCONT)
    return report(stopped)


def request(kind: int, stream_id: int, method: str, argument: object, n: int | None) -> bytes:
    metadata = encode_composite(
        [(ROUTING, encode_routing([f"bench.{method}"])), (DATA_MIME_TYPE, encode_mime(CBOR))]
    )
    data = find_codec("cbor").encode(argument)
    return framed(encode_request(kind, stream_id, metadata, data, n))


def stopped_reader(port: int) -> socket.socket:
    sock = connect_raw(port, None, confirm=True)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    return sock


@pytest.mark.parametrize("size", [1_000, 20_000, MIB])
async def test_a_consumer_that_asks_for_everything_and_reads_nothing_costs_what_it_may(
    size: int, broker: BrokerProcess, start_provider: Callable[..., Process]
) -> None:
    start_provider()
    port = int(broker.url("tcp").rpartition(":")[2])
    pid = broker.process.pid
    async with (  # warm: a consumer that reads
        connect(broker.url("tcp")) as mesh,
        mesh.service("bench").request_stream("flood", size, returns=bytes) as items,
    ):
        seen = 0
        async for _ in items:
            seen += size
            if seen > 64 * MIB:
                break
    reset_peak(pid)
    before = peak_resident(pid)
    with stopped_reader(port) as sock:
        sock.sendall(request(REQUEST_STREAM, 1, "flood", size, MAX_REQUEST_N))
        await asyncio.sleep(5)
        grown = peak_resident(pid) - before
    say(f"items of {size} B to a consumer that reads none", f"broker grew by {grown / MIB:.2f} MiB")
    assert grown <= OUTBOUND + size + MIB


async def test_a_large_answer_to_a_stopped_reader_stays_in_its_allowance_and_ends_beyond_it(
    broker: BrokerProcess, start_provider: Callable[..., Process]
) -> None:
    start_provider()
    port = int(broker.url("tcp").rpartition(":")[2])
    pid = broker.process.pid
    reset_peak(pid)
    before = peak_resident(pid)
    with stopped_reader(port) as sock:
        sock.sendall(request(REQUEST_RESPONSE, 1, "large", 64 * MIB, None))
        await asyncio.sleep(3)
        within = peak_resident(pid) - before
        sock.sendall(request(REQUEST_RESPONSE, 3, "large", 1, None))  # it has to read first
        await asyncio.sleep(0.5)
        data = bytearray()
        sock.settimeout(5)
        while b"OVERLOADED" not in data[-4096:]:
            data += sock.recv(1 << 20)
    assert len(data) > 64 * MIB
    with stopped_reader(port) as sock:
        sock.sendall(request(REQUEST_RESPONSE, 1, "large", 96 * MIB, None))
        await asyncio.sleep(3)
        beyond = peak_resident(pid) - before
        data = bytearray()
        sock.settimeout(5)
        while b"SLOW_CONSUMER" not in data[-4096:]:
            data += sock.recv(1 << 20)
    say(
        "one answer to a stopped reader",
        f"64 MiB: broker grew by {within / MIB:.1f} MiB; 96 MiB: ended as SLOW_CONSUMER after "
        f"{len(data) / MIB:.0f} MiB, broker grew by {beyond / MIB:.1f} MiB",
    )
    assert within <= 64 * MIB + OUTBOUND + MIB
    assert beyond <= ALLOWANCE + OUTBOUND + 8 * MIB
