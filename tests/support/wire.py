"""Two transports joined in memory whose reader can be stopped: what sockets do only by chance.

Unlike `memory://`, a test decides when the far side reads, and sees every frame that crossed.
"""

from __future__ import annotations

import asyncio

from rsocket_mesh.protocol.framing import cut, prefix_lengths
from rsocket_mesh.transport.base import Receiver, Transport

HIGH_WATER = 65_536  # bytes
LOW_WATER = 32_768  # bytes


class WireEnd(Transport):
    """One end. `reading = False` on the far end makes this one congested.

    Attributes:
        sent: every frame that left here, in order.
    """

    __slots__ = (
        "_backlog",
        "_closing",
        "_congested",
        "_due",
        "_first",
        "_inbox",
        "_reading",
        "_waiting",
        "far",
        "receiver",
        "sent",
    )

    far: WireEnd

    def __init__(self, name: str, receiver: Receiver) -> None:
        self.outbound = []
        self.name = self.scheme = name
        self.peer_address = None
        self.bytes_in = self.bytes_out = 0
        self.partial_since = 0.0
        self.receiver = receiver
        self.sent: list[bytes] = []
        self._first: list[bytes] = []
        self._inbox: list[bytes] = []
        self._backlog = b""
        self._waiting = 0
        self._closing = self._congested = self._due = False
        self._reading = True

    @property
    def reading(self) -> bool:
        return self._reading

    @reading.setter
    def reading(self, value: bool) -> None:
        self._reading = value
        if value:
            asyncio.get_running_loop().call_soon(self._take)

    @property
    def is_closing(self) -> bool:
        return self._closing

    def hand_to(self, receiver: Receiver) -> None:
        self.receiver = receiver

    def outbound_size(self) -> int:
        return self._waiting

    def send_first(self, frame: bytes) -> None:
        self._first += prefix_lengths([frame])
        self.flush_soon()

    def flush_soon(self) -> None:
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        self._due = False
        batch = b"".join(self._first + self.outbound)
        self._first.clear()
        self.outbound.clear()
        if not batch or self._closing:
            return
        self.sent += cut(batch)[0]
        self.bytes_out += len(batch)
        self._waiting += len(batch)
        self.far._inbox.append(batch)
        asyncio.get_running_loop().call_soon(self.far._take)
        if self._waiting > HIGH_WATER and not self._congested:
            self._congested = True
            self.receiver.writable(False)

    def _take(self) -> None:
        while self._inbox and self._reading and not self._closing:
            batch = self._inbox.pop(0)
            self.far._left(len(batch))
            data = self._backlog + batch
            used = self.receiver.batch_received(data)
            self._backlog = data[used:]

    def _left(self, size: int) -> None:
        self._waiting -= size
        if self._congested and self._waiting <= LOW_WATER:
            self._congested = False
            self.receiver.writable(True)

    def close(self) -> None:
        if not self._closing:
            self.flush()
            self._closing = True
            asyncio.get_running_loop().call_soon(self._end)

    def abort(self) -> None:
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self._end)

    def _end(self) -> None:
        if not self.far._closing:
            self.far._take()
        self.receiver.disconnected(None)
        if not self.far._closing:
            self.far._closing = True
            self.far.receiver.disconnected(None)


def join(near: Receiver, far: Receiver) -> tuple[WireEnd, WireEnd]:
    """Connect two receivers; the far one (the server) first."""
    left, right = WireEnd("near", near), WireEnd("far", far)
    left.far, right.far = right, left
    far.connected(right)
    near.connected(left)
    return left, right
