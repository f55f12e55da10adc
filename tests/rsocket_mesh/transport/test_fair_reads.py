"""No connection keeps the loop longer than its turn, however much it has sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from time import perf_counter, sleep

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsocket_mesh.transport import dial, listen
from rsocket_mesh.transport.fair_reads import (
    ENDINGS_PER_TURN,
    READ_SIZE,
    STEPS,
    TURN,
    FairReads,
    next_step,
)
from tests.support.transport_ends import Recorder, send
from tests.support.waiting import until

FRAME = b"\0" * 250


class Slow(Recorder):
    """Takes as long for its bytes as if each of them needed thought."""

    seconds_per_byte = 0.0

    def batch_received(self, data: bytes) -> int:
        sleep(len(data) * self.seconds_per_byte)
        return super().batch_received(data)


@asynccontextmanager
async def connections(seconds_per_byte: float) -> AsyncIterator[tuple[list[Slow], list[Recorder]]]:
    """Two connections to one listener: (its ends, the ends that dialled)."""
    far: list[Slow] = []

    def accept() -> Slow:
        far.append(Slow())
        far[-1].seconds_per_byte = seconds_per_byte
        return far[-1]

    listener = await listen("tcp://127.0.0.1:0", accept)
    near = [Recorder(), Recorder()]
    for receiver in near:
        known = len(far)
        await dial(listener.url, receiver, timeout=10)
        await until(lambda known=known: len(far) > known)
    yield far, near
    for receiver in near:
        receiver.transport.close()
    await until(lambda: all(one.endings for one in (*near, *far)))
    await listener.close()


async def test_a_flood_that_takes_long_to_look_at_leaves_others_their_turns() -> None:
    """1 us per byte: without turns the 2 MiB would keep the loop for 2 s."""
    async with connections(1e-6) as (far, near):
        send(near[0].transport, *[FRAME] * (2 * 1024 * 1024 // len(FRAME)))
        await until(lambda: far[0].frames)
        waits = []
        while len(far[0].frames) < 2 * 1024 * 1024 // len(FRAME):
            seen = len(far[1].frames)
            began = perf_counter()
            send(near[1].transport, FRAME)
            await until(lambda seen=seen: len(far[1].frames) > seen)
            waits.append(perf_counter() - began)
        assert len(waits) > 30
        assert sorted(waits)[len(waits) // 2] < 0.02


@pytest.mark.parametrize("seconds_per_byte", [0.0, 1e-7])
async def test_all_that_was_sent_arrives_in_order(seconds_per_byte: float) -> None:
    async with connections(seconds_per_byte) as (far, near):
        frames = [number.to_bytes(6, "big") * (1 + number % 40) for number in range(20_000)]
        send(near[0].transport, *frames)
        await until(lambda: len(far[0].frames) == len(frames))
        assert far[0].frames == frames


async def test_one_turn_of_the_loop_lets_one_of_those_who_wait_go_on() -> None:
    reads = FairReads(asyncio.get_running_loop())
    log: list[str] = []

    class One:
        def __init__(self, name: str) -> None:
            self.name = name

        def read_on(self) -> None:
            log.append(self.name)

    for name in "abc":
        reads.wait(One(name))
    for expected in (["a"], ["a", "b"], ["a", "b", "c"]):
        await asyncio.sleep(0)
        assert log == expected


async def test_when_many_end_at_once_each_turn_ends_some_of_them_in_order() -> None:
    reads = FairReads(asyncio.get_running_loop())
    ended: list[int] = []
    for number in range(3 * ENDINGS_PER_TURN):
        reads.end(partial(ended.append, number))
    for turn in range(1, 4):
        assert ended == list(range(turn * ENDINGS_PER_TURN))
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    reads.end(partial(ended.append, -1))
    assert ended[-1] == -1


@given(st.integers(0, STEPS - 1), st.floats(0, 1))
def test_the_next_part_is_what_can_be_worked_off_in_a_turn(step: int, took: float) -> None:
    following = next_step(step, took)
    assert 0 <= following < STEPS
    assert following <= step + 1
    if following > step:
        assert took * 2 < TURN
    if 0 < following <= step:
        assert took / 2 ** (step - following) <= TURN


def test_a_part_is_half_of_the_next() -> None:
    loop = asyncio.new_event_loop()
    sizes = [len(part) for part in FairReads(loop).parts]
    loop.close()
    assert sizes == [READ_SIZE >> (STEPS - 1 - step) for step in range(STEPS)]
