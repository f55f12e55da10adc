"""Deadlines: never early, at most one tick late, and cheap to forget."""

from __future__ import annotations

import sys

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.kernel.wheel import FAR_TICKS, SLOTS, TICK, TIDIED, Wheel

HORIZON = SLOTS * TICK  # seconds with a set for each tick


class Probe:
    def __init__(self) -> None:
        self.expired_at: float | None = None

    def expire(self, now: float) -> None:
        self.expired_at = now


@given(st.lists(st.floats(0, 5), max_size=30), st.lists(st.floats(0.001, 1), max_size=30))
def test_an_entry_expires_at_its_deadline_or_within_a_tick_after_it(
    deadlines: list[float], steps: list[float]
) -> None:
    wheel = Wheel(lambda when: None)
    probes = [(when, Probe()) for when in deadlines]
    for when, probe in probes:
        wheel.bucket(when).add(probe)
    now = 0.0
    for step in steps:
        now += step
        wheel.expire(now)
        for when, probe in probes:
            if probe.expired_at is not None:
                assert probe.expired_at >= when
            else:
                assert now <= when + TICK


@settings(deadline=None)  # minutes pass, tick by tick
@given(
    st.lists(st.tuples(st.floats(0, 3 * HORIZON), st.floats(0.02, 3 * HORIZON)), max_size=20),
    st.sampled_from([0.25, 1.0, 40.0, 2.5 * HORIZON]),
)
def test_deadlines_far_away_are_never_early_and_late_by_a_little_of_what_they_are(
    starts: list[tuple[float, float]], step: float
) -> None:
    wheel = Wheel(lambda when: None, now=0.0)
    probes: list[tuple[float, Probe]] = []
    now = 0.0
    for begin, length in sorted(starts):
        while now < begin:
            now += step
            wheel.expire(now)
            for when, probe in probes:
                assert probe.expired_at is None or probe.expired_at >= when
                assert probe.expired_at is not None or now <= when + FAR_TICKS * TICK
        probes.append((now + length, Probe()))
        wheel.bucket(now + length).add(probes[-1][1])
    wheel.expire(1e6)
    assert all(probe.expired_at is not None for _, probe in probes)


def test_a_wheel_that_nobody_turned_for_long_finds_all_that_is_due() -> None:
    wheel = Wheel(lambda when: None)
    probes = [Probe() for _ in range(3)]
    for when, probe in zip((1.0, HORIZON - 1, HORIZON + 1), probes, strict=True):
        wheel.bucket(when).add(probe)
    assert wheel.expire(1e6) == 3
    wheel.bucket(1e6 + 1).add(probe := Probe())
    assert wheel.expire(1e6 + 0.9) == 0
    assert wheel.expire(1e6 + 1.03) == 1
    assert probe.expired_at is not None


def test_a_set_that_has_grown_and_is_empty_is_small_again() -> None:
    wheel = Wheel(lambda when: None)
    size = sys.getsizeof(set())
    grown = [wheel.bucket(when) for when in (1.0, 2.0)]
    for bucket in grown:
        bucket.update(Probe() for _ in range(1000))
        for probe in list(bucket):
            bucket.discard(probe)
        assert sys.getsizeof(bucket) > size
    wheel.expire(1.5)  # its tick has passed
    assert sys.getsizeof(grown[0]) == size
    for _ in range(SLOTS // TIDIED):
        wheel.tidy()
    assert sys.getsizeof(grown[1]) == size


def test_waiting_costs_no_set_as_long_as_it_is_not_for_long() -> None:
    wheel = Wheel(lambda when: None)
    before = len(wheel)
    for tick in range(SLOTS - 1):
        wheel.bucket(tick * TICK)
    assert len(wheel) == before


def test_what_was_disarmed_never_expires() -> None:
    wheel = Wheel(lambda when: None)
    probe = Probe()
    bucket = wheel.bucket(1.0)
    bucket.add(probe)
    bucket.discard(probe)
    assert wheel.expire(10.0) == 0
    assert probe.expired_at is None


def test_whoever_owns_the_timer_hears_of_an_earlier_deadline_only() -> None:
    heard: list[float] = []
    wheel = Wheel(heard.append)
    for when in (5.0, 6.0, 2.0, 2.0, 3.0):
        wheel.bucket(when).add(Probe())
    assert [round(when, 2) for when in heard] == [5.02, 2.02]
    assert wheel.next_deadline() == heard[-1]


def test_an_entry_may_arm_others_while_it_expires() -> None:
    wheel = Wheel(lambda when: None)

    class Again(Probe):
        def expire(self, now: float) -> None:
            super().expire(now)
            wheel.bucket(now + 1).add(last)

    last = Probe()
    wheel.bucket(1.0).add(Again())
    assert wheel.expire(1.5) == 1
    assert wheel.expire(2.6) == 1
    assert last.expired_at == 2.6


@given(st.lists(st.floats(0, 1), max_size=30), st.integers(1, 5))
def test_no_more_expire_at_once_than_asked_for_and_none_is_forgotten(
    deadlines: list[float], most: int
) -> None:
    wheel = Wheel(lambda when: None)
    probes = [Probe() for _ in deadlines]
    for when, probe in zip(deadlines, probes, strict=True):
        wheel.bucket(when).add(probe)
    expired = 0
    while (next_deadline := wheel.next_deadline()) is not None:
        count = wheel.expire(next_deadline, most)
        assert count <= most
        assert wheel.told == wheel.next_deadline()
        expired += count
    assert expired == len(probes)
    assert all(probe.expired_at is not None for probe in probes)
