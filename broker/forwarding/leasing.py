"""The lease of one client: how many requests it may send us, out of what its providers can take.

A client that set L in its SETUP gets a LEASE right behind its acceptance, and others before the
time of the last is over or when it has used up half of it. What it is granted: of every service
that it has called lately, the room that its providers have, shared equally by the leased clients
that call it; without a limit if one of these services has none. It is an offer, not a reservation:
the providers' budgets hold whatever was granted.
Source: RSocket Protocol 1.0, "Lease Semantics"; docs/concepts.md, "Capacity and leases".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from broker.forwarding.budget import UNLIMITED, free_of
from rsocket_mesh.errors import Overloaded
from rsocket_mesh.protocol.lease import Lessor

if TYPE_CHECKING:
    from broker.forwarding.hub import Hub
    from broker.forwarding.link import Link
    from broker.forwarding.wheel import Entry

LATELY: Final = 10.0  # s that a service counts as called after the last call to it
MAX_CALLED: Final = 64  # services that are remembered per client; further ones are not counted


class Leasing:
    """What one client is granted; an entry of the wheel, one per leased client."""

    __slots__ = ("_armed_for", "_bucket", "_called", "_hub", "_lessor", "_link")

    def __init__(self, hub: Hub, link: Link) -> None:
        self._hub = hub
        self._link = link
        self._lessor = Lessor(hub.config.lease.ttl)
        self._called: dict[str, float] = {}  # service -> when it was called last
        self._bucket: set[Entry] | None = None
        self._armed_for = 0.0

    def begin(self) -> None:
        """The SETUP was accepted: grant (C-107)."""
        self._renew(self._hub.now)

    def restart(self) -> None:
        """The session goes on over another connection, on which nothing is granted yet (C-123)."""
        self._lessor.restart()
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
        called = self._called
        if service in called:
            called[service] = self._hub.now
        elif len(called) < MAX_CALLED:
            called[service] = self._hub.now
            self._hub.leased_callers[self._link.tenant, service] += 1

    def dealt_with(self) -> None:
        """The request is on its way, held or refused: grant more if half is used up."""
        if self._lessor.is_low:
            self._renew(self._hub.now)

    def expire(self, now: float) -> None:
        """Time to grant again, or to look whether there is room (called by the wheel)."""
        self._bucket = None
        self._renew(now)

    def end(self) -> None:
        """The session has ended."""
        self._disarm()
        for service in list(self._called):
            self._forget(service)

    # -- inside -----------------------------------------------------------------------------------

    def _renew(self, now: float) -> None:
        lease = self._lessor.offer(self._free(now), now)
        if lease is not None:
            self._hub.counters.leases_granted += 1
            self._link.grant(lease)
        when = self._lessor.next_deadline()
        if self._bucket is None or when != self._armed_for:
            self._disarm()
            self._armed_for = when
            self._bucket = self._hub.wheel.bucket(when)
            self._bucket.add(self)

    def _disarm(self) -> None:
        if self._bucket is not None:
            self._bucket.discard(self)
            self._bucket = None

    def _free(self, now: float) -> int:
        hub, tenant = self._hub, self._link.tenant
        limits = hub.config.lease
        free = 0
        for service, called_at in list(self._called.items()):
            offers = hub.table.describe(tenant, service)
            if not offers or now - called_at > LATELY:
                self._forget(service)
                continue
            room = sum(free_of(offer.provider, offer.service, now) for offer in offers)
            if room >= UNLIMITED:
                return limits.max_requests
            if room:
                free += max(1, room // hub.leased_callers[tenant, service])
        if not self._called:  # nobody knows yet what it will call
            return limits.first_requests
        return min(free, limits.max_requests)

    def _forget(self, service: str) -> None:
        del self._called[service]
        key = (self._link.tenant, service)
        self._hub.leased_callers[key] -= 1
        if not self._hub.leased_callers[key]:
            del self._hub.leased_callers[key]
