"""Every decoder of the project, and the only errors that may come out of it.

This table is the one list that the replay of the corpus, the mutations (`test_decoders`) and the
long runs (`python -m tests.fuzz.atheris_run`) share. A target takes any bytes; besides "nothing
else escapes" it checks what must hold of whatever it accepted, so that a decoder which quietly
invents or loses something fails as well.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec
from google.protobuf import descriptor_pb2

from broker.config import ConfigError
from broker.config_file import load
from broker.forwarding.splice import Shape, read, splice, splice_push
from broker.routing.address import parse_address
from broker.routing.pattern import _TOKENS, PatternTree, canonical
from rsocket_mesh.codec.base import Codec, DecodeError, EncodeError, find_codec
from rsocket_mesh.errors import (
    Canceled,
    Invalid,
    LocalProtocolError,
    RemoteProtocolError,
    StreamError,
    error_from_wire,
)
from rsocket_mesh.protocol import metadata as m
from rsocket_mesh.protocol.announce import decode_announcement, encode_announcement
from rsocket_mesh.protocol.fragments import Reassembly, ReassemblyBudget
from rsocket_mesh.protocol.frames import MAX_FRAME_SIZE, decode_payload, peek
from rsocket_mesh.protocol.framing import Backlog, cut
from rsocket_mesh.protocol.version import parse_range, parse_version
from rsocket_mesh.rpc.metadata import read_request
from rsocket_mesh.transport.url import InvalidUrl, parse_url
from tests.fuzz.sessions import SESSIONS
from tests.support.frame_codec import DECODE, encode

FRAME_LIMIT: Final = 4096  # bytes; small, so that inputs reach it
MESSAGE_LIMIT: Final = 2048  # bytes of one reassembled message here
MOST_ENTRIES: Final = 128  # entries of metadata; a corpus file has more
NO_ERROR: Final[tuple[type[Exception], ...]] = ()


class Decoder(NamedTuple):
    """A target: what takes the bytes, and what it may raise for them."""

    run: Callable[[bytes], object]
    allowed: tuple[type[Exception], ...] = NO_ERROR

    def __call__(self, data: bytes) -> None:
        """Feed *data*; whatever is not allowed escapes."""
        try:
            self.run(data)
        except self.allowed:
            pass


# -- frames ---------------------------------------------------------------------------------------


def frame(data: bytes) -> None:
    """A frame of any type: what was understood is written as it was read."""
    kind = peek(data)[1]
    decoder = DECODE.get(kind)
    if decoder is None:
        return
    body = decoder(data)
    if not isinstance(body, tuple):
        return
    try:
        again = encode(body)
    except LocalProtocolError:  # legal to receive and to judge, but not to send (C-75, C-76)
        return
    if "�" not in str(body):
        assert decoder(again) == body, (body, again)


def framing(data: bytes) -> None:
    """A byte stream in pieces: whole frames come out as if it had come at once."""
    size, stream = 1 + data[:1].count(0) * 30 + (data[0] if data else 0), data[1:]
    frames: list[bytes] = []
    backlog = Backlog(FRAME_LIMIT)
    refused = False
    for start in range(0, len(stream), size):
        batch = backlog.feed(stream[start : start + size])
        if batch is None:
            continue
        try:
            found, used = cut(batch, FRAME_LIMIT)
            frames += found
            if used < len(batch):
                backlog.keep(batch[used:])
        except RemoteProtocolError:
            refused = True
            break
    assert len(backlog) <= FRAME_LIMIT + 3
    whole, used = _cut_at_once(stream)
    assert frames == whole, (frames, whole)
    if not refused:
        assert sum(map(len, frames)) + 3 * len(frames) == used


def _cut_at_once(stream: bytes) -> tuple[list[bytes], int]:
    try:
        return cut(stream, FRAME_LIMIT)
    except RemoteProtocolError:
        return [], 0


def fragments(data: bytes) -> None:
    """PAYLOAD frames of one message: the pieces joined, and the budget back where it was."""
    budget = ReassemblyBudget(MESSAGE_LIMIT, MESSAGE_LIMIT)
    pieces = Reassembly(budget)
    try:
        expected = b""
        for piece in cut(data, FRAME_LIMIT)[0]:
            fragment = decode_payload(piece)
            pieces.add(fragment.metadata, fragment.data)
            expected += fragment.data
            assert budget.used <= MESSAGE_LIMIT
        assert pieces.finish().data == expected
    finally:
        pieces.drop()
        assert budget.used == 0


def stream_error(data: bytes) -> None:
    """The text of an ERROR frame: always an exception of ours, and one that can be sent on."""
    error = error_from_wire(int.from_bytes(data[:4], "big"), data[4:].decode("utf-8", "replace"))
    assert isinstance(error, StreamError)
    code, text = error.to_wire()
    assert isinstance(code, int)
    assert isinstance(text, str)


# -- metadata -------------------------------------------------------------------------------------


def composite(data: bytes) -> None:
    """Composite metadata: no byte is lost, and none belongs to two entries."""
    entries = m.decode_composite(data)
    assert sum(4 + len(entry.content) for entry in entries) <= len(data)
    try:
        again = m.encode_composite(entries)
    except LocalProtocolError:  # a MIME type that is not ASCII: kept readable, never sent
        return
    assert m.decode_composite(again) == entries


def request_metadata(data: bytes) -> None:
    """What the library and the broker read from a request's metadata is the same."""
    routing, deadline, *_ = read_request(data)
    wanted = read(data, m.COMPOSITE, MOST_ENTRIES)
    assert wanted.routing == routing
    assert (m.decode_deadline(wanted.deadline) if wanted.deadline else None) == deadline


