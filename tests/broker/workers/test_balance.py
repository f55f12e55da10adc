"""When a call stays at its worker: the law of `Balance`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker.workers.balance import NEAR, Balance


def test_an_idle_instance_of_ours_keeps_its_calls():
    assert Balance(100).stays(0, 100, elsewhere=0)


def test_a_call_goes_when_ours_is_busier_than_allowed_and_not_before():
    balance = Balance(100)
    assert balance.stays(NEAR, 100, elsewhere=0)  # the other one would have one, with this
    assert not balance.stays(NEAR + 1, 100, elsewhere=0)
    assert balance.stays(NEAR + 1, 100, elsewhere=1)


def test_what_others_have_of_their_own_counts():
    balance = Balance(100)
    balance.told = 50
    assert balance.stays(100, 100, elsewhere=0)
    assert not balance.stays(200, 100, elsewhere=0)


def test_weights_count():
    assert Balance(100).stays(4, 400, elsewhere=0)
    assert not Balance(900).stays(4, 100, elsewhere=3)  # there it would be less than one for each
    assert Balance(0).stays(1000, 100, elsewhere=0)  # those elsewhere are a reserve


@given(st.integers(1, 200))
def test_one_busy_worker_sends_about_a_third_away(calls):
    balance, here, far = Balance(100), 0, 0
    for _ in range(calls):
        if balance.stays(here, 100, far):
            here += 1
        else:
            far += 1
    assert here <= NEAR * (far + 1) + 1
    assert far <= calls / (NEAR + 1) + 1


@given(st.integers(0, 500))
def test_where_all_are_equally_busy_nothing_goes(busy):
    balance = Balance(100)
    balance.told = busy
    assert balance.stays(busy, 100, elsewhere=0)
