"""Frames that the inner loop has no leg for: stream 0, requests, and all that is out of place.

Stands beside `link`, which the inner loop asks to take such a frame.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.forwarding.requests import request_arrived
from rsocket_mesh.errors import RemoteProtocolError
from rsocket_mesh.protocol.frames import (
    FLAG_IGNORE,
    REQUEST_CHANNEL,
    REQUEST_RESPONSE,
    TYPE_NAMES,
    describe,
    peek,
)

if TYPE_CHECKING:
    from broker.forwarding.link import Link


def take_stray(link: Link, frame: bytes) -> None:
    """Deal with a frame of an open session that belongs to no call."""
    try:
        stream_id, kind, flags = peek(frame)
        if stream_id == 0:
            if link.hub.limiter.allows_control(link, kind, frame):
                link.handle(link.connection.receive_frame(frame, link.hub.now))
        elif (held := link.held.get(stream_id)) is not None:
            held.take(frame)
        elif link.local is not None and (
            link.local.owns(stream_id) or stream_id in link.local.outbox.busy
        ):
            link.local.receive_frame(stream_id, kind, flags, frame)
        elif REQUEST_RESPONSE <= kind <= REQUEST_CHANNEL and stream_id & 1:
            if stream_id in link.streams:
                link.ignored("request on a stream id in use")
            elif flags & FLAG_IGNORE:
                _take_or_drop(link, frame)
            else:
                request_arrived(link, frame)
        elif kind in TYPE_NAMES or flags & FLAG_IGNORE:
            link.ignored(TYPE_NAMES.get(kind, "unknown type"))
        else:  # C-13: perhaps its lengths went wrong, and then nothing behind it has a meaning
            link.violated(f"{describe(frame)} is not understood and must not be ignored")
    except RemoteProtocolError as exc:
        link.violated(str(exc))


def _take_or_drop(link: Link, frame: bytes) -> None:
    try:
        request_arrived(link, frame)
    except RemoteProtocolError:
        link.ignored("malformed frame with the ignore flag")
