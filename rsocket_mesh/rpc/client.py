"""The caller's side with types: a handle on one service, whose methods are called by name.

Values go through a codec; routes, deadlines and streams are `route`'s.
"""

# ruff: noqa: ASYNC109 - a timeout is part of a call's contract: it bounds the answer, not the await

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from typing import Any, Final, TypeVar, overload

from rsocket_mesh.codec import Codec, DecodeError, find_codec
from rsocket_mesh.errors import StreamError
from rsocket_mesh.rpc.accepting import Codecs, accept_entry, answer_decoder
from rsocket_mesh.rpc.observing import Observing
from rsocket_mesh.rpc.route import DEFAULT_PREFETCH, Route
from rsocket_mesh.rpc.streams import ItemStream

MAX_ROUTES: Final = 1024  # methods per handle whose route is kept; few services have more

T = TypeVar("T")


class ServiceHandle(Observing):
    """Calls to one service; made by `Mesh.service`, kept and shared freely.

    Every call takes the method's name and its arguments: none sends no data, one is sent as it is,
    several as an array. Keywords:
        returns: the type of the answer (or item); without it the answer is what the codec gives.
        timeout: seconds to the answer (of a stream or channel: to the first item); None means the
            connection's default. Inside a handler the incoming call's deadline counts too.
        codec: `cbor`, `json`, `raw`, a MIME type or a codec; None means the connection's.

    All calls raise, besides what `Route` lists:
        Invalid: an argument does not fit the handler's signature; the text names the place.
        NoRoute: nobody serves the method, or none that the selectors allow.
        ApplicationError: the handler raised; the text is its type and message.
        DecodeError: the answer does not fit `returns`; the work was done.
        EncodeError: an argument has no form in the codec; nothing was sent.
    If cancelled: the remote work is cancelled too.
    """

    __slots__ = ("_accepts", "_codec", "_make_route", "_routes", "name")

    def __init__(
        self,
        name: str,
        make_route: Callable[[str, bytes], Route],
        codec: Codec,
        accepts: bytes | None = None,
    ) -> None:
        self.name = name
        self._make_route = make_route
        self._codec = codec
        self._accepts = accepts  # None: this handle uses what the connection does
        self._routes: dict[str, Route] = {}

    def __repr__(self) -> str:
        return f"<ServiceHandle {self.name}>"

    def using(self, codec: str | Codec | None = None, *, accept: Codecs = ()) -> ServiceHandle:
        """Return a handle on the same service whose calls use other codecs; nothing is sent.

        Args:
            codec: of what is sent, unless a call says otherwise; None leaves it as it is.
            accept: what answers may be in, the best liked first. The first one that the method
                has is used; if it has none of them, the answer is in the type of its request.
        Raises:
            ValueError: there is no such codec.
        """
        used = self._codec if codec is None else find_codec(codec)
        return ServiceHandle(self.name, self._make_route, used, accept_entry(accept))

    @overload
    async def request_response(
        self,
        method: str,
        /,
        *arguments: object,
        returns: type[T],
        timeout: float | None = None,
        codec: str | Codec | None = None,
    ) -> T: ...
    @overload
    async def request_response(
        self,
        method: str,
        /,
        *arguments: object,
        returns: Any = Any,
        timeout: float | None = None,
        codec: str | Codec | None = None,
    ) -> Any: ...
    async def request_response(
        self,
        method: str,
        /,
        *arguments: object,
        returns: Any = Any,
        timeout: float | None = None,
        codec: str | Codec | None = None,
    ) -> Any:
        """Call a method and return its one answer."""
        used = self._codec if codec is None else find_codec(codec)
        route = self._routes.get(method) or self._route(method)
        if self._accepts is not None:
            return await _accepting(route, used, arguments, returns, timeout)
        decode = used.decoder(returns)
        data = used.encode(arguments[0]) if len(arguments) == 1 else _encode(used, arguments)
        call = route.begin(data) if timeout is None and codec is None else None
        if call is None:
            answer = await route.request_response(data, timeout=timeout, mime=used.mime)
            data = answer.data
        else:
            # Awaited here and not by `route`: a coroutine less in each turn.
            try:
                data = await call.answer
            except asyncio.CancelledError:
                call.cancel()
                raise
            except StreamError as exc:
                exc.route = route.name
                raise
        try:
            return decode(data)
        except DecodeError as exc:
            raise DecodeError(f"the answer of {route.name}: {exc}") from exc

    async def fire_and_forget(
        self,
        method: str,
        /,
        *arguments: object,
        timeout: float | None = None,
        codec: str | Codec | None = None,
    ) -> None:
        """Call a method that never answers; return when the request has left.

        Nobody learns whether it arrived. The timeout bounds the wait for a connection.
        """
        used = self._codec if codec is None else find_codec(codec)
        await self._route(method).fire_and_forget(
            _encode(used, arguments), timeout=timeout, mime=used.mime
        )

    @overload
    def request_stream(
        self,
        method: str,
        /,
        *arguments: object,
        returns: type[T],
        prefetch: int = DEFAULT_PREFETCH,
        limit: int | None = None,
        timeout: float | None = None,
        idle_timeout: float | None = None,
        codec: str | Codec | None = None,
    ) -> ItemStream[T]: ...
    @overload
    def request_stream(
        self,
        method: str,
        /,
        *arguments: object,
        returns: Any = Any,
        prefetch: int = DEFAULT_PREFETCH,
        limit: int | None = None,
        timeout: float | None = None,
        idle_timeout: float | None = None,
        codec: str | Codec | None = None,
    ) -> ItemStream[Any]: ...
    def request_stream(
        self,
        method: str,
        /,
        *arguments: object,
        returns: Any = Any,
        prefetch: int = DEFAULT_PREFETCH,
        limit: int | None = None,
        timeout: float | None = None,
        idle_timeout: float | None = None,
        codec: str | Codec | None = None,
    ) -> ItemStream[Any]:
        """Call a method that answers with many items; use the result in `async with`.

        Args:
            prefetch: items asked for and not yet consumed, at most.
            limit: exactly how many items are ever asked for; None means all.
            idle_timeout: seconds between two items; None waits as long as the connection lives.
        """
        used = self._codec if codec is None else find_codec(codec)
        route = self._route(method)
        return route.request_stream(
            _encode(used, arguments),
            timeout=timeout,
            idle_timeout=idle_timeout,
            prefetch=prefetch,
            limit=limit,
            mime=used.mime,
        ).decoded(self._item_decoder(used, returns), whole=bool(self._accepts))

    @overload
    def request_channel(
        self,
        method: str,
        items: AsyncIterable[object] | Iterable[object],
        /,
        *,
        returns: type[T],
        prefetch: int = DEFAULT_PREFETCH,
        limit: int | None = None,
        timeout: float | None = None,
        idle_timeout: float | None = None,
        codec: str | Codec | None = None,
    ) -> ItemStream[T]: ...
    @overload
    def request_channel(
        self,
        method: str,
        items: AsyncIterable[object] | Iterable[object],
        /,
        *,
        returns: Any = Any,
        prefetch: int = DEFAULT_PREFETCH,
        limit: int | None = None,
        timeout: float | None = None,
        idle_timeout: float | None = None,
        codec: str | Codec | None = None,
    ) -> ItemStream[Any]: ...
    def request_channel(
        self,
        method: str,
        items: AsyncIterable[object] | Iterable[object],
        /,
        *,
        returns: Any = Any,
        prefetch: int = DEFAULT_PREFETCH,
        limit: int | None = None,
        timeout: float | None = None,
        idle_timeout: float | None = None,
        codec: str | Codec | None = None,
    ) -> ItemStream[Any]:
        """Call a method with many items in and out; arguments as for `request_stream`.

        The request carries the first of *items*, so it is sent once there is one, and the timeout
        covers that too. Later ones are taken as the handler asks for them. When *items* raises,
        the channel ends on both sides with that error.
        """
        used = self._codec if codec is None else find_codec(codec)
        route = self._route(method)
        return route.request_channel(
            _encoded(used, items),
            timeout=timeout,
            idle_timeout=idle_timeout,
            prefetch=prefetch,
            limit=limit,
            mime=used.mime,
        ).decoded(self._item_decoder(used, returns), whole=bool(self._accepts))

    def _item_decoder(self, codec: Codec, returns: Any) -> Callable[[Any], Any]:
        return answer_decoder(codec, returns) if self._accepts else codec.decoder(returns)

    def _route(self, method: str) -> Route:
        route = self._routes.get(method)
        if route is None:
            if len(self._routes) >= MAX_ROUTES:
                self._routes.clear()
            route = self._routes[method] = self._make_route(
                f"{self.name}.{method}", self._accepts or b""
            )
        return route


async def _accepting(
    route: Route, codec: Codec, arguments: tuple[object, ...], returns: Any, timeout: float | None
) -> Any:
    """A request-response whose answer may be in another type than its request."""
    decode = answer_decoder(codec, returns)
    answer = await route.request_response(
        _encode(codec, arguments), timeout=timeout, mime=codec.mime
    )
    try:
        return decode(answer)
    except DecodeError as exc:
        raise DecodeError(f"the answer of {route.name}: {exc}") from exc


def _encode(codec: Codec, arguments: tuple[object, ...]) -> bytes:
    if len(arguments) == 1:
        return codec.encode(arguments[0])
    return codec.encode(arguments) if arguments else b""


async def _encoded(
    codec: Codec, items: AsyncIterable[object] | Iterable[object]
) -> AsyncIterator[bytes]:
    encode = codec.encode
    try:
        if isinstance(items, AsyncIterable):
            async for item in items:
                yield encode(item)
        else:
            for item in items:
                yield encode(item)
    finally:
        close = getattr(items, "aclose", None)
        if close is not None:
            await close()
