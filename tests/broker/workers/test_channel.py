"""The channel between supervisor and worker: messages and descriptors, in order, and its end."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import pytest

from broker.workers import channel as module
from broker.workers.channel import MESSAGES_PER_TURN, Channel
from broker.workers.messages import Adopt, AskAll, Confirmed, Ended, Stop, ToSupervisor, ToWorker
from tests.support.waiting import until


class End:
    """One end, and all that came there."""

    def __init__(self, sock: socket.socket, kinds: Any) -> None:
        self.messages: list[Any] = []
        self.descriptors: list[list[int]] = []
        self.is_lost = False
        self.channel = Channel(sock, kinds, self._take, self._lose)

    def _take(self, message: Any, descriptors: list[int]) -> None:
        self.messages.append(message)
        self.descriptors.append(descriptors)

    def _lose(self) -> None:
        self.is_lost = True


@pytest.fixture
async def ends():
    near, far = socket.socketpair()
    supervisor, worker = End(near, ToSupervisor), End(far, ToWorker)
    yield supervisor, worker
    supervisor.channel.close()
    worker.channel.close()
    for descriptors in worker.descriptors:
        for descriptor in descriptors:
            os.close(descriptor)


async def test_messages_arrive_in_order_both_ways(ends):
    supervisor, worker = ends
    for number in range(3 * MESSAGES_PER_TURN):
        supervisor.channel.send(Confirmed(number))
    worker.channel.send(Ended("192.0.2.1"))
    await until(lambda: len(worker.messages) == 3 * MESSAGES_PER_TURN)
    assert [message.link for message in worker.messages] == list(range(3 * MESSAGES_PER_TURN))
    await until(lambda: supervisor.messages == [Ended("192.0.2.1")])


async def test_each_message_comes_with_its_own_descriptors(ends):
    supervisor, worker = ends
    readers = []
    for number in range(20):
        reader, writer = os.pipe()
        readers.append(reader)
        supervisor.channel.send(Adopt(number, 0), writer)
        supervisor.channel.send(Confirmed(number))
    await until(lambda: len(worker.messages) == 40)
    assert [len(some) for some in worker.descriptors] == [1, 0] * 20
    for number, reader in enumerate(readers):
        os.write(worker.descriptors[2 * number][0], str(number).encode())
        assert os.read(reader, 10) == str(number).encode()
        os.close(reader)


async def test_what_the_other_side_does_not_take_yet_waits_with_its_descriptors(ends):
    supervisor, worker = ends
    loop = asyncio.get_running_loop()
    loop.remove_reader(worker.channel._socket)
    reader, writer = os.pipe()
    large = AskAll(1, "x", b"y" * 3_000_000)
    worker_messages = 3
    supervisor.channel.send(Adopt(0, 0, first=large.argument))
    supervisor.channel.send(Adopt(1, 0, first=large.argument), writer)
    supervisor.channel.send(Stop())
    await asyncio.sleep(0)
    assert worker.messages == []
    loop.add_reader(worker.channel._socket, worker.channel._read)
    await until(lambda: len(worker.messages) == worker_messages)
    assert [len(some) for some in worker.descriptors] == [0, 1, 0]
    assert worker.messages[1].first == large.argument
    os.close(reader)


async def test_the_end_of_the_other_side_is_told_once(ends):
    supervisor, worker = ends
    worker.channel.close()
    await until(lambda: supervisor.is_lost)
    assert not worker.is_lost  # it was its own doing
    reader, writer = os.pipe()
    supervisor.channel.send(Stop(), writer)  # harmless, and nothing stays open
    assert os.read(reader, 1) == b""
    os.close(reader)


async def test_a_side_that_takes_nothing_counts_as_gone(ends, monkeypatch):
    supervisor, worker = ends
    monkeypatch.setattr(module, "MAX_WAITING", 1_000_000)
    asyncio.get_running_loop().remove_reader(worker.channel._socket)
    for _ in range(10):
        supervisor.channel.send(Adopt(0, 0, first=b"x" * 400_000))
    assert supervisor.is_lost
