"""Which id the next stream gets, to the end of the ids and beyond."""

import pytest

from rsocket_mesh.errors import LocalProtocolError
from rsocket_mesh.protocol.stream_ids import StreamIds


def test_clients_use_odd_ids_and_servers_even_ones():
    """C-57."""
    client, server = StreamIds(1), StreamIds(2)
    assert [client.allocate(()) for _ in range(3)] == [1, 3, 5]
    assert [server.allocate(()) for _ in range(3)] == [2, 4, 6]


def test_ids_are_not_used_again_before_they_are_exhausted():
    """C-65."""
    ids = StreamIds(1, last=9)
    assert [ids.allocate(()) for _ in range(5)] == [1, 3, 5, 7, 9]
    assert ids.allocate(()) == 1


def test_ids_wrap_and_skip_those_in_use():
    """C-62."""
    ids = StreamIds(2, last=9)
    assert [ids.allocate(()) for _ in range(4)] == [2, 4, 6, 8]
    assert ids.allocate({2, 4, 8}) == 6
    assert ids.allocate({2, 6, 8}) == 4


def test_with_all_ids_in_use_a_request_fails_here():
    """C-64."""
    ids = StreamIds(1, last=5)
    for _ in range(3):
        ids.allocate(())
    with pytest.raises(LocalProtocolError, match="in use"):
        ids.allocate({1, 3, 5})
    assert ids.allocate({1, 5}) == 3
