"""A RESUME that came to another worker than its session's: the session's worker gets it.

A plain socket goes itself: the supervisor hands it to the worker that has the session, with the
frame that was read of it, and nothing is left here. A connection under TLS or WebSocket has state
that no other process can take over. It stays here, and what it carries goes through a pipe to the
session: a hop more for that client, until its next connection.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Final

from broker.forwarding.resumption import digest_of
from broker.workers import messages as m
from broker.workers.adopting import Handed, HandedStream
from rsocket_mesh.errors import RemoteProtocolError
from rsocket_mesh.protocol.frames import Resume, encode_resume
from rsocket_mesh.protocol.framing import cut, prefix_lengths
from rsocket_mesh.transport import Url
from rsocket_mesh.transport.base import PROTOCOL_ERROR, Transport
from rsocket_mesh.transport.framed import NOBODY
from rsocket_mesh.transport.sockets import SocketTransport
from rsocket_mesh.transport.tcp import StreamTransport

if TYPE_CHECKING:
    from broker.forwarding.link import Link
    from broker.workers.hub import WorkerHub

REST: Final = 0.02  # s that a side is not read from while the other has not taken what it sent


def handed_of(link: Link) -> Handed | None:
    """Return how the connection of *link* came here; None if it has been moved before, or is no
    connection of a client."""
    handed: Handed | None = getattr(link.transport, "handed", None)
    return None if handed is None or handed.message.settled else handed


def move(hub: WorkerHub, link: Link, handed: Handed, asked: Resume) -> None:
    """Send the connection of *link*, on which RESUME has come, to where its session is."""
    transport = link.transport
    digest = digest_of(asked.token)
    first = b"".join(prefix_lengths([encode_resume(asked)]))
    listener = handed.message.listener
    hub.let_go(link)
    if isinstance(transport, HandedStream) and transport.scheme in ("tcp", "unix"):
        descriptor = transport.duplicate()
        transport.hand_to(NOBODY)
        transport.abort()  # of our descriptor; the connection lives on with the other one
        message = m.Move(digest, listener, first, moves=True, address=handed.address)
        hub.up.tell(message, descriptor)
        return
    assert isinstance(transport, SocketTransport)
    ours, theirs = socket.socketpair()
    hub.background(_join(hub, transport, ours))
    peer = (transport.name, transport.peer_address)
    message = m.Move(digest, listener, first, moves=False, address=handed.address, peer=peer)
    hub.up.tell(message, theirs.detach())


async def _join(hub: WorkerHub, client: SocketTransport, sock: socket.socket) -> None:
    """Join *client*, whose connection stays here, to the session behind *sock*."""
    loop = asyncio.get_running_loop()
    sock.setblocking(False)
    outwards = _Half(client)
    frame_bytes = hub.config.limits.frame_bytes
    inner = StreamTransport(loop, Url("unix", ""), lambda: outwards, frame_bytes, hub.max_outbound)
    inwards = _Half(inner)
    outwards.back, inwards.back = inwards, outwards
    client.hand_to(inwards)
    await loop.connect_accepted_socket(lambda: inner, sock)


class _Half:
    """The receiver of one side: passes whole frames on to the other.

    Attributes:
        target: the other side.
        back: the receiver of that one, which passes on to ours.
    """

    def __init__(self, target: Transport) -> None:
        self.target = target
        self.back: _Half | None = None
        self._is_full = False  # the target has not taken what it was given

    def connected(self, transport: Transport) -> None:
        """Both sides know each other already."""

    def batch_received(self, data: bytes) -> int:
        try:
            _, used = cut(data)
        except RemoteProtocolError:  # the transport says so itself, of what is left over
            return 0
        if used:
            self.target.outbound.append(data[:used])
            self.target.flush()
        if self._is_full and self.back is not None:
            self.back.target.rest(REST)
        return used

    def protocol_violated(self, text: str, reason: str = PROTOCOL_ERROR) -> None:
        self.target.close()

    def disconnected(self, error: Exception | None) -> None:
        self.target.close()

    def writable(self, ready: bool) -> None:
        """Our side takes more, or not: the other half has to know, which writes to it."""
        if self.back is not None:
            self.back.set_full(not ready)

    def set_full(self, full: bool) -> None:
        self._is_full = full
