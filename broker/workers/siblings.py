"""The links between workers, and the instances that are reached over them.

To the rooms that forward calls another worker is one more session: a *sibling*, joined by
connections for our calls to it and others for its calls to us, so that on each the caller has the
odd stream ids and every rule of the relay holds as it is. There is one of each for every data type
in general use, and like any session each has one way of writing its requests: so a call between two
peers that write alike crosses as it is. What limits hold for clients do not hold here; what bounds
memory does. A `RemoteInstance` stands in the routing table for each instance that
another worker has, and names the sibling to go through.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Final

from broker.forwarding.budget import Budget
from broker.forwarding.hub import DEFAULT_TENANT
from broker.forwarding.limiter import STRAYS
from broker.forwarding.link import Link
from rsocket_mesh.protocol.announce import Announcement
from rsocket_mesh.protocol.connection import CLOSED, Connection
from rsocket_mesh.protocol.frames import MAX_STREAM_ID, Setup, encode_setup
from rsocket_mesh.protocol.metadata import CBOR, COMPOSITE, JSON, OCTET_STREAM
from rsocket_mesh.protocol.phases import Role
from rsocket_mesh.protocol.rates import Bucket, Rate
from rsocket_mesh.transport.base import PROTOCOL_ERROR, Transport
from rsocket_mesh.transport.tcp import StreamTransport

if TYPE_CHECKING:
    import asyncio

    from broker.workers.hub import WorkerHub

# Bytes that may wait for a sibling until no further calls are sent to it. Items have windows that
# together stay below; large payloads of many callers may come at once.
HIGH_WATER: Final = 8 * 1024 * 1024
LOW_WATER: Final = HIGH_WATER // 2
# Times what may wait for one peer: a sibling stands for many. Beyond it streams end one by one.
ROOM: Final = 4
# What nearly all clients send. Calls between others cross, too, and cost more (`passing`).
MIMES: Final = (CBOR, JSON, OCTET_STREAM)
UNBOUNDED: Final = 1 << 62  # requests: it is never counted down to nothing
_NO_LIMIT: Final = Rate(1e12, 1e12)  # what one peer may do says nothing of a sibling
_log: Final = logging.getLogger("rsocket_broker.workers")


class SiblingConnection(Connection):
    """Stream 0 of a connection between workers: the system tells when the other side is gone, and
    nothing is asked or answered."""

    def next_deadline(self) -> float | None:
        return None


class SiblingTransport(StreamTransport):
    """A connection to a sibling, which carries more than one peer's."""

    __slots__ = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._socket is not None:
            self._socket.set_write_buffer_limits(high=HIGH_WATER, low=LOW_WATER)


