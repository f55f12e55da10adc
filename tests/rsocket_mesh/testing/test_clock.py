"""The manual clock: time stands still, moves when told, and everything due runs in its order."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest
import uvloop

from rsocket_mesh.testing import ManualClock, Stuck, manual_clock, run


async def test_time_stands_still_until_it_is_moved():
    loop = asyncio.get_running_loop()
    with manual_clock() as clock:
        begin = loop.time()
        asleep = asyncio.create_task(asyncio.sleep(5))
        await clock.advance(4.999)
        assert not asleep.done()
        await clock.advance(0.001)
        assert asleep.done()
        assert clock.now == 5.0
        assert loop.time() == begin + 5.0


async def test_what_is_due_runs_at_its_time_and_in_its_order():
    seen: list[tuple[str, float]] = []
    with manual_clock() as clock:

        async def tick(name: str, period: float) -> None:
            while True:
                await asyncio.sleep(period)
                seen.append((name, clock.now))

        async with asyncio.TaskGroup() as tasks:
            tickers = [tasks.create_task(tick("a", 2)), tasks.create_task(tick("b", 3))]
            await clock.advance(6)
            for ticker in tickers:
                ticker.cancel()
    assert seen[:3] == [("a", 2.0), ("b", 3.0), ("a", 4.0)]
    assert sorted(seen[3:]) == [("a", 6.0), ("b", 6.0)]


async def test_what_follows_from_a_timer_belongs_to_its_moment():
    seen: list[float] = []
    with manual_clock() as clock:

        async def chain() -> None:
            await asyncio.sleep(1)
            for _ in range(50):
                await asyncio.sleep(0)
            seen.append(clock.now)
            await asyncio.sleep(1)
            seen.append(clock.now)

        task = asyncio.create_task(chain())
        await clock.advance(10)
        assert task.done()
    assert seen == [1.0, 2.0]


async def test_no_advance_runs_what_is_ready_and_nothing_more():
    with manual_clock() as clock:
        later = asyncio.create_task(asyncio.sleep(0.001))
        steps: list[int] = []

        async def work() -> None:
            for step in range(30):
                steps.append(step)
                await asyncio.sleep(0)

        task = asyncio.create_task(work())
        await clock.advance(0)
        assert task.done()
        assert not later.done()
        later.cancel()


async def test_time_outs_are_of_the_same_clock():
    with manual_clock() as clock:

        async def limited() -> None:
            async with asyncio.timeout(30):
                await asyncio.sleep(60)

        task = asyncio.create_task(limited())
        await clock.advance(30)
        assert isinstance(task.exception(), TimeoutError)


async def test_until_moves_the_time_as_far_as_it_takes():
    with manual_clock() as clock:

        async def answer() -> int:
            await asyncio.sleep(700)
            return 7

        assert await clock.until(answer()) == 7
        assert clock.now == 700.0


async def test_until_gives_up_and_cancels_what_takes_too_long():
    with manual_clock() as clock:
        task = asyncio.create_task(asyncio.sleep(61))
        with pytest.raises(TimeoutError, match="not done after 60 s of the manual clock"):
            await clock.until(task, within=60)
        assert task.cancelled()
        assert clock.now == 60.0


async def test_until_raises_what_the_awaitable_raises():
    async def fail() -> None:
        await asyncio.sleep(1)
        raise LookupError("no")

    with manual_clock() as clock, pytest.raises(LookupError):
        await clock.until(fail())


async def test_only_one_moves_the_time():
    with manual_clock() as clock:
        first = asyncio.create_task(clock.advance(1))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="somebody moves the time already"):
            await clock.advance(1)
        await first


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
async def test_time_does_not_go_back(seconds: float):
    with manual_clock() as clock, pytest.raises(ValueError, match="cannot advance"):
        await clock.advance(seconds)


async def test_the_time_does_not_pass_while_a_thread_works():
    with manual_clock() as clock:

        async def work() -> float:
            await asyncio.to_thread(time.sleep, 0.05)
            return clock.now

        task = asyncio.create_task(work())
        await clock.advance(3600)
        assert task.result() == 0.0


async def test_real_sockets_are_served_while_the_time_stands():
    near, far = socket.socketpair()
    with near, far, manual_clock():
        near.setblocking(False)
        loop = asyncio.get_running_loop()
        loop.call_soon(far.send, b"hello")
        assert await loop.sock_recv(near, 100) == b"hello"


async def test_the_loop_has_its_own_time_again_behind_the_block():
    loop = asyncio.get_running_loop()
    before = loop.time()
    with manual_clock() as outer:
        with manual_clock() as inner:
            assert inner is outer
            await inner.advance(1e6)
        await outer.advance(1)
    assert before <= loop.time() < before + 60
    await asyncio.sleep(0.001)
    with pytest.raises(RuntimeError, match="not in use any more"):
        await outer.advance(1)


def test_a_test_that_waits_for_nothing_is_told_what_to_do():
    ended: list[float] = []

    async def main() -> None:
        with manual_clock() as clock:
            clock.patience = 0.05
            try:
                await asyncio.sleep(2.5)
            finally:
                await asyncio.sleep(1)  # even now, what is left can end
                ended.append(clock.now)

    with pytest.raises(Stuck, match=r"next timer is due in 2.5 s.*advance\(seconds\).*main"):
        run(main())
    assert ended == [1.0]


def test_a_test_that_waits_for_what_never_comes_is_told_so():
    async def main() -> None:
        with manual_clock() as clock:
            clock.patience = 0.05
            await asyncio.Event().wait()

    with pytest.raises(Stuck, match="no timer is set"):
        run(main())


def test_a_thread_that_never_ends_is_no_reason_to_wait_for_ever():
    async def main(release: asyncio.Event) -> None:
        with manual_clock() as clock:
            clock.patience = 0.05
            work = asyncio.create_task(asyncio.to_thread(time.sleep, 0.3))
            try:
                await clock.advance(1)
            finally:
                await work

    with pytest.raises(Stuck, match="a thread is at work"):
        run(main(asyncio.Event()))


def test_run_returns_the_result_and_has_a_clock():
    async def main() -> float:
        with manual_clock() as clock:
            await clock.advance(60)
            return clock.now

    assert run(main()) == 60.0


def test_a_loop_that_keeps_its_own_time_is_refused():
    async def main() -> ManualClock:
        return manual_clock()

    with (
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        pytest.raises(RuntimeError, match=r"uvloop\.Loop keeps its own time.*testing\.run"),
    ):
        runner.run(main())


def test_a_moment_that_does_not_end_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("rsocket_mesh.testing.clock.MAX_TURNS", 1600)
    ended: list[bool] = []

    async def spin() -> None:
        while not ended:  # noqa: ASYNC110  # spinning is what the test is about
            await asyncio.sleep(0)

    async def main() -> None:
        with manual_clock() as clock:
            spinning = asyncio.create_task(spin())
            try:
                await clock.advance(1)
            finally:
                ended.append(True)
                await spinning

    with pytest.raises(Stuck, match="1600 turns of the loop in one moment"):
        run(main())
