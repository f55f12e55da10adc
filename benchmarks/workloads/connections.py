"""Connections: how many, how often new ones, and what idle ones and open streams cost."""

from __future__ import annotations

import dataclasses
import time
from typing import Final

from benchmarks.context import DEFAULT, Context, Sample
from benchmarks.figures import quantiles
from benchmarks.model import Row
from benchmarks.raw import Load, standing
from benchmarks.registry import Workload
from benchmarks.stage import Contender, Running

ROOM: Final = dataclasses.replace(DEFAULT, room=True)
MIB: Final = 1024 * 1024
IDLE: Final = 10_000
LOOKED_AT: Final = 3.0  # seconds that idle connections are watched
HELD: Final = 10_000  # open streams
SETTLING: Final = 0.5  # seconds: what connecting left to do is done by then


def many(context: Context) -> list[Row]:
    """Measure calls that are spread over callers' connections."""
    rows: list[Row] = []
    for callers in (1, 10) if context.quick else (1, 10, 1000):
        in_flight = max(64, callers)
        load = Load(in_flight=in_flight, callers=callers, spread=callers > 1)

        def sample(one: Contender, at: Running, load: Load = load) -> Sample:
            if one.speaks == "bytes" or one.name == "direct":  # they join connections in pairs
                load = Load(in_flight=load.in_flight, callers=load.callers, providers=load.callers)
            found = context.drive(load, one, at)
            return found.metrics() | quantiles(found.histogram), found.histogram

        everybody = context.contenders("direct", "bytes", "rsocket", "nats", "http2")
        context.tell(f"{callers} connections")
        with context.started(everybody, ROOM) as running:
            parameters = {"payload": 128, "connections": callers, "in_flight": in_flight}
            rows += context.interleave(parameters, running, sample)
    return rows


def churn(context: Context) -> list[Row]:
    """Measure connections that come, are accepted and go."""
    load = Load(op="churn", spread=True, count=4000)

    def sample(one: Contender, at: Running) -> Sample:
        found = context.drive(load, one, at)
        return found.metrics() | quantiles(found.histogram), found.histogram

    with context.started(context.contenders("rsocket", "nats", can="sessions"), ROOM) as running:
        return context.interleave({"what": "connect, be accepted, close"}, running, sample)


def _standing(context: Context, load: Load, can: str, count: int) -> list[Row]:
    """Measure what *count* connections or streams hold, each time in a fresh process."""
    rows: list[Row] = []
    rounds = 1 if context.quick else 2
    found: dict[str, list[Sample]] = {}
    for _ in range(rounds):
        for one in context.contenders("rsocket", "nats", can=can):
            context.tell(f"{count}, {one.name}")
            with context.started([one], ROOM) as running:
                if one.name not in running:
                    continue
                at = running[one.name][1]
                before = at.resident_bytes()
                with standing(context.load(load), at, one.speaks):
                    time.sleep(SETTLING)
                    after = at.resident_bytes()
                    cpu, begun = at.cpu_seconds(), time.monotonic()
                    time.sleep(0.5 if context.quick else LOOKED_AT)
                    cpu, took = at.cpu_seconds() - cpu, time.monotonic() - begun
                values = {
                    "bytes_each": (after - before) / count,
                    "total_mib": after / MIB,
                    "idle_share": cpu / took,
                }
                found.setdefault(one.name, []).append((values, []))
    for name, samples in found.items():
        rows.append(context.row(name, {"count": count}, samples))
    return rows


def idle(context: Context) -> list[Row]:
    """Measure idle connections."""
    count = 500 if context.quick else IDLE
    load = Load(op="idle", callers=count, spread=True)
    return _standing(context, load, "sessions", count)


def held(context: Context) -> list[Row]:
    """Measure open streams that nothing happens on, on ten connections."""
    count = 1000 if context.quick else HELD
    load = Load(op="hold", callers=10, streams=count, credit=1)
    return _standing(context, load, "stream", count)


WORKLOADS: Final = (
    Workload(
        "connections",
        "Connections",
        "Request-response of 128 bytes, calls spread evenly over the callers' connections.",
        many,
        order=30,
    ),
    Workload(
        "churn",
        "Connection churn",
        "One after the other: connect, SETUP (nats-server: CONNECT and PING), wait until it is"
        " accepted, close. Includes what cleaning up costs.",
        churn,
        order=34,
    ),
    Workload(
        "idle-connections",
        "Idle connections",
        "Resident memory of the middle beyond that before they came; CPU while nothing happens.",
        idle,
        order=36,
    ),
    Workload(
        "open-streams",
        "Open streams",
        "Streams that were asked for one item and wait for it; both halves of each are in the"
        " middle. Resident memory beyond that before.",
        held,
        order=38,
    ),
)
