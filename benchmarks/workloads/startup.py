"""From the order to start to ready, and from `python` to an imported library."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Final

from benchmarks import cores
from benchmarks.context import DEFAULT, Context, Sample
from benchmarks.model import Row
from benchmarks.registry import Workload
from benchmarks.stage import ROOT, Unavailable

IMPORT: Final = (
    "import time; begun = time.perf_counter(); import {module};"
    " print((time.perf_counter() - begun) * 1e3)"
)
MODULES: Final = (
    "rsocket_mesh",
    "rsocket_mesh.rpc",  # the names of the package are loaded when they are first used
    "rsocket.rsocket_client",
    "grpc.aio",
    "nats",
    "aiohttp",
)


def ready(context: Context) -> list[Row]:
    """Measure starts; ready is when a connection is accepted, or when it says so."""
    found: dict[str, list[Sample]] = {}
    everybody = context.contenders("rsocket", "nats", "http2")
    for _ in range(context.rounds):
        for one in everybody:
            begun = time.perf_counter()
            with context.started([one], DEFAULT) as running:
                took = time.perf_counter() - begun
                if one.name in running and running[one.name][1].pids:
                    found.setdefault(one.name, []).append(({"ready_ms": took * 1e3}, []))
    return [context.row(name, {"what": "start to ready"}, found[name]) for name in found]


def imports(context: Context) -> list[Row]:
    """Measure imports, each in an interpreter of its own, with compiled modules in place."""
    found: dict[str, list[Sample]] = {}
    for turn in range(context.rounds + 1):
        for module in MODULES:
            try:
                took = _import_ms(module)
            except Unavailable as exc:
                context.skip(f"import {module}", str(exc))
                continue
            if turn:  # the first writes the compiled modules
                found.setdefault(f"import {module}", []).append(({"import_ms": took}, []))
    return [context.row(name, {"what": "import"}, found[name]) for name in found]


def _import_ms(module: str) -> float:
    command = cores.pinned(cores.MIDDLE, sys.executable, "-c", IMPORT.format(module=module))
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, cwd=ROOT, timeout=30
    )
    if done.returncode:
        raise Unavailable(f"{module} is not installed")
    return float(done.stdout)


WORKLOADS: Final = (
    Workload(
        "start",
        "Start to ready",
        "Wall time from the order to start until it says that it is ready, or accepts connections."
        " Envoy's and nginx's configuration is the small one of these measurements.",
        ready,
        order=60,
    ),
    Workload(
        "import",
        "Import",
        "Wall time of the import statement in a new interpreter.",
        imports,
        order=62,
    ),
)
