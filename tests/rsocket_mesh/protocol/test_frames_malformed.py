"""What peers must not send and we must not write: each raises the documented exception."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsocket_mesh.errors import MAX_ERROR_TEXT, ErrorCode, LocalProtocolError, RemoteProtocolError
from rsocket_mesh.protocol import frames as f
from rsocket_mesh.protocol.frames import Error, Ext, Lease, Resume
from tests.support.frame_codec import (
    DECODE,
    bodies,
    decode,
    encode,
)
from tests.support.frame_vectors import SETUP_ALL, raw

# -- malformed frames -----------------------------------------------------------------------------


def refusal_of(kind: int, frame: bytes) -> RemoteProtocolError | None:
    """Decode *frame*; return the documented exception, let any other pass."""
    try:
        DECODE[kind](frame)
    except RemoteProtocolError as error:
        return error
    return None


@given(bodies, st.data())
def test_a_frame_that_is_cut_is_decoded_or_refused_and_nothing_else(body, data):
    """C-16, C-21, C-22, C-35."""
    frame = encode(body)
    cut = frame[: data.draw(st.integers(6, len(frame)))]
    kind = f.peek(cut)[1]
    if refusal := refusal_of(kind, cut):
        setup = kind == f.SETUP
        assert refusal.code == (ErrorCode.INVALID_SETUP if setup else ErrorCode.CONNECTION_ERROR)
    else:
        assert len(cut) >= f.MIN_SIZE[kind]


@given(st.sampled_from(sorted(DECODE)), st.binary(max_size=60), st.integers(0, 0x3FF))
def test_no_bytes_raise_anything_but_the_protocol_error(kind, body, flags):
    """C-16: whatever a peer sends."""
    refusal_of(kind, struct.pack(">IH", 1, kind << 10 | flags) + body)


@pytest.mark.parametrize("kind", sorted(DECODE))
def test_a_body_shorter_than_the_minimum_of_its_type_is_refused(kind):
    """C-16."""
    for size in range(f.MIN_SIZE[kind]):
        frame = (struct.pack(">IH", 1, kind << 10) + bytes(30))[:size]
        with pytest.raises(RemoteProtocolError):
            DECODE[kind](frame)


@pytest.mark.parametrize("kind", [f.REQUEST_N, f.RESUME, f.RESUME_OK])
def test_bytes_behind_a_body_of_fixed_size_are_ignored(kind):
    frame = {
        f.REQUEST_N: f.encode_request_n(1, 5),
        f.RESUME: f.encode_resume(Resume(b"t", 1, 2)),
        f.RESUME_OK: f.encode_resume_ok(7),
    }[kind]
    assert DECODE[kind](frame + b"more") == DECODE[kind](frame)


@pytest.mark.parametrize(
    "text",
    [
        "00000001 1100 000064 6162",  # 100 bytes announced, 2 left
        "00000001 1300 000064 6162",  # the same in a frame that may be ignored (C-23)
        "00000001 2920 000064 6162",
        "00000001 1900 00000001 000003 6162",
    ],
)
def test_a_metadata_length_beyond_the_frame_is_refused(text):
    """C-21; whether the frame is dropped instead (C-23) the connection decides."""
    with pytest.raises(RemoteProtocolError, match="metadata of"):
        decode(raw(text))


@pytest.mark.parametrize("left", ["", "00", "0000"])
@pytest.mark.parametrize("head", ["00000001 1100", "00000001 2920", "00000001 1900 00000001"])
def test_metadata_announced_with_no_room_for_its_length_is_refused(head, left):
    """C-22."""
    with pytest.raises(RemoteProtocolError, match="metadata of 0 bytes announced, 0 left"):
        decode(raw(head + left))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("00000000 0400 00010000 00000000 00015f90 03612f62 03632f64", "must be > 0"),
        ("00000000 0400 00010000 00004e20 00000000 03612f62 03632f64", "must be > 0"),
        ("00000000 0400 00010000 80004e20 00015f90 03612f62 03632f64", "top bit of keepalive"),
        ("00000000 0400 00010000 00004e20 80015f90 03612f62 03632f64", "top bit of max lifetime"),
        ("00000000 0400 00010000 00004e20 00015f90 03612f62 04632f64", "data MIME type of 4"),
        ("00000000 0400 00010000 00004e20 00015f90 ff612f62 03632f64", "metadata MIME type of 255"),
        ("00000000 0480 00010000 00004e20 00015f90 ffff0102 03612f62", "resume token of 65535"),
        ("00000000 0400 00010000 00004e20 00015f90", "shorter than 20"),
        ("00000000 0500 00010000 00004e20 00015f90 00 00 000001", "metadata of 1"),
        ("80000000 0400 00010000 00004e20 00015f90 03612f62 03632f64", "reserved bit"),
    ],
)
def test_a_faulty_setup_is_refused_as_an_invalid_setup(text, said):
    """C-33, C-35, and C-10, C-16, C-21 in a SETUP."""
    with pytest.raises(RemoteProtocolError, match=said) as caught:
        f.decode_setup(raw(text))
    assert caught.value.code == ErrorCode.INVALID_SETUP


def test_the_version_and_the_stream_of_a_setup_are_left_to_the_connection():
    """C-28, C-34."""
    setup = f.decode_setup(raw("00000000 0400 00020000 00004e20 00015f90 03612f62 03632f64"))
    assert (setup.major, setup.minor) == (2, 0)
    on_a_stream = raw("00000001 0400 00010000 00004e20 00015f90 03612f62 03632f64")
    assert f.peek(on_a_stream)[0] == 1
    assert f.decode_setup(on_a_stream).keepalive_ms == 20_000


@pytest.mark.parametrize("n", [0, 0x8000_0000, 0xFFFF_FFFF])
def test_a_bad_request_n_is_returned_as_it_stands_for_the_stream_to_judge(n):
    """C-75, C-76."""
    bits = n.to_bytes(4, "big")
    assert f.decode_request(raw("00000001 1800") + bits).initial_n == n
    assert f.decode_request(raw("00000001 1c00") + bits).initial_n == n
    assert f.decode_request_n(raw("00000001 2000") + bits) == n


def test_a_payload_with_neither_next_nor_complete_is_left_to_the_stream():
    """C-88."""
    payload = f.decode_payload(raw("00000001 2800 64"))
    assert (payload.next, payload.complete) == (False, False)


def test_an_error_text_that_is_no_utf_8_does_not_raise():
    """C-47."""
    assert (
        f.decode_error(raw("00000001 2c00 00000201 61ff62")).text == "a\N{REPLACEMENT CHARACTER}b"
    )


@pytest.mark.parametrize(
    "text",
    [
        "00000000 0c80 8000000000000000",
        "00000000 0800 80007530 0000000a",
        "00000000 0800 00007530 8000000a",
        "00000000 3800 8000000000000032",
        "00000000 3400 00010000 0000 8000000000000064 0000000000000032",
        "00000000 3400 00010000 0000 0000000000000064 8000000000000032",
        "00000001 fe00 80000001 64",
    ],
)
def test_a_top_bit_that_must_be_zero_is_refused(text):
    with pytest.raises(RemoteProtocolError, match="top bit of"):
        decode(raw(text))


def test_a_resume_token_must_leave_room_for_both_positions():
    """C-35."""
    frame = f.encode_resume(Resume(b"token", 100, 50))
    with pytest.raises(RemoteProtocolError, match="15 of 16 position bytes"):
        f.decode_resume(frame[:-1])


# -- what we refuse to write ----------------------------------------------------------------------


def test_a_frame_of_the_maximum_size_can_be_written_and_one_byte_more_cannot():
    """C-05: it fails before anything is written."""
    room = f.MAX_FRAME_SIZE - 6 - 3
    frame = f.encode_request(f.REQUEST_RESPONSE, 1, b"", bytes(room))
    assert len(frame) == f.MAX_FRAME_SIZE
    assert len(f.decode_request(frame).data) == room
    with pytest.raises(LocalProtocolError, match="send it in fragments"):
        f.encode_request(f.REQUEST_RESPONSE, 1, b"", bytes(room + 1))
    with pytest.raises(LocalProtocolError, match="send it in fragments"):
        f.encode_payload(1, None, bytes(f.MAX_FRAME_SIZE - 5))
    with pytest.raises(LocalProtocolError, match="metadata of 16777216 bytes"):
        f.encode_payload(1, bytes(f.MAX_FRAME_SIZE + 1), b"")
    with pytest.raises(LocalProtocolError, match="exceeds"):
        f.encode_keepalive(True, 0, bytes(f.MAX_FRAME_SIZE - 13))
    with pytest.raises(LocalProtocolError, match="exceeds"):
        f.encode_metadata_push(bytes(f.MAX_FRAME_SIZE - 5))


@pytest.mark.parametrize(
    "write",
    [
        lambda: f.encode_request(f.REQUEST_STREAM, 1, None, b""),
        lambda: f.encode_request(f.REQUEST_STREAM, 1, None, b"", 0),
        lambda: f.encode_request(f.REQUEST_CHANNEL, 1, None, b"", f.MAX_REQUEST_N + 1),
        lambda: f.encode_request(f.REQUEST_RESPONSE, 1, None, b"", 1),
        lambda: f.encode_request(f.REQUEST_RESPONSE, 0, None, b""),
        lambda: f.encode_request(f.REQUEST_FNF, f.MAX_STREAM_ID + 1, None, b""),
        lambda: f.encode_request(f.REQUEST_STREAM, 1, None, b"", 1, complete=True),
        lambda: f.encode_request_n(1, 0),
        lambda: f.encode_request_n(1, f.MAX_REQUEST_N + 1),
        lambda: f.encode_payload(1, None, b"", next=False),
        lambda: f.encode_payload(1, None, b"", next=False, follows=True),
        lambda: f.encode_keepalive(True, -1),
        lambda: f.encode_lease(Lease(-1, 1)),
        lambda: f.encode_lease(Lease(1, f.MAX_U31 + 1)),
        lambda: f.encode_resume_ok(f.MAX_U63 + 1),
        lambda: f.encode_resume(Resume(bytes(0x10000), 0, 0)),
        lambda: f.encode_ext(Ext(1, 0, None, b"")),
        lambda: f.encode_setup(SETUP_ALL._replace(keepalive_ms=0)),
        lambda: f.encode_setup(SETUP_ALL._replace(lifetime_ms=f.MAX_U31 + 1)),
        lambda: f.encode_setup(SETUP_ALL._replace(data_mime="a" * 128)),
        lambda: f.encode_setup(SETUP_ALL._replace(metadata_mime="text/\N{GREEK SMALL LETTER PI}")),
        lambda: f.encode_setup(SETUP_ALL._replace(resume_token=bytes(0x10000))),
    ],
)
def test_what_the_specification_forbids_is_not_written(write):
    """C-11, C-75, C-76, C-88."""
    with pytest.raises(LocalProtocolError):
        write()


@pytest.mark.parametrize("length", [0, 1, 127])
def test_mime_types_of_a_setup_have_up_to_127_bytes(length):
    """Java and rsocket-py read the length as a signed byte."""
    setup = SETUP_ALL._replace(metadata_mime="m" * length, data_mime="d" * length)
    assert f.decode_setup(f.encode_setup(setup)) == setup


def test_a_received_mime_type_may_have_255_bytes():
    """C-43: what a peer may write is read."""
    frame = raw("00000000 0400 00010000 00000001 00000001") + b"\xff" + b"m" * 255 + b"\0"
    assert f.decode_setup(frame).metadata_mime == "m" * 255


@pytest.mark.parametrize("code", [1, 2, 3, 4, 0x101, 0x102])
def test_codes_of_the_connection_go_with_stream_0_only(code):
    """C-44."""
    assert f.decode_error(f.encode_error(0, code, "x")) == Error(0, code, "x")
    with pytest.raises(LocalProtocolError, match="does not go with stream 1"):
        f.encode_error(1, code, "x")


@pytest.mark.parametrize("code", [0x201, 0x202, 0x203, 0x204, 0x301, 0xFFFF_FFFE])
def test_codes_of_a_stream_go_with_a_stream_only(code):
    """C-44."""
    assert f.decode_error(f.encode_error(1, code, "x")) == Error(1, code, "x")
    with pytest.raises(LocalProtocolError, match="does not go with stream 0"):
        f.encode_error(0, code, "x")


@given(st.text(min_size=MAX_ERROR_TEXT // 4, max_size=MAX_ERROR_TEXT + 10))
def test_an_error_text_is_cut_between_characters(text):
    """C-47: what is sent is UTF-8, and for people."""
    sent = f.encode_error(1, ErrorCode.INVALID, text)[10:]
    assert len(sent) <= MAX_ERROR_TEXT
    assert text.encode("utf-8", "replace").decode().startswith(sent.decode())


def test_an_error_text_of_exactly_the_limit_is_sent_whole():
    assert len(f.encode_error(1, ErrorCode.INVALID, "x" * MAX_ERROR_TEXT)) == 10 + MAX_ERROR_TEXT
    cut = f.encode_error(1, ErrorCode.INVALID, "x" * (MAX_ERROR_TEXT - 1) + "\u20ac")
    assert len(cut) == 10 + MAX_ERROR_TEXT - 1


def test_a_lone_surrogate_in_an_error_text_is_replaced():
    """C-47."""
    assert f.encode_error(1, ErrorCode.INVALID, "a\ud800b")[10:] == b"a?b"
