"""A clock that stands still until the test moves it, for everything that runs on one event loop.

Bottom of the kit: it knows asyncio and nothing of brokers. It is put under a running loop, whoever
made it, by two of the loop's own joints: `time()`, and the selector, which the loop only asks to
*wait* when nothing is left to do. That is the moment to move the time to the next timer. All else
is real: `asyncio.sleep`, time-outs, the library and the broker see one clock, and none is patched.

Threads are real too, so the time does not move while one is at work for the loop. Real sockets are
served, but nobody can know whether one is about to bring something: tests that own their clock
should have none.
"""

from __future__ import annotations

import asyncio
import math
import selectors
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from weakref import WeakKeyDictionary

from rsocket_mesh.rpc.threads import calls_in_threads

T = TypeVar("T")
_Events = list[tuple[selectors.SelectorKey, int]]

# What the loop shows at first, in seconds. The same in every run, since sums of floats depend on
# where they begin; and not 0, which some take for "never".
START: Final = 1000.0
PATIENCE: Final = 5.0  # s of real time that a test may do nothing at all before it counts as stuck
RESOLUTION: Final = 1e-9  # s; what the loop takes for the same moment
HOUR: Final = 3600.0  # s
# Turns of a busy loop between two looks at its files, which cost half as much as a turn does. In a
# test with a clock of its own little comes from there, and an idle loop looks at once.
TURNS_PER_POLL: Final = 16
# Turns of the loop in one moment of the clock, after which something goes on for ever: half a
# minute of real time or so. A stream of a million items needs fewer.
MAX_TURNS: Final = 1_000_000
MAX_SHOWN: Final = 8  # tasks that are named where a test is stuck
# Where code is that waits on behalf of a test's.
_NOT_THE_TESTS: Final = (str(Path(asyncio.__file__).parent), str(Path(__file__).parent.parent))


class Stuck(RuntimeError):
    """Nothing can happen any more: everything waits, and nobody moves the time."""


class ManualClock:
    """The time of one event loop; use it on that loop only. `manual_clock` makes it.

    Attributes:
        patience: seconds of real time that the loop waits for threads and sockets before `Stuck`
            is raised in the place of the test.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.patience = PATIENCE
        self._loop = loop
        self._time = START
        self._users = 0
        self._until: float | None = None  # the time that somebody waits for
        self._arrived: asyncio.Future[None] | None = None
        self._is_stuck = False  # it was; the time runs by itself, so that what is left can end
        self._in_threads = 0  # functions given to executors of the loop
        self._real: Any = None  # the selector of the loop, while ours is in its place

    def __repr__(self) -> str:
        return f"<ManualClock {self.now:g} s>"

    @property
    def now(self) -> float:
        """Seconds since the clock was put under the loop; what `loop.time()` shows is 1000 more."""
        return self._time - START

    @property
    def is_in_use(self) -> bool:
        """Whether the loop has this time: false outside of the `with` block."""
        return self._users > 0

    @property
    def is_moving(self) -> bool:
        """Whether somebody moves the time just now."""
        return self._until is not None

    async def advance(self, seconds: float) -> None:
        """Let *seconds* pass: whatever is due runs at its time and in its order, with all that
        follows from it. 0 only lets everything run that is ready now.

        Raises:
            ValueError: *seconds* is negative or no number.
            RuntimeError: somebody else moves the time already.
        If cancelled: the time stands where it is.
        """
        if not 0 <= seconds < math.inf:
            raise ValueError(f"cannot advance by {seconds} s")
        arrived = self._begin(self._time + seconds)
        try:
            await arrived
        finally:
            self._end()

    async def until(self, awaitable: Awaitable[T], *, within: float = HOUR) -> T:
        """Let time pass, from one timer to the next, until *awaitable* is done; return its result.

        Raises:
            TimeoutError: it was not done after *within* seconds, and has been cancelled.
            RuntimeError: somebody else moves the time already.
        If cancelled: *awaitable* is cancelled too, and the time stands where it is.
        """
        arrived = self._begin(self._time + within)
        task = asyncio.ensure_future(awaitable)
        try:
            await asyncio.wait((task, arrived), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise TimeoutError(f"not done after {within:g} s of the manual clock")
            return await task
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait((task,))
            self._end()

    def _begin(self, until: float) -> asyncio.Future[None]:
        if asyncio.get_running_loop() is not self._loop:
            raise RuntimeError("this clock belongs to another event loop")
        if not self._users:
            raise RuntimeError("this clock is not in use any more: its `with` block has ended")
        if self._arrived is not None:
            raise RuntimeError("somebody moves the time already; one advance() after the other")
        self._until = until
        self._arrived = self._loop.create_future()
        return self._arrived

    def _end(self) -> None:
        self._until = math.inf if self._is_stuck else None
        self._arrived = None

    # -- under the loop ---------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self._users += 1
        if self._users == 1:
            loop: Any = self._loop
            self._real = loop._selector  # noqa: SLF001  # what a loop is made with; it can't be asked for
            loop._selector = _Selector(self._real, self._idle)  # noqa: SLF001
            loop.time = lambda: self._time
            loop.run_in_executor = self._run_in_executor
            _clocks[loop] = self
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._users -= 1
        if not self._users:
            loop: Any = self._loop
            del _clocks[loop], loop.time, loop.run_in_executor
            if not loop.is_closed():
                loop._selector = self._real  # noqa: SLF001

    def _run_in_executor(
        self, executor: Any, function: Callable[..., Any], *arguments: Any
    ) -> asyncio.Future[Any]:
        loop = self._loop
        future: asyncio.Future[Any]
        future = type(loop).run_in_executor(loop, executor, function, *arguments)
        self._in_threads += 1
        future.add_done_callback(self._thread_done)
        return future

    def _thread_done(self, future: asyncio.Future[Any]) -> None:
        self._in_threads -= 1

    def _idle(self, timeout: float | None) -> _Events:
        """Nothing is left to do, and the next timer is due in *timeout* seconds: move the time, or
        wait for the world outside."""
        events: _Events = self._real.select(0)
        if events:
            return events
        if self._in_threads or calls_in_threads():
            return self._wait("a thread is at work", timeout)
        if self._until is None:
            return self._wait("nobody moves the time", timeout)
        if timeout is not None and self._time + timeout <= self._until + RESOLUTION:
            self._time += timeout
        elif self._arrived is None:  # after `Stuck`, where tasks only end
            return self._wait("the test is over", timeout)
        else:
            self._time = max(self._time, self._until)
            if not self._arrived.done():
                self._arrived.set_result(None)
        return []

    def _wait(self, why: str, timeout: float | None) -> _Events:
        events: _Events = self._real.select(self.patience)
        if events:
            return events
        self._is_stuck = True
        self._end()
        due = "no timer is set"
        if timeout is not None:
            due = f"the next timer is due in {timeout:g} s"
        raise Stuck(
            f"at {self.now:g} s nothing is left to do, {why}, and {due}. `await clock.advance("
            "seconds)` lets time pass, `await clock.until(awaitable)` as much as it takes. "
            f"Waiting: {self._waiting()}"
        )

    def _waiting(self) -> str:
        places = filter(None, map(_place, asyncio.all_tasks(self._loop)))
        return "; ".join(sorted(places)[:MAX_SHOWN]) or "nothing of the test"


def _place(task: asyncio.Task[Any]) -> str:
    """Return where *task* waits, in the innermost code that is neither asyncio's nor ours."""
    place = ""
    waiting: Any = task.get_coro()
    while (
        frame := getattr(waiting, "cr_frame", None) or getattr(waiting, "ag_frame", None)
    ) is not None:
        file = frame.f_code.co_filename
        if not file.startswith(_NOT_THE_TESTS):
            place = f"{frame.f_code.co_qualname} ({file}:{frame.f_lineno})"
        waiting = getattr(waiting, "cr_await", None) or getattr(waiting, "ag_await", None)
    return place


