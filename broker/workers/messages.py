"""What supervisor and workers tell each other over their `Channel`.

Both are of one version, because the supervisor starts the workers: nothing here is a contract.
Where descriptors travel with a message, it says so.
"""

from __future__ import annotations

from typing import Any

import msgspec

from broker.config import Config


class _Message(msgspec.Struct, array_like=True, tag=True):
    pass


# -- from the supervisor to a worker ---------------------------------------------------------------


class Begin(_Message):
    """First of all: which worker it is, of how many."""

    worker: int
    workers: int
    config: Config


class Meet(_Message):
    """Another worker is there. Descriptors: for each of `MIMES` our calls to it, and its to us."""

    worker: int
    link: int  # the number of this link between the two


class Part(_Message):
    """Another worker is gone."""

    worker: int


class Serves(_Message):
    """A session of another worker announces this now; to be answered with `Seen`."""

    worker: int
    link: int
    tenant: str
    instance: str
    data_mime: str
    announcement: bytes  # JSON, checked
    number: int  # 0 for what nobody waits for
    accepting: bool = True


class Left(_Message):
    """A session of another worker is gone."""

    worker: int
    link: int


class Takes(_Message):
    """Whether a session of another worker takes calls just now."""

    worker: int
    link: int
    accepting: bool


class Busy(_Message):
    """What another worker told in `Loads`."""

    worker: int
    loads: list[tuple[str, str, int]]


class Go(_Message):
    """All that there is has been told; to be answered with `Ready`."""


class Adopt(_Message):
    """A connection. One descriptor.

    Attributes:
        listener: the index of the one it came to.
        elsewhere: connections and detached sessions of the other workers.
        limit: the key of the limit for which there is no place for it, or nothing.
        first: bytes that were read of it already.
        settled: it was handed on once, and stays here.
        peer: name and address of the client, if the descriptor does not tell.
    """

    listener: int
    elsewhere: int
    limit: str = ""
    first: bytes = b""
    settled: bool = False
    peer: tuple[str, str | None] | None = None


class Confirmed(_Message):
    """All workers know what the session announces."""

    link: int


class Replaced(_Message):
    """A new session of the same app and instance has come to another worker."""

    link: int
    name: str


class Ask(_Message):
    """A question, to be answered with `Answer`."""

    number: int
    question: str
    argument: Any = None


class Answers(_Message):
    """What the others said to an `AskAll`; None for one that did not answer."""

    number: int
    answers: list[Any]


class Drain(_Message):
    """Take nothing new; to be answered with `Drained`."""


class Stop(_Message):
    """Close everything and end."""


ToWorker = (
    Begin
    | Meet
    | Part
    | Serves
    | Left
    | Takes
    | Busy
    | Go
    | Adopt
    | Confirmed
    | Replaced
    | Ask
    | Answers
    | Drain
    | Stop
)

# -- from a worker to the supervisor ---------------------------------------------------------------


class Ready(_Message):
    """It may be handed connections from now on."""


class Failed(_Message):
    """It cannot work, and ends."""

    text: str


class Announced(_Message):
    """A session announces this now."""

    link: int
    tenant: str
    app: str
    instance: str
    data_mime: str
    announcement: bytes
    serves: bool  # anything at all


class Withdrawn(_Message):
    """A session that had announced something is gone."""

    link: int


class Seen(_Message):
    """`Serves` with this number is in the table."""

    number: int


class Accepting(_Message):
    """A session that serves something takes calls again, or takes none for now."""

    link: int
    accepting: bool


class Loads(_Message):
    """How many calls of its own callers its own instances of some services work on: tenant,
    service, number."""

    loads: list[tuple[str, str, int]]


class Adopted(_Message):
    """The connection that was handed over is taken; the next may come."""


class Ended(_Message):
    """The socket of a connection that was handed over is closed."""

    address: str | None


class Crowded(_Message):
    """Whether it has too few descriptors left for connections."""

    crowded: bool


class Detached(_Message):
    """So many sessions wait for a socket there."""

    sessions: int


class Resumable(_Message):
    """A session that can be resumed by the token with this digest begins, or has ended."""

    digest: bytes
    begins: bool


class Move(_Message):
    """RESUME came for a session that is not there. One descriptor; the fields as in `Adopt`.

    Attributes:
        moves: the connection itself goes; else it stays, and only what it carries goes.
    """

    digest: bytes
    listener: int
    first: bytes
    moves: bool
    address: str | None
    peer: tuple[str, str | None] | None = None


class Lost(_Message):
    """The link to another worker broke."""

    worker: int
    link: int


class Answer(_Message):
    """The answer to an `Ask`."""

    number: int
    answer: Any


class AskAll(_Message):
    """A question to all others, to be answered with `Answers`."""

    number: int
    question: str
    argument: Any = None


class Drained(_Message):
    """Its calls are over, or their time is."""


ToSupervisor = (
    Ready
    | Failed
    | Announced
    | Withdrawn
    | Seen
    | Accepting
    | Loads
    | Adopted
    | Ended
    | Crowded
    | Detached
    | Resumable
    | Move
    | Lost
    | Answer
    | AskAll
    | Drained
)
