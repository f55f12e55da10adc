"""Credit: never more granted than asked, never further ahead than the window, never stuck."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.forwarding.credit import (
    EXCESS_TOLERATED,
    FIRST_ITEMS,
    MAX_WINDOW,
    UNLIMITED,
    Credit,
    first_grant,
    items_in,
)

WINDOW = 256 * 1024  # bytes
SIZES = st.sampled_from([1, 200, 20_000, 300_000, 2_000_000])


def a_credit(asked: int, item_bytes: int = 0) -> Credit:
    return Credit(asked, first_grant(asked, WINDOW, item_bytes), item_bytes)


def produce(credit: Credit, size: int, may_grant: bool = True) -> int:
    """One item passes, as the relay lets it: looked at only when `left` is used up."""
    looked_at = not credit.left
    credit.deliver(size)
    return credit.settle(WINDOW, may_grant) if looked_at else 0


def test_one_item_comes_before_any_size_is_known():
    assert first_grant(1000, WINDOW, 0) == 1


def test_a_new_stream_begins_with_no_more_than_a_few_items_however_small_the_last_ones_were():
    assert first_grant(UNLIMITED, WINDOW, 10) == FIRST_ITEMS
    assert first_grant(UNLIMITED, WINDOW, 100_000) == 2
    assert first_grant(3, WINDOW, 10) == 3


def test_the_window_is_as_many_items_as_fit_and_one_at_least():
    assert items_in(WINDOW, WINDOW // 8) == 8
    assert items_in(WINDOW, 100 * WINDOW) == 1
    assert items_in(WINDOW, 1) == MAX_WINDOW
    assert items_in(0, 1000) == 1


def test_the_window_shrinks_at_once_and_grows_slowly():
    credit = a_credit(UNLIMITED)
    produce(credit, 100)
    small = credit.item_bytes
    while credit.item_bytes == small:
        produce(credit, 100_000)
    assert credit.item_bytes > 10_000
    large = credit.item_bytes
    while credit.item_bytes == large:
        produce(credit, 100)
    assert credit.item_bytes > large // 2


@given(
    first=st.integers(1, 100) | st.just(UNLIMITED),
    steps=st.lists(
        st.tuples(st.just("item"), SIZES)
        | st.tuples(st.just("ask"), st.integers(1, 500) | st.just(UNLIMITED))
        | st.tuples(st.sampled_from(["stop", "read"]), st.just(0)),
        max_size=200,
    ),
)
def test_whatever_happens_the_sums_are_right(first: int, steps: list[tuple[str, int]]):
    credit = a_credit(first)
    asked, granted, delivered, reads = first, credit.granted, 0, True
    for what, number in steps:
        if what == "item" and delivered < granted:
            granted += produce(credit, number, reads)
            delivered += 1
        elif what == "ask":
            credit.ask(number)
            asked += number
            granted += credit.settle(WINDOW, reads)
        elif what in ("stop", "read"):
            reads = what == "read"
            before = credit.granted
            granted += credit.settle(WINDOW, reads)
            assert reads or credit.granted == before  # nothing for who does not read
        assert credit.granted == granted <= asked
        assert credit.delivered == delivered
        assert credit.outstanding == granted - delivered
        assert credit.outstanding <= max(MAX_WINDOW, first)
        # What may pass without a look never exceeds what may come.
        assert credit.left <= max(0, credit.outstanding)


@given(asked=st.integers(1, 300), size=SIZES)
def test_a_consumer_that_reads_gets_all_it_asked_for(asked: int, size: int):
    credit = a_credit(asked)
    for _ in range(asked):
        assert credit.outstanding > 0
        produce(credit, size)
    assert (credit.granted, credit.delivered, credit.outstanding) == (asked, asked, 0)


@pytest.mark.parametrize("size", [1, 20_000, 2_000_000])
def test_unlimited_stays_unlimited(size: int):
    credit = a_credit(UNLIMITED)
    for _ in range(3 * MAX_WINDOW):
        assert credit.outstanding > 0
        produce(credit, size)


def test_one_item_of_excess_is_habit_and_two_are_an_overrun():
    credit = a_credit(1)
    credit.deliver(10)
    for _ in range(EXCESS_TOLERATED):
        credit.deliver(10)
        assert not credit.is_overrun
    credit.deliver(10)
    assert credit.is_overrun


def test_asking_adds_up_beyond_what_one_frame_can_say():
    """C-74."""
    credit = a_credit(UNLIMITED - 1)
    credit.ask(UNLIMITED)
    credit.ask(UNLIMITED)
    assert credit.wants_more
    assert credit.asked == UNLIMITED
