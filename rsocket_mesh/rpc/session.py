"""One lasting connection to the first broker of a list that takes us; reconnects by itself.

A session outlives sockets: when its peer ends, it dials the next URL with a jittered, growing
delay and sends the whole SETUP again, so the broker knows everything after one exchange. Calls
wait here for the connection, each until its own deadline. A refused SETUP ends the first attempt
(the program learns why) and slows down the later ones (the broker may have been reconfigured).
"""

# ruff: noqa: ASYNC109 - a timeout is part of a call's contract: it bounds the answer, not the await

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Iterable
from typing import Any, Final

from rsocket_mesh.errors import (
    ConnectionClosed,
    RSocketError,
    SetupRefused,
    Unavailable,
    Unreachable,
)
from rsocket_mesh.peer import Peer, Requester, RequestHandler, open_peer
from rsocket_mesh.peer.jitter import jitter
from rsocket_mesh.protocol.frames import Setup
from rsocket_mesh.transport import parse_url

FIRST_DELAY: Final = 0.05  # s before the second round through the URLs, jittered
MAX_DELAY: Final = 2.0  # s; a broker that came back has its clients again within 3 s
REFUSED_DELAY: Final = 10.0  # s; a broker that said no to what we are rarely changes its mind
ATTEMPT_TIMEOUT: Final = 5.0  # s for one URL while there is a list or a history of failures
LINGER: Final = 30.0  # s that a draining broker's connection is kept for the calls still on it

# What the broker says to a SETUP that it will not like better next time.
_FINAL_TOKENS: Final = frozenset({"UNAUTHENTICATED", "FORBIDDEN", "INVALID"})

log: Final = logging.getLogger("rsocket_mesh.session")


