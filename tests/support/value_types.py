"""One value of every type that travels: what the table of codecs is made of, and tested with.

The names are those of the table in docs/codecs.md.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Literal, NamedTuple, TypedDict

import attrs
import msgspec
import pydantic
from google.protobuf import descriptor_pb2, timestamp_pb2


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@dataclasses.dataclass
class Order:
    sku: int
    colour: Colour
    due: dt.datetime
    price: Decimal
    id: uuid.UUID
    blob: bytes
    tags: dict[str, list[int]]
    note: str | None = None


class Line(msgspec.Struct):
    sku: int
    blob: bytes


class Row(TypedDict):
    sku: int


class Point(NamedTuple):
    x: int
    y: float


@attrs.define
class Item:
    sku: int
    colour: Colour
    due: dt.date


class Cat(msgspec.Struct, tag=True):
    lives: int


class Dog(msgspec.Struct, tag=True):
    name: str


class Invoice(pydantic.BaseModel):
    sku: int = pydantic.Field(alias="stockUnit", ge=0)
    colour: Colour
    due: dt.datetime
    price: Decimal
    id: uuid.UUID
    lines: list[Point] = []


class Bird(pydantic.BaseModel):
    kind: Literal["bird"] = "bird"
    wings: int


class Fish(pydantic.BaseModel):
    kind: Literal["fish"] = "fish"
    fins: int


@dataclasses.dataclass
class Envelope:
    invoice: Invoice
    stamp: timestamp_pb2.Timestamp


class Case(NamedTuple):
    name: str
    wanted: Any
    make: Callable[[], Any]


WHEN = dt.datetime(2026, 11, 25, 15, 30, 1, 250_000, tzinfo=dt.UTC)
ID = uuid.UUID("12345678-1234-5678-1234-567812345678")


def _order() -> Order:
    return Order(7, Colour.RED, WHEN, Decimal("12.50"), ID, b"\x00\xff", {"a": [1, 2]})


def _invoice() -> Invoice:
    return Invoice(
        stockUnit=7, colour=Colour.BLUE, due=WHEN, price=Decimal("0.10"), id=ID, lines=[Point(1, 2)]
    )


def _message() -> descriptor_pb2.FieldDescriptorProto:
    options = descriptor_pb2.FieldOptions(deprecated=True)
    return descriptor_pb2.FieldDescriptorProto(name="sku", number=3, options=options)


CASES: tuple[Case, ...] = (
    Case("`None`", None, lambda: None),
    Case("`bool`", bool, lambda: True),
    Case("`int`, 64 bits", int, lambda: -(2**63)),
    Case("`int`, longer", int, lambda: 2**70),
    Case("`float`", float, lambda: 1.5),
    Case("`str`", str, lambda: "grüß"),
    Case("`bytes`", bytes, lambda: b"\x00\xff"),
    Case("`list`, `tuple`, `dict`", dict[str, list[tuple[int, str]]], lambda: {"a": [(1, "b")]}),
    Case("`dict` with keys that are no text", dict[int, str], lambda: {1: "a"}),
    Case("`set`", set[int], lambda: {1, 2}),
    Case("`Enum`, `IntEnum`", tuple[Colour, Level], lambda: (Colour.RED, Level.HIGH)),
    Case("`datetime`, aware", dt.datetime, lambda: WHEN),
    Case("`datetime`, naive", dt.datetime, lambda: WHEN.replace(tzinfo=None)),
    Case(
        "`date`, `time`, `timedelta`",
        tuple[dt.date, dt.time, dt.timedelta],
        lambda: (WHEN.date(), dt.time(15, 30), dt.timedelta(hours=1)),
    ),
    Case("`Decimal`", Decimal, lambda: Decimal("12.50")),
    Case("`UUID`", uuid.UUID, lambda: ID),
    Case("dataclass", Order, _order),
    Case("`msgspec.Struct`", Line, lambda: Line(1, b"\xff")),
    Case("`TypedDict`", Row, lambda: Row(sku=1)),
    Case("`NamedTuple`", Point, lambda: Point(1, 2.5)),
    Case("attrs class", Item, lambda: Item(3, Colour.BLUE, WHEN.date())),
    Case("pydantic model", Invoice, _invoice),
    Case("union of scalars", list[int | str | None], lambda: [1, "a", None]),
    Case("union of tagged structs", list[Cat | Dog], lambda: [Cat(9), Dog("Rex")]),
    Case("union of pydantic models", Bird | Fish, lambda: Fish(fins=2)),
    Case("Protobuf message", descriptor_pb2.FieldDescriptorProto, _message),
    Case(
        "model and message inside a dataclass",
        Envelope,
        lambda: Envelope(_invoice(), timestamp_pb2.Timestamp(seconds=1)),
    ),
)
