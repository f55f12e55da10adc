"""Half-open connections: packets vanish, nobody says goodbye, both ends notice in time."""

from __future__ import annotations

import re
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.acceptance.figures import say
from tests.support.namespaces import BROKER_HOST, wire
from tests.support.processes import running

pytestmark = pytest.mark.acceptance

LIFETIME = 3.0  # seconds


def test_both_ends_of_a_cut_wire_notice_within_the_lifetime(tmp_path: Path) -> None:
    config = tmp_path / "broker.toml"
    config.write_text(
        f'[[listeners]]\nurl = "tcp://{BROKER_HOST}:7878"\ninsecure = true\n[admin]\nurl = ""\n'
    )
    with wire() as network, ExitStack() as stack:
        command = (sys.executable, "-m", "broker", "--config", str(config))
        broker = stack.enter_context(running(*network.command(network.broker, *command)))
        broker.wait_for_line("^ready$")
        url = f"tcp://{BROKER_HOST}:7878"
        program = (sys.executable, "-m", "tests.acceptance.provider", url, "one", str(LIFETIME))
        provider = stack.enter_context(running(*network.command(network.client, *program)))
        provider.wait_for_line("registered", stream="stderr")
        # A sign of life is at most a third of the lifetime old when the wire is cut.
        network.cut()
        cut_at = time.monotonic()
        broker.wait_for_line(re.escape("keepalive-timeout"), stream="stderr", timeout=10)
        broker_after = time.monotonic() - cut_at
        provider.wait_for_line("lost tcp://", stream="stderr", timeout=10)
        provider_after = time.monotonic() - cut_at
    assert broker_after <= LIFETIME * 1.1
    assert provider_after <= LIFETIME * 1.1
    say(
        f"wire cut, lifetime {LIFETIME:g} s",
        f"broker noticed after {broker_after:.2f} s, service after {provider_after:.2f} s",
    )
