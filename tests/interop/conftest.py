"""One real broker for all of these tests, and the peers around it, each started when first needed.

A process costs 0.3 s and more to start, so a module's tests share them; what a test breaks on
purpose it starts for itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.interop.driving import Peer, require
from tests.support.processes import BrokerProcess, broker_process


class Cast:
    """The peers of one broker."""

    def __init__(self, broker: BrokerProcess, stack: ExitStack) -> None:
        self.broker = broker
        self._stack = stack
        self._peers: dict[tuple[str, ...], Peer] = {}

    def caller(
        self, language: str, scheme: str = "tcp", metadata: str = "composite", *more: str
    ) -> Peer:
        """Return a caller, started now or before."""
        return self._get(language, "caller", self.broker.url(scheme), metadata, *more)

    def service(self, language: str, scheme: str = "tcp") -> str:
        """Return the name of a service, started now or before."""
        name = f"{language}.{scheme}"
        self._get(language, "service", self.broker.url(scheme), name)
        return name

    def _get(self, language: str, *arguments: str) -> Peer:
        require(language)
        key = (language, *arguments)
        if key not in self._peers:
            self._peers[key] = self._stack.enter_context(Peer(language, *arguments))
        return self._peers[key]


@pytest.fixture(scope="module")
def cast() -> Iterator[Cast]:
    """A broker on TCP and WebSocket, and its peers."""
    with ExitStack() as stack:
        broker = stack.enter_context(broker_process())
        yield Cast(broker, stack)
