"""Which codec an answer is in: the caller's accept list (0x7B) and the codecs of the method.

An answer is in the type of its request unless the caller lists others; then it is in the first of
those that the method has, and says so with a 0x7A entry on each payload. A list that names nothing
the method has changes nothing: an answer in another type is of more use than none.
Source: RSocket extension PerStreamDataMimeTypesDefinition.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from rsocket_mesh.codec import Codec, DecodeError, codec_for, find_codec, known_mimes
from rsocket_mesh.codec.base import Decode
from rsocket_mesh.errors import Invalid
from rsocket_mesh.protocol.metadata import (
    ACCEPT_MIME_TYPES,
    DATA_MIME_TYPE,
    decode_mime,
    decode_mimes,
    encode_entry,
    encode_mimes,
    find_entry,
)
from rsocket_mesh.protocol.payload import Payload
from rsocket_mesh.rpc.metadata import mime_entry

if TYPE_CHECKING:
    from rsocket_mesh.rpc.signature import Signature

MAX_ACCEPTED: Final = 16  # types of a list that are looked at; programs speak two or three
_RAW_MIMES: Final = ("application/octet-stream", "text/plain")  # only bytes and str fit into them

Codecs = Sequence[str | Codec]


# -- the service's side ---------------------------------------------------------------------------


def codecs_of(codecs: Codecs | None) -> tuple[Codec, ...] | None:
    """Return the codecs that a program named for a service or method; None means all there are.

    Raises:
        ValueError: there is no such codec, or the list is empty.
    """
    if codecs is None:
        return None
    if isinstance(codecs, str | Codec):
        codecs = (codecs,)
    if not codecs:
        raise ValueError("codecs is empty, so nothing could be called; None means all there are")
    return tuple(map(find_codec, codecs))


def mimes_of(codecs: tuple[Codec, ...] | None, signature: Signature) -> tuple[str, ...]:
    """Return what is announced of a method's data types: those its values fit into."""
    if codecs is not None:
        return tuple(codec.mime for codec in codecs)
    wanted = [*signature.arguments, signature.result]
    if signature.incoming is not None:
        wanted.append(signature.incoming)
    found = ((mime, codec_for(mime)) for mime in known_mimes() if mime not in _RAW_MIMES)
    return tuple(
        mime for mime, codec in found if codec is not None and all(map(codec.carries, wanted))
    )


class _Answering(Codec):
    """Reads as one codec and writes as another; made once per pair of them and method."""

    def __init__(self, reads: Codec, writes: Codec) -> None:
        super().__init__()
        self._reads = reads
        self.encode = writes.encode  # type: ignore[method-assign]  # one call less per answer
        self.answer_metadata = mime_entry(writes.mime)

    def encode(self, value: object) -> bytes:
        """Return *value* as the caller accepts it."""
        raise AssertionError("the other codec's is in its place")

    def _make_decoder(self, wanted: Any) -> Decode:
        return self._reads.decoder(wanted)


def answering_codec(
    codec: Codec, codecs: tuple[Codec, ...] | None, accepted: bytes | None
) -> Codec:
    """Return the codec of one kind of request: it reads the data and writes the answer.

    Args:
        codec: that of the data.
        codecs: those of the method; None means all.
        accepted: the content of the caller's accept list, or None.
    Raises:
        Invalid: the method does not take data in *codec*, or the list has a wrong form.
    """
    if codecs is not None and codec not in codecs:
        known = ", ".join(other.mime for other in codecs)
        raise Invalid(f"data type {codec.mime!r} is not taken by this method; it takes {known}")
    if not accepted:
        return codec
    for mime in decode_mimes(accepted, MAX_ACCEPTED):
        other = codec if mime == "*/*" else codec_for(mime)
        if other is codec:
            return codec
        if other is not None and (codecs is None or other in codecs):
            return _Answering(codec, other)
    return codec


# -- the caller's side ----------------------------------------------------------------------------


def accept_entry(codecs: Codecs) -> bytes:
    """Return the entry that lists *codecs*, the best liked first; nothing for none.

    Raises:
        ValueError: there is no such codec.
    """
    found = codecs_of(codecs) if codecs else None
    if found is None:
        return b""
    return encode_entry(ACCEPT_MIME_TYPES, encode_mimes(codec.mime for codec in found))


def answer_decoder(codec: Codec, wanted: Any) -> Callable[[Payload], Any]:
    """Return the function from an answer to its value, in whatever type it says it is.

    The function raises `DecodeError`, also for a type that is not known here.
    """
    usual = codec.decoder(wanted)

    def decode(payload: Payload) -> Any:
        if not payload.metadata:
            return usual(payload.data)
        try:
            entry = find_entry(payload.metadata, DATA_MIME_TYPE)
            mime = codec.mime if entry is None else decode_mime(entry)
        except Invalid:  # metadata that is not composite: the handler's own
            mime = codec.mime
        stated = codec_for(mime)
        if stated is None:
            raise DecodeError(f"it is {mime!r}; there are {', '.join(known_mimes())}")
        return stated.decoder(wanted)(payload.data)

    return decode
