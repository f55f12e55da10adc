"""Handlers that block: a bounded pool of threads, so that the loop never waits for one.

One pool for the whole process, made at the first use. What does not find room is refused at once
(`Overloaded`): a queue without bound would only hide that the handlers are too slow.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import copy_context
from typing import Any, Final

from rsocket_mesh.errors import Overloaded

MAX_THREADS: Final = 32  # handlers that block at the same time
MAX_WAITING: Final = 1024  # calls that run or wait for a thread; the next one is refused

_END: Final = object()


class _Pool:
    """The threads, and how many calls run in them or wait for one."""

    __slots__ = ("busy", "executor")

    def __init__(self) -> None:
        self.executor: ThreadPoolExecutor | None = None
        self.busy = 0

    async def run(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        if self.busy >= MAX_WAITING:
            raise Overloaded(f"{self.busy} blocking calls run or wait for {MAX_THREADS} threads")
        if self.executor is None:
            self.executor = ThreadPoolExecutor(MAX_THREADS, "rsocket-mesh-handler")
        context = copy_context()  # the handler's `current_call()`
        future = self.executor.submit(context.run, _call, function, arguments)
        self.busy += 1
        loop = asyncio.get_running_loop()
        # A thread can't be stopped: it counts until it is done, not until its caller is gone.
        future.add_done_callback(lambda _: _on_loop(loop, self._done))
        return await asyncio.wrap_future(future)

    def _done(self) -> None:
        self.busy -= 1


_pool: Final = _Pool()


def calls_in_threads() -> int:
    """Return how many blocking calls of this process run or wait for a thread."""
    return _pool.busy


def _call(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        return function(*arguments)
    except StopIteration as exc:  # no future takes it: who waits would wait for ever
        raise RuntimeError("the handler raised StopIteration") from exc


def _on_loop(loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
    try:
        loop.call_soon_threadsafe(function)
    except RuntimeError:  # the loop was closed while the thread was still at work
        function()


async def call_in_thread(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Return what *function* returns (awaited, if that is an awaitable).

    Raises:
        Overloaded: too many blocking calls are under way.
    If cancelled: the thread goes on to its end, its result is dropped.
    """
    result = await _pool.run(function, arguments)
    return await result if inspect.isawaitable(result) else result


async def iterate_in_thread(
    function: Callable[..., Iterable[Any]], arguments: tuple[Any, ...]
) -> AsyncIterator[Any]:
    """Yield what the iterable that *function* returns yields, one step in a thread per item.

    Raises:
        Overloaded: too many blocking calls are under way.
    If cancelled or closed: a step under way goes on to its end; then the iterable is closed.
    """
    iterator = iter(await _pool.run(function, arguments))
    try:
        while (item := await _pool.run(next, (iterator, _END))) is not _END:
            yield item
    finally:
        close = getattr(iterator, "close", None)
        if close is not None:
            # Still in its last step, or no thread for it: it is closed when nobody holds it.
            with suppress(ValueError, Overloaded):
                await _pool.run(close, ())
