"""The contract of `Transport` and `Receiver`, kept by every transport on every event loop."""

from __future__ import annotations

import asyncio
import logging
import random
from itertools import pairwise
from typing import Any

import pytest

from rsocket_mesh.errors import ConnectionClosed, Unreachable
from rsocket_mesh.protocol.frames import MAX_FRAME_SIZE
from rsocket_mesh.protocol.framing import prefix_lengths
from rsocket_mesh.transport import framed
from tests.support.transport_ends import (
    KINDS,
    Place,
    Recorder,
    go_on_reading,
    send,
    stop_reading,
)
from tests.support.waiting import until

# Both ends of `memory` always read, so what a slow reader causes cannot happen there.
on_sockets = pytest.mark.parametrize(
    "place", [kind for kind in KINDS if kind != "memory"], indirect=True
)


def some_frames(count: int, seed: int = 7) -> list[bytes]:
    chance = random.Random(seed)
    return [chance.randbytes(chance.choice((6, 20, 128, 3000))) for _ in range(count)]


async def test_many_small_frames_of_one_flush_arrive_whole_and_in_order(place: Place) -> None:
    frames = some_frames(2000)
    async with place.pair() as (near, far):
        send(near.transport, *frames)
        assert await far.arrived(2000) == frames


async def test_frames_arrive_in_order_however_they_are_flushed(place: Place) -> None:
    frames = some_frames(300)
    cuts = sorted(random.Random(3).sample(range(301), 40))
    async with place.pair() as (near, far):
        for start, stop in pairwise([0, *cuts, 300]):
            send(near.transport, *frames[start:stop])
            if start % 3 == 0:
                await asyncio.sleep(0)
        assert await far.arrived(300) == frames


async def test_the_largest_frame_arrives_between_small_ones(place: Place) -> None:
    largest = random.Random(1).randbytes(MAX_FRAME_SIZE)
    async with place.pair() as (near, far):
        send(near.transport, b"before", largest, b"behind")
        assert await far.arrived(3) == [b"before", largest, b"behind"]


class Relay(Recorder):
    """Takes large frames in parts, and sends every frame back."""

    def __init__(self) -> None:
        super().__init__(echo=True)
        self.parts = 0

    def large_received(self, head: bytes, tail: list[memoryview]) -> bool:
        self.parts += 1
        self.transport.outbound += (head[:3], memoryview(head)[3:], *tail)
        self.transport.flush()
        return True


async def test_large_frames_may_be_taken_and_sent_in_the_parts_in_which_they_came(
    place: Place,
) -> None:
    chance = random.Random(5)
    sizes = [chance.choice((6, 3000, 70_000, 300_000, 2_000_000)) for _ in range(40)]
    frames = [chance.randbytes(size) for size in sizes]
    async with place.pair(far=Relay()) as (near, far):
        for frame in frames:
            send(near.transport, frame)
            if len(frame) == 6:
                await asyncio.sleep(0)
        assert await near.arrived(40) == frames
        assert far.parts >= 10 or place.kind in ("memory", "ws", "wss")
        assert far.transport.bytes_in == far.transport.bytes_out == near.transport.bytes_in


async def test_a_large_frame_that_nobody_takes_in_parts_comes_as_a_batch(place: Place) -> None:
    class Picky(Recorder):
        def large_received(self, head: bytes, tail: list[memoryview]) -> bool:
            return False

    frames = [random.Random(2).randbytes(500_000), b"behind"]
    async with place.pair(far=Picky()) as (near, far):
        send(near.transport, *frames)
        assert await far.arrived(2) == frames
        assert far.transport.partial_since == 0.0


@on_sockets
async def test_parts_wait_their_turn_and_frames_of_stream_0_go_between_them(place: Place) -> None:
    near, far = Recorder(), Recorder()
    async with place.pair(near=near, far=far):
        stop_reading(near.transport)
        transport = far.transport
        large = [bytes([number]) * 3_000_000 for number in range(4)]
        for number, frame in enumerate(large):
            whole = memoryview(b"".join(prefix_lengths([frame])))
            transport.outbound += (bytes(whole[:3]), whole[3:1_000_000], whole[1_000_000:])
            transport.flush()
            transport.send_first(b"first%d" % number)
            await asyncio.sleep(0)
        assert transport.outbound_size() > 6_000_000
        go_on_reading(near.transport)
        frames = await near.arrived(8)
        assert [frame for frame in frames if len(frame) > 6] == large
        assert frames.index(b"first3") < frames.index(large[3])


