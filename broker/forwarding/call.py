"""A call: two streams on two links, joined.

Each side of the pair is a *leg*: the tuple `(other link, its stream id as four bytes, law, call)`
under the stream id in `link.streams`. A tuple, because two are made per call and one is read per
frame. The call itself holds what both sides share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.forwarding import law
from broker.forwarding.credit import Credit
from broker.forwarding.law import Law
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
    from broker.forwarding.wheel import Entry

Leg = tuple["Link", bytes, Law, "Call"]


class Call:
    """One relayed request.

    Attributes:
        caller, caller_id: where it came from, and its stream id there.
        provider, provider_id: where it went.
        kind: the frame type of the request.
        counters: of the service that was called.
        bucket: the wheel's set that holds it while a deadline runs.
        down: credit from provider to caller; None for request-response and fire-and-forget.
        up: credit of a channel from caller to provider.
    """

    __slots__ = (
        "bucket",
        "caller",
        "caller_id",
        "counters",
        "down",
        "kind",
        "provider",
        "provider_id",
        "up",
    )

    def __init__(
        self,
        caller: Link,
        caller_id: int,
        provider: Link,
        provider_id: int,
        kind: int,
        counters: CallCounters,
        bucket: set[Entry] | None,
        down: Credit | None,
        up: Credit | None,
    ) -> None:
        self.caller = caller
        self.caller_id = caller_id
        self.provider = provider
        self.provider_id = provider_id
        self.kind = kind
        self.counters = counters
        self.bucket = bucket
        self.down = down
        self.up = up

    def __repr__(self) -> str:
        return (
            f"{TYPE_NAMES[self.kind]} to {self.counters.service} "
            f"({self.caller.name}/{self.caller_id} -> {self.provider.name}/{self.provider_id})"
        )

    def set_caller_law(self, new: Law) -> None:
        """Replace what the caller's side may send from now on."""
        self.caller.streams[self.caller_id] = (
            self.provider,
            STREAM_ID.pack(self.provider_id),
            new,
            self,
        )

    def set_provider_law(self, new: Law) -> None:
        """Replace what the provider's side may send from now on."""
        self.provider.streams[self.provider_id] = (
            self.caller,
            STREAM_ID.pack(self.caller_id),
            new,
            self,
        )

    def disarm(self) -> None:
        """The deadline no longer matters."""
        if self.bucket is not None:
            self.bucket.discard(self)
            self.bucket = None

    def forget(self) -> None:
        """Take both legs off their links; later frames of either are ignored."""
        del self.caller.streams[self.caller_id]
        del self.provider.streams[self.provider_id]
        self.provider.in_flight -= 1
        if self.bucket is not None:
            self.bucket.discard(self)

    def end(self, outcome: str) -> None:
        """`forget`, and count the outcome."""
        self.forget()
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
        token = (error.token or "error").lower()
        self.end(token)
        if self.kind == REQUEST_FNF:
            self.caller.hub.counters.dropped[token] += 1  # never answered (C-71)
            return
        code, text = error.to_wire()
        self.caller.send(encode_error(self.caller_id, code, text))

    def expire(self, now: float) -> None:
        """The deadline passed: stop the provider, tell the caller (called by the wheel)."""
        self.bucket = None
        self.cancel_provider()
        what = "no answer" if self.down is None else "no first item"
        self.fail_caller(
            DeadlineExceeded(f"{what} from {self.counters.service} before the deadline")
        )

    def close_up(self) -> bool:
        """The caller's half of a channel has ended; return whether the call is over with it."""
        self.up = None
        if self.down is None:
            return True
        self.set_caller_law(law.CALLER_ASKS)
        return False

    def close_down(self) -> bool:
        """The provider's half of a channel has ended; return whether the call is over with it."""
        self.down = None
        requesting = self.is_requesting
        if self.up is None and not requesting:
            return True
        self.set_provider_law(law.CHANNEL_DOWN_CLOSED)
        if not requesting:
            self.set_caller_law(law.CHANNEL_UP_ONLY)
        return False

    @property
    def is_requesting(self) -> bool:
        """True while fragments of the request itself are still to come."""
        return self.caller.streams[self.caller_id][2] is law.REQUESTING[self.kind]
