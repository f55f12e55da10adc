"""A broker and providers as real processes, for each acceptance test its own."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.support.processes import BrokerProcess, Process, broker_process, running


@pytest.fixture
def broker() -> Iterator[BrokerProcess]:
    with broker_process() as process:
        yield process


@pytest.fixture
def start_provider(broker: BrokerProcess) -> Iterator[Callable[..., Process]]:
    """Start a provider and return when it is registered."""
    with ExitStack() as stack:

        def start(name: str = "one", url: str | None = None) -> Process:
            command = [sys.executable, "-m", "tests.acceptance.provider"]
            process = stack.enter_context(
                running(*command, url or broker.url("tcp"), name, name=f"provider {name}")
            )
            process.wait_for_line("registered", stream="stderr")
            return process

        yield start
