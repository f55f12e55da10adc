"""`listen`: accept connections on a URL until told to stop.

Composes the transports with sockets that we make ourselves, because the event loops differ in what
they make: port 0 on a name with two addresses must be one port, and a Unix socket must be private
before anybody can connect to it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
import stat
import sys
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from typing import Final

from rsocket_mesh.protocol.frames import MAX_FRAME_SIZE
from rsocket_mesh.transport.accepting import Acceptor
from rsocket_mesh.transport.base import CLOSE_TIMEOUT
from rsocket_mesh.transport.framed import MAX_OUTBOUND, Accept
from rsocket_mesh.transport.memory import forget_memory, listen_memory
from rsocket_mesh.transport.sockets import SocketTransport
from rsocket_mesh.transport.tcp import StreamTransport
from rsocket_mesh.transport.url import Url, parse_url

BACKLOG: Final = 4096  # connections the system may hold for us; after a restart all come at once
# Seconds for the handshake and for its end; nobody holds a socket longer without a word.
TLS_TIMEOUTS: Final = (10.0, CLOSE_TIMEOUT)


class Listener:
    """An address that connections are accepted on.

    Attributes:
        url: the address as a URL, with the real port.
    """

    __slots__ = ("_stops", "url")

    def __init__(self, url: str, stops: list[Callable[[], None]]) -> None:
        self.url = url
        self._stops = stops

    async def close(self) -> None:
        """Accept no more. Connections that were accepted live on. Idempotent.

        If cancelled: it is closed all the same.
        """
        stops, self._stops = self._stops, []
        for stop in stops:
            stop()
        await asyncio.sleep(0)  # uvloop lets go of the socket with the next turn


async def listen(
    url: str,
    accept: Accept,
    *,
    tls: ssl.SSLContext | None = None,
    allowed_origins: Collection[str] = (),
    max_frame: int = MAX_FRAME_SIZE,
    max_outbound: int = MAX_OUTBOUND,
    spare_descriptors: int = 0,
    paused: Callable[[], None] = lambda: None,
) -> Listener:
    """Listen on *url*; call *accept* for each connection once it is ready for use.

    Ready means: the TLS and WebSocket handshakes are done. They have a deadline, and who fails them
    never reaches *accept*. A host name is listened on at all of its addresses, `[::]` takes IPv4
    too. A Unix socket has mode 0600; a file left by a process that died is replaced.

    Args:
        tls: the certificate for `tls` and `wss` (see `server_tls`); must be None for the others.
        allowed_origins: values of `Origin` that browsers may come with on `ws` and `wss`. A
            handshake without the header does not come from a web page and is accepted.
        max_frame: bytes; a longer frame is a violation of the protocol.
        max_outbound: bytes waiting for one peer; above it the connection is aborted. Counted from
            256 KiB up: below that, nobody is slow.
        spare_descriptors: open files of this process that are left to others: with fewer free,
            nothing is accepted, and who connects waits.
        paused: called each time that begins.

    Raises:
        InvalidUrl: *url* is none.
        ValueError: *tls* is missing or has no meaning for *url*.
        OSError: the address is in use, is not ours, or the path is not a socket.
    """
    target = parse_url(url)
    if target.is_encrypted is (tls is None):
        raise ValueError(f"{target}: {'needs' if tls is None else 'has no use for'} a certificate")
    if target.scheme == "memory":
        try:
            listen_memory(target.host, accept, max_frame, max_outbound)
        except OSError as exc:
            raise OSError(exc.errno, f"cannot listen on {target}: {exc.strerror}") from exc
        return Listener(str(target), [partial(forget_memory, target.host)])
    target, sockets = await bound_sockets(target)
    loop = asyncio.get_running_loop()
    create: Callable[[], SocketTransport]
    create = partial(StreamTransport, loop, target, accept, max_frame, max_outbound)
    if target.is_websocket:
        # Imported here: most processes never speak WebSocket.
        from rsocket_mesh.transport.websocket import server_factory

        create = server_factory(loop, target, accept, max_frame, max_outbound, allowed_origins)
    stops: list[Callable[[], None]] = []
    try:
        for sock in sockets:
            if sys.platform == "win32":  # its loop has no readers of sockets
                stops.append(await _serve_windows(loop, create, sock, tls))
                continue
            acceptor = Acceptor(loop, sock, create, tls, TLS_TIMEOUTS, spare_descriptors, paused)
            acceptor.start(BACKLOG)
            stops.append(acceptor.close)
    except BaseException:
        for stop in stops:
            stop()
        for sock in sockets:
            sock.close()
        raise
    if target.scheme == "unix":
        stops.append(socket_remover(target.path))
    return Listener(str(target), stops)


async def bound_sockets(url: Url) -> tuple[Url, list[socket.socket]]:
    """Return sockets that are bound to *url* and do not listen yet, and *url* with the real port.

    Raises:
        OSError: the address is in use, is not ours, or the path is not a socket; the text names it.
    """
    try:
        if url.scheme == "unix":
            return url, [_unix_socket(url.path)]
        sockets = await _tcp_sockets(url)
    except OSError as exc:
        raise OSError(exc.errno, f"cannot listen on {url}: {exc.strerror or exc}") from exc
    return url._replace(port=sockets[0].getsockname()[1]), sockets


def socket_remover(path: str) -> Callable[[], None]:
    """Return what removes the file of the Unix socket at *path* as long as it is the one there
    now."""
    return partial(_remove_socket, path, os.stat(path))


async def _serve_windows(
    loop: asyncio.AbstractEventLoop,
    create: Callable[[], SocketTransport],
    sock: socket.socket,
    tls: ssl.SSLContext | None,
) -> Callable[[], None]:
    """Accept as the loop does it; return what ends it."""
    server = await loop.create_server(create, sock=sock, backlog=BACKLOG, ssl=tls)
    return server.close


async def _tcp_sockets(url: Url) -> list[socket.socket]:
    """Return bound sockets for all addresses of the host, all on one port."""
    found = await asyncio.get_running_loop().getaddrinfo(
        url.host, url.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    port = url.port
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            sock = socket.socket(family, kind, protocol)
            sockets.append(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address[0] != "::")
            sock.bind((address[0], port, *address[2:]))
            port = sock.getsockname()[1]
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _unix_socket(path: str) -> socket.socket:
    """Return a bound socket that only our user can connect to."""
    _remove_stale(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.bind(path)
        # Nobody can connect before `listen`, so there is no moment in which the mode is too wide.
        os.chmod(path, 0o600)
    except BaseException:
        sock.close()
        raise
    return sock


def _remove_stale(path: str) -> None:
    """Remove the socket of a process that died; raise if it lives or *path* is something else."""
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(errno.EEXIST, "the path exists and is not a socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except BlockingIOError:
            pass  # alive, with a full queue
    raise OSError(errno.EADDRINUSE, "another process listens there")


def _remove_socket(path: str, ours: os.stat_result) -> None:
    """Remove our socket file, unless somebody has put another one in its place."""
    with suppress(OSError):
        if os.path.samestat(os.lstat(path), ours):
            os.unlink(path)
