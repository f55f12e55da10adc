"""The connection to the mesh, as a program holds it: calls, served services, leaving in order.

`connect` makes it. One mesh is one session: it announces everything again at each reconnect, and
its services are there exactly as long as it is.
"""

# ruff: noqa: ASYNC109 - a timeout is part of a call's contract: it bounds the answer, not the await

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import ssl
import sys
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from rsocket_mesh.codec import Codec, find_codec
from rsocket_mesh.errors import Invalid, RSocketError
from rsocket_mesh.protocol.announce import (
    Announcement,
    check_announcement,
    encode_announcement,
)
from rsocket_mesh.protocol.frames import Setup
from rsocket_mesh.protocol.metadata import (
    ANNOUNCE,
    AUTHENTICATION,
    COMPOSITE,
    JSON,
    NOTICE,
    BearerCredentials,
    encode_authentication,
    encode_composite,
    find_entry,
)
from rsocket_mesh.rpc.client import ServiceHandle
from rsocket_mesh.rpc.dispatch import Dispatcher
from rsocket_mesh.rpc.metadata import routing_entry
from rsocket_mesh.rpc.route import DEFAULT_TIMEOUT, Route, check_seconds
from rsocket_mesh.rpc.service import Service
from rsocket_mesh.rpc.session import Session

LIFETIME: Final = 60.0  # s of silence after which a side is dead; NATs forget silence in minutes
MAX_LIFETIME: Final = 2_147_483.0  # s, 24 days; what a SETUP can say
KEEPALIVES_PER_LIFETIME: Final = 3  # one may be lost and one late
WITHDRAW_TIMEOUT: Final = 2.0  # s that leaving waits for the broker's word
DRAIN_TIMEOUT: Final = 10.0  # s that leaving waits for handlers at work
MAX_PUSHES: Final = 64  # handlers of METADATA_PUSH at work; more pushes are dropped and logged

ANNOUNCE_ROUTE: Final = "mesh.registry.announce"

log: Final = logging.getLogger("rsocket_mesh.mesh")


