"""Every model, codec and kind of value, in every way there is to call, through a real broker.

A way is a class with the four models, and a row of `WAYS`. Services are typed; what a codec cannot
carry is left out here as in the table of docs/codecs.md, and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any, ClassVar

import pytest
import reactivex
from reactivex import Observable
from reactivex import operators as ops
from rsocket.awaitable.awaitable_rsocket import AwaitableRSocket
from rsocket.extensions.helpers import composite, route
from rsocket.helpers import create_response
from rsocket.payload import Payload as TheirPayload
from rsocket.request_handler import BaseRequestHandler
from rsocket.streams.stream_from_generator import StreamFromGenerator

from rsocket_mesh import HandlerService, Mesh, MeshRSocket, Service, connect
from rsocket_mesh.codec import Codec, find_codec
from tests.rsocket_mesh.codec.test_table import comes_back
from tests.support.processes import broker_process
from tests.support.value_types import CASES
from tests.support.waiting import until

CODECS = tuple(map(find_codec, ("cbor", "json", "msgpack", "protobuf", "raw", "text")))
COUNT = 3  # items of a stream or channel


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with broker_process(listen=("tcp://127.0.0.1:0",)) as broker:
        yield broker.url("tcp")


def annotated(handler: Any, **hints: Any) -> Any:
    handler.__annotations__ = hints
    return handler


class Services:
    """For case 3 the methods `one3`, `many3`, `both3`, `note3`; they give back what they get."""

    def __init__(self) -> None:
        self.noted: dict[str, Any] = {}
        self.typed = Service("typed")
        self.observed = Service("observed")
        self.theirs = HandlerService("theirs", Echo)
        for index, case in enumerate(CASES):
            wanted = case.wanted
            for service in (self.typed, self.observed):
                self.add_plain(service, index, wanted)
            self.add_typed(index, wanted)
            self.add_observed(index, wanted)

    def add_plain(self, service: Service, index: int, wanted: Any) -> None:
        async def one(value: Any) -> Any:
            return value

        async def note(value: Any) -> None:
            self.noted[f"{service.name}.note{index}"] = value

        service.fire_and_forget(name=f"note{index}")(annotated(note, value=wanted))
        if service is self.typed:
            handler = annotated(one, value=wanted, **{"return": wanted})
            service.request_response(name=f"one{index}")(handler)

    def add_typed(self, index: int, wanted: Any) -> None:
        async def many(value: Any) -> AsyncIterator[Any]:
            for _ in range(COUNT):
                yield value

        async def both(values: AsyncIterator[Any]) -> AsyncIterator[Any]:
            async for value in values:
                yield value

        items = AsyncIterator[wanted]
        self.typed.request_stream(name=f"many{index}")(
            annotated(many, value=wanted, **{"return": items})
        )
        self.typed.request_channel(name=f"both{index}")(
            annotated(both, values=items, **{"return": items})
        )

    def add_observed(self, index: int, wanted: Any) -> None:
        def one(value: Any) -> Any:
            return reactivex.just(value)

        def many(value: Any) -> Any:
            return reactivex.just(value).pipe(ops.repeat(COUNT))

        def both(values: Any) -> Any:
            return values

        items = Observable[wanted]
        service = self.observed
        service.request_response(name=f"one{index}")(
            annotated(one, value=wanted, **{"return": items})
        )
        service.request_stream(name=f"many{index}")(
            annotated(many, value=wanted, **{"return": items})
        )
        service.request_channel(name=f"both{index}")(
            annotated(both, values=items, **{"return": items})
        )


class Echo(BaseRequestHandler):
    """The same with payloads, as rsocket-py has it; it keeps what it was told in `noted`."""

    noted: ClassVar[dict[str, bytes]] = {}

    async def request_response(self, payload: Any) -> Any:
        return create_response(payload.data)

    async def request_stream(self, payload: Any) -> Any:
        return StreamFromGenerator(
            lambda: ((TheirPayload(payload.data), n == COUNT) for n in range(1, COUNT + 1))
        )

    async def request_channel(self, payload: Any) -> Any:
        raise AssertionError("its channels are tested with subscribers of their own")

    async def request_fire_and_forget(self, payload: Any) -> None:
        item = self._parse_composite_metadata(payload.metadata).items[0]
        self.noted[item.tags[0].decode()] = payload.data


class ByName:
    """Calls by name; to services of ours, and to handlers of rsocket-py."""

    def __init__(self, mesh: Mesh, codec: Codec, service: str) -> None:
        self.handle = mesh.service(service).using(codec)

    async def response(self, method: str, value: Any, wanted: Any) -> Any:
        return await self.handle.request_response(method, value, returns=wanted)

    async def stream(self, method: str, value: Any, wanted: Any) -> list[Any]:
        async with self.handle.request_stream(method, value, returns=wanted) as items:
            return [item async for item in items]

    async def channel(self, method: str, value: Any, wanted: Any) -> list[Any]:
        items = self.handle.request_channel(method, [value] * COUNT, returns=wanted)
        async with items:
            return [item async for item in items]

    async def event(self, method: str, value: Any) -> None:
        await self.handle.fire_and_forget(method, value)


class Observing(ByName):
    """Calls that return Observables."""

    async def response(self, method: str, value: Any, wanted: Any) -> Any:
        return await self.handle.observe_response(method, value, returns=wanted)

    async def stream(self, method: str, value: Any, wanted: Any) -> list[Any]:
        stream = self.handle.observe_stream(method, value, returns=wanted)
        return list(await stream.pipe(ops.to_list()))

    async def channel(self, method: str, value: Any, wanted: Any) -> list[Any]:
        items = reactivex.just(value).pipe(ops.repeat(COUNT))
        channel = self.handle.observe_channel(method, items, returns=wanted)
        return list(await channel.pipe(ops.to_list()))


class Accepting(ByName):
    """Calls in one codec that are answered in another one."""

    def __init__(self, mesh: Mesh, codec: Codec, service: str) -> None:
        others = {"cbor": "json", "json": "cbor", "msgpack": "json"}
        self.handle = mesh.service(service).using(codec, accept=[others.get(codec.name, codec)])


class TheirClient:
    """Calls by the client interface of rsocket-py."""

    def __init__(self, mesh: Mesh, codec: Codec, service: str) -> None:
        self.client = AwaitableRSocket(MeshRSocket(mesh, data_encoding=codec.mime))
        self.codec = codec
        self.service = service

    def request(self, method: str, value: Any) -> Any:
        return TheirPayload(self.codec.encode(value), composite(route(f"{self.service}.{method}")))

    async def response(self, method: str, value: Any, wanted: Any) -> Any:
        answer = await self.client.request_response(self.request(method, value))
        return self.codec.decode(answer.data, wanted)

    async def stream(self, method: str, value: Any, wanted: Any) -> list[Any]:
        items = await self.client.request_stream(self.request(method, value), limit_rate=2)
        return [self.codec.decode(item.data, wanted) for item in items]

    async def channel(self, method: str, value: Any, wanted: Any) -> list[Any]:
        item = TheirPayload(self.codec.encode(value))
        # A request without data carries no item: then all of them come behind it.
        behind = COUNT if not item.data else COUNT - 1
        publisher = StreamFromGenerator(lambda: ((item, n == behind) for n in range(1, behind + 1)))
        items = await self.client.request_channel(self.request(method, value), publisher)
        return [self.codec.decode(item.data, wanted) for item in items]

    async def event(self, method: str, value: Any) -> None:
        await self.client.fire_and_forget(self.request(method, value))


WAYS = {
    "by name": (ByName, "typed"),
    "by name, Observables served": (ByName, "observed"),
    "reactivex": (Observing, "typed"),
    "reactivex, Observables served": (Observing, "observed"),
    "by name, answered as accepted": (Accepting, "typed"),
    "by name, rsocket-py served": (ByName, "theirs"),
    "rsocket-py": (TheirClient, "typed"),
    "rsocket-py, rsocket-py served": (TheirClient, "theirs"),
}


async def check(way: Any, services: Services, codec: Codec, service: str, index: int) -> None:
    case = CASES[index]
    value = case.make()
    assert await way.response(f"one{index}", value, case.wanted) == value
    assert await way.stream(f"many{index}", value, case.wanted) == [value] * COUNT
    await way.event(f"note{index}", value)
    noted = f"{service}.note{index}"
    if service == "theirs":
        await until(lambda: noted in Echo.noted)
        assert codec.decode(Echo.noted.pop(noted), case.wanted) == value
        return
    await until(lambda: noted in services.noted)
    assert services.noted.pop(noted) == value
    assert await way.channel(f"both{index}", value, case.wanted) == [value] * COUNT


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@pytest.mark.parametrize("name", WAYS)
async def test_every_value_comes_back_in_every_model(name: str, codec: Codec, url: str):
    kind, service = WAYS[name]
    services = Services()
    serving = [services.typed, services.observed, services.theirs]
    done = 0
    async with connect(url, serve=serving) as provider, connect(url) as mesh:
        way = kind(mesh, codec, service)
        for index, case in enumerate(CASES):
            if not comes_back(codec, case):
                continue
            try:
                async with asyncio.timeout(10):
                    await check(way, services, codec, service, index)
            except Exception as exc:
                raise AssertionError(f"{case.name} in {codec.name}, {name}") from exc
            done += 1
        assert provider.is_connected
    assert done >= {"protobuf": 2, "raw": 3, "text": 2}.get(codec.name, 25)
