"""A plain RSocket server for tests of the library: one socket, no routing, no broker.

It serves services itself, records what clients introduce themselves with, can call them, refuse
them, push to them, and go away and come back under the same address.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rsocket_mesh.codec import find_codec
from rsocket_mesh.errors import SetupRefused
from rsocket_mesh.peer import Peer
from rsocket_mesh.protocol.announce import Announcement, decode_announcement
from rsocket_mesh.protocol.frames import Setup
from rsocket_mesh.protocol.metadata import ANNOUNCE, find_entry
from rsocket_mesh.protocol.payload import Payload
from rsocket_mesh.rpc.dispatch import Dispatcher
from rsocket_mesh.rpc.metadata import deadline_entry, mime_entry, routing_entry
from rsocket_mesh.rpc.service import Service
from rsocket_mesh.transport import Listener, listen


class SmallServer:
    """Use it in `async with`.

    Attributes:
        url: where it listens; the same over `stop` and `start`.
        peers: connections that are or were open, in order.
        setups: what clients introduced themselves with, in order.
        announced: announcements by METADATA or request `mesh.registry.announce`, in order.
        pushed: METADATA_PUSH of clients, in order.
        refusal: raised for every SETUP while it is set.
    """

    def __init__(self, *services: Service, url: str = "tcp://127.0.0.1:0") -> None:
        self.url = url
        self.peers: list[Peer] = []
        self.setups: list[Setup] = []
        self.announced: list[Announcement] = []
        self.pushed: list[bytes] = []
        self.refusal: SetupRefused | None = None
        self.dispatcher = _Recording(self, *services)
        self._listener: Listener | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen, at the same address as before."""
        self._listener = await listen(self.url, self._accept)
        self.url = self._listener.url

    async def stop(self) -> None:
        """Close the socket and every connection."""
        if self._listener is not None:
            await self._listener.close()
            self._listener = None
        for peer in self.peers:
            peer.close()
            await peer.closed

    async def call(
        self,
        route: str,
        data: bytes = b"",
        *,
        deadline: float | None = None,
        mime: str | None = None,
        extra: bytes = b"",
    ) -> Payload:
        """Call the client that came last."""
        request = Payload(data, request_metadata(route, deadline=deadline, mime=mime) + extra)
        return await self.peers[-1].requester.request_response(request, timeout=5.0)

    def _accept(self) -> Peer:
        peer = Peer(self.dispatcher, acceptor=self._judge)
        self.peers.append(peer)
        return peer

    def _judge(self, setup: Setup) -> None:
        self.setups.append(setup)
        if self.refusal is not None:
            raise self.refusal
        entry = find_entry(setup.metadata or b"", ANNOUNCE)
        if entry is not None:
            self.announced.append(decode_announcement(entry))


class _Recording(Dispatcher):
    def __init__(self, server: SmallServer, *services: Service) -> None:
        registry = Service("registry")
        super().__init__(find_codec("cbor"), (*services, registry))
        self._server = server

        @registry.request_response
        async def announce(payload: Payload) -> Payload:
            server.announced.append(decode_announcement(payload.data))
            return Payload(payload.data)

        method = registry.methods["announce"]
        self._methods["mesh.registry.announce"] = [method]

    def metadata_pushed(self, metadata: bytes) -> None:
        self._server.pushed.append(metadata)


def request_metadata(
    route: str,
    selectors: tuple[tuple[str, str], ...] = (),
    *,
    deadline: float | None = None,
    mime: str | None = None,
) -> bytes:
    """The metadata of a request, as our callers send it."""
    metadata = routing_entry(route, selectors)
    if deadline is not None:
        metadata += deadline_entry(deadline)
    if mime is not None:
        metadata += mime_entry(mime)
    return metadata
