"""Capacity as laws: never more calls at once, never more per second, and room comes back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsocket_mesh.errors import ErrorCode, Overloaded
from rsocket_mesh.protocol.capacity import BURST, Capacity
from rsocket_mesh.protocol.lease import MAX_REQUESTS


def enter_if_free(capacity: Capacity, now: float) -> bool:
    if not capacity.free(now):
        return False
    capacity.enter(now)
    return True


def test_without_limits_there_is_always_room():
    capacity = Capacity(None, None)
    capacity.enter(0.0)
    assert capacity.free(0.0) == MAX_REQUESTS


def test_calls_at_work_take_the_room_until_they_leave():
    capacity = Capacity(2, None)
    assert [enter_if_free(capacity, 0.0) for _ in range(3)] == [True, True, False]
    capacity.leave()
    assert capacity.free(0.0) == 1


def test_a_rate_lets_one_second_of_it_through_at_once_and_then_one_by_one():
    capacity = Capacity(None, 10.0)
    assert sum(enter_if_free(capacity, 100.0) for _ in range(50)) == 10
    assert capacity.retry_after(100.0) == pytest.approx(0.1)
    assert not enter_if_free(capacity, 100.099)
    assert enter_if_free(capacity, 100.1)
    assert not enter_if_free(capacity, 100.1)


def test_a_rate_below_one_lets_single_calls_through():
    capacity = Capacity(None, 0.5)
    assert enter_if_free(capacity, 100.0)
    assert not enter_if_free(capacity, 101.9)
    assert enter_if_free(capacity, 102.0)


@given(
    st.floats(0.1, 1000),
    st.lists(st.tuples(st.floats(0, 2), st.integers(0, 300)), max_size=30),
)
def test_in_any_time_there_is_no_more_than_the_rate_and_one_burst(rate, rounds):
    capacity, now, taken = Capacity(None, rate), 50.0, 0
    for step, calls in rounds:
        now += step
        taken += sum(enter_if_free(capacity, now) for _ in range(calls))
        assert taken <= max(1.0, rate * BURST) + rate * (now - 50.0) + 1e-6


@given(st.integers(1, 10), st.lists(st.booleans()))
def test_there_are_never_more_at_work_than_the_concurrency(concurrency, acts):
    capacity, at_work = Capacity(concurrency, None), 0
    for enters in acts:
        if enters:
            at_work += enter_if_free(capacity, 0.0)
        elif at_work:
            capacity.leave()
            at_work -= 1
        assert capacity.at_work == at_work <= concurrency
        assert capacity.free(0.0) == concurrency - at_work


@given(st.floats(1, 500), st.lists(st.tuples(st.floats(0, 0.2), st.floats(0, 0.1)), max_size=60))
def test_who_stands_behind_another_account_refuses_nothing_that_came_through_that(rate, calls):
    """The calls that a broker let through, each up to 100 ms on its way, in order."""
    broker, service = Capacity(None, rate), Capacity(None, rate, slack=0.1)
    now = arrived = 50.0
    for step, delay in calls:
        now += step
        if enter_if_free(broker, now):
            arrived = max(arrived, now + delay)
            assert enter_if_free(service, arrived)


def test_a_call_whose_end_nobody_hears_of_counts_against_the_rate_only():
    capacity = Capacity(1, 1.0)
    capacity.spend(50.0)
    assert capacity.at_work == 0
    assert capacity.free(50.0) == 0
    assert capacity.free(51.0) == 1


def test_other_limits_hold_from_now_on_and_what_is_at_work_goes_on():
    capacity = Capacity(3, None)
    for _ in range(3):
        capacity.enter(0.0)
    capacity.limit(1, None)
    assert capacity.free(0.0) == 0
    for _ in range(3):
        capacity.leave()
    assert capacity.free(0.0) == 1


@pytest.mark.parametrize(
    ("capacity", "text", "pause"),
    [
        (Capacity(1, None), "orders.total: 1 calls are at work, the limit is 1", 100),
        (Capacity(None, 0.5), "orders.total: its rate is 0.5 calls per second", 2000),
    ],
)
def test_a_refusal_says_which_limit_and_for_how_long(capacity, text, pause):
    capacity.enter(50.0)
    error = capacity.refuse("orders.total", 50.0)
    assert isinstance(error, Overloaded)
    assert error.to_wire() == (ErrorCode.REJECTED, f"OVERLOADED(retry_after_ms={pause}): {text}")
    assert capacity.refused == 1
