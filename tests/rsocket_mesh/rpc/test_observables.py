"""Observables at both ends: whole, in order, bounded, paused by credit, and disposed for good."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import reactivex
from reactivex import Observable
from reactivex import operators as ops
from reactivex.scheduler import NewThreadScheduler
from reactivex.scheduler.eventloop import AsyncIOScheduler
from reactivex.subject import Subject

from rsocket_mesh import (
    ApplicationError,
    Demand,
    Overflow,
    Service,
    SlowConsumer,
    StreamError,
    buffer,
    connect,
    current_call,
    on_overflow,
)
from tests.support.small_server import SmallServer
from tests.support.waiting import settled, until

PREFETCH = 32  # what a stream asks for ahead, and what is held of an Observable
MILLION = 1_000_000


class Numbers:
    """A service of Observables that keeps account of what was pulled and what has ended."""

    def __init__(self) -> None:
        self.service = Service("numbers")
        self.pushed = 0
        self.disposed = 0
        self.calls = 0
        self.subject: Subject[int] = Subject()
        for stream in (self.count, self.later, self.pull, self.flood, self.hot, self.failing):
            self.service.request_stream(stream)
        for response in (self.sum, self.nothing, self.deadline):
            self.service.request_response(response)
        for channel in (self.doubled, self.pairs, self.taken):
            self.service.request_channel(channel)

    def counted(self, source: Observable[int]) -> Observable[int]:
        def push(_item: int) -> None:
            self.pushed += 1

        def dispose() -> None:
            self.disposed += 1

        return source.pipe(ops.do_action(push), ops.finally_action(dispose))

    def count(self, most: int) -> Observable[int]:
        """Numbers, one step of the scheduler each: a source that can be paused."""
        return self.counted(reactivex.range(most))

    async def later(self, most: int) -> Observable[int]:
        await asyncio.sleep(0)
        return self.count(most)

    async def pull(self, most: int) -> AsyncIterator[int]:
        self.calls += 1
        try:
            for number in range(most):
                self.pushed += 1
                yield number
        finally:
            self.disposed += 1

    def flood(self, most: int, policy: str, size: int) -> Observable[int]:
        """Numbers all at once: a source that cannot be paused."""
        source = self.counted(reactivex.from_iterable(range(most)))
        return source.pipe(on_overflow(Overflow(policy, size)))  # type: ignore[arg-type]  # from the caller

    def hot(self, policy: str) -> Observable[int]:
        return self.counted(self.subject).pipe(on_overflow(Overflow(policy, 4)))  # type: ignore[arg-type]

    def failing(self) -> Observable[int]:
        return reactivex.concat(reactivex.range(3), reactivex.throw(LookupError("no fourth")))

    def sum(self, most: int) -> Observable[int]:
        return reactivex.range(most).pipe(ops.sum())

    async def nothing(self) -> Observable[int]:
        return reactivex.empty()

    def deadline(self) -> Observable[bool]:
        def subscribe(observer: Any, _scheduler: Any = None) -> Any:
            call = current_call()
            observer.on_next(call is not None and call.remaining() is not None)
            observer.on_completed()

        return reactivex.create(subscribe)

    def doubled(self, numbers: Observable[int]) -> Observable[int]:
        return numbers.pipe(ops.map(lambda number: 2 * number))

    async def pairs(self, numbers: AsyncIterator[int]) -> Observable[list[int]]:
        return reactivex.from_iterable([[number] async for number in numbers])

    async def taken(self, numbers: Observable[int]) -> AsyncIterator[int]:
        yield await numbers.pipe(ops.take(2), ops.sum())


class Seen:
    """A subscriber that writes down what it is told."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.error: Exception | None = None
        self.completed = False
        self.ended = asyncio.Event()

    def on_next(self, item: Any) -> None:
        self.items.append(item)

    def on_error(self, error: Exception) -> None:
        self.error = error
        self.ended.set()

    def on_completed(self) -> None:
        self.completed = True
        self.ended.set()

    async def end(self) -> Seen:
        async with asyncio.timeout(10):
            await self.ended.wait()
        return self


async def all_of(observable: Observable[Any]) -> Seen:
    seen = Seen()
    loop = asyncio.get_running_loop()
    observable.subscribe(seen, scheduler=AsyncIOScheduler(loop))  # type: ignore[arg-type]  # duck-typed
    return await seen.end()


