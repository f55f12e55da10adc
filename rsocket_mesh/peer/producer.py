"""Moves the items of an application's source to the wire, one credit each.

The source is asked for an item only when that item may leave: there is credit, the transport takes
it, and the item before has left. So a fast source costs no memory, and a source that has side
effects has none that nobody asked for. Both sides use it: the answers of a stream or channel, and a
requester's half of a channel.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

from rsocket_mesh.peer.outbox import Outbox
from rsocket_mesh.protocol.fragments import payload_frames
from rsocket_mesh.protocol.payload import Payload
from rsocket_mesh.protocol.streams import Stream


class Producer:
    """Feeds our half of one stream."""

    __slots__ = ("_outbox", "_stream", "_waiter")

    def __init__(self, stream: Stream, outbox: Outbox) -> None:
        self._stream = stream
        self._outbox = outbox
        self._waiter: asyncio.Future[None] | None = None

    def credit_arrived(self) -> None:
        """The stream's credit has grown."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def run(self, source: object) -> None:
        """Send the items of *source*, then COMPLETE; raises what the source raises.

        Args:
            source: an async iterator of `Payload`; anything else, such as the coroutine of a
                handler that forgot to yield, is a TypeError.
        If cancelled: the source is closed and nothing more is sent.
        """
        if not isinstance(source, AsyncIterable):
            if inspect.iscoroutine(source):
                source.close()
            raise TypeError(f"needs an async iterator of Payload, not {type(source).__name__}")
        iterator: Any = aiter(source)
        try:
            await self._send_all(iterator)
        finally:
            if hasattr(iterator, "aclose"):
                await iterator.aclose()

    async def _send_all(self, iterator: AsyncIterator[Payload]) -> None:
        stream, outbox = self._stream, self._outbox
        stream_id = stream.stream_id
        while stream.is_sending:
            if stream.credit <= 0:
                await self._more_credit()
                continue
            if stream_id in outbox.busy:
                await outbox.drained(stream_id)
                continue
            if not outbox.open:
                await outbox.turn()
            try:
                item = await anext(iterator)
            except StopAsyncIteration:
                break
            if not isinstance(item, Payload):
                raise TypeError(f"an item must be a Payload, not {type(item).__name__}")
            if stream.is_sending:
                stream.send_item()
                outbox.put_item(stream_id, payload_frames(stream_id, item, outbox.fragment_size))
        if stream.is_sending:
            outbox.send(stream.send_complete())

    async def _more_credit(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
