"""Handlers in turn: one task for as many as end without waiting.

Most handlers of most services answer at once, and a task for each (made, put into the loop's queue,
entered, ended) costs more than all else that a request needs. So the requests that came with one
read share a task: it runs the first step of each, and whoever waits for something keeps the task
from there on, alone, while the others get one each. What a handler sees is the same as in a task of
its own: `asyncio.current_task()` is one that is not shared once it waits, with its cancellation
and time-outs, and its context variables are its own from the first step on.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, copy_context
from types import coroutine as generator_coroutine
from typing import Any, Generic, Protocol, TypeVar

from rsocket_mesh.peer.tasks import start_task


class Job(Protocol):
    """What is run for, and who has to know its task to cancel it.

    Attributes:
        task: the one it runs in, from its first step on; None before.
    """

    task: asyncio.Task[None] | None


J = TypeVar("J", bound=Job)
A = TypeVar("A")


class Turns(Generic[J, A]):
    """Runs `work(job, argument)` for each job that is put in, from the next turn of the loop on.

    `work` is called for jobs that were given up in the meantime, too: it has to see to that, and to
    what the handler raises. An exception of its own ends its task.
    """

    __slots__ = ("_loop", "_next", "_queue", "_work")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        work: Callable[[J, A], Coroutine[Any, Any, None]],
    ) -> None:
        self._loop = loop
        self._work = work
        self._queue: deque[tuple[J, A]] = deque()
        self._next: asyncio.Task[None] | None = None  # will go through the queue

    def put(self, job: J, argument: A) -> None:
        """Begin with *job* in the next turn of the loop, behind those that were put before."""
        self._queue.append((job, argument))
        # It may be done if somebody has cancelled all tasks there are before it began.
        if self._next is None or self._next.done():
            self._next = self._loop.create_task(self._run())

    def close(self) -> None:
        """Begin with nothing more, and let go of `work`; those that have begun go on."""
        self._queue.clear()
        self._work = _nothing

    async def _run(self) -> None:
        queue, work = self._queue, self._work
        task = asyncio.current_task()
        assert task is not None
        while queue:
            job, argument = queue.popleft()
            job.task = task
            coroutine = work(job, argument)
            context = copy_context()
            try:
                waits_for = context.run(coroutine.send, None)
            except StopIteration:  # it is through
                if not task.cancelling():
                    continue
                self._spread()  # it has cancelled itself in passing, and nobody else
                return
            except BaseException:
                self._spread()
                raise
            self._spread()
            await _go_on(coroutine, context, waits_for)
            return
        self._next = None

    def _spread(self) -> None:
        """The task is no longer to be shared: give each of those that wait for it their own.

        All of them at once and not the next one only: where one handler waits, many do, and each
        would be a turn of the loop later than the one before.
        """
        self._next = None
        while self._queue:
            job, argument = self._queue.popleft()
            job.task = start_task(self._loop, self._work(job, argument))


async def _nothing(_job: object, _argument: object) -> None:
    """The work of turns that are over."""


@generator_coroutine
def _go_on(
    coroutine: Coroutine[Any, Any, None], context: Context, waits_for: Any
) -> Generator[Any, Any, None]:
    """Await the rest of *coroutine*, which waits for *waits_for*; it goes on in its own context."""
    step = context.run
    try:
        while True:
            try:
                yield waits_for
            except BaseException as exc:
                waits_for = step(coroutine.throw, exc)
            else:
                waits_for = step(coroutine.send, None)
    except StopIteration:
        return
