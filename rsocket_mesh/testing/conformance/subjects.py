"""What is tested: our broker, our library as server and as client, or a server at some address.

A subject opens whatever it needs, says what it offers, and gives cases a way to it. Ours run in the
process of the suite with the application of `application` behind them, and exist a second time with
small limits, so that cases about limits need not send gigabytes.
"""

from __future__ import annotations

import asyncio
import ssl
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

from rsocket_mesh.peer import Peer, open_peer
from rsocket_mesh.protocol.announce import Announcement, ServiceInfo, encode_announcement
from rsocket_mesh.protocol.connection import SETUP_TIMEOUT
from rsocket_mesh.protocol.fragments import ReassemblyBudget
from rsocket_mesh.protocol.frames import MAX_FRAME_SIZE, Setup
from rsocket_mesh.protocol.metadata import ANNOUNCE, COMPOSITE, OCTET_STREAM, encode_entry
from rsocket_mesh.testing.conformance.application import BEHAVIOURS, SERVICE, Application
from rsocket_mesh.testing.conformance.raw_peer import SETUP, RawPeer
from rsocket_mesh.testing.conformance.registry import Kind
from rsocket_mesh.testing.conformance.verdicts import Failed, NotApplicable
from rsocket_mesh.testing.conformance.wire import Wire, dial_wire
from rsocket_mesh.transport import Listener, dial, listen

if TYPE_CHECKING:
    from broker.daemon import Broker

# What our own subjects offer, besides what every peer has to: the one place to say so. Without
# `resume` or `lease` the cases check that it is refused, with it that it works. `short-resume`: the
# strict broker can be made to give a lost session up after `SHORT_RESUME`.
OFFERS: Final[dict[str, frozenset[str]]] = {
    "broker": frozenset(("lease", "resume", "short-resume")),
    "server": frozenset(("lease",)),
    "client": frozenset(("lease", "resume")),
}

OPEN_TIMEOUT: Final = 10.0  # seconds for a connection of our own to stand
ECHO_TIMEOUT: Final = 2.0  # seconds for a server to show that it echoes
LIBRARY_SETUP: Final = Setup(20_000, 90_000, COMPOSITE, OCTET_STREAM)


class Limits(NamedTuple):
    """The limits of a subject, as far as cases need to know them."""

    frame: int  # bytes
    message: int  # bytes, of one that comes in fragments
    setup_timeout: float  # seconds


SHORT_RESUME: Final = 0.5  # seconds
STRICT: Final = Limits(65_536, 1_048_576, 1.0)
_LOOSE: Final = Limits(MAX_FRAME_SIZE, 128 * 1024 * 1024, SETUP_TIMEOUT)


class Subject(ABC):
    """Something to test. `open` before use, `close` after.

    Attributes:
        name: for reports.
        kinds: what cases it takes.
        offers: `resume`, `lease`, and its own name for cases about it alone.
        routes: where its application does which behaviour; "" needs no routing.
        application: what stands behind it; None for a foreign server, which shows only frames.
        limits: None if they are unknown.
        setup: what cases introduce themselves with where it does not matter.
    """

    kinds: ClassVar[frozenset[Kind]]

    name: str
    offers: frozenset[str]
    routes: dict[str, str]
    application: Application | None = None
    limits: Limits | None = None
    setup: Setup = SETUP
    is_websocket = False

    def __init__(self) -> None:
        self._strict: Subject | None = None

    @property
    def is_foreign(self) -> bool:
        return self.application is None

    @abstractmethod
    async def open(self) -> None:
        """Make it ready for cases; raises OSError or RSocketError if that is impossible."""

    @abstractmethod
    async def close(self) -> None:
        """End everything."""

    async def dial(self) -> Wire:
        """Connect to it."""
        raise NotImplementedError

    def make_strict(self) -> Subject | None:
        """Return the same with the limits `STRICT`, not open; None if that cannot be had."""
        return None

    async def strict(self) -> Subject:
        """Return the same with small limits, open.

        Raises:
            NotApplicable: nobody here can choose its limits.
        """
        if self._strict is None:
            made = self.make_strict()
            if made is None:
                raise NotApplicable("needs a subject whose limits are known")
            await made.open()
            self._strict = made
        return self._strict

    def reassembly_bytes(self) -> int:
        """Bytes of unfinished messages that it holds; only ours tell."""
        raise NotApplicable("needs to see how much the subject holds")

    async def close_strict(self) -> None:
        """Close what `strict` has opened."""
        if self._strict is not None:
            await self._strict.close()
            self._strict = None


