"""The fast way to open a call: a plain request on a route that is already in the cache.

Plain means: composite metadata with the routing entry first and at most a deadline behind it, in
one frame, between two sessions that need no splicing. That is every call of our own library. All
other requests are refused here (False, nothing has happened) and take the general way, through
`LinkCore.take_frame`.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from broker.kernel.law import CALLER_WAITS, RESPONSE
from rsocket_mesh.protocol.frames import (
    FLAG_METADATA,
    MAX_REQUEST_N,
    MAX_STREAM_ID,
    REQUEST_FNF,
    REQUEST_RESPONSE,
    REQUEST_STREAM,
    STREAM_ID,
)
from rsocket_mesh.protocol.metadata import DEADLINE, encode_deadline, encode_entry

if TYPE_CHECKING:
    from broker.kernel.cores import LinkCore

_ROUTING_ID: Final = 0xFE  # well-known id 0x7E, as the first byte of an entry
_DEADLINE_ENTRY: Final = encode_entry(DEADLINE, encode_deadline(0))
_DEADLINE_SIZE: Final = len(_DEADLINE_ENTRY)
_DEADLINE_HEAD: Final = _DEADLINE_ENTRY[:-4]
_FLAGS_BUT_METADATA: Final = 0x3FF & ~FLAG_METADATA
# Length of the metadata (24 bits, as 8 + 16), id and length of its first entry, likewise.
_METADATA_HEAD: Final = Struct(">BHBBH").unpack_from
_stamp: Final = STREAM_ID.pack


def open_call(  # noqa: C901 - one straight path per request; a call more would cost each of them
    link: LinkCore,
    data: bytes,
    position: int,
    stop: int,
    stream_id: int,
    word: int,
    touched: list[LinkCore],
) -> bool:
    """Open the call that begins at *position* of the batch *data*, if that is plain.

    Returns:
        False if the request has to take the general way; nothing was changed then.
    """
    routes = link.routes
    if routes is None or not word & FLAG_METADATA or word & _FLAGS_BUT_METADATA:
        return False
    kind = word >> 10
    offset = position + 9 if kind < REQUEST_STREAM else position + 13
    tags = offset + 7
    if tags > stop:
        return False
    high, low, entry, tags_high, tags_low = _METADATA_HEAD(data, offset)
    end = offset + 3 + (high << 16 | low)
    if end > stop or entry != _ROUTING_ID:
        return False
    routing_end = tags + (tags_high << 16 | tags_low)
    rest = end - routing_end
    deadline = None
    if rest:
        if rest != _DEADLINE_SIZE or not data.startswith(_DEADLINE_HEAD, routing_end):
            return False
        deadline = int.from_bytes(data[end - 4 : end], "big")
    route = routes.get(data[tags:routing_end])
    if route is None or route.is_budgeted or stream_id in link.held or not link.requests_left:
        return False
    provider = route.only
    if provider is None:
        provider = link.choose(route)
        if provider is None:
            return False
    provider_id = provider.next_id
    if (
        provider.takes is not link.sends
        or not provider.accepting
        or provider_id > MAX_STREAM_ID
        or provider_id in provider.streams  # after the ids have wrapped
    ):
        return False
    counters = route.counters
    stamp = _stamp(provider_id)
    granted = initial = 0
    if kind == REQUEST_RESPONSE:
        hub = link.hub
        if deadline is None:
            bucket = hub.default_bucket
        else:
            if deadline != hub.deadline_ms:
                hub.deadline_bucket = hub.wheel.bucket(hub.now + deadline * 0.001)
                hub.deadline_ms = deadline
            bucket = hub.deadline_bucket
        call = hub.call_class(link, stream_id, provider, provider_id, kind, counters, bucket)
        bucket.add(call)
        link.streams[stream_id] = (provider, stamp, CALLER_WAITS, call)
        provider.streams[provider_id] = (
            link,
            data[position + 3 : position + 7],
            RESPONSE,
            call,
        )
        provider.in_flight += 1
    elif kind == REQUEST_FNF:
        counters.ok += 1
    else:
        initial = int.from_bytes(data[position + 9 : position + 13], "big")
        if not 1 <= initial <= MAX_REQUEST_N:
            return False
        granted = link.open_items(stream_id, provider, provider_id, kind, route, initial, deadline)
    link.requests_left -= 1
    counters.started += 1
    provider.next_id = provider_id + 2
    out = provider.out
    if not out:
        touched.append(provider)
    out.append(data[position : position + 3])
    out.append(stamp)
    if granted == initial:
        out.append(data[position + 7 : stop])
    else:  # the consumer asks for more than the window
        out.append(data[position + 7 : position + 9])
        out.append(_stamp(granted))
        out.append(data[position + 13 : stop])
    return True
