"""Frame headers and bodies: peek and restamp without decoding, encode and decode each type.

Bottom of `protocol`; imports `struct` and `errors` only. The broker forwards frames that it never
decodes, so the cheap questions (which stream? what type?) are functions over raw bytes. A frame
here is always one whole frame *without* the length prefix (see `framing`).
Decoding is strict: what the specification calls malformed raises `RemoteProtocolError`, nothing is
masked away or cut short. Undefined flag bits are sent as 0 and ignored on receipt (C-11).
Source: RSocket Protocol 1.0, "Framing Format" and each frame's own section.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct, error
from typing import Final, NamedTuple

from rsocket_mesh.errors import (
    MAX_ERROR_TEXT,
    ErrorCode,
    LocalProtocolError,
    RemoteProtocolError,
)

HEADER: Final = Struct(">IH")  # stream id: 31 bits | type: 6 bits, flags: 10 bits
STREAM_ID: Final = Struct(">I")
MAX_FRAME_SIZE: Final = 0xFF_FFFF  # bytes, header included; what 24 length bits can say
MAX_REQUEST_N: Final = 0x7FFF_FFFF  # items; also what peers send for "no limit"
MAX_STREAM_ID: Final = 0x7FFF_FFFF
MAX_U31: Final = 0x7FFF_FFFF
MAX_U63: Final = 0x7FFF_FFFF_FFFF_FFFF
VERSION: Final = (1, 0)


class FrameType(IntEnum):
    """The six type bits. Use `TYPE_NAMES` for logs: constructing the enum costs 250 ns."""

    SETUP = 0x01
    LEASE = 0x02
    KEEPALIVE = 0x03
    REQUEST_RESPONSE = 0x04
    REQUEST_FNF = 0x05
    REQUEST_STREAM = 0x06
    REQUEST_CHANNEL = 0x07
    REQUEST_N = 0x08
    CANCEL = 0x09
    PAYLOAD = 0x0A
    ERROR = 0x0B
    METADATA_PUSH = 0x0C
    RESUME = 0x0D
    RESUME_OK = 0x0E
    EXT = 0x3F


# Plain ints for the wire path: comparing and masking an int costs 4 ns, an IntFlag 700.
SETUP: Final = 0x01
LEASE: Final = 0x02
KEEPALIVE: Final = 0x03
REQUEST_RESPONSE: Final = 0x04
REQUEST_FNF: Final = 0x05
REQUEST_STREAM: Final = 0x06
REQUEST_CHANNEL: Final = 0x07
REQUEST_N: Final = 0x08
CANCEL: Final = 0x09
PAYLOAD: Final = 0x0A
ERROR: Final = 0x0B
METADATA_PUSH: Final = 0x0C
RESUME: Final = 0x0D
RESUME_OK: Final = 0x0E
EXT: Final = 0x3F

FLAG_IGNORE: Final = 0x200
FLAG_METADATA: Final = 0x100
FLAG_FOLLOWS: Final = 0x080  # requests and PAYLOAD
FLAG_RESUME: Final = 0x080  # SETUP
FLAG_RESPOND: Final = 0x080  # KEEPALIVE
FLAG_COMPLETE: Final = 0x040  # REQUEST_CHANNEL and PAYLOAD
FLAG_LEASE: Final = 0x040  # SETUP
FLAG_NEXT: Final = 0x020  # PAYLOAD

TYPE_NAMES: Final[dict[int, str]] = {int(kind): kind.name for kind in FrameType}
MIN_SIZE: Final[dict[int, int]] = {  # bytes, header included; shorter is malformed (C-16)
    SETUP: 20,
    LEASE: 14,
    KEEPALIVE: 14,
    REQUEST_RESPONSE: 6,
    REQUEST_FNF: 6,
    REQUEST_STREAM: 10,
    REQUEST_CHANNEL: 10,
    REQUEST_N: 10,
    CANCEL: 6,
    PAYLOAD: 6,
    ERROR: 10,
    METADATA_PUSH: 6,
    RESUME: 28,
    RESUME_OK: 14,
    EXT: 10,
}


class Setup(NamedTuple):
    """Body of SETUP; times in milliseconds, `resume_token` None without the flag."""

    keepalive_ms: int
    lifetime_ms: int
    metadata_mime: str
    data_mime: str
    metadata: bytes | None = None
    data: bytes = b""
    lease: bool = False
    resume_token: bytes | None = None
    major: int = 1
    minor: int = 0


class Lease(NamedTuple):
    ttl_ms: int
    requests: int
    metadata: bytes | None = None


class KeepAlive(NamedTuple):
    respond: bool
    position: int
    data: bytes = b""


class Request(NamedTuple):
    """Body of the four REQUEST_x; `initial_n` is None for response and fire-and-forget."""

    kind: int
    stream_id: int
    metadata: bytes | None
    data: bytes
    initial_n: int | None = None
    follows: bool = False
    complete: bool = False


class PayloadFrame(NamedTuple):
    stream_id: int
    metadata: bytes | None
    data: bytes
    next: bool = True
    complete: bool = False
    follows: bool = False


class Error(NamedTuple):
    stream_id: int
    code: int
    text: str


class Resume(NamedTuple):
    token: bytes
    last_server_position: int
    first_client_position: int
    major: int = 1
    minor: int = 0


class Ext(NamedTuple):
    stream_id: int
    extended_type: int
    metadata: bytes | None
    data: bytes
    ignore: bool = False


# -- cheap questions over raw bytes ---------------------------------------------------------------


def peek(frame: bytes) -> tuple[int, int, int]:
    """Return `(stream_id, type, flags)` of one whole frame, copying nothing."""
    try:
        stream_id, word = HEADER.unpack_from(frame)
    except error as exc:
        raise RemoteProtocolError(
            f"frame of {len(frame)} bytes, the header alone needs {HEADER.size}"
        ) from exc
    if stream_id >> 31:  # never masked away: it would alias another stream (C-10)
        raise RemoteProtocolError(f"reserved bit set in stream id {stream_id:#010x}")
    return stream_id, word >> 10, word & 0x3FF


def restamp(frame: bytes, stream_id: int) -> bytes:
    """Return *frame* under another stream id: all that forwarding changes."""
    return STREAM_ID.pack(stream_id) + frame[4:]


def describe(frame: bytes) -> str:
    """Return a short readable form for logs, such as `PAYLOAD(stream 7, flags 0x060, 12 bytes)`."""
    if len(frame) < HEADER.size:
        return f"{len(frame)} bytes"
    stream_id, word = HEADER.unpack_from(frame)
    name = TYPE_NAMES.get(word >> 10, f"type {word >> 10:#04x}")
    return f"{name}(stream {stream_id}, flags {word & 0x3FF:#05x}, {len(frame)} bytes)"


# -- encoding -------------------------------------------------------------------------------------


def _header(stream_id: int, kind: int, flags: int) -> bytes:
    return HEADER.pack(stream_id, kind << 10 | flags)


def _checked(frame: bytes) -> bytes:
    if len(frame) > MAX_FRAME_SIZE:
        raise LocalProtocolError(
            f"{describe(frame)} exceeds {MAX_FRAME_SIZE} bytes; send it in fragments"
        )
    return frame


def _number(name: str, value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise LocalProtocolError(f"{name} is {value}, must be {low} to {high}")
    return value


def _tail(metadata: bytes | None, data: bytes) -> bytes:
    if metadata is None:
        return data
    if len(metadata) > MAX_FRAME_SIZE:
        raise LocalProtocolError(f"metadata of {len(metadata)} bytes exceeds {MAX_FRAME_SIZE}")
    return b"".join((len(metadata).to_bytes(3, "big"), metadata, data))


def _text(name: str, value: str, limit: int) -> bytes:
    try:
        raw = value.encode("ascii")
    except UnicodeEncodeError as exc:
        raise LocalProtocolError(f"{name} {value!r} is not US-ASCII") from exc
    if len(raw) > limit:
        raise LocalProtocolError(f"{name} of {len(raw)} bytes exceeds {limit}")
    return raw


def encode_setup(setup: Setup) -> bytes:
    """Return a SETUP frame ("Setup Frame").

    MIME types are kept to 127 bytes: Java and rsocket-py read their length as a signed byte.
    """
    flags = FLAG_METADATA if setup.metadata is not None else 0
    flags |= FLAG_LEASE if setup.lease else 0
    token = b""
    if setup.resume_token is not None:
        flags |= FLAG_RESUME
        size = _number("resume token length", len(setup.resume_token), 0, 0xFFFF)
        token = size.to_bytes(2, "big") + setup.resume_token
    metadata_mime = _text("metadata MIME type", setup.metadata_mime, 127)
    data_mime = _text("data MIME type", setup.data_mime, 127)
    return _checked(
        b"".join(
            (
                _header(0, SETUP, flags),
                _SETUP.pack(
                    setup.major,
                    setup.minor,
                    _number("keepalive interval in ms", setup.keepalive_ms, 1, MAX_U31),
                    _number("max lifetime in ms", setup.lifetime_ms, 1, MAX_U31),
                ),
                token,
                bytes((len(metadata_mime),)),
                metadata_mime,
                bytes((len(data_mime),)),
                data_mime,
                _tail(setup.metadata, setup.data),
            )
        )
    )


def encode_lease(lease: Lease) -> bytes:
    """Return a LEASE frame; zero in either number withdraws permission ("Lease Frame")."""
    flags = FLAG_METADATA if lease.metadata is not None else 0
    body = _TWO_U32.pack(
        _number("lease time-to-live in ms", lease.ttl_ms, 0, MAX_U31),
        _number("leased requests", lease.requests, 0, MAX_U31),
    )
    return _checked(_header(0, LEASE, flags) + body + (lease.metadata or b""))


def encode_keepalive(respond: bool, position: int = 0, data: bytes = b"") -> bytes:
    """Return a KEEPALIVE frame; *position* is 0 when resume is not in use ("Keepalive Frame")."""
    flags = FLAG_RESPOND if respond else 0
    body = _U64.pack(_number("position", position, 0, MAX_U63))
    return _checked(_header(0, KEEPALIVE, flags) + body + data)


def encode_request(
    kind: int,
    stream_id: int,
    metadata: bytes | None,
    data: bytes,
    initial_n: int | None = None,
    follows: bool = False,
    complete: bool = False,
) -> bytes:
    """Return one of the four REQUEST_x frames; *initial_n* goes with stream and channel only."""
    flags = FLAG_METADATA if metadata is not None else 0
    flags |= FLAG_FOLLOWS if follows else 0
    if complete:
        if kind != REQUEST_CHANNEL:  # for the others the flag is not defined (C-11)
            raise LocalProtocolError(f"{TYPE_NAMES[kind]} cannot complete the requester's side")
        flags |= FLAG_COMPLETE
    header = _header(_number("stream id", stream_id, 1, MAX_STREAM_ID), kind, flags)
    if kind in (REQUEST_STREAM, REQUEST_CHANNEL):
        header += STREAM_ID.pack(_number("initial request n", initial_n or 0, 1, MAX_REQUEST_N))
    elif initial_n is not None:
        raise LocalProtocolError(f"{TYPE_NAMES[kind]} has no initial request n")
    return _checked(header + _tail(metadata, data))


def encode_payload(
    stream_id: int,
    metadata: bytes | None,
    data: bytes,
    next: bool = True,
    complete: bool = False,
    follows: bool = False,
) -> bytes:
    """Return a PAYLOAD frame; one of *next* and *complete* must be set ("Payload Frame")."""
    if not (next or complete):
        raise LocalProtocolError("PAYLOAD needs NEXT or COMPLETE")
    flags = FLAG_METADATA if metadata is not None else 0
    flags |= FLAG_NEXT if next else 0
    flags |= FLAG_COMPLETE if complete else 0
    flags |= FLAG_FOLLOWS if follows else 0
    return _checked(_header(stream_id, PAYLOAD, flags) + _tail(metadata, data))


def encode_request_n(stream_id: int, n: int) -> bytes:
    """Return a REQUEST_N frame ("RequestN Frame")."""
    return _header(stream_id, REQUEST_N, 0) + STREAM_ID.pack(
        _number("request n", n, 1, MAX_REQUEST_N)
    )


def encode_cancel(stream_id: int) -> bytes:
    """Return a CANCEL frame ("Cancel Frame")."""
    return _header(stream_id, CANCEL, 0)


def encode_error(stream_id: int, code: int, text: str) -> bytes:
    """Return an ERROR frame; a text over `MAX_ERROR_TEXT` bytes is cut ("Error Frame").

    Raises:
        LocalProtocolError: the code does not belong to this kind of stream (C-44).
    """
    if (stream_id == 0) != (code < 0x200):
        raise LocalProtocolError(f"error code {code:#05x} does not go with stream {stream_id}")
    raw = text.encode("utf-8", "replace")
    if len(raw) > MAX_ERROR_TEXT:
        raw = raw[:MAX_ERROR_TEXT].decode("utf-8", "ignore").encode()
    return _header(stream_id, ERROR, 0) + STREAM_ID.pack(code) + raw


def encode_metadata_push(metadata: bytes) -> bytes:
    """Return a METADATA_PUSH frame ("Metadata Push Frame")."""
    return _checked(_header(0, METADATA_PUSH, FLAG_METADATA) + metadata)


def encode_resume(resume: Resume) -> bytes:
    """Return a RESUME frame ("Resume Frame")."""
    size = _number("resume token length", len(resume.token), 0, 0xFFFF)
    return b"".join(
        (
            _header(0, RESUME, 0),
            _RESUME_HEAD.pack(resume.major, resume.minor, size),
            resume.token,
            _U64.pack(_number("position", resume.last_server_position, 0, MAX_U63)),
            _U64.pack(_number("position", resume.first_client_position, 0, MAX_U63)),
        )
    )


def encode_resume_ok(position: int) -> bytes:
    """Return a RESUME_OK frame ("Resume OK Frame")."""
    return _header(0, RESUME_OK, 0) + _U64.pack(_number("position", position, 0, MAX_U63))


def encode_ext(ext: Ext) -> bytes:
    """Return an EXT frame; send one only to peers that agreed to it ("Extension Frame")."""
    flags = FLAG_METADATA if ext.metadata is not None else 0
    flags |= FLAG_IGNORE if ext.ignore else 0
    body = STREAM_ID.pack(_number("extended type", ext.extended_type, 1, MAX_U31))
    return _checked(_header(ext.stream_id, EXT, flags) + body + _tail(ext.metadata, ext.data))


# -- decoding -------------------------------------------------------------------------------------

_SETUP: Final = Struct(">HHII")
_TWO_U32: Final = Struct(">II")
_U64: Final = Struct(">Q")
_RESUME_HEAD: Final = Struct(">HHH")


def _short(frame: bytes, kind: int) -> None:
    if len(frame) < MIN_SIZE[kind]:
        raise RemoteProtocolError(f"{describe(frame)} is shorter than {MIN_SIZE[kind]} bytes")


def _u31(frame: bytes, offset: int, name: str) -> int:
    value = int(STREAM_ID.unpack_from(frame, offset)[0])
    if value >> 31:
        raise RemoteProtocolError(f"{describe(frame)}: top bit of {name} is set ({value:#010x})")
    return value


def _u63(frame: bytes, offset: int, name: str) -> int:
    value = int(_U64.unpack_from(frame, offset)[0])
    if value >> 63:
        raise RemoteProtocolError(f"{describe(frame)}: top bit of {name} is set ({value:#018x})")
    return value


def decode_tail(frame: bytes, offset: int, flags: int) -> tuple[bytes | None, bytes]:
    """Return `(metadata, data)` that begin at *offset*; None means absent, b"" empty."""
    if not flags & FLAG_METADATA:
        return None, frame[offset:]
    start = offset + 3
    size = int.from_bytes(frame[offset:start], "big")
    if start + size > len(frame):
        left = max(0, len(frame) - start)
        raise RemoteProtocolError(
            f"{describe(frame)}: metadata of {size} bytes announced, {left} left"
        )
    return frame[start : start + size], frame[start + size :]


def decode_setup(frame: bytes) -> Setup:
    """Decode SETUP; every fault raises `RemoteProtocolError` with the code INVALID_SETUP.

    The version is not judged here: that is the connection's decision.
    """
    try:
        return _decode_setup(frame)
    except RemoteProtocolError as exc:
        raise RemoteProtocolError(str(exc), ErrorCode.INVALID_SETUP) from exc


def _decode_setup(frame: bytes) -> Setup:
    _, _, flags = peek(frame)
    _short(frame, SETUP)
    major, minor, _, _ = _SETUP.unpack_from(frame, 6)
    keepalive_ms = _u31(frame, 10, "keepalive interval")
    lifetime_ms = _u31(frame, 14, "max lifetime")
    if not keepalive_ms or not lifetime_ms:
        raise RemoteProtocolError(
            f"keepalive interval {keepalive_ms} ms and max lifetime {lifetime_ms} ms must be > 0"
        )
    offset = 18
    token = None
    if flags & FLAG_RESUME:
        token, offset = _sized(frame, offset, 2, "resume token")
    metadata_mime, offset = _sized(frame, offset, 1, "metadata MIME type")
    data_mime, offset = _sized(frame, offset, 1, "data MIME type")
    metadata, data = decode_tail(frame, offset, flags)
    return Setup(
        keepalive_ms,
        lifetime_ms,
        metadata_mime.decode("ascii", "replace"),
        data_mime.decode("ascii", "replace"),
        metadata,
        data,
        bool(flags & FLAG_LEASE),
        token,
        major,
        minor,
    )


def _sized(frame: bytes, offset: int, width: int, name: str) -> tuple[bytes, int]:
    start = offset + width
    size = int.from_bytes(frame[offset:start], "big")
    if start + size > len(frame):
        left = max(0, len(frame) - start)
        raise RemoteProtocolError(
            f"{describe(frame)}: {name} of {size} bytes announced, {left} left"
        )
    return frame[start : start + size], start + size


def decode_lease(frame: bytes) -> Lease:
    """Decode LEASE; its metadata has no length field (C-20)."""
    _, _, flags = peek(frame)
    _short(frame, LEASE)
    metadata = frame[14:] if flags & FLAG_METADATA else None
    return Lease(_u31(frame, 6, "time-to-live"), _u31(frame, 10, "number of requests"), metadata)


def decode_keepalive(frame: bytes) -> KeepAlive:
    """Decode KEEPALIVE."""
    _, _, flags = peek(frame)
    _short(frame, KEEPALIVE)
    return KeepAlive(bool(flags & FLAG_RESPOND), _u63(frame, 6, "position"), frame[14:])


def decode_request(frame: bytes) -> Request:
    """Decode any REQUEST_x.

    An initial request n of 0 or with the top bit set is returned as it stands: it ends one stream
    (ERROR[INVALID]), not the connection, and that is the stream's decision (C-75).
    """
    stream_id, kind, flags = peek(frame)
    _short(frame, kind)
    follows = bool(flags & FLAG_FOLLOWS)
    if kind < REQUEST_STREAM:
        metadata, data = decode_tail(frame, 6, flags)
        return Request(kind, stream_id, metadata, data, None, follows)
    metadata, data = decode_tail(frame, 10, flags)
    initial_n = STREAM_ID.unpack_from(frame, 6)[0]
    complete = kind == REQUEST_CHANNEL and bool(flags & FLAG_COMPLETE)
    return Request(kind, stream_id, metadata, data, initial_n, follows, complete)


def decode_payload(frame: bytes) -> PayloadFrame:
    """Decode PAYLOAD; whether NEXT and COMPLETE make sense is the stream's decision (C-88)."""
    stream_id, _, flags = peek(frame)
    metadata, data = decode_tail(frame, 6, flags)
    return PayloadFrame(
        stream_id,
        metadata,
        data,
        bool(flags & FLAG_NEXT),
        bool(flags & FLAG_COMPLETE),
        bool(flags & FLAG_FOLLOWS),
    )


