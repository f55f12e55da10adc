"""A peer that means harm, as a process of its own.

    python -m tests.attacks.attacker NAME PORT SECONDS

Runs one attack (`tests.attacks.attacks`) against the broker on loopback, for so long and no longer
(a line on stdin ends it earlier), and prints one line of JSON: what it sent, what it held open, and
what it was told.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from time import monotonic, sleep
from typing import Final, Self

from rsocket_mesh.protocol.announce import Announcement, ServiceInfo, encode_announcement
from rsocket_mesh.protocol.frames import (
    ERROR,
    Setup,
    decode_error,
    encode_keepalive,
    encode_setup,
    peek,
)
from rsocket_mesh.protocol.framing import cut, prefix_lengths
from rsocket_mesh.protocol.metadata import ANNOUNCE, COMPOSITE, OCTET_STREAM, encode_entry

WAIT: Final = 0.2  # seconds that a write may block: who is not read from gives up soon
RECONNECT: Final = 0.02  # seconds between two connections of who was thrown out


class Hostile:
    """One connection of the attacker."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._data = b""
        self.is_open = True
        self.socket = socket.create_connection(("127.0.0.1", ground.port), timeout=5)
        self.socket.settimeout(WAIT)
        ground.connections += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def setup(
        self,
        service: str | None = None,
        *,
        concurrency: int | None = None,
        lease: bool = False,
        token: bytes | None = None,
    ) -> Hostile:
        """Begin as anybody would; *token* asks for a session that can be resumed."""
        metadata = None
        if service is not None:
            served = ServiceInfo(service, concurrency=concurrency)
            announced = Announcement(service, services=(served,))
            metadata = encode_entry(ANNOUNCE, encode_announcement(announced))
        setup = Setup(
            *(20_000, 600_000, COMPOSITE, OCTET_STREAM, metadata), lease=lease, resume_token=token
        )
        self.send(encode_setup(setup), encode_keepalive(respond=True))
        with suppress(OSError):
            self.take(self.socket.recv(65_536))
        return self

    def send(self, *frames: bytes) -> None:
        self.send_bytes(b"".join(prefix_lengths(frames)))

    def send_bytes(self, data: bytes) -> None:
        """Send as much of *data* as is taken; note if the connection is over."""
        view = memoryview(data)
        while view and self.is_open and not self._ground.is_over():
            try:
                sent = self.socket.send(view)
            except TimeoutError:
                return
            except OSError:
                self.is_open = False
                return
            view = view[sent:]
            self._ground.sent += sent

    def take(self, data: bytes) -> list[bytes]:
        """Note what ERROR frames in *data* say; return all frames."""
        if not data:
            self.is_open = False
        frames, used = cut(self._data + data)
        self._data = (self._data + data)[used:]
        for frame in frames:
            stream_id, kind, _ = peek(frame)
            if kind == ERROR:
                where = "stream" if stream_id else "connection"
                self._ground.told[f"{where}: {decode_error(frame).text[:60]}"] += 1
        return frames

    def read(self) -> list[bytes]:
        """Return what has come, without waiting for more."""
        frames: list[bytes] = []
        self.socket.setblocking(False)
        with suppress(OSError):
            while self.is_open:
                frames += self.take(self.socket.recv(65_536))
        self.socket.settimeout(WAIT)
        return frames

    def hear_out(self) -> None:
        """Read until the broker closes, for a second at most."""
        end = monotonic() + 1
        with suppress(OSError):
            while self.is_open and monotonic() < end:
                self.take(self.socket.recv(65_536))


class Ground:
    """What an attack has to do with, and how it went."""

    def __init__(self, port: int, seconds: float) -> None:
        self.port = port
        self.sent = self.connections = self.streams = 0
        self.told: Counter[str] = Counter()
        self._end = monotonic() + seconds
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        if sys.stdin.readline():  # whoever started this has seen enough
            self._end = 0.0

    def is_over(self) -> bool:
        return monotonic() >= self._end

    def connect(self) -> Hostile:
        return Hostile(self)

    def again_and_again(self) -> Iterator[Hostile]:
        """Yield one connection after the other, as fast as an attacker may be thrown out."""
        while not self.is_over():
            try:
                peer = self.connect()
            except OSError:
                sleep(RECONNECT)
                continue
            with peer:
                yield peer
                peer.hear_out()
            sleep(RECONNECT)

    def accomplice(
        self, answer: Callable[[bytes], Iterable[bytes]], concurrency: int | None = None
    ) -> None:
        """Serve `accomplice` in a thread; *answer* says what a frame is answered with."""
        peer = self.connect().setup("accomplice", concurrency=concurrency)

        def serve() -> None:
            with peer:
                while not self.is_over() and peer.is_open:
                    try:
                        frames = peer.take(peer.socket.recv(65_536))
                    except TimeoutError:
                        continue
                    except OSError:
                        return
                    for frame in frames:
                        if answers := list(answer(frame)):
                            peer.send(*answers)

        threading.Thread(target=serve, daemon=True).start()


def main(name: str, port: int, seconds: float) -> None:
    from tests.attacks.attacks import ATTACKS

    os.nice(5)  # an attacker has a machine of its own
    ground = Ground(port, seconds)
    ATTACKS[name](ground)
    print(
        json.dumps(
            {
                "sent": ground.sent,
                "connections": ground.connections,
                "streams": ground.streams,
                "told": dict(ground.told.most_common(8)),
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
