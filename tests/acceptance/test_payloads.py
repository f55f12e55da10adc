"""Large payloads: intact, and with memory that does not grow with them."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator

import pytest

from rsocket_mesh import connect
from tests.acceptance.figures import MIB, peak_resident, reset_peak, say
from tests.support.processes import BrokerProcess, Process

pytestmark = pytest.mark.acceptance

CHUNK = 64 * 1024
FILE_SIZE = 1024 * MIB


async def test_64_mib_in_one_request_and_its_answer(
    broker: BrokerProcess, start_provider: Callable[..., Process]
) -> None:
    start_provider()
    payload = os.urandom(64 * MIB)
    async with connect(broker.url("tcp")) as mesh:
        began = time.perf_counter()
        bench = mesh.service("bench")
        answer = await bench.request_response("echo", payload, returns=bytes, timeout=60)
        took = time.perf_counter() - began
    assert answer == payload
    say("64 MiB there and back", f"{took:.2f} s, {128 / took:.0f} MiB/s")


async def test_a_file_of_1_gib_over_a_channel_in_constant_memory(
    broker: BrokerProcess, start_provider: Callable[..., Process]
) -> None:
    start_provider()
    block = os.urandom(CHUNK - 8)
    seen = hashlib.sha256()

    def chunks() -> Iterator[bytes]:
        for number in range(FILE_SIZE // CHUNK):
            chunk = number.to_bytes(8, "big") + block
            seen.update(chunk)
            yield chunk

    pid = broker.process.pid
    async with connect(broker.url("tcp")) as mesh:
        bench = mesh.service("bench")
        async with bench.request_channel("digest", chunks(), returns=str, timeout=120) as digests:
            reset_peak(pid)
            before = peak_resident(pid)
            began = time.perf_counter()
            answers = [digest async for digest in digests]
            took = time.perf_counter() - began
    grown = peak_resident(pid) - before
    assert answers == [seen.hexdigest()]
    assert grown < 32 * MIB
    say(
        "1 GiB over a channel",
        f"{took:.1f} s, {FILE_SIZE / MIB / took:.0f} MiB/s, broker grew by {grown / MIB:.1f} MiB",
    )
