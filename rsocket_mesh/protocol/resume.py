"""The books of one session that outlives its sockets: positions, and what may be sent again.

Sans-IO, for both roles. A position counts, per direction, the bytes of all tracked frames since the
session began. What was sent is kept until the peer's position has passed it; after a lost socket
the two sides tell each other their positions, and each sends again what the other one has not got.

    sent      |------ the peer has it ------|------ kept ------|
              0                           first              sent

What is kept is bounded: per session by `StorePool.session_bytes`, and for all sessions together.
Over the bound the oldest is forgotten, and a peer that turns out to lack it is refused. For one
that is asked for its position and does not know it, nothing is kept any more.
Source: RSocket Protocol 1.0, "Resuming Operation".
"""

from __future__ import annotations

from collections import deque
from typing import Final

from rsocket_mesh.errors import LocalProtocolError, RemoteProtocolError, ResumeRefused
from rsocket_mesh.protocol.frames import (
    CANCEL,
    ERROR,
    FLAG_RESPOND,
    HEADER,
    KEEPALIVE,
    MAX_U63,
    MIN_SIZE,
    PAYLOAD,
    REQUEST_CHANNEL,
    REQUEST_FNF,
    REQUEST_N,
    REQUEST_RESPONSE,
    REQUEST_STREAM,
    U64,
    VERSION,
    Resume,
    encode_keepalive,
    encode_resume,
    encode_resume_ok,
)
from rsocket_mesh.protocol.framing import PREFIX_SIZE, prefix

TRACKED: Final = frozenset(  # (C-113)
    {
        REQUEST_RESPONSE,
        REQUEST_FNF,
        REQUEST_STREAM,
        REQUEST_CHANNEL,
        REQUEST_N,
        CANCEL,
        PAYLOAD,
        ERROR,
    }
)
SESSION_BYTES: Final = 4 * 1024 * 1024  # kept per session; two seconds of a stream of 2 MB/s
TOTAL_BYTES: Final = 256 * 1024 * 1024  # kept by all sessions of one process
MIN_TOKEN: Final = 16  # bytes; who guesses a token takes over the session
FRAME_OVERHEAD: Final = 48  # bytes that keeping a frame costs beside its own
ASKS_PER_STORE: Final = 8  # the peer's position is asked for each time this share was filled

# Bytes of tracked frames for which a peer may send one more KEEPALIVE. The smallest frames cost ten
# times their size in a store: even of those a peer with 2 MiB of it moves that much per question.
EARNING: Final = 16 * 1024


class StorePool:
    """What the sessions of one process keep together.

    Attributes:
        session_bytes: bound for each session.
        total_bytes: bound for their sum.
        used: bytes kept now, the overhead of each frame included.
        overflowed: how often a session had to forget something; a count.
    """

    __slots__ = ("_members", "overflowed", "session_bytes", "total_bytes", "used")

    def __init__(self, session_bytes: int = SESSION_BYTES, total_bytes: int = TOTAL_BYTES) -> None:
        self.session_bytes = session_bytes
        self.total_bytes = total_bytes
        self.used = 0
        self.overflowed = 0
        self._members: set[ResumeBooks] = set()

    def join(self, books: ResumeBooks) -> None:
        """Count *books* from now on."""
        self._members.add(books)

    def leave(self, books: ResumeBooks) -> None:
        """Count *books*, which keeps nothing any more, no longer."""
        self._members.discard(books)

    def relieve(self) -> None:
        """The sum is over its bound: the session that keeps most forgets all of it, so that who
        hoards pays for it, and so that the search is rare."""
        max(self._members, key=lambda books: books.stored).forget()