async def test_large_frames_cross_in_both_directions_at_once(place: Place) -> None:
    there, back = b"t" * 5_000_000, b"b" * 5_000_000
    async with place.pair() as (near, far):
        send(near.transport, there, b"there!")
        send(far.transport, back, b"back!!")
        assert await far.arrived(2) == [there, b"there!"]
        assert await near.arrived(2) == [back, b"back!!"]


async def test_an_answer_written_while_receiving_arrives(place: Place) -> None:
    frames = some_frames(100)
    async with place.pair(far=Recorder(echo=True)) as (near, _):
        for frame in frames:
            send(near.transport, frame)
        assert await near.arrived(100) == frames


async def test_flush_soon_flushes_once_at_the_end_of_the_turn(place: Place) -> None:
    async with place.pair() as (near, far):
        for _ in range(3):
            near.transport.outbound.extend(prefix_lengths([b"a frame"]))
            near.transport.flush_soon()
        assert near.transport.bytes_out == 0
        await asyncio.sleep(0)
        assert near.transport.bytes_out == 30
        assert await far.arrived(3) == [b"a frame"] * 3


async def test_the_outbound_list_stays_the_same_object(place: Place) -> None:
    async with place.pair() as (near, far):
        outbound = near.transport.outbound
        send(near.transport, b"frame!", b"x" * 100_000)
        outbound.extend(prefix_lengths([b"second"]))
        near.transport.flush()
        assert (await far.arrived(3))[2] == b"second"


async def test_bytes_are_counted_with_their_prefixes(place: Place) -> None:
    async with place.pair() as (near, far):
        send(near.transport, b"123456", b"x" * 70_000)
        await far.arrived(2)
        assert near.transport.bytes_out == far.transport.bytes_in == 70_012
        assert near.transport.bytes_in == far.transport.bytes_out == 0


async def test_transports_say_what_they_are(place: Place) -> None:
    async with place.pair() as (near, far):
        for end in (near, far):
            assert end.transport.scheme == place.kind.rstrip("46")
            assert end.transport.name.startswith(f"{end.transport.scheme} ")
        hosts = {"unix": None, "memory": None, "tcp6": "::1"}
        assert far.transport.peer_address == hosts.get(place.kind, "127.0.0.1")


async def test_what_was_written_before_a_close_arrives(place: Place) -> None:
    largest = b"x" * 4_000_000
    async with place.pair() as (near, far):
        send(near.transport, largest)
        near.transport.outbound.extend(prefix_lengths([b"not flushed"]))
        near.transport.close()
        near.transport.close()
        assert near.transport.is_closing
        assert await far.arrived(2) == [largest, b"not flushed"]
        assert await far.ended() is None
        assert await near.ended() is None


async def test_what_was_written_before_a_close_arrives_while_the_peer_goes_on_sending(
    place: Place,
) -> None:
    async with place.pair() as (near, far):
        # Unread input makes a careless close a reset, and the peer loses what came before it.
        send(near.transport, *some_frames(500))
        send(far.transport, b"last word")
        far.transport.close()
        for frame in some_frames(50):
            if not near.transport.is_closing:
                send(near.transport, frame)
            await asyncio.sleep(0)
        assert await near.arrived(1) == [b"last word"]
        await near.ended()
        await far.ended()


async def test_nothing_but_the_end_follows_our_close(place: Place) -> None:
    async with place.pair() as (near, far):
        near.transport.close()
        send(far.transport, b"too late", b"x" * 100_000)
        await near.ended()
        await far.ended()
        assert near.frames == []
        assert near.calls == far.calls == ["connected", "disconnected"]


async def test_flushing_after_the_end_is_harmless_and_keeps_nothing(place: Place) -> None:
    async with place.pair() as (near, far):
        near.transport.close()
        await near.ended()
        await far.ended()
        for end in (near, far):
            send(end.transport, b"nobody hears this")
            end.transport.flush_soon()
            end.transport.close()
            end.transport.abort()
            assert end.transport.outbound == []
            assert end.transport.outbound_size() == 0
            assert end.transport.is_closing
        await asyncio.sleep(0.01)
        assert len(near.endings) == len(far.endings) == 1


async def test_an_abort_ends_both_sides_once(place: Place) -> None:
    async with place.pair() as (near, far):
        near.transport.abort()
        near.transport.abort()
        assert near.transport.is_closing
        assert near.endings == []  # never inside the call
        assert await near.ended() is None
        await far.ended()
        assert near.calls == far.calls == ["connected", "disconnected"]


async def test_both_sides_may_close_at_once(place: Place) -> None:
    async with place.pair() as (near, far):
        near.transport.close()
        far.transport.close()
        assert await near.ended() is None
        assert await far.ended() is None


