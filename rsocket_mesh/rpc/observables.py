"""Observables of reactivex at both ends of streams and channels, with demand that is real.

An Observable pushes and has no demand; a stream has credit. Between them stands `overflow.Held`,
bounded, and three things carry demand where a plain Observable has none: `on_next` that has
returned (a subscriber that blocks or is slow pauses the provider), a `Demand` for subscribers whose
work goes on after that, and the scheduler of a subscription of ours, which runs no step of a source
while its consumer has no room. All of it runs on the loop; other threads may push and dispose.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, Self, TypeVar

from reactivex import Observable, abc, typing
from reactivex.disposable import CompositeDisposable, Disposable, SingleAssignmentDisposable
from reactivex.scheduler.eventloop import AsyncIOScheduler

from rsocket_mesh.rpc.overflow import (
    DEFAULT_HELD,
    Demand,
    Held,
    Overflow,
    OverflowPolicy,
    buffer,
    overflow_of,
)

T = TypeVar("T")
S = TypeVar("S")

_DEFAULT: Final = buffer(DEFAULT_HELD)


class PacedScheduler(AsyncIOScheduler):
    """Runs the steps of a source on the loop, each only when its item would find room.

    Sources that schedule each item (`range`, `generate`, `repeat`, our own streams) are paused by
    it; those that push at their own will (`from_iterable`, subjects) or by the clock are not.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, held: Held[Any]) -> None:
        super().__init__(loop)
        self._held = held
        held.on_room = self._advance
        self._steps: deque[Callable[[], None]] = deque()
        self._running = 0  # steps that were let go and have not put their item yet

    def schedule(
        self, action: typing.ScheduledAction[S], state: S | None = None
    ) -> abc.DisposableBase:
        """Run *action* in a turn of its own, when there is room for an item."""
        disposed = False
        done = SingleAssignmentDisposable()

        def step() -> None:
            def run() -> None:
                try:
                    if not disposed:
                        done.disposable = self.invoke_action(action, state=state)
                finally:
                    self._leave()

            self._loop.call_soon(run)

        def dispose() -> None:
            nonlocal disposed
            disposed = True

        self._enter(step)
        return CompositeDisposable(done, Disposable(dispose))

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """A block that may push one item, entered when there is room for it."""
        may: asyncio.Future[None] = self._loop.create_future()

        def step() -> None:
            if may.done():  # cancelled while it waited
                self._leave()
            else:
                may.set_result(None)

        self._enter(step)
        try:
            await may
            yield
        finally:
            if may.done() and not may.cancelled():
                self._leave()
            else:
                may.cancel()

    def _enter(self, step: Callable[[], None]) -> None:
        self._steps.append(step)
        self._advance()

    def _leave(self) -> None:
        self._running -= 1
        self._advance()

    def _advance(self) -> None:
        while self._steps and self._held.room > self._running:
            self._running += 1
            self._steps.popleft()()


class _Marked(Observable[T]):
    """An Observable that says how it is held when it is sent."""

    def __init__(self, source: Observable[T], overflow: Overflow) -> None:
        super().__init__(
            lambda observer, scheduler: source.subscribe(observer, scheduler=scheduler)
        )
        self.overflow = overflow


def on_overflow(policy: OverflowPolicy) -> Callable[[Observable[T]], Observable[T]]:
    """Return the operator that says what happens when a consumer takes less than comes.

    The last of a `pipe` whose result a handler returns, or a caller sends over a channel. Without
    it: `buffer(32)`.

    Raises:
        ValueError: there is no such policy.
    """
    overflow = overflow_of(policy)
    return lambda source: _Marked(source, overflow)


class ObservableItems(AsyncIterator[T]):
    """The items of an Observable, taken one by one; subscribed to when the first is asked for.

    Iterating raises what the Observable failed with, or `SlowConsumer` as its policy says.
    """

    def __init__(self, source: Observable[T]) -> None:
        if not isinstance(source, Observable):
            raise TypeError(f"needs an Observable, not {type(source).__name__}")
        self._source = source
        self._overflow = getattr(source, "overflow", _DEFAULT)
        self._held: Held[T] | None = None
        self._subscription: abc.DisposableBase | None = None
        self._closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        if self._closed:
            raise StopAsyncIteration
        held = self._begin() if self._held is None else self._held
        return await held.take()

    async def aclose(self) -> None:
        """Dispose the subscription; idempotent."""
        self._closed = True
        if self._held is not None:
            self._held.close()
        self._dispose()

    def _begin(self) -> Held[T]:
        loop = asyncio.get_running_loop()
        held: Held[T] = Held(self._overflow)
        self._held = held
        held.on_overflow = self._dispose
        scheduler = PacedScheduler(loop, held) if self._overflow.pauses else AsyncIOScheduler(loop)
        self._subscription = self._source.subscribe(
            held.put, held.fail, held.finish, scheduler=scheduler
        )
        if held.ended:  # within `subscribe`, when there was nothing to dispose yet
            self._dispose()
        return held

    def _dispose(self) -> None:
        if self._subscription is not None:
            self._subscription.dispose()


