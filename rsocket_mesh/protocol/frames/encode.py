"""Frames as bytes, written: one function per type.

What the specification forbids is refused with `LocalProtocolError` before anything is written.
Undefined flag bits are sent as 0 (C-11).
Source: RSocket Protocol 1.0, each frame's own section, named in its function.
"""

from __future__ import annotations

from rsocket_mesh.errors import MAX_ERROR_TEXT, LocalProtocolError
from rsocket_mesh.protocol.frames.bodies import Ext, Lease, Resume, Setup
from rsocket_mesh.protocol.frames.header import (
    CANCEL,
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
    HEADER,
    KEEPALIVE,
    LEASE,
    MAX_FRAME_SIZE,
    MAX_REQUEST_N,
    MAX_STREAM_ID,
    MAX_U31,
    MAX_U63,
    METADATA_PUSH,
    PAYLOAD,
    REQUEST_CHANNEL,
    REQUEST_N,
    REQUEST_STREAM,
    RESUME,
    RESUME_HEAD,
    RESUME_OK,
    SETUP,
    SETUP_HEAD,
    STREAM_ID,
    TWO_U32,
    TYPE_NAMES,
    U64,
    describe,
)


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
                SETUP_HEAD.pack(
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
    body = TWO_U32.pack(
        _number("lease time-to-live in ms", lease.ttl_ms, 0, MAX_U31),
        _number("leased requests", lease.requests, 0, MAX_U31),
    )
    return _checked(_header(0, LEASE, flags) + body + (lease.metadata or b""))


def encode_keepalive(respond: bool, position: int = 0, data: bytes = b"") -> bytes:
    """Return a KEEPALIVE frame; *position* is 0 when resume is not in use ("Keepalive Frame")."""
    flags = FLAG_RESPOND if respond else 0
    body = U64.pack(_number("position", position, 0, MAX_U63))
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
            RESUME_HEAD.pack(resume.major, resume.minor, size),
            resume.token,
            U64.pack(_number("position", resume.last_server_position, 0, MAX_U63)),
            U64.pack(_number("position", resume.first_client_position, 0, MAX_U63)),
        )
    )


def encode_resume_ok(position: int) -> bytes:
    """Return a RESUME_OK frame ("Resume OK Frame")."""
    return _header(0, RESUME_OK, 0) + U64.pack(_number("position", position, 0, MAX_U63))


def encode_ext(ext: Ext) -> bytes:
    """Return an EXT frame; send one only to peers that agreed to it ("Extension Frame")."""
    flags = FLAG_METADATA if ext.metadata is not None else 0
    flags |= FLAG_IGNORE if ext.ignore else 0
    body = STREAM_ID.pack(_number("extended type", ext.extended_type, 1, MAX_U31))
    return _checked(_header(ext.stream_id, EXT, flags) + body + _tail(ext.metadata, ext.data))
