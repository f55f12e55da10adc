"""Code written for rsocket-py, through the mesh: handlers served, its client interface on top."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from reactivestreams.publisher import Publisher
from reactivestreams.subscriber import DefaultSubscriber, Subscriber
from reactivestreams.subscription import Subscription
from reactivex import operators as ops
from rsocket.awaitable.awaitable_rsocket import AwaitableRSocket
from rsocket.error_codes import ErrorCode
from rsocket.exceptions import RSocketProtocolError
from rsocket.extensions.helpers import composite, route
from rsocket.extensions.mimetypes import WellKnownMimeTypes
from rsocket.helpers import create_response
from rsocket.payload import Payload as TheirPayload
from rsocket.reactivex.reactivex_client import ReactiveXClient
from rsocket.request_handler import BaseRequestHandler
from rsocket.routing.request_router import RequestRouter
from rsocket.routing.routing_request_handler import RoutingRequestHandler
from rsocket.streams.stream_from_async_generator import StreamFromAsyncGenerator
from rsocket.streams.stream_from_generator import StreamFromGenerator

from rsocket_mesh import (
    ApplicationError,
    Call,
    Invalid,
    NoRoute,
    Payload,
    Service,
    SlowConsumer,
    connect,
)
from rsocket_mesh.codec import find_codec
from rsocket_mesh.protocol.metadata import DATA_MIME_TYPE, decode_mime, find_entry
from rsocket_mesh.rpc.metadata import trace_entry
from rsocket_mesh.rpc.rsocket_py import HandlerService, MeshRSocket
from tests.support.small_server import SmallServer, request_metadata
from tests.support.waiting import settled, until

MILLION = 1_000_000


class Numbers:
    """A router as its users write them, and what happened to it."""

    def __init__(self) -> None:
        self.router = RequestRouter()
        self.events: list[object] = []
        self.pulled = 0
        self.gate = asyncio.Event()
        self.incoming: list[bytes] = []
        self.subscription: Any = None
        self.add_responses(self.router)
        self.add_streams(self.router)

    def add_responses(self, router: RequestRouter) -> None:
        @router.response("shop.echo")
        async def echo(payload: TheirPayload) -> Any:
            return create_response(payload.data, payload.metadata)

        @router.response("wait")
        async def wait() -> Any:
            try:
                await self.gate.wait()
            except asyncio.CancelledError:
                self.events.append("cancelled")
                raise

        @router.response("shop.data")
        async def data() -> Any:
            return b"no payload"

        @router.response("shop.refuse")
        async def refuse() -> Any:
            raise RSocketProtocolError(ErrorCode.INVALID, data="not like that")

        @router.response("shop.fail")
        async def fail() -> Any:
            raise LookupError("no such thing")

        @router.fire_and_forget("shop.note")
        async def note(payload: TheirPayload) -> None:
            self.events.append(bytes(payload.data))

        @router.metadata_push("shop.pushed")
        async def pushed(payload: TheirPayload) -> None:
            self.events.append("pushed")

    def add_streams(self, router: RequestRouter) -> None:
        @router.stream("shop.count")
        async def count(payload: TheirPayload) -> Publisher:
            most = int(payload.data or b"0")

            async def numbers() -> AsyncIterator[tuple[TheirPayload, bool]]:
                for number in range(most):
                    self.pulled += 1
                    yield TheirPayload(str(number).encode()), number == most - 1

            return StreamFromAsyncGenerator(numbers, on_cancel=lambda: self.events.append("left"))

        @router.stream("unnamed.end")
        async def unnamed_end() -> Publisher:
            return StreamFromGenerator(lambda: iter([(TheirPayload(b"1"), False)]))

        @router.channel("shop.double")
        async def double(payload: TheirPayload) -> tuple[Publisher, Subscriber]:
            doubling = Doubling(self)
            doubling.put(payload.data)
            return doubling, doubling

        @router.channel("shop.collect")
        async def collect(payload: TheirPayload) -> tuple[None, Subscriber]:
            self.incoming.append(bytes(payload.data))
            return None, DefaultSubscriber(
                on_next=lambda value, _complete: self.incoming.append(value.data),
                on_subscribe=lambda subscription: setattr(self, "subscription", subscription),
                on_complete=lambda: self.events.append("complete"),
                on_error=self.events.append,
            )

    def service(self) -> HandlerService:
        return HandlerService("shop", lambda: RoutingRequestHandler(self.router), "1.2.0")


class Doubling(Publisher, Subscriber, Subscription):
    """Gives twice what it gets, an item for an item."""

    def __init__(self, numbers: Numbers) -> None:
        self.numbers = numbers
        self.queue: list[TheirPayload] = []
        self.wanted = 0
        self.done = False
        self.subscriber: Any = None
        self.upstream: Any = None

    def put(self, data: bytes) -> None:
        self.queue.append(TheirPayload(data * 2))

    def subscribe(self, subscriber: Any) -> None:
        self.subscriber = subscriber
        subscriber.on_subscribe(self)

    def request(self, n: int) -> None:
        self.wanted += n
        self.drain()

    def cancel(self) -> None:
        self.numbers.events.append("cancelled")

    def drain(self) -> None:
        while self.wanted and self.queue:
            self.wanted -= 1
            self.subscriber.on_next(self.queue.pop(0))
        if self.done and not self.queue:
            self.subscriber.on_complete()
        elif self.wanted and self.upstream is not None:
            self.upstream.request(1)

    def on_subscribe(self, subscription: Any) -> None:
        self.upstream = subscription

    def on_next(self, value: Any, is_complete: bool = False) -> None:
        self.numbers.pulled += 1
        self.put(value.data)
        self.drain()

    def on_error(self, exception: Exception) -> None:
        self.numbers.events.append(exception)

    def on_complete(self) -> None:
        self.done = True
        self.drain()


class Collected(Subscriber):
    """A subscriber that requests only what it is told to."""

    def __init__(self) -> None:
        self.items: list[bytes] = []
        self.error: Exception | None = None
        self.completed = False
        self.subscription: Any = None

    def on_subscribe(self, subscription: Any) -> None:
        self.subscription = subscription

    def on_next(self, value: Any, is_complete: bool = False) -> None:
        self.items.append(value.data)
        self.completed |= is_complete

    def on_error(self, exception: Exception) -> None:
        self.error = exception

    def on_complete(self) -> None:
        self.completed = True


def asking(name: str, data: bytes = b"") -> TheirPayload:
    """A request as users of rsocket-py write it."""
    return TheirPayload(data, composite(route(name)))


# -- their handlers, served ------------------------------------------------------------------------


async def test_a_router_is_served_as_it_is():
    numbers = Numbers()
    async with SmallServer(numbers.service()) as server, connect(server.url) as mesh:
        shop = mesh.service("shop")
        answer = await mesh.route("shop.echo").request_response(b"hello")
        assert answer.data == b"hello"
        assert await shop.request_response("echo", b"hello", codec="raw") == b"hello"

        async with shop.request_stream("count", b"100", returns=str, codec="text") as items:
            assert [item async for item in items] == list(map(str, range(100)))
        async with shop.request_channel("double", [b"a", b"b", b"c"], codec="raw") as items:
            assert [item async for item in items] == [b"aa", b"bb", b"cc"]
        await shop.fire_and_forget("note", b"noted", codec="raw")
        await until(lambda: b"noted" in numbers.events)
        # Data in a type that nobody here knows is the handler's own affair.
        answer = await mesh.route("shop.echo").request_response(b"x", mime="application/x-own")
        assert answer.data == b"x"


async def test_its_routes_are_announced_besides_the_methods_of_the_service():
    service = HandlerService(
        "shop", lambda: RoutingRequestHandler(Numbers().router), routes=["a.{id}"]
    )
    info = service.info()
    assert info.methods is None
    assert info.routes == ("wait", "unnamed.end", "a.{id}")
    for name in ("shop.anything", "wait", "unnamed.end", "a.17"):
        assert service.serves(name)
    for name in ("shop", "a.b.c", "a.", "waiting", "other.echo"):
        assert not service.serves(name)
    with pytest.raises(ValueError, match=r"Service.routes\[0\]: in 'a.x{id}' a wildcard"):
        HandlerService("shop", BaseRequestHandler, routes=["a.x{id}"])


async def test_routes_of_any_form_reach_the_router():
    numbers = Numbers()
    async with SmallServer(numbers.service()) as server, connect(server.url) as mesh:
        async with mesh.route("unnamed.end").request_stream() as items:
            assert [item.data async for item in items] == [b"1"]
        with pytest.raises(NoRoute, match="no service"):
            await mesh.route("other.end").request_response()
        with pytest.raises(NoRoute, match=r"no such route: 'shop.unknown'"):
            await mesh.route("shop.unknown").request_response()
        versions = mesh.service("shop", version="^1.0")
        assert await versions.request_response("echo", b"1", codec="raw") == b"1"
        with pytest.raises(NoRoute):
            await mesh.service("shop", version="^2.0").request_response("echo", b"1")


async def test_errors_of_a_handler_keep_their_kind():
    async with SmallServer(Numbers().service()) as server, connect(server.url) as mesh:
        shop = mesh.service("shop")
        with pytest.raises(Invalid, match="not like that"):
            await shop.request_response("refuse")
        with pytest.raises(ApplicationError, match="LookupError: no such thing"):
            await shop.request_response("fail")


async def test_a_handler_that_returns_no_payload_fails_at_once():
    class Careless(BaseRequestHandler):
        async def request_response(self, payload: Any) -> Any:
            return b"its data alone"

        async def request_stream(self, payload: Any) -> Any:
            return StreamFromGenerator(lambda: iter([(b"data", True)]))

    service = HandlerService("careless", Careless)
    async with SmallServer(service) as server, connect(server.url) as mesh:
        with pytest.raises(ApplicationError, match=r"needs a rsocket\.payload\.Payload, not bytes"):
            await mesh.service("careless").request_response("x")
        with pytest.raises(ApplicationError, match="not bytes"):
            await anext(mesh.route("careless.y").request_stream())
        with pytest.raises(ApplicationError, match="Not implemented"):
            await anext(mesh.route("careless.z").request_channel([b"1"]))


async def test_a_caller_that_leaves_cancels_the_handler():
    numbers = Numbers()
    async with SmallServer(numbers.service()) as server, connect(server.url) as mesh:
        call = asyncio.ensure_future(mesh.route("wait").request_response())
        await until(lambda: server.dispatcher.running)
        call.cancel()
        await until(lambda: numbers.events == ["cancelled"])


async def test_a_publisher_is_asked_for_what_the_consumer_asks_for_and_no_more():
    numbers = Numbers()
    async with SmallServer(numbers.service()) as server, connect(server.url) as mesh:
        stream = mesh.route("shop.count").request_stream(str(MILLION).encode(), prefetch=4)
        async with stream as items:
            await until(lambda: numbers.pulled == 4)
            for _ in range(20):
                await settled()
            assert numbers.pulled == 4
            assert [(await anext(items)).data for _ in range(4)] == [b"0", b"1", b"2", b"3"]
            await until(lambda: numbers.pulled == 8)
            await settled()
            assert numbers.pulled == 8
        await until(lambda: numbers.events == ["left"])


async def test_a_publisher_that_pushes_without_end_is_stopped():
    class Flood(Publisher, Subscription):
        cancelled = False

        def subscribe(self, subscriber: Any) -> None:
            self.subscriber = subscriber
            subscriber.on_subscribe(self)

        def request(self, n: int) -> None:
            for _ in range(5000):
                if not self.cancelled:
                    self.subscriber.on_next(TheirPayload(b"x"))

        def cancel(self) -> None:
            self.cancelled = True

    flood = Flood()

    class Handler(BaseRequestHandler):
        async def request_stream(self, payload: Any) -> Any:
            return flood

    service = HandlerService("flood", Handler)
    async with SmallServer(service) as server, connect(server.url) as mesh:
        got = 0
        try:
            async for _ in mesh.route("flood.x").request_stream():
                got += 1
        except SlowConsumer:
            pass
        assert got == 1024
        assert flood.cancelled


async def test_a_subscriber_gets_what_it_requests_also_behind_the_end_of_the_answers():
    numbers = Numbers()
    sent = 0

    async def items() -> AsyncIterator[bytes]:
        nonlocal sent
        for number in range(1000):
            sent += 1
            yield str(number).encode()

    async with SmallServer(numbers.service()) as server, connect(server.url) as mesh:
        stream = mesh.service("shop").request_channel("collect", items(), codec="raw")
        async with stream as answers:
            assert [item async for item in answers] == []  # there is no publisher
            await until(lambda: numbers.subscription is not None)
            for _ in range(20):
                await settled()
            assert numbers.incoming == [b"0"]  # the request
            assert sent <= 1 + 32 + 16
            numbers.subscription.request(4)
            await until(lambda: len(numbers.incoming) == 5)
            await settled()
            assert len(numbers.incoming) == 5
            numbers.subscription.request(MILLION)
            await until(lambda: numbers.events == ["complete"])
    assert numbers.incoming == [str(number).encode() for number in range(1000)]


async def test_a_subscriber_that_cancels_stops_the_callers_half():
    numbers = Numbers()
    closed = asyncio.Event()

    async def items() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"x"
        finally:
            closed.set()

    async with SmallServer(numbers.service()) as server, connect(server.url) as mesh:
        stream = mesh.service("shop").request_channel("collect", items(), codec="raw")
        async with stream as answers:
            assert [item async for item in answers] == []
            await until(lambda: numbers.subscription is not None)
            numbers.subscription.request(3)
            await until(lambda: len(numbers.incoming) == 4)
            numbers.subscription.cancel()
            async with asyncio.timeout(5):
                await closed.wait()


async def test_setup_is_told_once_and_pushes_arrive():
    numbers = Numbers()
    setups: list[tuple[bytes, bytes]] = []

    class Handler(RoutingRequestHandler):
        async def on_setup(self, data_encoding: Any, metadata_encoding: Any, payload: Any) -> None:
            setups.append((data_encoding, metadata_encoding))
            await super().on_setup(data_encoding, metadata_encoding, payload)

    service = HandlerService("shop", lambda: Handler(numbers.router), data_encoding="text/plain")
    async with SmallServer() as server, connect(server.url, serve=[service]):
        for _ in range(3):
            assert (await server.call("shop.echo", b"1")).data == b"1"
        server.peers[-1].requester.metadata_push(composite(route("shop.pushed")))
        await until(lambda: "pushed" in numbers.events)
    assert setups == [(b"text/plain", b"message/x.rsocket.composite-metadata.v0")]


# -- their client interface ------------------------------------------------------------------------


class Shop:
    """A service of ours, called by code for rsocket-py."""

    def __init__(self) -> None:
        self.service = Service("shop")
        self.pulled = 0
        self.closed = 0
        self.metadata: list[bytes] = []
        self.notes: list[bytes] = []
        for response in (self.echo, self.fail, self.refuse, self.never):
            self.service.request_response(response)
        self.service.request_stream(self.count)
        self.service.request_channel(self.double)
        self.service.fire_and_forget(self.note)

    async def echo(self, payload: Payload) -> Payload:
        self.metadata.append(payload.metadata or b"")
        return Payload(payload.data[::-1], b"of the answer")

    async def fail(self) -> None:
        raise LookupError("no such thing")

    async def refuse(self) -> None:
        raise Invalid("not like that")

    async def never(self) -> None:
        await asyncio.Event().wait()

    async def count(self, most: int) -> AsyncIterator[int]:
        try:
            for number in range(most):
                self.pulled += 1
                yield number
        finally:
            self.closed += 1

    async def double(self, items: AsyncIterator[int]) -> AsyncIterator[int]:
        async for item in items:
            self.pulled += 1
            yield 2 * item

    async def note(self, payload: Payload) -> None:
        self.notes.append(payload.data)


async def test_awaitable_and_reactivex_clients_work_on_top():
    shop = Shop()
    async with SmallServer(shop.service) as server, connect(server.url) as mesh:
        async with AwaitableRSocket(MeshRSocket(mesh)) as client:
            await client.connect()
            answer = await client.request_response(asking("shop.echo", b"abc"))
            assert (answer.data, answer.metadata) == (b"cba", b"of the answer")
            for rate in (1, 3, 1000):
                got = await client.request_stream(asking("shop.count", b"10"), limit_rate=rate)
                assert [item.data for item in got] == [str(n).encode() for n in range(10)]
            done = asyncio.Event()
            publisher = StreamFromGenerator(
                lambda: iter((TheirPayload(str(n).encode()), n == 5) for n in range(2, 6))
            )
            got = await client.request_channel(
                asking("shop.double", b"1"), publisher, limit_rate=2, sending_done=done
            )
            assert [item.data for item in got] == [b"2", b"4", b"6", b"8", b"10"]
            assert done.is_set()
            got = await client.request_channel(asking("shop.double", b"1"))
            assert [item.data for item in got] == [b"2"]
            await client.fire_and_forget(asking("shop.note", b"noted"))
            await client.metadata_push(composite(route("x.y")))
            await until(lambda: shop.notes == [b"noted"] and server.pushed)
            client.close()

        async with ReactiveXClient(MeshRSocket(mesh)) as rx:
            assert (await rx.request_response(asking("shop.echo", b"ab"))).data == b"ba"
            stream = rx.request_stream(asking("shop.count", b"10"), request_limit=2)
            assert len(await stream.pipe(ops.to_list())) == 10


async def test_request_is_request_n_one_to_one():
    shop = Shop()
    async with SmallServer(shop.service) as server, connect(server.url) as mesh:
        seen = Collected()
        publisher = MeshRSocket(mesh).request_stream(asking("shop.count", b"1000000"))
        publisher.initial_request_n(2).subscribe(seen)
        await until(lambda: len(seen.items) == 2)
        for wanted in (3, 1, 5):
            await settled()
            before = len(seen.items)
            assert shop.pulled == before
            seen.subscription.request(wanted)
            await until(lambda before=before, wanted=wanted: len(seen.items) == before + wanted)  # type: ignore[misc]
        await settled()
        assert shop.pulled == len(seen.items) == 11
        seen.subscription.cancel()
        await until(lambda: shop.closed == 1)
        assert seen.error is None
        assert not seen.completed
        for n in (0, -1, 2**31):
            with pytest.raises(ValueError, match=f"{n} items requested"):
                seen.subscription.request(n)
        with pytest.raises(RuntimeError, match="has had its subscriber"):
            publisher.subscribe(seen)


async def test_what_a_channel_sends_waits_for_the_service():
    numbers = Numbers()
    pulled = 0

    def items() -> Any:
        nonlocal pulled
        for number in range(MILLION):
            pulled += 1
            yield TheirPayload(str(number).encode()), False

    async with SmallServer(numbers.service()) as server, connect(server.url) as mesh:
        seen = Collected()
        publisher = StreamFromGenerator(items)
        rsocket = MeshRSocket(mesh)
        rsocket.request_channel(asking("shop.collect", b"first"), publisher).subscribe(seen)
        await until(lambda: numbers.subscription is not None)
        for _ in range(30):
            await settled()
        assert pulled <= 32 + 16
        assert seen.completed  # there is no publisher on the other side
        numbers.subscription.request(100)
        await until(lambda: len(numbers.incoming) == 101)
        for _ in range(30):
            await settled()
        assert pulled <= 100 + 32 + 16 + 1
        numbers.subscription.cancel()


async def test_errors_are_those_of_their_client_and_ours_are_their_cause():
    shop = Shop()
    async with SmallServer(shop.service) as server, connect(server.url) as mesh:
        rsocket = MeshRSocket(mesh, timeout=0.2)
        with pytest.raises(RuntimeError, match="LookupError: no such thing") as failed:
            await rsocket.request_response(asking("shop.fail"))
        assert isinstance(failed.value.__cause__, ApplicationError)
        with pytest.raises(RSocketProtocolError) as refused:
            await rsocket.request_response(asking("shop.refuse"))
        assert refused.value.error_code is ErrorCode.INVALID
        assert refused.value.data == "INVALID: not like that"
        with pytest.raises(RSocketProtocolError, match="DEADLINE_EXCEEDED"):
            await rsocket.request_response(asking("shop.never"))
        seen = Collected()
        rsocket.request_stream(asking("shop.unknown")).subscribe(seen)
        await until(lambda: seen.error is not None)
        assert isinstance(seen.error, RSocketProtocolError)
        assert seen.error.error_code is ErrorCode.REJECTED

        seen = Collected()
        rsocket.request_stream(asking("shop.count", b"1000000")).initial_request_n(1).subscribe(
            seen
        )
        await until(lambda: seen.items)
        await mesh.close()
        await until(lambda: seen.error is not None)
        assert isinstance(seen.error, RSocketProtocolError)
        assert seen.error.error_code is ErrorCode.CONNECTION_ERROR
        with pytest.raises(RSocketProtocolError, match="has closed its connection"):
            await rsocket.request_response(asking("shop.echo"))
    with pytest.raises(ValueError, match="timeout is 0 s"):
        MeshRSocket(mesh, timeout=0)


async def test_a_subscriber_that_raises_loses_its_stream_and_nobody_else():
    shop = Shop()

    class Broken(Collected):
        def on_next(self, value: Any, is_complete: bool = False) -> None:
            raise ZeroDivisionError

    async with SmallServer(shop.service) as server, connect(server.url) as mesh:
        rsocket = MeshRSocket(mesh)
        rsocket.request_stream(asking("shop.count", b"1000000")).subscribe(Broken())
        await until(lambda: shop.closed == 1)
        assert (await rsocket.request_response(asking("shop.echo", b"ab"))).data == b"ba"


@pytest.mark.parametrize(
    ("encoding", "mime"),
    [
        ("application/json", "application/json"),
        (WellKnownMimeTypes.TEXT_PLAIN, "text/plain"),
        (b"application/x-own", "application/x-own"),
    ],
)
async def test_the_data_type_is_the_one_that_the_client_was_made_with(encoding: Any, mime: str):
    metadata: list[bytes] = []

    class Handler(BaseRequestHandler):
        async def request_response(self, payload: Any) -> Any:
            metadata.append(payload.metadata)
            return create_response(payload.data)

    service = HandlerService("shop", Handler)
    async with SmallServer(service) as server, connect(server.url) as mesh:
        rsocket = MeshRSocket(mesh, data_encoding=encoding)
        await rsocket.request_response(asking("shop.echo", b"x"))
    entry = find_entry(metadata[0], DATA_MIME_TYPE)
    assert entry is not None
    assert decode_mime(entry) == mime


async def test_the_deadline_and_trace_of_a_handler_go_with_its_calls():
    inner = Service("inner")

    @inner.request_response
    async def remaining(call: Call) -> tuple[float | None, bytes | None]:
        return call.remaining(), call.trace

    front = Service("front")
    async with SmallServer(inner, front) as server, connect(server.url) as mesh:

        @front.request_response
        async def ask() -> bytes:
            answer = await MeshRSocket(mesh).request_response(asking("inner.remaining"))
            return bytes(answer.data)

        server.dispatcher.remove(front)
        server.dispatcher.add(front)  # now with its method
        request = Payload(b"", request_metadata("front.ask", deadline=0.9) + trace_entry(b"\x20"))
        requester = (await mesh.session.connected(1.0)).request_response
        answer = await requester(request, timeout=5.0)
        left, trace = find_codec("json").decode(find_codec("cbor").decode(answer.data))
    assert 0 < left <= 0.9
    assert trace == "IA=="  # in JSON, the data type of their client