async def until_it_fails(items: AsyncIterator[int]) -> tuple[list[int], SlowConsumer]:
    got: list[int] = []
    try:
        async for item in items:
            got.append(item)  # noqa: PERF401  # what came before the error
    except SlowConsumer as error:
        return got, error
    raise AssertionError(f"it ended without an error, behind {len(got)} items")


# -- handlers that return Observables --------------------------------------------------------------


@pytest.mark.parametrize("method", ["count", "later", "pull"])
async def test_an_observable_arrives_whole_and_in_order(method: str):
    numbers = Numbers()
    async with SmallServer(numbers.service) as server, connect(server.url) as mesh:
        handle = mesh.service("numbers")
        async with handle.request_stream(method, 500, returns=int) as items:
            assert [item async for item in items] == list(range(500))
        seen = await all_of(handle.observe_stream(method, 500, returns=int))
        assert seen.items == list(range(500))
        assert seen.completed
        await until(lambda: numbers.disposed == 2)


async def test_the_announcement_speaks_of_items_and_not_of_observables():
    methods = Numbers().service.info().methods
    assert methods is not None
    assert methods["count"].output == {"type": "integer"}
    assert methods["sum"].output == {"type": "integer"}
    assert methods["doubled"].input == methods["doubled"].output == {"type": "integer"}


async def test_a_source_with_steps_is_paused_by_credit():
    numbers = Numbers()
    async with SmallServer(numbers.service) as server, connect(server.url) as mesh:
        stream = mesh.service("numbers").request_stream("count", MILLION, prefetch=10)
        async with stream as items:
            assert [await anext(items) for _ in range(5)] == [0, 1, 2, 3, 4]
            for _ in range(20):
                await settled()
            # 10 asked for, 5 granted again at most, and what is held of the Observable
            assert numbers.pushed <= 10 + 5 + PREFETCH
        await until(lambda: numbers.disposed == 1)
        pushed = numbers.pushed
        await settled()
        assert numbers.pushed == pushed


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        ("error", list(range(8))),
        ("buffer", list(range(8))),
        ("drop_newest", list(range(8))),
        ("drop_oldest", list(range(92, 100))),
        ("latest", [99]),
    ],
)
async def test_a_source_that_cannot_be_paused_ends_as_its_policy_says(policy: str, kept: list[int]):
    numbers = Numbers()
    async with SmallServer(numbers.service) as server, connect(server.url) as mesh:
        got: list[int] = []
        stream = mesh.service("numbers").request_stream("flood", 100, policy, 8, returns=int)
        async with stream as items:
            if policy in ("error", "buffer"):
                # Exactly here: behind the items that were accepted, and none was lost of them.
                got, error = await until_it_fails(items)
                assert "8 items wait to be taken already" in error.text
                assert numbers.pushed == 9  # the one too many, and the source was disposed
            else:
                got = [item async for item in items]
                assert numbers.pushed == 100
        assert got == kept
        assert numbers.disposed == 1


async def test_a_hot_source_fails_when_its_consumer_is_behind_and_only_then():
    numbers = Numbers()
    async with SmallServer(numbers.service) as server, connect(server.url) as mesh:
        stream = mesh.service("numbers").request_stream("hot", "error", prefetch=1, returns=int)
        async with stream as items:
            waiting = asyncio.ensure_future(anext(items))
            await until(lambda: numbers.subject.observers)
            for number in range(20):  # as fast as they are taken
                numbers.subject.on_next(number)
                assert await waiting == number
                waiting = asyncio.ensure_future(anext(items))
                await settled()
            numbers.subject.on_next(20)
            assert await waiting == 20
            await settled()
            for number in range(21, 40):  # one leaves on the credit given back, four are held
                numbers.subject.on_next(number)
                await settled()
            got, _ = await until_it_fails(items)
            assert got == [21, 22, 23, 24, 25]
            assert not numbers.subject.observers


async def test_other_threads_may_push():
    numbers = Numbers()

    def push() -> None:
        for number in range(1000):
            numbers.subject.on_next(number)
            time.sleep(0.00001)
        numbers.subject.on_completed()

    async with SmallServer(numbers.service) as server, connect(server.url) as mesh:
        service = Service("threads")

        @service.request_stream
        def hot() -> Observable[int]:
            return numbers.subject.pipe(on_overflow(buffer(1000)))

        server.dispatcher.add(service)
        async with mesh.service("threads").request_stream("hot", returns=int) as items:
            waiting = asyncio.ensure_future(anext(items))
            await until(lambda: numbers.subject.observers)
            thread = threading.Thread(target=push)
            thread.start()
            got = [await waiting, *[item async for item in items]]
            thread.join()
        assert got == list(range(1000))