def _own_routes() -> dict[str, str]:
    return {behaviour: f"{SERVICE}.{behaviour}" for behaviour in BEHAVIOURS}


class ServerSubject(Subject):
    """Our library as a server: a `Peer` behind each accepted connection.

    Attributes:
        peers: those that were accepted and that no case has taken yet, oldest first.
        setups: what their acceptor was shown.
    """

    kinds = frozenset((Kind.ACCEPTING, Kind.SERVING, Kind.ASKING))
    application: Application

    def __init__(self, scheme: str = "tcp", limits: Limits = _LOOSE) -> None:
        super().__init__()
        self.name = f"server over {scheme}"
        self.scheme = scheme
        self.is_websocket = scheme == "ws"
        self.offers = OFFERS["server"] | {"server"}
        self.routes = _own_routes()
        self.limits: Limits = limits
        self.application = Application()
        self.peers: asyncio.Queue[Peer] = asyncio.Queue()
        self.setups: list[Setup] = []
        self._live: list[Peer] = []
        self._listener: Listener | None = None

    async def open(self) -> None:
        self._listener = await listen(
            f"{self.scheme}://127.0.0.1:0", self._accept, max_frame=self.limits.frame
        )

    def _accept(self) -> Peer:
        message = self.limits.message
        peer = Peer(
            self.application,
            acceptor=self.setups.append,
            setup_timeout=self.limits.setup_timeout,
            budget=ReassemblyBudget(message, 2 * message),
        )
        self._live.append(peer)
        self.peers.put_nowait(peer)
        return peer

    async def close(self) -> None:
        await self.close_strict()
        if self._listener is not None:
            await self._listener.close()
        for peer in self._live:
            peer.close()

    def reassembly_bytes(self) -> int:
        return sum(peer.requester.budget.used for peer in self._live)

    async def dial(self) -> Wire:
        assert self._listener is not None, "open() first"
        return await dial_wire(self._listener.url)

    def make_strict(self) -> Subject:
        return ServerSubject(self.scheme, STRICT)


class BrokerSubject(Subject):
    """Our broker, with our library behind it as the provider of the application.

    It responds (through that provider) and requests (towards a provider that the case plays).
    """

    kinds = frozenset((Kind.ACCEPTING, Kind.SERVING, Kind.ASKING))
    application: Application

    def __init__(self, scheme: str = "tcp", limits: Limits = _LOOSE, url: str = "") -> None:
        """*url*: of a broker that runs already; its limits are taken to be the defaults."""
        super().__init__()
        self.name = f"broker at {url}" if url else f"broker over {scheme}"
        self.scheme = scheme
        self.url = url
        self.is_websocket = (url or scheme).startswith("ws")
        self.offers = OFFERS["broker"] | {"broker"}
        self.routes = _own_routes()
        self.limits: Limits = limits
        self.application = Application()
        self._broker: Broker | None = None
        self._provider: Peer | None = None
        self._is_external = bool(url)
        if url:  # its listener may have no default service, or another one
            self.setup = setup_of(Announcement("conformance-caller", default_service=SERVICE))

    async def open(self) -> None:
        if not self._is_external:
            await self._start()
        announced = Announcement("conformance", services=(ServiceInfo(SERVICE),))
        message = self.limits.message
        self._provider = Peer(
            self.application,
            setup=setup_of(announced),
            budget=ReassemblyBudget(message, 2 * message),
        )
        await dial(self.url, self._provider, timeout=OPEN_TIMEOUT)
        await self._provider.confirmed

    async def _start(self) -> None:
        # Imported here: nobody but this subject needs a broker, and applications never do.
        from broker.config import AdminConfig, Config, ListenerConfig
        from broker.config import Limits as BrokerLimits
        from broker.daemon import Broker

        limits: dict[str, Any] = {
            "frame_bytes": self.limits.frame,
            "setup_timeout": self.limits.setup_timeout,
        }
        if self.limits is STRICT and "short-resume" in self.offers:
            limits["resume_timeout"] = SHORT_RESUME
        self._broker = Broker(
            Config(
                listeners=(
                    ListenerConfig(f"{self.scheme}://127.0.0.1:0", default_service=SERVICE),
                ),
                admin=AdminConfig(url=""),
                limits=BrokerLimits(**limits),
            )
        )
        await self._broker.start()
        self.url = self._broker.listeners[0].url

    async def close(self) -> None:
        await self.close_strict()
        if self._provider is not None:
            self._provider.close()
            await self._provider.wait_closed()
        if self._broker is not None:
            await self._broker.stop()

    def reassembly_bytes(self) -> int:
        assert self._provider is not None, "open() first"
        held = self._broker.hub.held_bytes if self._broker is not None else 0
        return self._provider.requester.budget.used + held

    def set_next_id(self, service: str, stream_id: int) -> None:
        """Let the broker's next request to the provider of *service* have this id."""
        if self._broker is None:
            raise NotApplicable("needs a broker in this process, to come near its last stream id")
        for link in self._broker.hub.links.values():
            if link.app == service:
                link.next_id = stream_id

    async def dial(self) -> Wire:
        return await dial_wire(self.url)

    async def library_caller(self) -> Peer:
        """Return our library, connected as one that calls."""
        return await open_peer(self.url, setup=LIBRARY_SETUP, timeout=OPEN_TIMEOUT)

    def make_strict(self) -> Subject | None:
        return None if self._is_external else BrokerSubject(self.scheme, STRICT)


