"""The 24-bit length prefix: frames come out whole however the bytes are cut (C-01 to C-07)."""

from __future__ import annotations

import random
import tracemalloc
from itertools import cycle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsocket_mesh.errors import ErrorCode, LocalProtocolError, RemoteProtocolError
from rsocket_mesh.protocol.frames import HEADER, MAX_FRAME_SIZE
from rsocket_mesh.protocol.framing import (
    LARGE,
    PREFIX_SIZE,
    Backlog,
    check_size,
    cut,
    large_frame,
    prefix,
    prefix_lengths,
)

whole_frames = st.lists(st.binary(min_size=HEADER.size, max_size=40), max_size=6)


class Reader:
    """A receiver and its backlog, put together as a transport does it."""

    def __init__(self, limit: int = MAX_FRAME_SIZE) -> None:
        self.limit = limit
        self.backlog = Backlog(limit)
        self.frames: list[bytes] = []

    def read(self, data: bytes) -> None:
        batch = self.backlog.feed(data)
        if batch is None:
            return
        frames, used = cut(batch, self.limit)
        self.frames += frames
        if used < len(batch):
            self.backlog.keep(batch[used:])


def batch_of(*frames: bytes) -> bytes:
    return b"".join(prefix_lengths(frames))


def pieces_of(data: st.DataObject, wire: bytes) -> list[bytes]:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=8)))
    return [wire[a:b] for a, b in zip([0, *cuts], [*cuts, len(wire)], strict=True)]


def test_a_frame_is_preceded_by_its_length_which_does_not_count_itself():
    """C-01, C-09: u24, big-endian."""
    assert batch_of(b"\0\0\0\1\x24\0") == b"\0\0\6" + b"\0\0\0\1\x24\0"
    assert prefix(0x010203) == b"\1\2\3"


@given(frames=whole_frames, data=st.data())
def test_frames_come_out_whole_however_the_bytes_are_cut(frames, data):
    """C-03, C-04."""
    reader = Reader()
    for piece in pieces_of(data, batch_of(*frames)):
        reader.read(piece)
    assert reader.frames == frames
    assert len(reader.backlog) == 0


@given(frames=whole_frames)
def test_frames_come_out_whole_one_byte_at_a_time(frames):
    """C-03: cuts inside the prefix are cuts like any other."""
    reader = Reader()
    for byte in batch_of(*frames):
        reader.read(bytes((byte,)))
    assert reader.frames == frames


@given(frames=whole_frames, rest=st.binary(max_size=8))
def test_cut_uses_whole_frames_and_leaves_the_rest(frames, rest):
    """C-04."""
    unfinished = prefix(HEADER.size + len(rest)) + rest[:-1] if rest else b""
    batch = batch_of(*frames) + unfinished
    assert cut(batch) == (frames, len(batch) - len(unfinished))


def test_the_largest_frame_that_24_bits_can_say_passes_and_one_byte_more_cannot_be_written():
    """C-05."""
    largest = bytes(MAX_FRAME_SIZE)
    reader = Reader()
    for piece in (b"\xff\xff", b"\xff" + largest[:100], largest[100:]):
        reader.read(piece)
    assert reader.frames == [largest]
    with pytest.raises(LocalProtocolError, match="16777216 bytes exceeds 16777215"):
        prefix(MAX_FRAME_SIZE + 1)


def test_a_frame_of_exactly_the_configured_limit_passes():
    """C-05."""
    reader = Reader(limit=100)
    reader.read(batch_of(bytes(100)))
    assert reader.frames == [bytes(100)]


def test_a_length_over_the_configured_limit_is_refused_before_the_body_is_buffered():
    """C-06: as soon as the prefix is known, with the code that goes to the peer."""
    reader = Reader(limit=100)
    reader.read(b"\0\0")
    with pytest.raises(RemoteProtocolError, match="101 exceeds the limit of 100") as caught:
        reader.read(b"\x65" + bytes(50))
    assert caught.value.code == ErrorCode.CONNECTION_ERROR
    assert len(reader.backlog) == 0


