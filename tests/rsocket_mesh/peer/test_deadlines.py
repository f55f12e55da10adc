"""Many deadlines, one timer."""

from hypothesis import given
from hypothesis import strategies as st

from rsocket_mesh.peer.deadlines import TICKS_PER_SECOND, Deadlines


@given(
    st.lists(st.floats(0, 100), max_size=30),
    st.lists(st.floats(0, 120), max_size=30).map(sorted),
)
def test_every_key_is_due_once_never_early_and_at_most_one_tick_late(whens, nows):
    deadlines = Deadlines()
    for key, when in enumerate(whens):
        deadlines.add(key, when)
    waiting = dict(enumerate(whens))
    for now in nows:
        for key in deadlines.handle_deadline(now):
            assert waiting.pop(key) <= now
        assert all(when > now - 1 / TICKS_PER_SECOND - 1e-9 for when in waiting.values())
    following = deadlines.next_deadline()
    assert (following is None) == (not waiting)
    assert following is None or following >= min(waiting.values())


def test_a_discarded_key_is_never_due():
    deadlines = Deadlines()
    tick = deadlines.add(1, 1.0)
    deadlines.add(2, 1.0)
    deadlines.discard(1, tick)
    deadlines.discard(1, tick)
    assert deadlines.handle_deadline(2.0) == [2]


def test_ticks_without_keys_wake_nobody():
    deadlines = Deadlines()
    ticks = [deadlines.add(key, float(key)) for key in range(1, 100)]
    for key, tick in enumerate(ticks, start=1):
        deadlines.discard(key, tick)
    assert deadlines.handle_deadline(1.1) == []
    assert deadlines.next_deadline() is None


def test_a_key_may_come_back_to_a_tick_that_was_emptied():
    deadlines = Deadlines()
    deadlines.discard(1, deadlines.add(1, 5.0))
    deadlines.add(2, 5.0)
    assert deadlines.handle_deadline(6.0) == [2]
