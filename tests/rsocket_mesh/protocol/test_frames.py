"""Every frame type, byte for byte, written and read."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsocket_mesh.errors import RemoteProtocolError
from rsocket_mesh.protocol import frames as f
from rsocket_mesh.protocol.frames import Error, KeepAlive, Request
from tests.support.frame_codec import (
    DECODE,
    bodies,
    decode,
    encode,
    positive,
    some_bytes,
    stream_ids,
    u63,
)
from tests.support.frame_vectors import PLAIN, WELL_FORMED, raw

# -- vectors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "body"), WELL_FORMED, ids=lambda value: str(value)[:40])
def test_a_frame_is_written_and_read_byte_for_byte(text, body):
    """C-09, C-17, C-18, C-19, C-20, C-24, C-25, C-43, C-50, C-82, C-97."""
    assert encode(body).hex() == raw(text).hex()
    assert decode(raw(text)) == body


@pytest.mark.parametrize(("text", "kind", "value"), PLAIN)
def test_a_frame_with_one_plain_value_is_written_and_read_byte_for_byte(text, kind, value):
    """C-09, C-20."""
    frame = raw(text)
    stream_id, found, flags = f.peek(frame)
    assert found == kind
    written = {
        f.REQUEST_N: lambda: f.encode_request_n(stream_id, value),
        f.RESUME_OK: lambda: f.encode_resume_ok(value),
        f.METADATA_PUSH: lambda: f.encode_metadata_push(value),
        f.CANCEL: lambda: f.encode_cancel(stream_id),
    }[kind]()
    assert written == frame
    assert flags == (f.FLAG_METADATA if kind == f.METADATA_PUSH else 0)
    if kind != f.CANCEL:
        assert DECODE[kind](frame) == value


@pytest.mark.parametrize("kind", sorted(f.MIN_SIZE))
def test_the_type_table_is_that_of_the_specification(kind):
    names = "SETUP LEASE KEEPALIVE REQUEST_RESPONSE REQUEST_FNF REQUEST_STREAM REQUEST_CHANNEL"
    names += " REQUEST_N CANCEL PAYLOAD ERROR METADATA_PUSH RESUME RESUME_OK"
    expected = dict(enumerate(names.split(), start=1)) | {0x3F: "EXT"}
    assert f.TYPE_NAMES[kind] == expected[kind]
    assert getattr(f, expected[kind]) == kind
    assert set(f.MIN_SIZE) == set(expected)


# -- header ---------------------------------------------------------------------------------------


@given(st.integers(0, f.MAX_STREAM_ID), st.integers(0, 0x3F), st.integers(0, 0x3FF))
def test_peek_reads_stream_id_type_and_flags(stream_id, kind, flags):
    """C-09, C-12, C-15: also of types that nobody knows; what to do then the connection decides."""
    frame = struct.pack(">IH", stream_id, kind << 10 | flags) + b"body"
    assert f.peek(frame) == (stream_id, kind, flags)


@given(st.binary(max_size=5))
def test_a_frame_too_short_for_a_header_is_refused(frame):
    """C-07."""
    with pytest.raises(RemoteProtocolError, match=f"frame of {len(frame)} bytes"):
        f.peek(frame)


def test_the_reserved_bit_is_never_masked_away():
    """C-10."""
    with pytest.raises(RemoteProtocolError, match="reserved bit set in stream id 0x80000001"):
        f.peek(raw("80000001 2820 64"))


@given(st.binary(min_size=6, max_size=40), st.integers(0, f.MAX_STREAM_ID))
def test_restamping_changes_the_stream_id_and_nothing_else(frame, stream_id):
    stamped = f.restamp(frame, stream_id)
    assert f.peek(stamped)[0] == stream_id
    assert stamped[4:] == frame[4:]


@given(st.binary(max_size=40))
def test_any_bytes_can_be_described(frame):
    assert str(len(frame)) in f.describe(frame)


def test_a_description_names_type_stream_flags_and_size():
    assert f.describe(raw("00000007 2860 64")) == "PAYLOAD(stream 7, flags 0x060, 7 bytes)"
    assert f.describe(raw("00000000 3c00")) == "type 0x0f(stream 0, flags 0x000, 6 bytes)"


@pytest.mark.parametrize(("text", "body"), WELL_FORMED, ids=lambda value: str(value)[:40])
def test_undefined_flag_bits_do_not_influence_decoding(text, body):
    """C-11: the five low bits have no meaning in any type."""
    frame = bytearray(raw(text))
    frame[5] |= 0x1F
    assert decode(bytes(frame)) == body


@pytest.mark.parametrize(
    ("text", "flag", "same"),
    [
        ("00000001 1000 6869", f.FLAG_COMPLETE, Request(f.REQUEST_RESPONSE, 1, None, b"hi")),
        ("00000001 1800 00000001 64", f.FLAG_COMPLETE, Request(f.REQUEST_STREAM, 1, None, b"d", 1)),
        ("00000001 1c00 00000001 64", f.FLAG_NEXT, Request(f.REQUEST_CHANNEL, 1, None, b"d", 1)),
        ("00000001 2000 00000005", f.FLAG_METADATA, 5),
        ("00000001 2c00 00000201 64", f.FLAG_METADATA, Error(1, 0x201, "d")),
        ("00000000 0c80 0000000000000000 64", f.FLAG_METADATA, KeepAlive(True, 0, b"d")),
    ],
)
def test_a_flag_of_another_type_is_not_interpreted(text, flag, same):
    """C-11."""
    frame = bytearray(raw(text))
    frame[4] |= flag >> 8
    frame[5] |= flag & 0xFF
    assert decode(bytes(frame)) == same


# -- round trips ----------------------------------------------------------------------------------


@given(bodies)
def test_what_is_written_is_read_again(body):
    """C-17, C-18, C-19: absent and empty metadata stay apart."""
    frame = encode(body)
    assert decode(frame) == body
    assert len(frame) >= f.MIN_SIZE[f.peek(frame)[1]]


@given(stream_ids, positive)
def test_request_n_is_read_again(stream_id, n):
    frame = f.encode_request_n(stream_id, n)
    assert (f.peek(frame), f.decode_request_n(frame)) == ((stream_id, f.REQUEST_N, 0), n)


@given(u63)
def test_resume_ok_is_read_again(position):
    assert f.decode_resume_ok(f.encode_resume_ok(position)) == position


@given(some_bytes)
def test_metadata_push_is_read_again(metadata):
    assert f.decode_metadata_push(f.encode_metadata_push(metadata)) == metadata
