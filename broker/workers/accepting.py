"""Accepting for others: a connection is accepted when there is somebody to take it.

On the acceptor of `rsocket_mesh.transport`, with all its manners: a few per turn of the loop, none
while descriptors are short. While no worker can take one, who connects waits in the queue of the
system.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from rsocket_mesh.transport.accepting import Acceptor


class HandingAcceptor(Acceptor):
    """One listening socket whose connections go to *hand* while *may* says so."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        hand: Callable[[socket.socket], None],
        may: Callable[[], bool],
        spare: int,
        paused: Callable[[], None],
    ) -> None:
        super().__init__(loop, sock, asyncio.Protocol, None, (0, 0), spare, paused)
        self._hand = hand
        self._may = may
        self._is_held = False

    def go_on(self) -> None:
        """There is somebody again."""
        if self._is_held:
            self._is_held = False
            if self._timer is None:
                self._loop.add_reader(self._socket, self._accept_some)

    def close(self) -> None:
        self._is_held = False
        super().close()

    def _accept_some(self) -> None:
        if self._may():
            super()._accept_some()
        else:
            self._is_held = True
            self._loop.remove_reader(self._socket)

    def _take(self, accepted: socket.socket) -> None:
        self._hand(accepted)


def address_of(sock: socket.socket) -> str | None:
    """Return the host of the peer as transports name it, or None where there is none."""
    if sock.family == socket.AF_UNIX:
        return None
    try:
        host: str = sock.getpeername()[0]
    except OSError:  # gone already
        return None
    return host.removeprefix("::ffff:") if "." in host else host
