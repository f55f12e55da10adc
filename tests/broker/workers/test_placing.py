"""Who gets the next connection: the laws of `Placing`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker.workers.placing import LAG, WINDOW, Placing

NOW = 0.0


def placing_of(workers: int) -> Placing:
    placing = Placing()
    for worker in range(workers):
        placing.joined(worker)
    return placing


def place(placing: Placing, address: str | None = None) -> int:
    worker = placing.choose(NOW)
    assert worker is not None
    placing.placed(worker, address, NOW)
    placing.adopted(worker)
    return worker


def test_equal_workers_get_connections_in_turn():
    placing = placing_of(3)
    assert [place(placing) for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_whoever_has_fewest_gets_the_next():
    placing = placing_of(2)
    for _ in range(6):
        place(placing)
    placing.ended(1, None)
    placing.ended(1, None)
    assert [place(placing) for _ in range(2)] == [1, 1]


def test_the_worker_with_fewest_is_waited_for_while_it_takes_its_last_ones():
    placing = placing_of(2)
    for _ in range(10):
        placing.placed(1, None, NOW)
        placing.adopted(1)
    for _ in range(WINDOW):
        assert placing.choose(NOW) == 0
        placing.placed(0, None, NOW)
    assert placing.choose(NOW) is None
    placing.adopted(0)
    assert placing.choose(NOW) == 0


def test_a_worker_that_does_not_take_its_last_ones_is_left_alone():
    placing = placing_of(2)
    for _ in range(WINDOW):
        placing.placed(0, None, NOW)
    for _ in range(5):
        placing.placed(1, None, NOW)
        placing.adopted(1)
    assert placing.choose(NOW + 0.99 * LAG) is None
    assert placing.choose(NOW + LAG) == 1  # although it has more


def test_a_crowded_worker_gets_none_until_it_says_so():
    placing = placing_of(1)
    placing.crowded(0, True)
    assert placing.choose(NOW) is None
    placing.crowded(0, False)
    assert placing.choose(NOW) == 0


def test_nobody_is_chosen_where_nobody_is_ready():
    assert Placing().choose(NOW) is None


def test_a_worker_that_comes_back_begins_with_none():
    placing = placing_of(2)
    for _ in range(4):
        place(placing, "192.0.2.1")
    placing.gone(1)
    assert (placing.of(1), placing.connections, placing.of_address("192.0.2.1")) == (0, 2, 2)
    placing.ended(1, "192.0.2.1")  # what the dead one said last
    placing.joined(1)
    assert [place(placing) for _ in range(2)] == [1, 1]


def test_connections_are_counted_in_total_and_by_address():
    placing = placing_of(2)
    for address in ("192.0.2.1", "192.0.2.1", "192.0.2.2", None):
        place(placing, address)
    assert placing.connections == 4
    assert placing.of_address("192.0.2.1") == 2
    assert placing.of_address(None) == 0
    placing.detached(1, 5)
    assert (placing.elsewhere(0), placing.elsewhere(1)) == (7, 2)


@given(st.lists(st.integers(0, 3), max_size=80), st.integers(1, 5))
def test_without_ends_no_worker_has_two_more_than_another(ends, workers):
    placing = placing_of(workers)
    for _ in ends:
        place(placing)
    counts = [placing.of(worker) for worker in range(workers)]
    assert max(counts) - min(counts) <= 1
