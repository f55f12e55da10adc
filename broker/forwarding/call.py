"""A call: two streams on two links, joined.

Each side of the pair is a *leg* in the streams of its link; the call holds what both share. A call
with items, which has credit, is an `ItemCall` (`broker.forwarding.items`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.forwarding.credit import Credit
from broker.kernel import CallCore, law
from broker.kernel.law import Law
from broker.observe.counters import OK, CallCounters
from rsocket_mesh.errors import DeadlineExceeded, StreamError
from rsocket_mesh.protocol.frames import (
    REQUEST_CHANNEL,
    REQUEST_FNF,
    STREAM_ID,
    TYPE_NAMES,
    encode_cancel,
    encode_error,
)

if TYPE_CHECKING:
    from broker.forwarding.link import Link


class Call(CallCore):
    """One relayed request; the fields are those of `CallCore`, here with their types."""

    __slots__ = ()

    caller: Link
    provider: Link
    counters: CallCounters
    down: Credit | None
    up: Credit | None

    def __repr__(self) -> str:
        return (
            f"{TYPE_NAMES[self.kind]} to {self.counters.service} "
            f"({self.caller.name}/{self.caller_id} -> {self.provider.name}/{self.provider_id})"
        )

    # -- laws -------------------------------------------------------------------------------------

    def set_caller_law(self, new: Law) -> None:
        """Replace what the caller's side may send from now on."""
        new = law.twin(new) if self.coming_up or self.coming_down else law.whole(new)
        stamp = STREAM_ID.pack(self.provider_id)
        self.caller.streams[self.caller_id] = (self.provider, stamp, new, self)

    def set_provider_law(self, new: Law) -> None:
        """Replace what the provider's side may send from now on."""
        new = law.twin(new) if self.coming_up or self.coming_down else law.whole(new)
        stamp = STREAM_ID.pack(self.caller_id)
        self.provider.streams[self.provider_id] = (self.caller, stamp, new, self)

    @property
    def caller_law(self) -> Law:
        return law.whole(self.caller.streams[self.caller_id][2])

    @property
    def provider_law(self) -> Law:
        return law.whole(self.provider.streams[self.provider_id][2])

    def piece_up(self, size: int) -> int:
        """Count a fragment of the message towards the provider; return its bytes so far."""
        begins = not (self.coming_up or self.coming_down)
        self.coming_up += size
        self.caller.unfinished += size
        if begins:
            self._set_laws_again()
        return self.coming_up

    def piece_down(self, size: int) -> int:
        """Count a fragment of the message towards the caller; return its bytes so far."""
        begins = not (self.coming_up or self.coming_down)
        self.coming_down += size
        self.provider.unfinished += size
        if begins:
            self._set_laws_again()
        return self.coming_down

    def whole_up(self) -> None:
        """The message towards the provider is complete."""
        self.caller.unfinished -= self.coming_up
        self.coming_up = 0
        self._set_laws_again()

    def whole_down(self) -> None:
        """The message towards the caller is complete."""
        self.provider.unfinished -= self.coming_down
        self.coming_down = 0
        self._set_laws_again()

    def _set_laws_again(self) -> None:
        self.set_caller_law(self.caller_law)
        self.set_provider_law(self.provider_law)

    # -- the end ----------------------------------------------------------------------------------

    def disarm(self) -> None:
        """The deadline no longer matters."""
        if self.bucket is not None:
            self.bucket.discard(self)
            self.bucket = None

    def end(self, outcome: str) -> None:
        """`forget`, give back all that the call holds, and count the outcome."""
        self.forget()
        self.caller.unfinished -= self.coming_up
        self.provider.unfinished -= self.coming_down
        self.coming_up = self.coming_down = 0
        if outcome == OK:
            self.counters.ok += 1
        else:
            self.counters.others[outcome] += 1

    def cancel_provider(self) -> None:
        """Tell the provider to stop. On a channel ERROR follows: some responders take CANCEL for
        their own half only, and ignore what comes for a stream they have ended."""
        self.provider.send(encode_cancel(self.provider_id))
        if self.kind == REQUEST_CHANNEL:
            self.provider.send(encode_error(self.provider_id, 0x203, "the caller is gone"))

    def fail_caller(self, error: StreamError) -> None:
        """End the call towards the caller with *error*, and forget it."""
        token = (error.token or type(error).__name__).lower()
        self.end(token)
        if self.kind == REQUEST_FNF:
            self.caller.hub.counters.dropped[token] += 1  # never answered (C-71)
            return
        code, text = error.to_wire()
        self.caller.send(encode_error(self.caller_id, code, text))

    def fail(self, error: StreamError) -> None:
        """End the call on both sides: the provider stops, the caller is told *error*."""
        self.cancel_provider()
        self.fail_caller(error)

    def expire(self, now: float) -> None:
        """The deadline passed: stop the provider, tell the caller (called by the wheel)."""
        self.bucket = None
        what = "no answer" if self.down is None else "no first item"
        self.fail(DeadlineExceeded(f"{what} from {self.counters.service} before the deadline"))

    @property
    def is_requesting(self) -> bool:
        """True while fragments of the request itself are still to come."""
        return self.caller_law is law.REQUESTING[self.kind]
