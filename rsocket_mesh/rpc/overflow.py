"""What is held between one who pushes items and one who takes them, and what happens when it fills.

Pushing has no demand of its own, so somewhere a bound is needed, and a rule for what comes beyond
it. Both are said here, once, for Observables in all places; this module knows nothing of them.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, Literal, NamedTuple, TypeVar, get_args

from rsocket_mesh.errors import SlowConsumer

DEFAULT_HELD: Final = 32  # items; as many as a stream's prefetch, enough to hide a round trip

T = TypeVar("T")

Policy = Literal["buffer", "error", "drop_oldest", "drop_newest", "latest"]


class Overflow(NamedTuple):
    """What happens to an item that finds `size` others waiting to be taken.

    Attributes:
        policy: `buffer`: the source is paused before that, if it can be; one that can't ends as
            with `error`. `error`: the source is disposed and, behind the items that wait, the
            stream ends with `SlowConsumer`. `drop_oldest` and `drop_newest`: one item is lost, and
            the source goes on. `latest`: as `drop_oldest` with a size of 1.
        size: items that wait at most.
    """

    policy: Policy
    size: int = DEFAULT_HELD

    @property
    def pauses(self) -> bool:
        """Whether the source is to be paused."""
        return self.policy == "buffer"


OverflowPolicy = Overflow | Policy


def buffer(n: int) -> Overflow:
    """Return the policy that holds *n* items and pauses the source when they are there."""
    return Overflow("buffer", n)


def overflow_of(policy: OverflowPolicy) -> Overflow:
    """Return what a program named.

    Raises:
        ValueError: there is no such policy, or the size is under 1.
    """
    overflow = policy if isinstance(policy, Overflow) else Overflow(policy)
    if overflow.policy not in get_args(Policy):
        raise ValueError(
            f"no overflow policy {overflow.policy!r}; there are {', '.join(get_args(Policy))}"
        )
    if overflow.size < 1:
        raise ValueError(f"overflow: a size of {overflow.size} holds nothing, must be at least 1")
    return overflow._replace(size=1) if overflow.policy == "latest" else overflow


class Held(Generic[T]):
    """The items between: put from any thread, taken on the loop where it was made.

    Attributes:
        dropped: items lost by the policy; a count.
        ended: nothing more is accepted; what waits can still be taken.
        on_room: called on the loop when an item was taken.
        on_overflow: called, where the item was put, when the policy ends the source.
    """

    def __init__(self, overflow: Overflow) -> None:
        self.dropped = 0
        self.ended = False
        self.on_room: Callable[[], None] | None = None
        self.on_overflow: Callable[[], object] | None = None
        self._policy, self._size = overflow
        self._items: deque[T] = deque()
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._lock = threading.Lock()

    @property
    def room(self) -> int:
        """How many more items can wait."""
        return self._size - len(self._items)

    # -- the one who pushes -----------------------------------------------------------------------

    def put(self, item: T) -> None:
        """Let *item* wait, or do what the policy says."""
        with self._lock:
            if self.ended:
                return
            if len(self._items) < self._size:
                self._items.append(item)
            elif self._policy == "drop_newest":
                self.dropped += 1
                return
            elif self._policy in ("drop_oldest", "latest"):
                self._items.popleft()
                self._items.append(item)
                self.dropped += 1
                return  # whoever takes was woken for the first one
            else:
                self.ended = True
                self._error = SlowConsumer(
                    f"{self._size} items wait to be taken already; take them faster, hold more "
                    "(buffer(n)), or say what may be dropped"
                )
        self._wake()
        if self.ended and self.on_overflow is not None:
            self.on_overflow()

    def finish(self) -> None:
        """Nothing more comes."""
        self._end(None)

    def fail(self, error: Exception) -> None:
        """Nothing more comes: taking ends with *error*, behind the items that wait."""
        self._end(error)

    def _end(self, error: Exception | None) -> None:
        with self._lock:
            if self.ended:
                return
            self.ended = True
            self._error = error
        self._wake()

    def _wake(self) -> None:
        if threading.get_ident() == self._thread:
            self._wake_here()
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._wake_here)

    def _wake_here(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # -- the one who takes ------------------------------------------------------------------------

    async def take(self) -> T:
        """Return the next item.

        Raises:
            StopAsyncIteration: there is none and will be none; or the error in its place.
        If cancelled: no item is lost.
        """
        while not self._items:
            if self.ended:
                error, self._error = self._error, None
                raise error or StopAsyncIteration
            self._waiter = self._loop.create_future()
            try:
                if not self._items and not self.ended:  # a thread may have been quicker
                    await self._waiter
            finally:
                self._waiter = None
        with self._lock:
            item = self._items.popleft()
        if self.on_room is not None:
            self.on_room()
        return item

    def close(self) -> None:
        """Drop what waits and accept nothing more."""
        with self._lock:
            self.ended = True
            self._items.clear()
        self._wake()


class Demand:
    """How much a subscriber is ready to take, where that is more than to return from `on_next`.

    An item is delivered for each one requested, and the source is asked for no more than that and
    what its prefetch or buffer holds. For one subscription at a time.
    """

    def __init__(self, n: int = 0) -> None:
        """Begin with *n* items requested."""
        self._left = n
        self._waiter: asyncio.Future[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()

    def request(self, n: int = 1) -> None:
        """Ask for *n* items more; from any thread.

        Raises:
            ValueError: *n* is under 1.
        """
        if n < 1:
            raise ValueError(f"{n} items requested, must be at least 1")
        with self._lock:
            self._left += n
            loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def take(self) -> None:
        """Use up one, as soon as there is one."""
        while True:
            with self._lock:
                if self._left > 0:
                    self._left -= 1
                    return
                self._loop = asyncio.get_running_loop()
                self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
