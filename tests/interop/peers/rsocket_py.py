"""rsocket-py as a caller or a service, driven by lines of JSON (see tests/interop/driving.py).

    rsocket_py.py caller URL composite|routing|none [FRAGMENT_BYTES]
    rsocket_py.py leased URL            the same with composite metadata, asking for leases
    rsocket_py.py service URL NAME

Written as users of rsocket-py write, with the library's own client, transports and metadata
helpers, so that what is tested is that library and not our idea of it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from reactivestreams.publisher import Publisher
from reactivestreams.subscriber import DefaultSubscriber, Subscriber
from reactivestreams.subscription import Subscription
from rsocket.error_codes import ErrorCode
from rsocket.exceptions import RSocketProtocolError
from rsocket.extensions.composite_metadata import CompositeMetadata
from rsocket.extensions.helpers import composite, metadata_item, route
from rsocket.extensions.mimetypes import WellKnownMimeTypes
from rsocket.extensions.routing import RoutingMetadata
from rsocket.frame import MAX_REQUEST_N
from rsocket.helpers import create_future, create_response, single_transport_provider
from rsocket.payload import Payload
from rsocket.request_handler import BaseRequestHandler
from rsocket.rsocket_client import RSocketClient
from rsocket.streams.stream_from_async_generator import StreamFromAsyncGenerator
from rsocket.streams.stream_from_generator import StreamFromGenerator
from rsocket.transports.aiohttp_websocket import TransportAioHttpClient
from rsocket.transports.tcp import TransportTCP

ANNOUNCEMENT = b"message/x.rsocket-mesh.announce.v1+json"
METADATA_TYPES = {
    "composite": WellKnownMimeTypes.MESSAGE_RSOCKET_COMPOSITE_METADATA,
    "routing": WellKnownMimeTypes.MESSAGE_RSOCKET_ROUTING,
    "none": WellKnownMimeTypes.APPLICATION_JSON,
}


def say(**message: Any) -> None:
    print(json.dumps(message), flush=True)


async def commands() -> AsyncIterator[dict[str, Any]]:
    reader = asyncio.StreamReader(limit=2**26)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        yield json.loads(line)


def text(payload: Payload) -> str:
    return bytes(payload.data or b"").decode()


def describe(error: BaseException) -> dict[str, Any]:
    if isinstance(error, RSocketProtocolError):
        return {"code": int(error.error_code), "text": error.data or ""}
    if type(error) is RuntimeError:  # how this library shows APPLICATION_ERROR
        return {"code": 0x201, "text": str(error)}
    return {"code": 0, "text": repr(error)}


@asynccontextmanager
async def connected(
    url: str,
    metadata: str,
    handler: BaseRequestHandler,
    *,
    setup: Payload | None = None,
    fragment: int | None = None,
    leases: bool = False,
) -> AsyncIterator[RSocketClient]:
    parts = urlsplit(url)
    if parts.scheme == "tcp":
        transport = TransportTCP(*await asyncio.open_connection(parts.hostname, parts.port))
    else:
        transport = TransportAioHttpClient(url)
    async with RSocketClient(
        single_transport_provider(transport),
        handler_factory=lambda: handler,
        data_encoding=WellKnownMimeTypes.APPLICATION_OCTET_STREAM,
        metadata_encoding=METADATA_TYPES[metadata],
        setup_payload=setup,
        fragment_size_bytes=fragment,
        honor_lease=leases,
    ) as client:
        yield client


class Talkative(BaseRequestHandler):
    """Says how the connection fares."""

    async def on_error(self, error_code: ErrorCode, payload: Payload) -> None:
        say(connection_error=int(error_code), text=text(payload))

    async def on_close(self, rsocket: Any, exception: Exception | None = None) -> None:
        say(closed=repr(exception))


# -- caller ---------------------------------------------------------------------------------------


class Items(DefaultSubscriber):
    """Collects what one stream brings; `wanted` says how many items to wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.items: list[str] = []
        self.ended = False
        self.error: dict[str, Any] | None = None
        self._changed = asyncio.Event()

    def on_next(self, value: Payload, is_complete: bool = False) -> None:
        self.items.append(text(value))
        self.ended = self.ended or is_complete
        self._changed.set()

    def on_complete(self) -> None:
        self.ended = True
        self._changed.set()

    def on_error(self, exception: Exception) -> None:
        self.ended = True
        self.error = describe(exception)
        self._changed.set()

    async def wanted(self, count: int) -> None:
        while not self.ended and len(self.items) < count:
            self._changed.clear()
            await self._changed.wait()

    def report(self) -> dict[str, Any]:
        return {"items": self.items, "ended": self.ended, "error": self.error}


