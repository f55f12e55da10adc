"""Where attacks take place: a broker as a process, a bystander that is timed, and the attacker.

The broker has its defaults but for two times, which are a second here so that a test can see them
pass. What is measured comes from outside: memory and descriptors from the operating system, reasons
from /metrics, latencies from the bystander.
"""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from tests.acceptance.figures import peak_resident, reset_peak, resident
from tests.support.processes import BrokerProcess, Process, broker_process, running

SHORT = {
    "RSOCKET_BROKER_LIMITS__SETUP_TIMEOUT": "1 s",
    "RSOCKET_BROKER_LIMITS__FRAME_TIMEOUT": "1 s",
    "RSOCKET_BROKER_LIMITS__RESUME_TIMEOUT": "1 s",
}
SETTLED = 5.0  # seconds after which nothing of an attack may be left
# Metrics that name a reason, and the label it is in.
REASONS = {
    "rsocket_broker_connections_closed_total": "reason",
    "rsocket_broker_limits_hit_total": "limit",
    "rsocket_broker_ignored_frames_total": "kind",
    "rsocket_broker_dropped_total": "reason",
    "rsocket_broker_calls_total": "outcome",
}


class Phase(NamedTuple):
    """What the bystander saw; latencies in seconds."""

    calls: int
    p50: float
    p99: float
    worst: float


class Result(NamedTuple):
    """What an attacker did and was told, and what it cost; sizes in bytes."""

    sent: int
    connections: int
    streams: int
    told: dict[str, int]
    reasons: Counter[str]
    growth: int
    descriptors: int

    def allowed(self) -> int:
        """What the broker may have spent on it."""
        return 20 * 1024 * self.connections + 1024 * self.streams + 2 * self.sent


class Arena:
    """One broker and what happens around it."""

    def __init__(self, broker: BrokerProcess) -> None:
        self.broker = broker
        self.pid = broker.process.pid
        self.port = int(broker.url("tcp").rpartition(":")[2])

    def memory(self) -> int:
        return resident(self.pid)

    def descriptors(self) -> int:
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())

    def reasons(self) -> Counter[str]:
        """Return all that was counted under a reason: `closed keepalive-flood` and so on."""
        with urllib.request.urlopen(f"{self.broker.url('http')}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        found: Counter[str] = Counter()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                label = REASONS.get(sample.name)
                if label is not None:
                    words = sample.name.removeprefix("rsocket_broker_").split("_")
                    what = "limit" if words[0] == "limits" else words[-2]
                    found[f"{what} {sample.labels[label]}"] += int(sample.value)
        return found

    def attack(self, name: str, seconds: float, until: Sequence[str] = ()) -> Result:
        """Run one attack for *seconds*, or until all reasons of *until* were counted."""
        before, reasons = self.memory(), self.reasons()
        reset_peak(self.pid)
        command = [sys.executable, "-m", "tests.attacks.attacker", name, str(self.port)]
        descriptors = self.descriptors()
        with running(*command, str(seconds), name=name) as attacker:
            while attacker.returncode is None:
                descriptors = max(descriptors, self.descriptors())
                time.sleep(0.05)
                if until and all(map((self.reasons() - reasons).get, until)):
                    attacker.send_line("enough")
                    attacker.wait()
            report = json.loads(attacker.lines()[-1]) if attacker.lines() else None
            assert report is not None, "the attacker has failed"
        return Result(
            **report,
            reasons=self.reasons() - reasons,
            growth=max(0, peak_resident(self.pid) - before),
            descriptors=descriptors,
        )

    def remains(self, before: int, allowed: int, within: float) -> int:
        """Return by how much memory is above *before* once that is no more than *allowed*, or at
        the latest in *within* seconds."""
        until = time.monotonic() + within
        while self.memory() - before > allowed and time.monotonic() < until:
            time.sleep(0.05)
        return self.memory() - before

    def settle(self, descriptors: int, within: float) -> float:
        """Wait until no more than *descriptors* are open; return how long that took."""
        began = time.monotonic()
        while self.descriptors() > descriptors:
            took = time.monotonic() - began
            assert took < within, f"{self.descriptors()} descriptors after {took:.1f} s"
            time.sleep(0.05)
        return time.monotonic() - began


class Bystander:
    """The pair that is timed, while the block runs."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def phase(self) -> Phase:
        """End a phase; return what was seen in it."""
        self._process.send_line("next")
        line = self._process.wait_for_line(r"^\{.*\}$")
        return Phase(**json.loads(line.string))


@contextmanager
def arena() -> Iterator[Arena]:
    with broker_process(
        listen=("tcp://127.0.0.1:0", "ws://127.0.0.1:0"), admin="http://127.0.0.1:0", env=SHORT
    ) as broker:
        with suppress(PermissionError):  # what shares the machine is not what is measured
            os.setpriority(os.PRIO_PROCESS, broker.process.pid, -10)
        yield Arena(broker)


@contextmanager
def bystander(place: Arena) -> Iterator[Bystander]:
    command = [sys.executable, "-m", "tests.attacks.bystander", str(place.port)]
    with running(*command, name="bystander") as process:
        process.wait_for_line("^ready$")
        yield Bystander(process)
