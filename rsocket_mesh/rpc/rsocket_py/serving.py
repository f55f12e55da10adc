"""A `RequestHandler` of rsocket-py as a service of the mesh, unchanged.

Differences to its own server, all of them for the better: each request is a task of its own, so a
handler that waits holds up nobody and is cancelled when its caller leaves; a handler that returns
what is no Payload fails the call at once.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rsocket.payload import Payload as TheirPayload

from rsocket_mesh.protocol.metadata import COMPOSITE
from rsocket_mesh.protocol.payload import Payload
from rsocket_mesh.rpc.rsocket_py.convert import error_to_ours, to_ours, to_theirs
from rsocket_mesh.rpc.rsocket_py.publishers import Feeding, PublisherItems
from rsocket_mesh.rpc.whole import WholeService


class HandlerService(WholeService):
    """Serves what a handler of rsocket-py serves: pass it to `connect(serve=...)`, or `run` it.

    Every route `name.*` reaches the handler, and besides those the routes of its router, if it has
    one, and *routes*. It gets the metadata as the caller sent it. `on_setup` is called before the
    first request, `on_metadata_push` for each METADATA_PUSH; the mesh has taken over connections,
    keepalive and errors of those, so `on_close` and its like are not called.

    Args:
        name, version, options: as for `Service`; a concurrency is worth setting.
        handler_factory: what is passed to their `RSocketServer`: returns the handler.
        routes: patterns for further routes that don't follow `service.method`.
        data_encoding: what `on_setup` is told of the data.
    Raises:
        ValueError: a name, version, number or route is no good; the text names it.
    """

    def __init__(
        self,
        name: str,
        handler_factory: Callable[[], Any],
        version: str = "0",
        *,
        routes: Sequence[str] = (),
        data_encoding: str = "application/json",
        **options: Any,
    ) -> None:
        self._handler = handler_factory()
        self._data_encoding = data_encoding.encode()
        self._is_set_up = False
        self._setting_up = asyncio.Lock()
        known = [route for route in _routes_of(self._handler) if route.rpartition(".")[0] != name]
        super().__init__(name, version, routes=[*dict.fromkeys([*known, *routes])], **options)
        self.push_handler = self._pushed

    async def whole_response(self, payload: Payload) -> Payload:
        """Return the answer of the handler's `request_response`."""
        await self._set_up()
        with _errors():
            answer = await self._handler.request_response(to_theirs(payload))
            if inspect.isawaitable(answer):
                answer = await answer
        return to_ours(answer)

    async def whole_event(self, payload: Payload) -> None:
        """Call the handler's `request_fire_and_forget`."""
        await self._set_up()
        await self._handler.request_fire_and_forget(to_theirs(payload))

    async def whole_stream(self, payload: Payload) -> AsyncIterator[Payload]:
        """Yield what the publisher of the handler's `request_stream` gives."""
        await self._set_up()
        with _errors():
            items = PublisherItems(await self._handler.request_stream(to_theirs(payload)))
            try:
                async for item in items:
                    yield item
            finally:
                await items.aclose()

    async def whole_channel(
        self, items: AsyncIterator[Payload], payload: Payload
    ) -> AsyncIterator[Payload]:
        """Yield what the publisher of the handler's `request_channel` gives; its subscriber gets
        what comes in, also behind the publisher's end."""
        await self._set_up()
        with _errors():
            publisher, subscriber = await self._handler.request_channel(to_theirs(payload))
            if payload.data:
                await anext(items)  # the request itself, which the handler has had
            if subscriber is None:
                await items.aclose()  # type: ignore[attr-defined]  # a generator
            else:
                Feeding(items, subscriber)
            if publisher is None:
                return
            ours = PublisherItems(publisher)
            try:
                async for item in ours:
                    yield item
            finally:
                await ours.aclose()

    async def _pushed(self, metadata: bytes) -> None:
        await self._set_up()
        await self._handler.on_metadata_push(TheirPayload(None, metadata))

    async def _set_up(self) -> None:
        """Call `on_setup`, once, as their server does before the first request."""
        if self._is_set_up:
            return
        async with self._setting_up:
            if not self._is_set_up:
                await self._handler.on_setup(
                    self._data_encoding, COMPOSITE.encode(), TheirPayload()
                )
                self._is_set_up = True


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except Exception as exc:
        error = error_to_ours(exc)
        if error is exc:
            raise
        raise error from exc


def _routes_of(handler: Any) -> list[str]:
    """The routes of a handler that has a router, of all models but METADATA_PUSH."""
    router = getattr(handler, "router", None)
    names = ("_response_routes", "_stream_routes", "_channel_routes", "_fnf_routes")
    return [route for name in names for route in getattr(router, name, ())]
