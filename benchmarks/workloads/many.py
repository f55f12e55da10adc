"""Many services and many instances: does a call cost more where there is more to choose from?"""

from __future__ import annotations

import dataclasses
from typing import Final

import msgspec

from benchmarks.context import DEFAULT, Context, Sample
from benchmarks.figures import quantiles
from benchmarks.model import Row
from benchmarks.raw import Load
from benchmarks.registry import Workload
from benchmarks.stage import Contender, Running

ROOM: Final = dataclasses.replace(DEFAULT, room=True)
ROUTES: Final = 10_000
INSTANCES: Final = 1_000
IN_FLIGHT: Final = (1, 64)


def run(context: Context) -> list[Row]:
    """Measure one of each, many routes, and many instances, in turns of the same processes.

    Calls go to all routes in turn; the warm-up, with 256 in flight, passes each of them, so that
    what is measured is a broker that has seen its routes. Each case has processes of its own.
    """
    routes, instances = (200, 50) if context.quick else (ROUTES, INSTANCES)
    warm = 0.1 if context.quick else 0.8
    cases = [
        ({"routes": 1, "instances": 1}, Load()),
        ({"routes": routes, "instances": 1}, Load(routes=routes, warm=warm, warm_in_flight=256)),
        ({"routes": 1, "instances": instances}, Load(providers=instances)),
    ]
    found: dict[tuple[str, int, int], list[Sample]] = {}
    everybody = context.contenders("rsocket", "nats", can="many")
    for _ in range(context.rounds):
        for number, (parameters, load) in enumerate(cases):
            context.tell(", ".join(f"{key} {value}" for key, value in parameters.items()))
            with context.started(everybody, ROOM) as running:
                for in_flight in IN_FLIGHT:
                    load = msgspec.structs.replace(load, in_flight=in_flight)

                    def sample(one: Contender, at: Running, load: Load = load) -> Sample:
                        measured = context.drive(load, one, at)
                        values = measured.metrics() | quantiles(measured.histogram)
                        return values, measured.histogram

                    for row in context.interleave(parameters, running, sample, rounds=1):
                        values = {name: samples[0] for name, samples in row.metrics.items()}
                        key = row.contender, number, in_flight
                        found.setdefault(key, []).append((values, row.histogram))
    return [
        context.row(name, {**cases[number][0], "in_flight": in_flight}, samples)
        for (name, number, in_flight), samples in found.items()
    ]


WORKLOADS: Final = (
    Workload(
        "many",
        "Many routes, many instances",
        "Request-response of 128 bytes. Calls go to all routes in turn; instances are chosen by the"
        " middle. Each instance has a connection of its own: with 64 in flight, one batch for one"
        " becomes single writes to many, which any middle pays for; with 1 in flight every call is"
        " a write of its own in all cases, and what is left is the cost of finding the provider.",
        run,
        order=32,
    ),
)
