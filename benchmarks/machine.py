"""What machine it is, and under which conditions it was measured."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from benchmarks import cores
from benchmarks.context import Context


def facts() -> dict[str, str]:
    """Return processor, memory, system and Python."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": f"{model}, {len(cores.AVAILABLE)} cores to use",
        "memory": f"{memory:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
    }


def conditions(context: Context) -> dict[str, str]:
    """Return what has to be known to repeat or to doubt it."""
    return {
        "rounds": f"{context.rounds} of each case, the contenders in turns; medians, and"
        " ± half of (most - least) / median",
        "warm-up": f"{context.warm:g} s of the same load before each measurement of"
        f" {context.seconds:g} s",
        "allocator": "each contender lives through all cases of a workload, so its allocator is"
        " warm, unless the workload says that it starts anew",
        "pinning": cores.describe(),
        "CPU": "the scheduler's account (`/proc/PID/task/*/schedstat`) of every thread of the whole"
        " process tree in the middle, read by the load at the beginning and the end",
        "load": "a program in C, callers and services in one thread, batches of what one turn"
        " brought; its own cost is `load share`, of one core. RSocket, NATS and HTTP/2 alike;"
        " behind a proxy the same program is the service too",
        "latency": "closed loop: from the write of a call to its answer; open loop: from when it"
        " was meant to leave. Kept in buckets of 1.6 %",
    }


def load_average() -> float:
    """Return the load average of the last minute."""
    return os.getloadavg()[0]
