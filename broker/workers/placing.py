"""Who gets the next connection, and how many there are of which address.

Used by the supervisor, who accepts all connections and so knows them exactly. Sans-IO.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

# Connections on their way to one worker that it has not taken: it takes two per turn of its loop,
# so that whoever is connected already does not wait for those who come.
WINDOW: Final = 2
# s that the worker with the fewest is waited for when it has not taken those; a turn of its loop is
# a thousandth. Beyond that it hangs, and the next one gets them.
LAG: Final = 0.1


class _Place:
    """What one worker has."""

    __slots__ = ("addresses", "coming", "connections", "detached", "full_since", "is_crowded")

    def __init__(self) -> None:
        self.connections = 0
        self.coming = 0  # of these, not taken yet
        self.detached = 0  # sessions that wait for a socket
        self.full_since = 0.0  # when the last one came that is not taken, if `coming` is WINDOW
        self.is_crowded = False
        self.addresses: Counter[str] = Counter()


class Placing:
    """The places of all workers that are ready."""

    def __init__(self) -> None:
        self._places: dict[int, _Place] = {}
        self._last = -1

    # -- workers ----------------------------------------------------------------------------------

    def joined(self, worker: int) -> None:
        """*worker* is ready, and has none."""
        self._places[worker] = _Place()

    def gone(self, worker: int) -> None:
        """*worker* has died, and its connections with it."""
        self._places.pop(worker, None)

    # -- connections ------------------------------------------------------------------------------

    def choose(self, now: float) -> int | None:
        """Return the worker with the fewest connections, of several the one whose turn it is; None
        if it can take none just now, or nobody can."""
        count = max(self._places, default=0) + 1
        for _, is_full, _, worker in sorted(
            (place.connections, place.coming >= WINDOW, (worker - self._last - 1) % count, worker)
            for worker, place in self._places.items()
            if not place.is_crowded
        ):
            if not is_full:
                return worker
            if now - self._places[worker].full_since < LAG:
                return None
        return None

    def placed(self, worker: int, address: str | None, now: float) -> None:
        """*worker* is handed a connection."""
        place = self._places[worker]
        place.coming += 1
        place.full_since = now
        self._last = worker
        self.counted(worker, address)

    def counted(self, worker: int, address: str | None) -> None:
        """*worker* has one connection more, which is not on its way to it."""
        place = self._places[worker]
        place.connections += 1
        if address is not None:
            place.addresses[address] += 1

    def adopted(self, worker: int) -> None:
        """*worker* has taken one that was on its way."""
        if worker in self._places:
            self._places[worker].coming -= 1

    def ended(self, worker: int, address: str | None) -> None:
        """A connection of *worker* has ended."""
        place = self._places.get(worker)
        if place is None:
            return
        place.connections -= 1
        if address is not None:
            place.addresses[address] -= 1
            if not place.addresses[address]:
                del place.addresses[address]

    def crowded(self, worker: int, crowded: bool) -> None:
        """*worker* has no descriptors left for more, or has some again."""
        if worker in self._places:
            self._places[worker].is_crowded = crowded

    def detached(self, worker: int, sessions: int) -> None:
        """So many sessions of *worker* wait for a socket."""
        if worker in self._places:
            self._places[worker].detached = sessions

    # -- answers ----------------------------------------------------------------------------------

    @property
    def connections(self) -> int:
        """How many there are of all workers."""
        return sum(place.connections for place in self._places.values())

    def of(self, worker: int) -> int:
        """How many *worker* has; 0 if it is not ready."""
        place = self._places.get(worker)
        return place.connections if place is not None else 0

    def of_address(self, address: str | None) -> int:
        """How many come from *address*; 0 for none."""
        if address is None:
            return 0
        return sum(place.addresses[address] for place in self._places.values())

    def elsewhere(self, worker: int) -> int:
        """How many places the others' connections and detached sessions take."""
        return sum(
            place.connections + place.detached
            for other, place in self._places.items()
            if other != worker
        )
