"""The public test kit: what programs and other RSocket implementations are tested with.

Floor below the command. `broker` is a whole mesh inside one test: the real broker in memory, a
clock that the test moves, faults of the network, and a record of every call. `conformance` speaks
raw frames to any RSocket peer and says which requirements of the protocol it keeps.

    clock         time that stands still       mesh_broker    the mesh that tests use
    links, wires  faults of the network        pytest_plugin  its fixtures
    record        calls, and the trace         conformance    raw frames to any peer
    sessions, switchboard                      who is who, for the record

Only this floor may import the broker, and it does so when a broker is really wanted: `import
rsocket_mesh` costs nothing of it, nor does a test run that does not use the kit.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rsocket_mesh.testing.clock import ManualClock, Stuck, manual_clock, run
    from rsocket_mesh.testing.links import Link
    from rsocket_mesh.testing.mesh_broker import MeshBroker, broker
    from rsocket_mesh.testing.record import RecordedCall

__all__ = [
    "Link",
    "ManualClock",
    "MeshBroker",
    "RecordedCall",
    "Stuck",
    "broker",
    "manual_clock",
    "run",
]

_HOMES = {
    "Link": "links",
    "MeshBroker": "mesh_broker",
    "RecordedCall": "record",
    "broker": "mesh_broker",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'clock')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
