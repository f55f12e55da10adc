"""What a caller holds of a stream: the items that come in, and the items that go out.

`peer` counts credit and keeps items; here they get their type, and a request is sent only when the
consumer begins, because that may have to wait for a connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar, cast

from rsocket_mesh.codec import DecodeError
from rsocket_mesh.errors import ConnectionClosed, DeadlineExceeded, StreamError
from rsocket_mesh.protocol.payload import Payload

if TYPE_CHECKING:
    from rsocket_mesh.peer import PayloadStream

T = TypeVar("T")
U = TypeVar("U")

_END: Final = object()


class ItemStream(Generic[T]):
    """Items of a stream or channel: an `async with` block, and in it an async iterator.

    Nothing is sent before the block is entered (or the first item asked for). A slow body asks for
    less. Leaving the block sends CANCEL unless the stream has ended. Iterating without a block
    works too, but then a loop that is left early holds its prefetch until `aclose`. A stream that
    could not begin (no connection, cancelled) does not begin again: call again for another one.
    Iterating raises what `Route` lists, behind the items that came before it.
    """

    __slots__ = (
        "_begin",
        "_beginning",
        "_closed",
        "_decode",
        "_idle_timeout",
        "_items",
        "_route",
        "_seen_one",
        "_whole",
    )

    def __init__(
        self,
        begin: Callable[[], Awaitable[PayloadStream]],
        route: str,
        idle_timeout: float | None,
        decode: Callable[[Any], T] | None = None,
        whole: bool = False,
    ) -> None:
        self._begin = begin
        self._decode = decode
        self._whole = whole
        self._route = route
        self._idle_timeout = idle_timeout
        self._items: PayloadStream | None = None
        self._seen_one = False
        self._beginning = False
        self._closed = False

    def decoded(self, decode: Callable[[Any], U], *, whole: bool = False) -> ItemStream[U]:
        """Return the same stream, not yet begun, with *decode* applied to each item's data, or to
        the *whole* payload."""
        return ItemStream(self._begin, self._route, self._idle_timeout, decode, whole)

    async def __aenter__(self) -> Self:
        await self._started()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        try:
            items = self._items or await self._started()
            if self._idle_timeout is None or not self._seen_one:
                payload = await anext(items)
                self._seen_one = True
            else:
                payload = await self._next_in_time(items, self._idle_timeout)
        except StreamError as exc:
            exc.route = self._route
            raise
        if self._decode is None:
            return cast(T, payload)  # without a decoder, T is Payload
        try:
            return self._decode(payload if self._whole else payload.data)
        except DecodeError as exc:
            await self.aclose()
            raise DecodeError(f"an item of {self._route}: {exc}") from exc

    async def aclose(self) -> None:
        """End the stream: CANCEL is sent unless it has ended. Idempotent, waits for nothing."""
        self._closed = True
        if self._items is not None:
            await self._items.aclose()

    async def _started(self) -> PayloadStream:
        if self._items is None:
            self._check_open()
            if self._beginning:
                raise RuntimeError("another task already waits for this stream to begin")
            self._beginning = True
            try:
                items = await self._begin()
                try:
                    self._check_open()  # it may have been closed while it waited
                except ConnectionClosed:
                    await items.aclose()
                    raise
                self._items = items
                await items.__aenter__()
            except StreamError as exc:
                exc.route = self._route
                raise
            finally:
                self._beginning = False
                self._closed |= self._items is None  # what went out of a channel is gone
        return self._items

    def _check_open(self) -> None:
        if self._closed:
            raise ConnectionClosed(
                "this stream never began: it was closed, or its beginning failed; call again",
                "closed-here",
            )

    async def _next_in_time(self, items: PayloadStream, seconds: float) -> Payload:
        try:
            async with asyncio.timeout(seconds) as waiting:
                return await anext(items)
        except TimeoutError:
            if not waiting.expired():  # the responder's, or the channel's own items'
                raise
            await self.aclose()
            raise DeadlineExceeded(f"no item for {seconds:g} s; CANCEL was sent") from None


class Outgoing:
    """The caller's half of a channel: any iterable of data, its first item taken ahead.

    A first payload without data is no item, on both sides: it stands for "none yet". So an empty
    first item, and the empty first payload of no items at all, are told apart.
    """

    def __init__(self, items: AsyncIterable[bytes] | Iterable[bytes]) -> None:
        if isinstance(items, AsyncIterable):
            self._iterator = aiter(items)
        else:
            self._iterator = _iterate(items)
        self._has_empty_first = False
        self._ended = False

    async def first(self, seconds: float) -> bytes:
        """Return the data of the request: the first item, or nothing.

        Raises:
            DeadlineExceeded: the iterable gave none within *seconds*; nothing was sent.
        """
        try:
            async with asyncio.timeout(seconds) as waiting:
                first = await anext(self._iterator, _END)
        except TimeoutError as exc:
            if not waiting.expired():  # the iterable's own
                raise
            raise DeadlineExceeded(
                f"the channel's own first item did not come within {seconds:g} s"
            ) from exc
        self._ended = first is _END
        if self._ended:
            return b""
        self._has_empty_first = not first
        return cast(bytes, first)

    # Not a generator: one that was never advanced would not close what it iterates over.
    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Payload:
        """Return what is behind the first item."""
        if self._has_empty_first:
            self._has_empty_first = False
            return Payload()
        if self._ended:
            raise StopAsyncIteration
        return Payload(await anext(self._iterator))

    async def aclose(self) -> None:
        """Close the iterable, if it can be closed."""
        close: Any = getattr(self._iterator, "aclose", None)
        if close is not None:
            await close()


async def _iterate(items: Iterable[bytes]) -> AsyncIterator[bytes]:
    for item in items:
        yield item
