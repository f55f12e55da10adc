"""Typed calls in Python, end to end: this library beside others, and what two cores give.

`benchmarks.rpc` and `benchmarks.rpc_throughput` measure; here their samples become rows. Both are
commands of their own too, with more choice.
"""

from __future__ import annotations

from typing import Final

from benchmarks import rpc, rpc_throughput
from benchmarks.context import Context, Sample
from benchmarks.model import Row
from benchmarks.registry import Workload

OURS: Final = "ours, through the broker"
CASES: Final = (("total", 1), ("total", 64), ("total", 256), ("echo", 64))
ROUNDS: Final = 3
SECONDS: Final = 0.7
BUSY_SECONDS: Final = 2.0  # of each round on all cores


def typed_calls(context: Context) -> list[Row]:
    """Measure CPU of caller and service, and of what is between them."""
    present = []
    for name, kind in rpc.CONTENDERS.items():
        if why := rpc.missing(kind):
            context.skip(name, why)
        else:
            present.append(name)
    cases = CASES[1:2] if context.quick else CASES
    rounds = 1 if context.quick else min(ROUNDS, context.rounds)
    found: dict[rpc.Key, list[Sample]] = {}
    for key, one in rpc.samples(present, cases, rounds, 0.3 if context.quick else SECONDS):
        if key not in found:
            context.tell(f"{key[1]}, {key[2]} in flight, {key[0]}")
        values = {
            "caller_us": one.caller_us,
            "service_us": one.service_us,
            "both_us": one.both_us,
            "per_second": one.calls_per_second,
        }
        if one.middle_us:
            values["cpu_us"] = one.middle_us
        found.setdefault(key, []).append((values, []))
    return [
        context.row(
            name,
            {"method": method, "in_flight": in_flight},
            samples,
            rpc.CONTENDERS[name].note,
        )
        for (name, method, in_flight), samples in found.items()
    ]


def throughput(context: Context) -> list[Row]:
    """Measure calls per second through the broker with every process where the system puts it."""
    samples: list[Sample] = []
    rounds = 1 if context.quick else min(ROUNDS, context.rounds)
    for one in rpc_throughput.samples(
        rpc_throughput.CALLERS,
        rpc_throughput.SERVICES,
        rpc_throughput.IN_FLIGHT,
        rounds,
        0.5 if context.quick else BUSY_SECONDS,
    ):
        values = {
            "per_second": one["calls_per_second"],
            "alone_per_second": one["alone_per_second"],
            "others_share": one["others_share"],
            "cpu_us": one["broker_us"],
            "caller_us": one["callers_us"],
            "service_us": one["services_us"],
        }
        samples.append((values, []))
    parameters: dict[str, str | int] = {
        "callers": rpc_throughput.CALLERS,
        "services": rpc_throughput.SERVICES,
        "in_flight": rpc_throughput.CALLERS * rpc_throughput.IN_FLIGHT,
        "cores": rpc_throughput.PROCESSORS,
    }
    return [context.row(OURS, parameters, samples)]


WORKLOADS: Final = (
    Workload(
        "typed-calls",
        "Python end to end",
        "Typed calls: `total(Order(6, 7)) -> int`, and `echo` of a record of about 128 bytes; CBOR,"
        " or what the other library uses. CPU of caller and service, and of the middle where there"
        " is one (`CPU us`). Processes run where the system puts them.",
        typed_calls,
        order=12,
    ),
    Workload(
        "typed-throughput",
        "Typed calls per second on all cores",
        "Callers, services and one broker share the machine. `alone` is the figure without the"
        " share of the processors that other programs took meanwhile.",
        throughput,
        order=13,
    ),
)