async def test_what_an_observable_fails_with_is_the_callers_error_behind_its_items():
    numbers = Numbers()
    async with SmallServer(numbers.service) as server, connect(server.url) as mesh:
        seen = await all_of(mesh.service("numbers").observe_stream("failing", returns=int))
    assert seen.items == [0, 1, 2]
    assert isinstance(seen.error, ApplicationError)
    assert "LookupError: no fourth" in str(seen.error)


async def test_the_one_answer_is_the_first_item():
    numbers = Numbers()
    async with SmallServer(numbers.service) as server, connect(server.url) as mesh:
        handle = mesh.service("numbers")
        assert await handle.request_response("sum", 5, returns=int) == 10
        assert await handle.request_response("nothing") is None
        assert await handle.request_response("deadline", returns=bool)
        assert await handle.observe_response("sum", 5, returns=int) == 10
        seen = await all_of(handle.observe_response("unheard_of"))
        assert isinstance(seen.error, StreamError)


async def test_channels_take_and_give_observables():
    numbers = Numbers()
    async with SmallServer(numbers.service) as server, connect(server.url) as mesh:
        handle = mesh.service("numbers")
        for items in (reactivex.range(100), range(100), reactivex.from_iterable(range(30))):
            seen = await all_of(handle.observe_channel("doubled", items, returns=int))
            assert seen.items == [2 * number for number in range(len(seen.items))]
            assert seen.completed
        assert len(seen.items) == 30
        seen = await all_of(handle.observe_channel("pairs", reactivex.range(3)))
        assert seen.items == [[0], [1], [2]]
        seen = await all_of(handle.observe_channel("taken", reactivex.range(1, MILLION)))
        assert seen.items == [3]


async def test_what_a_channel_sends_is_paused_by_credit_too():
    numbers = Numbers()
    sent = 0

    def count(_item: int) -> None:
        nonlocal sent
        sent += 1

    async with SmallServer(numbers.service) as server, connect(server.url) as mesh:
        demand = Demand(3)
        source = reactivex.range(MILLION).pipe(ops.do_action(count))
        handle = mesh.service("numbers")
        seen = Seen()
        subscription = handle.observe_channel("doubled", source, demand=demand).subscribe(seen)  # type: ignore[arg-type]
        await until(lambda: len(seen.items) == 3)
        for _ in range(30):
            await settled()
        # our buffer, the service's inbox, its buffer, our prefetch; each topped up by a half
        assert sent <= 4 * PREFETCH + 2 * PREFETCH
        subscription.dispose()
        await settled()
        stopped = sent
        await settled()
        assert sent == stopped


async def test_a_handler_that_passes_a_remote_stream_on_passes_its_demand_on():
    numbers = Numbers()
    async with SmallServer(numbers.service) as server, connect(server.url) as mesh:
        service = Service("front")

        @service.request_stream
        def relay() -> Observable[int]:
            return mesh.service("numbers").observe_stream("pull", MILLION, returns=int)

        server.dispatcher.add(service)
        async with mesh.service("front").request_stream("relay", prefetch=4) as items:
            assert [await anext(items) for _ in range(4)] == [0, 1, 2, 3]
            for _ in range(20):
                await settled()
            assert numbers.pushed <= 4 + 4 + PREFETCH + 2 * PREFETCH
        await until(lambda: numbers.disposed == 1)


# -- observe_* -------------------------------------------------------------------------------------


async def test_disposing_cancels_the_remote_stream():
    numbers = Numbers()
    async with SmallServer(numbers.service) as server, connect(server.url) as mesh:
        stream = mesh.service("numbers").observe_stream("pull", MILLION, returns=int)
        assert await stream.pipe(ops.take(3), ops.to_list()) == [0, 1, 2]
        await until(lambda: numbers.disposed == 1)
        assert numbers.pushed <= 3 + 2 * PREFETCH
        assert server.peers[-1].streams_open == 0

        subscription = stream.subscribe(lambda _item: None)
        await until(lambda: numbers.pushed > 500)
        thread = threading.Thread(target=subscription.dispose)
        thread.start()
        thread.join()
        await until(lambda: numbers.disposed == 2)