class Session:
    """The connection of one mesh, whichever socket carries it just now.

    Attributes:
        requester: for calls, while there is a connection; None during an outage, also one that
            the calls in flight survive.
        url: the broker that is or was connected last.
    """

    def __init__(
        self,
        urls: Iterable[str],
        make_setup: Callable[[], Setup],
        handler: RequestHandler,
        tls: ssl.SSLContext | None,
        free: Callable[[float], int] | None = None,
        *,
        resume: bool = False,
    ) -> None:
        self.urls = tuple(urls)
        if not self.urls:
            raise ValueError("no broker URL was given")
        for url in self.urls:
            parse_url(url)
        self.requester: Requester | None = None
        self.url = self.urls[0]
        self._make_setup = make_setup
        self._handler = handler
        self._tls = tls
        self._free = free
        self._resume = resume
        self._peer: Peer | None = None
        self._connected = asyncio.Event()
        self._move = asyncio.Event()
        self._closed = False
        self._failures: dict[str, str] = {}
        self._keeper: asyncio.Task[None] | None = None
        self._lingering: set[asyncio.Task[None]] = set()

    async def open(self, timeout: float) -> None:
        """Connect to the first URL that takes us, trying each once; then keep connected.

        Args:
            timeout: seconds for everything; each of several URLs has an equal share.
        Raises:
            SetupRefused: none takes us, and one was reached that says no; the text has its reason.
            Unreachable: none was reached in time; the text has every URL's error.
        If cancelled: nothing is left open.
        """
        refusal: SetupRefused | None = None
        for url in self.urls:
            try:
                self._adopt(await self._dial(url, timeout / len(self.urls)), url)
                break
            except SetupRefused as exc:
                refusal = refusal or exc
            except Unreachable as exc:
                self._failures[url] = str(exc)
        if self._peer is None:
            if refusal is not None:
                raise refusal
            raise Unreachable(f"no broker reached: {self._tried()}")
        self._keeper = asyncio.create_task(self._keep(), name="rsocket-mesh session")

    async def connected(self, timeout: float) -> Requester:
        """Return the requester, as soon as there is a connection.

        Raises:
            Unavailable: there was none within *timeout* seconds; the text lists what was tried.
            ConnectionClosed: the session was closed by this program.
        """
        try:
            async with asyncio.timeout(timeout):
                while self.requester is None or not self.requester.accepting:
                    self._check_open()
                    if self.requester is not None:  # the peer said that it is closing
                        self._set_aside()
                    await self._connected.wait()
        except TimeoutError:
            raise Unavailable(
                f"no broker within {timeout:g} s, nothing was sent: {self._tried()}"
            ) from None
        return self.requester

    def move(self) -> None:
        """The broker is going away: send new calls to another one of the list, if there is one.

        With one URL the connection is kept until it closes, since nothing better is known.
        """
        if len(self.urls) > 1:
            self._move.set()

    async def close(self) -> None:
        """End the connection and stop reconnecting; waiting calls fail. Idempotent.

        If cancelled: the socket closes all the same, in the background.
        """
        self._closed = True
        self.requester = None
        self._connected.set()  # whoever waits for a connection learns that there will be none
        tasks = [*self._lingering, *([self._keeper] if self._keeper else [])]
        for task in tasks:
            task.cancel()
        peer, self._peer = self._peer, None
        if peer is not None:
            await _close(peer)
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- inside ---------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise ConnectionClosed("this program has closed its connection", "closed-here")

    def _tried(self) -> str:
        failures = ((url, self._failures.get(url, "not tried yet")) for url in self.urls)
        # Errors of the transport name the URL themselves.
        return "; ".join(f"{url}: {why.removeprefix(f'{url}: ')}" for url, why in failures)

    async def _dial(self, url: str, timeout: float) -> Peer:
        return await open_peer(
            url,
            setup=self._make_setup(),
            handler=self._handler,
            timeout=timeout,
            confirm=True,
            tls=self._tls,
            free=self._free,
            resume=self._resume,
        )

    def _adopt(self, peer: Peer, url: str) -> None:
        self._peer, self.requester, self.url = peer, peer.requester, url
        self._failures.clear()
        self._move.clear()
        self._connected.set()
        peer.closed.add_done_callback(lambda _: self._forget(peer))
        peer.attached = lambda attached: self._attached(peer, attached)
        if peer.is_detached:
            self._attached(peer, False)

    def _attached(self, peer: Peer, attached: bool) -> None:
        """A session with resume has lost its socket, or goes on. New calls wait here meanwhile,
        where they can still go elsewhere if it does not."""
        if attached and peer is self._peer and not self._closed:
            self.requester = peer.requester
            self._failures.pop(self.url, None)
            self._connected.set()
        elif not attached:
            self._failures[self.url] = "connection lost, resuming the session"
            self._forget(peer)

    def _forget(self, peer: Peer) -> None:
        if peer is self._peer and not self._closed:
            self.requester = None
            self._connected.clear()

    def _set_aside(self) -> None:
        self.requester = None
        self._connected.clear()
        self.move()

    async def _keep(self) -> None:
        """Replace the peer whenever it ends or the broker asks to; runs as long as the session."""
        while True:
            peer = self._peer
            assert peer is not None
            moving = asyncio.create_task(self._move.wait())
            either: tuple[asyncio.Future[Any], ...] = (peer.closed, moving)
            try:
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            finally:
                moving.cancel()
            if peer.closed.done():
                self._forget(peer)
                self._failures[self.url] = f"connection lost: {_reason(peer)}"
                log.warning("lost %s: %s; reconnecting", self.url, _reason(peer))
                await self._reconnect()
            else:
                log.info("%s is draining; moving to another broker", self.url)
                await self._reconnect(leaving=peer)
                task = asyncio.create_task(_linger(peer))
                self._lingering.add(task)
                task.add_done_callback(self._lingering.discard)
            log.info("connected to %s", self.url)

    def _in_turn(self) -> tuple[str, ...]:
        """All URLs, the current one last, so that a dead broker is not waited for."""
        at = self.urls.index(self.url) + 1
        return self.urls[at:] + self.urls[:at]

    async def _reconnect(self, leaving: Peer | None = None) -> None:
        """Dial until one URL takes us; *leaving* is a peer that drains, no use to dial it again."""
        # Clients that lost one broker together should not all come at once.
        await asyncio.sleep(jitter.uniform(0, FIRST_DELAY))
        delay = FIRST_DELAY
        while True:
            urls = self._in_turn()
            if leaving is not None and not leaving.closed.done():
                urls = urls[:-1]
            refused = 0
            for url in urls:
                try:
                    peer = await self._dial(url, ATTEMPT_TIMEOUT)
                except SetupRefused as exc:
                    refused += exc.token in _FINAL_TOKENS
                    self._failures[url] = f"refused: {exc}"
                    log.error("%s refuses us: %s", url, exc)
                except RSocketError as exc:
                    self._failures[url] = str(exc)
                    log.debug("%s: %s", url, exc)
                except Exception as exc:  # a bug, or the system's: not a reason to stop trying
                    self._failures[url] = f"{type(exc).__name__}: {exc}"
                    log.exception("%s: unexpected", url)
                else:
                    self._adopt(peer, url)
                    return
            pause = REFUSED_DELAY if refused == len(urls) else delay
            await asyncio.sleep(pause * jitter.uniform(0.5, 1))
            delay = min(delay * 2, MAX_DELAY)


def _reason(peer: Peer) -> str:
    return str(peer.closed.result())


async def _close(peer: Peer) -> None:
    peer.close()
    await peer.wait_closed()


async def _linger(peer: Peer) -> None:
    """Let the calls that are still on *peer* end, then close it."""
    loop = asyncio.get_running_loop()
    end = loop.time() + LINGER
    try:
        while peer.streams_open and not peer.closed.done() and loop.time() < end:
            await asyncio.wait((peer.closed,), timeout=0.1)
    finally:
        await _close(peer)
