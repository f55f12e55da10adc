"""Frozen views of a running broker: the only thing that admin HTTP and metrics get to see."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from broker.observe.counters import Counters


class ConnectionView(NamedTuple):
    """One live connection; times in seconds, sizes in bytes."""

    id: int
    transport: str  # `tcp 127.0.0.1:51234`
    tenant: str
    app: str
    instance: str
    connected_for: float
    streams_open: int
    bytes_in: int
    bytes_out: int
    outbound: int
    services: tuple[str, ...]
    detached: bool = False  # a resumable session that waits for its peer, without a socket
    resume_stored: int = 0  # bytes kept to be sent again
    worker: int = 0  # the process that has it, where there are several


class ServiceView(NamedTuple):
    """One service name of one tenant."""

    tenant: str
    name: str
    versions: tuple[str, ...]
    instances: int
    in_flight: int


class WorkerView(NamedTuple):
    """One process of a broker that has several. `state` is `starting`, `ready` or `gone`."""

    worker: int
    state: str
    pid: int
    restarts: int
    connections: int
    streams_open: int  # of its own callers
    passed_on: int  # calls that came from other workers so far
    link_bytes: int  # sent to other workers so far
    cpu_seconds: float
    resident: int  # bytes


class Snapshot(NamedTuple):
    """The broker at one moment. `state` is `starting`, `ready`, `draining` or `stopped`."""

    state: str
    version: str
    uptime: float
    connections: tuple[ConnectionView, ...]
    services: tuple[ServiceView, ...]
    streams_open: int
    memory_budget: int = 0  # bytes of the process
    memory_step: int = 0  # how near it is: 0 calm, 1 smaller windows, 2 refusing, 3 closing
    resume_overflows: int = 0  # how often what is kept to be sent again was too much
    workers: tuple[WorkerView, ...] = ()  # empty where one process is all


class BrokerView(Protocol):
    """What the daemon offers to its admin side."""

    @property
    def counters(self) -> Counters:
        """All that was counted so far."""

    async def refresh(self) -> bool:
        """Have `counters` and `snapshot` tell the state of now, where others have to be asked for
        it. Return False if one of them does not answer."""

    def snapshot(self) -> Snapshot:
        """Return the state now; costs time in proportion to connections and services."""
