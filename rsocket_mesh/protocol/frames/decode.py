"""Frames as bytes, read: one function per type.

Strict: what the specification calls malformed raises `RemoteProtocolError`, nothing is masked away
or cut short. Undefined flag bits are ignored (C-11). A function is given a frame of its own type,
whole and without the length prefix; what a sound value means is for those who asked.
Source: RSocket Protocol 1.0, each frame's own section.
"""

from __future__ import annotations

from rsocket_mesh.errors import ErrorCode, RemoteProtocolError
from rsocket_mesh.protocol.frames.bodies import (
    Error,
    Ext,
    KeepAlive,
    Lease,
    PayloadFrame,
    Request,
    Resume,
    Setup,
)
from rsocket_mesh.protocol.frames.header import (
    ERROR,
    EXT,
    FLAG_COMPLETE,
    FLAG_FOLLOWS,
    FLAG_IGNORE,
    FLAG_LEASE,
    FLAG_METADATA,
    FLAG_NEXT,
    FLAG_RESPOND,
    FLAG_RESUME,
    KEEPALIVE,
    LEASE,
    METADATA_PUSH,
    MIN_SIZE,
    REQUEST_CHANNEL,
    REQUEST_N,
    REQUEST_STREAM,
    RESUME,
    RESUME_HEAD,
    RESUME_OK,
    SETUP,
    SETUP_HEAD,
    STREAM_ID,
    U64,
    describe,
    peek,
)


def _short(frame: bytes, kind: int) -> None:
    if len(frame) < MIN_SIZE[kind]:
        raise RemoteProtocolError(f"{describe(frame)} is shorter than {MIN_SIZE[kind]} bytes")


def _u31(frame: bytes, offset: int, name: str) -> int:
    value = int(STREAM_ID.unpack_from(frame, offset)[0])
    if value >> 31:
        raise RemoteProtocolError(f"{describe(frame)}: top bit of {name} is set ({value:#010x})")
    return value


def _u63(frame: bytes, offset: int, name: str) -> int:
    value = int(U64.unpack_from(frame, offset)[0])
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
    major, minor, _, _ = SETUP_HEAD.unpack_from(frame, 6)
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
    major, minor, _ = RESUME_HEAD.unpack_from(frame, 6)
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
