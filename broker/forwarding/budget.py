"""What one provider can take: leases that it sent, and the concurrency and rate that it announced.

A session without either has no budget, and its calls go the fast way as before. Where a route has a
candidate with a budget, `requests` asks here before it chooses, and a call that counts as at work
is a `BudgetedCall`, which gives its place back at its end; plain calls know nothing of this. Calls
that find no room may wait here for it, in order, within `routing.route_wait`.
Source: docs/concepts.md, "Capacity and leases"; RSocket Protocol 1.0, "Lease Semantics".
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from broker.forwarding.call import Call
from broker.forwarding.items import ItemCall
from broker.routing.candidates import Candidate
from broker.routing.selection import choose_free, choose_shard
from rsocket_mesh.errors import Overloaded
from rsocket_mesh.protocol.announce import ServiceInfo
from rsocket_mesh.protocol.capacity import BUSY_PAUSE, Capacity
from rsocket_mesh.protocol.lease import MAX_REQUESTS, Leased

if TYPE_CHECKING:
    from broker.forwarding.hub import Hub
    from broker.forwarding.link import Link
    from broker.forwarding.requests import Arriving
    from broker.forwarding.routes import Route
    from broker.kernel.wheel import Entry

UNLIMITED: Final = MAX_REQUESTS  # what `free` says where nothing is limited
# What those who wait for room are kept by: tenant, routing or else the default service, shard.
# Requests with the same have the same candidates.
WaitKey = tuple[str, bytes | str, bytes | None]


class Budget:
    """The budget of one provider's session.

    Attributes:
        leased: the account of the LEASE frames it sends; None if its SETUP asked for none.
    """

    __slots__ = ("_capacities", "leased")

    def __init__(self, leased: Leased | None) -> None:
        self.leased = leased
        self._capacities: dict[tuple[str, str], Capacity] = {}

    def announced(self, services: Iterable[ServiceInfo]) -> bool:
        """Take what the session announces now; return whether it has a budget at all."""
        before, self._capacities = self._capacities, {}
        for service in services:
            key = (service.name, service.version)
            concurrency, rate = service.concurrency, service.rate
            if concurrency is None and rate is None:
                continue
            capacity = before.pop(key, None)
            if capacity is None:
                capacity = Capacity(concurrency, rate)
            else:  # what is at work goes on and counts
                capacity.limit(concurrency, rate)
            self._capacities[key] = capacity
        return self.leased is not None or bool(self._capacities)

    def capacity(self, service: ServiceInfo) -> Capacity | None:
        """Return the account of *service*; None if it announced no limits."""
        return self._capacities.get((service.name, service.version))

    def capacity_of(self, service: str, version: str) -> Capacity | None:
        """As `capacity`, for a name and version."""
        return self._capacities.get((service, version))

    def limits(self, service: ServiceInfo) -> bool:
        """Whether calls to *service* have to ask here."""
        return self.leased is not None or self.capacity(service) is not None

    def free(self, service: ServiceInfo, now: float) -> int:
        """Return how many calls to *service* may be sent at *now*."""
        free = UNLIMITED if self.leased is None else self.leased.available(now)
        capacity = self.capacity(service)
        return free if capacity is None else min(free, capacity.free(now))

    def take(self, service: ServiceInfo, now: float, is_heard_of: bool) -> Capacity | None:
        """Use one unit for a call that is sent now, after `free` has said that it may.

        Args:
            is_heard_of: its end will be known. Then the account is returned, if there is one, and
                its `leave` has to follow.
        """
        if self.leased is not None:
            self.leased.take(now)
        capacity = self.capacity(service)
        if capacity is None:
            return None
        if is_heard_of:
            capacity.enter(now)
            return capacity
        capacity.spend(now)
        return None

    def retry_after(self, service: ServiceInfo, now: float) -> float:
        """Return in how many seconds there may be room for *service*."""
        capacity = self.capacity(service)
        if capacity is None or capacity.free(now):  # it is the lease that is missing
            return BUSY_PAUSE
        return capacity.retry_after(now)


class _AtWork(Call):
    """What a call does that counts as at work with its provider."""

    __slots__ = ()

    capacity: Capacity  # set at once where it is made

    def forget(self) -> None:
        super().forget()
        self.capacity.leave()
        self.caller.hub.queue.wake()


class BudgetedCall(_AtWork):
    """A request-response that counts as at work with its provider."""

    __slots__ = ("capacity",)


class BudgetedItemCall(_AtWork, ItemCall):
    """A stream or channel that counts as at work with its provider."""

    __slots__ = ("capacity",)


def free_of(provider: Link, service: ServiceInfo, now: float) -> int:
    """Return how many calls to *service* could be sent to *provider* at *now*."""
    if not provider.accepting:
        return 0
    return UNLIMITED if provider.budget is None else provider.budget.free(service, now)


def choose_with_room(
    route: Route, shard: bytes | None, now: float, draw: int
) -> tuple[Candidate[Link] | None, Overloaded | None]:
    """Choose a provider that has room at *now*.

    A shard key has one provider as long as the set stays: if that one has no room, no other is
    chosen for it, because what it keeps for the key is not there.

    Args:
        draw: random bits, as `choose` wants them.

    Returns:
        The chosen one, or None and the error for the caller; (None, None) if nobody is accepting.
    """
    candidates = route.candidates
    chosen: Candidate[Link] | None
    if shard is None:
        chosen = route.pick(draw)
        if chosen is not None and _is_free(chosen, now):
            return chosen, None
        for some in (route.nearest, candidates):
            if some is None:
                continue
            chosen = choose_free(some, draw, lambda entry: _is_free(entry, now))
            if chosen is not None:
                return chosen, None
        full = [entry for entry in candidates if entry.provider.accepting]
    else:
        chosen = choose_shard(route.instances, shard)
        if chosen is not None and _is_free(chosen, now):
            return chosen, None
        full = [] if chosen is None else [chosen]
    if not full:
        return None, None
    pause = min(_pause(entry, now) for entry in full)
    return None, Overloaded(
        f"{full[0].service.name}: none of {len(full)} providers can take another call just now",
        retry_after_ms=max(1, round(pause * 1000)),
    )


def _is_free(entry: Candidate[Link], now: float) -> bool:
    budget = entry.provider.budget
    return budget is None or budget.free(entry.service, now) > 0


def _pause(entry: Candidate[Link], now: float) -> float:
    budget = entry.provider.budget
    return BUSY_PAUSE if budget is None else budget.retry_after(entry.service, now)


class Queue:
    """Requests that wait for room at their providers: first come, first served per kind.

    They are held, bounded and expired by `requests`; here is only their order. It looks again when
    a call of a budget has ended or a LEASE has come, and every tick for the sake of rates.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._waiting: dict[WaitKey, dict[Arriving, None]] = {}
        self._is_due = False
        self._bucket: set[Entry] | None = None

    def __contains__(self, key: WaitKey) -> bool:
        return key in self._waiting

    def add(self, key: WaitKey, arriving: Arriving) -> None:
        """Let *arriving* wait behind those with the same key."""
        self._waiting.setdefault(key, {})[arriving] = None
        if self._bucket is None:
            self._look_at_next_tick()

    def discard(self, key: WaitKey, arriving: Arriving) -> None:
        """*arriving* no longer waits."""
        found = self._waiting.get(key)
        if found is not None:
            found.pop(arriving, None)
            if not found:
                del self._waiting[key]

    def wake(self) -> None:
        """There may be room now: look at it once, when the batch at hand has been dealt with.
        Then leased clients that have nothing left may look, too."""
        if (self._waiting or self._hub.desk.starving) and not self._is_due:
            self._is_due = True
            self._hub.soon(self._look)

    def expire(self, now: float) -> None:
        """The tick has passed (called by the wheel)."""
        self._bucket = None
        self._look()
        if self._waiting:
            self._look_at_next_tick()

    def _look(self) -> None:
        self._is_due = False
        for key in list(self._waiting):
            while waiting := self._waiting.get(key):
                if not next(iter(waiting)).go_on():
                    break
        self._hub.desk.look()

    def _look_at_next_tick(self) -> None:
        self._bucket = self._hub.wheel.bucket(self._hub.now)
        self._bucket.add(self)