class Mesh:
    """A live connection to the mesh; made by `connect`. Use it on its loop only."""

    def __init__(
        self,
        urls: Sequence[str],
        serve: Iterable[Service],
        announcement: Announcement,
        token: str | None,
        timeout: float,
        codec: Codec,
        tls: ssl.SSLContext | None,
        lifetime: float,
        lease: bool,
        resume: bool,
    ) -> None:
        self._timeout = timeout
        self._lease = lease
        self._lifetime = lifetime
        self._codec = codec
        self._token = token
        self._announcement = announcement
        self._dispatcher = Dispatcher(codec, serve)
        self._dispatcher.mesh = self
        self._session = Session(
            urls, self._setup, self._dispatcher, tls, self._dispatcher.free, resume=resume
        )
        self._pushes: set[asyncio.Task[None]] = set()
        self._closing = False
        self._check()

    def __repr__(self) -> str:
        state = "connected" if self.is_connected else "not connected"
        return f"<Mesh {self.app} at {self.url}, {state}>"

    @property
    def url(self) -> str:
        """The broker that is, or was last, connected."""
        return self._session.url

    @property
    def is_connected(self) -> bool:
        """False during an outage; calls then wait for the connection until their deadline."""
        return self._session.requester is not None

    @property
    def session(self) -> Session:
        """The session that calls go over; for adapters."""
        return self._session

    @property
    def app(self) -> str:
        """The name of this program, as announced."""
        return self._announcement.app

    @property
    def instance(self) -> str:
        """Which instance of the program this is; the same over all reconnects."""
        return self._announcement.instance

    @property
    def announcement(self) -> Announcement:
        """What the broker is told of this program, at every connection anew."""
        serving = () if self._closing else self._dispatcher.services
        services = tuple(service.info() for service in serving)
        return Announcement(
            app=self._announcement.app,
            instance=self._announcement.instance,
            tags=self._announcement.tags,
            notices=True,
            services=services,
        )

    # -- calling --------------------------------------------------------------------------------

    def service(
        self, name: str, /, *, version: str = "", instance: str = "", **tags: str
    ) -> ServiceHandle:
        """Return a handle on a service; nothing is sent.

        Args:
            version: an exact version or a range, such as `^1.4`; empty takes any.
            instance: only this instance; empty takes any.
            tags: only instances or services that carry all of these.
        Raises:
            ValueError: a name or selector can't travel.
        """
        selectors = _selectors(version, instance, tags)
        routing_entry(f"{name}.x", selectors)  # so that a bad selector fails here

        def make_route(method: str, entries: bytes = b"") -> Route:
            return self._route(method, selectors, entries)

        return ServiceHandle(name, make_route, self._codec)

    def route(self, route: str, /, *, version: str = "", instance: str = "", **tags: str) -> Route:
        """Return raw access to a route, whole as it is written; nothing is sent.

        Arguments and errors as for `service`.
        """
        return self._route(route, _selectors(version, instance, tags))

    async def metadata_push(self, metadata: bytes, *, timeout: float | None = None) -> None:
        """Send composite metadata about this connection as a whole; it is never answered.

        Args:
            timeout: seconds to wait for a connection; None means the default.
        Raises:
            Unavailable: there was no connection in that time.
            Overloaded: the transport takes nothing just now.
        """
        seconds = self._timeout if timeout is None else timeout
        requester = await self._session.connected(seconds)
        requester.metadata_push(metadata)

    # -- serving --------------------------------------------------------------------------------

    async def serve(self, *services: Service) -> None:
        """Serve more services from now on; return when the broker has them.

        Raises:
            ValueError: one of them is served already.
            StreamError: the broker does not take the announcement; nothing has changed.
        """
        before = self._dispatcher.services
        try:
            for service in services:
                self._dispatcher.add(service)
            self._check()
            await self._announce(self._timeout)
        except BaseException:
            for service in services:
                if service not in before:
                    self._dispatcher.remove(service)
            raise

    async def withdraw(self, *services: Service) -> None:
        """Stop serving these (or, without arguments, all); calls at work go on.

        Raises:
            StreamError: the broker did not take the announcement; new calls are refused here.
        """
        for service in services or self._dispatcher.services:
            self._dispatcher.remove(service)
        await self._announce(self._timeout)

    def metadata_pushed(self, metadata: bytes) -> None:
        """Take a METADATA_PUSH: notices are the session's affair, others go to the services."""
        try:
            notice = find_entry(metadata, NOTICE)
        except Invalid:
            notice = None  # not composite: an application's own
        if notice is not None:
            self._notice_arrived(notice)
            return
        for service in self._dispatcher.services:
            if service.push_handler is None:
                continue
            if len(self._pushes) >= MAX_PUSHES:
                log.warning("dropped a METADATA_PUSH: %d are being handled", len(self._pushes))
                return
            task = asyncio.ensure_future(_push(service, metadata))
            self._pushes.add(task)
            task.add_done_callback(self._pushes.discard)

    # -- the session's life ---------------------------------------------------------------------

    async def open(self, timeout: float) -> None:
        """Connect; see `connect`."""
        await self._session.open(timeout)

    async def close(self) -> None:
        """Leave in order: withdraw the services, let handlers at work end, disconnect. Idempotent.

        Takes at most 2 s for the broker's answer, 10 s for handlers and 5 s for the socket. Calls
        of this program that still wait fail with `ConnectionClosed`.
        If cancelled: the connection is closed at once.
        """
        if self._closing:
            return
        self._closing = True
        try:
            if self._dispatcher.services and self.is_connected:
                await self._leave()
        finally:
            for task in self._pushes:
                task.cancel()
            await self._session.close()

    async def _leave(self) -> None:
        # The handlers stay until the broker has heard of it: calls under way to us are served.
        services = self._dispatcher.services
        try:
            await self._announce(WITHDRAW_TIMEOUT)
        except (RSocketError, OSError) as exc:
            log.debug("withdrawing %s: %s", ", ".join(s.name for s in services), exc)
        self._dispatcher.draining = True
        try:
            async with asyncio.timeout(DRAIN_TIMEOUT):
                await self._dispatcher.idle()
        except TimeoutError:
            log.warning(
                "%d handlers still ran after %g s; cancelled",
                self._dispatcher.running,
                DRAIN_TIMEOUT,
            )

    # -- inside ---------------------------------------------------------------------------------

    def _route(
        self, route: str, selectors: tuple[tuple[str, str], ...], entries: bytes = b""
    ) -> Route:
        return Route(self._session, route, selectors, self._timeout, self._codec.mime, entries)

    def _check(self) -> None:
        try:
            check_announcement(self.announcement)
        except Invalid as exc:
            raise ValueError(exc.text) from None

    def _setup(self) -> Setup:
        entries: list[tuple[str | int, bytes]] = [
            (ANNOUNCE, encode_announcement(self.announcement))
        ]
        if self._token is not None:
            entries.append((AUTHENTICATION, encode_authentication(BearerCredentials(self._token))))
        return Setup(
            keepalive_ms=max(1, int(self._lifetime * 1000 / KEEPALIVES_PER_LIFETIME)),
            lifetime_ms=max(1, int(self._lifetime * 1000)),
            metadata_mime=COMPOSITE,
            data_mime=self._codec.mime,
            metadata=encode_composite(entries),
            lease=self._lease,
        )

    async def _announce(self, timeout: float) -> None:
        route = Route(self._session, ANNOUNCE_ROUTE, (), timeout, self._codec.mime)
        await route.request_response(encode_announcement(self.announcement), mime=JSON)

    def _notice_arrived(self, raw: bytes) -> None:
        try:
            notice = json.loads(raw)
        except ValueError:
            log.warning("ignored a notice of %d bytes that is not JSON", len(raw))
            return
        if isinstance(notice, dict) and notice.get("type") == "draining":
            self._session.move()