async def test_closing_inside_a_batch_ends_the_delivery(place: Place) -> None:
    class OneIsEnough(Recorder):
        def batch_received(self, data: bytes) -> int:
            super().batch_received(data)
            self.transport.close()
            return 9

    async with place.pair(far=OneIsEnough()) as (near, far):
        send(near.transport, b"123456")
        await far.arrived(1)
        if not near.transport.is_closing:
            send(near.transport, b"123456")
        assert await near.ended() is None
        await far.ended()
        assert far.frames == [b"123456"]
        assert far.calls == ["connected", "batch_received", "disconnected"]


@on_sockets
async def test_a_close_ends_in_bounded_time_even_if_the_peer_is_stuck(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(framed, "CLOSE_TIMEOUT", 0.1)
    async with place.pair() as (near, far):
        stop_reading(far.transport)
        send(near.transport, b"goodbye")
        near.transport.close()
        assert await near.ended() is None


async def test_a_frame_over_the_limit_is_refused_before_it_is_read(place: Place) -> None:
    far = Recorder(last_word=b"ERROR: too long", limit=1000)
    async with place.pair(far=far, far_options={"max_frame": 1000}) as (near, _):
        send(near.transport, b"x" * 1000)
        send(near.transport, b"y" * 5_000_000)
        assert await near.arrived(1) == [b"ERROR: too long"]
        await near.ended()
        await far.ended()
        assert far.frames == [b"x" * 1000]
        assert far.calls == ["connected", "batch_received", "protocol_violated", "disconnected"]
        assert "1000" in far.violations[0]
        assert "5000000" in far.violations[0]


async def test_a_full_peer_is_told_and_told_again_when_it_drains(place: Place) -> None:
    async with place.pair() as (near, far):
        if place.kind != "memory":  # in memory, what was not delivered yet is what waits
            stop_reading(far.transport)
        total = 0
        while near.readiness == [] and total < 64_000_000:
            send(near.transport, b"x" * 200_000)
            total += 200_000
        assert near.readiness == [False]
        assert near.transport.outbound_size() > 0
        if place.kind != "memory":
            go_on_reading(far.transport)
        await until(lambda: near.readiness == [False, True], "writable again")
        await far.arrived(total // 200_000)
        await until(lambda: near.transport.outbound_size() == 0, "all sent")
        assert far.readiness == []


async def test_flushing_from_inside_writable_keeps_the_order(place: Place) -> None:
    class Complains(Recorder):
        def writable(self, ready: bool) -> None:
            super().writable(ready)
            send(self.transport, b"full!!" if not ready else b"drained")

    near, far = Complains(), Recorder()
    async with place.pair(near, far):
        large = b"x" * 8_000_000
        send(near.transport, b"before", large)
        assert await far.arrived(4) == [b"before", large, b"full!!", b"drained"]


async def test_a_peer_that_does_not_read_is_cut_off_at_the_limit(place: Place) -> None:
    async with place.pair(near_options={"max_outbound": 2_000_000}) as (near, far):
        if place.kind != "memory":
            stop_reading(far.transport)
        total = 0
        while not near.transport.is_closing and total < 64_000_000:
            send(near.transport, b"x" * 200_000)
            total += 200_000
        error = await near.ended()
        assert isinstance(error, ConnectionClosed)
        assert error.reason == "slow-reader"
        assert "2000000" in str(error)


async def test_what_goes_first_overtakes_what_the_same_turn_has_to_say(place: Place) -> None:
    async with place.pair() as (near, far):
        near.transport.outbound += prefix_lengths([b"item 1", b"item 2"])
        near.transport.send_first(b"first 1")
        near.transport.send_first(b"first 2")
        near.transport.flush_soon()
        assert await far.arrived(4) == [b"first 1", b"first 2", b"item 1", b"item 2"]


@on_sockets
async def test_what_goes_first_overtakes_all_that_waits_for_a_slow_peer(place: Place) -> None:
    """A KEEPALIVE must not come too late because of items in front of it ("Flow Control")."""
    items = [b"%04d" % number + b"x" * 99_996 for number in range(100)]
    async with place.pair() as (near, far):
        stop_reading(far.transport)
        for item in items:
            send(near.transport, item)
        before = near.transport.outbound_size()
        near.transport.send_first(b"first!")
        near.transport.flush()
        assert before < near.transport.outbound_size() < before + 30
        go_on_reading(far.transport)
        frames = await far.arrived(101)
        at = frames.index(b"first!")
        assert at < 80  # behind what the system's buffers held, before what waited here
        assert [frame for frame in frames if frame != b"first!"] == items


@on_sockets
async def test_what_waits_leaves_before_the_connection_closes_in_order(place: Place) -> None:
    async with place.pair() as (near, far):
        stop_reading(far.transport)
        for _ in range(100):
            send(near.transport, b"x" * 100_000)
        near.transport.close()
        await asyncio.sleep(0)
        go_on_reading(far.transport)
        await far.arrived(100)
        assert await far.ended() is None


@on_sockets
async def test_what_waits_leaves_although_the_peer_says_goodbye_meanwhile(place: Place) -> None:
    """Both say goodbye while megabytes wait: all of it still arrives, and both end in order."""
    async with place.pair() as (near, far):
        stop_reading(far.transport)
        for _ in range(100):
            send(near.transport, b"x" * 100_000)
        near.transport.close()
        go_on_reading(far.transport)
        await far.arrived(1)
        far.transport.close()
        await near.ended()
        await far.ended()
        assert near.transport.outbound_size() == 0


@on_sockets
async def test_one_end_that_does_not_read_does_not_hold_up_the_other_direction(
    place: Place,
) -> None:
    async with place.pair() as (near, far):
        stop_reading(far.transport)
        while near.readiness == []:
            send(near.transport, b"x" * 200_000)
        send(far.transport, b"still here")
        assert await near.arrived(1) == [b"still here"]


async def test_a_receiver_that_raises_costs_its_own_connection_only(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Recorder):
        def batch_received(self, data: bytes) -> int:
            raise LookupError("a bug of ours")

    far = Recorder()
    accepted: list[Any] = [far, Broken()]
    listener = await place.listen(accepted.pop)
    broken, healthy = Recorder(), Recorder()
    try:
        await place.dial(listener.url, broken)
        await place.dial(listener.url, healthy)
        with caplog.at_level(logging.ERROR):
            send(broken.transport, b"123456")
            await broken.ended()
        assert "a bug of ours" in caplog.text
        send(healthy.transport, b"123456")
        assert await far.arrived(1) == [b"123456"]
    finally:
        await listener.close()
        healthy.transport.abort()
        await healthy.ended()
        await far.ended()


@pytest.mark.parametrize("method", ["connected", "disconnected", "protocol_violated", "writable"])
async def test_no_exception_of_a_receiver_escapes(
    place: Place, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Recorder):
        pass

    def fail(self: Broken, *arguments: Any) -> None:
        getattr(Recorder, method)(self, *arguments)
        raise LookupError("a bug of ours")

    setattr(Broken, method, fail)
    far = Broken(limit=1000)
    async with place.pair(far=far, far_options={"max_frame": 1000}) as (near, _):
        if method == "protocol_violated":
            send(near.transport, b"x" * 2000)
        elif method == "writable":
            send(far.transport, *[b"x" * 1_000_000] * 16)
        elif method == "disconnected":
            near.transport.close()
        await far.ended()
        await near.ended()
    assert "a bug of ours" in caplog.text
    assert "Fatal error" not in caplog.text


async def test_a_closed_listener_accepts_no_more_and_leaves_connections_alone(
    place: Place,
) -> None:
    async with place.pair(far=Recorder(echo=True)) as (near, _):
        pass
    near, far = Recorder(), Recorder(echo=True)
    listener = await place.listen(lambda: far)
    await place.dial(listener.url, near)
    await until(lambda: far.transport is not None, "the accepting end")
    await listener.close()
    await listener.close()
    with pytest.raises(
        Unreachable, match=r"refused|Connect call failed|No such file|nobody listens"
    ):
        await place.dial(listener.url, Recorder())
    send(near.transport, b"still here")
    assert await near.arrived(1) == [b"still here"]
    near.transport.close()
    await near.ended()
    await far.ended()


async def test_many_connections_do_not_mix(place: Place) -> None:
    accepted: list[Recorder] = []

    def accept() -> Recorder:
        accepted.append(Recorder(echo=True))
        return accepted[-1]

    listener = await place.listen(accept)
    dialled = [Recorder() for _ in range(20)]
    try:
        await asyncio.gather(*(place.dial(listener.url, end) for end in dialled))
        # All at once through the one read buffer of the loop, in pieces of every size.
        for round_ in range(5):
            for number, end in enumerate(dialled):
                send(end.transport, b"%06d" % number * (1 + 4000 * round_))
        for number, end in enumerate(dialled):
            for round_, frame in enumerate(await end.arrived(5)):
                assert frame == b"%06d" % number * (1 + 4000 * round_)
    finally:
        await listener.close()
        for end in dialled:
            end.transport.close()
        for end in (*dialled, *accepted):
            await end.ended()
