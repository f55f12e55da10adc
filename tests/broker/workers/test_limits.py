"""Limits of a broker of several workers: in total, per address, and of open files."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager

import msgspec
import pytest

from broker.config import Config, Limits, WorkersConfig
from broker.workers.share import share_of
from rsocket_mesh.errors import ErrorCode
from rsocket_mesh.protocol.frames import KEEPALIVE, encode_keepalive, encode_setup, peek
from tests.support.processes import BrokerProcess, running
from tests.support.raw_clients import SETUP, RawClient
from tests.support.worker_brokers import WAIT, Workers, a_broker_of


def until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, f"not within {WAIT} s: {what}"
        time.sleep(0.01)


@contextmanager
def clients(workers: Workers, how_many: int) -> Iterator[list[RawClient]]:
    with ExitStack() as stack:
        yield [
            stack.enter_context(closing(RawClient(workers.broker).setup())) for _ in range(how_many)
        ]


@pytest.mark.parametrize("limit", ["connections", "connections_per_address"])
def test_a_limit_on_connections_holds_for_all_workers_together(limit):
    with a_broker_of(2, **{limit: 5}) as workers, ExitStack() as stack:
        held = stack.enter_context(clients(workers, 5))
        with closing(RawClient(workers.broker)) as beyond:
            code, text = beyond.refused()
        assert code == ErrorCode.REJECTED_SETUP
        assert text.startswith("OVERLOADED: ")
        assert " 5 connections already" in text
        assert workers.metric("limits_hit_total", f'{{limit="{limit}"}}') == 1
        until(lambda: sum(workers.placed()) == 5, "who was refused is gone")
        held[0].close()
        until(lambda: sum(workers.placed()) == 4, "there is room again")
        with closing(RawClient(workers.broker)) as again:
            again.setup()


def test_connections_are_shared_out_evenly_and_the_gaps_are_filled():
    with a_broker_of(2) as workers, clients(workers, 9) as held:
        assert sorted(workers.placed()) == [4, 5]
        for client in held[:6:2]:  # three of worker 0
            client.close()
        until(lambda: workers.placed() == [2, 4], "they are gone")
        with clients(workers, 2):
            assert workers.placed() == [4, 4]


def test_sessions_without_a_name_of_their_own_are_told_apart_across_workers():
    with a_broker_of(3) as workers, clients(workers, 9):
        rows = workers.api("/api/v1/connections")["connections"]
        assert len({row["instance"] for row in rows}) == 9
        assert len({row["id"] for row in rows}) == 9
        assert sorted(row["worker"] for row in rows) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


OPEN_FILES, SPARE = 96, 40
MANY = 140  # connections: more than two workers have files for


def is_served(client: RawClient, wait: float) -> bool:
    client.sock.settimeout(wait)
    try:
        return peek(client.frame())[1] == KEEPALIVE
    except TimeoutError:
        return False


def test_who_connects_waits_while_no_worker_has_open_files_left():
    command = [sys.executable, "-m", "broker", "--listen", "tcp://127.0.0.1:0", "--workers", "2"]
    command += ["--admin", "http://127.0.0.1:0"]
    shell = f'ulimit -n {OPEN_FILES}; exec "$@"'
    env = {"RSOCKET_BROKER_LIMITS__SPARE_DESCRIPTORS": str(SPARE)}
    with running("sh", "-c", shell, "sh", *command, name="broker", env=env) as process:
        process.wait_for_line("^ready$")
        urls = [line.split()[1] for line in process.lines() if line.startswith("listening ")]
        workers = Workers(BrokerProcess(process, urls))
        with ExitStack() as stack:
            held = [stack.enter_context(closing(RawClient(workers.broker))) for _ in range(MANY)]
            for client in held:
                client.send(encode_setup(SETUP), encode_keepalive(respond=True))
            process.wait_for_line("connections have to wait", stream="stderr")
            served = [client for client in held if is_served(client, 0.05)]
            assert 40 < len(served) <= 2 * (OPEN_FILES - SPARE)
            assert workers.metric("limits_hit_total", '{limit="spare_descriptors"}') >= 2
            waiting = [client for client in held if client not in served]
            for client in served:
                client.close()
            for client in waiting:
                assert is_served(client, WAIT)
        assert "Traceback" not in "\n".join(process.lines("stderr"))


def test_limits_of_all_peers_that_nobody_counts_in_one_place_are_shared_out():
    limits = Limits(
        memory_bytes=1000, waiting_requests=5, waiting_bytes=0, resume_total_bytes=10**7
    )
    config = msgspec.structs.replace(Config(), limits=limits, workers=WorkersConfig(2))
    part = share_of(config).limits
    assert (part.memory_bytes, part.waiting_requests, part.waiting_bytes) == (500, 3, 0)
    assert part.resume_total_bytes == 5_000_000
    assert part.connections == limits.connections  # these are counted where they are accepted
    assert part.streams == limits.streams  # of one peer