async def test_nothing_is_sent_before_there_is_a_subscriber_and_each_is_a_call_of_its_own():
    numbers = Numbers()
    async with SmallServer(numbers.service) as server, connect(server.url) as mesh:
        stream = mesh.service("numbers").observe_stream("pull", 3, returns=int)
        await settled()
        assert numbers.calls == 0
        for _ in range(2):
            assert (await all_of(stream)).items == [0, 1, 2]
        assert numbers.calls == 2
        twice = stream.pipe(ops.repeat(2), ops.to_list())
        assert await twice == [0, 1, 2, 0, 1, 2]
        assert numbers.calls == 4


async def test_a_demand_is_all_that_is_delivered_and_the_provider_is_paused():
    numbers = Numbers()
    async with SmallServer(numbers.service) as server, connect(server.url) as mesh:
        demand = Demand(2)
        seen = Seen()
        stream = mesh.service("numbers").observe_stream("pull", 100, prefetch=8, demand=demand)
        stream.subscribe(seen)  # type: ignore[arg-type]  # duck-typed
        await until(lambda: len(seen.items) == 2)
        for _ in range(20):
            await settled()
        assert len(seen.items) == 2
        assert numbers.pushed <= 2 + 8
        demand.request(98)
        await until(lambda: len(seen.items) == 100)
        assert not seen.completed  # the end wants nothing, but is behind the demand for an item
        demand.request()
        await seen.end()
        with pytest.raises(ValueError, match="0 items requested"):
            demand.request(0)


@pytest.mark.parametrize(
    ("overflow", "kept"),
    [
        (Overflow("error", 5), [0, 1, 2, 3, 4]),
        (Overflow("drop_newest", 5), [0, 1, 2, 3, 4]),
        (Overflow("drop_oldest", 5), [995, 996, 997, 998, 999]),
        ("latest", [999]),
    ],
)
async def test_a_subscriber_that_takes_less_than_comes_gets_what_its_policy_says(
    overflow: Any, kept: list[int]
):
    numbers = Numbers()
    async with SmallServer(numbers.service) as server, connect(server.url) as mesh:
        demand = Demand()
        seen = Seen()
        stream = mesh.service("numbers").observe_stream(
            "pull", 1000, overflow=overflow, demand=demand, returns=int
        )
        stream.subscribe(seen)  # type: ignore[arg-type]  # duck-typed
        await until(lambda: numbers.disposed == 1)  # it ran at its own pace, to its end or ours
        await settled()
        assert seen.items == []
        demand.request(1000)
        await seen.end()
        assert seen.items == kept
        if kept == [0, 1, 2, 3, 4] and overflow.policy == "error":
            assert isinstance(seen.error, SlowConsumer)
            assert numbers.pushed < 1000
        else:
            assert seen.completed
            assert numbers.pushed == 1000


async def test_a_subscriber_that_blocks_in_a_thread_pauses_the_provider_and_not_the_loop():
    numbers = Numbers()
    gate = threading.Semaphore(0)
    got: list[int] = []

    def slow(item: int) -> None:
        assert gate.acquire(timeout=10)
        got.append(item)

    async with SmallServer(numbers.service) as server, connect(server.url) as mesh:
        stream = mesh.service("numbers").observe_stream(
            "pull", 50, prefetch=4, scheduler=NewThreadScheduler(), returns=int
        )
        seen = Seen()
        loop = asyncio.get_running_loop()
        stream.subscribe(slow, seen.on_error, lambda: loop.call_soon_threadsafe(seen.on_completed))
        for released in range(1, 11):
            gate.release()
            await until(lambda released=released: len(got) == released)  # type: ignore[misc]
            assert numbers.pushed <= released + 1 + 4
        gate.release(40)
        await seen.end()
    assert got == list(range(50))


async def test_a_subscriber_that_raises_is_reported_and_ends_the_stream():
    numbers = Numbers()
    reported: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: reported.append(context))

    def broken(item: int) -> None:
        raise ZeroDivisionError(item)

    async with SmallServer(numbers.service) as server, connect(server.url) as mesh:
        handle = mesh.service("numbers")
        for scheduler in (None, NewThreadScheduler()):
            reported.clear()
            handle.observe_stream("pull", MILLION, scheduler=scheduler).subscribe(broken)
            await until(lambda: len(reported) == 1)
            assert isinstance(reported[0]["exception"], ZeroDivisionError)
        handle.observe_stream("failing").subscribe(lambda _item: None)  # and no on_error
        await until(lambda: len(reported) == 2)
        assert isinstance(reported[1]["exception"], ApplicationError)
        await until(lambda: numbers.disposed == 2)