class SiblingLink(Link):
    """One of the connections to a sibling.

    Attributes:
        index: of the worker.
    """

    is_sibling: ClassVar[bool] = True

    __slots__ = ("_data_mime", "_is_connected", "index")

    hub: WorkerHub

    def __init__(self, hub: WorkerHub, link_id: int, index: int, data_mime: str) -> None:
        super().__init__(hub, link_id, "")
        self.index = index
        self._data_mime = data_mime
        self._is_connected = False
        self.connection = SiblingConnection(Role.SERVER, now=hub.now)
        self.next_id = 1
        self.requests_left = UNBOUNDED
        self.buckets[STRAYS] = Bucket(_NO_LIMIT)
        self.resets = Bucket(_NO_LIMIT)
        self.app, self.instance = "worker", str(index)

    @property
    def bytes_sent(self) -> int:
        """Bytes sent so far."""
        return self.transport.bytes_out if self._is_connected else 0

    def connected(self, transport: Transport) -> None:
        """Take it as set up: both ends are ours."""
        if self.id not in self.hub.links:  # its worker has died in between
            transport.abort()
            return
        self._is_connected = True
        self.transport = transport
        self.out = transport.outbound
        setup = encode_setup(Setup(1, 1, COMPOSITE, self._data_mime))
        self.connection.receive_frame(setup, self.hub.tick())
        self.sends = self.takes = self.hub.shape_of(self._data_mime)
        self.accept(None, DEFAULT_TENANT, self.instance, leases=False)
        self.app = "worker"
        self.use_routes(self.hub.routes_here(DEFAULT_TENANT), plain=True)

    def choose_way(self) -> None:
        """Its requests come from many callers, so its own reading is no reason to refuse them."""
        hub = self.hub
        fast = self.open and not hub.is_draining and hub.refusal is None
        self.routes = self._tenant_routes if fast else None

    def writable(self, ready: bool) -> None:
        super().writable(ready)
        # No peer that reads nothing: a process that is busy, or dead, which the system tells.
        self.slow_reader = None

    def has_room(self, size: int) -> bool:
        return self.transport.outbound_size() + size <= ROOM * self.hub.most_waiting

    def allocate(self) -> int | None:
        """As for a peer, but of the odd ids: we are the client of this connection."""
        for _ in range(len(self.streams) + 2):
            stream_id = self.next_id if self.next_id <= MAX_STREAM_ID else 1
            self.next_id = stream_id + 2
            if stream_id not in self.streams:
                return stream_id
        return None

    def protocol_violated(self, text: str, reason: str = PROTOCOL_ERROR) -> None:
        self.fail(0, text, reason)

    def fail(self, code: int, text: str, reason: str) -> None:
        """End it without a word: whoever is there is told by the system."""
        self.end(reason, text)

    def cut_off(self, reason: str, text: str) -> None:
        self.transport.abort()
        self.end(reason, text)

    def disconnected(self, error: Exception | None) -> None:
        self.end("worker-gone", str(error or "its process has ended"))

    def end(self, reason: str, text: str) -> None:
        was_open = self.connection.phase is not CLOSED and self.id in self.hub.links
        self.connection.lost(text, reason)
        if self._is_connected:
            super().end(reason, text)
        else:  # `connected` will find it gone
            self.hub.remove(self, reason, text)
        if was_open:
            if reason == PROTOCOL_ERROR:
                _log.error("worker %d broke the protocol: %s", self.index, text)
            self.hub.sibling_lost(self)


class RemoteInstance:
    """An instance that another worker has. Stands in the routing table where a link would.

    Attributes:
        link: our connection to that worker.
        accepting: it took calls when its worker told last.
        budget: what it announced to take; how much of that is in use is known there.
        in_flight: calls that it works on, when it was last asked.
        wants_caller: it wants to be told who calls.
    """

    is_remote: ClassVar[bool] = True

    __slots__ = ("accepting", "budget", "in_flight", "link", "tenant", "wants_caller")

    def __init__(self, link: SiblingLink, tenant: str, accepting: bool) -> None:
        self.link = link
        self.tenant = tenant
        self.accepting = accepting
        self.in_flight = 0
        self.budget: Budget | None = None
        self.wants_caller = False

    def announces(self, announcement: Announcement) -> None:
        """Take what it announces now."""
        self.wants_caller = announcement.caller
        budget = self.budget or Budget(None)
        self.budget = budget if budget.announced(announcement.services) else None

    def is_loaded(self, service: tuple[str, str], in_flight: int, at_work: int) -> None:
        """Take what its worker tells of its load with *service*, a name and version."""
        self.in_flight = in_flight
        capacity = self.budget.capacity_of(*service) if self.budget is not None else None
        if capacity is not None:
            capacity.at_work = at_work

    def fail(self, code: int, text: str, reason: str) -> None:
        """A new session has taken its name: its own worker is told that by the supervisor."""


class Sibling:
    """Another worker.

    Attributes:
        number: of this link between the two of us.
        out: the connections that carry our calls to it, by data type; `inward` its calls to us.
        instances: those that it has, by the number of their session there.
    """

    def __init__(
        self, number: int, out: dict[str, SiblingLink], inward: dict[str, SiblingLink]
    ) -> None:
        self.number = number
        self.out = out
        self.inward = inward
        self.instances: dict[int, RemoteInstance] = {}

    def link_for(self, data_mime: str) -> SiblingLink:
        """Return the connection for calls to an instance with this data type."""
        return self.out.get(data_mime) or self.out[MIMES[0]]

    def links(self) -> Iterator[SiblingLink]:
        """Yield all connections: of each type ours, then its."""
        for mime in MIMES:
            yield self.out[mime]
            yield self.inward[mime]
