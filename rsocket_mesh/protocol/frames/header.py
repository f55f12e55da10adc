"""Frame headers: types, flags and sizes; read and restamp them without decoding what follows.

Bottom of `frames`; imports `struct` and `errors` only. The broker forwards frames that it never
decodes, so the cheap questions (which stream? what type?) are functions over raw bytes.
Source: RSocket Protocol 1.0, "Frame Header Format" and "Frame Types".
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct, error
from typing import Final

from rsocket_mesh.errors import RemoteProtocolError

HEADER: Final = Struct(">IH")  # stream id: 31 bits | type: 6 bits, flags: 10 bits
STREAM_ID: Final = Struct(">I")
SETUP_HEAD: Final = Struct(">HHII")
TWO_U32: Final = Struct(">II")
U64: Final = Struct(">Q")
RESUME_HEAD: Final = Struct(">HHH")

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
