"""CBOR, the default codec: compact, and bytes are native. Built on `cbor2` and `msgspec`.

What `cbor2` leaves open is closed here: bytes behind the value are an error (they would be a
second reading of the same message), and only tags whose decoding is harmless are taken. A regular
expression, a shared reference or a big float from a peer can cost unbounded time or memory.
Values of the usual shapes take short cuts (`shapes`); whatever does not fit one, errors included,
goes the long way, and that alone says what is right.
Source: RFC 8949; tags from the IANA registry.
"""

from __future__ import annotations

import os
from typing import Any, Final, NoReturn

import cbor2
import msgspec
from cbor2 import dumps, loads

from rsocket_mesh.codec.base import (
    MAX_DECODERS,
    Codec,
    Decode,
    DecodeError,
    EncodeError,
    explain,
)
from rsocket_mesh.codec.foreign import from_builtins, to_builtins, union_of_models
from rsocket_mesh.codec.shapes import plain_fields, same_in_msgpack

MAX_DEPTH: Final = 128  # nested containers; what people write by hand stays below 20
SAFE_TAGS: Final = frozenset(
    {
        0,  # date and time as text
        1,  # date and time as a number
        2,  # big positive integer
        3,  # big negative integer
        4,  # decimal fraction
        37,  # UUID
        100,  # days since 1970
        258,  # set
        1004,  # date as text
        55799,  # "this is CBOR", a mere mark
    }
)
# Tags that cbor2 would decode by itself; all others reach the tag hook.
_DECODED_BY_CBOR2: Final = frozenset({5, 25, 28, 29, 30, 35, 36, 52, 54, 256, 260, 261, 43000})

# cbor2 says nothing of bytes behind the value. So the value is read as the first of two, and the
# second must be what we put there; nobody outside this process knows it.
_PAIR: Final = b"\x82"
_MARK: Final = os.urandom(8)
_END: Final = b"\x48" + _MARK

_NATIVE: Final = (bytes, bytearray)  # types that CBOR carries and JSON doesn't
_PLAIN: Final = frozenset({int, str, bytes, float, bool, type(None)})


def _refuse_tag(tag: cbor2.CBORTag, _immutable: bool) -> NoReturn:
    raise ValueError(f"tag {tag.tag} is not accepted")


def _refuser(number: int) -> Any:
    def refuse(_value: Any, _immutable: bool) -> NoReturn:
        raise ValueError(f"tag {number} is not accepted")

    return refuse


_REFUSED: Final = {number: _refuser(number) for number in _DECODED_BY_CBOR2}
_NO_TAGS: Final = {number: _refuser(number) for number in SAFE_TAGS | _DECODED_BY_CBOR2}


def _sizes() -> tuple[int, ...]:
    sizes = [0] * 256
    for major in (0x00, 0x20):  # integers
        sizes[major : major + 24] = [1] * 24
        sizes[major + 24 : major + 28] = [2, 3, 5, 9]
    sizes[0x40:0x58] = range(1, 25)  # bytes; not text, which may be no UTF-8
    sizes[0xF4:0xF7] = [1, 1, 1]  # false, true, null
    return tuple(sizes)


# How many bytes a scalar takes, by its first one; 0 where that alone does not say it.
_SCALAR_SIZES: Final = _sizes()


def _loads(data: bytes) -> Any:
    if not data:
        return None
    try:
        pair = loads(
            _PAIR + data + _END,
            semantic_decoders=_REFUSED,
            tag_hook=_refuse_tag,
            max_depth=MAX_DEPTH,
            allow_duplicate_keys=False,
        )
    except (cbor2.CBORError, ValueError, TypeError, OverflowError, MemoryError) as exc:
        raise DecodeError(f"not CBOR: {exc.__cause__ or exc}") from exc
    if pair[1] != _MARK:
        raise DecodeError(f"not CBOR: the value ends before the {len(data)} bytes of data do")
    return pair[0]


