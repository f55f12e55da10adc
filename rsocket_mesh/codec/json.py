"""JSON by `msgspec`: for browsers, shells and people. Bytes travel as base64 text.

Source: RFC 8259.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from rsocket_mesh.codec.base import Codec, Decode, DecodeError, EncodeError, explain

_NULL: Final = b"null"


class JsonCodec(Codec):
    """Values as JSON in UTF-8."""

    mime = "application/json"
    name = "json"

    def __init__(self) -> None:
        super().__init__()
        self._encode = msgspec.json.Encoder().encode

    def encode(self, value: object) -> bytes:
        """Return *value* as JSON."""
        try:
            return self._encode(value)
        except (TypeError, ValueError, OverflowError, RecursionError) as exc:
            raise EncodeError(f"{type(value).__qualname__} as JSON: {exc}") from exc

    def _make_decoder(self, wanted: Any) -> Decode:
        parse = msgspec.json.Decoder(wanted).decode

        def decode(data: bytes) -> Any:
            try:
                return parse(data or _NULL)
            except msgspec.ValidationError as exc:
                raise DecodeError(explain(exc)) from exc
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
                raise DecodeError(f"not JSON: {exc}") from exc
            except TypeError as exc:  # a list in a set, and the like
                raise DecodeError(f"$: {exc}") from exc

        return decode
