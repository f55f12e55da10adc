"""Values with validation of their own, in every codec that carries them."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
import pydantic
import pytest
from google.protobuf import struct_pb2, timestamp_pb2, wrappers_pb2
from google.protobuf.internal import api_implementation
from hypothesis import given
from hypothesis import strategies as st

from rsocket_mesh.codec import Codec, DecodeError, EncodeError, find_codec
from rsocket_mesh.codec.protobuf import ProtobufCodec

CBOR, JSON, MSGPACK, PROTOBUF = map(find_codec, ("cbor", "json", "msgpack", "protobuf"))
STRUCTURED = (CBOR, JSON, MSGPACK)


class Line(pydantic.BaseModel):
    quantity: int = pydantic.Field(alias="qty", ge=1)


class Order(pydantic.BaseModel):
    lines: list[Line]


class Gift(pydantic.BaseModel):
    text: str


class Basket(msgspec.Struct):
    orders: list[Order]
    stamp: timestamp_pb2.Timestamp | None = None


@pytest.mark.parametrize("codec", STRUCTURED, ids=lambda codec: codec.name)
@pytest.mark.parametrize(
    ("value", "wanted", "text"),
    [
        ({"lines": [{"qty": 1}, {"qty": 0}]}, Order, "$.lines[1].qty: input should be greater"),
        ({"lines": 5}, Order, "$.lines: input should be a"),
        (5, Order, "$: input should be a"),
        ({"orders": [{"lines": [{"qty": "x"}]}]}, Basket, "$.orders[0].lines[0].qty: input should"),
        ({"orders": [], "stamp": "noon"}, Basket, "$.stamp: no Timestamp"),
        ({"orders": [], "stamp": 5}, Basket, "$.stamp: no Timestamp"),
        ({"orders": [], "stamp": {"a": 1}}, Basket, "$.stamp: no Timestamp"),
        ({"text": 5}, Gift | Order, "$.Gift.text: input should be a valid string (and 1 more)"),
        ({"lines": [{"qty": 0}, {"qty": -1}]}, Order, "(and 1 more)"),
    ],
)
def test_what_does_not_fit_a_foreign_type_is_refused_with_its_place(
    codec: Codec, value: Any, wanted: Any, text: str
):
    with pytest.raises(DecodeError) as caught:
        codec.decode(codec.encode(value), wanted)
    assert text in str(caught.value)


@pytest.mark.parametrize("codec", STRUCTURED, ids=lambda codec: codec.name)
def test_a_union_that_msgspec_can_tell_apart_is_left_to_it(codec: Codec):
    assert codec.decode(codec.encode(None), Order | None) is None
    order = Order(lines=[Line(qty=1)])
    assert codec.decode(codec.encode(order), Order | None) == order


def test_a_model_says_itself_how_bytes_are_written_in_json():
    class Blob(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
        data: bytes

    class Plain(pydantic.BaseModel):
        data: bytes

    blob = Blob(data=b"\x00\xff")
    for codec in STRUCTURED:
        assert codec.decode(codec.encode(blob), Blob) == blob
    with pytest.raises(EncodeError):
        JSON.encode(Plain(data=b"\xff"))
    for codec in (CBOR, MSGPACK):
        assert codec.decode(codec.encode(Plain(data=b"\xff")), Plain).data == b"\xff"


def test_protobuf_carries_messages_and_nothing_else():
    message = wrappers_pb2.Int64Value(value=7)
    assert PROTOBUF.decode(PROTOBUF.encode(message), wrappers_pb2.Int64Value) == message
    assert PROTOBUF.encode(None) == b""
    assert PROTOBUF.decode(b"\x01", None) is None
    assert PROTOBUF.decode(b"", wrappers_pb2.Int64Value) == wrappers_pb2.Int64Value()
    for value in (7, b"x", [message], Order(lines=[])):
        with pytest.raises(EncodeError, match="it carries one message"):
            PROTOBUF.encode(value)
    with pytest.raises(DecodeError, match=r"name a message class \(returns=...\)"):
        PROTOBUF.decode(b"")
    for wanted in (int, list[wrappers_pb2.Int64Value], wrappers_pb2.Int64Value | None):
        with pytest.raises(DecodeError, match="carries one message, made by protoc, not"):
            PROTOBUF.decode(b"", wanted)


@pytest.mark.parametrize("codec", STRUCTURED, ids=lambda codec: codec.name)
def test_a_message_without_a_json_mapping_is_refused(codec: Codec):
    with pytest.raises(EncodeError, match=r"Timestamp as .*Seconds"):
        codec.encode(timestamp_pb2.Timestamp(seconds=10**15))
    with pytest.raises(EncodeError, match=r"(?i)Value as .*nan"):
        codec.encode(struct_pb2.Value(number_value=float("nan")))


@given(data=st.binary(max_size=64))
def test_bytes_of_any_kind_are_a_message_or_refused(data: bytes):
    try:
        PROTOBUF.decode(data, timestamp_pb2.Timestamp)
    except DecodeError:
        pass


def test_a_slow_build_of_protobuf_is_named_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    message = wrappers_pb2.Int64Value(value=7)
    with caplog.at_level(logging.WARNING):
        ProtobufCodec().encode(message)
        assert caplog.messages == []
        monkeypatch.setattr(api_implementation, "Type", lambda: "python")
        codec = ProtobufCodec()
        for _ in range(2):
            codec.encode(message)
            codec.decode(b"", wrappers_pb2.BoolValue)
    assert len(caplog.messages) == 1
    assert "'python' build" in caplog.messages[0]


def test_messagepack_refuses_extensions_and_what_is_behind_the_value():
    with pytest.raises(DecodeError, match="extension type 5 of 1 bytes is not accepted"):
        MSGPACK.decode(b"\xd4\x05a")
    with pytest.raises(DecodeError, match="not MessagePack"):
        MSGPACK.decode(MSGPACK.encode([1]) + b"\x00")
    with pytest.raises(EncodeError, match="MessagePack"):
        MSGPACK.encode(2**64)
    assert MSGPACK.encode(b"\x01") == b"\xc4\x01\x01"
