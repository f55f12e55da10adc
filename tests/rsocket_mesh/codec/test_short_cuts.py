"""The short cuts of CBOR against the long way: the same bytes, values and refusals."""

import dataclasses
import datetime as dt
import enum
import uuid
from decimal import Decimal
from typing import Any, Literal, NamedTuple, TypedDict

import cbor2
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rsocket_mesh.codec import DecodeError, EncodeError, find_codec
from rsocket_mesh.codec.base import explain
from rsocket_mesh.codec.cbor import _loads
from rsocket_mesh.codec.shapes import plain_fields, same_in_msgpack

CBOR = find_codec("cbor")
NATIVE = (bytes, bytearray)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass
class Order:
    sku: int
    quantity: int = 1
    note: str | None = None


@dataclasses.dataclass
class Book:
    order: Order
    lines: list[Order]
    blobs: dict[str, bytes]
    factor: float = 1.0


class Line(msgspec.Struct):
    order: Order
    blob: bytes


class Row(TypedDict, total=False):
    sku: int
    kind: Literal["a", 1] | None


class Point(NamedTuple):
    x: int
    y: float = 0.0


@dataclasses.dataclass
class Node:
    value: int
    next: "Node | None" = None


WANTED = (
    Order,
    Book,
    Line,
    Row,
    Point,
    Node,
    Colour,
    float,
    int | None,
    str | int,
    list[int],
    list[Order],
    dict[str, int],
    dict[int, str],
    tuple[int, str],
    tuple[int, ...],
    bool | float,
)
NOT_SHORT = (dt.datetime, dt.date, uuid.UUID, Decimal, set[int], list[Any], Any, msgspec.Raw)

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.integers(-3, 300)
    | st.floats(allow_nan=False)
    | st.sampled_from([0.0, 1.0, 2.5, "red", "a", "2026-01-02", ""])
    | st.text(max_size=5)
    | st.binary(max_size=20)
    | st.sampled_from([cbor2.undefined, cbor2.CBORSimpleValue(20 + 79), Decimal("1.5")])
    | st.sampled_from([dt.datetime(2026, 1, 2, tzinfo=dt.UTC), uuid.UUID(int=7)])
)
FIRST = ["sku", "quantity", "note", "order", "lines", "blobs"]
names = st.sampled_from([*FIRST, "factor", "blob", "kind", "value", "next"])
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(names | st.integers(0, 3), inner, max_size=4)
        | st.fixed_dictionaries({"sku": inner, "quantity": inner})
        | st.fixed_dictionaries({"order": inner, "lines": inner, "blobs": inner})
        | st.fixed_dictionaries({"order": inner, "blob": inner})
        | st.fixed_dictionaries({"value": inner, "next": inner})
    ),
    max_leaves=8,
)


def the_long_way(data, wanted):
    """What decoding is by definition, with the errors as the codec tells them."""
    try:
        return msgspec.convert(_loads(data), wanted, builtin_types=NATIVE)
    except msgspec.ValidationError as exc:
        return DecodeError, explain(exc)
    except TypeError as exc:
        return DecodeError, f"$: {exc}"
    except DecodeError as exc:
        return DecodeError, str(exc)


def decoded(data, wanted):
    try:
        return CBOR.decode(data, wanted)
    except DecodeError as exc:
        return DecodeError, str(exc)


@pytest.mark.parametrize("wanted", WANTED, ids=str)
def test_the_types_that_take_the_short_cut_are_known(wanted):
    assert same_in_msgpack(wanted)


@pytest.mark.parametrize("wanted", NOT_SHORT, ids=str)
def test_types_with_forms_of_their_own_take_the_long_way(wanted):
    assert not same_in_msgpack(wanted)


@given(st.sampled_from(WANTED), values.map(cbor2.dumps), st.binary(max_size=3))
@example(Order, cbor2.dumps({"sku": 1, "quantity": 2}), b"\x00")
@example(Order, b"\xa2\x63sku\x01\x63sku\x02", b"")
@example(str | int, b"\x62\xff\xff", b"")
@example(list[int], cbor2.dumps(cbor2.CBORTag(258, [1])), b"")
def test_both_ways_read_the_same_and_refuse_the_same(wanted, data, behind):
    if behind[:1] > b"\x7f":  # most of the time there is nothing behind the value
        data += behind
    short, long = decoded(data, wanted), the_long_way(data, wanted)
    assert type(short) is type(long)
    assert repr(short) == repr(long)  # 1 and 1.0 and True are equal, and not the same


@given(st.sampled_from([int, bool, bytes, str, type(None)]), st.binary(min_size=1, max_size=12))
def test_scalars_alone_are_read_as_the_long_way_reads_them(wanted, data):
    long, short = decoded(data, Any), decoded(data, wanted)
    if type(long) is wanted or (type(long) is tuple and long[0] is DecodeError):
        assert short == long
    else:
        assert short[0] is DecodeError
        assert short[1].startswith(f"$: expected {wanted.__name__}, got ")


@dataclasses.dataclass
class Flat:
    number: int
    text: str
    ratio: float
    flag: bool
    blob: bytes
    numbers: list[int]
    by_name: dict[str, float | None]


@given(st.builds(Flat))
def test_a_flat_dataclass_is_written_as_the_long_way_writes_it(value):
    assert plain_fields(Flat) == 7
    assert CBOR.encode(value) == cbor2.dumps(msgspec.to_builtins(value, builtin_types=NATIVE))


@dataclasses.dataclass
class Dated:
    when: dt.date


@dataclasses.dataclass
class Untyped:
    value: Any


@dataclasses.dataclass
class Nested:
    flat: Order


@dataclasses.dataclass(slots=True)
class Slotted:
    number: int


@dataclasses.dataclass
class Renamed(Order):
    pass


class Undecorated(Order):
    pass


@pytest.mark.parametrize("kind", [Dated, Untyped, Nested, Slotted, dict, Point, Line, Colour])
def test_only_a_dataclass_of_plain_fields_is_written_as_it_stands(kind):
    assert plain_fields(kind) == 0


@pytest.mark.parametrize("kind", [Order, Renamed, Undecorated])
def test_attributes_beside_the_fields_do_not_travel(kind):
    assert plain_fields(kind) == 3
    order = kind(1, 2)
    order.cached = "mine"
    assert CBOR.decode(CBOR.encode(order)) == {"sku": 1, "quantity": 2, "note": None}


def test_a_field_that_is_not_what_its_annotation_says_is_written_all_the_same():
    assert CBOR.decode(CBOR.encode(Order(Colour.RED, [Order(1)]))) == {
        "sku": "red",
        "quantity": [{"sku": 1, "quantity": 1, "note": None}],
        "note": None,
    }
    with pytest.raises(EncodeError, match="Order as CBOR"):
        CBOR.encode(Order(object()))
