"""The listeners of all workers, and who gets what comes in: the supervisor's way for connections.

On `placing`, which decides, and `accepting`, which accepts while somebody can take it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from broker.config import Config, ListenerConfig
from broker.forwarding.admission import CONNECTIONS, PER_ADDRESS
from broker.observe.logs import OncePer
from broker.workers.accepting import HandingAcceptor, address_of
from broker.workers.messages import Adopt, Move
from broker.workers.placing import LAG, Placing
from rsocket_mesh.transport import Listener, parse_url, server_tls
from rsocket_mesh.transport.listening import BACKLOG, bound_sockets, socket_remover

LOG_PERIOD: Final = 60.0  # s between two lines about paused accepting
_log: Final = logging.getLogger("rsocket_broker.workers")


class Door:
    """All listeners.

    Attributes:
        listeners: open addresses, in the order of the config; `url` has the real port.
        placing: who has how many connections.
    """

    def __init__(self, config: Config, hand: Callable[[int, Adopt, int], None]) -> None:
        """*hand* gives a worker a connection: the message and the descriptor."""
        self.listeners: list[Listener] = []
        self.placing = Placing()
        self._config = config
        self._hand = hand
        self._loop = asyncio.get_running_loop()
        self._acceptors: list[HandingAcceptor] = []
        self._waiting: deque[tuple[int, socket.socket]] = deque()  # accepted, for the next to take
        self._held: asyncio.TimerHandle | None = None
        self._again: asyncio.TimerHandle | None = None
        self._lines = OncePer(LOG_PERIOD, 1)

    async def open(self) -> None:
        """Bind all addresses; nobody can connect yet.

        Raises:
            OSError: an address or a certificate cannot be used; `close` closes the others.
        """
        for index, listener in enumerate(self._config.listeners):
            await self._bind(index, listener)

    async def _bind(self, index: int, listener: ListenerConfig) -> None:
        if listener.certificate:  # each worker loads it; here only to say at once what is wrong
            server_tls(listener.certificate, listener.key)
        url, sockets = await bound_sockets(parse_url(listener.url))
        spare = self._config.limits.spare_descriptors
        take = partial(self._take, index)
        acceptors = [
            HandingAcceptor(self._loop, sock, take, self._may_accept, spare, self.short)
            for sock in sockets
        ]
        self._acceptors += acceptors
        stops: list[Callable[[], None]] = [acceptor.close for acceptor in acceptors]
        if url.scheme == "unix":
            stops.append(socket_remover(url.path))
        self.listeners.append(Listener(str(url), stops))

    def accept(self) -> None:
        """Let in whoever comes from now on."""
        for acceptor in self._acceptors:
            acceptor.start(BACKLOG)

    async def close(self) -> None:
        """Let nobody in any more. Idempotent."""
        self._drop_timer()
        if self._again is not None:
            self._again.cancel()
        for listener in self.listeners:
            await listener.close()
        while self._waiting:
            self._waiting.popleft()[1].close()

    def hold(self, seconds: float) -> None:
        """Let nobody in for a while, or until `release`: a worker will be back soon, and has none.

        Who comes now are mostly those whom it had. They wait in the queue of the system; if they
        were let in at once, they would be with the others for good.
        """
        self._drop_timer()
        self._held = self._loop.call_later(seconds, self.release)

    def release(self) -> None:
        """Go on letting in; harmless if nobody was held."""
        self._drop_timer()
        self.go_on()

    def _drop_timer(self) -> None:
        if self._held is not None:
            self._held.cancel()
            self._held = None

    def go_on(self) -> None:
        """Somebody may have room again."""
        while self._waiting and self.placing.choose(self._loop.time()) is not None:
            self._take(*self._waiting.popleft())
        if self._may_accept():
            for acceptor in self._acceptors:
                acceptor.go_on()

    def move(self, owner: int, message: Move, descriptors: list[int]) -> None:
        """Hand a RESUME on to the *owner* of its session."""
        elsewhere = self.placing.elsewhere(owner)
        address = message.address if message.moves else None
        self.placing.placed(owner, address, self._loop.time())
        place = (message.listener, elsewhere, "", message.first)
        self._hand(owner, Adopt(*place, settled=True, peer=message.peer), *descriptors)

    def short(self) -> None:
        """Open files are short, so that some or all connections have to wait."""
        if self._lines.admit("short", self._loop.time()) is not None:
            _log.warning("connections have to wait: open files are short (ulimit -n)")

    def _may_accept(self) -> bool:
        """Whether somebody can take a connection; if not, this is looked at again soon."""
        if self._held is not None:
            return False
        if not self._waiting and self.placing.choose(self._loop.time()) is not None:
            return True
        if self._again is None:
            self._again = self._loop.call_later(LAG, self._look_again)
        return False

    def _look_again(self) -> None:
        self._again = None
        self.go_on()

    def _take(self, listener: int, sock: socket.socket) -> None:
        placing = self.placing
        index = placing.choose(self._loop.time())
        if index is None:
            self._waiting.append((listener, sock))
            return
        address = address_of(sock)
        limits = self._config.limits
        limit = ""
        if placing.connections >= limits.connections:
            limit = CONNECTIONS
        elif placing.of_address(address) >= limits.connections_per_address:
            limit = PER_ADDRESS
        elsewhere = placing.elsewhere(index)
        placing.placed(index, address, self._loop.time())
        self._hand(index, Adopt(listener, elsewhere, limit), sock.detach())
