"""Streams of small items under credit, fire-and-forget, and channels that echo."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from benchmarks.context import Context, Sample
from benchmarks.model import Row
from benchmarks.raw import Load
from benchmarks.registry import Workload
from benchmarks.stage import Contender, Running
from rsocket_mesh.protocol.frames import MAX_REQUEST_N

ITEM: Final = 32  # bytes
STREAMS: Final = (1, 16)  # open at the same time, on one connection
CREDITS: Final = (32, 256, MAX_REQUEST_N)


def _measure(
    context: Context, can: str, load: Load, parameters: Mapping[str, str | int]
) -> list[Row]:
    def sample(one: Contender, at: Running) -> Sample:
        return context.drive(load, one, at).metrics(), []

    everybody = [
        *context.contenders("direct", "bytes"),
        *context.contenders("rsocket", "nats", can=can),
    ]
    context.tell(", ".join(f"{key} {value}" for key, value in parameters.items()))
    with context.started(everybody) as running:
        return context.interleave(parameters, running, sample)


def streams(context: Context) -> list[Row]:
    """Measure items per second and CPU per item."""
    rows: list[Row] = []
    for count in STREAMS[-1:] if context.quick else STREAMS:
        for credit in CREDITS[1:2] if context.quick else CREDITS:
            load = Load(op="stream", payload=ITEM, streams=count, credit=credit)
            shown = "unlimited" if credit == MAX_REQUEST_N else credit
            parameters = {"item": ITEM, "streams": count, "credit": shown}
            rows += _measure(context, "stream", load, parameters)
    return rows


def fire_and_forget(context: Context) -> list[Row]:
    """Measure requests that nobody answers; they count when they arrive at the service."""
    load = Load(op="fnf", payload=128, in_flight=1024)
    return _measure(context, "fnf", load, {"payload": 128, "under_way": 1024})


def channels(context: Context) -> list[Row]:
    """Measure items that go to the service and come back on the same channel."""
    rows: list[Row] = []
    for count, in_flight in ((1, 64),) if context.quick else ((1, 64), (16, 1024)):
        load = Load(op="channel", payload=128, streams=count, in_flight=in_flight, credit=256)
        parameters = {"payload": 128, "channels": count, "in_flight": in_flight}
        rows += _measure(context, "channel", load, parameters)
    return rows


WORKLOADS: Final = (
    Workload(
        "request-stream",
        "Request-stream",
        "Items of 32 bytes as fast as credit allows; the consumer asks for more when half of it is"
        " used. CPU and throughput are per item. nats-server and the proxies have no such thing.",
        streams,
        order=20,
    ),
    Workload(
        "fire-and-forget",
        "Fire-and-forget",
        "128 bytes each, 1,024 on their way between caller and service; counted at the service.",
        fire_and_forget,
        order=22,
    ),
    Workload(
        "channel",
        "Request-channel",
        "Every item is sent back by the service; 256 items of credit in each direction.",
        channels,
        order=24,
    ),
)
