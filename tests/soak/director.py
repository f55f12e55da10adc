"""Sets the scene of a soak, disturbs it, watches it, and judges it in the end.

A broker, services and callers as real processes. Some of them are connected by a proxy that stalls,
delays and cuts, some across a wire between network namespaces that loses packets. Meanwhile
services and callers are killed and stopped at random, and now and then the broker itself is killed
and started again. Then the load ends, and everything has to be as it was before it.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rsocket_mesh import Mesh, RSocketError, connect
from tests.soak.children import Child, descriptors, python, resident
from tests.soak.measures import MIB, Report, Sample
from tests.support.flaky_proxy import FlakyProxy
from tests.support.namespaces import BROKER_HOST, Wire, missing, wire

LIFETIME: Final = 8.0  # s of silence after which a connection is dead, asked for by everybody
FINISH: Final = 90.0  # s for the callers to end what is open: their own bounds, and a slow machine
SETTLE: Final = 30.0  # s for the broker to be as before, once the callers are gone
LOSSY_PORT: Final = 7000  # in a namespace of its own
SPARE_FDS: Final = 2  # descriptors that may come and go: a request of ours to admin
# What the allocators of Python and the C library keep of memory that was used once.
SPARE_MEMORY: Final = 96 * MIB


@dataclass(frozen=True)
class Plan:
    """How long, how many, how bad; times in seconds."""

    seconds: float = 600.0
    seed: int = 0
    services: int = 4
    callers: int = 4
    workers: int = 6
    kill_every: float = 4.0
    stop_every: float = 7.0
    disturb_every: float = 5.0
    broker_kill_every: float = 120.0  # 0: never
    largest: int = 8 * MIB
    loss_per_mille: int = 10
    rate: str = "100mbit"
    report: Path | None = None
    quiet: bool = False


class Soak:
    """One run."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.random = random.Random(plan.seed)
        self.report = Report(plan.seed, plan.seconds)
        self.children: list[Child] = []
        self.proxies: list[FlakyProxy] = []
        self.wire: Wire | None = None
        self.ending = False
        self._began = time.monotonic()
        self._lives = 0
        self._admin = ""

    def violation(self, text: str) -> None:
        self.report.violations.append(text)
        self.say(f"VIOLATION {text}")

    def say(self, text: str) -> None:
        if not self.plan.quiet:
            print(f"[{time.monotonic() - self._began:5.0f} s] {text}", flush=True)

    # -- the scene --------------------------------------------------------------------------------

    async def run(self) -> Report:
        """Set up, disturb, end, judge. Every process is gone when this returns or raises."""
        async with AsyncExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
            stack.push_async_callback(self._end_everything)
            await self._start_broker(folder)
            await self._make_network(stack, folder)
            await self._start_services()
            async with connect(self.url, app="soak-director", lifetime=60.0) as mesh:
                self.report.base = await self._look(mesh)
            await self._start_callers()
            self._began = time.monotonic()
            await self._disturb()
            await self._end_of_load()
        self._add_up()
        return self.report

    async def _start_broker(self, folder: Path) -> None:
        self.socket = folder / "broker.sock"
        listen = ["tcp://127.0.0.1:0", "ws://127.0.0.1:0", f"unix://{self.socket}"]
        self.broker = Child("broker", "broker", [], "stdout:^ready$")
        await self._new_broker(listen, "http://127.0.0.1:0")
        self.children.append(self.broker)

    async def _new_broker(self, listen: list[str], admin: str) -> None:
        command = python("broker", "--admin", admin)
        for url in listen:
            command += ["--listen", url]
        self.broker.use(command)
        process = await self.broker.start()
        self._lives += 1
        urls = [line.split()[1] for line in process.lines() if line.startswith("listening ")]
        self._listen = [url for url in urls if not url.startswith("http")]
        self._admin = next(url for url in urls if url.startswith("http"))
        self.url = next(url for url in urls if url.startswith("tcp"))
        self.websocket = next(url for url in urls if url.startswith("ws"))

    async def _make_network(self, stack: AsyncExitStack, folder: Path) -> None:
        target = self.url.removeprefix("tcp://")
        for _ in range(2):
            self.proxies.append(await stack.enter_async_context(FlakyProxy(target)))
        lacking = missing()
        if lacking:
            text = f"lost packets: network namespaces need {', '.join(lacking)}"
            self.report.left_out.append(text)
            self.say(f"left out: {text}")
            return
        self.wire = stack.enter_context(wire())
        # The broker stays where it is: a Unix socket has no network namespace.
        door = python("tests.support.flaky_proxy", f"{BROKER_HOST}:{LOSSY_PORT}", str(self.socket))
        command = self.wire.command(self.wire.broker, *door)
        self.door = Child("door", "proxy", command, "stdout:^ready$")
        await self.door.start()
        self.children.append(self.door)
        self.wire.slow_down(self.plan.rate)

    def _places(self) -> list[tuple[str, list[str], int]]:
        """Return the ways to the broker: URL, what goes before the command, the largest payload."""
        largest = self.plan.largest
        places = [
            (self.url, [], largest),
            (f"tcp://{self.proxies[0].address}", [], min(largest, MIB)),
            (f"unix://{self.socket}", [], largest),
            (self.websocket, [], largest),
        ]
        if self.wire is not None:
            before = self.wire.command(self.wire.client)
            places.insert(2, (f"tcp://{BROKER_HOST}:{LOSSY_PORT}", before, MIB // 8))
        return places

    async def _start_services(self) -> None:
        places = self._places()
        for index in range(self.plan.services):
            url, before, _ = places[index % len(places)]
            name = f"service-{index}"
            program = python("tests.soak.service", url, name, str(LIFETIME))
            child = Child(name, "service", [*before, *program], "stderr:registered")
            self.children.append(child)
        await asyncio.gather(*(child.start() for child in self._of("service")))

    async def _start_callers(self) -> None:
        places = self._places()
        for index in range(self.plan.callers):
            url, before, largest = places[index % len(places)]
            child = Child(f"caller-{index}", "caller", [], "stdout:^calling$")
            child.before = [
                *before,
                *python("tests.soak.caller", url, "--workers", str(self.plan.workers)),
                *("--largest", str(largest), "--lifetime", str(LIFETIME)),
            ]
            self.children.append(child)
        await asyncio.gather(*(self._start(child) for child in self._of("caller")))

    async def _start(self, child: Child) -> None:
        if child.kind == "caller":  # other calls than in the life before
            child.use([*child.before, "--seed", str(self.random.getrandbits(32))])
        await child.start()

    def _of(self, kind: str) -> list[Child]:
        return [child for child in self.children if child.kind == kind]

    # -- disturbances -----------------------------------------------------------------------------

    async def _disturb(self) -> None:
        jobs = [self._kill(), self._stop(), self._bend_network(), self._sample(), self._progress()]
        if self.plan.broker_kill_every:
            jobs.append(self._kill_broker())
        tasks = [asyncio.ensure_future(job) for job in jobs]
        done, _ = await asyncio.wait(
            tasks, timeout=self.plan.seconds, return_when=asyncio.FIRST_EXCEPTION
        )
        self.ending = True
        self.say("the load ends")
        for task in tasks[:3] + tasks[5:]:  # sampling and progress go on
            task.cancel()
        await asyncio.gather(*tasks[:3], *tasks[5:], return_exceptions=True)
        self._watchers = tasks[3:5]
        for task in done:
            task.result()
        for proxy in self.proxies:
            proxy.delay = 0.0
            proxy.flow()
        if self.wire is not None:
            self.wire.lose(0)
        for child in self.children:
            child.wake()
        # Whatever was being killed or stopped when time was up is started again.
        for child in [self.broker, *self._of("service"), *self._of("caller")]:
            child.busy = False
            if child.pid is None:
                await self._revive(child)

    async def _revive(self, child: Child) -> None:
        if child is self.broker:
            await self._new_broker(self._listen, self._admin)
        else:
            await self._start(child)

    def _pick(self, *kinds: str) -> Child | None:
        free = [c for c in self.children if c.kind in kinds and not c.busy and c.pid is not None]
        return self.random.choice(free) if free else None

    async def _pause(self, mean: float) -> None:
        await asyncio.sleep(mean * (0.5 + self.random.random()))

    async def _kill(self) -> None:
        """Kill a service or a caller, and start it again a little later."""
        revivals: set[asyncio.Task[None]] = set()
        try:
            while True:
                await self._pause(self.plan.kill_every)
                child = self._pick("service", "service", "caller")
                if child is None:
                    continue
                child.busy = True
                await child.kill()
                self.report.events[f"killed {child.kind}s"] += 1
                task = asyncio.ensure_future(self._come_back(child))
                revivals.add(task)
                task.add_done_callback(revivals.discard)
        finally:
            for task in revivals:
                task.cancel()
            await asyncio.gather(*revivals, return_exceptions=True)

    async def _come_back(self, child: Child) -> None:
        try:
            await asyncio.sleep(self.random.random() * 1.5)
            await self._start(child)
        except AssertionError as exc:  # not ready in time: the broker may be away as well
            self.say(f"{child.name}: {str(exc).splitlines()[0]}")
        finally:
            child.busy = False

    async def _stop(self) -> None:
        """Stop a process for some seconds, as a debugger or a starved machine does."""
        while True:
            await self._pause(self.plan.stop_every)
            child = self._pick("service", "caller")
            if child is None:
                continue
            child.busy = True
            child.freeze()
            try:
                await asyncio.sleep(0.5 + self.random.random() * 4)
            finally:
                child.wake()
                child.busy = False
            self.report.events["stopped"] += 1

    async def _bend_network(self) -> None:
        """Cut, stall and delay what runs through the proxies; lose packets on the wire."""
        while True:
            await self._pause(self.plan.disturb_every)
            proxy = self.random.choice(self.proxies)
            act = self.random.choice(("cut", "stall", "delay", "loss"))
            if act == "loss" and self.wire is not None:
                await asyncio.to_thread(
                    self.wire.lose, self.random.randint(0, 2 * self.plan.loss_per_mille)
                )
            elif act == "cut":
                proxy.cut()
            elif act == "stall":
                proxy.stall()
                await asyncio.sleep(self.random.random() * 4)
                proxy.flow()
            else:
                act, proxy.delay = "delay", self.random.choice((0.0, 0.005, 0.05, 0.3))
            self.report.events[act] += 1

    async def _kill_broker(self) -> None:
        while True:
            await asyncio.sleep(self.plan.broker_kill_every)
            self.say("the broker is killed")
            self.broker.busy = True
            await self.broker.kill()
            self.report.events["killed brokers"] += 1
            await asyncio.sleep(self.random.random() * 2)
            await self._new_broker(self._listen, self._admin)
            self.broker.busy = False

    # -- watching ---------------------------------------------------------------------------------

    async def _sample(self) -> None:
        while True:
            pid = self.broker.pid
            if pid is not None and not self.broker.busy:
                streams = (await self._status()).get("streams_open", 0)
                sample = Sample(self._now(), self._lives, resident(pid), descriptors(pid), streams)
                if sample.rss:
                    self.report.samples.append(sample)
            for child in self.children:
                if text := child.died():
                    raise AssertionError(text)
            await asyncio.sleep(1.0)

    async def _progress(self) -> None:
        seen = 0
        while True:
            await asyncio.sleep(5.0)
            totals: Counter[str] = Counter()
            violations: list[str] = []
            for child in self.children:
                totals.update(child.current())
                violations += child.new_violations()
            for text in violations[seen:]:
                self.say(f"VIOLATION {text}")
            seen = max(seen, len(violations))
            last = self.report.samples[-1] if self.report.samples else Sample(0, 0, 0, 0)
            events = self.report.events
            self.say(
                f"{totals['calls']:,} calls, {totals['end ok']:,} ok, {totals['items']:,} items, "
                f"{totals['bytes'] / MIB:,.0f} MiB; killed {self.report.kills}, stopped "
                f"{events['stopped']}; broker {last.rss / MIB:.0f} MiB, {last.fds} fds, "
                f"{last.streams} streams; {len(violations)} violations"
            )

    def _now(self) -> float:
        return round(time.monotonic() - self._began, 2)

    async def _status(self, path: str = "status") -> Any:
        def ask() -> Any:
            with urllib.request.urlopen(f"{self._admin}/api/v1/{path}", timeout=10) as answer:
                return json.load(answer)

        try:
            return await asyncio.to_thread(ask)
        except (OSError, ValueError):
            return {}  # killed meanwhile; whoever needs an answer asks again

    async def _look(self, mesh: Mesh) -> dict[str, Any]:
        """Return the state at rest: of the broker, and the tasks of each service."""
        tasks = []
        for child in self._of("service"):
            handle = mesh.service("soak", instance=child.name)
            tasks.append(await handle.request_response("tasks", returns=int, timeout=30))
        status = await self._status()
        pid = self.broker.pid
        assert pid is not None
        return {
            "MiB": round(resident(pid) / MIB, 1),
            "descriptors": descriptors(pid),
            "connections": status.get("connections"),
            "streams_open": status.get("streams_open"),
            "tasks": max(tasks, default=0),
        }

    # -- the end ----------------------------------------------------------------------------------

    async def _end_of_load(self) -> None:
        """Let everything come to its end, and see that nothing is left of it."""
        callers = self._of("caller")
        for wrong in await asyncio.gather(*(child.finish(FINISH) for child in callers)):
            if wrong:
                self.violation(wrong)
        for task in self._watchers:
            task.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        for child in callers:
            if child.final and child.final["tasks_left"]:
                self.violation(f"{child.name} has tasks left: {child.final['tasks_left']}")
        base, end = self.report.base, time.monotonic() + SETTLE
        async with connect(self.url, app="soak-director", lifetime=60.0) as mesh:
            while True:
                try:
                    after = await self._look(mesh)
                except RSocketError as exc:  # a service that is still coming back
                    after = {"error": str(exc)}
                wrong = _differences(base, after)
                if not wrong or time.monotonic() > end:
                    break
                await asyncio.sleep(0.5)
            self.report.after = after
        for text in wrong:
            self.violation(f"not as before the load: {text}")
        for child in self._of("service"):
            if text := await child.end():
                self.violation(text)
        self.report.judge_memory()

    def _add_up(self) -> None:
        for child in self.children:
            self.report.violations += child.new_violations()
            self.report.totals.update(child.current())

    async def _end_everything(self) -> None:
        for child in reversed(self.children):
            await child.kill()


def _differences(base: dict[str, Any], after: dict[str, Any]) -> list[str]:
    if "error" in after:
        return [after["error"]]
    allowed = {
        "MiB": base["MiB"] + SPARE_MEMORY / MIB,
        "descriptors": base["descriptors"] + SPARE_FDS,
        "connections": base["connections"],
        "streams_open": base["streams_open"],
        "tasks": base["tasks"],
    }
    return [
        f"{name} is {after[name]}, was {base[name]}"
        for name, most in allowed.items()
        if after[name] is None or after[name] > most
    ]


def run(plan: Plan) -> Report:
    """Run the soak that *plan* describes; return what it found."""
    print(f"soak: {plan.seconds:g} s, seed {plan.seed}", file=sys.stderr, flush=True)
    report = asyncio.run(Soak(plan).run())
    if plan.report is not None:
        report.write(plan.report)
    return report
