"""`examples.machine`: what `/proc` says, and what a process does for its callers."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from examples import machine
from examples.machine import Load, Watchers
from rsocket_mesh import Invalid, Mesh
from tests.support.processes import Process, running

STAT = """cpu  30 0 10 60 0 0 0 0 5 0
cpu0 10 2 3 40 5 1 1 0 7 0
cpu12 20 0 10 20 0 0 0 0 0 0
intr 1 2 3
"""
MEMINFO = "MemTotal: 2048 kB\nMemFree: 1 kB\nMemAvailable: 1536 kB\nHugePages_Total: 0\n"


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "stat").write_text(STAT)
    (tmp_path / "meminfo").write_text(MEMINFO)
    (tmp_path / "loadavg").write_text("0.10 1.25 3.00 2/345 6789\n")
    monkeypatch.setattr(machine, "PROC", tmp_path)
    return tmp_path


@pytest.mark.usefixtures("proc")
def test_a_cores_busy_time_has_neither_idle_nor_disk_waits_nor_guests_twice() -> None:
    assert machine.core_times() == [(17, 62), (30, 50)]


@pytest.mark.usefixtures("proc")
def test_a_measurement_is_the_share_of_the_time_between_two_readings() -> None:
    load = machine.measure([(0, 0), (10, 20)], [(17, 68), (10, 30)])
    assert load.cpu == [25.0, 0.0]
    assert load.load == (0.1, 1.25, 3.0)
    assert (load.memory_used, load.memory_total) == (512 * 1024, 2048 * 1024)


def test_no_time_and_counters_that_run_backwards_are_no_work() -> None:
    assert machine.busy_share((5, 9), (5, 9)) == 0.0
    assert machine.busy_share((5, 9), (4, 19)) == 0.0


@pytest.fixture(scope="module")
def process(start: Callable[..., Process]) -> Process:
    return start("machine")


@pytest.mark.usefixtures("process")
class TestAtWork:
    async def test_the_machine_is_measured_once(self, mesh: Mesh) -> None:
        load = await mesh.service("machine").request_response("now", returns=Load)
        assert load.cpu
        assert all(0 <= core <= 100 for core in load.cpu)
        assert 0 < load.memory_used < load.memory_total

    async def test_a_stream_measures_as_often_as_it_was_asked_and_ends_with_its_caller(
        self, mesh: Mesh
    ) -> None:
        service = mesh.service("machine")
        before = await service.request_response("watchers", returns=Watchers)
        async with service.request_stream("load", 5, returns=Load, prefetch=3) as loads:
            await anext(loads)  # one taken, and credit for it is given back at the second
            watchers = await service.request_response("watchers", returns=Watchers)
            assert watchers.now == before.now + 1
        async with asyncio.timeout(5):
            while watchers.now > before.now:
                watchers = await service.request_response("watchers", returns=Watchers)
        assert 1 <= watchers.measured - before.measured <= 4

    async def test_an_interval_out_of_bounds_is_refused_with_the_bounds(self, mesh: Mesh) -> None:
        for interval in (0, -5, 60_001):
            with pytest.raises(Invalid, match="must be 1 to 60000"):
                async with mesh.service("machine").request_stream("load", interval) as loads:
                    await anext(loads)

    async def test_the_smallest_caller_prints_an_answer(self, environment: dict[str, str]) -> None:
        command = [sys.executable, "-m", "examples.call"]
        with running(*command, name="call", env=environment) as caller:
            await caller.line(r"'cpu': \[.*'memory_total'")
            assert await caller.ended() == 0
