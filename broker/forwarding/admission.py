"""How many connections there may be: in total, from one address, and without a word.

Every connection has a place here from the moment it is accepted to its end. Who comes when there is
none is told so in an ERROR frame and closed; of those that have not sent SETUP yet the oldest makes
room instead, so that silent sockets never keep out those who speak at once.
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

TOO_MANY: Final = "too-many-connections"
CROWDED_OUT: Final = "crowded-out"
# Seconds that a peer which was never let in may take to read why and to close. Thousands of them in
# a storm would otherwise stay for longer than they were here, and end all at once.
REFUSED_LINGER: Final = 0.5
SWEEPS: Final = 4  # looks at unfinished frames per frame_timeout: it is enforced a quarter late


class Admission:
    """The places of one hub."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._limits = hub.config.limits
        self._by_address: dict[str, int] = {}
        self._silent: dict[Link, None] = {}  # those without SETUP, oldest first
        self.expire(hub.now)

    def is_full(self) -> bool:
        """Whether there is no place for another connection."""
        return len(self._hub.links) >= self._limits.connections

    def paused(self) -> None:
        """The last descriptors but those to spare are in use, and nothing is accepted for now."""
        self._hub.counters.limits["spare_descriptors"] += 1
        most = self._limits.spare_descriptors
        self._hub.log_pause(f"at most {most} open files are left; raise the limit (ulimit -n)")

    def came(self, link: Link) -> None:
        """Give *link*, whose transport is there, its place, or end it."""
        address = link.place = link.transport.peer_address
        if address is not None:
            here = self._by_address[address] = self._by_address.get(address, 0) + 1
            most = self._limits.connections_per_address
            if here > most:
                text = f"OVERLOADED: {address} has {most} connections already; close some"
                self._turn_away(link, "connections_per_address", text, TOO_MANY)
                return
        self._silent[link] = None
        most = self._limits.connections_without_setup
        if len(self._silent) > most:
            text = f"OVERLOADED: more than {most} connections have not sent SETUP; send it at once"
            oldest = next(iter(self._silent))
            self._turn_away(oldest, "connections_without_setup", text, CROWDED_OUT)

    def _turn_away(self, link: Link, limit: str, text: str, reason: str) -> None:
        self._hub.counters.limits[limit] += 1
        link.fail(ErrorCode.REJECTED_SETUP, text, reason)

    def spoke(self, link: Link) -> None:
        """The SETUP of *link* has come."""
        self._silent.pop(link, None)

    def moved(self, session: Link, link: Link) -> None:
        """*session* goes on over the connection of *link*, and has its place. While it waited it
        kept its own: who leaves sessions behind must not have room for ever more of them."""
        self.left(session)
        self._silent.pop(link, None)
        session.place, link.place = link.place, None

    def left(self, link: Link) -> None:
        """*link* has ended: its place is free. Call it once."""
        self._silent.pop(link, None)
        address = link.place
        if address is None:
            return
        here = self._by_address[address] - 1
        if here:
            self._by_address[address] = here
        else:
            del self._by_address[address]

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

    __slots__ = ("_hub",)

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def connected(self, transport: Transport) -> None:
        """Say why, and close."""
        most = self._hub.config.limits.connections
        text = f"OVERLOADED: this broker has {most} connections already; try another"
        frame = encode_error(0, ErrorCode.REJECTED_SETUP, text)
        transport.outbound += (prefix(len(frame)), frame)
        transport.linger = REFUSED_LINGER
        transport.close()
        self._hub.turned_away(transport, text)

    def batch_received(self, data: bytes) -> int:
        """Drop what comes."""
        return len(data)

    def protocol_violated(self, text: str, reason: str = PROTOCOL_ERROR) -> None:
        """Nothing is read, so nothing is broken."""

    def disconnected(self, error: Exception | None) -> None:
        """It held no place."""

    def writable(self, ready: bool) -> None:
        """Nothing more is written."""
