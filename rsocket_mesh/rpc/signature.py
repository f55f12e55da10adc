"""A handler's signature, read once at decoration: the type hints are the schema.

What a handler takes decides how the data of a request is read: no parameter, nothing; one, the
value itself; several, an array with one element each. A parameter annotated `Call` gets the call's
context and is not part of the data. `Payload` stands for data and metadata as they came. A handler
of a channel takes one asynchronous iterator instead. What does not fit its model is refused here,
when the program starts, not when the first call arrives.
"""

from __future__ import annotations

import collections.abc as abc
import inspect
import sys
from collections.abc import Callable
from types import GenericAlias
from typing import Any, Final, NamedTuple, get_args, get_origin, get_type_hints

import msgspec

from rsocket_mesh.codec import Codec, DecodeError
from rsocket_mesh.codec.foreign import schema_of, union_of_models
from rsocket_mesh.protocol.announce import Model
from rsocket_mesh.protocol.payload import Payload
from rsocket_mesh.rpc.context import Call

Handler = Callable[..., Any]
Bind = Callable[[Payload, Call], tuple[Any, ...]]

_ASYNC: Final = (abc.AsyncIterator, abc.AsyncIterable, abc.AsyncGenerator)
_SYNC: Final = (abc.Iterator, abc.Iterable, abc.Generator)
_STREAMS: Final = frozenset({"request-stream", "request-channel"})
_POSITIONAL: Final = (
    inspect.Parameter.POSITIONAL_ONLY,
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
)


class Signature(NamedTuple):
    """How to call one handler.

    Attributes:
        arguments: the types of the parameters that the data fills, in order.
        required: how many of them have no default.
        call_at: where among all parameters the `Call` goes; None if it isn't wanted.
        result: the type of the answer, or of one item of the answer.
        incoming: the type of one item that comes in; None unless the handler is a channel's.
        threaded: the handler blocks, so it must run outside of the loop.
        awaited: calling the handler gives an awaitable (of an iterator, for streams).
    """

    arguments: tuple[Any, ...]
    required: int
    call_at: int | None
    result: Any
    incoming: Any
    threaded: bool
    awaited: bool

    def binder(self, codec: Codec) -> Bind:
        """Return the function from a request's payload to the handler's arguments.

        It raises `DecodeError` naming the place when the data does not fit.
        """
        at = self.call_at
        if at is None and len(self.arguments) == 1 and self.required:  # most: one call less
            if self.arguments[0] is Payload:
                return lambda payload, _call: (payload,)
            decode = codec.decoder(self.arguments[0])
            return lambda payload, _call: (decode(payload.data),)
        fill = self._filler(codec)
        if at is None:
            return lambda payload, _call: fill(payload)

        def bind(payload: Payload, call: Call) -> tuple[Any, ...]:
            values = fill(payload)
            return (*values[:at], call, *values[at:])

        return bind

    def _filler(self, codec: Codec) -> Callable[[Payload], tuple[Any, ...]]:
        if not self.arguments:
            return lambda _payload: ()
        if len(self.arguments) == 1:
            if self.arguments[0] is Payload:
                return lambda payload: (payload,)
            decode = codec.decoder(self.arguments[0])
            if self.required:
                return lambda payload: (decode(payload.data),)
            return lambda payload: (decode(payload.data),) if payload.data else ()
        least, most = self.required, len(self.arguments)
        by_count = {
            count: codec.decoder(GenericAlias(tuple, self.arguments[:count]))
            for count in range(least, most + 1)
        }
        count_only = codec.decoder(list[Any])
        exact = by_count[most]

        def fill(payload: Payload) -> tuple[Any, ...]:
            if least == most:
                try:
                    return exact(payload.data)  # type: ignore[no-any-return]  # a tuple by its decoder
                except DecodeError:
                    pass  # perhaps only the count is wrong: then say so
            count = len(count_only(payload.data)) if payload.data else 0
            if not least <= count <= most:
                wanted = str(most) if least == most else f"{least} to {most}"
                raise DecodeError(f"$: expected {wanted} arguments, got {count}")
            return by_count[count](payload.data) if payload.data else ()

        return fill

    @property
    def input_schema(self) -> Any:
        """JSON Schema of the data of a request, or None where the types have none."""
        if self.incoming is not None:
            return _schema(self.incoming)
        if not self.arguments:
            return None
        if len(self.arguments) == 1:
            return _schema(self.arguments[0])
        return _schema(GenericAlias(tuple, self.arguments))

    @property
    def output_schema(self) -> Any:
        """JSON Schema of an answer, or None where the type has none."""
        return _schema(self.result)


def _schema(wanted: Any) -> Any:
    if wanted is Any or wanted is Payload:
        return None
    try:
        return msgspec.json.schema(wanted, schema_hook=schema_of)
    except TypeError:  # a type that only the handler's own code understands
        return None


