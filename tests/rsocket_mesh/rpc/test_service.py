"""Services as descriptions: names, what is announced."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from rsocket_mesh import Service
from rsocket_mesh.protocol.announce import Announcement, decode_announcement, encode_announcement


@dataclass
class Order:
    sku: int


def test_the_announcement_says_model_description_schemas_and_mime_types():
    service = Service("orders", "1.4.0", weight=50, tags={"zone": "eu"}, description="Orders.")

    @service.request_response(idempotent=True)
    async def total(order: Order) -> int:
        """Sum it up."""
        return 1

    @service.request_stream(name="all")
    async def everything() -> AsyncIterator[Order]:
        yield Order(1)

    @service.fire_and_forget
    async def note(text: str, count: int) -> None: ...

    announced = decode_announcement(
        encode_announcement(Announcement("shop", services=(service.info(),)))
    ).services[0]
    assert (announced.name, announced.version, announced.weight) == ("orders", "1.4.0", 50)
    assert announced.tags == {"zone": "eu"}
    assert announced.methods is not None
    methods = announced.methods
    assert list(methods) == ["total", "all", "note"]
    assert methods["total"].model == "request-response"
    assert methods["total"].idempotent
    assert methods["total"].description == "Sum it up."
    assert methods["total"].input["$defs"]["Order"]["properties"] == {"sku": {"type": "integer"}}
    assert methods["total"].output == {"type": "integer"}
    assert methods["total"].mime == (
        "application/cbor",
        "application/json",
        "application/msgpack",
    )
    assert methods["all"].input is None
    assert methods["all"].output["$ref"].endswith("Order")
    assert [item["type"] for item in methods["note"].input["prefixItems"]] == ["string", "integer"]
    assert methods["note"].output is None


def test_the_decorated_function_is_still_the_function():
    service = Service("s")

    @service.request_response
    async def one() -> int:
        return 1

    assert service.methods["one"].handler is one


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("bad name",), r"Service\.name: 'bad name'"),
        (("mesh.x",), "belongs to the broker"),
        (("s", "one"), r"Service\.version: 'one' is not a version"),
    ],
)
def test_a_bad_service_is_refused_at_once(arguments: Any, text: str):
    with pytest.raises(ValueError, match=text):
        Service(*arguments)


def test_a_bad_or_double_method_name_is_refused():
    service = Service("s")

    async def one() -> None: ...

    service.request_response(one)
    with pytest.raises(ValueError, match=r"s\.one is there already"):
        service.request_response(one)
    with pytest.raises(ValueError, match="last dot"):
        service.request_response(name="a.b")(one)
    with pytest.raises(ValueError, match="must be parts of"):
        service.request_response(name="a b")(one)
    with pytest.raises(TypeError, match="options are given by keyword"):
        service.request_response("one")  # type: ignore[type-var]  # that is the mistake


def test_a_push_handler_must_take_the_bytes():
    service = Service("s")
    with pytest.raises(TypeError, match="async def with one parameter"):
        service.metadata_push(lambda: None)

    @service.metadata_push
    async def pushed(metadata: bytes) -> None: ...

    with pytest.raises(ValueError, match="there is one already"):
        service.metadata_push(pushed)
