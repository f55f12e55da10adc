"""Payloads that say what they are: which call, which item of it, how long, and a digest of it all.

So whoever receives one knows whether it is the right one, whole and unchanged, without having seen
what was sent. An empty payload says nothing, and is only right where an empty one was asked for.
"""

from __future__ import annotations

import hashlib
import random
from struct import Struct
from typing import Final

import msgspec

MIB: Final = 1 << 20
HEAD: Final = Struct(">4sQII16s")  # magic, call, item, size of all, digest
_MAGIC: Final = b"SOAK"
_FIELDS: Final = Struct(">QII")
_NOISE: Final = random.Random(1).randbytes(MIB)  # body bytes; where they begin depends on the call


class Wrong(Exception):
    """Something arrived that was never sent like this."""


class Ask(msgspec.Struct):
    """What a caller asks for; `data` is a payload of item 0."""

    call: int
    data: bytes
    size: int = 0  # bytes of the answer, or of the largest item
    count: int = 1  # items
    pause: float = 0.0  # s before the answer, or between items


def make(call: int, item: int, size: int) -> bytes:
    """Return a payload of *size* bytes; those that are too short for a head have none."""
    if size < HEAD.size:
        return b""
    begin = (call * 7919 + item * 104_729) % MIB
    left = size - HEAD.size
    body = _NOISE[begin : begin + left]
    while len(body) < left:
        body += _NOISE[: left - len(body)]
    return HEAD.pack(_MAGIC, call, item, size, _digest(call, item, size, body)) + body


def check(data: bytes, call: int, item: int, size: int) -> None:
    """Raise `Wrong` unless *data* is `make(call, item, size)`."""
    if not data:
        if size >= HEAD.size:
            raise Wrong(f"call {call:#x} item {item}: empty instead of {size} bytes")
        return
    if len(data) < HEAD.size:
        raise Wrong(f"call {call:#x} item {item}: {len(data)} bytes, cut inside the head")
    magic, said_call, said_item, said_size, digest = HEAD.unpack_from(data)
    if (magic, said_call, said_item) != (_MAGIC, call, item):
        raise Wrong(f"call {call:#x} item {item}: got call {said_call:#x} item {said_item}")
    if not len(data) == said_size == size:
        raise Wrong(f"call {call:#x} item {item}: {len(data)} bytes instead of {size}")
    if digest != _digest(call, item, size, data[HEAD.size :]):
        raise Wrong(f"call {call:#x} item {item}: {size} bytes with other content")


def call_of(data: bytes) -> int:
    """Return the call that a payload says it belongs to."""
    if len(data) < HEAD.size:
        raise Wrong(f"{len(data)} bytes say no call")
    return int(HEAD.unpack_from(data)[1])


def item_size(call: int, item: int, largest: int) -> int:
    """Return the size of an item: any up to *largest*, the same at both ends."""
    return (call * 31 + item * 7919) % (largest + 1)


def _digest(call: int, item: int, size: int, body: bytes) -> bytes:
    digest = hashlib.blake2b(_FIELDS.pack(call, item, size), digest_size=16)
    digest.update(body)
    return digest.digest()
