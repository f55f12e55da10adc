"""What all sessions announce, and who knows it: the laws of `Directory`."""

from __future__ import annotations

from broker.workers.directory import MAX_REMEMBERED, Directory, Session

ONE = Session("default", "shop", "shop-1", "application/cbor", b"{}", serves=True)
CALLER = Session("default", "shop", "shop-2", "application/cbor", b"{}", serves=False)


def test_a_name_belongs_to_who_announced_it_last():
    directory = Directory()
    assert directory.announce(0, 7, ONE) is None
    assert directory.announce(0, 7, ONE) is None  # again is no other
    assert directory.announce(1, 8, ONE) == (0, 7)
    directory.withdraw(0, 7)
    assert directory.announce(1, 9, ONE) == (1, 8)


def test_the_same_name_in_another_tenant_is_another():
    directory = Directory()
    directory.announce(0, 7, ONE)
    assert directory.announce(1, 8, ONE._replace(tenant="other")) is None


def test_a_worker_that_is_started_learns_of_all_that_others_serve():
    directory = Directory()
    directory.announce(0, 1, ONE)
    directory.announce(1, 2, ONE._replace(instance="shop-3"))
    directory.announce(1, 3, CALLER)
    directory.accepting(1, 2, False)
    assert [(w, link, s.accepting) for w, link, s in directory.serving(but=0)] == [(1, 2, False)]
    assert directory.serves(1, 2)
    assert not directory.serves(1, 3)


def test_an_announcement_is_confirmed_when_the_last_one_has_seen_it():
    directory = Directory()
    number = directory.told((0, 7), {1, 2})
    assert directory.seen(1, number) is None
    assert directory.seen(1, number) is None
    assert directory.seen(2, number) == (0, 7)
    assert directory.seen(2, number) is None  # once


def test_a_worker_that_dies_is_waited_for_no_longer():
    directory = Directory()
    alone, with_other = directory.told((0, 7), {1}), directory.told((0, 8), {1, 2})
    assert directory.gone(1) == [(0, 7)]
    assert directory.seen(2, with_other) == (0, 8)
    assert directory.overdue(alone) is None


def test_what_is_overdue_is_confirmed_once():
    directory = Directory()
    number = directory.told((0, 7), {1})
    assert directory.overdue(number) == (0, 7)
    assert directory.seen(1, number) is None


def test_a_worker_that_dies_leaves_no_session_name_or_token():
    directory = Directory()
    directory.announce(1, 2, ONE)
    directory.resumable(1, b"digest", begins=True)
    directory.gone(1)
    assert list(directory.serving(but=0)) == []
    assert directory.owner(b"digest") is None
    assert directory.announce(0, 3, ONE) is None


def test_the_worker_of_a_session_that_has_ended_is_remembered_for_a_while():
    directory = Directory()
    directory.resumable(1, b"first", begins=True)
    directory.resumable(1, b"first", begins=False)
    assert directory.owner(b"first") == 1  # it knows why
    for number in range(MAX_REMEMBERED):
        digest = number.to_bytes(4, "big")
        directory.resumable(0, digest, begins=True)
        directory.resumable(0, digest, begins=False)
    assert directory.owner(b"first") is None
    assert directory.owner(b"never") is None


def test_a_token_that_moved_is_not_ended_by_its_old_worker():
    directory = Directory()
    directory.resumable(0, b"digest", begins=True)
    directory.resumable(1, b"digest", begins=True)
    directory.resumable(0, b"digest", begins=False)
    assert directory.owner(b"digest") == 1
