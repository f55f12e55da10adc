"""A caller and a service that mean well: one call every 2 ms through the broker, timed.

    python -m tests.attacks.bystander PORT

A process of its own, so that nothing but the broker and the machine delays it. Open loop: a call is
due at its time whether the one before was answered or not, and its latency counts from then, so a
stall of the broker shows in every call that falls into it. Each line on stdin ends a phase and is
answered by one line of JSON about it.
"""

from __future__ import annotations

import json
import os
import select
import socket
import sys
from contextlib import suppress
from time import perf_counter
from typing import Final

from rsocket_mesh.protocol.announce import Announcement, ServiceInfo, encode_announcement
from rsocket_mesh.protocol.frames import (
    KEEPALIVE,
    REQUEST_RESPONSE,
    Setup,
    encode_keepalive,
    encode_payload,
    encode_setup,
    peek,
)
from rsocket_mesh.protocol.framing import cut, prefix_lengths
from rsocket_mesh.protocol.metadata import ANNOUNCE, COMPOSITE, OCTET_STREAM, encode_entry
from tests.support.raw_peers import request

PERIOD: Final = 0.002  # seconds between two calls
SILENCE: Final = 5.0  # seconds of which keepalives are sent


class End:
    """One connection."""

    def __init__(self, port: int, announcement: Announcement | None) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._data = b""
        metadata = None
        if announcement is not None:
            metadata = encode_entry(ANNOUNCE, encode_announcement(announcement))
        setup = Setup(20_000, 600_000, COMPOSITE, OCTET_STREAM, metadata)
        self.send(encode_setup(setup), encode_keepalive(respond=True))
        while not self.frames():
            pass

    def send(self, *frames: bytes) -> None:
        self.socket.sendall(b"".join(prefix_lengths(frames)))

    def frames(self) -> list[bytes]:
        more = self.socket.recv(65_536)
        if not more:
            raise SystemExit("the broker has closed the connection of somebody who did no wrong")
        found, used = cut(self._data + more)
        self._data = (self._data + more)[used:]
        return found


def main(port: int) -> None:
    with suppress(PermissionError):
        # What is measured is the broker, not who shares the machine with it: on two processors an
        # ordinary process waits up to 4 ms for an attacker that is as busy as the broker.
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    service = End(port, Announcement("bystander", services=(ServiceInfo("bystander"),)))
    caller = End(port, None)
    print("ready", flush=True)
    latencies: list[float] = []
    due: dict[int, float] = {}
    stream_id, next_call = 1, perf_counter()
    while True:
        readable, _, _ = select.select(
            [sys.stdin, service.socket, caller.socket], [], [], max(0, next_call - perf_counter())
        )
        if service.socket in readable:
            calls = [frame for frame in service.frames() if peek(frame)[1] == REQUEST_RESPONSE]
            if calls:
                service.send(
                    *[encode_payload(peek(call)[0], None, b"ok", complete=True) for call in calls]
                )
        if caller.socket in readable:
            answers = caller.frames()
            now = perf_counter()
            ids = [peek(answer)[0] for answer in answers if peek(answer)[1] != KEEPALIVE]
            latencies += [now - due.pop(stream_id) for stream_id in ids]
        if sys.stdin in readable:
            if not sys.stdin.readline():
                return
            latencies.extend(perf_counter() - when for when in due.values())
            latencies.sort()
            count = len(latencies)
            print(
                json.dumps(
                    {
                        "calls": count,
                        "p50": latencies[count // 2],
                        "p99": latencies[count * 99 // 100],
                        "worst": latencies[-1],
                    }
                ),
                flush=True,
            )
            latencies.clear()
        while next_call <= perf_counter():
            due[stream_id] = next_call
            caller.send(request(REQUEST_RESPONSE, stream_id, "bystander.echo", b"hello"))
            stream_id += 2
            next_call += PERIOD


if __name__ == "__main__":
    main(int(sys.argv[1]))
