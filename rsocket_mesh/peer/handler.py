"""What a peer serves: the five interactions, in payloads.

The floor above (`rsocket_mesh.rpc`) and the broker's own services implement this; they see bytes
and know nothing of frames, credit or connections.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from typing import Protocol

from rsocket_mesh.errors import NoRoute
from rsocket_mesh.protocol.payload import Payload


class RequestHandler(Protocol):
    """Serves the requests of one peer.

    Each request runs in a task of its own, which is cancelled when the requester cancels or the
    connection is lost; only those that answer without waiting share one. A `StreamError` goes to
    the peer as it is, any other exception as `ApplicationError` with its type and message.
    """

    def request_response(self, payload: Payload) -> Awaitable[Payload]:
        """Return the one answer."""

    def fire_and_forget(self, payload: Payload) -> Awaitable[None]:
        """Take a request that is never answered; an exception is logged here and goes nowhere."""

    def request_stream(self, payload: Payload) -> AsyncIterator[Payload]:
        """Return the items. They are asked for one by one, while there is credit and the
        transport takes them; `aclose` is called at the end if there is one."""

    def request_channel(
        self, payload: Payload, incoming: AsyncIterator[Payload]
    ) -> AsyncIterator[Payload]:
        """Return the items of our half.

        Args:
            payload: the requester's first.
            incoming: its later ones; credit is granted as they are taken. When nobody holds
                *incoming* any more and it has not ended, the requester is told to stop.
        """

    def metadata_pushed(self, metadata: bytes) -> None:
        """Take metadata about the connection as a whole; called in order, must not block."""


class NoHandler:
    """Serves nothing: every request is refused, with the certainty that it was not processed."""

    async def request_response(self, payload: Payload) -> Payload:
        raise NoRoute(_TEXT)

    async def fire_and_forget(self, payload: Payload) -> None:
        raise NoRoute(_TEXT)

    def request_stream(self, payload: Payload) -> AsyncIterator[Payload]:
        raise NoRoute(_TEXT)

    def request_channel(
        self, payload: Payload, incoming: AsyncIterator[Payload]
    ) -> AsyncIterator[Payload]:
        raise NoRoute(_TEXT)

    def metadata_pushed(self, metadata: bytes) -> None:
        pass


_TEXT = "this peer only calls and serves nothing"


def describe(exc: BaseException) -> str:
    """Return what a peer is told of an exception: type and message, no traceback."""
    return f"{type(exc).__name__}: {exc}"
