"""What the sessions of all workers announce, in the one order that holds everywhere.

Kept by the supervisor, through whom all changes pass: so all workers see them in the same order, of
two sessions that come at once under one name the later one is the same for all, and a worker that
is started again learns everything in one go. Sans-IO.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Final, NamedTuple

MAX_REMEMBERED: Final = 1024  # tokens of sessions that have ended, about 100 bytes each

Holder = tuple[int, int]  # a worker, and the number of a session there


class Session(NamedTuple):
    """A session that has announced something, services or only who it is."""

    tenant: str
    app: str
    instance: str
    data_mime: str
    announcement: bytes
    serves: bool
    accepting: bool = True


class Directory:
    """The sessions by worker, the names that they have, and what nobody has confirmed yet."""

    def __init__(self) -> None:
        self._sessions: dict[int, dict[int, Session]] = {}
        self._names: dict[tuple[str, str, str], Holder] = {}
        self._tokens: dict[bytes, int] = {}
        self._ended: OrderedDict[bytes, int] = OrderedDict()  # whose worker knows why
        self._number = 0
        self._unseen: dict[int, tuple[Holder, set[int]]] = {}  # who has not seen an announcement

    # -- sessions ---------------------------------------------------------------------------------

    def announce(self, worker: int, link: int, session: Session) -> Holder | None:
        """Enter *session*; return who had its name before, if that is another one."""
        self._sessions.setdefault(worker, {})[link] = session
        name = session[:3]
        before = self._names.get(name)
        self._names[name] = (worker, link)
        return before if before != (worker, link) else None

    def serves(self, worker: int, link: int) -> bool:
        """Return whether this session announced a service before."""
        session = self._sessions.get(worker, {}).get(link)
        return session is not None and session.serves

    def withdraw(self, worker: int, link: int) -> Session | None:
        """Forget a session; return what it was, or None if it was not known."""
        session = self._sessions.get(worker, {}).pop(link, None)
        if session is not None and self._names.get(session[:3]) == (worker, link):
            del self._names[session[:3]]
        return session

    def accepting(self, worker: int, link: int, accepting: bool) -> None:
        """A session takes calls, or takes none for now."""
        sessions = self._sessions.get(worker, {})
        if link in sessions:
            sessions[link] = sessions[link]._replace(accepting=accepting)

    def serving(self, but: int) -> Iterator[tuple[int, int, Session]]:
        """Yield worker, number and session of all that serve something, except those of *but*."""
        for worker, sessions in self._sessions.items():
            if worker != but:
                for link, session in sessions.items():
                    if session.serves:
                        yield worker, link, session

    # -- tokens -----------------------------------------------------------------------------------

    def resumable(self, worker: int, digest: bytes, begins: bool) -> None:
        """A session with a resume token begins at *worker*, or has ended."""
        if begins:
            self._tokens[digest] = worker
            self._ended.pop(digest, None)
        elif self._tokens.get(digest) == worker:
            del self._tokens[digest]
            self._ended[digest] = worker
            if len(self._ended) > MAX_REMEMBERED:
                self._ended.popitem(last=False)

    def owner(self, digest: bytes) -> int | None:
        """Return the worker that has the session with this token, or had it lately."""
        return self._tokens.get(digest, self._ended.get(digest))

    # -- who knows --------------------------------------------------------------------------------

    def told(self, holder: Holder, others: set[int]) -> int:
        """The *others* are told what *holder* announces; return the number of that."""
        self._number += 1
        self._unseen[self._number] = (holder, others)
        return self._number

    def seen(self, worker: int, number: int) -> Holder | None:
        """*worker* knows it now; return the holder if that was the last one."""
        if number not in self._unseen:
            return None
        others = self._unseen[number][1]
        others.discard(worker)
        return self.overdue(number) if not others else None

    def overdue(self, number: int) -> Holder | None:
        """Wait no longer; return the holder, or None if nothing was waited for."""
        found = self._unseen.pop(number, None)
        return found[0] if found is not None else None

    def gone(self, worker: int) -> list[Holder]:
        """Forget all of *worker*; return those who waited for it alone."""
        for session in self._sessions.pop(worker, {}).values():
            name = session[:3]
            if self._names.get(name, (-1, 0))[0] == worker:
                del self._names[name]
        for digest in [digest for digest, owner in self._tokens.items() if owner == worker]:
            del self._tokens[digest]
        waited = [self.seen(worker, number) for number in list(self._unseen)]
        return [holder for holder in waited if holder is not None and holder[0] != worker]