def spliced(data: bytes) -> None:
    """Metadata between sessions of different types: what leaves can be read again."""
    sends = Shape(m.COMPOSITE, m.CBOR)
    takes = Shape(m.COMPOSITE, m.JSON, caller_entry=True)
    wanted = read(data, m.COMPOSITE, MOST_ENTRIES)
    for out in (
        splice(data, wanted, sends, takes, b"{}", 1500),
        splice_push(data, wanted, sends, takes),
    ):
        entries = m.decode_composite(out or b"")
        assert all(entry.mime != m.AUTHENTICATION for entry in entries)


def routing(data: bytes) -> None:
    """Routing tags, and the address that they are."""
    tags = m.decode_routing(data)
    assert m.encode_routing(tags) == data
    address = parse_address(tags)
    assert address.route == tags[0]
    address.selectors()


def authentication(data: bytes) -> None:
    """Credentials: written as they were read, and never shown."""
    found = m.decode_authentication(data)
    try:
        again = m.encode_authentication(found)
    except LocalProtocolError:
        return
    assert m.decode_authentication(again) == found


def tracing(data: bytes) -> None:
    """A trace context or None; nothing is refused."""
    found = m.decode_tracing(data)
    if found is not None:
        assert m.decode_tracing(m.encode_tracing(found)) == found


def announcement(data: bytes) -> None:
    """An announcement that was accepted is accepted again as we write it."""
    found = decode_announcement(data)
    assert decode_announcement(encode_announcement(found)) == found


# -- text -----------------------------------------------------------------------------------------

_VERSIONS: Final = ("0", "1.4.0", "1.4.0-rc.1", "2", "999999999.1")


def version(data: bytes) -> None:
    """A version compares with every other."""
    found = parse_version(data.decode("utf-8", "replace"))
    for other in map(parse_version, _VERSIONS):
        assert (found < other) + (found == other) + (found > other) == 1


def version_range(data: bytes) -> None:
    """A range answers for every version."""
    found = parse_range(data.decode("utf-8", "replace"))
    for other in map(parse_version, _VERSIONS):
        assert (other in found) in (True, False)


def pattern(data: bytes) -> None:
    """A tree of patterns finds what was put in, and is empty again once all is taken out."""
    texts = [canonical(text) for text in data.decode("utf-8", "replace").split("\n") if text]
    tree: PatternTree[str] = PatternTree()
    for text in texts:
        tree.set(text, text)
    for text in texts:
        route = "".join("x" if token == "{}" else token for token in _TOKENS.findall(text))
        assert tree.match(route) is not None
    for text in texts:
        tree.remove(text)
    assert all(tree.match(text) is None for text in texts)
    assert not tree._root.branches


