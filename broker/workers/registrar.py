"""What sessions announce, told to all workers in one order: the supervisor's part of the registry.

On `directory`, which knows who announced what. A change comes from one worker, is entered, and goes
to all others; of an announcement the session's worker hears when all of them have it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from broker.workers import messages as m
from broker.workers.directory import Directory, Holder, Session
from broker.workers.process import WorkerProcess

# s until a session is told that it is registered although a worker has not said that it knows: one
# that hangs must not keep services from starting.
CONFIRM_TIMEOUT: Final = 1.0

Act = Callable[[WorkerProcess, Any, list[int]], None]


class Registrar:
    """Passes on what sessions announce.

    Attributes:
        directory: all of it.
        acts: what to do about each message of a worker that is about sessions.
    """

    def __init__(self, workers: dict[int, WorkerProcess]) -> None:
        """*workers* are those that are alive, kept up to date by the supervisor."""
        self.directory = Directory()
        self._workers = workers
        self._loop = asyncio.get_running_loop()
        self.acts: dict[type, Act] = {
            m.Announced: self._announced,
            m.Withdrawn: self._withdrawn,
            m.Seen: self._seen,
            m.Accepting: self._accepting,
            m.Loads: self._loads,
            m.Resumable: self._resumable,
        }

    def introduce(self, worker: WorkerProcess, of: int | None = None) -> None:
        """Tell *worker* all that others serve; or only what the worker *of* does."""
        for other, link, session in self.directory.serving(but=worker.index):
            if of is None or of == other:
                worker.channel.send(_serves(other, link, session, 0))

    def gone(self, index: int) -> None:
        """Worker *index* has died."""
        for holder in self.directory.gone(index):
            self._confirm(holder)

    def _tell_others(self, message: object, but: int) -> None:
        for worker in list(self._workers.values()):
            if worker.index != but:
                worker.channel.send(message)

    def _announced(
        self, worker: WorkerProcess, message: m.Announced, descriptors: list[int]
    ) -> None:
        link = message.link
        served = self.directory.serves(worker.index, link)
        session = Session(
            *(message.tenant, message.app, message.instance),
            *(message.data_mime, message.announcement, message.serves),
        )
        before = self.directory.announce(worker.index, link, session)
        if before is not None and before[0] != worker.index:
            holder = self._workers.get(before[0])
            if holder is not None:
                name = f"{message.app}/{message.instance}"
                holder.channel.send(m.Replaced(before[1], name))
        if not (message.serves or served):
            return
        others = {index for index in self._workers if index != worker.index}
        if not others:
            self._confirm((worker.index, link))
            return
        number = self.directory.told((worker.index, link), others)
        self._tell_others(_serves(worker.index, link, session, number), worker.index)
        self._loop.call_later(CONFIRM_TIMEOUT, self._overdue, number)

    def _seen(self, worker: WorkerProcess, message: m.Seen, descriptors: list[int]) -> None:
        self._confirm(self.directory.seen(worker.index, message.number))

    def _overdue(self, number: int) -> None:
        self._confirm(self.directory.overdue(number))

    def _confirm(self, holder: Holder | None) -> None:
        if holder is not None and (worker := self._workers.get(holder[0])) is not None:
            worker.channel.send(m.Confirmed(holder[1]))

    def _withdrawn(
        self, worker: WorkerProcess, message: m.Withdrawn, descriptors: list[int]
    ) -> None:
        session = self.directory.withdraw(worker.index, message.link)
        if session is not None and session.serves:
            self._tell_others(m.Left(worker.index, message.link), worker.index)

    def _accepting(
        self, worker: WorkerProcess, message: m.Accepting, descriptors: list[int]
    ) -> None:
        self.directory.accepting(worker.index, message.link, message.accepting)
        takes = m.Takes(worker.index, message.link, message.accepting)
        self._tell_others(takes, worker.index)

    def _loads(self, worker: WorkerProcess, message: m.Loads, descriptors: list[int]) -> None:
        self._tell_others(m.Busy(worker.index, message.loads), worker.index)

    def _resumable(
        self, worker: WorkerProcess, message: m.Resumable, descriptors: list[int]
    ) -> None:
        self.directory.resumable(worker.index, message.digest, message.begins)


def _serves(worker: int, link: int, session: Session, number: int) -> m.Serves:
    return m.Serves(
        *(worker, link, session.tenant, session.instance, session.data_mime),
        *(session.announcement, number, session.accepting),
    )
