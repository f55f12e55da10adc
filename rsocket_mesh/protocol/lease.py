"""Leases: how many requests one side of a connection lets the other send, and until when.

Sans-IO, one object per direction: `Leased` is the requester's account of what it was granted,
`Lessor` the responder's of what it granted and when to grant again. Both directions are switched on
together, by the flag L of SETUP; each LEASE replaces the one before. One request is one unit, in
however many fragments it comes (C-94). Times are seconds of the caller's monotonic clock.
Source: RSocket Protocol 1.0, "Lease Frame", "Lease Semantics".
"""

from __future__ import annotations

from math import inf
from typing import Final

from rsocket_mesh.protocol.frames import MAX_U31, Lease

MAX_REQUESTS: Final = MAX_U31  # what a LEASE can say; stands for "as many as you like"
GRACE: Final = 1.0  # s that a request may have been under way while its LEASE ended or was replaced
REPLAY: Final = 5.0  # s on a new socket for requests to come again that were lost with the old one
UNDER_WAY: Final = 0.05  # s after a LEASE in which requests sent before it mostly arrive
FIRST_PAUSE: Final = 0.02  # s between two looks for room while the peer has nothing left; doubled
LAST_PAUSE: Final = 0.5  # s; the longest of them, so that many who wait cost little


class Leased:
    """What the peer lets us send. Nothing before its first LEASE (C-105, C-106).

    Attributes:
        left: requests left of the newest LEASE, whatever the time is.
    """

    __slots__ = ("_until", "left")

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin anew: a lease is not carried over to a resumed connection (C-123)."""
        self.left = 0
        self._until = -inf

    def receive(self, lease: Lease, now: float) -> None:
        """Take a LEASE: it replaces what was left (C-109), and 0 in either number stops (C-110)."""
        self.left = lease.requests
        self._until = now + lease.ttl_ms / 1000

    def available(self, now: float) -> int:
        """Return how many requests may be sent at *now*."""
        return self.left if now < self._until else 0

    def take(self, now: float) -> bool:
        """Use one unit; False, and nothing has changed, if there is none."""
        if not self.left or now >= self._until:
            return False
        self.left -= 1
        return True


class Lessor:
    """What we let the peer send, and when to let it send more.

    Strict where the peer breaks its lease, and patient where it can't know better: what it had left
    when a LEASE was replaced may be under way, so that stays good for `GRACE` seconds.

    It never sends a LEASE of 0: a peer whose time is over has nothing anyway, and some peers close
    the connection for it. Instead it looks again, at `next_deadline`, whether there is room.

    Attributes:
        left: requests that the peer has left, if it knows of the newest LEASE.
        is_low: half of the newest LEASE is used up, so `offer` may have something to say.
    """

    __slots__ = (
        "_allowed",
        "_carried",
        "_carried_until",
        "_granted",
        "_granted_at",
        "_look_at",
        "_pause",
        "_renew_at",
        "_ttl",
        "_until",
        "left",
    )

    def __init__(self, ttl: float) -> None:
        """*ttl*: seconds that a LEASE is good for; it is renewed after half of them."""
        self._ttl = ttl
        self._allowed = self._granted = self._carried = 0
        self.restart(-inf)

    def restart(self, now: float) -> None:
        """Begin anew on a resumed connection (C-123): nothing is granted, `offer` is due.

        What was granted and has not come may have been sent and lost with the socket: for `REPLAY`
        seconds it may come again.
        """
        self.left = 0
        lost = self._carried + self._allowed  # at most one LEASE of it, or sockets would add up
        self._carried = self._granted = min(lost, max(self._carried, self._granted))
        self._carried_until = now + REPLAY
        self._allowed = 0
        self._until = self._granted_at = -inf
        self._renew_at = self._look_at = -inf
        self._pause = FIRST_PAUSE

    @property
    def is_low(self) -> bool:
        return self.left <= self._granted // 2

    def take(self, now: float) -> bool:
        """Account for one request of the peer; False if it is beyond the lease (C-111)."""
        if self._carried and now < self._carried_until:
            self._carried -= 1
        elif self._allowed and now < self._until + GRACE:
            self._allowed -= 1
        else:
            return False
        if self.left:
            self.left -= 1
            if not self.left:
                self._pause = FIRST_PAUSE
                self._look_at = now + FIRST_PAUSE
        return True

    def offer(self, free: int, now: float) -> Lease | None:
        """Return the LEASE to send at *now*, or None.

        Args:
            free: requests that could be taken now; what is granted is never more.
        """
        is_due = now >= self._renew_at
        # Between renewals, what the peer has left may be under way and will take its room.
        grant = free if is_due else free - self._under_way(now)
        if grant > 0 and (is_due or (self.is_low and grant > self.left)):
            return self._grant(min(grant, MAX_REQUESTS), now)
        if is_due or now >= self._look_at:
            self._look_at = now + self._pause
            self._pause = min(2 * self._pause, LAST_PAUSE)
        return None

    def _under_way(self, now: float) -> int:
        return self._known(now) if now < self._granted_at + UNDER_WAY else self.left

    def _known(self, now: float) -> int:
        """Return how many requests may come that the peer was allowed to send."""
        known = self._carried if now < self._carried_until else 0
        return known + (self._allowed if now < self._until + GRACE else 0)

    def _grant(self, requests: int, now: float) -> Lease:
        self._carried = min(self._known(now), self._granted)  # or many renewals would add up
        self._carried_until = max(self._carried_until, now + GRACE)
        self.left = self._allowed = self._granted = requests
        self._until = now + self._ttl
        self._granted_at = now
        self._renew_at = now + self._ttl / 2
        self._pause = FIRST_PAUSE
        return Lease(round(self._ttl * 1000), requests)

    def next_deadline(self) -> float:
        """Return when to call `offer` again, if the peer has not used up half before."""
        if not self.left or self._look_at > self._renew_at:
            return self._look_at
        return self._renew_at

    def retry_after(self, now: float) -> float:
        """Return for how many seconds a peer that has nothing left is best patient."""
        return max(FIRST_PAUSE, self.next_deadline() - now)
