"""The broker over each of its transports, and over several processes."""

from __future__ import annotations

import dataclasses
from typing import Final

from benchmarks.context import DEFAULT, Context, Sample
from benchmarks.figures import quantiles
from benchmarks.model import Row
from benchmarks.raw import Load
from benchmarks.registry import Workload
from benchmarks.stage import Contender, Running

CASES: Final = ((128, 1), (128, 64), (4096, 64), (65_536, 16))
ANYWHERE: Final = dataclasses.replace(DEFAULT, core=None)


def transports(context: Context) -> list[Row]:
    """Measure request-response over TCP, Unix sockets, TLS and WebSocket."""
    rows: list[Row] = []
    names = [one for one in context.contenders("rsocket") if "transports" in one.only]
    with context.started(names) as running:
        for payload, in_flight in CASES[1:2] if context.quick else CASES:
            load = Load(payload=payload, in_flight=in_flight)

            def sample(one: Contender, at: Running, load: Load = load) -> Sample:
                found = context.drive(load, one, at)
                values = found.metrics() | quantiles(found.histogram)
                values["bytes_per_cpu_second"] = 2 * found.bytes / found.middle_cpu / 1e6
                return values, found.histogram

            context.tell(f"{payload} B, {in_flight} in flight")
            parameters = {"payload": payload, "in_flight": in_flight}
            rows += context.interleave(parameters, running, sample)
    return rows


def workers(context: Context) -> list[Row]:
    """Measure what one and two processes reach, with everything where the system puts it."""
    rows: list[Row] = []
    names = [one for one in context.contenders("rsocket") if "workers" in one.only]
    with context.started(names, ANYWHERE) as running:
        for in_flight in (1024,) if context.quick else (64, 1024):
            load = Load(in_flight=in_flight, callers=8, providers=8)

            def sample(one: Contender, at: Running, load: Load = load) -> Sample:
                found = context.drive(load, one, at)
                return found.metrics() | quantiles(found.histogram), found.histogram

            parameters: dict[str, str | int] = {
                "payload": 128,
                "connections": "8 + 8",
                "in_flight": in_flight,
            }
            rows += context.interleave(parameters, running, sample)
    return rows


WORKLOADS: Final = (
    Workload(
        "transports",
        "Transports",
        "Our broker alone: request-response with both sides on the same kind of listener. What TLS"
        " and WebSocket masks cost is in the middle's figure once for each side.",
        transports,
        order=18,
    ),
    Workload(
        "workers",
        "Several cores",
        "Eight callers' and eight services' connections. Nothing is pinned but the load, which"
        " needs a core of its own: on two cores, two workers share one of them with it, so look at"
        " `load share` beside the throughput.",
        workers,
        order=40,
    ),
)
