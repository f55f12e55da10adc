"""A broker and the examples as real processes, started once per module."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack

import pytest

from rsocket_mesh import Mesh, connect
from tests.support.processes import BrokerProcess, Process, broker_process, running


@pytest.fixture(scope="module")
def broker() -> Iterator[BrokerProcess]:
    with broker_process(listen=["tcp://127.0.0.1:0"]) as process:
        yield process


@pytest.fixture(scope="module")
def environment(broker: BrokerProcess) -> dict[str, str]:
    """What tells an example where the broker is."""
    return {"RSOCKET_MESH_BROKER": broker.url("tcp")}


@pytest.fixture(scope="module")
def start(environment: dict[str, str]) -> Iterator[Callable[..., Process]]:
    """Start the service of an example and return when it is registered."""
    with ExitStack() as stack:

        def start(example: str, *arguments: str) -> Process:
            command = [sys.executable, "-m", f"examples.{example}", *arguments]
            process = stack.enter_context(running(*command, name=example, env=environment))
            process.wait_for_line("registered", stream="stderr")
            return process

        yield start


@pytest.fixture
async def mesh(broker: BrokerProcess) -> AsyncIterator[Mesh]:
    async with connect(broker.url("tcp"), app="test") as mesh:
        yield mesh
