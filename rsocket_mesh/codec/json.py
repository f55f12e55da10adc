"""JSON by `msgspec`: for browsers, shells and people. Bytes travel as base64 text.

Source: RFC 8259.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from rsocket_mesh.codec.base import Codec, Decode, DecodeError, EncodeError, explain
from rsocket_mesh.codec.foreign import from_json_builtins, to_json_builtins, union_of_models

_NULL: Final = b"null"


class JsonCodec(Codec):
    """Values as JSON in UTF-8."""

    mime = "application/json"
    name = "json"

    def __init__(self) -> None:
        super().__init__()
        self._encode = msgspec.json.Encoder(enc_hook=to_json_builtins).encode

    def encode(self, value: object) -> bytes:
        """Return *value* as JSON."""
        try:
            return self._encode(value)
        except (TypeError, ValueError, OverflowError, RecursionError) as exc:
            raise EncodeError(f"{type(value).__qualname__} as JSON: {exc}") from exc

    def _make_decoder(self, wanted: Any) -> Decode:
        convert = union_of_models(wanted, from_json=True)
        parse = msgspec.json.Decoder(
            wanted if convert is None else Any, dec_hook=from_json_builtins
        ).decode

        def decode(data: bytes) -> Any:
            try:
                value = parse(data or _NULL)
                return value if convert is None else convert(value)
            except (msgspec.DecodeError, RecursionError, ValueError, TypeError) as exc:
                raise DecodeError(explain(exc, "JSON")) from exc

        return decode
