"""The process that was started: it accepts for its workers, and is the one broker they are.

Composition root of a broker with several processes, in the place of `broker.daemon.Broker` and with
its face: `start`, `drain`, `stop`, and `admin.snapshot.BrokerView`. It serves no connection itself,
so that whatever happens in serving, the listeners stay open and somebody is there to start the
worker again. ADR 0008 says why.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections import Counter
from collections.abc import Callable
from itertools import count
from typing import Any, Final

from broker.admin.snapshot import Snapshot, WorkerView
from broker.config import Config
from broker.daemon import package_version
from broker.observe.counters import Counters
from broker.workers import messages as m
from broker.workers.door import Door
from broker.workers.process import WorkerProcess
from broker.workers.registrar import Registrar
from broker.workers.report import read_report
from broker.workers.siblings import MIMES
from broker.workers.view import Totals
from rsocket_mesh.errors import RSocketError
from rsocket_mesh.transport import Listener

START_TIMEOUT: Final = 30.0  # s until all workers are ready; an overloaded machine takes seconds
FIRST_BACKOFF: Final = 0.1  # s from the death of a worker to its next life; doubled each time
LAST_BACKOFF: Final = 10.0  # s at most: a cause that goes away is noticed soon
# s that who connects waits for a worker that died for the first time; it takes less than half.
PATIENCE: Final = 1.0
SETTLED: Final = 60.0  # s that a worker has to live for its next death to count as the first
MEET_AGAIN: Final = 0.5  # s from a broken link between two workers to the next
DRAIN_GRACE: Final = 2.0  # s beyond drain.timeout for the workers to say that they are done
STOP_GRACE: Final = 3.0  # s for a worker to close its connections, then it is killed
LOG_PERIOD: Final = 60.0  # s between two lines about paused accepting
SEND_BUFFER: Final = 1024 * 1024  # bytes wished for a link between workers; systems allow less
_log: Final = logging.getLogger("rsocket_broker.workers")


class WorkerFailed(RSocketError):
    """A worker could not start; the text says why."""


class Supervisor:
    """One broker of several processes.

    Attributes:
        state: `starting`, `ready`, `draining` or `stopped`.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.state = "starting"
        self._loop = asyncio.get_running_loop()
        self._version = package_version()
        self._started_at = self._loop.time()
        self._door = Door(config, self._hand)
        self._workers: dict[int, WorkerProcess] = {}  # those that are alive
        self._deaths: Counter[int] = Counter()
        self._backoff: dict[int, float] = {}
        self._registrar = Registrar(self._workers)
        self._totals = Totals()
        self._all_ready: asyncio.Future[None] = self._loop.create_future()
        self._drained: set[int] = set()
        self._all_drained = asyncio.Event()
        self._links: dict[tuple[int, int], int] = {}  # between two workers -> its number
        self._link_numbers = count(1)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._refreshing: asyncio.Task[bool] | None = None
        self._acts: dict[type, Callable[[WorkerProcess, Any, list[int]], None]] = {
            m.Ready: self._ready,
            m.Failed: self._failed,
            **self._registrar.acts,
            m.Adopted: self._adopted,
            m.Ended: self._ended,
            m.Crowded: self._crowded,
            m.Detached: self._detached,
            m.Move: self._move,
            m.Lost: self._link_lost,
            m.AskAll: self._ask_all,
            m.Drained: self._one_drained,
        }

    # -- from start to stop -----------------------------------------------------------------------

    async def start(self) -> None:
        """Bind all addresses, start the workers, and accept when all of them are ready.

        Raises:
            OSError: an address or a certificate cannot be used; nothing stays open.
            WorkerFailed: a worker could not start.
        """
        try:
            await self._door.open()
            for index in range(self.config.workers.count):
                self._spawn(index)
            async with asyncio.timeout(START_TIMEOUT):
                await self._all_ready
        except TimeoutError:
            await self.stop()
            raise WorkerFailed(f"not all workers were ready within {START_TIMEOUT:g} s") from None
        except BaseException:
            await self.stop()
            raise
        self._door.accept()
        self.state = "ready"

    async def drain(self) -> None:
        """Take no new connections and calls, and wait for those that run, at most `drain.timeout`
        seconds.

        If cancelled, the broker stays draining.
        """
        if self.state != "ready":
            return
        self.state = "draining"
        await self._door.close()
        self._tell_all(m.Drain())
        self._look_whether_drained()
        try:
            async with asyncio.timeout(self.config.drain.timeout + DRAIN_GRACE):
                await self._all_drained.wait()
        except TimeoutError:
            _log.warning("a worker did not drain in its time")

    async def stop(self) -> None:
        """End all workers; what was written still leaves, for a bounded time. Idempotent."""
        if self.state == "stopped":
            return
        self.state = "stopped"
        await self._door.close()
        for task in self._tasks:
            task.cancel()
        self._tell_all(m.Stop())
        alive = list(self._workers.values())
        await asyncio.gather(*(worker.end(STOP_GRACE) for worker in alive))

    def _background(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- workers ----------------------------------------------------------------------------------

    def _spawn(self, index: int) -> None:
        """Give worker *index* a life, and tell it all there is."""
        if self.state in ("draining", "stopped"):
            return
        worker = self._workers[index] = WorkerProcess(index, self._received, self._lost)
        worker.channel.send(m.Begin(index, self.config.workers.count, self.config))
        for other in list(self._workers.values()):
            if other is not worker:
                self._introduce(worker, other)
        self._registrar.introduce(worker)
        worker.channel.send(m.Go())

    def _introduce(self, one: WorkerProcess, other: WorkerProcess) -> None:
        """Link two workers: connections for the calls of each to the other."""
        ours: list[int] = []
        theirs: list[int] = []
        for _ in MIMES:
            there, there_end = _pair()
            back, back_end = _pair()
            ours += (there, back_end)
            theirs += (back, there_end)
        number = self._links[_both(one.index, other.index)] = next(self._link_numbers)
        one.channel.send(m.Meet(other.index, number), *ours)
        other.channel.send(m.Meet(one.index, number), *theirs)

    def _received(self, worker: WorkerProcess, message: Any, descriptors: list[int]) -> None:
        self._acts[type(message)](worker, message, descriptors)

    def _ready(self, worker: WorkerProcess, message: m.Ready, descriptors: list[int]) -> None:
        worker.is_ready = True
        self._door.placing.joined(worker.index)
        _log.info("worker %d is ready, process %d", worker.index, worker.process.pid)
        self._door.release()
        everybody = len(self._workers) == self.config.workers.count
        all_ready = everybody and all(one.is_ready for one in self._workers.values())
        if all_ready and not self._all_ready.done():
            self._all_ready.set_result(None)

    def _failed(self, worker: WorkerProcess, message: m.Failed, descriptors: list[int]) -> None:
        _log.error("worker %d cannot start: %s", worker.index, message.text)
        self._fail_start(message.text)

    def _fail_start(self, text: str) -> None:
        if self.state == "starting" and not self._all_ready.done():
            self._all_ready.set_exception(WorkerFailed(text))

    def _lost(self, worker: WorkerProcess) -> None:
        """The channel of *worker* has closed: it has died, or does so now."""
        index = worker.index
        if self._workers.get(index) is not worker:
            return
        del self._workers[index]
        self._drained.discard(index)
        connections = self._door.placing.of(index)
        self._door.placing.gone(index)
        self._totals.gone(index)
        self._registrar.gone(index)
        self._tell_all(m.Part(index))
        if self.state == "stopped":
            return
        if self.state == "ready" and self._next_backoff(worker) == FIRST_BACKOFF:
            self._door.hold(PATIENCE)
        self._background(self._bury(worker, connections))

    async def _bury(self, worker: WorkerProcess, connections: int) -> None:
        index = worker.index
        status = await worker.end(STOP_GRACE)
        how = _ending(status)
        self._fail_start(f"worker {index} ended {how}; the log says more")
        self._look_whether_drained()
        if self.state != "ready":
            return
        self._deaths[index] += 1
        pause = self._backoff[index] = self._next_backoff(worker)
        _log.error(
            "worker %d (process %d) ended %s; %d connections are lost; it is started again in %g s",
            *(index, worker.process.pid, how, connections, pause),
        )
        await asyncio.sleep(pause)
        await self._revive(index)

    def _next_backoff(self, worker: WorkerProcess) -> float:
        lived = self._loop.time() - worker.started_at
        before = self._backoff.get(worker.index, 0.0) if lived < SETTLED else 0.0
        return min(LAST_BACKOFF, 2 * before or FIRST_BACKOFF)

    async def _revive(self, index: int) -> None:
        while True:
            try:
                self._spawn(index)
            except OSError as exc:  # no memory, no processes: perhaps later
                _log.error("worker %d cannot be started: %s", index, exc.strerror or exc)
                await asyncio.sleep(LAST_BACKOFF)
            else:
                return

    def _tell_all(self, message: object, but: int | None = None) -> None:
        for worker in list(self._workers.values()):
            if worker.index != but:
                worker.channel.send(message)

    def _link_lost(self, worker: WorkerProcess, message: m.Lost, descriptors: list[int]) -> None:
        """Both say so; or one of them has died, which is heard of soon."""
        pair = _both(worker.index, message.worker)
        self._loop.call_later(MEET_AGAIN, self._meet_again, pair, message.link)

    def _meet_again(self, pair: tuple[int, int], broken: int) -> None:
        one, other = (self._workers.get(index) for index in pair)
        if one is None or other is None or self.state != "ready" or self._links[pair] != broken:
            return
        _log.error("the link between workers %d and %d broke; they get another", *pair)
        one.channel.send(m.Part(other.index))
        other.channel.send(m.Part(one.index))
        self._introduce(one, other)
        self._registrar.introduce(one, other.index)
        self._registrar.introduce(other, one.index)

    # -- connections ------------------------------------------------------------------------------

    @property
    def listeners(self) -> list[Listener]:
        """Open addresses, in the order of the config; `url` has the real port."""
        return self._door.listeners

    def _hand(self, index: int, message: m.Adopt, descriptor: int) -> None:
        self._workers[index].channel.send(message, descriptor)

    def _adopted(self, worker: WorkerProcess, message: m.Adopted, descriptors: list[int]) -> None:
        self._door.placing.adopted(worker.index)
        self._door.go_on()

    def _ended(self, worker: WorkerProcess, message: m.Ended, descriptors: list[int]) -> None:
        self._door.placing.ended(worker.index, message.address)

    def _crowded(self, worker: WorkerProcess, message: m.Crowded, descriptors: list[int]) -> None:
        self._door.placing.crowded(worker.index, message.crowded)
        if message.crowded:
            self._door.short()
        else:
            self._door.go_on()

    def _detached(self, worker: WorkerProcess, message: m.Detached, descriptors: list[int]) -> None:
        self._door.placing.detached(worker.index, message.sessions)

    def _move(self, worker: WorkerProcess, message: m.Move, descriptors: list[int]) -> None:
        """Hand a RESUME on to the worker that has its session; or back, to be refused."""
        owner = self._registrar.directory.owner(message.digest)
        if owner is None or not (owner in self._workers and self._workers[owner].is_ready):
            owner = worker.index
        self._door.move(owner, message, descriptors)

    # -- answers ----------------------------------------------------------------------------------

    def _ask_all(self, worker: WorkerProcess, message: m.AskAll, descriptors: list[int]) -> None:
        self._background(self._answer_all(worker, message))

    async def _answer_all(self, worker: WorkerProcess, message: m.AskAll) -> None:
        others = [one for one in self._workers.values() if one is not worker and one.is_ready]
        answers = await asyncio.gather(
            *(one.ask(message.question, message.argument) for one in others)
        )
        worker.channel.send(m.Answers(message.number, answers))

    @property
    def counters(self) -> Counters:
        """What all workers have counted, as of the last `refresh`."""
        return self._totals.counters

    async def refresh(self) -> bool:
        """Ask all workers for their state; return whether all of them answered.

        If cancelled: others that asked at the same time get their answer.
        """
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = self._loop.create_task(self._refresh())
        return await asyncio.shield(self._refreshing)

    async def _refresh(self) -> bool:
        workers = [worker for worker in self._workers.values() if worker.is_ready]
        answers = await asyncio.gather(*(worker.ask("report") for worker in workers))
        for worker, answer in zip(workers, answers, strict=True):
            if answer is not None and self._workers.get(worker.index) is worker:
                self._totals.take(worker.index, read_report(answer))
        self._totals.add_up()
        return None not in answers

    def snapshot(self) -> Snapshot:
        """Return the state as of the last `refresh`."""
        state = self.state
        if state == "ready" and not any(worker.is_ready for worker in self._workers.values()):
            state = "starting"  # all have died, and nobody is accepted meanwhile
        uptime = self._loop.time() - self._started_at
        views = [self._view(index) for index in range(self.config.workers.count)]
        return self._totals.snapshot(state, self._version, uptime, views)

    def _view(self, index: int) -> WorkerView:
        worker = self._workers.get(index)
        state = "gone" if worker is None else "ready" if worker.is_ready else "starting"
        pid = worker.process.pid if worker is not None else 0
        connections = self._door.placing.of(index)
        return WorkerView(index, state, pid, self._deaths[index], connections, 0, 0, 0, 0.0, 0)

    # -- the end ----------------------------------------------------------------------------------

    def _one_drained(
        self, worker: WorkerProcess, message: m.Drained, descriptors: list[int]
    ) -> None:
        self._drained.add(worker.index)
        self._look_whether_drained()

    def _look_whether_drained(self) -> None:
        if self.state == "draining" and self._drained >= self._workers.keys():
            self._all_drained.set()


def _both(one: int, other: int) -> tuple[int, int]:
    return min(one, other), max(one, other)


def _pair() -> tuple[int, int]:
    """Return the two ends of a connection."""
    ends = socket.socketpair()
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    return ends[0].detach(), ends[1].detach()


def _ending(status: int) -> str:
    if status >= 0:
        return f"with status {status}"
    try:
        return f"by {signal.Signals(-status).name}"
    except ValueError:
        return f"by signal {-status}"