def read_signature(handler: Handler, model: Model, where: str) -> Signature:
    """Return the signature of *handler*, which is to serve *model*; *where* is for messages.

    Raises:
        TypeError: the handler can't serve the model, or a hint can't be resolved or decoded to;
            the text says what to write instead.
    """
    hints = resolve_hints(handler, where)
    arguments: list[Any] = []
    required = 0
    call_at: int | None = None
    for parameter in inspect.signature(handler).parameters.values():
        if parameter.kind not in _POSITIONAL:
            raise TypeError(
                f"{where}: parameter {parameter} cannot travel; arguments are positional, so use "
                "plain parameters (or one dataclass)"
            )
        hint = hints.get(parameter.name, Any)
        if hint is Call:
            if call_at is not None:
                raise TypeError(f"{where}: takes Call twice; once is enough")
            call_at = len(arguments)
            continue
        arguments.append(hint)
        required += parameter.default is parameter.empty
    if call_at is not None and required < len(arguments):
        raise TypeError(f"{where}: a handler that takes Call cannot have parameters with defaults")
    if len(arguments) > 1 and Payload in arguments:
        raise TypeError(f"{where}: Payload is the whole request, so it must be the only parameter")
    result, threaded, awaited = _result(handler, model, hints.get("return", Any), where)
    incoming: Any = None
    if model == "request-channel":
        incoming = _incoming(arguments, where)
        arguments, required = [], 0
    for wanted in (*arguments, incoming):
        _check_type(wanted, where)
    return Signature(tuple(arguments), required, call_at, result, incoming, threaded, awaited)


def _check_type(wanted: Any, where: str) -> None:
    if wanted is None or wanted is Payload:
        return
    try:
        if union_of_models(wanted) is None:
            msgspec.msgpack.Decoder(wanted)
    except TypeError as exc:
        raise TypeError(f"{where}: nothing can be decoded to {wanted}: {exc}") from exc
    except NameError:
        pass  # a class that names another one, which the module defines further down


def resolve_hints(handler: Handler, where: str) -> dict[str, Any]:
    """Return the type hints of *handler*, also those that are names of a function around it.

    Raises:
        TypeError: one of them can't be resolved.
    """
    target = handler if inspect.isroutine(handler) else type(handler).__call__
    try:
        return get_type_hints(target, include_extras=True)
    except NameError:
        pass
    # Types that were defined inside a function, next to the handler, as tests do.
    local: dict[str, Any] = {}
    frame = sys._getframe(1)  # noqa: SLF001  # the one way to the names around a decorator
    while frame.f_back is not None:
        frame = frame.f_back
        local = {**frame.f_locals, **local}
    try:
        return get_type_hints(target, localns=local, include_extras=True)
    except NameError as exc:
        raise TypeError(f"{where}: a type hint cannot be resolved: {exc}") from exc


def _item(hint: Any, kinds: tuple[Any, ...]) -> Any:
    """Return T of `AsyncIterator[T]` and its like; None if *hint* is none of *kinds*."""
    origin = get_origin(hint) or hint
    if origin not in kinds:
        return None
    item = (*get_args(hint), Any)[0]
    return type(None) if item is None else item


def _result(handler: Handler, model: Model, hint: Any, where: str) -> tuple[Any, bool, bool]:
    """Return (type of the answer or item, threaded, awaited)."""
    call = handler if inspect.isroutine(handler) else getattr(handler, "__call__", handler)  # noqa: B004  # its kind, not whether it can be called
    is_coroutine = inspect.iscoroutinefunction(call)
    is_async_generator = inspect.isasyncgenfunction(call)
    is_generator = inspect.isgeneratorfunction(call)
    if model not in _STREAMS:
        if is_async_generator or is_generator:
            raise TypeError(f"{where}: yields, so it must be a request_stream, not {model}")
        return hint, not is_coroutine, True
    item = _item(hint, _ASYNC)
    if is_async_generator or (item is not None and not is_generator):
        return Any if item is None else item, False, is_coroutine
    if model == "request-channel":
        raise TypeError(f"{where}: a channel's handler must be an async generator function")
    item = _item(hint, _SYNC)
    if not is_coroutine and (is_generator or item is not None):
        return Any if item is None else item, True, False
    raise TypeError(
        f"{where}: a stream's handler must yield its items (async def with yield), or be annotated "
        "to return an AsyncIterator"
    )


def _incoming(arguments: list[Any], where: str) -> Any:
    item = _item(arguments[0], _ASYNC) if len(arguments) == 1 else None
    if item is None and arguments != [Any]:
        raise TypeError(
            f"{where}: a channel's handler takes one parameter, an AsyncIterator of what comes in "
            f"(and a Call, if it wants), not {len(arguments)}"
        )
    return Any if item is None else item
