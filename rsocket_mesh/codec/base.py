"""What a codec is, and the register of codecs by MIME type.

A codec turns Python values into the data of payloads and back. It knows nothing of frames and
calls; whoever decodes says which type is wanted, and the type is the schema. Values are whatever
`msgspec` can convert: builtins, dataclasses, `msgspec.Struct`, `TypedDict`, named tuples, attrs,
enums, dates, UUIDs.
Codecs are found by MIME type because that is what travels (SETUP, or 0x7A per request).
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Final

import msgspec

from rsocket_mesh.errors import RSocketError

MAX_DECODERS: Final = 1024  # types per codec whose decoder is kept; a program names far fewer

Decode = Callable[[bytes], Any]


class DecodeError(RSocketError):
    """Data does not hold the value that was expected; the text names the place, as `$.quantity`."""


class EncodeError(RSocketError, TypeError):
    """A value has no form in this codec: a bug of the program, nothing was sent."""


class Codec(ABC):
    """Values <-> bytes of one MIME type. Stateless apart from its cache; use one everywhere.

    Attributes:
        mime: the MIME type, as it travels.
        name: the short name that people write: `cbor`, `json`, `raw`.
    """

    mime: ClassVar[str]
    name: ClassVar[str]

    def __init__(self) -> None:
        self._decoders: dict[Any, Decode] = {}

    @abstractmethod
    def encode(self, value: object) -> bytes:
        """Return *value* as bytes.

        Raises:
            EncodeError: a type inside *value* has no form in this codec.
        """

    @abstractmethod
    def _make_decoder(self, wanted: Any) -> Decode:
        """Return a new function that decodes to *wanted*."""

    def decoder(self, wanted: Any) -> Decode:
        """Return the function `bytes -> wanted`; made once per type and kept.

        The function raises `DecodeError` naming the place in the value and what was expected
        there. `typing.Any` takes what comes. No bytes at all stand for None.

        Raises:
            TypeError: *wanted* is no type that can be decoded to.
        """
        try:
            return self._decoders[wanted]
        except KeyError:
            pass
        except TypeError:  # an annotation that can't be hashed is made anew each time
            return self._make_decoder(wanted)
        if len(self._decoders) >= MAX_DECODERS:
            self._decoders.clear()
        return self._decoders.setdefault(wanted, self._make_decoder(wanted))

    def decode(self, data: bytes, wanted: Any = Any) -> Any:
        """Return the value in *data*; see `decoder`."""
        return self.decoder(wanted)(data)


_by_mime: dict[str, Codec] = {}
_by_name: dict[str, Codec] = {}


def register_codec(codec: Codec) -> None:
    """Make *codec* known under its MIME type and name, in place of another one there."""
    _by_mime[codec.mime] = codec
    _by_name[codec.name] = codec


def codec_for(mime: str | int) -> Codec | None:
    """Return the codec of a MIME type as it came from a peer, or None if there is none."""
    codec = _by_mime.get(mime) if isinstance(mime, str) else None
    if codec is None and isinstance(mime, str):  # `application/json; charset=utf-8`
        codec = _by_mime.get(mime.partition(";")[0].strip().lower())
    return codec


def find_codec(codec: str | Codec) -> Codec:
    """Return the codec that a program named: by short name, MIME type, or the codec itself.

    Raises:
        ValueError: no such codec; the text lists those there are.
    """
    if isinstance(codec, Codec):
        return codec
    found = _by_name.get(codec) or codec_for(codec)
    if found is None:
        raise ValueError(f"no codec {codec!r}; there are {', '.join(sorted(_by_name))}")
    return found


def known_mimes() -> tuple[str, ...]:
    """Return the MIME types of all codecs, in the order of their registration."""
    return tuple(_by_mime)


_MSGSPEC_TEXT: Final = re.compile(
    r"(?P<what>.*?)(?: - at `(?:key in )?(?P<path>[^`]*)`)?", re.DOTALL
)


def explain(error: msgspec.ValidationError) -> str:
    """Return msgspec's verdict as `$.quantity: expected int, got str`."""
    match = _MSGSPEC_TEXT.fullmatch(str(error))
    assert match is not None  # the pattern takes any text
    what = match["what"].replace("`", "")
    return f"{match['path'] or '$'}: {what[:1].lower()}{what[1:]}"