class Caller(Talkative):
    def __init__(self, metadata: str) -> None:
        self.metadata = metadata
        self.streams: dict[int, Items] = {}
        self.client: RSocketClient | None = None

    def payload(self, command: dict[str, Any]) -> Payload:
        data = command.get("data", "").encode()
        if self.metadata == "none":
            return Payload(data)
        routing = route(*command["tags"])
        if self.metadata == "routing":
            return Payload(data, routing.serialize())
        return Payload(data, composite(routing))

    async def answer(self, command: dict[str, Any]) -> None:
        try:
            result = await getattr(self, "do_" + command["do"])(command)
        except Exception as error:
            result = {"error": describe(error)}
        say(id=command["id"], **result)

    async def do_response(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self.client is not None
        return {"data": text(await self.client.request_response(self.payload(command)))}

    async def do_fire(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self.client is not None
        await self.client.fire_and_forget(self.payload(command))
        return {}

    async def do_push(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self.client is not None
        entry = metadata_item(command["data"].encode(), command["mime"].encode())
        await self.client.metadata_push(composite(entry))
        return {}

    async def do_stream(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self.client is not None
        return await self._open(command, self.client.request_stream(self.payload(command)))

    async def do_channel(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self.client is not None
        items = command["items"]
        sent = [(Payload(item.encode()), n == len(items)) for n, item in enumerate(items, 1)]
        source = StreamFromGenerator(lambda: iter(sent)) if sent else None
        return await self._open(command, self.client.request_channel(self.payload(command), source))

    async def _open(self, command: dict[str, Any], stream: Any) -> dict[str, Any]:
        credit = command["credit"]
        items = self.streams[command["id"]] = Items()
        stream.initial_request_n(credit or MAX_REQUEST_N).subscribe(items)
        await items.wanted(credit or MAX_REQUEST_N)
        return items.report()

    async def do_more(self, command: dict[str, Any]) -> dict[str, Any]:
        items = self.streams[command["of"]]
        expected = len(items.items) + command["credit"]
        assert items.subscription is not None
        items.subscription.request(command["credit"])
        await items.wanted(expected)
        return items.report()

    async def do_cancel(self, command: dict[str, Any]) -> dict[str, Any]:
        items = self.streams[command["of"]]
        assert items.subscription is not None
        items.subscription.cancel()
        return items.report()

    async def do_seen(self, command: dict[str, Any]) -> dict[str, Any]:
        return self.streams[command["of"]].report()


async def caller(
    url: str, metadata: str, fragment: str | None = None, leases: bool = False
) -> None:
    handler = Caller(metadata)
    size = int(fragment) if fragment else None
    async with connected(url, metadata, handler, fragment=size, leases=leases) as client:
        handler.client = client
        say(ready=True)
        tasks = set()
        async for command in commands():
            task = asyncio.create_task(handler.answer(command))
            tasks.add(task)
            task.add_done_callback(tasks.discard)


async def leased(url: str) -> None:
    await caller(url, "composite", leases=True)


# -- service --------------------------------------------------------------------------------------


class Relay(StreamFromAsyncGenerator, DefaultSubscriber):
    """A channel's both halves: what comes in goes out, and is asked for one by one."""

    def __init__(self, first: Payload) -> None:
        StreamFromAsyncGenerator.__init__(self, self._outgoing)
        self._incoming: asyncio.Queue[Payload | None] = asyncio.Queue()
        self._incoming.put_nowait(first)
        self._upstream: Subscription | None = None

    async def _outgoing(self) -> AsyncIterator[tuple[Payload, bool]]:
        assert self._upstream is not None
        while (payload := await self._incoming.get()) is not None:
            self._upstream.request(1)
            yield Payload(payload.data), False

    def on_subscribe(self, subscription: Subscription) -> None:
        self._upstream = subscription

    def on_next(self, value: Payload, is_complete: bool = False) -> None:
        self._incoming.put_nowait(value)
        if is_complete:
            self.on_complete()

    def on_complete(self) -> None:
        self._incoming.put_nowait(None)

    def on_error(self, exception: Exception) -> None:
        self.on_complete()


class Numbers(StreamFromGenerator):
    """Counts, and keeps count of what it makes; with *blanks*, even numbers are left empty."""

    def __init__(self, service: Service, total: int, *, blanks: bool) -> None:
        super().__init__(self._generate, on_cancel=self._count_cancel)
        self._service = service
        self._total = total
        self._blanks = blanks

    def _generate(self) -> Iterator[tuple[Payload, bool]]:
        for number in range(1, self._total + 1):
            self._service.counters["yielded"] += 1
            data = b"" if self._blanks and number % 2 == 0 else str(number).encode()
            yield Payload(data), number == self._total

    def _count_cancel(self) -> None:
        self._service.counters["cancelled"] += 1


class Service(Talkative):
    def __init__(self) -> None:
        self.counters: dict[str, Any] = {
            "yielded": 0,
            "cancelled": 0,
            "fired": [],
            "pushed": [],
        }

    async def on_metadata_push(self, payload: Payload) -> None:
        for item in parse(payload.metadata).items:
            self.counters["pushed"].append(bytes(item.content).decode())

    async def request_fire_and_forget(self, payload: Payload) -> None:
        if method_of(payload) == "fail":
            raise RuntimeError(text(payload))
        self.counters["fired"].append(text(payload))

    async def request_response(self, payload: Payload) -> Awaitable[Payload]:
        match method_of(payload):
            case "fail":
                raise RuntimeError(text(payload))
            case "reject":
                raise RSocketProtocolError(ErrorCode.REJECTED, data=text(payload))
            case "never":
                return create_future()
            case "stats":
                return create_response(json.dumps(self.counters).encode())
            case _:
                return create_response(payload.data)

    async def request_stream(self, payload: Payload) -> Publisher:
        return Numbers(self, int(text(payload)), blanks=method_of(payload) == "blanks")

    async def request_channel(self, payload: Payload) -> tuple[Publisher, Subscriber]:
        relay = Relay(payload)
        return relay, relay


def parse(metadata: bytes | None) -> CompositeMetadata:
    return CompositeMetadata().parse(metadata or b"")


def method_of(payload: Payload) -> str:
    for item in parse(payload.metadata).items:
        if isinstance(item, RoutingMetadata):
            return str(item.tags[0].decode()).rpartition(".")[2]
    return ""


async def service(url: str, name: str) -> None:
    announcement = {"app": "rsocket-py", "services": [{"name": name}]}
    setup = Payload(b"", composite(metadata_item(json.dumps(announcement).encode(), ANNOUNCEMENT)))
    async with connected(url, "composite", Service(), setup=setup) as client:
        # There is no answer to SETUP: a call to ourselves comes back only when we are registered.
        await client.request_response(Payload(b"ready", composite(route(f"{name}.echo"))))
        say(ready=True)
        async for command in commands():
            say(id=command["id"])


if __name__ == "__main__":
    roles = {"caller": caller, "leased": leased, "service": service}
    asyncio.run(roles[sys.argv[1]](*sys.argv[2:]))
