"""`dial`: one connection to a URL, or one exception that says why not.

Composes the transports. The deadline covers everything up to the point where frames can be sent:
name look-up, TCP, TLS and the WebSocket handshake.
"""

from __future__ import annotations

import asyncio
import ssl

from rsocket_mesh.errors import Unreachable
from rsocket_mesh.protocol.frames import MAX_FRAME_SIZE
from rsocket_mesh.transport.base import CLOSE_TIMEOUT, Receiver, Transport
from rsocket_mesh.transport.framed import MAX_OUTBOUND, Accept
from rsocket_mesh.transport.memory import connect_memory
from rsocket_mesh.transport.sockets import SocketTransport
from rsocket_mesh.transport.tcp import StreamTransport
from rsocket_mesh.transport.tls import default_client_tls
from rsocket_mesh.transport.url import Url, parse_url


async def dial(
    url: str,
    receiver: Receiver,
    *,
    timeout: float,  # noqa: ASYNC109 - one deadline over many steps, and part of the contract
    tls: ssl.SSLContext | None = None,
    max_frame: int = MAX_FRAME_SIZE,
    max_outbound: int = MAX_OUTBOUND,
) -> Transport:
    """Connect to *url* and return the transport, already given to `receiver.connected`.

    The addresses of a name are tried one after the other, in the order of the system.

    Args:
        timeout: seconds for everything until frames can be sent.
        tls: for `tls` and `wss`, in place of the default, which is TLS 1.2 or newer and verifies
            the server's name against the authorities of the system. The other schemes do not
            use it: the URL alone says what is spoken.
        max_frame: bytes; a longer frame is a violation of the protocol.
        max_outbound: bytes waiting for the peer; above it the connection is aborted. Counted from
            256 KiB up: below that, nobody is slow.

    Raises:
        InvalidUrl: *url* is none.
        Unreachable: anything else; the text has the URL and the cause, `__cause__` the exception
            (`OSError`, `ssl.SSLError`, `TimeoutError`).
    If cancelled: nothing is left open. *receiver* hears of it (`disconnected`) only if it had been
    given the transport in that very moment.
    """
    target = parse_url(url)
    if target.is_encrypted and tls is None:
        tls = default_client_tls()
    deadline = asyncio.timeout(timeout)
    try:
        async with deadline:
            return await _connect(target, lambda: receiver, tls, max_frame, max_outbound)
    except (OSError, UnicodeError) as exc:  # UnicodeError: a host that no DNS name can express
        why = f"no connection within {timeout:g} s" if deadline.expired() else exc
        raise Unreachable(f"{target}: {why}") from exc


async def _connect(
    url: Url, accept: Accept, tls: ssl.SSLContext | None, max_frame: int, max_outbound: int
) -> Transport:
    if url.scheme == "memory":
        return connect_memory(url.host, accept, max_frame, max_outbound)
    loop = asyncio.get_running_loop()
    if url.is_websocket:
        # Imported here: most processes never speak WebSocket.
        from rsocket_mesh.transport.websocket import ClientTransport

        client = ClientTransport(loop, url, accept, max_frame, max_outbound)
        try:
            await _open_socket(loop, url, client, tls)
            await client.opened
        except BaseException:
            client.abort()
            raise
        return client
    transport = StreamTransport(loop, url, accept, max_frame, max_outbound)
    await _open_socket(loop, url, transport, tls)
    return transport


async def _open_socket(
    loop: asyncio.AbstractEventLoop,
    url: Url,
    transport: SocketTransport,
    tls: ssl.SSLContext | None,
) -> None:
    if url.scheme == "unix":
        await loop.create_unix_connection(lambda: transport, url.path)
    elif url.is_encrypted:
        await loop.create_connection(
            lambda: transport, url.host, url.port, ssl=tls, ssl_shutdown_timeout=CLOSE_TIMEOUT
        )
    else:
        await loop.create_connection(lambda: transport, url.host, url.port)
