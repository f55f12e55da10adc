"""How a client gets a live peer: dial, introduce, and wait for the verdict."""

from __future__ import annotations

import asyncio
import secrets
import ssl
from collections.abc import Callable

from rsocket_mesh.errors import ConnectionClosed, Unreachable
from rsocket_mesh.peer.handler import RequestHandler
from rsocket_mesh.peer.peer import Peer
from rsocket_mesh.peer.redial import ATTEMPT_TIMEOUT
from rsocket_mesh.protocol.frames import Setup
from rsocket_mesh.protocol.resume import MIN_TOKEN
from rsocket_mesh.transport import dial
from rsocket_mesh.transport.base import Receiver


async def open_peer(
    url: str,
    *,
    setup: Setup,
    handler: RequestHandler | None = None,
    timeout: float,  # noqa: ASYNC109 - one budget for several steps
    confirm: bool = True,
    tls: ssl.SSLContext | None = None,
    free: Callable[[float], int] | None = None,
    resume: bool = False,
) -> Peer:
    """Connect to *url* and introduce ourselves.

    Args:
        setup: keepalive times, MIME types, the announcement, and whether there are leases.
        handler: serves what the other side asks; None refuses it.
        timeout: seconds for everything together.
        confirm: wait until the other side has answered a KEEPALIVE behind the SETUP; a broker does
            that after its verdict, so connected then means accepted and registered.
        tls: for tls:// and wss://; None means the system's certificates.
        free: with leases, how many requests *handler* could take at a time; see `Peer`.
        resume: the session survives a broken transport: it dials *url* again and goes on where it
            was, for at most 60 s; then, or if the other side has forgotten it, the peer ends.
    Raises:
        SetupRefused: the other side does not want us; the same SETUP again will not help.
        Unreachable: nobody answered, or not within *timeout*.
    If cancelled: the connection is closed.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout
    receiver: Receiver
    if resume:
        # Text, since some servers read tokens as such.
        token = secrets.token_hex(MIN_TOKEN).encode()
        setup = setup._replace(resume_token=token)
        receiver = peer = Peer(handler, setup=setup, free=free)
        receiver = peer.outlive(
            token, lambda socket: dial(url, socket, timeout=ATTEMPT_TIMEOUT, tls=tls)
        )
    else:
        receiver = peer = Peer(handler, setup=setup, free=free)
    await dial(url, receiver, timeout=timeout, tls=tls)
    if not confirm:
        return peer
    accepted = False
    try:
        async with asyncio.timeout_at(deadline):
            await asyncio.shield(peer.confirmed)
        accepted = True
    except TimeoutError:
        raise Unreachable(f"{url} did not answer the SETUP within {timeout:g} s") from None
    except ConnectionClosed as exc:
        raise Unreachable(f"{url} ended the connection before it answered: {exc}") from exc
    finally:
        if peer.closed.done():
            await peer.wait_closed()
        elif not accepted:
            # Also when the answer came in the moment of giving up: nobody would hold the peer.
            # A side that has said nothing so far may not answer our goodbye either: no wait.
            peer.close("given up while connecting")
    return peer
