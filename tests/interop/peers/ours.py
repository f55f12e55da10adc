"""Our own library as a caller or a service, driven by lines of JSON (see tests/interop/driving.py).

    ours.py caller URL composite
    ours.py service URL NAME

Data are raw bytes, so that peers without our codecs can take part.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

from rsocket_mesh import ItemStream, Mesh, Payload, Rejected, Route, Service, StreamError, connect
from rsocket_mesh.protocol.metadata import decode_composite, encode_composite


def say(**message: Any) -> None:
    print(json.dumps(message), flush=True)


async def commands() -> AsyncIterator[dict[str, Any]]:
    reader = asyncio.StreamReader(limit=2**26)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        yield json.loads(line)


# -- caller ---------------------------------------------------------------------------------------


class Items:
    """One stream and what it has brought."""

    def __init__(self, stream: ItemStream[Payload]) -> None:
        self.stream = stream
        self.items: list[str] = []
        self.ended = False

    async def take(self, count: int | None) -> None:
        while count is None or len(self.items) < count:
            try:
                self.items.append((await anext(self.stream)).data.decode())
            except StopAsyncIteration:
                self.ended = True
                return

    def report(self) -> dict[str, Any]:
        return {"items": self.items, "ended": self.ended}


class Caller:
    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.streams: dict[int, Items] = {}

    async def answer(self, command: dict[str, Any]) -> None:
        try:
            result = await getattr(self, "do_" + command["do"])(command)
        except StreamError as error:
            code, text = error.to_wire()
            result = {"error": {"code": code, "text": text}}
        except Exception as error:
            result = {"error": {"code": 0, "text": repr(error)}}
        say(id=command["id"], **result)

    def route(self, command: dict[str, Any]) -> Route:
        route, *selectors = command["tags"]
        return self.mesh.route(route, **dict(tag.split("=", 1) for tag in selectors))

    async def do_response(self, command: dict[str, Any]) -> dict[str, Any]:
        answer = await self.route(command).request_response(command["data"].encode())
        return {"data": answer.data.decode()}

    async def do_fire(self, command: dict[str, Any]) -> dict[str, Any]:
        await self.route(command).fire_and_forget(command["data"].encode())
        return {}

    async def do_push(self, command: dict[str, Any]) -> dict[str, Any]:
        entry = (command["mime"], command["data"].encode())
        await self.mesh.metadata_push(encode_composite([entry]))
        return {}

    async def do_stream(self, command: dict[str, Any]) -> dict[str, Any]:
        data, credit = command["data"].encode(), command["credit"]
        return await self._open(command, self.route(command).request_stream(data, limit=credit))

    async def do_slow(self, command: dict[str, Any]) -> dict[str, Any]:
        """Take so many items of a stream with this prefetch, and then no more."""
        route, data = self.route(command), command["data"].encode()
        stream = route.request_stream(data, prefetch=command["prefetch"])
        return await self._open({**command, "credit": command["take"]}, stream)

    async def do_channel(self, command: dict[str, Any]) -> dict[str, Any]:
        items = [item.encode() for item in (command["data"], *command["items"])]
        credit = command["credit"]
        return await self._open(command, self.route(command).request_channel(items, limit=credit))

    async def _open(self, command: dict[str, Any], stream: ItemStream[Payload]) -> dict[str, Any]:
        items = self.streams[command["id"]] = Items(stream)
        await items.take(command["credit"])
        return items.report()

    async def do_seen(self, command: dict[str, Any]) -> dict[str, Any]:
        return self.streams[command["of"]].report()

    async def do_cancel(self, command: dict[str, Any]) -> dict[str, Any]:
        items = self.streams[command["of"]]
        await items.stream.aclose()
        return items.report()


async def caller(url: str, metadata: str) -> None:
    assert metadata == "composite", "our library always sends composite metadata"
    async with connect(url, app="ours", codec="raw") as mesh:
        peer = Caller(mesh)
        say(ready=True)
        tasks = set()
        async for command in commands():
            task = asyncio.create_task(peer.answer(command))
            tasks.add(task)
            task.add_done_callback(tasks.discard)


# -- service --------------------------------------------------------------------------------------


def make_service(name: str) -> Service:
    service = Service(name)
    counters: dict[str, Any] = {"yielded": 0, "cancelled": 0, "fired": [], "pushed": []}
    add_answers(service, counters)
    add_the_other_models(service, counters)
    return service


def add_answers(service: Service, counters: dict[str, Any]) -> None:
    @service.request_response
    async def echo(data: str) -> str:
        return data

    @service.request_response
    async def fail(data: str) -> str:
        raise RuntimeError(data)

    @service.request_response
    async def reject(data: str) -> str:
        raise Rejected(data)

    @service.request_response
    async def never() -> str:
        return await asyncio.get_running_loop().create_future()

    @service.request_response
    async def stats() -> str:
        return json.dumps(counters)


def add_the_other_models(service: Service, counters: dict[str, Any]) -> None:
    @service.request_stream
    async def count(data: str) -> AsyncIterator[str]:
        try:
            for number in range(1, int(data) + 1):
                counters["yielded"] += 1
                yield str(number)
        except BaseException:
            counters["cancelled"] += 1
            raise

    @service.fire_and_forget
    async def fire(data: str) -> None:
        counters["fired"].append(data)

    @service.request_channel
    async def relay(incoming: AsyncIterator[str]) -> AsyncIterator[str]:
        async for item in incoming:
            yield item

    @service.metadata_push
    async def pushed(metadata: bytes) -> None:
        counters["pushed"] += [entry.content.decode() for entry in decode_composite(metadata)]


async def service(url: str, name: str) -> None:
    async with connect(url, app="ours", serve=[make_service(name)], codec="raw"):
        say(ready=True)
        async for command in commands():
            say(id=command["id"])


if __name__ == "__main__":
    asyncio.run({"caller": caller, "service": service}[sys.argv[1]](*sys.argv[2:]))
