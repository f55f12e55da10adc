"""What happened on the mesh: every call with its outcome, and a trace that people can read.

Stands on the clock, below the wires, which show it the frames that pass. It sees what the two ends
see and asks nobody: a call is here from the moment when its request leaves the caller, and ends
with what reaches the caller. Times are seconds of the manual clock since the mesh began.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from rsocket_mesh.codec import codec_for
from rsocket_mesh.errors import RSocketError

RECORD_LIMIT: Final = 100_000  # calls, and lines of the trace; a test that makes more has its own

FIRED_LIMIT: Final = 1000  # fire-and-forget under way; they pass within a turn of the loop

OK: Final = "ok"
CANCELED: Final = "canceled"  # by the caller
LATE: Final = "DEADLINE_EXCEEDED"  # the caller gave up when its time was over
LOST: Final = "lost"  # with the caller's connection
SENT: Final = "sent"  # fire-and-forget: nobody learns more


@dataclass(slots=True)
class RecordedCall:
    """One call, as its caller saw it.

    Attributes:
        number: 1 for the first call of the mesh; the trace calls it `#1`.
        route: `service.method`; empty if the request named none.
        model: `request-response`, `request-stream`, `request-channel` or `fire-and-forget`.
        selectors: the further tags, such as `version=^1.4`.
        caller: the name of the link that it came from.
        provider: the name of the link that it went to, `broker` for the broker's own services, None
            as long as it has reached nobody.
        data: of the request; `arguments` decodes it by *mime*.
        timeout: seconds that the caller gives it (to the first item, if there are several); None
            for no such limit.
        began: seconds of the manual clock since the mesh began.
        ended: the same; None while it runs.
        outcome: `ok`, `sent` (fire-and-forget), `canceled` (by the caller), `lost` (with the
            caller's connection), or the token of the error, such as `PEER_LOST`. Empty while it
            runs.
        error: what the caller was told; None if it was no error.
        items: answers and items that have reached the caller.
        items_sent: items of a channel that the caller has sent behind the first.
    """

    number: int
    route: str
    model: str
    caller: str
    mime: str
    began: float
    selectors: tuple[str, ...] = ()
    data: bytes = field(default=b"", repr=False)
    provider: str | None = None
    timeout: float | None = None
    ended: float | None = None
    outcome: str = ""
    error: RSocketError | None = None
    items: int = 0
    items_sent: int = 0

    @property
    def duration(self) -> float | None:
        """Seconds of the manual clock from the request to the outcome; None while it runs."""
        return None if self.ended is None else self.ended - self.began

    @property
    def arguments(self) -> Any:
        """What the caller passed: one value as it is, several as a list, None for nothing.

        Raises:
            ValueError: there is no codec for its MIME type.
        """
        codec = codec_for(self.mime)
        if codec is None:
            raise ValueError(f"no codec for {self.mime!r}; look at `data`")
        return codec.decode(self.data)


class Record:
    """Calls and trace of one mesh.

    Attributes:
        calls: in the order in which their requests were sent.
        fired: fire-and-forget whose provider is not known yet; the last of them.
        trace: lines such as `3600.000 #1 ok, 2 items`; the same in two runs with the same seed.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        """*now* tells the seconds since the mesh began."""
        self.calls: list[RecordedCall] = []
        self.trace: list[str] = []
        self.fired: deque[RecordedCall] = deque(maxlen=FIRED_LIMIT)
        self.aliases: dict[str, str] = {}  # random words that errors quote, and what they stand for
        self._now = now
        self._made = 0

    def say(self, text: str) -> None:
        """Add a line to the trace."""
        for word, alias in self.aliases.items():
            if word in text:
                text = text.replace(word, alias)
        if len(self.trace) < RECORD_LIMIT:
            self.trace.append(f"{self._now():9.3f} {text}")
        elif len(self.trace) == RECORD_LIMIT:
            self.trace.append(f"(no more than {RECORD_LIMIT} lines are kept)")

    def begin(
        self, route: str, model: str, caller: str, mime: str, selectors: tuple[str, ...]
    ) -> RecordedCall:
        """Return the record of a call that begins now."""
        self._made += 1
        call = RecordedCall(self._made, route, model, caller, mime, self._now(), selectors)
        if self._made <= RECORD_LIMIT:
            self.calls.append(call)
        self.say(f"#{call.number} {caller} calls {route or '(no route)'} ({model})")
        return call

    def reach(self, call: RecordedCall, provider: str) -> None:
        """*call* has been passed to *provider*."""
        call.provider = provider
        self.say(f"#{call.number} goes to {provider}")

    def item(self, call: RecordedCall) -> None:
        """An answer or an item has reached the caller."""
        call.items += 1
        if call.model != "request-response":
            self.say(f"#{call.number} item {call.items}")

    def is_late(self, call: RecordedCall) -> bool:
        """Return whether *call* has had all the time that it was given, and no item yet."""
        if call.timeout is None or call.items:
            return False
        return self._now() - call.began >= call.timeout

    def end(self, call: RecordedCall, outcome: str, error: RSocketError | None = None) -> None:
        """*call* is over."""
        call.ended = self._now()
        call.outcome = outcome
        call.error = error
        text = f": {error}" if error is not None else ""
        items = ""
        if call.model in ("request-stream", "request-channel"):
            items = f", {call.items} item{'' if call.items == 1 else 's'}"
        self.say(f"#{call.number} {outcome}{items}{text}")
