"""MessagePack by `msgspec`: as compact as CBOR, for programs that speak it already.

Integers have 64 bits here; bytes are native, and an aware datetime is the timestamp extension.
Other extension types are refused: only the program that made one knows what it stands for.
Source: the MessagePack specification, "Timestamp extension type".
"""

from __future__ import annotations

from typing import Any, NoReturn

import msgspec

from rsocket_mesh.codec.base import Codec, Decode, DecodeError, EncodeError, explain
from rsocket_mesh.codec.foreign import from_builtins, to_builtins, union_of_models


def _refuse_extension(code: int, data: memoryview) -> NoReturn:
    raise ValueError(f"extension type {code} of {len(data)} bytes is not accepted")


class MsgpackCodec(Codec):
    """Values as MessagePack."""

    mime = "application/msgpack"
    name = "msgpack"
    aliases = ("application/x-msgpack", "application/vnd.msgpack")

    def __init__(self) -> None:
        super().__init__()
        self._encode = msgspec.msgpack.Encoder(enc_hook=to_builtins).encode

    def encode(self, value: object) -> bytes:
        """Return *value* as MessagePack."""
        try:
            return self._encode(value)
        except (TypeError, ValueError, OverflowError, RecursionError) as exc:
            raise EncodeError(f"{type(value).__qualname__} as MessagePack: {exc}") from exc

    def _make_decoder(self, wanted: Any) -> Decode:
        convert = union_of_models(wanted)
        parse = msgspec.msgpack.Decoder(
            wanted if convert is None else Any,
            dec_hook=from_builtins,
            ext_hook=_refuse_extension,
        ).decode

        def decode(data: bytes) -> Any:
            try:
                value = parse(data or b"\xc0")
                return value if convert is None else convert(value)
            except (msgspec.DecodeError, RecursionError, ValueError, TypeError) as exc:
                raise DecodeError(explain(exc, "MessagePack")) from exc

        return decode
