"""Two hosts on one machine: network namespaces joined by a wire that a test can cut.

Cutting drops packets both ways without a word to either end, as a dead router does; a closed or
killed process would send FIN or RST. Needs root, `ip` and `nft`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import pytest

BROKER_HOST: Final = "10.77.0.1"
CLIENT_HOST: Final = "10.77.0.2"


class Wire:
    """Two namespaces, `broker` and `client`; `devices` are the ends of the wire in them."""

    def __init__(self, broker: str, client: str, devices: tuple[str, str]) -> None:
        self.broker = broker
        self.client = client
        self.devices = devices

    def command(self, namespace: str, *command: str) -> list[str]:
        """Return *command* as it runs inside *namespace*."""
        return ["ip", "netns", "exec", namespace, *command]

    def cut(self) -> None:
        """Drop every packet between the two from now on."""
        for line in (
            "add table inet cut",
            "add chain inet cut input { type filter hook input priority 0; }",
            "add rule inet cut input iifname != lo drop",
        ):
            _run("ip", "netns", "exec", self.broker, "nft", line)

    def lose(self, per_mille: int) -> None:
        """Drop so many of a thousand packets from now on, each way, instead of what was before."""
        for namespace in (self.broker, self.client):
            for line in (
                "add table inet loss",
                "flush table inet loss",
                "add chain inet loss input { type filter hook input priority 0; }",
                f"add rule inet loss input iifname != lo numgen random mod 1000 < {per_mille} drop",
            ):
                _run("ip", "netns", "exec", namespace, "nft", line)

    def slow_down(self, rate: str) -> None:
        """Let no more than *rate*, such as `50mbit`, pass each way, with a short queue."""
        for namespace, end in zip((self.broker, self.client), self.devices, strict=True):
            command = ("tc", "-n", namespace, "qdisc", "replace", "dev", end, "root", "tbf")
            _run(*command, "rate", rate, "burst", "64kb", "latency", "200ms")


@contextmanager
def wire() -> Iterator[Wire]:
    """Make the two namespaces; they are gone after the block."""
    _require()
    name = f"mesh{os.getpid()}"
    ends = (f"{name}b"[:15], f"{name}c"[:15])
    made = Wire(f"{name}-b", f"{name}-c", ends)
    with ExitStack() as stack:
        for namespace in (made.broker, made.client):
            _run("ip", "netns", "add", namespace)
            stack.callback(_run, "ip", "netns", "delete", namespace)
        _run("ip", "link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
        for end, namespace, host in (
            (ends[0], made.broker, BROKER_HOST),
            (ends[1], made.client, CLIENT_HOST),
        ):
            _run("ip", "link", "set", end, "netns", namespace)
            inside = ("ip", "-n", namespace)
            _run(*inside, "address", "add", f"{host}/24", "dev", end)
            _run(*inside, "link", "set", end, "up")
            _run(*inside, "link", "set", "lo", "up")
        yield made


def missing() -> list[str]:
    """Return what this machine lacks for `wire`, in words; empty if it has everything."""
    lacking = [tool for tool in ("ip", "nft", "tc") if shutil.which(tool) is None]
    if os.geteuid() != 0:
        lacking.append("root")
    return lacking


def _require() -> None:
    if not (lacking := missing()):
        return
    why = f"network namespaces need {', '.join(lacking)}"
    if os.environ.get("RSOCKET_MESH_CI") == "1":
        pytest.fail(why)
    pytest.skip(why)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