def decode_request_n(frame: bytes) -> int:
    """Return the raw 32-bit n; 0 or the top bit set is for the stream to judge (C-76)."""
    _short(frame, REQUEST_N)
    return int(STREAM_ID.unpack_from(frame, 6)[0])


def decode_error(frame: bytes) -> Error:
    """Decode ERROR; text that is not UTF-8 is replaced, never an exception (C-47)."""
    stream_id, _, _ = peek(frame)
    _short(frame, ERROR)
    return Error(
        stream_id, STREAM_ID.unpack_from(frame, 6)[0], frame[10:].decode("utf-8", "replace")
    )


def decode_metadata_push(frame: bytes) -> bytes:
    """Return the metadata of METADATA_PUSH: all of the frame behind the header."""
    _short(frame, METADATA_PUSH)
    return frame[6:]


def decode_resume(frame: bytes) -> Resume:
    """Decode RESUME."""
    _short(frame, RESUME)
    major, minor, _ = _RESUME_HEAD.unpack_from(frame, 6)
    token, offset = _sized(frame, 10, 2, "resume token")
    if len(frame) < offset + 16:
        raise RemoteProtocolError(f"{describe(frame)}: {len(frame) - offset} of 16 position bytes")
    return Resume(
        token,
        _u63(frame, offset, "last received server position"),
        _u63(frame, offset + 8, "first available client position"),
        major,
        minor,
    )


def decode_resume_ok(frame: bytes) -> int:
    """Return the last received client position of RESUME_OK."""
    _short(frame, RESUME_OK)
    return _u63(frame, 6, "last received client position")


def decode_ext(frame: bytes) -> Ext:
    """Decode EXT."""
    stream_id, _, flags = peek(frame)
    _short(frame, EXT)
    metadata, data = decode_tail(frame, 10, flags)
    return Ext(
        stream_id, _u31(frame, 6, "extended type"), metadata, data, bool(flags & FLAG_IGNORE)
    )
