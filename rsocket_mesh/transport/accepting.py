"""Accepting connections on one listening socket: a few per turn of the loop, and never too many.

`loop.create_server` takes all that wait in one turn, thousands after a restart, and everybody who
is connected already waits for them; and when the process has no descriptor left, uvloop accepts and
closes whoever comes. Here a turn of the loop accepts a handful, and while few descriptors are left
nothing is accepted at all: who connects waits in the queue of the system until others have gone.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
import sys
from collections.abc import Callable
from typing import Final

# Connections per turn of the loop: one costs 0.1 ms or more, and so long everybody else waits.
ACCEPTS_PER_TURN: Final = 2
POLL: Final = 0.1  # seconds between two looks for free descriptors
# What `accept` says when the process or the system has no room; waiting helps, nothing else does.
_NO_ROOM: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Acceptor:
    """One listening socket, from `start` to `close`; owns the socket."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        create: Callable[[], asyncio.BaseProtocol],
        tls: ssl.SSLContext | None,
        tls_timeouts: tuple[float, float],
        spare: int,
        paused: Callable[[], None],
    ) -> None:
        """Args:
        create: makes the protocol of a connection.
        tls_timeouts: seconds for the handshake and for its counterpart at the end.
        spare: descriptors of this process that connections may not use; 0 uses them all.
        paused: called when accepting pauses because that few are left.
        """
        self._loop = loop
        self._socket = sock
        self._create = create
        self._tls: dict[str, object] = {}
        if tls is not None:
            self._tls = {
                "ssl": tls,
                "ssl_handshake_timeout": tls_timeouts[0],
                "ssl_shutdown_timeout": tls_timeouts[1],
            }
        self._spare = spare
        self._paused = paused
        self._coming: set[asyncio.Task[None]] = set()  # accepted, and not in use yet
        self._timer: asyncio.TimerHandle | None = None

    def start(self, backlog: int) -> None:
        """Listen, and accept from the next turn of the loop on."""
        self._socket.listen(backlog)
        self._loop.add_reader(self._socket, self._accept_some)

    def close(self) -> None:
        """Accept no more; connections that were accepted come to their end by themselves."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        elif self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
        self._socket.close()

    def _accept_some(self) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            try:
                accepted, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as exc:
                if exc.errno not in _NO_ROOM:
                    raise
                self._pause()
                return
            accepted.setblocking(False)
            # The system gives out the lowest number that is free: all below are in use.
            is_last = accepted.fileno() >= most_descriptors(self._spare)
            self._take(accepted)
            if is_last:
                self._pause()
                return

    def _take(self, accepted: socket.socket) -> None:
        """Put a connection that was accepted to use."""
        task = self._loop.create_task(self._connect(accepted))
        self._coming.add(task)
        task.add_done_callback(self._coming.discard)

    async def _connect(self, accepted: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._create,
                accepted,
                **self._tls,  # type: ignore[arg-type]  # one of two sets of arguments
            )
        except OSError:  # gone again, or the handshake failed or took too long
            accepted.close()
        except BaseException:
            accepted.close()
            raise

    # -- descriptors ------------------------------------------------------------------------------

    def _pause(self) -> None:
        self._loop.remove_reader(self._socket)
        self._timer = self._loop.call_later(POLL, self._resume)
        self._paused()

    def _resume(self) -> None:
        if has_descriptors(self._socket.fileno(), self._spare):
            self._timer = None
            self._loop.add_reader(self._socket, self._accept_some)
        else:
            self._timer = self._loop.call_later(POLL, self._resume)


def most_descriptors(spare: int) -> int:
    """Return the descriptor from which on fewer than *spare* are left to this process."""
    if sys.platform == "win32":  # it has no such limit
        return sys.maxsize
    import resource  # here, because Windows has no such module

    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return sys.maxsize
    # Whatever is to be spared, half of them may be used: a small limit is no reason to serve
    # nobody.
    return max(limit - spare, limit // 2)


def has_descriptors(any_open: int, spare: int) -> bool:
    """Return whether more than *spare* descriptors are left; *any_open* is one in use."""
    try:
        lowest = os.dup(any_open)
    except OSError:
        return False
    os.close(lowest)
    return lowest < most_descriptors(spare)
