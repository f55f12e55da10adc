"""The items of one half of a stream, between the receive loop and the one who consumes them.

Credit is exact: never more outstanding than the prefetch, topped up in halves as items are taken,
so a slow consumer asks for less and nothing here grows. Both sides use it: what a requester gets
for its stream, and what a channel's handler reads.
"""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType
from typing import Final, Protocol, Self

from rsocket_mesh.protocol.frames import MAX_REQUEST_N
from rsocket_mesh.protocol.payload import Payload

DEFAULT_PREFETCH: Final = 32  # items; enough to hide a round trip, little enough to hold


class ItemSource(Protocol):
    """Where the items of an inbox come from: one stream of a connection."""

    async def begin(self, n: int) -> None:
        """Ask for the first *n* items; raises what makes that impossible.

        If cancelled: nothing was asked for, and it may be called again.
        """

    def grant(self, n: int) -> None:
        """Ask for *n* more."""

    def stop(self) -> None:
        """Want no more; idempotent."""


class Inbox:
    """Holds at most the prefetch, and one item of excess that streams tolerate.

    Attributes:
        ended: no more items will come in; what is held can still be taken.
    """

    __slots__ = (
        "_begun",
        "_error",
        "_items",
        "_owed",
        "_source",
        "_threshold",
        "_to_grant",
        "_to_take",
        "_waiter",
        "ended",
        "loop",
        "prefetch",
    )

    def __init__(self, source: ItemSource, prefetch: int, limit: int | None) -> None:
        if not 1 <= prefetch <= MAX_REQUEST_N:
            raise ValueError(f"prefetch is {prefetch}, must be 1 to {MAX_REQUEST_N}")
        if limit is not None and limit < 1:
            raise ValueError(f"limit is {limit}, must be at least 1")
        self.loop = asyncio.get_running_loop()
        self.ended = False
        self.prefetch = prefetch if limit is None else min(prefetch, limit)
        self._source = source
        self._items: deque[Payload] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._begun = False
        self._owed = 0  # items taken and not granted again
        self._threshold = max(1, self.prefetch // 2)
        self._to_take = limit
        self._to_grant = None if limit is None else limit - self.prefetch

    # -- the receive loop's side ------------------------------------------------------------------

    def put(self, payload: Payload) -> None:
        if not self.ended:
            self._items.append(payload)
            self._wake()

    def finish(self, error: Exception | None) -> None:
        """No more will come: completed (None) or failed; what is held is still delivered."""
        if not self.ended:
            self.ended = True
            self._error = error
            self._wake()

    def give_back(self) -> None:
        """One credit was used up without an item: grant it again. It counts towards no limit."""
        if not self.ended:
            self._source.grant(1)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -- the consumer's side ----------------------------------------------------------------------

    async def begin(self) -> None:
        """Ask for the first items, once."""
        if not self._begun and not self.ended:
            self._begun = True
            try:
                await self._source.begin(self.prefetch)
            except asyncio.CancelledError:
                self._begun = False  # nothing was sent: whoever waits next begins again
                raise
            except BaseException:
                self.ended = True
                raise

    async def take(self) -> Payload:
        """Return the next item; raises StopAsyncIteration at the end, or the error."""
        if self._waiter is not None:
            raise RuntimeError("another task is already waiting for the next item of this stream")
        if not self._begun:
            await self.begin()
        while not self._items:
            if self._to_take == 0:
                self.stop()
            if self.ended:
                error, self._error = self._error, None
                raise error or StopAsyncIteration
            self._waiter = self.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        payload = self._items.popleft()
        if self._to_take is not None:
            self._to_take -= 1
        if not self.ended:
            self._count(1)
        return payload

    def _count(self, n: int) -> None:
        self._owed += n
        if self._owed < self._threshold:
            return
        n = self._owed
        if self._to_grant is not None:
            n = min(n, self._to_grant)
            self._to_grant -= n
        self._owed = 0
        if n:
            self._source.grant(n)

    def stop(self) -> None:
        """The consumer is done: drop what is held and tell the producer; idempotent."""
        self._items.clear()
        self.finish(None)
        self._source.stop()


class PayloadStream:
    """Items of a stream as they come: an async iterator, and a context manager that ends it.

    Nothing is sent before the first item is asked for or the `async with` block is entered.
    Iterating raises what the peer or the connection ended the stream with, behind the items that
    came before it. If an `await` for an item is cancelled, no item is lost and the stream goes on.
    """

    __slots__ = ("__weakref__", "_inbox")

    def __init__(self, inbox: Inbox) -> None:
        self._inbox = inbox

    def __aiter__(self) -> PayloadStream:
        return self

    async def __anext__(self) -> Payload:
        return await self._inbox.take()

    async def __aenter__(self) -> Self:
        await self._inbox.begin()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the stream: CANCEL is sent unless it has ended; items held are dropped. Idempotent,
        and does not wait for anything."""
        self._inbox.stop()

    def __del__(self) -> None:
        # Nobody can read it any more: a producer that was told nothing would hold a stream open.
        inbox = self._inbox
        if not inbox.ended and not inbox.loop.is_closed():
            inbox.loop.call_soon_threadsafe(inbox.stop)
