"""What a case works with: connections to the subject, and a look into the application behind it.

Everything that a case opens here is ended when the case ends. A case asks for what it needs; what a
subject cannot give makes the case not applicable, with the reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from itertools import count
from typing import Any, Final, Self, TypeVar

from rsocket_mesh.errors import RSocketError
from rsocket_mesh.peer import PayloadStream, Peer, Requester
from rsocket_mesh.protocol.announce import Announcement, ServiceInfo
from rsocket_mesh.protocol.frames import REQUEST_FNF, Setup, encode_setup
from rsocket_mesh.protocol.metadata import ROUTING, encode_composite, encode_routing
from rsocket_mesh.protocol.payload import Payload
from rsocket_mesh.rpc.mesh import Connecting, Mesh, connect
from rsocket_mesh.testing.conformance.application import Seen
from rsocket_mesh.testing.conformance.raw_peer import RawPeer
from rsocket_mesh.testing.conformance.seen_frame import SeenFrame
from rsocket_mesh.testing.conformance.subjects import (
    LIBRARY_SETUP,
    BrokerSubject,
    ClientSubject,
    ServerSubject,
    Subject,
    setup_of,
)
from rsocket_mesh.testing.conformance.verdicts import Failed, NotApplicable, check
from rsocket_mesh.testing.conformance.wire import Wire, WireListener

T = TypeVar("T")

POLL: Final = 0.002  # seconds between two looks at what no frame can show
_services: Final = count(1)  # names for the providers that cases play


class Caller:
    """Our library calling a responder that the case plays, through the subject or from it."""

    def __init__(self, requester: Requester, service: str) -> None:
        self.requester = requester
        self.service = service
        self._metadata = encode_composite([(ROUTING, encode_routing([f"{service}.method"]))])

    def payload(self, data: bytes = b"") -> Payload:
        """Return a request's payload."""
        return Payload(data, self._metadata)

    async def response(self, data: bytes = b"") -> Payload:
        return await self.requester.request_response(self.payload(data))

    def stream(self, data: bytes = b"", n: int = 32, limit: int | None = None) -> PayloadStream:
        return self.requester.request_stream(self.payload(data), prefetch=n, limit=limit)

    def channel(
        self, outgoing: AsyncIterator[Payload], data: bytes = b"", n: int = 32
    ) -> PayloadStream:
        return self.requester.request_channel(self.payload(data), outgoing, prefetch=n)

    async def fence(self, peer: RawPeer) -> list[SeenFrame]:
        """Return the frames that reached *peer* before a fire-and-forget of this moment."""
        await self.requester.fire_and_forget(self.payload(b"fence"))
        found: list[SeenFrame] = []
        while True:
            frame = await peer.frame("a fire-and-forget, sent as a fence")
            if frame.kind == REQUEST_FNF and frame.data == b"fence":
                return found
            found.append(frame)


