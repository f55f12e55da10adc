"""Leases of clients: how many requests each may send us, out of what its providers can take.

A client that set L in its SETUP gets a LEASE right behind its acceptance, and others before the
time of the last is over, or when it has used up half of it and there is more. It is granted, of
every service that it has called lately, an equal share of the room that the providers have, without
what has just been granted to others; without a limit if one of these services has none. One that
has nothing left is looked at again when a call ends, in turn, and now and then.

It is an offer, not a reservation: the providers' budgets hold whatever was granted, and what a
client does not use at once is granted to others as well.
Source: RSocket Protocol 1.0, "Lease Semantics"; docs/concepts.md, "Capacity and leases".
"""

from __future__ import annotations

from collections import Counter, deque
from itertools import islice
from typing import TYPE_CHECKING, Final

from broker.forwarding.budget import UNLIMITED, free_of
from rsocket_mesh.errors import Overloaded
from rsocket_mesh.protocol.lease import Lessor

if TYPE_CHECKING:
    from broker.forwarding.hub import Hub
    from broker.forwarding.link import Link
    from broker.kernel.wheel import Entry

LATELY: Final = 10.0  # s that a service counts as called after the last call to it
PROMISED: Final = 0.5  # s that what was granted to one client is not granted to another
MAX_CALLED: Final = 64  # services that are remembered per client; further ones are not counted
LOOKS: Final = 16  # clients with nothing left that are looked at when a call ends

Key = tuple[str, str]  # tenant and service


class Desk:
    """What the leases of one broker have to know of each other.

    Attributes:
        callers: how many clients have called a service lately.
        promised: how many requests to it they have been granted just now, and not sent.
        starving: clients that have nothing left, in the order in which they are looked at.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self.callers: Counter[Key] = Counter()
        self.promised: Counter[Key] = Counter()
        self.starving: dict[Leasing, None] = {}
        self._lapsing: deque[tuple[float, Leasing, int]] = deque()

    def promise(self, leasing: Leasing, now: float) -> None:
        """*leasing* has been granted something."""
        self._lapsing.append((now + PROMISED, leasing, leasing.generation))

    def lapse(self, now: float) -> None:
        """Forget promises that are too old."""
        lapsing = self._lapsing
        while lapsing and lapsing[0][0] <= now:
            _, leasing, generation = lapsing.popleft()
            if generation == leasing.generation:
                leasing.set_shares({})

    def look(self) -> None:
        """There may be room: let those who have nothing left see, each in its turn."""
        for leasing in list(islice(self.starving, LOOKS)):
            self.starving.pop(leasing, None)
            leasing.expire(self._hub.now)


class Leasing:
    """What one client is granted; an entry of the wheel, one per leased client.

    Attributes:
        generation: grows with every LEASE.
    """

    __slots__ = (
        "_armed_for",
        "_bucket",
        "_called",
        "_desk",
        "_hub",
        "_lessor",
        "_link",
        "_shares",
        "generation",
    )

    def __init__(self, hub: Hub, link: Link) -> None:
        self.generation = 0
        self._hub = hub
        self._desk = hub.desk
        self._link = link
        self._lessor = Lessor(hub.config.lease.ttl)
        self._called: dict[str, float] = {}  # service -> when it was called last
        self._shares: dict[str, int] = {}  # service -> what is promised of it
        self._bucket: set[Entry] | None = None
        self._armed_for = 0.0

    def begin(self) -> None:
        """The SETUP was accepted: grant (C-107)."""
        self._renew(self._hub.now)

    def restart(self) -> None:
        """The session goes on over another connection, on which nothing is granted yet (C-123)."""
        self._lessor.restart(self._hub.now)
        self._renew(self._hub.now)

    def take(self) -> Overloaded | None:
        """Account for one request of the client; return its error if it is beyond (C-111)."""
        counters, now = self._hub.counters, self._hub.now
        if self._lessor.take(now):
            counters.leased_requests["used"] += 1
            return None
        counters.leased_requests["refused"] += 1
        pause = max(1, round(self._lessor.retry_after(now) * 1000))
        return Overloaded(
            "beyond the lease of this connection; wait for the next LEASE", retry_after_ms=pause
        )

    def called(self, service: str) -> None:
        """The client calls *service*, which somebody serves."""
        called, key = self._called, (self._link.tenant, service)
        if service in called:
            called[service] = self._hub.now
        elif len(called) < MAX_CALLED:
            called[service] = self._hub.now
            self._desk.callers[key] += 1
        if self._shares.get(service):
            self._shares[service] -= 1
            self._desk.promised[key] -= 1

    def dealt_with(self) -> None:
        """The request is on its way, held or refused: grant more if half is used up."""
        if self._lessor.is_low:
            self._renew(self._hub.now)

    def expire(self, now: float) -> None:
        """Time to grant again, or to look whether there is room (called by the wheel, too)."""
        self._disarm()
        self._renew(now)

    def end(self) -> None:
        """The session has ended."""
        self.generation += 1
        self._disarm()
        self.set_shares({})
        self._desk.starving.pop(self, None)
        for service in list(self._called):
            self._forget(service)

    def set_shares(self, shares: dict[str, int]) -> None:
        """Promise *shares*, and nothing of what was promised before."""
        promised, tenant = self._desk.promised, self._link.tenant
        for service, share in self._shares.items():
            promised[tenant, service] -= share
            if not promised[tenant, service]:
                del promised[tenant, service]
        for service, share in shares.items():
            promised[tenant, service] += share
        self._shares = shares

    # -- inside -----------------------------------------------------------------------------------

    def _renew(self, now: float) -> None:
        lessor, desk = self._lessor, self._desk
        free, shares = self._free(now)
        lease = lessor.offer(free, now)
        if lease is not None:
            self.generation += 1
            self.set_shares(shares)
            desk.promise(self, now)
            self._hub.counters.leases_granted += 1
            self._link.grant(lease)
        if lessor.left:
            desk.starving.pop(self, None)
        else:
            desk.starving[self] = None
        when = lessor.next_deadline()
        if self._bucket is None or when != self._armed_for:
            self._disarm()
            self._armed_for = when
            self._bucket = self._hub.wheel.bucket(when)
            self._bucket.add(self)

    def _disarm(self) -> None:
        if self._bucket is not None:
            self._bucket.discard(self)
            self._bucket = None

    def _free(self, now: float) -> tuple[int, dict[str, int]]:
        """Return what may be granted, and of which services."""
        hub, desk, tenant = self._hub, self._desk, self._link.tenant
        limits = hub.config.lease
        desk.lapse(now)
        shares: dict[str, int] = {}
        for service, called_at in list(self._called.items()):
            offers = hub.table.describe(tenant, service)
            if not offers or now - called_at > LATELY:
                self._forget(service)
                continue
            room = sum(free_of(offer.provider, offer.service, now) for offer in offers)
            if room >= UNLIMITED:
                return limits.max_requests, {}
            others = desk.promised[tenant, service] - self._shares.get(service, 0)
            if room > others:
                fair = max(1, room // desk.callers[tenant, service])
                shares[service] = min(fair, room - others)
        if not self._called:  # nobody knows yet what it will call
            return limits.first_requests, {}
        return min(sum(shares.values()), limits.max_requests), shares

    def _forget(self, service: str) -> None:
        del self._called[service]
        key = (self._link.tenant, service)
        self._desk.callers[key] -= 1
        if not self._desk.callers[key]:
            del self._desk.callers[key]
