"""The inner loop: cut frames, find the pair, restamp, append to the other side's outbound, count.

A batch of bytes comes in. Frames of known streams that need no thought leave as they are under the
other side's stream id; requests go to `opening`, everything else to `turns`, in the order in which
the frames came. Peers that were given something are flushed once, at the end.

Per frame nothing is made but three slices: no object, no call, no event. Measured in
`make bench`; each line here costs every user of the broker, so it earns its place there.
The compiled twin (`compiled.pyx`) does the same, statement for statement, with the frames of one
batch gathered in a buffer per peer; a differential test feeds both the same bytes.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from broker.kernel.law import ITEM, ITEM_UP
from broker.kernel.opening import open_call
from rsocket_mesh.protocol.frames import FLAG_METADATA, MAX_STREAM_ID

if TYPE_CHECKING:
    from broker.kernel.cores import CreditCore, LinkCore
    from rsocket_mesh.transport.base import Chunk

# Length (24 bits, as 8 + 16), stream id, type and flags: prefix and header in one unpacking.
_HEAD: Final = Struct(">BHIH").unpack_from
_LENGTH: Final = Struct(">BH").unpack_from
_HEAD_SIZE: Final = 9  # bytes
_FIRST_REQUEST: Final = 0x04 << 10  # REQUEST_RESPONSE; the four requests are neighbours
_LAST_REQUEST: Final = 0x07 << 10 | 0x3FF


def _relay_run(
    data: bytes,
    position: int,
    header: bytes,
    stamp: bytes,
    out: list[Chunk],
    credit: CreditCore,
    limit: int,
) -> int:
    """Relay the items of one stream that follow each other from *position* on, all with the same
    *header*; return where they end. What is true of the first of them is true of all, so half of
    what `relay` does per frame is left out, and credit is counted once."""
    begin, end_of_data, left = position, len(data), credit.left
    before = left
    while left and data.startswith(header, position + 3):
        high, low = _LENGTH(data, position)
        size = high << 16 | low
        stop = position + 3 + size
        if stop > end_of_data or not 6 <= size <= limit:
            break
        out.append(data[position : position + 3])
        out.append(stamp)
        out.append(data[position + 7 : stop])
        left -= 1
        position = stop
    credit.left = left
    credit.bytes += position - begin - 3 * (before - left)  # the prefixes do not count
    return position


def relay(link: LinkCore, data: bytes) -> int:
    """Take a batch from *link*; return how many bytes were used.

    Bytes are left over if a frame is incomplete or its length is not allowed; the transport tells
    one from the other.
    """
    streams = link.streams
    hub = link.hub
    limit = hub.frame_limit
    touched: list[LinkCore] = []
    position, end_of_data = 0, len(data)
    frames = thought = 0
    while end_of_data - position >= _HEAD_SIZE:
        high, low, stream_id, word = _HEAD(data, position)
        size = high << 16 | low
        stop = position + 3 + size
        if stop > end_of_data or not 6 <= size <= limit:
            break
        frames += 1
        leg = streams.get(stream_id)
        if leg is not None:
            peer, stamp, law, call = leg
            action = law.get(word)
            # `congested` is read once per batch and peer: behind the first frame, `out` is true.
            if (
                action is not None
                and action <= ITEM_UP
                and ((out := peer.out) or not peer.congested)
                and (
                    not word & FLAG_METADATA
                    or int.from_bytes(data[position + 9 : position + 12], "big") <= size - 9
                )
                and (not action or (credit := call.down if action == ITEM else call.up).left)
            ):
                if not out:
                    touched.append(peer)
                out.append(data[position : position + 3])
                out.append(stamp)
                out.append(data[position + 7 : stop])
                if action:
                    credit.left -= 1
                    credit.bytes += size
                    header = data[position + 3 : position + _HEAD_SIZE]
                    if data.startswith(header, stop + 3) and not word & FLAG_METADATA:
                        before = credit.left
                        stop = _relay_run(data, stop, header, stamp, out, credit, limit)
                        frames += before - credit.left
                else:
                    call.forget()
                    call.counters.ok += 1
                position = stop
                continue
            thought += 1
            link.think(data, position, stop, word, leg)
        elif (
            _FIRST_REQUEST <= word <= _LAST_REQUEST
            and stream_id & 1
            and stream_id <= MAX_STREAM_ID
            and open_call(link, data, position, stop, stream_id, word, touched)
        ):
            position = stop
            continue
        else:
            thought += 1
            link.take_frame(data[position + 3 : stop])
        if not link.open:  # what it sent behind its end reaches nobody
            position = end_of_data
            break
        position = stop
    counters = hub.counters
    counters.frames_in += frames
    counters.frames_out += frames - thought
    for peer in touched:
        peer.transport.flush()
    return position
