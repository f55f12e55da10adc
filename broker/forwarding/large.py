"""Large frames, forwarded in the parts in which they came: nothing of them is copied.

Beside `relay`, for the one frame that is 64 KiB or more and therefore worth a few microseconds of
its own. The same laws hold. What is neither a PAYLOAD of a known stream nor a plain request is
refused here (False, nothing has happened), is joined by the transport, and goes the way of all
frames.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from broker.forwarding.turns import think_of
from broker.kernel.opening import open_call
from rsocket_mesh.protocol.frames import MAX_STREAM_ID, PAYLOAD, REQUEST_FNF, REQUEST_RESPONSE
from rsocket_mesh.protocol.framing import PREFIX_SIZE

if TYPE_CHECKING:
    from broker.forwarding.link import Link

_HEAD: Final = Struct(">IH").unpack_from
_METADATA_LENGTH_END: Final = 12  # bytes: prefix, header, length of the metadata


def forward_large(link: Link, head: bytes, tail: list[memoryview]) -> bool:
    """Forward the frame that *head* and *tail* are together, or open a call with it.

    Returns:
        False if it has to take the general way.
    """
    if len(head) < _METADATA_LENGTH_END:
        return False
    stream_id, word = _HEAD(head, PREFIX_SIZE)
    leg = link.streams.get(stream_id)
    if leg is None:
        return _open_large(link, head, tail, stream_id, word)
    if word >> 10 != PAYLOAD:
        return False
    link.hub.counters.frames_in += 1
    think_of(link, head[PREFIX_SIZE:], tail, word, leg)
    return True


def _open_large(link: Link, head: bytes, tail: list[memoryview], stream_id: int, word: int) -> bool:
    """Open a call with a request whose metadata is in *head*."""
    kind = word >> 10
    if kind < REQUEST_RESPONSE or kind == REQUEST_FNF:
        return False
    if not stream_id & 1 or stream_id > MAX_STREAM_ID:
        return False
    if not open_call(link, head, 0, len(head), stream_id, word, []):
        return False
    provider = link.streams[stream_id][0]
    provider.out += tail
    counters = link.hub.counters
    counters.frames_in += 1
    counters.frames_out += 1
    provider.transport.flush()
    return True
