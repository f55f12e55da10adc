"""What changes in the metadata of a request on its way: as little as the two sides allow.

Only a request's first frame is ever spliced, and only between sessions that differ: metadata that
is not composite is wrapped (or unwrapped) for the provider, the data type of the caller's SETUP is
stated if the provider's differs, credentials stay on their hop, and a provider that asked for it is
told who calls, in the first entry.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from broker.forwarding.limiter import OverLimit
from rsocket_mesh.protocol.frames import MAX_FRAME_SIZE, Request, encode_payload, encode_request
from rsocket_mesh.protocol.metadata import (
    AUTHENTICATION,
    CALLER,
    COMPOSITE,
    DATA_MIME_TYPE,
    DEADLINE,
    OCTET_STREAM,
    ROUTING,
    SHARD,
    Entry,
    TooMany,
    decode_composite,
    encode_composite,
    encode_deadline,
    encode_entry,
    encode_mime,
)

OWN_ENTRIES: Final = "message/x.rsocket-mesh."
HOP_ONLY: Final = frozenset({AUTHENTICATION, CALLER})  # said to the broker, or by it


class Shape(NamedTuple):
    """How one session writes its requests; sessions of one shape share one object.

    `caller_entry` is true for providers that want to be told who calls.
    """

    metadata_mime: str
    data_mime: str
    caller_entry: bool = False


class Wanted(NamedTuple):
    """What the broker reads from the metadata of a request; None for what is not there."""

    routing: bytes | None = None
    deadline: bytes | None = None
    shard: bytes | None = None
    entries: tuple[Entry, ...] = ()


def read(metadata: bytes | None, mime: str, most: int) -> Wanted:
    """Return what is of interest in *metadata* of a session with the metadata type *mime*.

    Raises:
        Invalid: composite metadata that cannot be taken apart.
        OverLimit: it has more than *most* entries.
    """
    if metadata is None:
        return Wanted()
    if mime == ROUTING:
        return Wanted(routing=metadata)
    if mime != COMPOSITE:
        return Wanted()
    try:
        entries = decode_composite(metadata, most)
    except TooMany as exc:
        raise OverLimit("metadata_entries", exc.text) from None
    first: dict[str | int, bytes] = {}
    for entry in entries:
        first.setdefault(entry.mime, entry.content)
    return Wanted(first.get(ROUTING), first.get(DEADLINE), first.get(SHARD), tuple(entries))


def splice(
    metadata: bytes | None,
    wanted: Wanted,
    sends: Shape,
    takes: Shape,
    caller_entry: bytes,
    remaining_ms: int | None,
) -> bytes | None:
    """Return the metadata for the provider; the same object if nothing has to change.

    Args:
        wanted: what `read` found in *metadata*.
        caller_entry: who calls, as JSON, for providers that asked.
        remaining_ms: the deadline to restamp; None leaves it as it is.
    Raises:
        LocalProtocolError: an entry cannot be written, such as one with a MIME type too long.
    """
    if sends.metadata_mime in HOP_ONLY:
        metadata = None
    if takes.metadata_mime == ROUTING and sends.metadata_mime == COMPOSITE:
        return wanted.routing
    entries = [entry for entry in wanted.entries if entry.mime not in HOP_ONLY]
    if takes.metadata_mime != COMPOSITE:
        return metadata if len(entries) == len(wanted.entries) else encode_composite(entries)
    if sends.metadata_mime != COMPOSITE and metadata is not None:
        entries = [Entry(sends.metadata_mime or OCTET_STREAM, metadata)]
    if remaining_ms is not None:
        entries = [
            Entry(DEADLINE, encode_deadline(remaining_ms)) if entry.mime == DEADLINE else entry
            for entry in entries
        ]
    if sends.data_mime != takes.data_mime and sends.data_mime and not _states_type(entries):
        entries.append(Entry(DATA_MIME_TYPE, encode_mime(sends.data_mime)))
    if not entries and metadata is None:
        return encode_entry(CALLER, caller_entry) if takes.caller_entry else None
    result = encode_composite(entries)
    if takes.caller_entry:
        return encode_entry(CALLER, caller_entry) + result
    # Not as we would write it: the sender may write a type that has an id as text (C-144).
    return metadata if tuple(entries) == wanted.entries and metadata is not None else result


def splice_push(metadata: bytes, wanted: Wanted, sends: Shape, takes: Shape) -> bytes:
    """Return the metadata of a push for the provider; `wanted` is what `read` found in it.

    Raises:
        LocalProtocolError: as `splice`.
    """
    entries = wanted.entries
    if sends.metadata_mime != COMPOSITE:
        if takes.metadata_mime != COMPOSITE:
            return metadata
        entries = (Entry(sends.metadata_mime or OCTET_STREAM, metadata),)
    # Entries of ours that one peer pushes for another are lies or accidents.
    return encode_composite(
        entry
        for entry in entries
        if entry.mime not in HOP_ONLY and not str(entry.mime).startswith(OWN_ENTRIES)
    )


def _states_type(entries: list[Entry]) -> bool:
    return any(entry.mime == DATA_MIME_TYPE for entry in entries)


def cut_request(
    request: Request, stream_id: int, metadata: bytes | None, data: bytes, follows: bool
) -> list[bytes]:
    """Return the frames of *request* with other *metadata*: two if it became too long for one.

    Args:
        data: what has come of the data so far; *follows* if more fragments will come behind it.
    """
    kind, initial_n, complete = request.kind, request.initial_n, request.complete
    fixed = 10 + (3 + len(metadata) if metadata is not None else 0)
    room = MAX_FRAME_SIZE - fixed
    if len(data) <= room:
        return [encode_request(kind, stream_id, metadata, data, initial_n, follows, complete)]
    # COMPLETE stands on the last fragment only, and that may not be ours.
    early = complete and follows
    first = encode_request(kind, stream_id, metadata, data[:room], initial_n, True, early)
    last = encode_payload(stream_id, None, data[room:], True, complete and not follows, follows)
    return [first, last]
