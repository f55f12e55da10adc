"""One worker: a broker without listeners, which does what the supervisor says.

Composition root of a worker process. `WorkerBroker` is the broker of `broker.daemon` on a hub that
has siblings; `Worker` is its end of the channel, one method per message.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable
from itertools import count
from typing import Any, Final

import msgspec

from broker.config import Config
from broker.daemon import Broker
from broker.memory import resident
from broker.observe import logs
from broker.workers import messages as m
from broker.workers.adopting import Adopter
from broker.workers.channel import Channel
from broker.workers.hub import Upward, WorkerHub
from broker.workers.report import Report, counters_report
from broker.workers.share import share_of
from broker.workers.siblings import SiblingLink, SiblingTransport
from rsocket_mesh.transport import Url

ASK_TIMEOUT: Final = 2.0  # s for the others' answers; the supervisor's own time-out comes first
_log: Final = logging.getLogger("rsocket_broker.workers")


class WorkerBroker(Broker):
    """The broker of one worker; the supervisor has its listeners."""

    def __init__(self, config: Config, index: int, up: Upward) -> None:
        """*config* is that of the whole broker."""
        super().__init__(share_of(config))
        self._index = index
        self._up = up

    def _make_hub(self, loop: asyncio.AbstractEventLoop) -> WorkerHub:
        hub = WorkerHub(self.config, self.counters, self._builtin, loop, self._index, self._up)
        self.worker_hub = hub
        return hub

    async def _open_listeners(self) -> None:
        """There are none."""

    def own_info(self) -> dict[str, int]:
        """Return what of `mesh.broker.info` is a sum over all workers."""
        hub = self.worker_hub
        return {
            "connections": len(hub.links) - hub.links_of_siblings,
            "streams_open": hub.calls_open(),
        }

    async def _info(self) -> dict[str, Any]:
        info = await super()._info()
        total = Counter(self.own_info())
        for other in await self._up.ask_all("info", None):
            total.update(other)
        return {**info, **total, "workers": self.config.workers.count}

    def report(self) -> Report:
        """Return all that there is to tell."""
        hub = self.worker_hub
        passed_on = sum(calls.started for calls in hub.passed_on.calls.values())
        return Report(
            self.snapshot(),
            counters_report(self.counters),
            passed_on,
            hub.link_bytes(),
            time.process_time(),
            resident(),
        )


class Worker:
    """The end of a worker's channel."""

    def __init__(self, sock: socket.socket) -> None:
        self._channel = Channel(sock, m.ToWorker, self._received, self._alone)
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._broker: WorkerBroker  # these from `Begin` on, which comes first
        self._hub: WorkerHub
        self._adopter: Adopter
        self._numbers = count(1)
        self._asked: dict[int, asyncio.Future[list[Any]]] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._meeting: list[asyncio.Task[Any]] = []
        self._acts: dict[type, Callable[[Any, list[int]], None]] = {
            m.Begin: self._begin,
            m.Meet: self._meet,
            m.Part: lambda message, _: self._hub.part(message.worker),
            m.Serves: self._serves,
            m.Left: lambda message, _: self._hub.left(message.worker, message.link),
            m.Takes: self._takes,
            m.Busy: lambda message, _: self._hub.busy(message),
            m.Go: self._go,
            m.Adopt: self._adopt,
            m.Confirmed: lambda message, _: self._hub.confirmed(message.link),
            m.Replaced: lambda message, _: self._hub.replaced(message.link, message.name),
            m.Ask: self._answer,
            m.Answers: self._answers,
            m.Drain: self._drain,
            m.Stop: self._stop,
        }

    async def run(self) -> int:
        """Serve until the end; return the exit code of the process."""
        try:
            return await self._ended
        finally:
            self._channel.close()

    # -- upwards ----------------------------------------------------------------------------------

    def tell(self, message: object, *descriptors: int) -> None:
        """Send *message* to the supervisor."""
        self._channel.send(message, *descriptors)

    async def ask_all(self, question: str, argument: Any) -> list[Any]:
        """Return what the other workers answer; of those that do not, nothing.

        If cancelled: the answers are dropped when they come.
        """
        number = next(self._numbers)
        asked = self._asked[number] = asyncio.get_running_loop().create_future()
        self.tell(m.AskAll(number, question, argument))
        try:
            answers = await asyncio.wait_for(asked, ASK_TIMEOUT)
        except TimeoutError:
            return []
        finally:
            del self._asked[number]
        return [answer for answer in answers if answer is not None]

    def _background(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _received(self, message: Any, descriptors: list[int]) -> None:
        self._acts[type(message)](message, descriptors)

    # -- messages ---------------------------------------------------------------------------------

    def _begin(self, message: m.Begin, descriptors: list[int]) -> None:
        logs.configure(message.config.log, worker=message.worker)
        broker = self._broker = WorkerBroker(message.config, message.worker, self)
        try:
            broker.prepare()
            self._hub = broker.worker_hub
            self._adopter = Adopter(self._hub, self)
        except Exception as exc:  # a certificate that cannot be used any more, or a bug
            if not isinstance(exc, OSError):
                _log.exception("the worker cannot begin")
            self.tell(m.Failed(getattr(exc, "strerror", None) or str(exc)))
            self._finish(1)

    def _meet(self, message: m.Meet, descriptors: list[int]) -> None:
        sibling = self._hub.meet(message.worker, message.link)
        for link, descriptor in zip(sibling.links(), descriptors, strict=True):
            self._meeting.append(self._background(self._connect(link, descriptor)))

    async def _connect(self, link: SiblingLink, descriptor: int) -> None:
        loop = asyncio.get_running_loop()
        sock = socket.socket(fileno=descriptor)
        sock.setblocking(False)
        frame_bytes = self._hub.config.limits.frame_bytes
        room = self._hub.room_of_sibling
        url = Url("unix", "", 0, f"worker {link.index}")
        transport = SiblingTransport(loop, url, lambda: link, frame_bytes, room)
        await loop.connect_accepted_socket(lambda: transport, sock)

    def _serves(self, message: m.Serves, descriptors: list[int]) -> None:
        self._hub.serves(message)
        if message.number:
            self.tell(m.Seen(message.number))

    def _takes(self, message: m.Takes, descriptors: list[int]) -> None:
        self._hub.takes(message.worker, message.link, message.accepting)

    def _go(self, message: m.Go, descriptors: list[int]) -> None:
        self._background(self._get_ready())

    async def _get_ready(self) -> None:
        if self._meeting:
            await asyncio.wait(self._meeting)
            self._meeting.clear()
        from broker.serve import look_for_cycles_rarely  # here: it knows the supervisor, too

        look_for_cycles_rarely()
        self._broker.state = "ready"
        self.tell(m.Ready())

    def _adopt(self, message: m.Adopt, descriptors: list[int]) -> None:
        self._adopter.take(message, *descriptors)

    def _answer(self, message: m.Ask, descriptors: list[int]) -> None:
        answer: Any
        match message.question:
            case "report":
                answer = msgspec.to_builtins(self._broker.report())
            case "info":
                answer = self._broker.own_info()
            case "loads":
                answer = (self._hub.index, self._hub.loads(*message.argument))
            case _:
                answer = None
        self.tell(m.Answer(message.number, answer))

    def _answers(self, message: m.Answers, descriptors: list[int]) -> None:
        asked = self._asked.get(message.number)
        if asked is not None and not asked.done():
            asked.set_result(message.answers)

    # -- the end ----------------------------------------------------------------------------------

    def _drain(self, message: m.Drain, descriptors: list[int]) -> None:
        self._background(self._drain_and_tell())

    async def _drain_and_tell(self) -> None:
        await self._broker.drain()
        self.tell(m.Drained())

    def _stop(self, message: m.Stop, descriptors: list[int]) -> None:
        self._background(self._end(0))

    def _alone(self) -> None:
        """The supervisor is gone: nobody would hand us anything, or tell us to stop."""
        _log.error("the supervisor has ended; so does this worker")
        self._background(self._end(1))

    async def _end(self, code: int) -> None:
        for task in self._tasks - {asyncio.current_task()}:
            task.cancel()
        if hasattr(self, "_broker"):
            await self._broker.stop()
        self._finish(code)

    def _finish(self, code: int) -> None:
        if not self._ended.done():
            self._ended.set_result(code)