class CborCodec(Codec):
    """Values as CBOR; dates, UUIDs and enums travel as text and numbers, as in JSON."""

    mime = "application/cbor"
    name = "cbor"

    def __init__(self) -> None:
        super().__init__()
        self._fields: dict[type, int] = {}  # see `plain_fields`; types that values had so far

    def encode(self, value: object) -> bytes:
        """Return *value* as CBOR."""
        kind = type(value)
        try:
            if kind in _PLAIN:
                return dumps(value)
            fields = self._fields.get(kind)
            if fields is None:
                fields = self._learn(kind)
            if fields:
                members = value.__dict__
                if len(members) == fields:  # nothing beside the fields
                    try:
                        return dumps(members)
                    except cbor2.CBOREncodeError:
                        pass  # a member is not what its annotation says
            return dumps(msgspec.to_builtins(value, builtin_types=_NATIVE, enc_hook=to_builtins))
        except (
            cbor2.CBOREncodeError,
            TypeError,
            ValueError,
            OverflowError,
            RecursionError,
        ) as exc:
            raise EncodeError(f"{kind.__qualname__} as CBOR: {exc}") from exc

    def _learn(self, kind: type) -> int:
        if len(self._fields) >= MAX_DECODERS:
            self._fields.clear()
        return self._fields.setdefault(kind, plain_fields(kind))

    def _make_decoder(self, wanted: Any) -> Decode:
        if wanted is Any:
            return _loads
        if isinstance(wanted, type) and wanted in _PLAIN and wanted is not float:
            return _plain_decoder(wanted)
        union = union_of_models(wanted)
        if union is not None:

            def decode_union(data: bytes) -> Any:
                try:
                    return union(_loads(data))
                except ValueError as exc:
                    raise DecodeError(explain(exc)) from exc

            return decode_union
        msgspec.msgpack.Decoder(wanted)  # refuses here and now what `convert` would at each call
        convert = msgspec.convert

        def decode(data: bytes) -> Any:
            try:
                return convert(_loads(data), wanted, builtin_types=_NATIVE, dec_hook=from_builtins)
            except msgspec.ValidationError as exc:
                raise DecodeError(explain(exc)) from exc
            except TypeError as exc:  # a list in a set, and the like
                raise DecodeError(f"$: {exc}") from exc

        return _by_msgpack(wanted, decode) if same_in_msgpack(wanted) else decode


def _plain_decoder(wanted: type) -> Decode:
    # Exact types only: an int is a good float (left to msgspec), but no good bool.
    def decode(data: bytes) -> Any:
        # Where the first byte says that all bytes are the value, nothing can be behind it.
        alone = data and _SCALAR_SIZES[data[0]] == len(data)
        value = loads(data) if alone else _loads(data)
        if type(value) is wanted:
            return value
        got = "null" if value is None else type(value).__name__
        raise DecodeError(f"$: expected {wanted.__name__}, got {got}")

    return decode


def _by_msgpack(wanted: Any, otherwise: Decode) -> Decode:
    """Return a decoder for types that `convert` and msgspec's MessagePack read the same.

    `convert` finds out anew at each call what it is to do, which takes four times as long as
    writing the value as MessagePack and reading that with a decoder made once.
    """
    write = msgspec.msgpack.Encoder().encode
    read = msgspec.msgpack.Decoder(wanted).decode

    def decode(data: bytes) -> Any:
        try:
            # No tags here: what they stand for has another form in MessagePack.
            value, mark = loads(
                _PAIR + data + _END,
                semantic_decoders=_NO_TAGS,
                tag_hook=_refuse_tag,
                max_depth=MAX_DEPTH,
                allow_duplicate_keys=False,
            )
            if mark == _MARK:
                return read(write(value))
        except Exception:  # noqa: S110  # the long way meets it again, or finds a value
            pass
        return otherwise(data)

    return decode