class ResumeBooks:
    """One end of one session. Owns no socket and no clock.

    Attributes:
        sent: position behind the last tracked frame that was sent.
        received: position behind the last tracked frame that came, the *implied position*.
        first: position before the oldest frame that is kept, the *first available position*.
        stored: bytes that are kept, the overhead of each frame included.
    """

    __slots__ = (
        "_asked",
        "_asked_from",
        "_earned_at",
        "_frames",
        "_fresh",
        "_keeps",
        "_pool",
        "_unanswered",
        "first",
        "received",
        "sent",
        "stored",
    )

    def __init__(self, pool: StorePool) -> None:
        self.sent = self.received = self.first = 0
        self.stored = 0
        self._pool = pool
        self._frames: deque[bytes] = deque()  # with their prefixes, ready to be sent again
        self._keeps = True  # until it turns out that the peer says no positions
        self._asked = False  # a KEEPALIVE of ours waits for its answer
        # What the answer has to get beyond, as the peer has read that much: -1 if it has.
        self._asked_from = -1
        self._unanswered = 0  # KEEPALIVEs that want an answer; those of the clock overtake ours
        self._earned_at = 0  # what had moved when a KEEPALIVE was last earned
        self._fresh = 0  # bytes kept since the peer's position was last asked for
        pool.join(self)

    @property
    def limit(self) -> int:
        """Bytes that may be kept."""
        return self._pool.session_bytes

    @property
    def is_filling(self) -> bool:
        """Whether so much is kept that the producers should pause until the peer has caught up."""
        return self.stored > self._pool.session_bytes // 2

    @property
    def is_low(self) -> bool:
        """Whether so little is kept that producers which paused may go on."""
        return self.stored <= self._pool.session_bytes // 4

    # -- while there is a socket ------------------------------------------------------------------

    def send(self, batch: bytes) -> bytes:
        """Enter the tracked frames of *batch*, whole prefixed frames, in the books.

        Return what goes on the wire: the batch, with our position in each KEEPALIVE (C-114).
        """
        position, end = 0, len(batch)
        stamped: list[bytes] = []
        copied = 0  # up to where *stamped* has the batch
        while position < end:
            start = position + PREFIX_SIZE
            stop = start + (batch[position] << 16 | batch[position + 1] << 8 | batch[position + 2])
            kind = batch[start + 4] >> 2
            if kind in TRACKED:
                self._keep(batch[position:stop])
            elif kind == KEEPALIVE:
                if batch[start + 5] & FLAG_RESPOND:
                    self._unanswered += 1
                field = start + HEADER.size
                stamped += (batch[copied:field], U64.pack(self.received))
                copied = field + U64.size
            position = stop
        if not copied:
            return batch
        stamped.append(batch[copied:])
        return b"".join(stamped)

    def receive(self, data: bytes) -> tuple[int, str]:
        """Count the whole frames at the start of *data*, and trim by each KEEPALIVE's position.

        Return how many bytes they take, and what is wrong with the frame behind them, which ends
        the session (C-124); an empty text if nothing is. Hand them on at once: they count as
        received.
        """
        position, end = 0, len(data)
        while end - position >= PREFIX_SIZE:
            start = position + PREFIX_SIZE
            size = data[position] << 16 | data[position + 1] << 8 | data[position + 2]
            stop = start + size
            if stop > end or size < HEADER.size:
                break
            kind = data[start + 4] >> 2
            if kind in TRACKED:
                self.received += size
            elif kind == KEEPALIVE and _says_position(data, start, size):
                (value,) = U64.unpack_from(data, start + HEADER.size)
                # Old news, and peers that never fill it in, say less than we know already.
                if self.first < value <= MAX_U63 and not self._trim(value):
                    return position, self._not_ours(f"KEEPALIVE position {value}", value)
                if self._asked_from < value <= MAX_U63:
                    self._asked_from = -1
                if not data[start + 5] & FLAG_RESPOND:
                    self._answered()
            position = stop
        return position, ""

    def ask(self) -> bytes | None:
        """Return a prefixed KEEPALIVE that asks for the peer's position, if it is time for one.

        The peer's own come with its clock; a fast stream would fill the store between two. One
        question is under way at most.
        """
        is_due = self._fresh * ASKS_PER_STORE >= self._pool.session_bytes
        if self._asked or not (is_due or (self._asked_from >= 0 and self.is_filling)):
            return None
        self._asked = True
        self._asked_from = self.first if self.first < self.sent else -1
        self._unanswered += 1
        self._fresh = 0
        frame = encode_keepalive(respond=True, position=self.received)
        return prefix(len(frame)) + frame

    def earns_keepalive(self) -> bool:
        """Whether so much has moved since this was last true that the peer may ask for our position
        or answer our question, beside the KEEPALIVEs of its clock."""
        moved = self.sent + self.received
        if moved - self._earned_at < min(EARNING, self.limit // (16 * ASKS_PER_STORE)):
            return False
        self._earned_at = moved
        return True

    # -- a new socket -----------------------------------------------------------------------------

    def request_resume(self, token: bytes) -> bytes:
        """Client: return the RESUME frame for a new socket."""
        return encode_resume(Resume(token, self.received, self.first))

    def accept_resume(self, resume: Resume) -> bytes:
        """Server: check *resume* against the books; return the RESUME_OK frame.

        Raises:
            ResumeRefused: the positions can't be served (C-118, C-124); nothing has changed.
        """
        if (resume.major, resume.minor) != VERSION:
            raise ResumeRefused(
                f"the session speaks version 1.0, RESUME says {resume.major}.{resume.minor}",
                "version",
            )
        if resume.first_client_position > self.received:
            raise ResumeRefused(
                f"the client keeps frames from position {resume.first_client_position} on, "
                f"and this side has received up to {self.received} only",
                "position-gone",
            )
        value = resume.last_server_position
        if value < self.first:
            raise ResumeRefused(
                f"the client has received up to position {value}, and this side keeps frames "
                f"from {self.first} on only",
                "position-gone",
            )
        if not self._trim(value):
            raise ResumeRefused(self._not_ours(f"position {value}", value), "bad-position")
        return encode_resume_ok(self.received)

    def accept_resume_ok(self, value: int) -> None:
        """Client: the server has received up to *value*.

        Raises:
            RemoteProtocolError: that is no position that can be served (C-120); the session ends.
        """
        if value < self.first:
            raise RemoteProtocolError(
                f"RESUME_OK position {value}: frames are kept from {self.first} on only"
            )
        if not self._trim(value):
            raise RemoteProtocolError(self._not_ours(f"RESUME_OK position {value}", value))

    def replay(self) -> list[bytes]:
        """Return all that is kept, prefixed and in order: what the peer has not received.

        Then `ask`: an answer to an earlier question may have been lost.
        """
        self._asked = False
        self._asked_from = -1
        self._unanswered = 0
        self._fresh = self.stored
        return list(self._frames)

    # -- the end ----------------------------------------------------------------------------------

    def forget(self) -> None:
        """Keep nothing of what was sent: who has not received it can't resume any more."""
        if self._frames:
            self._pool.overflowed += 1
        self._clear()

    def close(self) -> None:
        """The session is over: free the store (C-125). Idempotent."""
        self._clear()
        self._pool.leave(self)

    # -- inside -----------------------------------------------------------------------------------

    def _answered(self) -> None:
        """A KEEPALIVE of ours was answered. If all were, and none of the answers got beyond what
        the peer had said before we asked, it never will: keep nothing for it any more, or what is
        kept would hold up its session for ever. It goes on, and can't be resumed."""
        self._asked = False
        self._unanswered = max(0, self._unanswered - 1)
        if not self._unanswered and self._asked_from >= 0 and self.is_filling:
            self._asked_from = -1
            self._keeps = False
            self.forget()

    def _clear(self) -> None:
        self._frames.clear()
        self._pool.used -= self.stored
        self.stored = 0
        self.first = self.sent

    def _keep(self, prefixed: bytes) -> None:
        size = len(prefixed) - PREFIX_SIZE
        if self.sent + size > MAX_U63:
            raise LocalProtocolError(f"position {self.sent} + {size} exceeds {MAX_U63}")
        self.sent += size
        if not self._keeps:
            self.first = self.sent
            return
        self._frames.append(prefixed)
        cost = len(prefixed) + FRAME_OVERHEAD
        self.stored += cost
        self._fresh += cost
        pool = self._pool
        pool.used += cost
        if self.stored > pool.session_bytes:
            pool.overflowed += 1
            while self.stored > pool.session_bytes:
                self._drop_oldest()
        while pool.used > pool.total_bytes:
            pool.relieve()

    def _drop_oldest(self) -> None:
        oldest = self._frames.popleft()
        self.first += len(oldest) - PREFIX_SIZE
        cost = len(oldest) + FRAME_OVERHEAD
        self.stored -= cost
        self._pool.used -= cost

    def _trim(self, value: int) -> bool:
        """Forget what is in front of position *value*; False, and nothing has changed, if that is
        not the end of a frame that is kept."""
        at, count = self.first, 0
        for frame in self._frames:
            if at >= value:
                break
            at += len(frame) - PREFIX_SIZE
            count += 1
        if at != value:
            return False
        for _ in range(count):
            self._drop_oldest()
        return True

    def _not_ours(self, what: str, value: int) -> str:
        if value > self.sent:
            return f"{what} is ahead of the {self.sent} that this side has sent"
        return f"{what} is not the end of a frame; kept are {self.first} to {self.sent}"


def _says_position(data: bytes, start: int, size: int) -> bool:
    """Whether the KEEPALIVE at *start* is one: on a stream, or cut short, it will be ignored or
    refused, and says nothing."""
    return size >= MIN_SIZE[KEEPALIVE] and not any(data[start : start + 4])
