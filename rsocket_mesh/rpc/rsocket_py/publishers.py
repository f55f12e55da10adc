"""Publishers and subscribers of rsocket-py, as the iterators that peers of ours take and give.

A publisher is asked for one item whenever one may leave, so it is never ahead of the credit; a
subscriber gets as many as it requests, and what it has not requested is not asked of the other
side, but for the prefetch of a channel.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, Self

from reactivestreams.subscriber import Subscriber
from reactivestreams.subscription import Subscription

from rsocket_mesh.protocol.payload import Payload
from rsocket_mesh.rpc.overflow import Demand, Held, Overflow
from rsocket_mesh.rpc.rsocket_py.convert import (
    error_to_ours,
    error_to_theirs,
    to_ours,
    to_theirs,
)

# Items that a publisher pushes beyond what was requested: some of theirs round up.
MAX_EXCESS: Final = 1024

log: Final = logging.getLogger("rsocket_mesh.rsocket_py")


class PublisherItems(AsyncIterator[Payload]):
    """The items of a publisher; it is subscribed to when the first is asked for.

    Iterating raises what the publisher failed with, and `SlowConsumer` if it pushes 1024 items
    more than were requested.
    """

    def __init__(self, publisher: Any, closed: Callable[[], object] = lambda: None) -> None:
        self._publisher = publisher
        self._closed = closed
        self._held: Held[Payload] | None = None
        self._subscription: Any = None
        self._wanted = 0  # requested and not come
        self._done = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Payload:
        held = self._held
        if held is None:
            held = self._held = Held(Overflow("error", MAX_EXCESS))
            held.on_overflow = self._cancel
            self._publisher.subscribe(_Collecting(self, held))
        if not self._wanted and held.room == MAX_EXCESS:
            self._wanted = 1
            if self._subscription is not None:
                self._subscription.request(1)
        return await held.take()

    async def aclose(self) -> None:
        """Cancel the subscription unless it has ended; idempotent."""
        if self._held is not None:
            self._held.close()
        self._cancel()
        closed, self._closed = self._closed, lambda: None
        closed()

    # -- what the subscriber tells ----------------------------------------------------------------

    def subscribed(self, subscription: Any) -> None:
        self._subscription = subscription
        if self._wanted:
            subscription.request(self._wanted)

    def came(self) -> None:
        self._wanted = max(0, self._wanted - 1)

    def ended(self) -> None:
        self._done = True

    def _cancel(self) -> None:
        if self._done or self._subscription is None:
            return
        self._done = True
        try:
            self._subscription.cancel()
        except Exception as exc:  # one that never began has nothing to cancel
            log.debug("a publisher could not be cancelled: %r", exc)


class _Collecting(Subscriber):  # type: ignore[misc]  # their package has no types
    def __init__(self, items: PublisherItems, held: Held[Payload]) -> None:
        self._items = items
        self._held = held

    def on_subscribe(self, subscription: Any) -> None:
        self._items.subscribed(subscription)

    def on_next(self, value: Any, is_complete: bool = False) -> None:
        self._items.came()
        if value is not None:
            try:
                item = to_ours(value)
            except TypeError as exc:
                self._held.fail(exc)
                return
            # A generator of theirs that did not name its last item ends with a payload of nothing.
            if not is_complete or value.data is not None or value.metadata is not None:
                self._held.put(item)
        if is_complete:
            self.on_complete()

    def on_error(self, exception: Exception) -> None:
        self._items.ended()
        self._held.fail(error_to_ours(exception))

    def on_complete(self) -> None:
        self._items.ended()
        self._held.finish()


class Feeding(Subscription):  # type: ignore[misc]  # their package has no types
    """Gives the items of an iterator to a subscriber of theirs, as many as it requests."""

    running: Final[set[asyncio.Task[None]]] = set()  # a loop holds its tasks only weakly

    def __init__(self, items: Any, subscriber: Any) -> None:
        self._items = items
        self._subscriber = subscriber
        self._demand = Demand()
        self._task = asyncio.get_running_loop().create_task(self._run())
        self.running.add(self._task)
        self._task.add_done_callback(self.running.discard)
        subscriber.on_subscribe(self)

    def request(self, n: int) -> None:
        """Take *n* items more."""
        self._demand.request(n)

    def cancel(self) -> None:
        """Take no more; the other side is told."""
        self._task.cancel()

    async def _run(self) -> None:
        subscriber = self._subscriber
        try:
            # The item first, then the demand: an end needs none.
            async for item in self._items:
                await self._demand.take()
                subscriber.on_next(to_theirs(item), False)
        except Exception as exc:
            subscriber.on_error(error_to_theirs(exc))
        else:
            subscriber.on_complete()
        finally:
            await self._items.aclose()
