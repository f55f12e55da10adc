"""The memory guard: three steps towards the budget, each with its effect, and back again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.config import Config, Limits, RoutingConfig
from broker.forwarding.guard import (
    BACK,
    CALM,
    INTERVAL,
    STILL,
    THRESHOLDS,
    WORTH_RETURNING,
    Leftovers,
    MemoryGuard,
    Step,
    step_of,
)
from broker.memory import default_budget, resident, trimmer
from rsocket_mesh.errors import ErrorCode
from rsocket_mesh.protocol.frames import (
    REQUEST_RESPONSE,
    REQUEST_STREAM,
    Setup,
    decode_error,
    encode_keepalive,
    encode_payload,
    encode_setup,
    peek,
)
from rsocket_mesh.protocol.metadata import COMPOSITE, OCTET_STREAM
from tests.support.raw_peers import Bench, request

BUDGET = 1_000_000
WINDOW = Limits().stream_window_bytes


class Guarded:
    """A hub with a guard whose process uses as much as the test says."""

    def __init__(self, config: Config | None = None) -> None:
        self.bench = Bench(config)
        self.used = 0
        self.given_back = 0
        self.guard = MemoryGuard(self.bench.hub, BUDGET, lambda: self.used, self._give_back)

    def _give_back(self) -> None:
        self.given_back += 1

    def use(self, share: float) -> None:
        self.used = int(BUDGET * share)
        self.bench.pass_time(INTERVAL + 0.05)


@pytest.mark.parametrize(
    ("share", "step"),
    [
        (0.849, Step.CALM),
        (0.85, Step.SHRINK),
        (0.919, Step.SHRINK),
        (0.92, Step.REFUSE),
        (0.949, Step.REFUSE),
        (0.95, Step.RESET),
        (2.0, Step.RESET),
    ],
)
async def test_each_step_begins_at_its_share_and_not_before(share: float, step: Step) -> None:
    guarded = Guarded()
    guarded.use(share)
    assert guarded.guard.step is step


@given(used=st.integers(0, 2 * BUDGET), before=st.sampled_from(Step))
def test_a_step_ends_a_little_below_where_it_began(used: int, before: Step) -> None:
    after = step_of(used, BUDGET, before)
    share = used / BUDGET
    for step, threshold in THRESHOLDS.items():
        if share >= threshold:
            assert after >= step
        elif share < threshold - BACK:
            assert after < step


async def test_windows_shrink_and_grow_again() -> None:
    guarded = Guarded()
    hub = guarded.bench.hub
    before = hub.items_under_way
    guarded.use(0.86)
    assert hub.stream_window == WINDOW // 8
    assert hub.items_under_way == before // 8
    guarded.use(0.5)
    assert (hub.stream_window, hub.items_under_way) == (WINDOW, before)


async def test_new_work_is_refused_and_open_streams_go_on() -> None:
    guarded = Guarded()
    bench = guarded.bench
    provider, caller = bench.provider(), bench.caller()
    caller.send(request(REQUEST_STREAM, 1, n=1))
    there = peek(provider.received()[0])[0]
    guarded.use(0.93)
    caller.send(request(REQUEST_RESPONSE, 3))
    error = decode_error(caller.received()[0])
    assert error.code == ErrorCode.REJECTED
    assert error.text.startswith("OVERLOADED(retry_after_ms=1000): the broker uses 930000")
    provider.send(encode_payload(there, None, b"item"))
    assert len(caller.received()) == 1
    guarded.use(0.5)
    caller.send(request(REQUEST_RESPONSE, 5))
    assert len(provider.received()) == 1


async def test_new_sessions_are_refused_with_the_reason() -> None:
    guarded = Guarded()
    guarded.use(0.93)
    peer = guarded.bench.peer()
    peer.send(encode_setup(Setup(20_000, 90_000, COMPOSITE, OCTET_STREAM)), encode_keepalive(True))
    error = decode_error(peer.received()[0])
    assert error.code == ErrorCode.REJECTED_SETUP
    assert error.text.startswith("OVERLOADED(retry_after_ms=1000): ")


async def test_the_peer_with_most_waiting_is_let_go_one_per_look() -> None:
    guarded = Guarded()
    bench = guarded.bench
    callers = [bench.caller() for _ in range(3)]
    for number, caller in enumerate(callers):
        caller.transport.waiting = (number + 1) * 2_000_000
        caller.link.writable(False)
    guarded.use(0.96)
    assert [caller.link.open for caller in callers] == [True, True, False]
    guarded.use(0.96)
    assert [caller.link.open for caller in callers] == [True, False, False]
    assert bench.counters.closes["memory"] == 2
    guarded.use(0.9)
    assert callers[0].link.open


async def test_nobody_is_closed_for_little() -> None:
    guarded = Guarded()
    caller = guarded.bench.caller()
    caller.transport.waiting = 300_000
    caller.link.writable(False)
    guarded.use(0.99)
    assert caller.link.open


async def test_requests_that_wait_for_a_provider_are_given_up() -> None:
    guarded = Guarded(Config(routing=RoutingConfig(route_wait=60)))
    caller = guarded.bench.caller()
    caller.send(request(REQUEST_RESPONSE, 1, "ghost.say"))
    assert guarded.bench.hub.held
    guarded.use(0.96)
    assert not guarded.bench.hub.held
    assert decode_error(caller.received()[0]).text.startswith("OVERLOADED(retry_after_ms=")


async def test_what_was_freed_is_given_back_to_the_system_while_memory_is_short() -> None:
    guarded = Guarded()
    guarded.use(0.5)
    assert guarded.given_back == 0
    guarded.use(0.9)
    assert guarded.given_back == 1
    assert guarded.bench.counters.limits["memory_bytes"] == 1


def test_the_system_tells_what_this_process_uses_and_what_there_is():
    assert 1_000_000 < resident() < default_budget()
    trimmer()()
    assert Limits().memory_bytes == 0  # takes the default


def test_what_is_left_of_a_storm_is_given_back_once_it_is_over() -> None:
    leftovers = Leftovers(0, 0.0)
    for second in range(1, 10):  # as long as memory grows it is needed again
        assert not leftovers.look(second * 2 * STILL, float(second))
    peak = 9 * 2 * STILL
    assert not leftovers.look(peak, 9.0 + 0.9 * CALM)
    assert leftovers.look(peak, 9.0 + CALM)
    assert not leftovers.look(0, 10.5)  # all of it was returned


def test_memory_that_is_needed_is_asked_for_only_once() -> None:
    leftovers = Leftovers(0, 0.0)
    needed = WORTH_RETURNING
    asked = [now for now in range(1, 100) if leftovers.look(needed, float(now))]
    assert len(asked) == 1
    more = [now for now in range(100, 200) if leftovers.look(2 * needed, float(now))]
    assert len(more) == 1


def test_little_is_not_worth_returning() -> None:
    leftovers = Leftovers(0, 0.0)
    assert not any(leftovers.look(WORTH_RETURNING - 1, float(now)) for now in range(1, 100))


async def test_the_guard_gives_back_what_is_left_far_below_the_budget() -> None:
    guarded = Guarded()
    guarded.guard.budget = 1 << 40
    guarded.used = 2 * WORTH_RETURNING
    for _ in range(10):
        guarded.bench.pass_time(INTERVAL + 0.05)
    assert guarded.given_back == 1
