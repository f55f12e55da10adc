"""Which id the next stream of a side gets.

Source: RSocket Protocol 1.0, "Stream Identifiers".
"""

from __future__ import annotations

from collections.abc import Container

from rsocket_mesh.errors import LocalProtocolError
from rsocket_mesh.protocol.frames import MAX_STREAM_ID


class StreamIds:
    """The ids of one side: rising by two from 1 (client) or 2 (server), then around once more.

    A connection that lives for a day at 20 000 requests a second does use up its ids, so they wrap
    and skip those that are still in use ("Stream Identifiers"; C-57, C-62, C-65).
    """

    __slots__ = ("_first", "_last", "_next", "_wrapped")

    def __init__(self, first: int, last: int = MAX_STREAM_ID) -> None:
        self._first = self._next = first
        self._last = last
        self._wrapped = False

    def allocate(self, in_use: Container[int]) -> int:
        """Return the next id; the caller sends its request at once, so ids rise on the wire.

        Raises:
            LocalProtocolError: every id is in use (C-64).
        """
        stream_id = self._next
        if stream_id > self._last or self._wrapped:
            stream_id = self._free(in_use)
        self._next = stream_id + 2
        return stream_id

    def _free(self, in_use: Container[int]) -> int:
        self._wrapped = True
        for stream_id in range(self._next, self._last + 1, 2):
            if stream_id not in in_use:
                return stream_id
        for stream_id in range(self._first, min(self._next, self._last + 1), 2):
            if stream_id not in in_use:
                return stream_id
        raise LocalProtocolError("every stream id of this connection is in use; open another one")
