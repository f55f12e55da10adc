"""A hub in a process of its own, for one kernel: bytes of its peers in, what became of them out.

The kernel is chosen when a process begins, so two of them are two processes. Run as a module it
reads one scenario per line, a JSON list of `[peer, base64]`, and answers each with one line.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any, Final, Self

ROOT: Final = Path(__file__).parents[2]
PEERS: Final = ("caller", "caller", "provider", "provider", "provider")
TIME: Final = -1
Step = tuple[int, bytes]  # bytes of a peer by its index; or TIME and the milliseconds that pass


class KernelProcess:
    """One kernel that scenarios are tried on. Use it as a context manager."""

    def __init__(self, *, pure: bool) -> None:
        environment = {**os.environ, "RSOCKET_MESH_PURE": "1" if pure else "0"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.kernel_driver"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
        )
        self.kernel = self._line()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()

    def outcome(self, steps: list[Step]) -> Any:
        """Return what all peers got after each of *steps*, and the state at the end."""
        assert self._process.stdin is not None
        text = json.dumps([[peer, base64.b64encode(data).decode()] for peer, data in steps])
        self._process.stdin.write(text + "\n")
        self._process.stdin.flush()
        return self._line()

    def _line(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the driver has ended: its stderr says why"
        return json.loads(line)


async def _run(steps: list[tuple[int, str]]) -> dict[str, Any]:
    from broker.config import Config, Limits
    from tests.support.raw_peers import Bench

    # Small, so that windows, limits and the share of requests are met within one scenario.
    limits = Limits(stream_window_bytes=2048, streams=64, payload_bytes=4096, frame_bytes=4096)
    bench = Bench(Config(limits=limits))
    bench.hub.draw = random.Random(7).getrandbits
    peers = []
    for index, kind in enumerate(PEERS):
        if kind == "caller":
            peers.append(bench.caller())
        else:  # the first serves alone, the others share
            service = "alone" if index == 2 else "shared"
            peers.append(bench.provider(service, instance=f"i{index}"))
    happened = []
    for index, encoded in steps:
        data, used = base64.b64decode(encoded), -1
        if index == TIME:
            bench.pass_time(data[0] / 1000)
        elif peers[index].link.id in bench.hub.links:
            used = peers[index].send_bytes(data)
        got = [each.received() for each in peers]
        if index == TIME:  # what is due at once happens in any order
            got = [sorted(frames) for frames in got]
        happened.append([used, [base64.b64encode(b"|".join(frames)).decode() for frames in got]])
    links = [
        [peer.link.open, peer.link.in_flight, peer.link.next_id, peer.link.requests_left]
        for peer in peers
    ]
    counters = bench.counters
    calls = {
        name: [one.started, one.ok, dict(one.others), one.credit_granted, one.credit_used]
        for name, one in counters.calls.items()
    }
    waiting = sum(map(len, bench.hub.wheel._near))
    totals = [counters.frames_in, counters.frames_out, dict(counters.ignored), waiting]
    return {"steps": happened, "links": links, "calls": calls, "totals": totals}


def main() -> None:
    from broker.kernel import KERNEL

    logging.disable()
    print(json.dumps(KERNEL), flush=True)
    for line in sys.stdin:
        print(json.dumps(asyncio.run(_run(json.loads(line)))), flush=True)


if __name__ == "__main__":
    main()
