"""How many connections there may be: in total, from one address, and without a word.

Every connection has a place here from the moment it is accepted to its end. Who comes when there is
none is told so in an ERROR frame and closed; of those that have not sent SETUP yet the oldest makes
room instead, so that silent sockets never keep out those who speak at once.

A session that waits for a new socket has none, and takes no place from a connection: the next one
may be its own client with RESUME. It counts as soon as somebody wants to begin another session, so
that nobody leaves ever more of them behind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rsocket_mesh.errors import ErrorCode
from rsocket_mesh.protocol.frames import encode_error
from rsocket_mesh.protocol.framing import prefix
from rsocket_mesh.transport.base import PROTOCOL_ERROR, Transport

if TYPE_CHECKING:
    from broker.forwarding.hub import Hub
    from broker.forwarding.link import Link

CONNECTIONS: Final = "connections"  # config keys
PER_ADDRESS: Final = "connections_per_address"
TOO_MANY: Final = "too-many-connections"
CROWDED_OUT: Final = "crowded-out"
# Seconds that a peer which was never let in may take to read why and to close. Thousands of them in
# a storm would otherwise stay for longer than they were here, and end all at once.
REFUSED_LINGER: Final = 0.5
SWEEPS: Final = 4  # looks at unfinished frames per frame_timeout: it is enforced a quarter late


class Admission:
    """The places of one hub.

    Attributes:
        elsewhere: connections and sessions that take a place and are not this hub's.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._limits = hub.config.limits
        self.elsewhere = 0
        self._sockets: dict[str, int] = {}  # connections by address
        self._sessions: dict[str, int] = {}  # those that sent SETUP, and those that wait
        self._silent: dict[Link, None] = {}  # those without SETUP, oldest first
        self._detached: set[Link] = set()  # sessions that wait for a socket
        self.expire(hub.now)

    def is_full(self) -> bool:
        """Whether there is no place for another connection."""
        return len(self._hub.links) - len(self._detached) >= self._limits.connections

    def paused(self) -> None:
        """The last descriptors but those to spare are in use, and nothing is accepted for now."""
        self._hub.counters.limits["spare_descriptors"] += 1
        most = self._limits.spare_descriptors
        self._hub.log_pause(f"at most {most} open files are left; raise the limit (ulimit -n)")

    def came(self, link: Link) -> None:
        """Give *link*, whose transport is there, its place, or end it."""
        address = link.place = link.transport.peer_address
        self._silent[link] = None
        most = self._limits.connections_per_address
        if _count(self._sockets, address) > most:
            self._crowded(link, address, most)
            return
        most = self._limits.connections_without_setup
        if len(self._silent) > most:
            text = f"OVERLOADED: more than {most} connections have not sent SETUP; send it at once"
            oldest = next(iter(self._silent))
            self._turn_away(oldest, "connections_without_setup", text, CROWDED_OUT)

    def _crowded(self, link: Link, address: str | None, most: int) -> None:
        self._turn_away(link, PER_ADDRESS, _too_many_of(address, most), TOO_MANY)

    def _turn_away(self, link: Link, limit: str, text: str, reason: str) -> None:
        self._hub.counters.limits[limit] += 1
        link.fail(ErrorCode.REJECTED_SETUP, text, reason)

    def spoke(self, link: Link) -> bool:
        """The SETUP of *link* has come: return whether there is a place for one more session, those
        that wait for a socket included. If not, *link* has ended."""
        del self._silent[link]
        here = _count(self._sessions, link.place)
        most = self._limits.connections
        if len(self._hub.links) - len(self._silent) + self.elsewhere > most:
            self._turn_away(link, CONNECTIONS, _too_many(most), TOO_MANY)
            return False
        most = self._limits.connections_per_address
        if here > most:
            self._crowded(link, link.place, most)
            return False
        return True

    @property
    def detached(self) -> int:
        """Sessions that wait for a socket."""
        return len(self._detached)

    def lost(self, session: Link) -> None:
        """The socket of *session* is gone, and it waits for another one."""
        self._detached.add(session)
        _uncount(self._sockets, session.place)

    def moved(self, session: Link, link: Link) -> None:
        """*session* goes on over the connection of *link*, and counts for its address."""
        self.left(session)
        del self._silent[link]
        session.place = link.place
        _count(self._sessions, session.place)

    def left(self, link: Link) -> None:
        """*link* has ended: its place is free. Call it once."""
        if link in self._silent:
            del self._silent[link]
        else:
            _uncount(self._sessions, link.place)
        if link in self._detached:
            self._detached.remove(link)
        else:
            _uncount(self._sockets, link.place)

    def expire(self, now: float) -> None:
        """End those whose frame has been coming for too long (called by the wheel).

        Looking at all of them now and then is cheaper than arming a deadline for each frame that a
        read has cut in two, which under load is every read.
        """
        timeout = self._limits.frame_timeout
        for link in list(self._hub.links.values()):
            since = link.transport.partial_since
            if since and now - since >= timeout:
                self._hub.counters.limits["frame_timeout"] += 1
                text = f"a frame was not complete {timeout:g} s after its first byte"
                link.fail(ErrorCode.CONNECTION_ERROR, text, "slow-frame")
        self._hub.wheel.bucket(now + timeout / SWEEPS).add(self)


class TurnedAway:
    """The receiver of a connection that there is no place for: costs nothing but its answer."""

    __slots__ = ("_hub", "_limit")

    def __init__(self, hub: Hub, limit: str = CONNECTIONS) -> None:
        self._hub = hub
        self._limit = limit

    def connected(self, transport: Transport) -> None:
        """Say why, and close."""
        limits = self._hub.config.limits
        if self._limit == CONNECTIONS:
            text = _too_many(limits.connections)
        else:
            text = _too_many_of(transport.peer_address, limits.connections_per_address)
        frame = encode_error(0, ErrorCode.REJECTED_SETUP, text)
        transport.outbound += (prefix(len(frame)), frame)
        transport.linger = REFUSED_LINGER
        transport.close()
        self._hub.turned_away(transport, self._limit, text)

    def batch_received(self, data: bytes) -> int:
        """Drop what comes."""
        return len(data)

    def protocol_violated(self, text: str, reason: str = PROTOCOL_ERROR) -> None:
        """Nothing is read, so nothing is broken."""

    def disconnected(self, error: Exception | None) -> None:
        """It held no place."""

    def writable(self, ready: bool) -> None:
        """Nothing more is written."""


def _too_many(most: int) -> str:
    """Return what is said where *most* are connected already."""
    return f"OVERLOADED: this broker has {most} connections already; try another"


def _too_many_of(address: str | None, most: int) -> str:
    """Return what is said to *address*, which has *most* connections already."""
    return f"OVERLOADED: {address} has {most} connections already; close some"


def _count(counts: dict[str, int], address: str | None) -> int:
    """Count one more for *address*; return how many there are. Unix sockets have no address."""
    if address is None:
        return 0
    here = counts[address] = counts.get(address, 0) + 1
    return here


def _uncount(counts: dict[str, int], address: str | None) -> None:
    """Count one less, and keep no zeros."""
    if address is None:
        return
    here = counts[address] - 1
    if here:
        counts[address] = here
    else:
        del counts[address]
