"""The token bucket: never more than its burst and its rate allow, and exactly that much."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsocket_mesh.protocol.rates import Bucket, Rate


def test_the_burst_passes_at_once_and_nothing_behind_it():
    bucket = Bucket(Rate(per_second=10, burst=5))
    assert [bucket.take(100.0) for _ in range(5)] == [0.0] * 5
    assert bucket.take(100.0) == pytest.approx(0.1)


def test_whoever_waits_as_long_as_it_was_told_gets_its_turn_and_not_earlier():
    bucket = Bucket(Rate(10, 5))
    for _ in range(5):
        bucket.take(100.0)
    wait = bucket.take(100.0)
    assert bucket.take(100.0 + wait - 0.001) > 0
    assert bucket.take(100.0 + wait) == 0.0


def test_a_refusal_costs_nothing():
    bucket = Bucket(Rate(1, 1))
    bucket.take(0.0)
    for _ in range(1000):
        bucket.take(0.5)
    assert bucket.take(1.0) == 0.0


def test_a_pause_fills_it_up_to_the_burst_and_no_further():
    bucket = Bucket(Rate(10, 5))
    bucket.take(0.0)
    assert [bucket.take(1e6) for _ in range(6)] == [0.0] * 5 + [pytest.approx(0.1)]


def test_what_costs_more_than_the_burst_takes_all_of_it():
    bucket = Bucket(Rate(10, 5))
    assert bucket.take(0.0, 1000) == 0.0
    assert bucket.take(0.0) == pytest.approx(0.1)
    assert bucket.take(0.4, 1000) == pytest.approx(0.1)


def test_what_has_happened_is_owed_until_its_time_has_come():
    bucket = Bucket(Rate(10, 5))
    assert [bucket.owe(0.0) for _ in range(5)] == [0.0] * 5
    assert bucket.owe(0.0, 10) == pytest.approx(1.0)
    assert bucket.take(0.9) > 0
    assert bucket.take(1.1) == 0.0


@given(
    st.floats(0.1, 1000),
    st.floats(1, 100),
    st.lists(st.tuples(st.floats(0, 10), st.floats(0.1, 10)), max_size=60),
)
def test_in_no_span_of_time_does_more_pass_than_burst_and_rate_allow(per_second, burst, steps):
    bucket = Bucket(Rate(per_second, burst))
    now, passed = 0.0, []
    for pause, cost in steps:
        now += pause
        if bucket.take(now, cost) == 0.0:
            passed.append((now, min(cost, burst)))
    for first, (begin, _) in enumerate(passed):
        for end, _ in passed[first:]:
            spent = sum(cost for when, cost in passed if begin <= when <= end)
            assert spent <= burst + per_second * (end - begin) + 1e-6 * (1 + spent)


@given(st.floats(0.1, 1000), st.floats(1, 100), st.lists(st.floats(0, 10), max_size=60))
def test_as_many_can_be_taken_as_the_level_says(per_second, burst, pauses):
    bucket, now = Bucket(Rate(per_second, burst)), 1000.0
    for pause in pauses:
        now += pause
        level = int(bucket.level(now))
        taken = 0
        while bucket.take(now) == 0.0:
            taken += 1
        assert taken == level