def setup_of(announcement: Announcement) -> Setup:
    """Return the SETUP of a provider with *announcement*."""
    entry = encode_entry(ANNOUNCE, encode_announcement(announcement))
    return LIBRARY_SETUP._replace(metadata=entry)


class ClientSubject(Subject):
    """Our library as a client: a `Peer` that dials the case."""

    kinds = frozenset((Kind.DIALLING, Kind.SERVING, Kind.ASKING))
    application: Application

    def __init__(self, limits: Limits = _LOOSE) -> None:
        super().__init__()
        self.name = "client over tcp"
        self.offers = OFFERS["client"] | {"client"}
        self.routes = _own_routes()
        self.limits: Limits = limits
        self.application = Application()
        self._live: list[Peer] = []

    def reassembly_bytes(self) -> int:
        return sum(peer.requester.budget.used for peer in self._live)

    async def open(self) -> None:
        """There is nothing to open: each case has a connection of its own."""

    async def close(self) -> None:
        await self.close_strict()

    def make_peer(self, setup: Setup) -> Peer:
        """Return a client that is not connected yet."""
        message = self.limits.message
        return Peer(self.application, setup=setup, budget=ReassemblyBudget(message, 2 * message))

    async def dial_to(self, url: str, setup: Setup = LIBRARY_SETUP) -> Peer:
        """Return a client that has connected to *url* and waits for no verdict."""
        peer = self.make_peer(setup)
        self._live = [live for live in self._live if not live.closed.done()]
        self._live.append(peer)
        await dial(url, peer, timeout=OPEN_TIMEOUT, max_frame=self.limits.frame)
        return peer

    def make_strict(self) -> Subject:
        return ClientSubject(STRICT)


async def _echoes(peer: RawPeer) -> bool:
    """Whether a request without any metadata is answered with its data."""
    try:
        async with asyncio.timeout(ECHO_TIMEOUT):
            await peer.introduce()
            await peer.expect_answer(await peer.ask("echo", b"echo?"), b"echo?")
    except (Failed, TimeoutError):
        return False
    return True


class ForeignServer(Subject):
    """Any RSocket server, known by its address and by what somebody says it does."""

    kinds = frozenset((Kind.ACCEPTING, Kind.SERVING))

    def __init__(
        self,
        url: str,
        routes: dict[str, str] | None = None,
        offers: frozenset[str] = frozenset(),
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Name a server.

        Args:
            routes: behaviour -> routing tag, "" for a server that needs none; by default its
                request-response echoes.
            offers: `resume`, `lease`.
        """
        super().__init__()
        self.name = self.url = url
        self.is_websocket = url.startswith("ws")
        self.offers = offers
        self.routes = {"echo": ""} if routes is None else routes
        self._tls = tls
        self._is_guess = routes is None

    async def open(self) -> None:
        """Connect once, so that a server that is not there is one error and not a hundred; and if
        nobody said what it does, see whether it echoes.

        Raises:
            InvalidUrl: the address is none that frames can be sent to.
            OSError: nobody is there, or nobody who speaks this transport.
        """
        async with asyncio.timeout(OPEN_TIMEOUT):
            wire = await self.dial()
        async with RawPeer(wire, 1, self.routes, [], can_echo=False) as peer:
            if self._is_guess and not await _echoes(peer):
                self.routes = {}

    async def close(self) -> None:
        """It is not ours to close."""

    async def dial(self) -> Wire:
        return await dial_wire(self.url, self._tls)
