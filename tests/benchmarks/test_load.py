"""The load in C, over real sockets and processes: what it counts is what happened."""

from __future__ import annotations

import os
import shutil
import signal
import threading

import pytest

from benchmarks import raw, registry
from benchmarks.raw import Load
from benchmarks.stage import Options, Running

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="the load is C")

DIRECT = Running("self")
STOPPED = 0.3  # seconds
RATE = 1000.0


def test_a_middle_that_stands_still_is_charged_for_every_call_it_kept_from_being_made():
    [relay] = [one for one in registry.contenders() if one.name == "byte relay"]
    load = Load(rate=RATE, seconds=2.0, warm=0.1)
    with relay.start(Options()) as at:
        [pid] = at.pids

        def stop() -> None:
            os.kill(pid, signal.SIGSTOP)
            threading.Timer(STOPPED, os.kill, (pid, signal.SIGCONT)).start()

        timer = threading.Timer(1.0, stop)
        timer.start()
        found = raw.drive(load, at, relay.speaks)
        timer.join()
    # A load that waits for the answer sees one slow call; here it is all that were due meanwhile.
    held_up = sum(calls for edge, calls in found.histogram if edge > 50_000)
    assert held_up >= 0.5 * RATE * (STOPPED - 0.05)
    assert found.calls > held_up


@pytest.mark.parametrize("op", ["call", "stream", "channel", "fnf"])
@pytest.mark.parametrize("credit", [2, 256, 0x7FFF_FFFF])
def test_every_interaction_goes_on_with_any_credit(op, credit):
    load = Load(op=op, credit=credit, streams=3, in_flight=8, seconds=0.05, warm=0.02)
    found = raw.drive(load, DIRECT, "direct")
    assert found.calls > 100
    assert found.failed == 0


@pytest.mark.parametrize("speaks", ["direct", "http2"])
@pytest.mark.parametrize(("payload", "in_flight"), [(0, 1), (16, 300), (4096, 64), (1_048_576, 4)])
def test_payloads_of_any_size_come_back_in_every_language(speaks, payload, in_flight):
    load = Load(payload=payload, in_flight=in_flight, seconds=0.05, warm=0.02)
    found = raw.drive(load, DIRECT, speaks)
    assert found.calls > 0
    assert found.failed == 0
    assert sum(calls for _, calls in found.buckets) == found.calls


def test_connections_take_turns():
    found = raw.drive(
        Load(callers=50, providers=50, in_flight=64, seconds=0.05, warm=0.02), DIRECT, "direct"
    )
    assert found.calls > 100


def test_a_refused_connection_is_said_in_words():
    nobody = Running("tcp:1")
    with pytest.raises(raw.Unavailable, match="connect: Connection refused"):
        raw.drive(Load(seconds=0.05), nobody, "rsocket")
