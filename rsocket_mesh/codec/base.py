"""What a codec is, and the register of codecs by MIME type.

A codec turns Python values into the data of payloads and back. It knows nothing of frames and
calls; whoever decodes says which type is wanted, and the type is the schema. Values are whatever
`msgspec` can convert: builtins, dataclasses, `msgspec.Struct`, `TypedDict`, named tuples, attrs,
enums, dates, UUIDs; and what `foreign` knows besides. Never a type that a peer names: nothing here
can make an object that the program did not ask for.
Codecs are found by MIME type because that is what travels (SETUP, or 0x7A per request).
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, Final

import msgspec

from rsocket_mesh.codec.foreign import Misfit
from rsocket_mesh.errors import RSocketError
from rsocket_mesh.protocol.metadata import MAX_MIME_LENGTH

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
        aliases: other MIME types that mean the same, as other libraries write it.
        answer_metadata: what an answer in this codec has for metadata; None where it is in the
            type of its request, as nearly always.
    """

    mime: ClassVar[str]
    name: ClassVar[str]
    aliases: ClassVar[tuple[str, ...]] = ()
    answer_metadata: bytes | None = None

    def __init__(self) -> None:
        self._decoders: dict[Any, Decode] = {}

    @abstractmethod
    def encode(self, value: object) -> bytes:
        """Return *value* as bytes.

        Raises:
            EncodeError: a type inside *value* has no form in this codec.
        """

    def carries(self, wanted: Any) -> bool:
        """Return whether values of the type *wanted* can have a form in this codec, as far as the
        type says; what is announced of a method follows it."""
        return True

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

_NAME: Final = re.compile(r"[a-z][a-z0-9_-]*")
_MIME: Final = re.compile(r"[!#$&^_.+a-z0-9-]+/[!#$&^_.+a-z0-9-]+", re.IGNORECASE)


def register_codec(codec: Codec, *, replace: bool = False) -> None:
    """Make *codec* known under its name, its MIME type and the aliases of that, in this process.

    Register before services are made and connections opened: they look codecs up once.

    Args:
        replace: take the place of a codec that has the name or one of the types already.
    Raises:
        TypeError: it is no instance of `Codec`.
        ValueError: the name or a MIME type is no good, or taken (unless *replace*); nothing has
            changed.
    """
    if not isinstance(codec, Codec):
        raise TypeError(f"{codec!r} is no Codec; pass an instance of a subclass")
    mimes = (codec.mime, *codec.aliases)
    if _NAME.fullmatch(codec.name) is None:
        raise ValueError(f"codec name {codec.name!r} must be a-z 0-9 _ - and begin with a letter")
    for mime in mimes:
        if _MIME.fullmatch(mime) is None or len(mime) > MAX_MIME_LENGTH:
            raise ValueError(
                f"codec {codec.name}: {mime!r} must be type/subtype, at most {MAX_MIME_LENGTH} "
                "characters, without parameters"
            )
    taken = [mime for mime in mimes if mime in _by_mime]
    if not replace and (taken or codec.name in _by_name):
        what = f"MIME type {taken[0]}" if taken else "name"
        other = _by_mime[taken[0]] if taken else _by_name[codec.name]
        raise ValueError(
            f"codec {codec.name}: its {what} belongs to {other!r}; pass replace=True to take it"
        )
    _by_name[codec.name] = codec
    for mime in mimes:
        _by_mime[mime] = codec


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
    """Return the MIME types of all codecs without their aliases, in the order of registration."""
    return tuple(dict.fromkeys(codec.mime for codec in _by_mime.values()))


_MSGSPEC_TEXT: Final = re.compile(
    r"(?P<what>.*?)(?: - at `(?:key in )?(?P<path>[^`]*)`)?", re.DOTALL
)


def explain(error: Exception, form: str = "") -> str:
    """Return why data is refused, as `$.quantity: expected int, got str`.

    Args:
        error: what msgspec or a foreign type raised.
        form: the name of the encoding, for data that has not even its form.
    """
    if isinstance(error, msgspec.DecodeError) and not isinstance(error, msgspec.ValidationError):
        return f"not {form}: {error}"
    if isinstance(error, RecursionError | UnicodeDecodeError):
        return f"not {form}: {error}"
    if isinstance(error, Misfit):  # a foreign type that is the whole value
        return f"${error.place}: {error}"
    if not isinstance(error, msgspec.ValidationError):
        return f"$: {error}"  # a list in a set, and the like
    match = _MSGSPEC_TEXT.fullmatch(str(error))
    assert match is not None  # the pattern takes any text
    what = match["what"].replace("`", "")
    # msgspec knows the way to a foreign type, and that one the way on.
    below = error.__cause__.place if isinstance(error.__cause__, Misfit) else ""
    return f"{match['path'] or '$'}{below}: {what[:1].lower()}{what[1:]}"
