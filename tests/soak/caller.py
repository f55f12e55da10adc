"""A caller under soak: `python -m tests.soak.caller URL --seed N --workers N --largest BYTES`.

Workers call the soak service in every model, with payloads of every size, and check what comes.
Each call has to end in time, with the right content or with one of the errors that a caller is
promised. `STATS {...}` comes once a second, `VIOLATION ...` at once; the line `stop` on stdin makes
it finish what is open and say `FINAL {...}`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from rsocket_mesh import (
    ConnectionClosed,
    DeadlineExceeded,
    Draining,
    Mesh,
    NoRoute,
    Overloaded,
    PeerLost,
    RateLimited,
    SlowConsumer,
    Unavailable,
    Unreachable,
    connect,
)
from tests.soak.payloads import HEAD, MIB, Ask, Wrong, check, item_size, make

PROMISED: Final = (
    ConnectionClosed,
    DeadlineExceeded,
    Draining,
    NoRoute,
    Overloaded,
    PeerLost,
    RateLimited,
    SlowConsumer,
    Unavailable,
    Unreachable,
)
TICK: Final = 0.25  # s between looks at the calls in flight
# s that a call may go without a sign behind its deadline: it covers a keepalive lifetime, the
# longest stop of its provider, and a machine of two cores under the load of all this.
MARGIN: Final = 25.0
IDLE: Final = 30.0  # s that a stream may stand still: its provider may be stopped, or lost unseen
SHARES: Final = {  # of the calls
    "response": 48,
    "forget": 10,
    "stream": 14,
    "slow_stream": 3,
    "left_stream": 4,
    "channel": 9,
    "cancelled": 6,
    "deadline": 3,
    "nobody": 3,
}
BIG_SHARE: Final = 1 / 150  # of the requests and answers: 1 MiB up to the largest
HUGE: Final = 32 * MIB
HUGE_SHARE: Final = 1 / 4000  # where the largest is 8 MiB or more


class Watch:
    """A call in flight, and how long it may still take without a sign."""

    __slots__ = ("allowed", "since", "what")

    def __init__(self, what: str, allowed: float, now: float) -> None:
        self.what = what
        self.allowed = allowed
        self.since = now


class Caller:
    """All workers of one process."""

    def __init__(self, mesh: Mesh, seed: int, largest: int, pause: float) -> None:
        self.mesh = mesh
        self.service = mesh.service("soak")
        self.random = random.Random(seed)
        self.largest = largest
        self.pause = pause
        self.next_call = (seed & 0xFFFF_FFFF) << 32
        self.stopping = False
        self.awake = 0.0  # s that this process was not stopped
        self.watches: dict[asyncio.Task[None], Watch] = {}
        self.ends: Counter[str] = Counter()
        self.calls = self.items = self.bytes = self.violations = 0

    def violation(self, text: str) -> None:
        self.violations += 1
        print(f"VIOLATION {text}", flush=True)

    # -- the models -------------------------------------------------------------------------------

    def size(self) -> int:
        """Any size: none, small, up to 64 KiB, seldom large, hardly ever huge."""
        chance = self.random.random()
        if chance < HUGE_SHARE and self.largest >= 8 * MIB:
            return HUGE
        if chance < BIG_SHARE and self.largest > MIB:
            return self.random.randint(MIB, self.largest)
        if chance < 0.1:
            return self.random.choice((0, HEAD.size, HEAD.size + 1))
        return min(self.largest, int(HEAD.size * 2 ** (self.random.random() * 10)))

    def ask(self, size: int = 0, count: int = 1, pause: float = 0.0) -> Ask:
        self.next_call += 1
        data = make(self.next_call, 0, self.size())
        self.bytes += len(data)
        return Ask(self.next_call, data, size, count, pause)

    async def response(self) -> None:
        ask = self.ask(self.size())
        answer = await self.service.request_response("echo", ask, returns=bytes, timeout=15)
        self._check(answer, ask.call, 1, ask.size)

    async def forget(self) -> None:
        await self.service.fire_and_forget("note", self.ask(), timeout=15)

    async def stream(self) -> None:
        await self._stream(self.random.randint(0, 40))

    async def slow_stream(self) -> None:
        await self._stream(self.random.randint(20, 60), reading=self.random.random() * 0.1)

    async def left_stream(self) -> None:
        """Leave a stream in the middle."""
        await self._stream(10_000, leave_after=self.random.randint(1, 20))

    async def _stream(self, count: int, reading: float = 0.0, leave_after: int = -1) -> None:
        largest = self.random.choice((100, 4000, 70_000))
        ask = self.ask(largest, count)
        got = 0
        async with self.service.request_stream(
            "items", ask, returns=bytes, timeout=15, prefetch=self.random.choice((1, 8, 64))
        ) as items:
            async for item in items:
                self._check(item, ask.call, got, item_size(ask.call, got, largest))
                got += 1
                if got == leave_after:
                    return
                if reading:
                    await asyncio.sleep(reading)
        if got != count:
            self.violation(f"stream {ask.call:#x} completed with {got} of {count} items")

    async def channel(self) -> None:
        self.next_call += 1
        call, count, got = self.next_call, self.random.randint(1, 30), 0
        largest = self.random.choice((100, 4000, 70_000))

        async def chunks() -> AsyncIterator[bytes]:
            for item in range(count):
                yield make(call, item, HEAD.size + item_size(call, item, largest))

        async with self.service.request_channel(
            "pipe", chunks(), returns=bytes, timeout=15
        ) as answers:
            async for answer in answers:
                self._check(answer, call, got, HEAD.size + item_size(call, got, largest))
                got += 1
        if got != count:
            self.violation(f"channel {call:#x} completed with {got} of {count} items")

    async def cancelled(self) -> None:
        call = self.service.request_response(
            "echo", self.ask(self.size(), pause=5), returns=bytes, timeout=15
        )
        try:
            async with asyncio.timeout(self.random.random() * 0.5):
                await call
        except TimeoutError:
            pass

    async def deadline(self) -> None:
        ask = self.ask(100, pause=5)
        answer = await self.service.request_response("echo", ask, returns=bytes, timeout=0.3)
        self._check(answer, ask.call, 1, ask.size)  # late by our clock, but right: we were stopped

    async def nobody(self) -> None:
        nobody = self.mesh.service("nobody")
        await nobody.request_response("here", self.ask(), returns=bytes, timeout=15)
        self.violation("a service that does not exist has answered")

    def _check(self, data: bytes, call: int, item: int, size: int) -> None:
        check(data, call, item, size)
        self.items += 1
        self.bytes += len(data)
        task = asyncio.current_task()
        if task is not None and (watch := self.watches.get(task)) is not None:
            watch.since = self.awake
            watch.allowed = max(IDLE, MARGIN)

    # -- running ----------------------------------------------------------------------------------

    async def worker(self) -> None:
        models: dict[str, Callable[[], Awaitable[None]]] = {
            name: getattr(self, name) for name in SHARES
        }
        names, shares = list(SHARES), list(SHARES.values())
        while not self.stopping:
            name = self.random.choices(names, shares)[0]
            task = asyncio.ensure_future(self._one(name, models[name]))
            self.watches[task] = Watch(name, 15 + MARGIN, self.awake)
            await asyncio.wait([task])
            del self.watches[task]
            await asyncio.sleep(self.random.expovariate(1 / self.pause))

    async def _one(self, name: str, call: Callable[[], Awaitable[None]]) -> None:
        self.calls += 1
        try:
            await call()
            self.ends["ok"] += 1
        except PROMISED as exc:
            self.ends[type(exc).__name__] += 1
        except Wrong as exc:
            self.violation(f"{name}: wrong payload: {exc}")
        except asyncio.CancelledError:
            self.violation(f"{name}: no answer and no error in time")
        except Exception as exc:
            self.violation(f"{name}: {type(exc).__name__}, which no caller is promised: {exc}")

    async def keep_watch(self) -> None:
        """Count the time that we are awake, and end what takes too long by it."""
        last = said = time.monotonic()
        while True:
            await asyncio.sleep(TICK)
            now = time.monotonic()
            self.awake += min(now - last, 2 * TICK)
            last = now
            for task, watch in list(self.watches.items()):
                if self.awake - watch.since > watch.allowed:
                    task.cancel()
            if now - said >= 1.0:
                said = now
                print(f"STATS {json.dumps(self.stats())}", flush=True)

    def stats(self) -> dict[str, object]:
        return {
            "calls": self.calls,
            "items": self.items,
            "bytes": self.bytes,
            "ends": dict(self.ends),
            "in_flight": len(self.watches),
        }


async def connected(url: str, lifetime: float) -> Mesh:
    """Return a mesh once there is a broker; it may be away just now, or the network."""
    while True:
        try:
            return await connect(url, app="soak-caller", lifetime=lifetime)
        except Unreachable:
            await asyncio.sleep(0.2)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--largest", type=int, default=8 * MIB)
    parser.add_argument("--pause", type=float, default=0.05, help="mean seconds between two calls")
    parser.add_argument("--lifetime", type=float, default=8.0)
    options = parser.parse_args()
    mesh = await connected(options.url, options.lifetime)
    try:
        await asyncio.sleep(0.2)  # the session settles down to waiting for its end
        base = len(asyncio.all_tasks())
        caller = Caller(mesh, options.seed, options.largest, options.pause)
        watch = asyncio.ensure_future(caller.keep_watch())
        workers = [asyncio.ensure_future(caller.worker()) for _ in range(options.workers)]
        print("calling", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        caller.stopping = True
        await asyncio.gather(*workers)
        watch.cancel()
        await asyncio.wait([watch])
        for _ in range(100):  # what ends behind the last call: a source's `aclose`, a task's end
            if len(asyncio.all_tasks()) <= base:
                break
            await asyncio.sleep(0.05)
        now = sorted(repr(task.get_coro()) for task in asyncio.all_tasks())
        final = {**caller.stats(), "tasks_left": now if len(now) > base else []}
        print(f"FINAL {json.dumps(final)}", flush=True)
    finally:
        await mesh.close()


if __name__ == "__main__":
    asyncio.run(main())
