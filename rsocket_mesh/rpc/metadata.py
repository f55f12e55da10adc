"""The metadata of requests: built on the caller's side, read on the service's.

Order matters for speed, not for meaning: routing first (the broker finds it without a scan), the
deadline right behind it (the broker rewrites it in place). The usual request holds exactly these
two and is read without a loop.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from rsocket_mesh.errors import LocalProtocolError
from rsocket_mesh.protocol.metadata import (
    ACCEPT_MIME_TYPES,
    DATA_MIME_TYPE,
    DEADLINE,
    MAX_DEADLINE_MS,
    ROUTING,
    TRACING,
    decode_deadline,
    decode_mime,
    encode_entry,
    encode_mime,
    encode_routing,
    iterate_composite,
)

RESERVED_KEYS: Final = frozenset({"m", "e", "sticky"})  # tags that other brokers give a meaning

MAX_SECONDS: Final = MAX_DEADLINE_MS / 1000  # 49 days; what a deadline entry can say

_ROUTING_ID: Final = encode_mime(ROUTING)[0]
_DEADLINE_HEADER: Final = encode_entry(DEADLINE, b"\0\0\0\0")[:-4]
_DEADLINE_SIZE: Final = len(_DEADLINE_HEADER) + 4


# (content of the routing entry, milliseconds that remain, type of the data where it isn't the
# connection's, content of the tracing entry, content of the accept list); None is absent. A plain
# tuple: one per request.
RequestMetadata = tuple[bytes | None, int | None, str | int | None, bytes | None, bytes | None]


def read_request(raw: bytes | None) -> RequestMetadata:
    """Return what the composite metadata *raw* of a request says; first entries of a type count.

    Raises:
        Invalid: an entry runs past the end, or ours has a wrong form.
    """
    if not raw:
        return None, None, None, None, None
    if raw[0] == _ROUTING_ID:
        end = 4 + int.from_bytes(raw[1:4], "big")
        size = len(raw)
        if size == end + _DEADLINE_SIZE and raw.startswith(_DEADLINE_HEADER, end):
            return raw[4:end], int.from_bytes(raw[-4:], "big"), None, None, None
        if size == end:
            return raw[4:], None, None, None, None
    first: dict[str | int, bytes] = {}
    for mime, content in iterate_composite(raw):
        first.setdefault(mime, content)
    deadline = first.get(DEADLINE)
    data_mime = first.get(DATA_MIME_TYPE)
    return (
        first.get(ROUTING),
        None if deadline is None else decode_deadline(deadline),
        None if data_mime is None else decode_mime(data_mime),
        first.get(TRACING),
        first.get(ACCEPT_MIME_TYPES),
    )


def is_usual(raw: bytes, routing: bytes) -> bool:
    """Return whether *raw* is the routing entry with *routing* and a deadline, and nothing else."""
    end = 4 + len(routing)
    return (
        len(raw) == end + _DEADLINE_SIZE
        and raw[0] == _ROUTING_ID
        and raw.startswith(_DEADLINE_HEADER, end)
    )


@lru_cache(maxsize=4096)
def routing_entry(route: str, selectors: tuple[tuple[str, str], ...] = ()) -> bytes:
    """Return the routing entry for *route* with *selectors*, ready for composite metadata.

    Raises:
        ValueError: the route is empty, a tag is over 255 bytes, or a key is reserved or holds `=`.
    """
    if not route:
        raise ValueError("the route is empty; it should be such as 'orders.total'")
    for key, _value in selectors:
        if not key or "=" in key or key in RESERVED_KEYS:
            raise ValueError(f"selector {key!r} cannot be used: keys are words; m, e, sticky not")
    try:
        tags = encode_routing([route, *(f"{key}={value}" for key, value in selectors)])
    except LocalProtocolError as exc:
        raise ValueError(str(exc)) from exc
    return encode_entry(ROUTING, tags)


def deadline_entry(seconds: float) -> bytes:
    """Return the deadline entry for *seconds* from now; at least 1 ms, at most 49 days."""
    milliseconds = max(1, int(min(seconds, MAX_SECONDS) * 1000))
    return _DEADLINE_HEADER + milliseconds.to_bytes(4, "big")


@lru_cache(maxsize=64)
def mime_entry(mime: str) -> bytes:
    """Return the entry that says the data of this stream is *mime*."""
    return encode_entry(DATA_MIME_TYPE, encode_mime(mime))


def trace_entry(trace: bytes) -> bytes:
    """Return the tracing entry with content *trace*, as it came in."""
    return encode_entry(TRACING, trace)