def url(data: bytes) -> None:
    """A URL is written in a form that means the same."""
    found = parse_url(data.decode("utf-8", "replace"))
    assert parse_url(str(found)) == found


class _File:
    """As much of a path as `load` uses: no disk in the inner loop of a fuzzer."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def open(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)

    def __str__(self) -> str:
        return "fuzz.toml"


def config_file(data: bytes) -> None:
    load(_File(data))  # type: ignore[arg-type]


def environment(data: bytes) -> None:
    """One variable a line."""
    lines = data.decode("utf-8", "replace").split("\n")
    pairs = (line.partition("=") for line in lines)
    load(environ={f"RSOCKET_BROKER_{name}": value for name, _, value in pairs})


# -- codecs ---------------------------------------------------------------------------------------


class Order(msgspec.Struct):
    """A value with a field of each usual kind."""

    sku: str
    quantity: int = 1
    price: float | None = None
    raw: bytes = b""
    parts: list[str] = []
    more: dict[str, Any] = {}


def protobuf(data: bytes) -> None:
    """Messages with strings, numbers, lists and messages in them; what was decoded is encoded."""
    found = find_codec("protobuf")
    message = found.decode(data, descriptor_pb2.FieldDescriptorProto)
    assert found.decode(found.encode(message), descriptor_pb2.FieldDescriptorProto) == message
    for name in ("json", "cbor"):  # its JSON mapping; a number that is no number has none
        find_codec(name).encode(message)


def codec(name: str) -> Callable[[bytes], None]:
    """Return a target: untyped and typed; what was decoded can be encoded."""
    found: Codec = find_codec(name)
    wanted = (Any, Order, int, str, list[dict[str, int]], set[str])

    def run(data: bytes) -> None:
        refusals = []
        for kind in wanted:
            try:
                value = found.decode(data, kind)
            except DecodeError as exc:
                refusals.append(exc)
                continue
            try:
                found.encode(value)
            except EncodeError:  # CBOR reads keys and sets that have no other form
                pass
        if len(refusals) == len(wanted):
            raise refusals[0]

    return run


DECODERS: Final[dict[str, Decoder]] = {
    "frame": Decoder(frame, (RemoteProtocolError,)),
    "framing": Decoder(framing, (RemoteProtocolError,)),
    "fragments": Decoder(fragments, (RemoteProtocolError, Canceled, Invalid)),
    "stream_error": Decoder(stream_error),
    "composite": Decoder(composite, (Invalid,)),
    "request_metadata": Decoder(request_metadata, (Invalid,)),
    "spliced": Decoder(spliced, (Invalid, LocalProtocolError)),
    "routing": Decoder(routing, (Invalid,)),
    "mime": Decoder(m.decode_mime, (Invalid,)),
    "accept_mimes": Decoder(m.decode_mimes, (Invalid,)),
    "authentication": Decoder(authentication, (Invalid,)),
    "tracing": Decoder(tracing),
    "deadline": Decoder(m.decode_deadline, (Invalid,)),
    "announcement": Decoder(announcement, (Invalid,)),
    "version": Decoder(version, (Invalid,)),
    "version_range": Decoder(version_range, (Invalid,)),
    "pattern": Decoder(pattern),
    "url": Decoder(url, (InvalidUrl,)),
    "config_file": Decoder(config_file, (ConfigError,)),
    "environment": Decoder(environment, (ConfigError,)),
    "cbor": Decoder(codec("cbor"), (DecodeError,)),
    "json": Decoder(codec("json"), (DecodeError,)),
    "msgpack": Decoder(codec("msgpack"), (DecodeError,)),
    "protobuf": Decoder(protobuf, (DecodeError,)),
    "raw": Decoder(codec("raw"), (DecodeError,)),
    "text": Decoder(codec("text"), (DecodeError,)),
    **{name: Decoder(run) for name, run in SESSIONS.items()},
}
assert FRAME_LIMIT < MAX_FRAME_SIZE
