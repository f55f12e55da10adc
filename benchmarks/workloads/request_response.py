"""Request-response: payload sizes by calls in flight, on one connection each side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from benchmarks.context import Context, Sample
from benchmarks.figures import quantiles
from benchmarks.model import Row
from benchmarks.raw import Load
from benchmarks.registry import Workload
from benchmarks.stage import Contender, Running

SIZES: Final = (16, 128, 4096, 65_536, 1_048_576)  # bytes
IN_FLIGHT: Final = (1, 64, 1024)
MOST_AT_ONCE: Final = 64 * 1024 * 1024  # bytes in flight: beyond, only buffers are measured
PROMISED: Final = (128, 4096)  # bytes: what limits are about gets all rounds, the rest fewer
FEWER: Final = 3
QUICK: Final = ((128, 1), (128, 64), (4096, 64))


def cases(quick: bool) -> list[tuple[int, int]]:
    """Return pairs of payload bytes and calls in flight."""
    if quick:
        return list(QUICK)
    pairs = [(size, count) for size in SIZES for count in IN_FLIGHT]
    return [(size, count) for size, count in pairs if size * count <= MOST_AT_ONCE]


def case(
    context: Context, running: Mapping[str, tuple[Contender, Running]], size: int, in_flight: int
) -> list[Row]:
    """Measure one payload size with one number of calls in flight."""
    load = Load(payload=size, in_flight=in_flight)

    def sample(one: Contender, at: Running) -> Sample:
        found = context.drive(load, one, at)
        metrics = found.metrics() | quantiles(found.histogram)
        if found.middle_cpu:
            metrics["bytes_per_cpu_second"] = 2 * found.bytes / found.middle_cpu / 1e6
        return metrics, found.histogram

    context.tell(f"{size} B, {in_flight} in flight")
    rounds = context.rounds if size in PROMISED else min(FEWER, context.rounds)
    parameters = {"payload": size, "in_flight": in_flight}
    return context.interleave(parameters, running, sample, rounds=rounds)


def run(context: Context) -> list[Row]:
    """Measure CPU per call, throughput and closed-loop latency of everybody."""
    rows: list[Row] = []
    everybody = context.contenders("direct", "bytes", "rsocket", "nats", "http2")
    with context.started(everybody) as running:
        for size, in_flight in cases(context.quick):
            rows += case(context, running, size, in_flight)
    return rows


WORKLOADS: Final = (
    Workload(
        "request-response",
        "Request-response",
        "One connection on each side, a fixed number of calls in flight (closed loop), the same"
        " number of bytes there and back. CPU is of the process in the middle. Our broker refuses"
        " requests towards a provider that has more than `limits.outbound_bytes` waiting, where"
        " others queue: with tens of megabytes in flight that is the column `refused`.",
        run,
        order=10,
    ),
)