async def test_subscribing_where_no_loop_runs_says_where_to():
    numbers = Numbers()
    async with SmallServer(numbers.service) as server, connect(server.url) as mesh:
        stream = mesh.service("numbers").observe_stream("count", 1)
        errors: list[Exception] = []
        await asyncio.to_thread(stream.subscribe, None, errors.append)
        assert "subscribe on the loop of the mesh" in str(errors[0])


# -- plain operators on streams that outrun the consumer -------------------------------------------


async def test_operators_that_work_within_on_next_need_nothing_more():
    numbers = Numbers()
    async with SmallServer(numbers.service) as server, connect(server.url) as mesh:
        handle = mesh.service("numbers")

        def stream(most: int) -> Observable[int]:
            return handle.observe_stream("pull", most, returns=int)

        chunks = await stream(1000).pipe(ops.buffer_with_count(300), ops.to_list())
        assert [len(chunk) for chunk in chunks] == [300, 300, 300, 100]

        merged = await stream(500).pipe(ops.merge(stream(500)), ops.to_list())
        assert sorted(merged) == sorted([*range(500), *range(500)])

        expanded = await stream(20).pipe(ops.flat_map(stream), ops.to_list())
        assert len(expanded) == sum(range(20))


async def test_flat_map_with_work_of_its_own_is_bounded_by_a_demand():
    numbers = Numbers()
    at_work = most = 0

    async def work(number: int) -> int:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        await asyncio.sleep(0)
        at_work -= 1
        return 2 * number

    async with SmallServer(numbers.service) as server, connect(server.url) as mesh:
        demand = Demand(8)
        doubled = (
            mesh.service("numbers")
            .observe_stream("pull", 300, demand=demand)
            .pipe(
                ops.flat_map(
                    lambda number: reactivex.from_future(asyncio.ensure_future(work(number)))
                ),
                ops.do_action(lambda _item: demand.request()),
            )
        )
        seen = await all_of(doubled)
    assert sorted(seen.items) == [2 * number for number in range(300)]
    assert 1 < most <= 9  # those requested, and the one whose end was not looked at yet


async def test_throttling_a_stream_leaves_its_provider_at_full_speed():
    numbers = Numbers()
    async with SmallServer(numbers.service) as server, connect(server.url) as mesh:
        stream = mesh.service("numbers").observe_stream("pull", 5000, returns=int)
        seen = await all_of(stream.pipe(ops.throttle_first(3600.0)))
        assert seen.items == [0]
        assert numbers.pushed == 5000


async def test_operators_in_a_handler_run_on_its_loop():
    numbers = Numbers()
    threads: set[int] = set()

    async with SmallServer(numbers.service) as server, connect(server.url) as mesh:
        service = Service("front")

        @service.request_stream
        def windows() -> Observable[list[int]]:
            def note(_chunk: list[int]) -> None:
                threads.add(threading.get_ident())

            return reactivex.interval(0.001).pipe(
                ops.buffer_with_time(0.005),
                ops.filter(bool),
                ops.do_action(note),
                ops.take(5),
            )

        server.dispatcher.add(service)
        async with mesh.service("front").request_stream("windows", returns=list[int]) as items:
            got = [number async for chunk in items for number in chunk]
        assert got == list(range(len(got)))
    assert threads == {threading.get_ident()}


# -- mistakes --------------------------------------------------------------------------------------


def test_a_policy_that_is_none_is_refused_where_it_is_written():
    with pytest.raises(ValueError, match="no overflow policy 'spill'; there are buffer, error"):
        on_overflow("spill")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="a size of 0 holds nothing"):
        on_overflow(buffer(0))


def test_an_observable_where_its_model_has_none_is_refused_at_decoration():
    service = Service("wrong")

    async def takes(items: Observable[int]) -> None: ...

    async def tells(item: int) -> Observable[int]: ...  # type: ignore[empty-body]

    with pytest.raises(TypeError, match=r"wrong.takes: only the handler of a channel takes"):
        service.request_response(takes)
    with pytest.raises(TypeError, match=r"wrong.tells: nobody waits for the Observable"):
        service.fire_and_forget(tells)


async def test_a_handler_that_returns_no_observable_after_all_fails_the_call():
    service = Service("wrong")

    @service.request_stream
    def broken() -> Observable[int]:
        return 5  # type: ignore[return-value]

    async with SmallServer(service) as server, connect(server.url) as mesh:
        with pytest.raises(ApplicationError, match="needs an Observable, not int"):
            await anext(mesh.service("wrong").request_stream("broken"))