class Bench:
    """One case's connections. Use it as `async with`."""

    def __init__(self, subject: Subject, transcript: list[str] | None = None) -> None:
        self.subject = subject
        self.transcript: list[str] = [] if transcript is None else transcript
        self.peers: list[RawPeer] = []
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[Any]] = []
        self._reset()

    def _reset(self) -> None:
        if self.subject.application is not None:
            self.subject.application.seen = Seen()
        if isinstance(self.subject, ServerSubject):
            self.subject.setups.clear()
            while not self.subject.peers.empty():
                self.subject.peers.get_nowait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.aclose()

    # -- what the subject is ----------------------------------------------------------------------

    @property
    def seen(self) -> Seen:
        """What has reached the application.

        Raises:
            NotApplicable: a foreign server does not show it.
        """
        if self.subject.application is None:
            raise NotApplicable("needs to see what reached the application, not only frames")
        return self.subject.application.seen

    @property
    def is_broker(self) -> bool:
        return isinstance(self.subject, BrokerSubject)

    def need_tcp(self, why: str) -> None:
        """Raise `NotApplicable` with *why* if the subject speaks WebSocket."""
        if self.subject.is_websocket:
            raise NotApplicable(why)

    def need_websocket(self, why: str) -> None:
        """Raise `NotApplicable` with *why* unless the subject speaks WebSocket."""
        if not self.subject.is_websocket:
            raise NotApplicable(why)

    async def strict(self) -> Bench:
        """Return a bench around the same subject with the small limits of `subjects.STRICT`."""
        other = Bench(await self.subject.strict(), self.transcript)
        other.peers = self.peers
        return await self._stack.enter_async_context(other)

    # -- connections ------------------------------------------------------------------------------

    def task(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run *coroutine* beside the case; it is cancelled with the case."""
        task = asyncio.create_task(coroutine)
        self._tasks.append(task)
        return task

    async def _raw(self, wire: Wire, first_id: int) -> RawPeer:
        routes = self.subject.routes
        peer = RawPeer(wire, first_id, routes, self.transcript, "echo" in routes)
        self.peers.append(peer)
        return await self._stack.enter_async_context(peer)

    async def dial(self) -> RawPeer:
        """Connect to a subject that accepts; nothing has been sent yet."""
        return await self._raw(await self.subject.dial(), 1)

    async def accept(self, setup: Setup = LIBRARY_SETUP) -> tuple[RawPeer, Peer]:
        """Let a subject that dials connect to the case; its SETUP is the first frame to read."""
        assert isinstance(self.subject, ClientSubject)
        listener = await self._stack.enter_async_context(WireListener())
        client = await self.subject.dial_to(listener.url, setup)
        self._stack.callback(client.close)
        return await self._raw(await listener.accept(), 2), client

    async def caller(self, setup: Setup | None = None) -> RawPeer:
        """Return a connection on which the case requests and the subject responds."""
        if isinstance(self.subject, ClientSubject):
            return (await self.established())[0]
        peer = await self.dial()
        await peer.introduce(setup or self.subject.setup)
        return peer

    async def established(self, setup: Setup = LIBRARY_SETUP) -> tuple[RawPeer, Peer]:
        """`accept`, with the SETUP read and the client's first sign of life answered."""
        peer, client = await self.accept(setup)
        await peer.frame("SETUP")
        await client.confirmed
        return peer, client

    async def listen(self) -> WireListener:
        """Return a port of the case's own, for clients that dial more than once."""
        return await self._stack.enter_async_context(WireListener())

    async def take(self, listener: WireListener) -> RawPeer:
        """Return the next connection to *listener*; nothing has been read yet."""
        return await self._raw(await listener.accept(), 2)

    async def session(self, listener: WireListener, **options: Any) -> tuple[RawPeer, Mesh]:
        """Let `connect(**options)` of our library connect to *listener*.

        Returns the connection, with its SETUP read, and the session.
        """
        options = {"app": "conformance", "codec": "raw", **options}
        connecting = self.task(_open(connect(listener.url, **options)))
        peer = await self.take(listener)
        peer.setup = await peer.frame("SETUP")
        mesh = await connecting
        self._stack.push_async_callback(mesh.close)
        self._stack.callback(setattr, peer, "answers_requests", True)  # one is its goodbye
        return peer, mesh

    async def responder(self) -> tuple[RawPeer, Caller]:
        """Return a connection on which the subject requests, and what makes it request."""
        subject = self.subject
        service = f"played-{next(_services)}"
        if isinstance(subject, ClientSubject):
            peer, client = await self.established()
            return peer, Caller(client.requester, service)
        peer = await self.dial()
        if isinstance(subject, ServerSubject):
            await peer.introduce()
            server = subject.peers.get_nowait()
            return peer, Caller(server.requester, service)
        assert isinstance(subject, BrokerSubject)
        announced = Announcement(service, services=(ServiceInfo(service),))
        await peer.send(encode_setup(setup_of(announced)))
        await peer.fence()
        library = await subject.library_caller()
        self._stack.callback(library.close)
        return peer, Caller(library.requester, service)


async def _open(connecting: Connecting) -> Mesh:
    return await connecting


async def until(condition: Callable[[], object], what: str) -> None:
    """Return when *condition* holds; *what* is awaited, in words. The case's deadline bounds it."""
    try:
        while not condition():  # noqa: ASYNC110 - what it looks at tells nobody that it changes
            await asyncio.sleep(POLL)
    except asyncio.CancelledError:
        if condition():
            raise
        raise Failed(what, "it did not happen in time") from None


async def error_of(awaitable: Awaitable[Any], kind: type[RSocketError]) -> RSocketError:
    """Return the error that *awaitable* ends with, which has to be a *kind*."""
    try:
        result = await awaitable
    except RSocketError as exc:
        check(isinstance(exc, kind), kind.__name__, repr(exc))
        return exc
    raise Failed(kind.__name__, f"came the result {result!r}")
