"""One frame as a case looks at it, and as a person reads it in a report.

Never raises on what a subject sends: a frame that cannot be decoded is shown as bytes.
"""

from __future__ import annotations

from typing import Final

from rsocket_mesh.errors import ErrorCode
from rsocket_mesh.protocol.frames import (
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
    METADATA_PUSH,
    PAYLOAD,
    REQUEST_CHANNEL,
    REQUEST_FNF,
    REQUEST_N,
    REQUEST_RESPONSE,
    REQUEST_STREAM,
    RESUME_OK,
    SETUP,
    TYPE_NAMES,
)

SHOWN: Final = 24  # bytes of data in a readable frame
_BODY_AT: Final[dict[int, int]] = {  # where metadata and data begin
    REQUEST_RESPONSE: 6,
    REQUEST_FNF: 6,
    REQUEST_STREAM: 10,
    REQUEST_CHANNEL: 10,
    PAYLOAD: 6,
    KEEPALIVE: 14,
    ERROR: 10,
    LEASE: 14,
    METADATA_PUSH: 6,
    EXT: 10,
}
_LENGTH_IN_FRONT: Final = frozenset(
    (REQUEST_RESPONSE, REQUEST_FNF, REQUEST_STREAM, REQUEST_CHANNEL, PAYLOAD, EXT)
)
_REQUEST_FLAGS: Final = {FLAG_FOLLOWS: "F"}
_FLAGS: Final[dict[int, dict[int, str]]] = {
    SETUP: {FLAG_RESUME: "R", FLAG_LEASE: "L"},
    KEEPALIVE: {FLAG_RESPOND: "R"},
    REQUEST_RESPONSE: _REQUEST_FLAGS,
    REQUEST_FNF: _REQUEST_FLAGS,
    REQUEST_STREAM: _REQUEST_FLAGS,
    REQUEST_CHANNEL: {FLAG_FOLLOWS: "F", FLAG_COMPLETE: "C"},
    PAYLOAD: {FLAG_FOLLOWS: "F", FLAG_COMPLETE: "C", FLAG_NEXT: "N"},
}


class SeenFrame:
    """A frame that a subject sent (or a case did).

    Attributes:
        raw: the whole frame without length prefix.
        kind, flags, stream_id: of its header; kind -1 if it has none.
    """

    __slots__ = ("flags", "kind", "raw", "stream_id")

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        if len(raw) < HEADER.size:
            self.stream_id, self.kind, self.flags = 0, -1, 0
        else:
            self.stream_id, word = HEADER.unpack_from(raw)
            self.kind, self.flags = word >> 10, word & 0x3FF

    @property
    def next(self) -> bool:
        return bool(self.flags & FLAG_NEXT)

    @property
    def complete(self) -> bool:
        return bool(self.flags & FLAG_COMPLETE)

    @property
    def follows(self) -> bool:
        return bool(self.flags & FLAG_FOLLOWS)

    @property
    def metadata(self) -> bytes | None:
        """The metadata; None if there is none, or if its length makes no sense."""
        if not self.flags & FLAG_METADATA or self.kind not in _BODY_AT:
            return None
        start = _BODY_AT[self.kind]
        if self.kind not in _LENGTH_IN_FRONT:
            return self.raw[start:]
        size = int.from_bytes(self.raw[start : start + 3], "big")
        if start + 3 + size > len(self.raw):
            return None
        return self.raw[start + 3 : start + 3 + size]

    @property
    def data(self) -> bytes:
        """All behind the metadata; of ERROR its text."""
        start = _BODY_AT.get(self.kind, HEADER.size)
        if self.kind in (LEASE, METADATA_PUSH):
            return b""
        metadata = self.metadata
        return self.raw[start if metadata is None else start + 3 + len(metadata) :]

    @property
    def number(self) -> int:
        """The first 32-bit number of the body: request n, error code, time to live; else 0."""
        return int.from_bytes(self.raw[6:10], "big") if len(self.raw) >= 10 else 0

    @property
    def position(self) -> int:
        """The 64-bit number of KEEPALIVE and RESUME_OK."""
        return int.from_bytes(self.raw[6:14], "big")

    def __str__(self) -> str:
        if self.kind < 0:
            return f"{len(self.raw)} bytes: {self.raw.hex(' ')}"
        parts = [f"{TYPE_NAMES.get(self.kind, f'type {self.kind:#04x}')}({self.stream_id}"]
        letters = "".join(
            letter for flag, letter in _FLAGS.get(self.kind, {}).items() if self.flags & flag
        )
        letters += "M" if self.flags & FLAG_METADATA else ""
        letters += "I" if self.flags & FLAG_IGNORE else ""
        parts += [letters] if letters else []
        parts += self._body()
        return ", ".join(parts) + ")"

    def _body(self) -> list[str]:
        if self.kind == ERROR:
            try:
                code = ErrorCode(self.number).name
            except ValueError:
                code = f"{self.number:#x}"
            return [code, repr(self.data[:200].decode("utf-8", "replace"))]
        if self.kind == REQUEST_N:
            return [f"n={self.number}"]
        if self.kind in (KEEPALIVE, RESUME_OK):
            text = [f"position={self.position}"]
            return [*text, _shown(self.data)] if self.kind == KEEPALIVE else text
        if self.kind == LEASE and len(self.raw) >= 14:
            requests = int.from_bytes(self.raw[10:14], "big")
            return [f"ttl={self.number} ms", f"requests={requests}"]
        if self.kind not in _BODY_AT:
            return [f"{len(self.raw)} bytes"]
        parts = [f"n={self.number}"] if self.kind in (REQUEST_STREAM, REQUEST_CHANNEL) else []
        metadata = self.metadata
        if metadata is not None:
            parts.append(f"metadata of {len(metadata)}")
        return [*parts, _shown(self.data)]


def _shown(data: bytes) -> str:
    if len(data) <= SHOWN:
        return repr(data)
    return f"{data[:SHOWN]!r}... {len(data)} bytes"
