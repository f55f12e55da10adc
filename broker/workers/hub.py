"""The hub of one worker: its own sessions, of which the others are told, and those of the others.

On `forwarding.hub`. Whatever changes here is told to the supervisor, through whom all changes pass
and come back to the other workers in one order. A session that serves something hears that it is
registered (its first KEEPALIVE is answered) when every worker knows it: who has connected can be
called, whichever worker the caller is at.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any, Final, Protocol, cast

from broker.config import Config
from broker.daemon import CONTROL_ROOM
from broker.forwarding.hub import Hub
from broker.forwarding.link import Link
from broker.forwarding.routes import Routes
from broker.forwarding.splice import Shape
from broker.observe.counters import Counters
from broker.routing.table import Change
from broker.workers import messages as m
from broker.workers.moving import handed_of, move
from broker.workers.routes import HereRoutes, NearRoutes
from broker.workers.siblings import MIMES, ROOM, RemoteInstance, Sibling, SiblingLink
from rsocket_mesh.errors import ErrorCode
from rsocket_mesh.peer import RequestHandler
from rsocket_mesh.protocol.announce import Announcement, decode_announcement, encode_announcement
from rsocket_mesh.protocol.connection import CLOSED, Connection
from rsocket_mesh.protocol.frames import Resume, Setup
from rsocket_mesh.protocol.metadata import COMPOSITE

# s between two looks at which sessions take calls: those that read slowly or wait for a socket do
# not, and so late the other workers know.
LOOK: Final = 0.1


class Upward(Protocol):
    """The way to the supervisor."""

    def tell(self, message: object, *descriptors: int) -> None:
        """Send *message* with these descriptors."""

    async def ask_all(self, question: str, argument: Any) -> list[Any]:
        """Return what the other workers answer; of those that do not, nothing."""


class ConfirmedConnection(Connection):
    """Stream 0 of a session, silent while not every worker knows of it."""

    is_confirmed = True

    def frames_to_send(self) -> list[bytes]:
        return super().frames_to_send() if self.is_confirmed or self.phase is CLOSED else []


class _Told:
    """What the others know of one session."""

    __slots__ = ("accepting", "serves", "unconfirmed", "waiting")

    def __init__(self) -> None:
        self.serves = False
        self.accepting = True
        self.unconfirmed = 0  # announcements that not every worker knows
        self.waiting: list[asyncio.Future[None]] = []  # for that to be none


class WorkerHub(Hub):
    """The middle of one worker.

    Attributes:
        index: which worker this is.
        up: the way to the supervisor.
        passed_on: what has come from siblings; they have counted it for the broker already.
        siblings: the other workers, by index.
        max_outbound: bytes waiting for one peer above which it is cut off.
    """

    connection_type = ConfirmedConnection

    def __init__(
        self,
        config: Config,
        counters: Counters,
        builtin: Callable[[Hub, Link], RequestHandler],
        loop: asyncio.AbstractEventLoop,
        index: int,
        up: Upward,
    ) -> None:
        self.index = index
        self.up = up
        self.passed_on = Counters()
        self.siblings: dict[int, Sibling] = {}
        limits = config.limits
        self.max_outbound = limits.outbound_bytes + limits.large_payload_bytes + CONTROL_ROOM
        self._near: dict[str, NearRoutes] = {}  # these are `_routes`
        self._here: dict[str, HereRoutes] = {}
        self._told_loads: dict[tuple[str, str], int] = {}
        self._told: dict[Link, _Told] = {}
        self._told_detached = 0
        self._past_link_bytes = 0  # of links that have ended
        self._tasks: set[asyncio.Task[Any]] = set()
        super().__init__(config, counters, builtin, loop, count(index + 1, config.workers.count))
        self._lookout = _Lookout(self)

    def background(self, work: Coroutine[Any, Any, None]) -> None:
        """Do *work* beside everything else."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- our own sessions --------------------------------------------------------------------------

    def admit(self, link: Link, setup: Setup) -> None:
        super().admit(link, setup)
        if not link.open:
            return
        digest = self.sessions.key_of(link)
        if digest is not None:
            self.up.tell(m.Resumable(digest, begins=True))
        if link.announcement is not None:
            told = self._tell(link, link.announcement)
            if told.unconfirmed and isinstance(link.connection, ConfirmedConnection):
                link.connection.is_confirmed = False

    def announce(self, link: Link, announcement: Announcement) -> Announcement:
        in_force = super().announce(link, announcement)
        self._tell(link, in_force)
        return in_force

    def _tell(self, link: Link, announcement: Announcement) -> _Told:
        told = self._told.setdefault(link, _Told())
        serves = bool(announcement.services)
        told.unconfirmed += serves or told.serves
        told.serves = serves
        names = (link.id, link.tenant, link.app, link.instance)
        told_as = (link.takes.data_mime, encode_announcement(announcement), serves)
        self.up.tell(m.Announced(*names, *told_as))
        return told

    def confirmed(self, link_id: int) -> None:
        """All workers know one more announcement of this session."""
        link = self.links.get(link_id)
        told = self._told.get(link) if link is not None else None
        if link is None or told is None:
            return
        told.unconfirmed -= 1
        if told.unconfirmed:
            return
        if isinstance(link.connection, ConfirmedConnection):
            link.connection.is_confirmed = True
            link.flush_connection()
        _wake(told)

    async def settled(self, link: Link) -> None:
        told = self._told.get(link)
        if told is not None and told.unconfirmed:
            waiter: asyncio.Future[None] = self._loop.create_future()
            told.waiting.append(waiter)
            await waiter

    def replaced(self, link_id: int, name: str) -> None:
        """A new session has come to another worker under the name of this one."""
        link = self.links.get(link_id)
        if link is not None:
            text = f"a new session of {name} has come"
            link.fail(ErrorCode.CONNECTION_ERROR, text, "replaced")

    def remove(self, link: Link, reason: str, text: str) -> bool:
        if link.is_sibling:
            return self.links.pop(link.id, None) is not None
        digest = self.sessions.key_of(link)
        if not super().remove(link, reason, text):
            return False
        if digest is not None:
            self.up.tell(m.Resumable(digest, begins=False))
        told = self._told.pop(link, None)
        if told is not None:
            _wake(told)
            self.up.tell(m.Withdrawn(link.id))
        return True

    def look(self) -> None:
        """Tell which sessions take calls, how many wait for a socket, and how busy services are
        that others have as well; whatever has changed."""
        for link, told in self._told.items():
            if told.serves and link.accepting is not told.accepting:
                told.accepting = link.accepting
                self.up.tell(m.Accepting(link.id, link.accepting))
        self._tell_loads()
        if self.admission.detached != self._told_detached:
            self._told_detached = self.admission.detached
            self.up.tell(m.Detached(self._told_detached))

    def _tell_loads(self) -> None:
        changed = []
        for tenant, near in self._near.items():
            for service, home in near.homes.items():
                now = home.look()
                if now != self._told_loads.get((tenant, service), 0):
                    self._told_loads[tenant, service] = now
                    changed.append((tenant, service, now))
        if changed:
            self.up.tell(m.Loads(changed))

    def busy(self, message: m.Busy) -> None:
        """Another worker tells how busy its instances of some services are with its own callers."""
        for tenant, service, at_work in message.loads:
            near = self._near.get(tenant)
            if near is not None:
                near.tell(service, message.worker, at_work)

    # -- sessions that go on -----------------------------------------------------------------------

    def resume(self, link: Link, asked: Resume) -> None:
        handed = handed_of(link)
        if handed is None or self.sessions.knows(asked.token):
            super().resume(link, asked)
        else:
            move(self, link, handed, asked)

    def let_go(self, link: Link) -> None:
        """Forget *link*, whose connection goes elsewhere."""
        del self.links[link.id]
        if link.bucket is not None:
            link.bucket.discard(link)
        self.admission.left(link)

    # -- siblings ---------------------------------------------------------------------------------

    @property
    def links_of_siblings(self) -> int:
        """How many of `links` are no clients."""
        return 2 * len(MIMES) * len(self.siblings)

    def shape_of(self, data_mime: str) -> Shape:
        """Return how requests are written that cross as they are."""
        return self._shared(Shape(COMPOSITE, data_mime))

    def meet(self, index: int, number: int) -> Sibling:
        """Return the links to worker *index*, which have no connections yet."""
        self.tick()
        out, inward = (
            {mime: SiblingLink(self, next(self._link_ids), index, mime) for mime in MIMES}
            for _ in range(2)
        )
        sibling = self.siblings[index] = Sibling(number, out, inward)
        self.links |= {link.id: link for link in sibling.links()}
        return sibling

    def part(self, index: int) -> None:
        """Worker *index* is gone, and so are its instances."""
        sibling = self.siblings.pop(index, None)
        if sibling is None:
            return
        self.tick()
        for near in self._near.values():
            near.part(index)
        for remote in list(sibling.instances.values()):
            self._withdrawn(remote)
        for link in sibling.links():
            self._past_link_bytes += link.bytes_sent
            link.end("worker-gone", f"worker {index} has ended")

    def sibling_lost(self, link: SiblingLink) -> None:
        """The connection of *link* has ended."""
        sibling = self.siblings.get(link.index)
        if sibling is not None and link in sibling.links():
            self.part(link.index)
            self.up.tell(m.Lost(link.index, sibling.number))

    def serves(self, message: m.Serves) -> None:
        """A session of a sibling announces this."""
        sibling = self.siblings.get(message.worker)
        if sibling is None:
            return
        self.tick()
        announcement = decode_announcement(message.announcement)
        remote = sibling.instances.get(message.link)
        if remote is None:
            link = sibling.link_for(message.data_mime)
            remote = RemoteInstance(link, message.tenant, message.accepting)
            sibling.instances[message.link] = remote
            remote.announces(announcement)
            names = (cast(Link, remote), message.tenant, message.instance)
            change = self.table.register(*names, announcement)
        else:
            remote.announces(announcement)
            change = self.table.replace(cast(Link, remote), announcement)
        self._forget_routes(message.tenant)  # also what is no change of a service matters to them
        self._changed(change)

    def left(self, worker: int, link_id: int) -> None:
        """A session of a sibling is gone."""
        sibling = self.siblings.get(worker)
        remote = sibling.instances.pop(link_id, None) if sibling is not None else None
        if remote is not None:
            self.tick()
            self._withdrawn(remote)

    def _withdrawn(self, remote: RemoteInstance) -> None:
        change = self.table.withdraw(cast(Link, remote))
        if change is not None:
            self._changed(change)

    def takes(self, worker: int, link_id: int, accepting: bool) -> None:
        """A session of a sibling takes calls, or none for now."""
        sibling = self.siblings.get(worker)
        remote = sibling.instances.get(link_id) if sibling is not None else None
        if remote is not None:
            remote.accepting = accepting
            self._forget_routes(remote.tenant)

    # -- loads -------------------------------------------------------------------------------------

    async def look_closer(self, tenant: str, service: str) -> None:
        for index, rows in await self.up.ask_all("loads", (tenant, service)):
            sibling = self.siblings.get(index)
            for link_id, version, in_flight, at_work in rows:
                remote = sibling.instances.get(link_id) if sibling is not None else None
                if remote is not None:
                    remote.is_loaded((service, version), in_flight, at_work)

    def loads(self, tenant: str, service: str) -> list[tuple[int, str, int, int]]:
        """Return of each of our instances of *service*: the number of its session, the version,
        calls that it works on, and how many of them count against its limits."""
        rows = []
        for offer in self.table.describe(tenant, service):
            provider = offer.provider
            if provider.is_remote:
                continue
            budget = provider.budget
            capacity = budget.capacity(offer.service) if budget is not None else None
            at_work = capacity.at_work if capacity is not None else 0
            rows.append((provider.id, offer.service.version, provider.in_flight, at_work))
        return rows

    @property
    def room_of_sibling(self) -> int:
        """Return how many bytes may wait for a sibling at most."""
        return ROOM * self.most_waiting + CONTROL_ROOM

    def link_bytes(self) -> int:
        """Return how many bytes were sent to siblings."""
        links = (link for sibling in self.siblings.values() for link in sibling.links())
        return self._past_link_bytes + sum(link.bytes_sent for link in links)

    def calls_open(self) -> int:
        inward = (link for one in self.siblings.values() for link in one.inward.values())
        return self.streams_open() - sum(len(link.streams) for link in inward)

    # -- routes ------------------------------------------------------------------------------------

    def _routes_of(self, tenant: str) -> Routes:
        routes = self._routes.get(tenant)
        if routes is None:
            near = NearRoutes(tenant, self.table, self.counters, self.config, self.passed_on)
            routes = self._routes[tenant] = self._near[tenant] = near
        return routes

    def routes_here(self, tenant: str) -> Routes:
        routes = self._here.get(tenant)
        if routes is None:
            routes = HereRoutes(tenant, self.table, self.passed_on, self.config)
            self._here[tenant] = routes
        return routes

    def _forget_routes(self, tenant: str) -> None:
        for known in (self._routes, self._here):
            routes = known.get(tenant)
            if routes is not None:
                routes.clear()

    def _changed(self, change: Change) -> None:
        if change:
            self._forget_routes(change.tenant)
        super()._changed(change)


class _Lookout:
    """Has a hub look at its sessions now and then; an entry of the wheel."""

    def __init__(self, hub: WorkerHub) -> None:
        self._hub = hub
        self.expire(hub.now)

    def expire(self, now: float) -> None:
        """Look, and come again (called by the wheel)."""
        self._hub.look()
        self._hub.wheel.bucket(now + LOOK).add(self)


def _wake(told: _Told) -> None:
    for waiter in told.waiting:
        if not waiter.done():
            waiter.set_result(None)
    told.waiting.clear()
