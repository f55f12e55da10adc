"""One route of one connection: payloads in bytes, with routing, deadline and trace put on.

The lower half of the caller's side. `client` adds values and codecs; tools such as the command
line use this half directly, for services whose data they do not understand.
"""

# ruff: noqa: ASYNC109 - a timeout is part of a call's contract: it bounds the answer, not the await

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterable, Iterable
from typing import TYPE_CHECKING, Final

from rsocket_mesh.errors import DeadlineExceeded, StreamError
from rsocket_mesh.protocol.payload import Payload
from rsocket_mesh.rpc.context import CURRENT
from rsocket_mesh.rpc.metadata import (
    MAX_SECONDS,
    deadline_entry,
    mime_entry,
    routing_entry,
    trace_entry,
)
from rsocket_mesh.rpc.streams import ItemStream, Outgoing

if TYPE_CHECKING:
    from rsocket_mesh.peer import PayloadStream, Requester, SentCall
    from rsocket_mesh.rpc.session import Session

DEFAULT_TIMEOUT: Final = 10.0  # s; every call has a deadline
DEFAULT_PREFETCH: Final = 32  # items asked for ahead of the consumer


class Route:
    """Calls to one route by raw data; made by `Mesh.route`, kept and shared freely.

    Every call takes `timeout`: seconds to the answer (of a stream or channel: to the first item);
    None means the default of the connection. Inside a handler the deadline of the incoming call
    counts too, whichever is earlier. `mime` is the type of the data; None means the connection's.

    All calls raise, besides what the responder ended the stream with:
        Unavailable: there was no connection until the deadline; nothing was sent.
        ConnectionClosed: the connection ended; whether the work was done is unknown.
        DeadlineExceeded: the deadline passed; the responder was sent CANCEL.
    If cancelled: CANCEL is sent; the peer may have done the work.
    """

    __slots__ = ("_entry", "_loop", "_mime", "_session", "_timeout", "_usual", "name")

    def __init__(
        self,
        session: Session,
        name: str,
        selectors: tuple[tuple[str, str], ...],
        timeout: float,
        mime: str,
        entries: bytes = b"",
    ) -> None:
        self.name = name
        self._entry = routing_entry(name, selectors) + entries
        self._session = session
        self._timeout = min(timeout, MAX_SECONDS)
        self._mime = mime
        # The metadata of nearly every request, behind its size.
        usual = self._entry + deadline_entry(timeout)
        self._usual = len(usual).to_bytes(3, "big") + usual
        self._loop = asyncio.get_running_loop()

    async def request_response(
        self, data: bytes = b"", *, timeout: float | None = None, mime: str | None = None
    ) -> Payload:
        """Send one request and return its one answer."""
        try:
            if timeout is None and (mime is None or mime == self._mime):
                call = self.begin(data)
                if call is not None:
                    return await call.payload()
            requester, seconds = await self._ready(self._seconds(timeout))
            payload = Payload(data, self._metadata(seconds, mime))
            return await requester.request_response(payload, timeout=seconds)
        except StreamError as exc:
            exc.route = self.name
            raise

    def begin(self, data: bytes) -> SentCall | None:
        """Send a request with the connection's data type and time-out, if it can leave at once.

        The usual call, all of whose metadata is known beforehand, without a coroutine on the way:
        await `answer` of the result, and `cancel` the result when that is cancelled. None if
        anything is not as usual: there is no connection, its transport is full, the data is large,
        or a handler's deadline and trace have to be passed on. Then nothing was sent.
        """
        requester = self._session.requester
        if requester is None or CURRENT.get() is not None:
            return None
        return requester.begin_call(self._usual + data, self._timeout)

    async def fire_and_forget(
        self, data: bytes = b"", *, timeout: float | None = None, mime: str | None = None
    ) -> None:
        """Send one request that is never answered; return when it has left for the transport.

        The timeout bounds that only: no deadline travels, since nobody waits for the work.
        """
        try:
            requester, seconds = await self._ready(self._seconds(timeout))
            payload = Payload(data, self._metadata(None, mime))
            await requester.fire_and_forget(payload, timeout=seconds)
        except StreamError as exc:
            exc.route = self.name
            raise

    def request_stream(
        self,
        data: bytes = b"",
        *,
        timeout: float | None = None,
        idle_timeout: float | None = None,
        prefetch: int = DEFAULT_PREFETCH,
        limit: int | None = None,
        mime: str | None = None,
    ) -> ItemStream[Payload]:
        """Return the items that answer one request; it is sent when the first is asked for.

        Args:
            idle_timeout: seconds between two items, after which the stream is cancelled and
                `DeadlineExceeded` raised; None waits as long as the connection lives.
            prefetch: items asked for and not yet consumed, at most; topped up in halves.
            limit: items ever asked for; None asks for more as long as the consumer does.
        """

        async def begin() -> PayloadStream:
            requester, seconds = await self._ready(self._seconds(timeout))
            return requester.request_stream(
                Payload(data, self._metadata(seconds, mime)),
                prefetch=prefetch,
                limit=limit,
                timeout=seconds,
            )

        return ItemStream(begin, self.name, idle_timeout)

    def request_channel(
        self,
        items: AsyncIterable[bytes] | Iterable[bytes],
        *,
        timeout: float | None = None,
        idle_timeout: float | None = None,
        prefetch: int = DEFAULT_PREFETCH,
        limit: int | None = None,
        mime: str | None = None,
    ) -> ItemStream[Payload]:
        """Return the items that answer a stream of our own; arguments as for `request_stream`.

        The request carries the first of *items*, so it is sent once there is one; the timeout
        covers that too. Later ones are taken as the responder asks for them.
        """

        async def begin() -> PayloadStream:
            seconds = self._seconds(timeout)
            outgoing = Outgoing(items)
            try:
                began = self._loop.time()
                first = await outgoing.first(seconds)
                requester, seconds = await self._ready(seconds - (self._loop.time() - began))
                stream = requester.request_channel(
                    Payload(first, self._metadata(seconds, mime)),
                    outgoing,
                    prefetch=prefetch,
                    limit=limit,
                    timeout=seconds,
                )
                return await stream.__aenter__()  # from here on it closes what is outgoing
            except BaseException:
                await outgoing.aclose()
                raise

        return ItemStream(begin, self.name, idle_timeout)

    # -- inside ---------------------------------------------------------------------------------

    def _seconds(self, timeout: float | None) -> float:
        """The time this call has, with what the running handler has left, in seconds."""
        seconds = self._timeout if timeout is None else timeout
        call = CURRENT.get()
        if call is not None and call.deadline is not None:
            seconds = min(seconds, call.deadline - self._loop.time())
        if not seconds > 0:  # put so, that it refuses NaN too
            raise DeadlineExceeded("the deadline had passed already; nothing was sent")
        return min(seconds, MAX_SECONDS)

    async def _ready(self, seconds: float) -> tuple[Requester, float]:
        """The requester, once there is a connection, and what is left of *seconds* then."""
        requester = self._session.requester
        if requester is not None and requester.accepting:
            return requester, seconds
        began = self._loop.time()
        requester = await self._session.connected(seconds)
        return requester, max(0.001, seconds - (self._loop.time() - began))

    def _metadata(self, seconds: float | None, mime: str | None) -> bytes:
        metadata = self._entry
        if seconds is not None:
            metadata += deadline_entry(seconds)
        if mime is not None and mime != self._mime:
            metadata += mime_entry(mime)
        call = CURRENT.get()
        if call is not None and call.trace is not None:
            metadata += trace_entry(call.trace)
        return metadata


def check_seconds(name: str, seconds: float, most: float = math.inf) -> None:
    """Raise ValueError unless *seconds* is above 0 and not above *most*."""
    if not 0 < seconds <= most:
        raise ValueError(f"{name} is {seconds} s, must be above 0 and at most {most:g} s")
