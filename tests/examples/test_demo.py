"""`make demo`, as a newcomer runs it: it succeeds, or it says why; it never leaves a process."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.support.processes import running

DEMO = [sys.executable, "-m", "examples.demo"]
AT_MOST = 90.0  # s; it takes about 10 on two idle cores


def left_behind(directory: Path) -> list[str]:
    """The processes that name *directory*, which the demo was given for its files."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                environment = (entry / "environ").read_bytes()
            except OSError:
                continue  # it ended just now, or is another user's
            if os.fsencode(f"TMPDIR={directory}") in environment.split(b"\0"):
                found.append(entry.name)
    return found


async def test_the_demo_shows_every_kind_of_call_and_ends_well(tmp_path: Path) -> None:
    with running(*DEMO, name="demo", env={"TMPDIR": str(tmp_path)}) as demo:
        assert await demo.ended(within=AT_MOST) == 0
        demo.stop()
        shown = "\n".join(demo.lines())
        assert demo.lines("stderr") == []
    for kind in ("Request-response", "Request-stream", "Request-channel"):
        assert f"{kind}:" in shown
    for words in ("Fire-and-forget:", "Metadata-push:", "Backpressure:", "PeerLost", "all true"):
        assert words in shown
    assert left_behind(tmp_path) == []
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_a_demo_that_is_stopped_takes_everything_with_it(
    tmp_path: Path, number: signal.Signals, status: int
) -> None:
    with running(*DEMO, name="demo", env={"TMPDIR": str(tmp_path)}) as demo:
        await demo.line("services are registered", within=AT_MOST)
        assert len(left_behind(tmp_path)) > 5
        began = time.monotonic()
        os.kill(demo.pid, number)  # the demo alone: it has to end the others itself
        assert await demo.ended(within=30) == status
        assert time.monotonic() - began < 20
    assert left_behind(tmp_path) == []
    assert os.listdir(tmp_path) == []


async def test_a_demo_whose_broker_cannot_start_fails_and_shows_what_it_said(
    tmp_path: Path,
) -> None:
    env = {"TMPDIR": str(tmp_path), "RSOCKET_BROKER_NO_SUCH_KEY": "1"}
    with running(*DEMO, name="demo", env=env) as demo:
        assert await demo.ended(within=AT_MOST) == 1
        demo.stop()
        shown = " ".join(demo.lines())
    assert "RSOCKET_BROKER_NO_SUCH_KEY" in shown
    assert "The demo failed." in shown
    assert left_behind(tmp_path) == []