@pytest.mark.parametrize("size", range(HEADER.size))
def test_a_length_too_short_for_a_header_is_refused(size):
    """C-07."""
    with pytest.raises(RemoteProtocolError, match=f"length {size}, the header alone needs 6"):
        cut(prefix(size) + bytes(20))
    with pytest.raises(RemoteProtocolError):
        check_size(size, MAX_FRAME_SIZE)


@pytest.mark.parametrize("bad", [b"\0\0\5", b"\0\0\x65"])
def test_frames_in_front_of_a_bad_length_are_not_lost(bad):
    """C-06, C-07: the bad frame is refused when it is its turn."""
    good = batch_of(b"\0\0\0\1\x24\0", b"\0\0\0\3\x24\0")
    frames, used = cut(good + bad + bytes(200), 100)
    assert (len(frames), used) == (2, len(good))
    with pytest.raises(RemoteProtocolError):
        Backlog(100).keep((good + bad)[used:])
    with pytest.raises(RemoteProtocolError):
        cut((good + bad)[used:], 100)


@given(st.binary(max_size=60), st.integers(HEADER.size, 64))
def test_no_bytes_raise_anything_but_the_protocol_error(wire, limit):
    reader = Reader(limit)
    try:
        reader.read(wire)
    except RemoteProtocolError:
        pass
    assert all(HEADER.size <= len(frame) <= limit for frame in reader.frames)


def test_a_frame_that_arrives_in_tiny_reads_costs_about_its_own_size():
    """Nobody can make the backlog hold many times what was sent, by sending it in small pieces."""
    size = 200_000
    backlog = Backlog()
    backlog.keep(prefix(size))
    piece = bytes(2)
    tracemalloc.start()
    try:
        for _ in range(size // 2 - 1):
            assert backlog.feed(bytes(bytearray(piece))) is None
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1.5 * size
    assert len(backlog.feed(piece)) == 3 + size


@settings(deadline=None)  # it moves megabytes
@given(
    st.integers(LARGE, 4 * LARGE),
    st.integers(PREFIX_SIZE, 200),
    st.lists(st.tuples(st.booleans(), st.integers(1, 2 * LARGE)), min_size=1, max_size=20),
)
def test_a_large_frame_is_whole_however_its_bytes_come(size, head, reads):
    wire = prefix(size) + random.Random(size).randbytes(size)
    frame = large_frame(wire[:head])
    assert frame is not None
    position = head
    for in_place, count in cycle(reads):
        if frame.is_complete:
            break
        assert frame.arrived == position
        if in_place:
            room = frame.room(count)
            room[:] = wire[position : position + len(room)]
            frame.filled(len(room))
            position += len(room)
        else:
            position += frame.feed(wire[position : position + count])
    assert frame.join() == b"".join((frame.head, *frame.tail())) == wire


def test_a_small_frame_is_no_large_one_and_nor_is_one_that_is_too_long_or_all_there():
    assert large_frame(prefix(LARGE - 1)) is None
    assert large_frame(prefix(LARGE)) is not None
    assert large_frame(prefix(LARGE)[:2]) is None
    assert large_frame(prefix(LARGE + 1), LARGE) is None
    assert large_frame(prefix(LARGE) + bytes(LARGE)) is None


def test_what_follows_a_large_frame_is_not_taken_for_a_part_of_it():
    frame = large_frame(prefix(LARGE) + bytes(LARGE - 1))
    assert frame is not None
    assert frame.feed(b"xyz") == 1
    assert frame.is_complete
    assert frame.feed(b"yz") == 0


def test_a_length_alone_makes_nobody_hold_more_than_twice_of_what_came():
    """C-06: a lie about the length costs as much as was sent, and a little."""
    frame = large_frame(prefix(MAX_FRAME_SIZE))
    assert frame is not None
    tracemalloc.start()
    try:
        while frame.arrived < 3_000_000:
            frame.filled(len(frame.room(10_000)))
            frame.room()
            held, _ = tracemalloc.get_traced_memory()
            assert held < 2 * frame.arrived + 16 * 1024
    finally:
        tracemalloc.stop()
