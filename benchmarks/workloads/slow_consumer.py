"""One consumer that reads nothing, among many that do: what do the others notice?"""

from __future__ import annotations

from typing import Final

from benchmarks.context import Context, Sample
from benchmarks.model import Row
from benchmarks.raw import Load
from benchmarks.registry import Workload
from benchmarks.stage import Contender, Running

CONSUMERS: Final = 20
ITEM: Final = 512  # bytes


def run(context: Context) -> list[Row]:
    """Measure the items of all who read, with and without one who does not."""
    rows: list[Row] = []
    for stopped in (0, 1):
        load = Load(
            op="stream",
            payload=ITEM,
            callers=CONSUMERS,
            streams=CONSUMERS,
            credit=256,
            stopped=stopped,
        )

        def sample(one: Contender, at: Running, load: Load = load) -> Sample:
            return context.drive(load, one, at).metrics(), []

        context.tell(f"{stopped} of {CONSUMERS} stand still")
        with context.started(context.contenders("rsocket", can="stream")) as running:
            parameters = {"consumers": CONSUMERS, "standing_still": stopped}
            rows += context.interleave(parameters, running, sample)
    return rows


WORKLOADS: Final = (
    Workload(
        "slow-consumer",
        "One slow consumer among many",
        "Twenty consumers with a connection and a stream of 512-byte items each, from one service,"
        " 256 items of credit. One of them reads nothing; items per second are of all the others.",
        run,
        order=26,
    ),
)
