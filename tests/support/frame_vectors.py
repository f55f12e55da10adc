"""Frames in hex, with what they say: the vectors of the protocol's test suites and our own.

The same bytes serve the codec, the connection and the broker, so they are written down once.
Frames stand without the length prefix.
"""

from __future__ import annotations

from typing import Final

from rsocket_mesh.protocol import frames as f
from rsocket_mesh.protocol.frames import Error, Ext, KeepAlive, Lease, PayloadFrame, Request, Setup


def raw(text: str) -> bytes:
    """Return the bytes of *text* in hex; blanks are for people."""
    return bytes.fromhex(text)


SETUP_ALL: Final = Setup(500, 1500, "a/b", "c/d", b"m", b"d", lease=True, resume_token=b"\1\2")

# What a frame of each type says, and exactly how it is written.
WELL_FORMED: Final[list[tuple[str, object]]] = [
    (
        "00000000 05c0 00010000 000001f4 000005dc 00020102 03612f62 03632f64 0000016d 64",
        SETUP_ALL,
    ),
    ("00000000 0400 00010000 00000001 00000001 00 00", Setup(1, 1, "", "")),
    ("00000001 2c00 00000201 64", Error(1, 0x201, "d")),
    ("00000000 0800 00007530 0000000a", Lease(30_000, 10)),
    ("00000000 0800 00000000 00000000", Lease(0, 0)),
    ("00000000 0900 00007530 0000000a 6d64", Lease(30_000, 10, b"md")),
    ("00000000 0c80 0000000000000000 64", KeepAlive(True, 0, b"d")),
    ("00000000 0c00 0000000000000000 64", KeepAlive(False, 0, b"d")),
    ("00000001 1000 6869", Request(f.REQUEST_RESPONSE, 1, None, b"hi")),
    ("00000001 1000", Request(f.REQUEST_RESPONSE, 1, None, b"")),
    ("00000001 1100 000002 6d64 64", Request(f.REQUEST_RESPONSE, 1, b"md", b"d")),
    ("00000003 1400 78", Request(f.REQUEST_FNF, 3, None, b"x")),
    ("00000001 1900 00000001 000002 6d64 64", Request(f.REQUEST_STREAM, 1, b"md", b"d", 1)),
    ("00000001 1900 00000001 000000 64", Request(f.REQUEST_STREAM, 1, b"", b"d", 1)),
    ("00000001 1800 00000001 64", Request(f.REQUEST_STREAM, 1, None, b"d", 1)),
    ("00000005 1800 7fffffff 64", Request(f.REQUEST_STREAM, 5, None, b"d", f.MAX_REQUEST_N)),
    (
        "00000007 1c40 00000010 64",
        Request(f.REQUEST_CHANNEL, 7, None, b"d", 16, complete=True),
    ),
    ("00000001 2820 64", PayloadFrame(1, None, b"d")),
    ("00000001 2820", PayloadFrame(1, None, b"")),
    ("00000001 2860 64", PayloadFrame(1, None, b"d", complete=True)),
    ("00000001 2840", PayloadFrame(1, None, b"", next=False, complete=True)),
    ("00000001 29a0 000002 6d64", PayloadFrame(1, b"md", b"", follows=True)),
    ("00000001 28e0 64", PayloadFrame(1, None, b"d", complete=True, follows=True)),
    (
        "00000000 3400 00010000 0002 0102 0000000000000064 0000000000000032",
        f.Resume(b"\1\2", 100, 50),
    ),
    ("00000001 fe00 00000001 64", Ext(1, 1, None, b"d", ignore=True)),
]

# Frames whose body is one plain value: (hex, the type, the value).
PLAIN: Final[list[tuple[str, int, object]]] = [
    ("00000001 2000 00000005", f.REQUEST_N, 5),
    ("00000000 3800 0000000000000032", f.RESUME_OK, 50),
    ("00000000 3800 000000000000000b", f.RESUME_OK, 11),
    ("00000000 3100 6d64", f.METADATA_PUSH, b"md"),
    ("00000001 2400", f.CANCEL, None),
]
