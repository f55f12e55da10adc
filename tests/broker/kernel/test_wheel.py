"""Deadlines: never early, at most one tick late, and cheap to forget."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker.kernel.wheel import TICK, Wheel


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
        wheel.bucket(when)
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
        expired += count
    assert expired == len(probes)
    assert all(probe.expired_at is not None for probe in probes)
