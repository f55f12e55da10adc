"""What goes into a call and what comes out: text of the user's to bytes, bytes to values.

People write JSON; services may want CBOR or bytes. `Coding` is one choice of that for both
directions. An answer that states its own type is read as that.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import click
import msgspec

from rsocket_mesh.cli.failures import AnswerError
from rsocket_mesh.codec import Codec, DecodeError, EncodeError, codec_for, find_codec
from rsocket_mesh.errors import Invalid, StreamError
from rsocket_mesh.protocol.metadata import DATA_MIME_TYPE, decode_mime, find_entry
from rsocket_mesh.protocol.payload import Payload
from rsocket_mesh.rpc.mesh import Mesh

CodecName = Literal["json", "cbor", "raw"]

MAX_INPUT: Final = 64 * 1024 * 1024  # bytes of one value; what a broker lets pass as one payload
_SHOWN: Final = 60  # characters of bad input that an error repeats
_DESCRIBE: Final = "mesh.registry.describe"


class _Method(msgspec.Struct):
    mime: tuple[str, ...] = ()


class _Instance(msgspec.Struct):
    methods: dict[str, _Method] | None = None


class _Description(msgspec.Struct):
    """What of `mesh.registry.describe` decides the coding."""

    instances: tuple[_Instance, ...] = ()


class Coding(NamedTuple):
    """How data is written and read."""

    codec: Codec

    @property
    def is_raw(self) -> bool:
        """True if data is bytes that nobody looks into."""
        return self.codec.name == "raw"

    def encode(self, text: bytes, where: str) -> bytes:
        """Return the data of a request from what the user wrote; *where* is for the error.

        Raises:
            click.UsageError: it is not JSON.
        """
        if self.is_raw:
            return text
        json = find_codec("json")
        try:
            value = json.decode(text)
        except DecodeError as exc:
            shown = text.decode(errors="replace")
            shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
            raise click.UsageError(
                f"{where}: {shown!r}: {exc}; text needs its own quotes, such as '\"text\"'"
            ) from exc
        if self.codec is json:
            return text
        try:
            return self.codec.encode(value)
        except EncodeError as exc:
            raise click.UsageError(f"{where}: {exc}") from exc

    def decode(self, payload: Payload, route: str, *, as_bytes: bool = False) -> Any:
        """Return the value of an answer; bytes for the raw codec if *as_bytes*.

        Raises:
            AnswerError: it is not what it should be.
        """
        codec = _stated(payload) or self.codec
        try:
            value = codec.decode(payload.data)
        except DecodeError as exc:
            raise AnswerError(
                f"{route}: the answer of {len(payload.data)} bytes is {exc}; "
                "try another --codec (raw takes anything)"
            ) from exc
        if as_bytes:
            return payload.data
        return _as_text(value) if isinstance(value, bytes) else value


def _as_text(data: bytes) -> Any:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return {"base64": data}


def _stated(payload: Payload) -> Codec | None:
    """The codec of the type that an answer's own metadata states, if it does and we have it."""
    if not payload.metadata:
        return None
    try:
        entry = find_entry(payload.metadata, DATA_MIME_TYPE)
        return None if entry is None else codec_for(decode_mime(entry))
    except Invalid:
        return None  # metadata of another kind, which is the service's affair


def read_argument(argument: str) -> bytes:
    """Return what the user passed: the text itself, `-` for stdin, `@FILE` for a file.

    Raises:
        click.UsageError: the file cannot be read, or it is over `MAX_INPUT`.
    """
    try:
        if argument == "-":
            data = sys.stdin.buffer.read(MAX_INPUT + 1)
        elif argument.startswith("@"):
            with Path(argument[1:]).open("rb") as file:
                data = file.read(MAX_INPUT + 1)
        else:
            data = argument.encode(errors="surrogateescape")
    except OSError as exc:
        raise click.UsageError(f"{argument}: {exc.strerror or exc}") from exc
    if len(data) > MAX_INPUT:
        raise click.UsageError(f"{argument}: over {MAX_INPUT} bytes, too much for one value")
    return data


async def coding_for(mesh: Mesh, route: str, wanted: CodecName | None) -> Coding:
    """Return the coding the user chose, else one that the method announces, else JSON.

    Whatever the broker says to the question, the call itself says it better: errors mean JSON.
    """
    if wanted is not None:
        return Coding(find_codec(wanted))
    json = find_codec("json")
    service, _, method = route.rpartition(".")
    if not service:
        return Coding(json)
    try:
        answer = await mesh.route(_DESCRIBE).request_response(json.encode(service))
        found: _Description = json.decode(answer.data, _Description)
    except (StreamError, DecodeError):
        return Coding(json)
    infos = (instance.methods.get(method) for instance in found.instances if instance.methods)
    info = next(filter(None, infos), _Method())
    if not info.mime or json.mime in info.mime:
        return Coding(json)
    usable = (codec_for(mime) for mime in info.mime)
    return Coding(next(filter(None, usable), json))
