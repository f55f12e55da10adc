"""Fair turns: large messages in fragments, bounded shares, waiting for the transport."""

import asyncio

import pytest

from rsocket_mesh.peer.outbox import FRAGMENT_BYTES, FRAME_COST, TURN_BYTES, Outbox
from rsocket_mesh.protocol import frames
from rsocket_mesh.protocol.fragments import payload_frames
from rsocket_mesh.protocol.frames import REQUEST_N, peek
from rsocket_mesh.protocol.payload import Payload
from tests.support.waiting import settled, until


class Sent(list):
    def ids(self):
        return [peek(frame)[0] for frame in self]


@pytest.fixture
def sent():
    return Sent()


@pytest.fixture
async def outbox(sent):
    return Outbox(sent.append, fragment_size=1024)


def a_message(stream_id, size=10_000):
    return payload_frames(stream_id, Payload(b"x" * size), 1024)


async def test_large_messages_of_several_streams_take_turns(outbox, sent):
    """C-95, the sending side: frames of streams alternate, so the small one is done first."""
    outbox.set_writable(False)
    outbox.put_answer(1, a_message(1, 100_000))
    outbox.put_answer(3, a_message(3, 100_000))
    outbox.put_answer(5, a_message(5, 2000))
    outbox.set_writable(True)
    await until(lambda: not outbox.busy)
    assert sent.ids()[:8] == [1, 3, 5, 1, 3, 5, 1, 3]
    assert 5 not in sent.ids()[6:]
    assert sent.ids()[6:] == [1, 3] * (len(sent) // 2 - 3)


async def test_a_message_is_never_overtaken_within_its_stream(outbox, sent):
    """b09: fragments of one stream stay together, whatever is sent meanwhile."""
    outbox.set_writable(False)
    outbox.put_answer(1, a_message(1))
    outbox.put_request_n(1, 5)
    outbox.put_request_n(1, 6)
    assert sent == []
    outbox.set_writable(True)
    await until(lambda: not outbox.busy)
    kinds = [peek(frame)[1] for frame in sent]
    assert kinds.count(REQUEST_N) == 1
    assert kinds[-1] == REQUEST_N
    assert frames.decode_request_n(sent[-1]) == 11


async def test_credit_of_another_stream_does_not_wait(outbox, sent):
    outbox.set_writable(False)
    outbox.put_answer(1, a_message(1))
    outbox.put_request_n(3, 5)
    assert sent == [frames.encode_request_n(3, 5)]


async def test_one_turn_sends_a_bounded_share(outbox, sent):
    outbox.put_answer(1, a_message(1, 10 * TURN_BYTES))
    in_one_turn = sum(map(len, sent))
    assert FRAGMENT_BYTES <= in_one_turn <= FRAGMENT_BYTES + 1024
    await until(lambda: not outbox.busy)
    assert sum(len(frame) - 6 for frame in sent) == 10 * TURN_BYTES


async def test_nothing_large_leaves_while_the_transport_is_full(outbox, sent):
    """b10, b23: what waits is an iterator, not frames."""
    outbox.put_answer(1, a_message(1, 10 * TURN_BYTES))
    outbox.set_writable(False)
    before = len(sent)
    await settled()
    assert len(sent) == before
    outbox.put_answer(3, payload_frames(3, Payload(b"small"), 1024))
    assert len(sent) == before
    outbox.set_writable(True)
    await until(lambda: not outbox.busy)
    assert 3 in sent.ids()


async def test_producers_wait_for_the_next_turn_and_are_served_in_order(outbox, sent):
    item = payload_frames(1, Payload(b"x"), 1024)
    served = []

    async def produce(name):
        if not outbox.open:
            await outbox.turn()
        outbox.put_item(1, item)
        served.append(name)

    for _ in range(TURN_BYTES // FRAME_COST):
        outbox.put_item(1, item)
    assert not outbox.open
    await asyncio.gather(*(produce(name) for name in range(1000)))
    assert served == list(range(1000))


async def test_a_cancelled_producer_leaves_nothing_behind(outbox):
    outbox.set_writable(False)
    tasks = [asyncio.create_task(outbox.turn()) for _ in range(10)]
    await settled()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert not outbox._waiters


async def test_a_dropped_message_sends_no_more_and_wakes_who_waits_for_it(outbox, sent):
    outbox.set_writable(False)
    outbox.put_answer(1, a_message(1))
    waiting = asyncio.create_task(outbox.drained(1))
    await settled()
    outbox.drop(1)
    await asyncio.wait_for(waiting, 5)
    outbox.set_writable(True)
    await settled()
    assert sent == []
    await outbox.drained(1)


async def test_closing_wakes_all_and_sends_nothing_more(outbox, sent):
    outbox.set_writable(False)
    outbox.put_answer(1, a_message(1))
    waiting = [asyncio.create_task(outbox.turn()), asyncio.create_task(outbox.drained(1))]
    await settled()
    outbox.close()
    await asyncio.wait_for(asyncio.gather(*waiting), 5)
    outbox.send(b"late")
    outbox.set_writable(True)
    await settled()
    assert sent == []


async def test_one_producer_that_never_pauses_does_not_starve_the_others(outbox, sent):
    done = asyncio.Event()

    async def produce(stream_id, count):
        for _ in range(count):
            if not outbox.open:
                await outbox.turn()
            outbox.put_item(stream_id, payload_frames(stream_id, Payload(b"x" * 1000), 1024))
        done.set()

    greedy = [asyncio.create_task(produce(1, 100_000)) for _ in range(50)]
    await settled()
    await asyncio.wait_for(produce(3, 100), 5)
    assert done.is_set()
    for task in greedy:
        task.cancel()
    await asyncio.gather(*greedy, return_exceptions=True)


async def test_large_messages_do_not_starve_small_ones(outbox, sent):
    outbox.put_answer(1, a_message(1, 10 * TURN_BYTES))
    for _ in range(3):
        assert outbox.busy
        if not outbox.open:
            await outbox.turn()
        outbox.put_item(3, payload_frames(3, Payload(b"small"), 1024))
    assert outbox.busy


async def test_when_all_has_left_no_turn_of_the_loop_is_taken_any_more() -> None:
    """An idle connection costs nothing: a turn that schedules the next for ever is a busy loop."""
    sent: list[bytes] = []
    outbox = Outbox(sent.append)
    outbox.put_answer(1, iter([b"x" * 60_000] * 5))
    outbox.put_item(3, b"y" * 2_000)
    outbox.put_item(5, iter([b"z" * 60_000] * 3))
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(sent) == 9
    assert outbox.open
    assert not outbox._turn_due