# -- items as an Observable -----------------------------------------------------------------------


class _SubscriberFailed(Exception):
    """`on_next` raised: a bug of the subscriber's, which is told nothing more."""


class _Pump:
    """One subscription to items of ours: takes them and pushes them, in a task."""

    def __init__(
        self,
        observer: abc.ObserverBase[Any],
        items: AsyncIterator[Any],
        overflow: Overflow,
        demand: Demand | None,
        scheduler: abc.SchedulerBase | None,
        pace: PacedScheduler | None,
    ) -> None:
        self._observer = observer
        self._items = items
        self._overflow = overflow
        self._demand = demand
        self._scheduler = scheduler
        self._pace = pace
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._disposed = False
        self._task = self._loop.create_task(self._run())

    def dispose(self) -> None:
        """End it: nothing more is pushed, the items are closed. From any thread; idempotent."""
        self._disposed = True
        if threading.get_ident() == self._thread:
            self._task.cancel()
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._task.cancel)

    async def _run(self) -> None:
        try:
            try:
                if self._overflow.pauses or (self._demand is None and self._scheduler is None):
                    await self._push_all(self._items)
                else:
                    await self._push_held()
            finally:
                close = getattr(self._items, "aclose", None)
                if close is not None:
                    await close()
            await self._call(self._observer.on_completed)
        except asyncio.CancelledError:
            if not self._disposed:
                raise
        except _SubscriberFailed as exc:
            self._report(exc.__cause__)
        except Exception as exc:
            await self._fail(exc)

    async def _fail(self, error: Exception) -> None:
        try:
            await self._call(self._observer.on_error, error)
        except _SubscriberFailed as exc:
            self._report(exc.__cause__)

    def _report(self, error: BaseException | None) -> None:
        # As for a callback of the loop that raises: nobody awaits a subscriber.
        self._loop.call_exception_handler(
            {"message": "a subscriber of an Observable raised", "exception": error}
        )

    async def _push_all(self, items: AsyncIterator[Any]) -> None:
        demand, pace, call, push = self._demand, self._pace, self._call, self._observer.on_next
        while not self._disposed:
            if demand is not None:
                await demand.take()
            try:
                item = await anext(items)
            except StopAsyncIteration:
                return
            if pace is None:
                await call(push, item)
            else:
                async with pace.turn():
                    await call(push, item)

    async def _push_held(self) -> None:
        """Let the source run at its own pace, and the subscriber at his."""
        held: Held[Any] = Held(self._overflow)
        reader = self._loop.create_task(self._read(held))
        held.on_overflow = reader.cancel
        try:
            await self._push_all(_Taking(held))
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _read(self, held: Held[Any]) -> None:
        try:
            async for item in self._items:
                held.put(item)
            held.finish()
        except Exception as exc:
            held.fail(exc)
        finally:  # at once, not when the subscriber has taken what is held
            close = getattr(self._items, "aclose", None)
            if close is not None:
                await close()

    async def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        """Call the subscriber, here or on his scheduler; return when he has returned."""
        if self._scheduler is None:
            try:
                function(*arguments)
            except Exception as exc:
                raise _SubscriberFailed from exc
            return
        done: asyncio.Future[None] = self._loop.create_future()

        def finish(error: Exception | None) -> None:
            if done.done():  # disposed meanwhile
                return
            if error is None:
                done.set_result(None)
            else:
                failure = _SubscriberFailed()
                failure.__cause__ = error
                done.set_exception(failure)

        def action(_scheduler: abc.SchedulerBase, _state: object = None) -> None:
            error: Exception | None = None
            try:
                if not self._disposed:
                    function(*arguments)
            except Exception as exc:
                error = exc
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(finish, error)

        self._scheduler.schedule(action)
        await done


class _Taking(AsyncIterator[Any]):
    def __init__(self, held: Held[Any]) -> None:
        self._held = held

    async def __anext__(self) -> Any:
        return await self._held.take()


def observe(
    begin: Callable[[], AsyncIterator[T]],
    *,
    overflow: OverflowPolicy = _DEFAULT,
    demand: Demand | None = None,
    scheduler: abc.SchedulerBase | None = None,
) -> Observable[T]:
    """Return the Observable of what *begin* returns, which is called at each subscription.

    Args:
        overflow: `buffer(n)` pauses the items while the subscriber takes none; their own prefetch
            is what is held. Any other policy lets them run at their own pace, and says what
            happens to those that the subscriber does not take in time.
        demand: what the subscriber is ready to take; None takes an item for taken when `on_next`
            has returned.
        scheduler: calls the subscriber, one call at a time; None calls him on the loop.
    Raises:
        ValueError: there is no such policy.
    """
    policy = overflow_of(overflow)

    def subscribe(
        observer: abc.ObserverBase[T], paced: abc.SchedulerBase | None = None
    ) -> abc.DisposableBase:
        pace = paced if isinstance(paced, PacedScheduler) else None
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise RuntimeError("subscribe on the loop of the mesh: no loop runs here") from None
        pump = _Pump(observer, begin(), policy, demand, scheduler, pace)
        return Disposable(pump.dispose)

    return Observable(subscribe)
