"""A WebSocket connection that was handed over; apart, so that it is imported only where it is used.

Stands beside `adopting`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import TYPE_CHECKING

from rsocket_mesh.transport.framed import Accept
from rsocket_mesh.transport.url import Url
from rsocket_mesh.transport.websocket import ServerTransport, server_protocol

if TYPE_CHECKING:
    from broker.workers.adopting import Handed


class HandedWebSocket(ServerTransport):
    """The accepting end, before its handshake."""

    __slots__ = ("handed",)

    handed: Handed

    @classmethod
    def of(
        cls,
        loop: asyncio.AbstractEventLoop,
        url: Url,
        accept: Accept,
        max_frame: int,
        max_outbound: int,
        origins: Collection[str],
        handed: Handed,
    ) -> HandedWebSocket:
        """Return the protocol of a connection; arguments as for `server_factory`."""
        protocol = server_protocol(max_frame, origins)
        made = cls(loop, url, accept, max_frame, max_outbound, protocol)
        made.handed = handed
        return made

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.handed.ended()
