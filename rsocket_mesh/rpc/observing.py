"""Where Observables meet services: `observe_*` of a handle, and handlers that return or take them.

reactivex is imported at the first use, by the program or here, so that who does not use it does not
pay for it. A handler with Observables in its signature becomes one with asynchronous iterators
here, before its signature is read: nothing behind this module knows of them.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable
from types import GenericAlias
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, overload

from rsocket_mesh.protocol.announce import Model
from rsocket_mesh.rpc.overflow import Demand, OverflowPolicy
from rsocket_mesh.rpc.route import DEFAULT_PREFETCH
from rsocket_mesh.rpc.signature import Handler, resolve_hints

if TYPE_CHECKING:
    from reactivex import Observable, abc

    from rsocket_mesh.rpc.client import ServiceHandle

T = TypeVar("T")


class Observing:
    """The calls of a handle whose answers are Observables.

    Each subscription is a call of its own, made on the running loop; disposing it cancels the
    remote work. `on_error` gets what the call without `observe_` raises. Keywords that are not
    explained here are those of that call, and see `observables.observe` for `overflow`, `demand`
    and `scheduler`. Nothing is sent before there is a subscriber.
    """

    __slots__ = ()

    @overload
    def observe_response(
        self, method: str, /, *arguments: object, returns: type[T], **options: Any
    ) -> Observable[T]: ...
    @overload
    def observe_response(
        self, method: str, /, *arguments: object, returns: Any = Any, **options: Any
    ) -> Observable[Any]: ...
    def observe_response(
        self: Any, method: str, /, *arguments: object, returns: Any = Any, **options: Any
    ) -> Observable[Any]:
        """Return the Observable of the one answer to a method; see `request_response`."""
        from rsocket_mesh.rpc.observables import observe  # reactivex is loaded at the first use

        handle: ServiceHandle = self

        async def answer() -> AsyncIterator[Any]:
            yield await handle.request_response(method, *arguments, returns=returns, **options)

        return observe(answer)

    @overload
    def observe_stream(
        self,
        method: str,
        /,
        *arguments: object,
        returns: type[T],
        overflow: OverflowPolicy = ...,
        demand: Demand | None = None,
        scheduler: abc.SchedulerBase | None = None,
        prefetch: int = DEFAULT_PREFETCH,
        **options: Any,
    ) -> Observable[T]: ...
    @overload
    def observe_stream(
        self,
        method: str,
        /,
        *arguments: object,
        returns: Any = Any,
        overflow: OverflowPolicy = ...,
        demand: Demand | None = None,
        scheduler: abc.SchedulerBase | None = None,
        prefetch: int = DEFAULT_PREFETCH,
        **options: Any,
    ) -> Observable[Any]: ...
    def observe_stream(
        self: Any,
        method: str,
        /,
        *arguments: object,
        returns: Any = Any,
        overflow: OverflowPolicy = "buffer",
        demand: Demand | None = None,
        scheduler: abc.SchedulerBase | None = None,
        prefetch: int = DEFAULT_PREFETCH,
        **options: Any,
    ) -> Observable[Any]:
        """Return the Observable of the items that answer a method; see `request_stream`.

        Args:
            overflow: `buffer(n)` is the same as `prefetch=n`: the provider is paused.
        """
        from rsocket_mesh.rpc.observables import observe

        handle: ServiceHandle = self
        if not isinstance(overflow, str) and overflow.pauses:
            prefetch = overflow.size

        def begin() -> AsyncIterator[Any]:
            return handle.request_stream(
                method, *arguments, returns=returns, prefetch=prefetch, **options
            )

        return observe(begin, overflow=overflow, demand=demand, scheduler=scheduler)

    @overload
    def observe_channel(
        self,
        method: str,
        items: Observable[Any] | AsyncIterable[object] | Iterable[object],
        /,
        *,
        returns: type[T],
        overflow: OverflowPolicy = ...,
        demand: Demand | None = None,
        scheduler: abc.SchedulerBase | None = None,
        prefetch: int = DEFAULT_PREFETCH,
        **options: Any,
    ) -> Observable[T]: ...
    @overload
    def observe_channel(
        self,
        method: str,
        items: Observable[Any] | AsyncIterable[object] | Iterable[object],
        /,
        *,
        returns: Any = Any,
        overflow: OverflowPolicy = ...,
        demand: Demand | None = None,
        scheduler: abc.SchedulerBase | None = None,
        prefetch: int = DEFAULT_PREFETCH,
        **options: Any,
    ) -> Observable[Any]: ...
    def observe_channel(
        self: Any,
        method: str,
        items: Any,
        /,
        *,
        returns: Any = Any,
        overflow: OverflowPolicy = "buffer",
        demand: Demand | None = None,
        scheduler: abc.SchedulerBase | None = None,
        prefetch: int = DEFAULT_PREFETCH,
        **options: Any,
    ) -> Observable[Any]:
        """Return the Observable of the items that come back; see `request_channel`.

        Args:
            items: an Observable (see `on_overflow` for what is held of it), or any iterable.
            overflow: as for `observe_stream`.
        """
        from reactivex import Observable

        from rsocket_mesh.rpc.observables import ObservableItems, observe

        handle: ServiceHandle = self
        if not isinstance(overflow, str) and overflow.pauses:
            prefetch = overflow.size

        def begin() -> AsyncIterator[Any]:
            outgoing = ObservableItems(items) if isinstance(items, Observable) else items
            return handle.request_channel(
                method, outgoing, returns=returns, prefetch=prefetch, **options
            )

        return observe(begin, overflow=overflow, demand=demand, scheduler=scheduler)


# -- handlers -------------------------------------------------------------------------------------


def without_observables(handler: Handler, model: Model, where: str) -> Handler:
    """Return *handler*, or one that does the same with iterators if it has to do with Observables.

    Raises:
        TypeError: an Observable is where its model has none; the text says what to write instead.
    """
    if "reactivex" not in sys.modules:  # then there is no class to annotate with
        return handler
    hints = resolve_hints(handler, where)
    if not any(map(_is_observable, hints.values())):
        return handler
    signature = inspect.signature(handler)
    taken: list[int] = []
    parameters = []
    for index, parameter in enumerate(signature.parameters.values()):
        hint = hints.get(parameter.name, Any)
        if _is_observable(hint):
            if model != "request-channel":
                raise TypeError(f"{where}: only the handler of a channel takes an Observable")
            taken.append(index)
            hint = _iterator_of(hint)
        parameters.append(parameter.replace(annotation=hint))
    result = hints.get("return", Any)
    returns = _is_observable(result)
    if returns and model == "fire-and-forget":
        raise TypeError(f"{where}: nobody waits for the Observable of a fire-and-forget")
    if returns:
        result = _item_of(result) if model == "request-response" else _iterator_of(result)
    wrapper = _wrapped(handler, taken, returns, model)
    wrapper.__signature__ = signature.replace(parameters=parameters, return_annotation=result)  # type: ignore[attr-defined]  # read by `inspect`
    wrapper.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": result}
    return wrapper


def _is_observable(hint: Any) -> bool:
    kind = get_origin(hint) or hint
    return isinstance(kind, type) and issubclass(kind, sys.modules["reactivex"].Observable)


def _item_of(hint: Any) -> Any:
    return (*get_args(hint), Any)[0]


def _iterator_of(hint: Any) -> Any:
    return GenericAlias(AsyncIterator, (_item_of(hint),))


def _same(items: AsyncIterator[Any]) -> AsyncIterator[Any]:
    return items


def _wrapped(handler: Handler, taken: list[int], returns: bool, model: Model) -> Callable[..., Any]:
    from rsocket_mesh.rpc.observables import ObservableItems, observe

    def call(arguments: tuple[Any, ...]) -> Any:
        given = list(arguments)
        for index in taken:
            given[index] = observe(functools.partial(_same, given[index]))
        return handler(*given)

    async def first(*arguments: Any) -> Any:
        result = call(arguments)  # an Observable can be awaited, too
        items = ObservableItems(await result if inspect.iscoroutine(result) else result)
        try:
            return await anext(items, None)
        finally:
            await items.aclose()

    async def awaited(*arguments: Any) -> Any:
        result = await call(arguments)
        return ObservableItems(result) if returns else result

    def direct(*arguments: Any) -> Any:
        result = call(arguments)
        return ObservableItems(result) if returns else result

    if model == "request-response":
        kind: Callable[..., Any] = first
    else:
        kind = awaited if inspect.iscoroutinefunction(handler) else direct
    return functools.wraps(handler)(kind)
