"""Metadata formats: composite entries, MIME ids, routing tags, authentication, tracing, our own.

All of these live inside the metadata of frames and are opaque to the core protocol. Decoders are
strict about lengths and raise `Invalid` (the request cannot be understood; the connection lives
on); an unknown MIME id is kept as it is, never an error.
Source: RSocket extensions CompositeMetadata, WellKnownMimeTypes, Routing,
PerStreamDataMimeTypesDefinition, Security/Authentication, Tracing-Zipkin.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from rsocket_mesh.errors import Invalid, LocalProtocolError

WELL_KNOWN_MIME_TYPES: Final[dict[int, str]] = dict(
    enumerate(
        (
            "application/avro",
            "application/cbor",
            "application/graphql",
            "application/gzip",
            "application/javascript",
            "application/json",
            "application/octet-stream",
            "application/pdf",
            "application/vnd.apache.thrift.binary",
            "application/vnd.google.protobuf",
            "application/xml",
            "application/zip",
            "audio/aac",
            "audio/mp3",
            "audio/mp4",
            "audio/mpeg3",
            "audio/mpeg",
            "audio/ogg",
            "audio/opus",
            "audio/vorbis",
            "image/bmp",
            "image/gif",
            "image/heic-sequence",
            "image/heic",
            "image/heif-sequence",
            "image/heif",
            "image/jpeg",
            "image/png",
            "image/tiff",
            "multipart/mixed",
            "text/css",
            "text/csv",
            "text/html",
            "text/plain",
            "text/xml",
            "video/H264",
            "video/H265",
            "video/VP8",
            "application/x-hessian",
            "application/x-java-object",
            "application/cloudevents+json",
            "application/x-capnp",
            "application/x-flatbuffers",
        )
    )
) | {
    0x7A: "message/x.rsocket.mime-type.v0",
    0x7B: "message/x.rsocket.accept-mime-types.v0",
    0x7C: "message/x.rsocket.authentication.v0",
    0x7D: "message/x.rsocket.tracing-zipkin.v0",
    0x7E: "message/x.rsocket.routing.v0",
    0x7F: "message/x.rsocket.composite-metadata.v0",
}
# 0x29 and 0x2A are unknown to the java, js, py, go and rust versions in use: written as text.
_WRITTEN_AS_ID: Final[dict[str | int, int]] = {
    name: number for number, name in WELL_KNOWN_MIME_TYPES.items() if number not in (0x29, 0x2A)
}

CBOR: Final = "application/cbor"
JSON: Final = "application/json"
OCTET_STREAM: Final = "application/octet-stream"
DATA_MIME_TYPE: Final = "message/x.rsocket.mime-type.v0"
ACCEPT_MIME_TYPES: Final = "message/x.rsocket.accept-mime-types.v0"
AUTHENTICATION: Final = "message/x.rsocket.authentication.v0"
TRACING: Final = "message/x.rsocket.tracing-zipkin.v0"
ROUTING: Final = "message/x.rsocket.routing.v0"
COMPOSITE: Final = "message/x.rsocket.composite-metadata.v0"
ANNOUNCE: Final = "message/x.rsocket-mesh.announce.v1+json"
NOTICE: Final = "message/x.rsocket-mesh.notice.v1+json"
DEADLINE: Final = "message/x.rsocket-mesh.deadline.v1"
SHARD: Final = "message/x.rsocket-mesh.shard.v1"
CALLER: Final = "message/x.rsocket-mesh.caller.v1"

MAX_ID: Final = 0x7F  # what seven bits can say
MAX_MIME_LENGTH: Final = 128  # characters; what "length - 1" in seven bits can say
MAX_TAG_LENGTH: Final = 255  # bytes of UTF-8; what one length byte can say
MAX_DEADLINE_MS: Final = 0xFFFF_FFFF


class TooMany(Invalid):
    """There is more of something than the reader wants to look at."""


class Entry(NamedTuple):
    """One entry of composite metadata; an unknown well-known id stays a number."""

    mime: str | int
    content: bytes


# -- MIME fields ----------------------------------------------------------------------------------


def encode_mime(mime: str | int) -> bytes:
    """Return a MIME field: one byte for a well-known type, else length - 1 and the text.

    Raises:
        LocalProtocolError: the text is empty, over 128 characters or not US-ASCII (C-127), or the
            number does not fit into seven bits.
    """
    return _encode_id_or_text(_WRITTEN_AS_ID.get(mime, mime), "MIME type")


def _encode_id_or_text(value: str | int, name: str) -> bytes:
    if isinstance(value, int):
        if not 0 <= value <= MAX_ID:
            raise LocalProtocolError(f"{name} id is {value}, must be 0 to {MAX_ID}")
        return bytes((0x80 | value,))
    if not value.isascii() or not 1 <= len(value) <= MAX_MIME_LENGTH:
        raise LocalProtocolError(
            f"{name} {value[:40]!r} of {len(value)} characters: needs 1 to {MAX_MIME_LENGTH} ASCII"
        )
    return bytes((len(value) - 1,)) + value.encode("ascii")


def _read_mime(raw: bytes, offset: int) -> tuple[str | int, int]:
    if offset >= len(raw):
        raise Invalid(f"metadata ends at byte {offset} where a MIME type should begin")
    first = raw[offset]
    if first & 0x80:
        number = first & 0x7F
        return WELL_KNOWN_MIME_TYPES.get(number, number), offset + 1
    stop = offset + 2 + first
    if stop > len(raw):
        raise Invalid(
            f"MIME type of {first + 1} bytes at byte {offset}, {len(raw) - offset - 1} left"
        )
    return raw[offset + 1 : stop].decode("ascii", "replace"), stop


def decode_mimes(raw: bytes, most: int | None = None) -> list[str | int]:
    """Return the MIME fields of *raw*, the content of an accept list (0x7B); at most *most*."""
    found: list[str | int] = []
    offset = 0
    while offset < len(raw) and len(found) != most:
        mime, offset = _read_mime(raw, offset)
        found.append(mime)
    return found


def decode_mime(raw: bytes) -> str | int:
    """Return the one MIME field of a per-stream data type (0x7A)."""
    mime, offset = _read_mime(raw, 0)
    if offset != len(raw):
        raise Invalid(f"data MIME type has {len(raw) - offset} bytes too many")
    return mime


def encode_mimes(mimes: Iterable[str | int]) -> bytes:
    """Return MIME fields one behind the other."""
    return b"".join(encode_mime(mime) for mime in mimes)


# -- composite metadata ---------------------------------------------------------------------------


def encode_entry(mime: str | int, content: bytes) -> bytes:
    """Return one composite entry; entries simply follow each other."""
    if len(content) > 0xFF_FFFF:
        raise LocalProtocolError(f"metadata entry of {len(content)} bytes exceeds 16777215")
    return b"".join((encode_mime(mime), len(content).to_bytes(3, "big"), content))


def encode_composite(entries: Iterable[tuple[str | int, bytes]]) -> bytes:
    """Return composite metadata with *entries* in their order."""
    return b"".join(encode_entry(mime, content) for mime, content in entries)


def iterate_composite(raw: bytes, most: int | None = None) -> Iterator[Entry]:
    """Yield the entries of composite metadata in order; empty metadata has none.

    Raises:
        Invalid: an entry runs past the end; the entries before it were already yielded.
        TooMany: there are more than *most*; so many were already yielded.
    """
    offset = 0
    left = -1 if most is None else most  # an entry takes 4 bytes, so -1 never comes down to 0
    while offset < len(raw):
        if not left:
            raise TooMany(f"metadata has more than {most} entries")
        left -= 1
        mime, start = _read_mime(raw, offset)
        begin = start + 3
        size = int.from_bytes(raw[start:begin], "big")
        if begin + size > len(raw):
            raise Invalid(
                f"metadata entry {mime!r} of {size} bytes announced, "
                f"{max(0, len(raw) - begin)} left"
            )
        yield Entry(mime, raw[begin : begin + size])
        offset = begin + size


def decode_composite(raw: bytes, most: int | None = None) -> list[Entry]:
    """Return all entries of composite metadata; raises as `iterate_composite`."""
    return list(iterate_composite(raw, most))


def find_entry(raw: bytes, mime: str, most: int | None = None) -> bytes | None:
    """Return the content of the first entry of type *mime*, or None if the first *most* entries
    have none; raises as `iterate_composite`."""
    for entry in iterate_composite(raw, most):
        if entry.mime == mime:
            return entry.content
    return None


# -- routing --------------------------------------------------------------------------------------


def encode_routing(tags: Iterable[str]) -> bytes:
    """Return routing tags; the first is the route by custom, the others are selectors."""
    pieces: list[bytes] = []
    for tag in tags:
        raw = tag.encode()
        if len(raw) > MAX_TAG_LENGTH:
            raise LocalProtocolError(f"routing tag of {len(raw)} bytes exceeds {MAX_TAG_LENGTH}")
        pieces.append(bytes((len(raw),)) + raw)
    return b"".join(pieces)


def decode_routing(raw: bytes, most: int | None = None) -> list[str]:
    """Return the tags, empty ones included.

    Raises:
        Invalid: a tag runs past the end or is not UTF-8.
        TooMany: there are more than *most*.
    """
    tags: list[str] = []
    offset = 0
    while offset < len(raw):
        if len(tags) == most:
            raise TooMany(f"routing metadata has more than {most} tags")
        stop = offset + 1 + raw[offset]
        if stop > len(raw):
            raise Invalid(
                f"routing tag of {raw[offset]} bytes announced, {len(raw) - offset - 1} left"
            )
        try:
            tags.append(raw[offset + 1 : stop].decode())
        except UnicodeDecodeError as exc:
            raise Invalid(f"routing tag {len(tags) + 1} is not UTF-8: {exc.reason}") from exc
        offset = stop
    return tags


# -- authentication -------------------------------------------------------------------------------


class SimpleCredentials(NamedTuple):
    """User name and password; only for encrypted transports. Never log it."""

    username: str
    password: str

    def __repr__(self) -> str:
        return f"SimpleCredentials(username={self.username!r}, password=...)"


class BearerCredentials(NamedTuple):
    """A token. Never log it."""

    token: str

    def __repr__(self) -> str:
        return "BearerCredentials(token=...)"


class OtherCredentials(NamedTuple):
    """Any other type of authentication, its payload as it came. Never log it."""

    kind: str | int
    payload: bytes

    def __repr__(self) -> str:
        return f"OtherCredentials(kind={self.kind!r}, payload=...)"


Credentials = SimpleCredentials | BearerCredentials | OtherCredentials


def encode_authentication(credentials: Credentials) -> bytes:
    """Return the content of an authentication entry (0x7C)."""
    if isinstance(credentials, SimpleCredentials):
        name = credentials.username.encode()
        if len(name) > 0xFFFF:
            raise LocalProtocolError(f"user name of {len(name)} bytes exceeds 65535")
        return b"\x80" + len(name).to_bytes(2, "big") + name + credentials.password.encode()
    if isinstance(credentials, BearerCredentials):
        return b"\x81" + credentials.token.encode()
    return _encode_id_or_text(credentials.kind, "authentication type") + credentials.payload


def decode_authentication(raw: bytes) -> Credentials:
    """Return the credentials of an authentication entry.

    Raises:
        Invalid: the entry is empty, or a length runs past its end (C-134); the text never
            contains a part of the credentials.
    """
    if not raw:
        raise Invalid("authentication entry is empty")
    first = raw[0]
    if not first & 0x80:
        stop = first + 2
        if stop > len(raw):
            raise Invalid(f"authentication type of {first + 1} bytes, {len(raw) - 1} left")
        return OtherCredentials(raw[1:stop].decode("ascii", "replace"), raw[stop:])
    if first & 0x7F > 1:
        return OtherCredentials(first & 0x7F, raw[1:])
    try:
        if first & 0x7F == 1:
            return BearerCredentials(raw[1:].decode())
        size = int.from_bytes(raw[1:3], "big")
        if len(raw) < 3 + size:
            raise Invalid(f"user name of {size} bytes announced, {max(0, len(raw) - 3)} left")
        return SimpleCredentials(raw[3 : 3 + size].decode(), raw[3 + size :].decode())
    except UnicodeDecodeError:
        raise Invalid("authentication entry is not UTF-8") from None


# -- tracing --------------------------------------------------------------------------------------


class TraceContext(NamedTuple):
    """A Zipkin entry. Ids are None when the entry carries only the sampling decision.

    `trace_id` has 8 or 16 bytes, the span ids 8; `sampled` is None while undecided.
    """

    trace_id: bytes | None = None
    span_id: bytes | None = None
    parent_id: bytes | None = None
    sampled: bool | None = None
    debug: bool = False


def encode_tracing(trace: TraceContext) -> bytes:
    """Return the content of a tracing entry (0x7D)."""
    flags = 0x40 if trace.debug else {True: 0x20, False: 0x10, None: 0}[trace.sampled]
    if trace.trace_id is None or trace.span_id is None:
        return bytes((flags,))
    if len(trace.trace_id) not in (8, 16) or len(trace.span_id) != 8:
        raise LocalProtocolError("trace id must have 8 or 16 bytes and span id 8")
    flags |= 0x80 | (0x08 if len(trace.trace_id) == 16 else 0)
    parent = trace.parent_id or b""
    if parent:
        if len(parent) != 8:
            raise LocalProtocolError(f"parent span id of {len(parent)} bytes must have 8")
        flags |= 0x04
    return bytes((flags,)) + trace.trace_id + trace.span_id + parent


def decode_tracing(raw: bytes) -> TraceContext | None:
    """Return the trace context, or None for an entry too short for its flags (C-135)."""
    if not raw:
        return None
    flags = raw[0]
    debug = bool(flags & 0x40)
    sampled = True if flags & 0x60 else False if flags & 0x10 else None
    if not flags & 0x80:
        return TraceContext(sampled=sampled, debug=debug)
    span_at = 17 if flags & 0x08 else 9
    parent_at = span_at + 8
    end = parent_at + (8 if flags & 0x04 else 0)
    if len(raw) < end:
        return None
    parent = raw[parent_at:end] or None
    return TraceContext(raw[1:span_at], raw[span_at:parent_at], parent, sampled, debug)


# -- ours -----------------------------------------------------------------------------------------


def encode_deadline(milliseconds: int) -> bytes:
    """Return the content of a deadline entry; what is over 49 days is cut to that."""
    return max(0, min(milliseconds, MAX_DEADLINE_MS)).to_bytes(4, "big")


def decode_deadline(raw: bytes) -> int:
    """Return the milliseconds that remain."""
    if len(raw) != 4:
        raise Invalid(f"deadline entry of {len(raw)} bytes must have 4")
    return int.from_bytes(raw, "big")
