"""The composition root: what one broker process consists of, from start to stop.

`Broker` opens the listeners, gives each accepted connection a link, and shows itself to the admin
side as a frozen snapshot. It knows neither the command line nor HTTP: `broker.__main__` does.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

from broker.admin.snapshot import ConnectionView, ServiceView, Snapshot
from broker.builtin.services import BuiltinServices
from broker.config import Config, ListenerConfig
from broker.forwarding.guard import MemoryGuard
from broker.forwarding.hub import DEFAULT_TENANT, Hub
from broker.forwarding.link import Link
from broker.kernel import KERNEL
from broker.memory import default_budget, resident, trimmer
from broker.observe.counters import Counters
from broker.routing.table import Offer
from rsocket_mesh.errors import ErrorCode
from rsocket_mesh.peer import RequestHandler
from rsocket_mesh.transport import Listener, listen, server_tls

CLOSE_GRACE: Final = 1.0  # seconds for the last bytes to leave when the broker stops
# Bytes above all that streams may let wait, for KEEPALIVE, ERROR and credit: who fills that as well
# reads nothing and asks for much.
CONTROL_ROOM: Final = 4 * 1024 * 1024
DRAIN_POLL: Final = 0.05  # seconds between two looks at the calls still running; off the hot path
_log: Final = logging.getLogger("rsocket_broker")


class Broker:
    """One broker. `start`, then `drain` and `stop`; implements `admin.snapshot.BrokerView`.

    Attributes:
        listeners: open sockets, in the order of the config; `url` has the real port.
        state: `starting`, `ready`, `draining` or `stopped`.
        guard: watches the memory of the process; None before `start`, and where nobody does.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.counters = Counters()
        self.listeners: list[Listener] = []
        self.state = "starting"
        self._version = package_version()
        self._hub: Hub | None = None
        self._started_at = 0.0
        self.guard: MemoryGuard | None = None

    @property
    def hub(self) -> Hub:
        """The middle of the running broker; only after `start`."""
        assert self._hub is not None, "Broker.start() has not run"
        return self._hub

    async def start(self) -> None:
        """Open all listeners.

        Raises:
            OSError: an address cannot be used; those opened before are closed again.
        """
        self.prepare()
        try:
            for listener in self.config.listeners:
                self.listeners.append(await self._listen(listener))
        except BaseException:
            await self.stop()
            raise
        self.state = "ready"

    def prepare(self) -> Hub:
        """Make all that serves connections, before there are any."""
        loop = asyncio.get_running_loop()
        self._started_at = loop.time()
        hub = self._hub = self._make_hub(loop)
        self.guard = self._watch_memory(hub)
        return hub

    def _make_hub(self, loop: asyncio.AbstractEventLoop) -> Hub:
        return Hub(self.config, self.counters, self._builtin, loop)

    def _watch_memory(self, hub: Hub) -> MemoryGuard | None:
        """Return what watches the memory of this process; None where it is not the broker's own."""
        budget = self.config.limits.memory_bytes or default_budget()
        return MemoryGuard(hub, budget, resident, trimmer())

    async def _listen(self, listener: ListenerConfig) -> Listener:
        limits = self.config.limits
        tls = server_tls(listener.certificate, listener.key) if listener.certificate else None
        return await listen(
            listener.url,
            partial(self.hub.receiver, listener.default_service),
            tls=tls,
            allowed_origins=listener.allowed_origins,
            max_frame=limits.frame_bytes,
            max_outbound=limits.outbound_bytes + limits.large_payload_bytes + CONTROL_ROOM,
            spare_descriptors=limits.spare_descriptors,
            paused=self.hub.admission.paused,
        )

    def _builtin(self, hub: Hub, link: Link) -> RequestHandler:
        return BuiltinServices(hub, link, self._info)

    async def _info(self) -> dict[str, Any]:
        hub = self.hub
        return {
            "broker": "rsocket-broker",
            "version": self._version,
            "kernel": KERNEL,
            "state": self.state,
            "uptime_s": round(hub.now - self._started_at, 3),
            "connections": len(hub.links),
            "services": len(hub.table.services(DEFAULT_TENANT)),
            "streams_open": hub.calls_open(),
        }

    async def drain(self) -> None:
        """Take no new connections and calls, tell who asked to be told, and wait for the calls
        that are running, at most `drain.timeout` seconds.

        If cancelled, the broker stays draining.
        """
        hub = self.hub
        if self.state != "ready":
            return
        self.state = "draining"
        timeout = self.config.drain.timeout
        hub.begin_drain(timeout)
        for listener in self.listeners:
            await listener.close()
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout
        # An event that the last call sets would cost every call, for a moment that comes once.
        while (open_now := hub.streams_open()) and loop.time() < until:  # noqa: ASYNC110
            await asyncio.sleep(DRAIN_POLL)
        if open_now:
            _log.warning("%d calls still running after %g s are cut off", open_now, timeout)

    async def stop(self) -> None:
        """Close everything; what was written still leaves, for at most `CLOSE_GRACE` seconds."""
        if self.state == "stopped":
            return
        drained = self.state == "draining"
        self.state = "stopped"
        for listener in self.listeners:
            await listener.close()
        if self._hub is None:
            return
        links = list(self._hub.links.values())
        for link in links:
            if link.open:
                link.fail(
                    ErrorCode.CONNECTION_CLOSE,
                    "this broker is going away",
                    "drained" if drained else "stopped",
                )
            else:
                link.end("stopped", "this broker is going away")
        self._hub.close()
        until = asyncio.get_running_loop().time() + CLOSE_GRACE
        while any(link.transport.outbound_size() for link in links):
            if asyncio.get_running_loop().time() >= until:
                break
            await asyncio.sleep(DRAIN_POLL)

    async def refresh(self) -> bool:
        """Nothing to do: what `snapshot` and `counters` tell is always of now."""
        return True

    def snapshot(self) -> Snapshot:
        """Return the state now; costs time in proportion to connections and services."""
        if self._hub is None:  # the admin side may ask before `start`
            return Snapshot(self.state, self._version, 0.0, (), (), 0)
        hub = self._hub
        now = hub.tick()
        return Snapshot(
            self.state,
            self._version,
            now - self._started_at,
            tuple(
                _connection_view(link, now) for link in hub.links.values() if not link.is_sibling
            ),
            tuple(
                _service_view(tenant, name, offers)
                for tenant in hub.table.tenants()
                for name in hub.table.services(tenant)
                if (offers := _own_offers(hub, tenant, name))
            ),
            hub.calls_open(),
            memory_budget=self.guard.budget if self.guard is not None else 0,
            memory_step=self.guard.step if self.guard is not None else 0,
            resume_overflows=hub.sessions.pool.overflowed,
        )


def _connection_view(link: Link, now: float) -> ConnectionView:
    transport, session = link.transport, link.session
    services = link.announcement.services if link.announcement is not None else ()
    return ConnectionView(
        link.id,
        transport.name,
        link.tenant,
        link.app,
        link.instance,
        now - link.connected_at,
        len(link.streams),
        transport.bytes_in,
        transport.bytes_out,
        transport.outbound_size(),
        tuple(service.name for service in services),
        session is not None and session.is_detached,
        session.books.stored if session is not None else 0,
    )


def _own_offers(hub: Hub, tenant: str, name: str) -> list[Offer[Link]]:
    """Return those of who serves *name* that are connected to this process."""
    return [o for o in hub.table.describe(tenant, name) if not o.provider.is_remote]


def _service_view(tenant: str, name: str, offers: list[Offer[Link]]) -> ServiceView:
    return ServiceView(
        tenant,
        name,
        tuple(sorted({offer.service.version for offer in offers})),
        len(offers),
        sum(offer.provider.in_flight for offer in offers),
    )


def package_version() -> str:
    """Return the version of the installed package; `0` when run from a bare checkout."""
    try:
        return version("rsocket-mesh")
    except PackageNotFoundError:
        return "0"