class Connecting:
    """What `connect` returns: `await` it for a `Mesh`, or use it as `async with` block."""

    def __init__(self, mesh_of: Mesh, timeout: float) -> None:
        self._mesh = mesh_of
        self._timeout = timeout
        self._used = False

    def __await__(self) -> Generator[object, None, Mesh]:
        return self.__aenter__().__await__()

    async def __aenter__(self) -> Mesh:
        if self._used:
            raise RuntimeError("this connection was opened before; call connect() again")
        self._used = True
        await self._mesh.open(self._timeout)
        return self._mesh

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._mesh.close()


def connect(
    url: str | Sequence[str],
    *,
    app: str | None = None,
    serve: Iterable[Service] = (),
    instance: str | None = None,
    tags: Mapping[str, str] | None = None,
    token: str | None = None,
    timeout: float = DEFAULT_TIMEOUT,
    connect_timeout: float = DEFAULT_TIMEOUT,
    codec: str | Codec = "cbor",
    tls: ssl.SSLContext | None = None,
    lifetime: float = LIFETIME,
    lease: bool = False,
    resume: bool = False,
) -> Connecting:
    """Connect to a broker: `async with connect(url) as mesh`, or `mesh = await connect(url)`.

    Connected means that the broker has accepted and registered us. Later the connection is renewed
    by itself, with everything it announced; calls wait meanwhile, each until its deadline.

    Args:
        url: `tcp://`, `tls://`, `unix://`, `ws://`, `wss://` or `memory://`; of several, the first
            that takes us is used and the next ones when it is lost or drains.
        app: the name of this program; by default that of its script.
        serve: services to announce and to run.
        instance: tells several of the same app apart; by default a random one. A new connection
            of the same app and instance replaces the old one.
        tags: what callers may select this instance by.
        token: sent to the broker as bearer authentication.
        timeout: seconds that each call has unless it says otherwise.
        connect_timeout: seconds until the first connection must stand.
        codec: of the connection's data: `cbor`, `json`, `raw`, a MIME type or a codec.
        tls: for `tls://` and `wss://`; None verifies against the system's authorities.
        lease: ask the broker for leases, both ways. Calls then wait for the broker's LEASE, in
            order and within their own time, instead of being refused when their providers can
            take no more; and the broker is granted what our services can take just now.
        lifetime: seconds of silence after which broker and client take each other for dead; a
            sign of life is sent three times in it. The broker may keep to bounds of its own.
        resume: calls and handlers at work survive a broken connection: the session goes on over a
            new one to the same broker, nothing lost and nothing twice. For at most 60 s, and as
            long as the broker remembers it; after that the connection is renewed as without it.
            Costs up to 4 MiB for what may have to be sent again.
    Raises (at `await` or `async with`):
        SetupRefused: the broker says no; the text has its reason.
        Unreachable: no broker could be reached; the text has every URL's error.
    Raises at once:
        ValueError: a name, tag, version, codec or time is no good, or there is no URL.
    If cancelled: nothing is left open. Leaving the block is `Mesh.close`.
    """
    check_seconds("timeout", timeout)
    check_seconds("connect_timeout", connect_timeout)
    check_seconds("lifetime", lifetime, MAX_LIFETIME)
    urls = [url] if isinstance(url, str) else list(url)
    announcement = Announcement(
        app=_default_app() if app is None else app,
        instance=instance or "",
        tags=dict(tags or {}),
    )
    if not announcement.instance:
        name = announcement.app[:100]
        announcement = Announcement(
            announcement.app, f"{name}-{secrets.token_hex(4)}", announcement.tags
        )
    return Connecting(
        Mesh(
            urls,
            serve,
            announcement,
            token,
            timeout,
            find_codec(codec),
            tls,
            lifetime,
            lease,
            resume,
        ),
        connect_timeout,
    )


def _default_app() -> str:
    path = Path(sys.argv[0] if sys.argv else "")
    name = path.parent.name if path.name == "__main__.py" else path.stem
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:100] or "python"


def _selectors(version: str, instance: str, tags: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    fixed = (("version", version), ("instance", instance))
    return (*((key, value) for key, value in fixed if value), *sorted(tags.items()))


async def _push(service: Service, metadata: bytes) -> None:
    assert service.push_handler is not None
    try:
        await service.push_handler(metadata)
    except Exception:
        log.exception("%s: the handler of METADATA_PUSH failed", service.name)
