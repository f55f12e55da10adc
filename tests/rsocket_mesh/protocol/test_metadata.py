"""Metadata formats, byte for byte; what is malformed raises `Invalid` and nothing else (C-126 to
C-135)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsocket_mesh.errors import Invalid, LocalProtocolError
from rsocket_mesh.protocol import metadata as m
from rsocket_mesh.protocol.metadata import (
    BearerCredentials,
    Entry,
    OtherCredentials,
    SimpleCredentials,
    TraceContext,
)

ROUTING_ENTRY = "fe 000004 03612e62"
CUSTOM_ENTRY = "02612f62 000001 78"


def raw(text: str) -> bytes:
    return bytes.fromhex(text)


# -- MIME fields ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mime", "text"),
    [
        ("a/b", "02 612f62"),
        ("application/json", "85"),
        ("text/plain", "a1"),
        (m.ROUTING, "fe"),
        (0x55, "d5"),
        ("application/x-capnp", "12" + b"application/x-capnp".hex()),
        ("application/x-flatbuffers", "18" + b"application/x-flatbuffers".hex()),
    ],
)
def test_a_mime_field_is_written_and_read_byte_for_byte(mime, text):
    """C-127: length - 1 for text; ids that other implementations do not know go as text."""
    assert m.encode_mime(mime) == raw(text)
    assert m.decode_mime(raw(text)) == mime


def test_well_known_types_are_those_of_the_specification():
    """C-129."""
    assert len(m.WELL_KNOWN_MIME_TYPES) == 0x2B + 6
    assert m.WELL_KNOWN_MIME_TYPES[0x00] == "application/avro"
    assert m.WELL_KNOWN_MIME_TYPES[0x0F] == "audio/mpeg3"
    assert m.WELL_KNOWN_MIME_TYPES[0x1E] == "text/css"
    assert m.WELL_KNOWN_MIME_TYPES[0x2A] == "application/x-flatbuffers"
    assert m.WELL_KNOWN_MIME_TYPES[0x7A] == m.DATA_MIME_TYPE
    assert m.WELL_KNOWN_MIME_TYPES[0x7F] == m.COMPOSITE


@pytest.mark.parametrize(("number", "name"), m.WELL_KNOWN_MIME_TYPES.items())
def test_a_well_known_type_is_recognised_by_id_and_by_text(number, name):
    """C-129."""
    assert m.decode_mime(bytes((0x80 | number,))) == name
    assert m.decode_mime(bytes((len(name) - 1,)) + name.encode()) == name


@pytest.mark.parametrize("length", [1, 128])
def test_a_text_type_of_1_and_of_128_characters_works(length):
    """C-127."""
    assert m.decode_mime(m.encode_mime("x" * length)) == "x" * length


@pytest.mark.parametrize("mime", ["", "x" * 129, "text/\N{GREEK SMALL LETTER PI}", -1, 0x80, 0x100])
def test_a_type_that_has_no_form_on_the_wire_is_not_written(mime):
    """C-127."""
    with pytest.raises(LocalProtocolError, match="MIME type"):
        m.encode_mime(mime)


def test_an_accept_list_has_one_field_behind_the_other():
    entry = raw("fb 000006 85 a1 02612f62")
    accepted = ["application/json", "text/plain", "a/b"]
    assert m.encode_entry(m.ACCEPT_MIME_TYPES, m.encode_mimes(accepted)) == entry
    assert m.decode_mimes(entry[4:]) == accepted
    assert m.decode_mimes(b"") == []


def test_the_data_type_of_a_stream_is_exactly_one_field():
    """C-131, the part of the codec."""
    assert m.encode_entry(m.DATA_MIME_TYPE, m.encode_mime(m.JSON)) == raw("fa 000001 85")
    with pytest.raises(Invalid, match="1 bytes too many"):
        m.decode_mime(raw("85 a1"))
    with pytest.raises(Invalid, match="ends at byte 0"):
        m.decode_mime(b"")


# -- composite metadata ---------------------------------------------------------------------------

mimes = st.sampled_from(sorted(m.WELL_KNOWN_MIME_TYPES.values())) | st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=128
)
unknown_ids = st.integers(0x2B, 0x79)
entries = st.lists(st.builds(Entry, mimes | unknown_ids, st.binary(max_size=30)), max_size=5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ROUTING_ENTRY, [Entry(m.ROUTING, raw("03612e62"))]),
        (CUSTOM_ENTRY, [Entry("a/b", b"x")]),
        (ROUTING_ENTRY + CUSTOM_ENTRY, [Entry(m.ROUTING, raw("03612e62")), Entry("a/b", b"x")]),
        ("", []),
    ],
)
def test_composite_metadata_is_written_and_read_byte_for_byte(text, expected):
    """C-126."""
    assert m.encode_composite(expected) == raw(text)
    assert m.decode_composite(raw(text)) == expected


@given(entries)
def test_entries_come_back_in_their_order_with_unknown_types_preserved(expected):
    """C-126: also the same type more than once."""
    assert m.decode_composite(m.encode_composite(expected)) == expected


@given(entries.filter(bool), st.data())
def test_a_truncated_entry_is_an_error_of_the_request_behind_the_entries_before_it(expected, data):
    """C-128."""
    sizes = [len(m.encode_entry(*entry)) for entry in expected]
    whole = m.encode_composite(expected)
    ends = [sum(sizes[:count]) for count in range(len(sizes) + 1)]
    size = data.draw(st.integers(0, len(whole)))
    found = []
    iterator = m.iterate_composite(whole[:size])
    if size in ends:
        found = list(iterator)
    else:
        with pytest.raises(Invalid):
            found.extend(iterator)
    assert found == expected[: sum(end <= size for end in ends) - 1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("02 612f", "MIME type of 3 bytes at byte 0, 2 left"),
        ("7f 61", "MIME type of 128 bytes at byte 0, 1 left"),
        ("fe 0000", "of 0 bytes announced, 0 left"),
        ("fe", "of 0 bytes announced, 0 left"),
        ("fe 000004 03612e", "of 4 bytes announced, 3 left"),
    ],
)
def test_a_malformed_entry_is_named_with_its_numbers(text, said):
    """C-128."""
    with pytest.raises(Invalid, match=said):
        m.decode_composite(raw(text))


@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_but_invalid(data):
    """C-128, C-134: whatever a peer sends, in any of the formats."""
    for decode in (
        m.decode_composite,
        m.decode_routing,
        m.decode_mimes,
        m.decode_mime,
        m.decode_authentication,
        m.decode_tracing,
        m.decode_deadline,
        lambda raw: m.find_entry(raw, m.ROUTING),
    ):
        try:
            decode(data)
        except Invalid:
            pass


def test_find_entry_returns_the_first_of_its_type_and_does_not_look_further():
    composite = m.encode_composite([("a/b", b"1"), (m.ROUTING, b"2"), (m.ROUTING, b"3")])
    assert m.find_entry(composite, m.ROUTING) == b"2"
    assert m.find_entry(composite + b"\xff", m.ROUTING) == b"2"
    assert m.find_entry(composite, m.TRACING) is None


def test_an_entry_longer_than_24_bits_can_say_is_not_written():
    assert len(m.encode_entry("a/b", bytes(0xFF_FFFF))) == 4 + 3 + 0xFF_FFFF
    with pytest.raises(LocalProtocolError, match="16777216 bytes exceeds 16777215"):
        m.encode_entry("a/b", bytes(0x100_0000))


# -- routing --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("03612e62", ["a.b"]),
        ("03612e62 03696f73", ["a.b", "ios"]),
        ("", []),
        ("00 0161", ["", "a"]),
    ],
)
def test_routing_tags_are_written_and_read_byte_for_byte(text, tags):
    """C-130: empty tags are legal."""
    assert m.encode_routing(tags) == raw(text)
    assert m.decode_routing(raw(text)) == tags


@pytest.mark.parametrize("tag", ["", "x" * 255, "\u20ac" * 85])
def test_tags_of_0_and_of_255_bytes_round_trip(tag):
    """C-130: bytes of UTF-8 count, not characters."""
    assert m.decode_routing(m.encode_routing([tag, tag])) == [tag, tag]


@pytest.mark.parametrize("tag", ["x" * 256, "\u20ac" * 86])
def test_a_tag_over_255_bytes_is_not_written(tag):
    """C-130."""
    with pytest.raises(LocalProtocolError, match="exceeds 255"):
        m.encode_routing([tag])


@given(st.lists(st.text(max_size=40), max_size=6))
def test_any_tags_round_trip(tags):
    """C-130."""
    assert m.decode_routing(m.encode_routing(tags)) == tags


def test_a_tag_length_past_the_end_is_an_error():
    """C-130."""
    with pytest.raises(Invalid, match="routing tag of 3 bytes announced, 2 left"):
        m.decode_routing(raw("0161 03612e"))


def test_a_tag_that_is_no_utf_8_is_an_error_that_says_which():
    with pytest.raises(Invalid, match="routing tag 2 is not UTF-8"):
        m.decode_routing(raw("0161 01ff"))


# -- authentication -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "credentials"),
    [
        ("80 0001 75 70", SimpleCredentials("u", "p")),
        ("80 0000", SimpleCredentials("", "")),
        ("80 0000 70", SimpleCredentials("", "p")),
        ("80 0001 75", SimpleCredentials("u", "")),
        ("81 74", BearerCredentials("t")),
        ("81", BearerCredentials("")),
        ("02 6a7774 78", OtherCredentials("jwt", b"x")),
        ("82 78", OtherCredentials(2, b"x")),
        ("ff", OtherCredentials(0x7F, b"")),
    ],
)
def test_credentials_are_written_and_read_byte_for_byte(text, credentials):
    """C-133: a 16-bit user name length; empty names and passwords decode."""
    assert m.encode_authentication(credentials) == raw(text)
    assert m.decode_authentication(raw(text)) == credentials


def test_credentials_are_an_entry_of_their_own():
    simple = m.encode_authentication(SimpleCredentials("u", "p"))
    assert m.encode_entry(m.AUTHENTICATION, simple) == raw("fc 000005 80 0001 75 70")
    bearer = m.encode_authentication(BearerCredentials("t"))
    assert m.encode_entry(m.AUTHENTICATION, bearer) == raw("fc 000002 81 74")


@given(st.text(max_size=400), st.text(max_size=40))
def test_any_name_and_password_round_trip(username, password):
    """C-133."""
    credentials = SimpleCredentials(username, password)
    assert m.decode_authentication(m.encode_authentication(credentials)) == credentials


@pytest.mark.parametrize("length", [0xFFFF, 0x1_0000])
def test_a_user_name_has_at_most_65535_bytes(length):
    """C-133."""
    credentials = SimpleCredentials("u" * length, "p")
    if length <= 0xFFFF:
        assert m.decode_authentication(m.encode_authentication(credentials)) == credentials
    else:
        with pytest.raises(LocalProtocolError, match="65536 bytes exceeds 65535"):
            m.encode_authentication(credentials)


@pytest.mark.parametrize("kind", ["", "x" * 129, "\u20ac", -1, 0x80])
def test_a_type_of_authentication_that_has_no_form_on_the_wire_is_not_written(kind):
    with pytest.raises(LocalProtocolError, match="authentication type"):
        m.encode_authentication(OtherCredentials(kind, b""))


@pytest.mark.parametrize(
    "text", ["", "80", "80 00", "80 0002 75", "02 6a77", "81 ff", "80 0001 ff"]
)
def test_credentials_that_run_past_the_end_are_rejected(text):
    """C-134."""
    with pytest.raises(Invalid):
        m.decode_authentication(raw(text))


@pytest.mark.parametrize(
    "credentials",
    [
        SimpleCredentials("u", "hunter2"),
        BearerCredentials("hunter2"),
        OtherCredentials("jwt", b"hunter2"),
    ],
)
def test_a_secret_does_not_show_in_what_gets_logged(credentials):
    assert "hunter2" not in repr(credentials)
    assert "hunter2" not in f"{credentials!s}"


@given(st.binary(max_size=20).map(b"hunter2".__add__))
def test_a_secret_does_not_show_in_an_error(secret):
    """C-134."""
    for wire in (b"\x81\xff" + secret, b"\x80\xff\xff" + secret, b"\x80\x00\x01\xff" + secret):
        with pytest.raises(Invalid) as caught:
            m.decode_authentication(wire)
        assert "hunter2" not in str(caught.value)
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


# -- tracing --------------------------------------------------------------------------------------

TRACE_64, TRACE_128 = "463ac35c9f6413ad", "463ac35c9f6413ad48485a3953bb6124"
SPAN, PARENT = "0020000000000001", "0500000000000000"


@pytest.mark.parametrize(
    ("text", "trace"),
    [
        ("10", TraceContext(sampled=False)),
        ("20", TraceContext(sampled=True)),
        ("00", TraceContext()),
        (
            "a4" + TRACE_64 + SPAN + PARENT,
            TraceContext(raw(TRACE_64), raw(SPAN), raw(PARENT), sampled=True),
        ),
        ("a8" + TRACE_128 + SPAN, TraceContext(raw(TRACE_128), raw(SPAN), sampled=True)),
        (
            "cc" + TRACE_128 + SPAN + PARENT,
            TraceContext(raw(TRACE_128), raw(SPAN), raw(PARENT), sampled=True, debug=True),
        ),
        ("80" + TRACE_64 + SPAN, TraceContext(raw(TRACE_64), raw(SPAN))),
        ("40", TraceContext(sampled=True, debug=True)),
    ],
)
def test_a_trace_context_is_written_and_read_byte_for_byte(text, trace):
    """C-135: entries of 1, 17, 25 and 33 bytes; debug means sampled."""
    assert m.encode_tracing(trace) == raw(text)
    assert m.decode_tracing(raw(text)) == trace
    assert len(raw(text)) in (1, 17, 25, 33)


@pytest.mark.parametrize("text", ["a4" + TRACE_64 + SPAN + PARENT, "a8" + TRACE_128 + SPAN])
def test_an_entry_too_short_for_its_flags_is_ignored(text):
    """C-135."""
    for size in range(1, len(raw(text))):
        assert m.decode_tracing(raw(text)[:size]) is None
    assert m.decode_tracing(b"") is None


def test_bits_that_lose_against_others_are_ignored():
    """C-135: S is ignored if D, N if D or S; the low bits are reserved."""
    assert m.decode_tracing(raw("73")) == TraceContext(sampled=True, debug=True)
    assert m.decode_tracing(raw("30")) == TraceContext(sampled=True)


@pytest.mark.parametrize(
    "trace",
    [
        TraceContext(bytes(7), bytes(8)),
        TraceContext(bytes(16), bytes(7)),
        TraceContext(bytes(8), bytes(8), bytes(7)),
    ],
)
def test_ids_of_a_wrong_size_are_not_written(trace):
    with pytest.raises(LocalProtocolError):
        m.encode_tracing(trace)


# -- ours -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0, "00000000"), (1500, "000005dc"), (m.MAX_DEADLINE_MS, "ffffffff")],
)
def test_a_deadline_is_four_bytes_of_milliseconds(milliseconds, text):
    assert m.encode_deadline(milliseconds) == raw(text)
    assert m.decode_deadline(raw(text)) == milliseconds


def test_a_deadline_out_of_range_is_brought_into_it():
    assert m.encode_deadline(-5) == raw("00000000")
    assert m.encode_deadline(m.MAX_DEADLINE_MS + 1) == raw("ffffffff")


@pytest.mark.parametrize("size", [0, 3, 5])
def test_a_deadline_of_another_size_is_invalid(size):
    with pytest.raises(Invalid, match=f"{size} bytes must have 4"):
        m.decode_deadline(bytes(size))
