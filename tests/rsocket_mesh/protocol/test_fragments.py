"""Fragmentation and reassembly: what leaves, what comes back, and what it may cost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsocket_mesh.errors import Canceled, Invalid, LocalProtocolError
from rsocket_mesh.protocol import frames
from rsocket_mesh.protocol.fragments import (
    DEFAULT_FRAGMENT_SIZE,
    MIN_FRAGMENT_SIZE,
    PIECE_OVERHEAD,
    Reassembly,
    ReassemblyBudget,
    payload_frames,
    request_frames,
)
from rsocket_mesh.protocol.frames import (
    FLAG_COMPLETE,
    FLAG_FOLLOWS,
    FLAG_METADATA,
    FLAG_NEXT,
    PAYLOAD,
    REQUEST_CHANNEL,
    REQUEST_FNF,
    REQUEST_RESPONSE,
    REQUEST_STREAM,
    peek,
)
from rsocket_mesh.protocol.payload import Payload

REQUESTS = (REQUEST_RESPONSE, REQUEST_FNF, REQUEST_STREAM, REQUEST_CHANNEL)
payloads = st.builds(
    Payload, st.binary(max_size=400), st.one_of(st.none(), st.binary(max_size=400))
)


def all_frames(encoded):
    return [encoded] if isinstance(encoded, bytes) else list(encoded)


def reassembled(pieces, budget=None):
    """What a receiver makes of fragments; the first may be a request."""
    message = Reassembly(budget or ReassemblyBudget())
    for frame in pieces:
        _, kind, flags = peek(frame)
        offset = 10 if kind in (REQUEST_STREAM, REQUEST_CHANNEL) else 6
        message.add(*frames.decode_tail(frame, offset, flags))
    return message.finish()


def test_what_fits_is_one_frame_like_any_other():
    payload = Payload(b"data", b"metadata")
    assert request_frames(REQUEST_RESPONSE, 1, payload, 64) == frames.encode_request(
        REQUEST_RESPONSE, 1, b"metadata", b"data"
    )
    assert request_frames(REQUEST_CHANNEL, 3, payload, 64, 7, complete=True) == (
        frames.encode_request(REQUEST_CHANNEL, 3, b"metadata", b"data", 7, complete=True)
    )
    assert payload_frames(5, Payload(b"x"), 64, complete=True) == frames.encode_payload(
        5, None, b"x", complete=True
    )


@given(kind=st.sampled_from(REQUESTS), payload=payloads, limit=st.integers(64, 200))
def test_any_request_comes_back_byte_for_byte(kind, payload, limit):
    """C-93: metadata and data of every request type, metadata only, data only, both empty."""
    n = 5 if kind in (REQUEST_STREAM, REQUEST_CHANNEL) else 0
    assert reassembled(all_frames(request_frames(kind, 1, payload, limit, n))) == payload


@given(payload=payloads, limit=st.integers(64, 200), complete=st.booleans())
def test_any_item_comes_back_byte_for_byte(payload, limit, complete):
    """C-93, for PAYLOAD."""
    assert reassembled(all_frames(payload_frames(2, payload, limit, complete))) == payload


@given(kind=st.sampled_from(REQUESTS), payload=payloads, limit=st.integers(64, 200))
def test_the_first_fragment_has_the_type_and_all_but_the_last_follow(kind, payload, limit):
    """C-91: first frame with F, then PAYLOADs with N, the last without F."""
    n = 5 if kind in (REQUEST_STREAM, REQUEST_CHANNEL) else 0
    pieces = [peek(frame) for frame in all_frames(request_frames(kind, 9, payload, limit, n))]
    assert pieces[0][1] == kind
    assert all(piece[1] == PAYLOAD and piece[2] & FLAG_NEXT for piece in pieces[1:])
    assert [bool(piece[2] & FLAG_FOLLOWS) for piece in pieces] == [True] * (len(pieces) - 1) + [
        False
    ]
    assert {piece[0] for piece in pieces} == {9}


@given(payload=payloads, limit=st.integers(64, 200))
def test_all_metadata_goes_before_all_data(payload, limit):
    """C-92: one fragment may hold the end of the one and the start of the other."""
    seen_data = False
    for frame in all_frames(payload_frames(1, payload, limit)):
        metadata, data = frames.decode_tail(frame, 6, peek(frame)[2])
        assert not (seen_data and metadata is not None)
        seen_data = seen_data or bool(data)
        assert metadata is not None or not peek(frame)[2] & FLAG_METADATA


@given(payload=payloads, limit=st.integers(64, 200))
def test_complete_is_on_the_last_fragment_only(payload, limit):
    """C-96, also for the closing PAYLOAD of a REQUEST_CHANNEL in fragments."""
    for encoded in (
        payload_frames(1, payload, limit, complete=True),
        request_frames(REQUEST_CHANNEL, 1, payload, limit, 1, complete=True),
    ):
        flags = [peek(frame)[2] for frame in all_frames(encoded)]
        assert [bool(f & FLAG_COMPLETE) for f in flags] == [False] * (len(flags) - 1) + [True]


@given(payload=payloads, limit=st.integers(64, 200))
def test_every_fragment_but_the_last_is_full(payload, limit):
    """C-104: at least 64 bytes, or rsocket-java refuses it."""
    sizes = [len(frame) for frame in all_frames(payload_frames(1, payload, limit))]
    assert all(size == limit >= MIN_FRAGMENT_SIZE for size in sizes[:-1])
    assert sizes[-1] <= limit


def test_smaller_fragments_are_accepted():
    """C-104, the receiving side."""
    message = Reassembly(ReassemblyBudget())
    for byte in b"tiny":
        message.add(None, bytes((byte,)))
    assert message.finish() == Payload(b"tiny")


def test_the_initial_request_n_is_in_the_first_fragment_only():
    pieces = all_frames(request_frames(REQUEST_STREAM, 1, Payload(b"x" * 200), 64, 77))
    assert frames.decode_request(pieces[0]).initial_n == 77
    assert sum(len(frame) - 6 for frame in pieces) == 200 + 4


def test_the_example_of_the_specification_comes_out_to_the_byte():
    """Metadata 80 bytes, data 30; java counts 64 with the prefix, so the cut is at 61."""
    payload = Payload(b"d" * 30, b"m" * 80)
    with pytest.raises(LocalProtocolError):
        request_frames(REQUEST_RESPONSE, 1, payload, 61)
    first, second = all_frames(request_frames(REQUEST_RESPONSE, 1, payload, 64))
    assert first == bytes.fromhex("00000001 1180 000037") + b"m" * 55
    assert second == bytes.fromhex("00000001 2920 000019") + b"m" * 25 + b"d" * 30


def test_64_mib_leave_in_frames_that_hold_up_the_others_for_64_kib():
    payload = Payload(bytes(64 << 20), b"route")
    pieces = all_frames(request_frames(REQUEST_RESPONSE, 1, payload, DEFAULT_FRAGMENT_SIZE))
    assert max(map(len, pieces)) == 65_536
    assert reassembled(pieces) == payload


@pytest.mark.parametrize("limit", [0, 10, 63, 1 << 24])
def test_a_limit_that_no_peer_takes_is_our_own_mistake(limit):
    with pytest.raises(LocalProtocolError, match="must be 64"):
        payload_frames(1, Payload(bytes(1 << 24)), limit)


def test_metadata_that_java_could_not_join_is_not_sent():
    with pytest.raises(LocalProtocolError, match="16777216 bytes"):
        payload_frames(1, Payload(b"", bytes(1 << 24)), 65_536)


@pytest.mark.parametrize("n", [0, -1, 1 << 31])
def test_a_request_needs_a_valid_initial_n(n):
    with pytest.raises(LocalProtocolError, match="initial request n"):
        request_frames(REQUEST_STREAM, 1, Payload(), 64, n)


# -- limits ---------------------------------------------------------------------------------------


def add_endlessly(message, data):
    for _ in range(1000):
        message.add(None, data)


def test_a_message_ends_at_its_limit():
    """C-99: an endless series of fragments."""
    budget = ReassemblyBudget(message_limit=1000)
    message = Reassembly(budget)
    with pytest.raises(Canceled, match="1000 bytes"):
        add_endlessly(message, b"x" * 36)
    assert budget.used == 10 * (36 + PIECE_OVERHEAD)
    message.drop()
    assert budget.used == 0


def test_fragments_without_content_are_not_free():
    message = Reassembly(ReassemblyBudget(message_limit=1000))
    with pytest.raises(Canceled):
        add_endlessly(message, b"")


def test_many_unfinished_messages_share_one_limit():
    """C-103."""
    budget = ReassemblyBudget(connection_limit=10 * (100 + PIECE_OVERHEAD))
    messages = [Reassembly(budget) for _ in range(11)]
    for message in messages[:10]:
        message.add(None, b"x" * 100)
    with pytest.raises(Canceled, match="connection"):
        messages[10].add(None, b"x")
    messages[0].drop()
    messages[0].drop()
    messages[10].add(None, b"x" * 100)


def test_a_finished_message_gives_its_bytes_back():
    budget = ReassemblyBudget()
    message = Reassembly(budget)
    message.add(b"m", b"")
    message.add(b"n", b"d")
    assert message.finish() == Payload(b"d", b"mn")
    assert budget.used == 0


@pytest.mark.parametrize("first", [(None, b""), (None, b"d"), (b"m", b"d")])
def test_metadata_behind_its_end_is_refused(first):
    """Section 8, row 8: java would misread it, js drop it."""
    message = Reassembly(ReassemblyBudget())
    message.add(*first)
    with pytest.raises(Invalid, match="metadata"):
        message.add(b"late", b"")


def test_empty_metadata_stays_different_from_none():
    """C-19, over fragments."""
    message = Reassembly(ReassemblyBudget())
    message.add(b"", b"")
    message.add(None, b"x")
    assert message.finish() == Payload(b"x", b"")
