"""Notes that nobody waits for: the service `journal`.

    python -m examples.journal

`note` is fire-and-forget: the caller goes on as soon as the note has left, and learns nothing of
its fate. Right for what may be lost and must not slow anybody down, such as a log.
"""

from collections import deque
from dataclasses import dataclass

from examples import BROKER
from rsocket_mesh import Service

MAX_NOTES = 1000  # kept in memory; the oldest are forgotten first
MAX_LENGTH = 500  # characters kept of one note


@dataclass
class Note:
    """What somebody wanted to say."""

    author: str
    text: str


journal = Service("journal", version="1.0.0", description="Notes that nobody waits for")
notes: deque[Note] = deque(maxlen=MAX_NOTES)


@journal.fire_and_forget
async def note(author: str, text: str) -> None:
    """Keep a note."""
    notes.append(Note(author[:MAX_LENGTH], text[:MAX_LENGTH]))


@journal.request_response(idempotent=True)
async def latest(count: int = 10) -> list[Note]:
    """The latest notes, the oldest of them first."""
    return list(notes)[-max(1, count) :]


if __name__ == "__main__":
    journal.run(BROKER)
