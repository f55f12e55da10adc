"""A call with items: a request-stream or request-channel, whose halves have credit each.

Stands on `call` and `credit`: decides when credit is settled, and whom a REQUEST_N may reach. It
never reaches a peer between the fragments of a message that is on its way to the same peer on the
same stream, because rsocket-js ends the stream then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.forwarding.call import Call
from broker.forwarding.credit import Credit
from broker.kernel import law
from rsocket_mesh.protocol.frames import REQUEST_CHANNEL, encode_request_n

if TYPE_CHECKING:
    from broker.forwarding.link import Link
    from broker.forwarding.routes import Route


class ItemCall(Call):
    """One relayed stream or channel.

    Attributes:
        route: remembers how large the items were, for the next call to it.
    """

    __slots__ = ("route",)

    def __init__(
        self,
        caller: Link,
        caller_id: int,
        provider: Link,
        provider_id: int,
        kind: int,
        route: Route,
        asked: int,
        granted: int,
    ) -> None:
        """Begin with what the request asks for, and how much of it goes on to the provider."""
        super().__init__(caller, caller_id, provider, provider_id, kind, route.counters, None)
        self.route = route
        caller.consuming += 1
        self.down = Credit(asked, granted, route.item_bytes)
        self.counters.credit_granted += granted
        if kind == REQUEST_CHANNEL:
            provider.consuming += 1
            self.up = Credit(0, 0, route.item_bytes_up)

    # -- credit -----------------------------------------------------------------------------------

    def settle_down(self) -> None:
        """Grant the provider what it may have by now."""
        credit = self.down
        if credit is not None:
            consumer = self.caller
            grant = self._settle(credit, consumer, not self.coming_up, "caller")
            if grant:
                self.provider.send(encode_request_n(self.provider_id, grant))

    def settle_up(self) -> None:
        """Grant the caller what it may have by now."""
        credit = self.up
        if credit is not None:
            consumer = self.provider
            grant = self._settle(credit, consumer, not self.coming_down, "provider")
            if grant:
                self.caller.send(encode_request_n(self.caller_id, grant))

    def take_back(self, credit: Credit | None) -> None:
        """One item of what was granted was spent on nothing: it may be granted again."""
        if credit is not None:
            credit.granted -= 1
            self.counters.credit_granted -= 1

    def _settle(self, credit: Credit, consumer: Link, undisturbed: bool, side: str) -> int:
        counters = self.counters
        before = credit.settled
        may_grant = undisturbed and not consumer.congested
        grant = credit.settle(consumer.item_room(), may_grant)
        counters.credit_used += credit.settled - before
        counters.credit_granted += grant
        if consumer.congested and credit.wants_more:
            consumer.starved[self] = None
        if credit.starved_since is not None:
            self._end_starvation(credit)
        if credit.outstanding <= 0:
            credit.starved_since = self.caller.hub.now
            credit.starved_by = f"{side}_socket" if credit.wants_more else f"{side}_demand"
        return grant

    def _end_starvation(self, credit: Credit) -> None:
        if credit.starved_since is not None:
            seconds = max(0.0, self.caller.hub.now - credit.starved_since)
            self.counters.starved_seconds[credit.starved_by] += seconds
            credit.starved_since = None

    def whole_up(self) -> None:
        super().whole_up()
        self.settle_down()

    def whole_down(self) -> None:
        super().whole_down()
        self.settle_up()

    # -- the end of a half, and of the call -------------------------------------------------------

    def close_up(self) -> bool:
        """The caller's half of a channel has ended; return whether the call is over with it."""
        self._drop_up()
        if self.down is None:
            return True
        self.set_caller_law(law.CALLER_ASKS)
        return False

    def close_down(self) -> bool:
        """The provider's half of a channel has ended; return whether the call is over with it."""
        self._drop_down()
        requesting = self.is_requesting
        if self.up is None and not requesting:
            return True
        self.set_provider_law(law.CHANNEL_DOWN_CLOSED)
        if not requesting:
            self.set_caller_law(law.CHANNEL_UP_ONLY)
        return False

    def end(self, outcome: str) -> None:
        super().end(outcome)
        self._drop_down()
        self._drop_up()
        self.caller.starved.pop(self, None)
        self.provider.starved.pop(self, None)

    def _drop_down(self) -> None:
        credit, self.down = self.down, None
        if credit is not None:
            self.caller.consuming -= 1
            self._close_books(credit)
            self.route.item_bytes = max(credit.item_bytes, self.route.item_bytes * 7 // 8)

    def _drop_up(self) -> None:
        credit, self.up = self.up, None
        if credit is not None:
            self.provider.consuming -= 1
            self._close_books(credit)
            self.route.item_bytes_up = max(credit.item_bytes, self.route.item_bytes_up * 7 // 8)

    def _close_books(self, credit: Credit) -> None:
        before = credit.settled
        credit.settle(0, may_grant=False)
        self.counters.credit_used += credit.settled - before
        self.counters.credit_returned += credit.outstanding
        self._end_starvation(credit)
