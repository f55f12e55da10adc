"""What handlers may look like, and what is said of those that don't fit."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from rsocket_mesh import Call, Payload, Service
from rsocket_mesh.codec import DecodeError, find_codec
from rsocket_mesh.rpc.signature import read_signature

CBOR = find_codec("cbor")
CALL = Call(b"\x03s.m", b"", None, None, None)


@dataclass
class Order:
    sku: int
    quantity: int


def bind(handler: Callable[..., Any], *arguments: object, model: Any = "request-response") -> Any:
    """The arguments that *handler* would get for a call with *arguments*."""
    signature = read_signature(handler, model, "s.m")
    if len(arguments) == 1:
        data = CBOR.encode(arguments[0])
    else:
        data = CBOR.encode(list(arguments)) if arguments else b""
    return signature.binder(CBOR)(Payload(data), CALL)


async def nothing() -> None: ...
async def one(order: Order) -> int: ...  # type: ignore[empty-body]  # only its signature counts
async def untyped(value): ...  # type: ignore[no-untyped-def]  # that is what it is about
async def two(order: Order, count: int) -> None: ...
async def defaults(a: int, b: int = 2, c: int = 3) -> None: ...
async def optional(a: int = 1) -> None: ...
async def with_call(call: Call, order: Order) -> None: ...
async def call_last(a: int, b: int, call: Call) -> None: ...
async def raw(payload: Payload) -> Payload: ...  # type: ignore[empty-body]  # only its signature counts


def test_the_parameters_decide_how_the_data_is_read():
    assert bind(nothing) == ()
    assert bind(nothing, "ignored") == ()
    assert bind(one, Order(1, 2)) == (Order(1, 2),)
    assert bind(untyped, {"a": 1}) == ({"a": 1},)
    assert bind(two, Order(1, 2), 3) == (Order(1, 2), 3)
    assert bind(raw, 1) == (Payload(b"\x01"),)


def test_parameters_with_defaults_may_stay_away():
    assert bind(defaults, 1, 5) == (1, 5)
    assert bind(defaults, 1, 5, 6) == (1, 5, 6)
    assert bind(optional) == ()
    assert bind(optional, 4) == (4,)


def test_the_call_is_put_where_the_handler_wants_it():
    assert bind(with_call, Order(1, 2)) == (CALL, Order(1, 2))
    assert bind(call_last, 1, 2) == (1, 2, CALL)


@pytest.mark.parametrize(
    ("handler", "arguments", "text"),
    [
        (one, ({"sku": 1, "quantity": "x"},), "$.quantity: expected int, got str"),
        (two, ({"sku": "x", "quantity": 1}, 3), "$[0].sku: expected int, got str"),
        (two, (Order(1, 2), 3, 4), "expected 2 arguments, got 3"),
        (two, (), "expected 2 arguments, got 0"),
        (two, (5,), "$: expected array, got int"),
        (defaults, (1, "x"), "$[1]: expected int, got str"),
        (defaults, (1, 2, 3, 4), "expected 1 to 3 arguments, got 4"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_with_their_place(
    handler: Callable[..., Any], arguments: tuple[object, ...], text: str
):
    with pytest.raises(DecodeError) as caught:
        bind(handler, *arguments)
    assert text in str(caught.value)


def test_bound_methods_and_callable_objects_serve_too():
    class Shop:
        async def total(self, order: Order) -> int:
            return order.quantity

        async def __call__(self, a: int) -> int:
            return a

    assert bind(Shop().total, Order(1, 2)) == (Order(1, 2),)
    signature = read_signature(Shop(), "request-response", "s.m")
    assert signature.arguments == (int,)
    assert not signature.threaded


def test_types_defined_beside_the_handler_in_a_function_are_found():
    @dataclass
    class Local:
        a: int

    async def handler(value: Local) -> Local:
        return value

    assert read_signature(handler, "request-response", "s.m").arguments == (Local,)


def test_a_hint_that_is_nowhere_is_named():
    async def handler(value: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821 - that is the point

    with pytest.raises(TypeError, match=r"s\.m: a type hint cannot be resolved.*Nowhere"):
        read_signature(handler, "request-response", "s.m")


async def generator(n: int) -> AsyncIterator[int]:
    yield n


async def bare_generator():  # type: ignore[no-untyped-def]  # that is what it is about
    yield 1


def sync_generator(n: int) -> Iterator[int]:
    yield n


def returns_iterator(n: int) -> AsyncGenerator[int, None]:
    return generator(n)  # type: ignore[return-value]  # it is one


async def returns_later(n: int) -> AsyncIterator[int]:
    return generator(n)


async def channel(items: AsyncIterator[int]) -> AsyncIterator[str]:
    async for _ in items:
        yield "x"


async def channel_with_call(call: Call, items: AsyncIterator[int]) -> AsyncIterator[str]:
    yield "x"


def test_the_item_types_of_streams_and_channels_are_read():
    def item(handler: Callable[..., Any], model: Any = "request-stream") -> Any:
        signature = read_signature(handler, model, "s.m")
        return signature.result, signature.threaded, signature.awaited

    assert item(generator) == (int, False, False)
    assert item(bare_generator) == (Any, False, False)
    assert item(sync_generator) == (int, True, False)
    assert item(returns_iterator) == (int, False, False)
    assert item(returns_later) == (int, False, True)
    assert item(channel, "request-channel") == (str, False, False)
    assert read_signature(channel, "request-channel", "s.m").incoming is int
    assert read_signature(channel_with_call, "request-channel", "s.m").call_at == 0


async def test_items_may_be_none():
    async def ticks(beats: AsyncIterator[None]) -> AsyncIterator[None]:
        async for beat in beats:
            yield beat

    signature = read_signature(ticks, "request-channel", "s.m")
    assert signature.incoming is signature.result is type(None)


def no_hint(n):  # type: ignore[no-untyped-def]  # that is what it is about
    return n


async def keyword_only(*, a: int) -> None: ...
async def variadic(*numbers: int) -> None: ...
async def twice(a: Call, b: Call) -> None: ...
async def call_and_default(call: Call, a: int = 1) -> None: ...
async def payload_and_more(payload: Payload, a: int) -> None: ...
async def undecodable(a: list[int] | set[int]) -> None: ...
async def not_a_stream(n: int) -> int: ...  # type: ignore[empty-body]  # only its signature counts


async def channel_of_two(items: AsyncIterator[int], more: int) -> AsyncIterator[int]:
    yield 1


async def channel_of_int(items: int) -> AsyncIterator[int]:
    yield 1


def sync_channel(items: AsyncIterator[int]) -> Iterator[int]:
    yield 1


async def test_a_type_may_name_one_that_the_module_defines_further_down():
    @dataclass
    class Cart:
        lines: list[Line]

    async def total(cart: Cart) -> int:
        return 0

    assert read_signature(total, "request-response", "s.m").arguments == (Cart,)

    @dataclass
    class Line:
        sku: int


@pytest.mark.parametrize(
    ("model", "handler", "text"),
    [
        ("request-response", generator, "must be a request_stream"),
        ("fire-and-forget", sync_generator, "must be a request_stream"),
        ("request-response", keyword_only, "cannot travel"),
        ("request-response", variadic, "cannot travel"),
        ("request-response", twice, "takes Call twice"),
        ("request-response", call_and_default, "cannot have parameters with defaults"),
        ("request-response", payload_and_more, "must be the only parameter"),
        ("request-response", undecodable, "nothing can be decoded to"),
        ("request-stream", not_a_stream, "must yield its items"),
        ("request-stream", no_hint, "must yield its items"),
        ("request-channel", channel_of_two, "takes one parameter"),
        ("request-channel", channel_of_int, "takes one parameter"),
        ("request-channel", sync_channel, "must be an async generator"),
    ],
)
def test_a_wrong_signature_fails_when_it_is_decorated(
    model: Any, handler: Callable[..., Any], text: str
):
    service = Service("s")
    decorate = getattr(service, model.replace("-", "_"))
    with pytest.raises(TypeError, match=text) as caught:
        decorate(handler)
    assert f"s.{handler.__name__}" in str(caught.value)
    assert not service.methods
