"""Leases as laws: what a requester may send, what a responder lets through and grants again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsocket_mesh.protocol.frames import Lease
from rsocket_mesh.protocol.lease import (
    FIRST_PAUSE,
    GRACE,
    LAST_PAUSE,
    MAX_REQUESTS,
    REPLAY,
    UNDER_WAY,
    Leased,
    Lessor,
)

TTL = 10.0
numbers = st.integers(0, 20)
steps = st.floats(0, 3, allow_nan=False)


def granted(requests: int, now: float = 0.0) -> Lessor:
    lessor = Lessor(TTL)
    assert lessor.offer(requests, now) == Lease(10_000, requests)
    return lessor


# -- the requester's side -------------------------------------------------------------------------


def test_nothing_may_be_sent_before_the_first_lease():
    """C-105, C-106."""
    leased = Leased()
    assert leased.available(0.0) == 0
    assert not leased.take(0.0)


def test_a_lease_is_good_for_its_number_of_requests():
    leased = Leased()
    leased.receive(Lease(1000, 2), now=5.0)
    assert [leased.take(5.0) for _ in range(3)] == [True, True, False]


def test_a_lease_ends_with_its_time_counted_from_its_reception():
    leased = Leased()
    leased.receive(Lease(1000, 2), now=5.0)
    assert leased.take(5.999)
    assert not leased.take(6.0)


@given(st.lists(st.tuples(numbers, numbers), min_size=1))
def test_a_new_lease_replaces_what_was_left(leases):
    """C-109."""
    leased = Leased()
    for requests, used in leases:
        leased.receive(Lease(1000, requests), now=0.0)
        assert leased.available(0.0) == requests
        for _ in range(used):
            leased.take(0.0)


@pytest.mark.parametrize("stop", [Lease(0, 0), Lease(0, 5), Lease(1000, 0)])
def test_a_zero_in_either_number_stops(stop):
    """C-110."""
    leased = Leased()
    leased.receive(Lease(1000, 5), now=0.0)
    leased.receive(stop, now=0.0)
    assert not leased.take(0.0)


def test_a_resumed_connection_begins_without_a_lease():
    """C-123."""
    leased = Leased()
    leased.receive(Lease(1000, 5), now=0.0)
    leased.restart()
    assert not leased.take(0.0)


# -- the responder's side -------------------------------------------------------------------------


def test_a_request_beyond_the_lease_is_refused_and_one_within_is_not():
    """C-111."""
    lessor = granted(3)
    assert [lessor.take(0.0) for _ in range(4)] == [True, True, True, False]


def test_nothing_is_let_through_before_the_first_grant():
    assert not Lessor(TTL).take(0.0)


def test_a_lease_that_is_over_lets_through_what_was_under_way_and_then_nothing():
    lessor = granted(3)
    assert lessor.take(TTL + GRACE - 0.001)
    assert not lessor.take(TTL + GRACE)


def test_what_was_under_way_when_a_lease_was_replaced_is_let_through():
    lessor = granted(10)
    assert lessor.offer(2, now=TTL / 2) == Lease(10_000, 2)
    # The peer may have sent ten before it heard of the two that replace them.
    assert [lessor.take(TTL / 2 + 0.1) for _ in range(13)] == [True] * 12 + [False]


def test_what_was_replaced_long_ago_is_not_let_through():
    lessor = granted(10)
    lessor.offer(2, now=TTL / 2)
    later = TTL / 2 + GRACE
    assert [lessor.take(later) for _ in range(3)] == [True, True, False]


def test_renewals_do_not_add_up():
    lessor = granted(10)
    for round_ in range(1, 50):
        lessor.offer(10, now=round_ * TTL / 2)
    now = 49 * TTL / 2
    assert sum(lessor.take(now) for _ in range(1000)) == 20


@given(
    st.integers(1, 50),
    st.lists(st.tuples(st.integers(1, 30), st.integers(0, 30), st.floats(0, GRACE / 2))),
)
def test_a_peer_that_obeys_is_never_refused(first, rounds):
    """Whatever is under way: the peer hears of each LEASE up to half of the grace later."""
    lessor, leased, now = granted(first), Leased(), 0.0
    leased.receive(Lease(10_000, first), now)
    for free, sent, delay in rounds:
        now = max(now + delay, lessor.next_deadline())
        lease = lessor.offer(free, now)
        early = [leased.take(now) for _ in range(sent)]  # sent before the LEASE arrived
        if lease is not None:
            leased.receive(lease, now + delay)
        late = [leased.take(now + delay) for _ in range(sent)]
        for _ in range(sum(early) + sum(late)):
            assert lessor.take(now + delay)
        now += 2 * GRACE  # what was under way has arrived


def test_it_grants_again_after_half_the_time():
    lessor = granted(5)
    assert lessor.next_deadline() == TTL / 2
    assert lessor.offer(5, now=TTL / 2 - 0.001) is None
    assert lessor.offer(5, now=TTL / 2) == Lease(10_000, 5)


def test_it_grants_again_when_half_is_used_up_and_there_is_more():
    lessor = granted(4)
    lessor.take(0.0)
    assert not lessor.is_low
    lessor.take(0.0)
    assert lessor.is_low
    assert lessor.offer(4, now=0.0) is None  # two may be under way, and two it has anyway
    assert lessor.offer(5, now=0.0) == Lease(10_000, 3)


def test_what_may_be_under_way_is_not_granted_a_second_time():
    lessor = granted(2)
    lessor.take(0.0)
    assert lessor.offer(3, now=0.0) == Lease(10_000, 2)  # and one may have been under way
    for _ in range(2):
        lessor.take(0.001)
    assert lessor.left == 0
    # Either of the two may be that one; then the last unit is still on its way.
    assert lessor.offer(1, now=0.001) is None
    assert lessor.offer(1, now=UNDER_WAY) == Lease(10_000, 1)


def test_it_never_grants_nothing_and_looks_again_less_and_less_often():
    lessor = granted(1)
    lessor.take(0.0)
    now, pauses = lessor.next_deadline(), []
    for _ in range(8):
        assert lessor.offer(0, now) is None
        pauses.append(lessor.next_deadline() - now)
        now = lessor.next_deadline()
    assert pauses[0] == pytest.approx(FIRST_PAUSE)
    assert pauses[-1] == pytest.approx(LAST_PAUSE)
    assert lessor.retry_after(now) >= FIRST_PAUSE
    assert lessor.offer(1, now) == Lease(10_000, 1)
    assert lessor.next_deadline() == pytest.approx(now + TTL / 2)


def test_a_grant_says_no_more_than_a_frame_can():
    lease = Lessor(TTL).offer(MAX_REQUESTS + 5, 0.0)
    assert lease is not None
    assert lease.requests == MAX_REQUESTS


def test_a_resumed_connection_is_granted_anew():
    """C-123."""
    lessor = granted(5)
    assert all(lessor.take(0.0) for _ in range(5))
    lessor.restart(1.0)
    assert not lessor.take(1.0)
    assert lessor.offer(5, now=1.0) == Lease(10_000, 5)


def test_requests_that_were_lost_with_the_socket_come_again_beside_the_new_lease():
    """They were sent within the old one: refusing them would break what was granted."""
    lessor = granted(5)
    assert all(lessor.take(0.0) for _ in range(2))
    lessor.restart(20.0)  # the old one is long over
    assert lessor.offer(4, now=20.0) == Lease(10_000, 4)
    assert [lessor.take(20.0 + REPLAY - 0.01) for _ in range(8)] == [True] * 7 + [False]


def test_requests_come_again_also_where_there_is_no_room_for_a_new_lease_but_in_time():
    lessor = granted(5)
    lessor.restart(20.0)
    assert lessor.offer(0, now=20.0) is None
    assert lessor.take(20.0 + REPLAY - 0.01)
    assert not lessor.take(20.0 + REPLAY)


def test_lost_sockets_do_not_add_up():
    lessor = granted(5)
    for now in range(1, 10):
        lessor.restart(now)
        assert lessor.offer(5, now) == Lease(10_000, 5)
    assert [lessor.take(10.0) for _ in range(11)] == [True] * 10 + [False]


@given(st.lists(st.tuples(numbers, numbers, steps)))
def test_never_more_is_let_through_than_the_newest_grant_and_one_before(rounds):
    lessor, now, last, largest = Lessor(TTL), 0.0, 0, 0
    for free, sent, step in rounds:
        now += step
        lease = lessor.offer(free, now)
        last = lease.requests if lease is not None else last
        largest = max(largest, last)
        taken = sum(lessor.take(now) for _ in range(sent))
        assert taken <= last + largest
        assert 0 <= lessor.left <= last
