"""Values <-> bytes by MIME type: CBOR (the default), JSON, MessagePack, Protobuf, raw bytes, plain
text."""

from rsocket_mesh.codec.base import (
    Codec,
    DecodeError,
    EncodeError,
    codec_for,
    find_codec,
    known_mimes,
    register_codec,
)
from rsocket_mesh.codec.cbor import CborCodec
from rsocket_mesh.codec.json import JsonCodec
from rsocket_mesh.codec.msgpack import MsgpackCodec
from rsocket_mesh.codec.protobuf import ProtobufCodec
from rsocket_mesh.codec.raw import RawCodec, TextCodec

__all__ = [
    "Codec",
    "DecodeError",
    "EncodeError",
    "codec_for",
    "find_codec",
    "known_mimes",
    "register_codec",
]

for _codec in (
    CborCodec(),
    JsonCodec(),
    MsgpackCodec(),
    ProtobufCodec(),
    RawCodec(),
    TextCodec(),
):
    register_codec(_codec)
