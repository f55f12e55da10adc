"""Calls by name over a real socket: all five models, with types, deadlines and errors."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest

from rsocket_mesh import (
    ApplicationError,
    Call,
    ConnectionClosed,
    DeadlineExceeded,
    DecodeError,
    EncodeError,
    Invalid,
    Mesh,
    NoRoute,
    Overloaded,
    Payload,
    Service,
    connect,
    current_call,
)
from rsocket_mesh.protocol.metadata import encode_entry
from rsocket_mesh.rpc.metadata import trace_entry
from tests.support.small_server import SmallServer, request_metadata
from tests.support.waiting import until


@dataclass
class Order:
    sku: int
    quantity: int


class Shop:
    """A service whose handlers report what happens to them."""

    def __init__(self) -> None:
        self.service = Service("shop", "1.4.0")
        self.events: list[object] = []
        self.pulled = 0
        self.gate = asyncio.Event()
        for handler in (self.total, self.add, self.wait, self.remaining, self.fail, self.refuse):
            self.service.request_response(handler)
        for blocking in (self.block, self.where):
            self.service.request_response(blocking)
        self.service.request_stream(self.ticks)
        self.service.request_stream(self.blocking_ticks)
        self.service.request_stream(self.late)
        self.service.request_channel(self.double)
        self.service.request_channel(self.first_only)
        self.service.fire_and_forget(self.note)
        self.service.request_response(self.echo)

    async def total(self, order: Order) -> int:
        return order.sku * order.quantity

    async def add(self, a: int, b: int) -> int:
        return a + b

    async def wait(self) -> None:
        self.events.append("began")
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.events.append("cancelled")
            raise

    async def remaining(self, call: Call) -> tuple[str, float | None, dict[str, str]]:
        return call.route, call.remaining(), call.selectors

    async def fail(self) -> None:
        raise LookupError("no such order")

    async def refuse(self) -> None:
        raise Overloaded("come back later", retry_after_ms=50)

    def block(self, seconds: float) -> str:
        time.sleep(seconds)
        return threading.current_thread().name

    def where(self) -> str:
        call = current_call()
        assert call is not None
        return call.route

    async def echo(self, payload: Payload) -> Payload:
        return Payload(payload.data[::-1])

    async def ticks(self, count: int) -> AsyncIterator[Order]:
        try:
            for index in range(count):
                self.pulled += 1
                yield Order(index, 1)
        finally:
            self.events.append("closed")

    def blocking_ticks(self, count: int) -> Iterator[int]:
        try:
            yield from range(count)
        finally:
            self.events.append("closed")

    async def late(self, call: Call) -> AsyncIterator[float | None]:
        yield call.remaining()
        yield call.remaining()
        await self.gate.wait()

    async def double(self, items: AsyncIterator[int]) -> AsyncIterator[int]:
        async for item in items:
            yield 2 * item

    async def first_only(self, items: AsyncIterator[int]) -> AsyncIterator[int]:
        async for item in items:
            yield item
            return

    async def note(self, text: str) -> None:
        self.events.append(text)


@pytest.fixture
async def shop() -> Shop:
    return Shop()


@pytest.fixture
async def mesh(shop: Shop) -> AsyncIterator[Mesh]:
    async with SmallServer(shop.service) as server, connect(server.url) as connected:
        yield connected


async def test_three_lines_call_a_service(shop: Shop):
    async with SmallServer(shop.service) as server, connect(server.url) as mesh:
        assert await mesh.service("shop").request_response("add", 1, 2) == 3


@pytest.mark.parametrize("codec", [None, "cbor", "json"])
async def test_values_travel_by_their_types(mesh: Mesh, codec: str | None):
    handle = mesh.service("shop")
    assert await handle.request_response("total", Order(3, 4), returns=int, codec=codec) == 12
    assert await handle.request_response("add", 1, 2, returns=int, codec=codec) == 3


async def test_the_connection_codec_can_be_json(shop: Shop):
    async with SmallServer(shop.service) as server, connect(server.url, codec="json") as mesh:
        assert server.setups[0].data_mime == "application/json"
        # The small server's own codec is CBOR, and nobody in the middle says otherwise.
        raw = mesh.route("shop.echo")
        assert (await raw.request_response(b'"x"', mime="application/json")).data == b'"x"'


async def test_raw_bytes_need_no_codec(mesh: Mesh):
    handle = mesh.service("shop")
    assert await handle.request_response("echo", b"abc", codec="raw") == b"cba"
    assert (await mesh.route("shop.echo").request_response(b"abc")).data == b"cba"


async def test_an_argument_that_does_not_fit_is_named(mesh: Mesh):
    handle = mesh.service("shop")
    with pytest.raises(Invalid) as caught:
        await handle.request_response("total", {"sku": 1, "quantity": "x"})
    assert caught.value.text == "$.quantity: expected int, got str"
    assert caught.value.route == "shop.total"


async def test_an_answer_that_does_not_fit_is_no_verdict_on_the_request(mesh: Mesh):
    with pytest.raises(DecodeError, match=r"the answer of shop\.add: \$: expected str, got int"):
        await mesh.service("shop").request_response("add", 1, 2, returns=str)


async def test_a_value_without_a_form_is_never_sent(mesh: Mesh):
    with pytest.raises(EncodeError, match="object"):
        await mesh.service("shop").request_response("total", object())


async def test_what_is_not_there_is_no_route_and_says_what_is(mesh: Mesh):
    handle = mesh.service("shop")
    with pytest.raises(NoRoute, match=r"it has 1\.4\.0: total, add"):
        await handle.request_response("sum")
    with pytest.raises(NoRoute, match="no service 'bank' here"):
        await mesh.service("bank").request_response("sum")
    with pytest.raises(Invalid, match="is a request-stream, it was called as a request-response"):
        await handle.request_response("ticks", 1)


async def test_a_version_range_picks_among_two_versions_of_one_service():
    old, new = Service("shop", "1.0.0"), Service("shop", "2.1.0")

    @old.request_response(name="which")
    async def which_old() -> str:
        return "old"

    @new.request_response(name="which")
    async def which_new() -> str:
        return "new"

    async with SmallServer(old, new) as server, connect(server.url) as mesh:
        for version, answer in (("^1", "old"), ("^2", "new"), ("", "new")):
            handle = mesh.service("shop", version=version)
            assert await handle.request_response("which") == answer
        with pytest.raises(NoRoute):
            await mesh.service("shop", version="^3").request_response("which")


async def test_a_handler_that_raises_is_an_application_error(
    mesh: Mesh, caplog: pytest.LogCaptureFixture
):
    with pytest.raises(ApplicationError) as caught:
        await mesh.service("shop").request_response("fail")
    assert caught.value.text == "LookupError: no such order"
    assert "shop.fail failed" in caplog.text


async def test_an_error_raised_on_purpose_arrives_as_it_is(mesh: Mesh):
    with pytest.raises(Overloaded) as caught:
        await mesh.service("shop").request_response("refuse")
    assert caught.value.details == {"retry_after_ms": 50}
    assert caught.value.safe_to_retry


async def test_an_error_of_a_handlers_own_call_is_not_its_verdict():
    service = Service("front")

    @service.request_response
    async def ask(call: Call) -> int:
        return await call.mesh.service("nobody").request_response("x", returns=int)

    async with SmallServer() as server, connect(server.url, serve=[service]):
        # "Nothing was started" is true of nobody.x and would be a lie about front.ask.
        with pytest.raises(ApplicationError, match=r"NO_ROUTE from nobody\.x") as caught:
            await server.call("front.ask", deadline=5.0)
        assert not caught.value.safe_to_retry


async def test_blocking_handlers_run_in_threads_and_know_their_call(mesh: Mesh):
    handle = mesh.service("shop")
    names = await asyncio.gather(
        *(handle.request_response("block", 0.2, returns=str) for _ in range(8)),
        handle.request_response("where"),
    )
    assert names[-1] == "shop.where"
    assert all(name.startswith("rsocket-mesh-handler") for name in names[:-1])
    assert len(set(names[:-1])) > 1


async def test_a_slow_handler_delays_nobody(mesh: Mesh, shop: Shop):
    handle = mesh.service("shop")
    waiting = [asyncio.create_task(handle.request_response("wait")) for _ in range(20)]
    await until(lambda: shop.events.count("began") == 20)
    assert await handle.request_response("add", 1, 2, timeout=2.0) == 3
    shop.gate.set()
    await asyncio.gather(*waiting)


async def test_cancelling_the_task_cancels_the_remote_work(mesh: Mesh, shop: Shop):
    task = asyncio.create_task(mesh.service("shop").request_response("wait"))
    await until(lambda: "began" in shop.events)
    task.cancel()
    await until(lambda: "cancelled" in shop.events)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_deadline_that_passes_cancels_the_remote_work(mesh: Mesh, shop: Shop):
    with pytest.raises(DeadlineExceeded) as caught:
        await mesh.service("shop").request_response("wait", timeout=0.05)
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.route == "shop.wait"
    await until(lambda: "cancelled" in shop.events)


async def test_the_deadline_travels_and_every_call_has_one(mesh: Mesh):
    handle = mesh.service("shop", version="^1.4", zone="eu")
    route, remaining, selectors = await handle.request_response("remaining", timeout=2.0)
    assert route == "shop.remaining"
    assert 1.0 < remaining <= 2.0
    assert selectors == {"version": "^1.4", "zone": "eu"}
    _, remaining, _ = await handle.request_response("remaining")
    assert 9.0 < remaining <= 10.0


async def test_a_handlers_calls_inherit_what_is_left_and_the_trace():
    back, front = Service("back"), Service("front")
    seen: list[tuple[float | None, bytes | None]] = []

    @back.request_response
    async def look(call: Call) -> None:
        seen.append((call.remaining(), call.trace))

    @front.request_response
    async def ask(call: Call) -> None:
        await asyncio.create_task(call.mesh.service("back").request_response("look"))
        await call.mesh.service("back").request_response("look", timeout=0.5)

    async with SmallServer(back) as server, connect(server.url, serve=[front]):
        await server.call("front.ask", deadline=3.0, extra=trace_entry(b"\x20"))
        await server.call("front.ask")
    inherited, shorter, without, own = seen
    assert inherited[0] is not None
    assert 2.0 < inherited[0] <= 3.0
    assert inherited[1] == b"\x20"
    assert shorter[0] is not None
    assert shorter[0] <= 0.5
    assert without[0] is not None
    assert 9.0 < without[0] <= 10.0
    assert own[1] is None


async def test_a_request_whose_deadline_has_passed_is_not_begun():
    service = Service("s")
    begun: list[int] = []

    @service.request_response
    async def work() -> None:
        begun.append(1)

    expired = encode_entry("message/x.rsocket-mesh.deadline.v1", b"\0\0\0\0")
    async with SmallServer() as server, connect(server.url, serve=[service]):
        with pytest.raises(DeadlineExceeded, match="had passed on arrival"):
            await server.call("s.work", extra=expired)
    assert not begun


async def test_unknown_data_types_are_invalid_and_name_what_there_is():
    service = Service("s")

    @service.request_response
    async def work(value: int) -> int:
        return value

    async with SmallServer() as server, connect(server.url, serve=[service]):
        with pytest.raises(Invalid, match=r"'application/xml' is not known.*application/cbor"):
            await server.call("s.work", b"<a/>", mime="application/xml")
        assert (await server.call("s.work", b"7", mime="application/json")).data == b"7"
        assert (await server.call("s.work", b"\x07")).data == b"\x07"
        with pytest.raises(Invalid, match="not CBOR"):
            await server.call("s.work", b"\x07\x07")


# -- streams --------------------------------------------------------------------------------------


async def test_a_stream_yields_typed_items_to_its_end(mesh: Mesh, shop: Shop):
    stream = mesh.service("shop").request_stream("ticks", 100, returns=Order, prefetch=8)
    async with stream as ticks:
        assert [tick.sku async for tick in ticks] == list(range(100))
    assert shop.events == ["closed"]


async def test_exactly_what_is_asked_for_is_produced(mesh: Mesh, shop: Shop):
    async with mesh.service("shop").request_stream("ticks", 10**6, limit=10) as ticks:
        assert len([tick async for tick in ticks]) == 10
    await until(lambda: shop.events == ["closed"])
    assert shop.pulled == 10


async def test_a_slow_body_asks_for_less(mesh: Mesh, shop: Shop):
    async with mesh.service("shop").request_stream("ticks", 10**6, prefetch=4) as ticks:
        await anext(ticks)
        await mesh.service("shop").request_response("add", 1, 2)
        assert shop.pulled <= 8
    await until(lambda: shop.events == ["closed"])


async def test_leaving_the_block_closes_the_generator(mesh: Mesh, shop: Shop):
    async with mesh.service("shop").request_stream("ticks", 10**6) as ticks:
        async for _ in ticks:
            break
    await until(lambda: shop.events == ["closed"])


async def test_a_blocking_generator_streams_from_threads(mesh: Mesh, shop: Shop):
    async with mesh.service("shop").request_stream("blocking_ticks", 20, returns=int) as ticks:
        assert [tick async for tick in ticks] == list(range(20))
    async with mesh.service("shop").request_stream("blocking_ticks", 10**6, limit=3) as ticks:
        assert [tick async for tick in ticks] == [0, 1, 2]
    await until(lambda: shop.events == ["closed", "closed"])


async def test_the_deadline_bounds_the_first_item_only(mesh: Mesh, shop: Shop):
    async with mesh.service("shop").request_stream("late", timeout=1.0) as items:
        first, second = await anext(items), await anext(items)
        assert first <= 1.0
        assert second is None
        shop.gate.set()
        assert [item async for item in items] == []


async def test_a_stream_whose_first_item_is_late_fails(mesh: Mesh, shop: Shop):
    service_stream = mesh.service("shop").request_channel("double", _never(), timeout=0.05)
    with pytest.raises(DeadlineExceeded, match="own first item"):
        await anext(service_stream)


async def _never() -> AsyncIterator[int]:
    await asyncio.Event().wait()
    yield 1


async def test_the_time_between_items_is_bounded_if_asked_for(mesh: Mesh):
    async with mesh.service("shop").request_stream("late", idle_timeout=0.05) as items:
        await anext(items)
        await anext(items)
        with pytest.raises(DeadlineExceeded, match=r"no item for 0\.05 s"):
            await anext(items)


async def test_an_error_comes_behind_the_items(mesh: Mesh):
    with pytest.raises(Invalid, match=r"\$: expected int, got str"):
        async with mesh.service("shop").request_stream("ticks", "many") as items:
            await anext(items)
    async with mesh.service("shop").request_stream("ticks", 3, returns=int) as items:
        with pytest.raises(DecodeError, match=r"an item of shop\.ticks"):
            await anext(items)


# -- channels, fire-and-forget, push --------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2, 200])
async def test_a_channel_carries_all_items_both_ways(mesh: Mesh, count: int):
    channel = mesh.service("shop").request_channel("double", range(count), returns=int, prefetch=4)
    async with channel as answers:
        assert [item async for item in answers] == [2 * n for n in range(count)]


async def test_a_foreign_first_payload_is_the_first_item_unless_it_has_no_data():
    service = Service("s")

    @service.request_channel
    async def double(items: AsyncIterator[int]) -> AsyncIterator[int]:
        async for item in items:
            yield 2 * item

    async def rest() -> AsyncIterator[Payload]:
        yield Payload(b"\x02")

    async with SmallServer() as server, connect(server.url, serve=[service]):
        for first, answers in ((b"\x01", [b"\x02", b"\x04"]), (b"", [b"\x04"])):
            request = Payload(first, request_metadata("s.double"))
            stream = server.peers[-1].requester.request_channel(request, rest(), timeout=5.0)
            async with stream as items:
                assert [payload.data async for payload in items] == answers


async def test_an_empty_first_item_is_not_lost():
    service = Service("s")

    @service.request_channel
    async def same(items: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for item in items:
            yield item

    async with SmallServer(service) as server, connect(server.url) as mesh:
        for sent in ([b"", b"a", b""], [b""], []):
            async with mesh.service("s").request_channel("same", sent, codec="raw") as items:
                assert [item async for item in items] == sent


async def test_a_channel_that_ends_early_closes_the_callers_iterable(mesh: Mesh):
    closed = asyncio.Event()

    async def source() -> AsyncIterator[int]:
        try:
            for number in range(10**6):
                yield number
        finally:
            closed.set()

    async with mesh.service("shop").request_channel("first_only", source()) as answers:
        assert [item async for item in answers] == [0]
    await asyncio.wait_for(closed.wait(), 5)


async def test_a_channel_item_that_does_not_fit_is_named(mesh: Mesh):
    async with mesh.service("shop").request_channel("double", [1, "x"]) as answers:
        assert await anext(answers) == 2
        with pytest.raises(Invalid, match=r"\$: expected int, got str"):
            await anext(answers)


async def test_fire_and_forget_reaches_its_handler(mesh: Mesh, shop: Shop):
    await mesh.service("shop").fire_and_forget("note", "hello")
    await until(lambda: shop.events == ["hello"])


async def test_a_bad_fire_and_forget_is_dropped_and_logged(
    mesh: Mesh, shop: Shop, caplog: pytest.LogCaptureFixture
):
    await mesh.service("shop").fire_and_forget("note", 7)
    await mesh.service("shop").fire_and_forget("nix", 7)
    await until(lambda: caplog.text.count("dropped a fire-and-forget") == 2)
    assert shop.events == []


async def test_metadata_is_pushed_both_ways():
    service = Service("s")
    pushed: list[bytes] = []

    @service.metadata_push
    async def take(metadata: bytes) -> None:
        pushed.append(metadata)

    async with SmallServer() as server, connect(server.url, serve=[service]) as mesh:
        await mesh.metadata_push(b"up")
        await until(lambda: server.pushed == [b"up"])
        server.peers[0].requester.metadata_push(b"down")
        await until(lambda: pushed == [b"down"])


async def test_calls_after_close_fail_at_once(shop: Shop):
    async with SmallServer(shop.service) as server:
        mesh = await connect(server.url)
        await mesh.close()
        await mesh.close()
        with pytest.raises(ConnectionClosed, match="this program has closed"):
            await mesh.service("shop").request_response("add", 1, 2)
