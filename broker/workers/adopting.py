"""Connections that a worker is handed: from a descriptor to a session.

The supervisor has read nothing of them, so TLS and WebSocket handshakes happen here. Whoever takes
one tells when it has ended, however far it came, because the supervisor counts them.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from broker.config import ListenerConfig
from broker.forwarding.admission import TurnedAway
from broker.workers import messages as m
from broker.workers.accepting import address_of
from rsocket_mesh.transport import Url, parse_url, server_tls
from rsocket_mesh.transport.accepting import POLL, has_descriptors, most_descriptors
from rsocket_mesh.transport.base import Receiver
from rsocket_mesh.transport.framed import Accept
from rsocket_mesh.transport.listening import TLS_TIMEOUTS
from rsocket_mesh.transport.sockets import SocketTransport
from rsocket_mesh.transport.tcp import StreamTransport

if TYPE_CHECKING:
    from broker.workers.hub import Upward, WorkerHub


class Handed:
    """What is known of a connection that was handed over.

    Attributes:
        message: with which it came.
        address: of the peer, as the supervisor counts it.
    """

    __slots__ = ("_ended", "address", "message")

    def __init__(self, message: m.Adopt, address: str | None, ended: Callable[[], None]) -> None:
        self.message = message
        self.address = address
        self._ended: Callable[[], None] | None = ended

    def ended(self) -> None:
        """Its socket is closed. Idempotent."""
        ended, self._ended = self._ended, None
        if ended is not None:
            ended()


class HandedStream(StreamTransport):
    """A TCP, TLS or Unix connection that was handed over."""

    __slots__ = ("handed",)

    handed: Handed

    def duplicate(self) -> int:
        """Return another descriptor of the connection, which outlives this object."""
        assert self._socket is not None
        return os.dup(self._socket.get_extra_info("socket").fileno())

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.handed.ended()

    def _socket_ready(self) -> None:
        message = self.handed.message
        if message.peer is not None:
            self.name, self.peer_address = message.peer
        super()._socket_ready()
        if message.first:
            self._bytes_received(message.first)


class Adopter:
    """Makes sessions of what comes."""

    def __init__(self, hub: WorkerHub, up: Upward) -> None:
        """Raises OSError if a certificate cannot be used."""
        self._hub = hub
        self._up = up
        self._loop = asyncio.get_running_loop()
        self._listeners = [_Kind(listener) for listener in hub.config.listeners]
        self._spare = hub.config.limits.spare_descriptors
        self._coming: set[asyncio.Task[None]] = set()
        self._is_crowded = False

    def take(self, message: m.Adopt, descriptor: int) -> None:
        """Make a session of the connection *descriptor*."""
        # The system gives out the lowest number that is free: all below are in use.
        if descriptor >= most_descriptors(self._spare) and not self._is_crowded:
            self._is_crowded = True
            self._hub.admission.paused()
            self._up.tell(m.Crowded(crowded=True))
            self._loop.call_later(POLL, self._look_for_room, descriptor)
        sock = socket.socket(fileno=descriptor)
        sock.setblocking(False)
        address = address_of(sock)
        # What has come as a pipe is counted where its connection is.
        counted = address if message.peer is None else None
        handed = Handed(message, address, partial(self._up.tell, m.Ended(counted)))
        self._hub.admission.elsewhere = message.elsewhere - self._hub.links_of_siblings
        task = self._loop.create_task(self._connect(handed, sock))
        self._coming.add(task)
        task.add_done_callback(self._coming.discard)
        self._loop.call_soon(self._up.tell, m.Adopted())  # others have had their turn then

    async def _connect(self, handed: Handed, sock: socket.socket) -> None:
        kind = self._listeners[handed.message.listener]
        accept = partial(self._receiver, kind.listener.default_service, handed.message.limit)
        create: Callable[[], SocketTransport]
        try:
            if handed.message.peer is not None:  # frames as they are, whatever it came as
                create = partial(_stream, self._hub, handed, Url("unix", ""), accept)
                await self._loop.connect_accepted_socket(create, sock)
                return
            create = partial(kind.create, self._hub, handed, accept)
            if kind.tls is None:
                await self._loop.connect_accepted_socket(create, sock)
                return
            handshake, shutdown = TLS_TIMEOUTS
            await self._loop.connect_accepted_socket(
                create,
                sock,
                ssl=kind.tls,
                ssl_handshake_timeout=handshake,
                ssl_shutdown_timeout=shutdown,
            )
        except OSError:  # gone again, or the handshake failed or took too long
            sock.close()
            handed.ended()
        except BaseException:
            sock.close()
            raise

    def _receiver(self, default_service: str, limit: str) -> Receiver:
        return TurnedAway(self._hub, limit) if limit else self._hub.new_link(default_service)

    def _look_for_room(self, descriptor: int) -> None:
        del descriptor
        if has_descriptors(1, self._spare):
            self._is_crowded = False
            self._up.tell(m.Crowded(crowded=False))
        else:
            self._loop.call_later(POLL, self._look_for_room, 0)


class _Kind:
    """What connections of one listener are made with."""

    def __init__(self, listener: ListenerConfig) -> None:
        self.listener = listener
        self.url = parse_url(listener.url)
        self.tls: ssl.SSLContext | None = None
        if listener.certificate:
            self.tls = server_tls(listener.certificate, listener.key)

    def create(self, hub: WorkerHub, handed: Handed, accept: Accept) -> SocketTransport:
        if not self.url.is_websocket:
            return _stream(hub, handed, self.url, accept)
        # Imported here: most brokers have it, but those without need not pay for it.
        from broker.workers.websockets import HandedWebSocket

        limits, origins = hub.config.limits, self.listener.allowed_origins
        return HandedWebSocket.of(
            *(asyncio.get_running_loop(), self.url, accept, limits.frame_bytes),
            *(hub.max_outbound, origins, handed),
        )


def _stream(hub: WorkerHub, handed: Handed, url: Url, accept: Accept) -> HandedStream:
    loop = asyncio.get_running_loop()
    limits = hub.config.limits
    stream = HandedStream(loop, url, accept, limits.frame_bytes, hub.max_outbound)
    stream.handed = handed
    return stream
