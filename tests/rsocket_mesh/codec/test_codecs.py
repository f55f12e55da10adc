"""The laws of all codecs, and what each of them refuses."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import uuid
from typing import Annotated, Any, NamedTuple, TypedDict

import attrs
import cbor2
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsocket_mesh.codec import (
    Codec,
    DecodeError,
    EncodeError,
    base,
    codec_for,
    find_codec,
    known_mimes,
    register_codec,
)

CBOR = find_codec("cbor")
JSON = find_codec("json")
RAW = find_codec("raw")
TEXT = find_codec("text")


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Order:
    sku: int
    quantity: int
    note: str = ""


class Line(msgspec.Struct):
    order: Order
    blob: bytes


class Row(TypedDict):
    sku: int


class Point(NamedTuple):
    x: int
    y: int


@attrs.define
class Item:
    sku: int


VALUES: list[tuple[Any, Any]] = [
    (1, int),
    (2**70, int),
    (1.5, float),
    (True, bool),
    ("ä", str),
    (b"\x00\xff", bytes),
    (None, None),
    ([1, 2], list[int]),
    ({"a": 1}, dict[str, int]),
    (Order(1, 2), Order),
    (Line(Order(1, 2, "x"), b"\xff"), Line),
    ({"sku": 1}, Row),
    (Point(1, 2), Point),
    (Item(3), Item),
    (Colour.RED, Colour),
    (uuid.UUID(int=7), uuid.UUID),
    (dt.datetime(2026, 1, 2, 3, 4, tzinfo=dt.UTC), dt.datetime),
    ({1, 2}, set[int]),
    (5, Annotated[int, msgspec.Meta(ge=1)]),
]


@pytest.mark.parametrize("codec", [CBOR, JSON], ids=lambda codec: codec.name)
@pytest.mark.parametrize(("value", "wanted"), VALUES, ids=str)
def test_a_value_comes_back_as_it_was(codec: Codec, value: Any, wanted: Any):
    assert codec.decode(codec.encode(value), wanted) == value


@pytest.mark.parametrize("codec", [CBOR, JSON], ids=lambda codec: codec.name)
@pytest.mark.parametrize(
    ("value", "wanted", "text"),
    [
        ({"sku": 1, "quantity": "many"}, Order, "$.quantity: expected int, got str"),
        ({"sku": 1}, Order, "quantity"),
        ([{"sku": 1, "quantity": None}], list[Order], "$[0].quantity: expected int, got null"),
        ("x", int, "$: expected int, got str"),
        (None, int, "$: expected int, got null"),
        (True, int, "$: expected int, got bool"),
        (0, Annotated[int, msgspec.Meta(ge=1)], "$: expected int >= 1"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(
    codec: Codec, value: Any, wanted: Any, text: str
):
    with pytest.raises(DecodeError) as caught:
        codec.decode(codec.encode(value), wanted)
    assert text in str(caught.value)


@pytest.mark.parametrize("codec", [CBOR, JSON], ids=lambda codec: codec.name)
def test_no_bytes_at_all_stand_for_none(codec: Codec):
    assert codec.decode(b"") is None
    assert codec.decode(b"", int | None) is None
    with pytest.raises(DecodeError, match="expected int, got null"):
        codec.decode(b"", int)


@pytest.mark.parametrize("codec", [CBOR, JSON, RAW], ids=lambda codec: codec.name)
def test_a_value_without_a_form_is_refused_with_its_type(codec: Codec):
    with pytest.raises(EncodeError, match="object"):
        codec.encode(object())


@pytest.mark.parametrize("codec", [CBOR, JSON, TEXT], ids=lambda codec: codec.name)
@given(data=st.binary(max_size=64))
def test_bytes_of_any_kind_decode_or_are_refused_and_nothing_else(codec: Codec, data: bytes):
    try:
        codec.decode(data)
    except DecodeError:
        pass


@given(value=st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
), behind=st.binary(min_size=1, max_size=12))  # fmt: skip
def test_cbor_is_read_to_its_end(value: Any, behind: bytes):
    data = CBOR.encode(value)
    assert CBOR.decode(data) == value
    with pytest.raises(DecodeError):
        CBOR.decode(data + behind)


@given(data=st.data())
def test_cbor_that_was_cut_is_refused(data: st.DataObject):
    whole = CBOR.encode({"sku": 12, "names": ["a", "b" * 40], "blob": b"\x00" * 30})
    cut = data.draw(st.integers(1, len(whole) - 1))
    with pytest.raises(DecodeError):
        CBOR.decode(whole[:cut])


@pytest.mark.parametrize(
    "data",
    [
        b"\xd8\x23\x61a",  # 35: a regular expression
        b"\xd8\x1c\x80",  # 28: the target of shared references
        b"\xd8\x1d\x00",  # 29: a shared reference
        b"\xc5\x82\x1b\x00\x00\x00\xff\xff\xff\xff\xff\x01",  # 5: 2 ** 1099511627775
        b"\xd8\x24\x61a",  # 36: a MIME message
        b"\xd9\x01\x00\x80",  # 256: string references
        b"\xd8\x63\x01",  # 99: unknown to everybody
    ],
)
def test_cbor_tags_that_could_cost_without_bound_are_refused(data: bytes):
    with pytest.raises(DecodeError, match="not CBOR"):
        CBOR.decode(data)


def test_cbor_takes_dates_and_big_numbers_of_other_libraries():
    when = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)
    assert CBOR.decode(cbor2.dumps(when), dt.datetime) == when
    assert CBOR.decode(cbor2.dumps(2**80)) == 2**80


def test_cbor_refuses_a_key_that_comes_twice():
    with pytest.raises(DecodeError):
        CBOR.decode(b"\xa2\x01\x01\x01\x02")


def test_cbor_nested_beyond_reason_is_refused():
    with pytest.raises(DecodeError):
        CBOR.decode(b"\x81" * 5000 + b"\x01")


def test_bytes_are_native_in_cbor_and_base64_in_json():
    assert CBOR.encode(b"\x01\x02") == b"\x42\x01\x02"
    assert JSON.encode(b"\x01\x02") == b'"AQI="'
    with pytest.raises(DecodeError):
        CBOR.decode(CBOR.encode({"order": Order(1, 2), "blob": "AQI="}), Line)


def test_raw_carries_bytes_and_text_only():
    assert RAW.encode(b"x") == RAW.encode("x") == RAW.encode(bytearray(b"x")) == b"x"
    assert RAW.encode(None) == b""
    assert RAW.decode(b"x") == b"x"
    assert RAW.decode(b"x", str) == "x"
    assert TEXT.decode(b"x") == "x"
    with pytest.raises(DecodeError, match="carries bytes or str, not Order"):
        RAW.decode(b"x", Order)
    with pytest.raises(DecodeError, match="not UTF-8"):
        RAW.decode(b"\xff", str)


def test_codecs_are_found_by_name_and_by_mime_type():
    assert find_codec("application/json") is JSON
    assert find_codec(JSON) is JSON
    assert codec_for("application/json; charset=utf-8") is JSON
    assert codec_for(99) is None
    assert "application/cbor" in known_mimes()
    with pytest.raises(ValueError, match="no codec 'yaml'; there are cbor"):
        find_codec("yaml")


def test_a_codec_of_the_program_can_be_registered(monkeypatch: pytest.MonkeyPatch):
    for register in ("_by_mime", "_by_name"):
        monkeypatch.setattr(base, register, dict(getattr(base, register)))

    class Upper(type(TEXT)):  # type: ignore[misc]  # the class of an instance
        mime = "text/x-upper"
        name = "upper"

        def encode(self, value: object) -> bytes:
            return str(value).upper().encode()

    register_codec(Upper())
    assert find_codec("upper").encode("a") == b"A"
    with pytest.raises(ValueError, match=r"its MIME type text/x-upper belongs to .*replace=True"):
        register_codec(Upper())
    register_codec(Upper(), replace=True)

    class Other(Upper):
        mime = "text/x-other"
        aliases = ("application/json",)

    with pytest.raises(ValueError, match="application/json belongs to"):
        register_codec(Other())
    assert codec_for("text/x-other") is None
    with pytest.raises(TypeError, match="is no Codec"):
        register_codec(Upper)  # type: ignore[arg-type]
    for attribute, value in (
        ("name", ""),
        ("name", "Upper"),
        ("mime", "upper"),
        ("mime", "text/x;charset=a"),
        ("mime", "text/" + "x" * 124),
        ("mime", "text/ä"),
    ):
        wrong = type("Wrong", (Upper,), {"name": "w", "mime": "text/w", attribute: value})
        with pytest.raises(ValueError, match="must be"):
            register_codec(wrong())


def test_the_decoder_of_a_type_is_made_once():
    assert CBOR.decoder(list[Order]) is CBOR.decoder(list[Order])


@pytest.mark.parametrize("codec", [CBOR, JSON])
def test_no_decoder_is_made_for_what_is_no_type(codec: Codec):
    for wanted in (5, list[int] | set[int]):
        with pytest.raises(TypeError, match="not supported"):
            codec.decoder(wanted)


@pytest.mark.parametrize("codec", [CBOR, JSON])
def test_a_list_in_a_set_does_not_fit(codec: Codec):
    with pytest.raises(DecodeError, match="unhashable"):
        codec.decode(codec.encode([[1]]), frozenset[Any])


@pytest.mark.parametrize("codec", [CBOR, JSON, RAW, TEXT])
def test_what_has_no_form_is_an_encode_error_and_nothing_else(codec: Codec):
    endless: list[object] = []
    endless.append(endless)
    for value in (endless, "\ud800", object()):
        with pytest.raises(EncodeError):
            codec.encode(value)
