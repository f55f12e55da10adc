"""A broker and a service in processes of their own, and the command as a shell would run it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from tests.support.processes import ROOT, broker_process, running

HERE: Final = Path(__file__).resolve().parent
COMMAND: Final = [sys.executable, "-c", "from rsocket_mesh.cli.main import main; main()"]
TIMEOUT: Final = 60.0  # seconds; on a busy machine of two cores


class Result(NamedTuple):
    """What one run of the command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document on stdout."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """The documents on stdout, one per line."""
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Result]


def environment(url: str, home: Path) -> dict[str, str]:
    """The user's environment, with a config folder of its own."""
    return {
        **os.environ,
        "RSOCKET_MESH_BROKER": url,
        "XDG_CONFIG_HOME": str(home),
        "PYTHONPATH": str(ROOT),
    }


@pytest.fixture(scope="session")
def broker_url() -> Iterator[str]:
    """A broker on which the service `desk` is connected."""
    with broker_process(listen=("tcp://127.0.0.1:0",)) as broker:
        url = broker.url("tcp")
        with running(
            sys.executable, HERE / "desk.py", url, name="desk", env={"PYTHONPATH": str(ROOT)}
        ) as desk:
            desk.wait_for_line("^ready$")
            yield url


@pytest.fixture
def own_broker() -> Iterator[tuple[str, Callable[[], None]]]:
    """A broker of the test's own: its URL, and how to kill it."""
    with broker_process(listen=("tcp://127.0.0.1:0",)) as broker:
        yield broker.url("tcp"), broker.process.kill


@pytest.fixture
def unused_port() -> int:
    """A loopback port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def mesh(broker_url: str, tmp_path: Path) -> Run:
    """Run `rsocket-mesh` against the broker; nothing of the user's own config counts."""

    def run(*arguments: str, stdin: str | bytes = b"", broker: str | None = None) -> Result:
        data = stdin.encode() if isinstance(stdin, str) else stdin
        done = subprocess.run(
            [*COMMAND, *arguments],
            input=data,
            capture_output=True,
            timeout=TIMEOUT,
            env=environment(broker_url if broker is None else broker, tmp_path),
            cwd=tmp_path,
            check=False,
        )
        return Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    return run