class _Selector:
    """The selector of a loop, that tells when the loop has nothing left to do."""

    def __init__(self, real: Any, idle: Callable[[float | None], _Events]) -> None:
        self._real = real
        self._idle = idle
        self._busy = 0  # turns of the loop since it had nothing to do

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def select(self, timeout: float | None = None) -> _Events:
        if timeout is None or timeout > 0:
            self._busy = 0
            return self._idle(timeout)
        self._busy += 1
        if self._busy % TURNS_PER_POLL:
            return []
        if self._busy >= MAX_TURNS:
            self._busy = 0
            raise Stuck(
                f"something has gone on for {MAX_TURNS} turns of the loop in one moment of the "
                "clock, so that no time can pass; an endless stream, or a loop around sleep(0)?"
            )
        events: _Events = self._real.select(0)
        return events


_clocks: WeakKeyDictionary[asyncio.AbstractEventLoop, ManualClock] = WeakKeyDictionary()


def manual_clock() -> ManualClock:
    """Return the clock of the running loop, to be used in `with`; within, the time stands still.

    Blocks may be nested: all of one loop share one clock, and the outermost begins and ends it.

    Raises:
        RuntimeError: no loop runs here, or one that keeps its own time, such as uvloop's.
    """
    loop = asyncio.get_running_loop()
    if not isinstance(loop, asyncio.BaseEventLoop) or not hasattr(loop, "_selector"):
        raise RuntimeError(
            f"{type(loop).__module__}.{type(loop).__qualname__} keeps its own time; "
            "run the test on a loop of asyncio, for example with rsocket_mesh.testing.run"
        )
    return _clocks.get(loop) or ManualClock(loop)


def run(main: Coroutine[Any, Any, T], *, debug: bool | None = None) -> T:
    """Run *main* on an event loop of its own with a manual clock, like `asyncio.run`.

    For tests without a plugin that runs coroutines; the loop is asyncio's whatever the policy.

    Raises:
        Stuck: everything waits, and nobody moves the time.
    """
    with asyncio.Runner(debug=debug, loop_factory=asyncio.SelectorEventLoop) as runner:
        return runner.run(_timed(main))


async def _timed(main: Coroutine[Any, Any, T]) -> T:
    with manual_clock():
        return await main
