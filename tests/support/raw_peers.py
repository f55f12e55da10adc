"""Peers of a `Hub` that speak raw frames, without sockets: tests see every frame, in order."""

from __future__ import annotations

import asyncio
from typing import Any

from broker.builtin.services import BuiltinServices
from broker.config import Config
from broker.forwarding.hub import Hub
from broker.observe.counters import Counters
from rsocket_mesh.peer import ResumableTransport
from rsocket_mesh.protocol.announce import Announcement, ServiceInfo, encode_announcement
from rsocket_mesh.protocol.frames import (
    KEEPALIVE,
    Setup,
    describe,
    encode_keepalive,
    encode_request,
    encode_setup,
    peek,
)
from rsocket_mesh.protocol.framing import cut, prefix_lengths
from rsocket_mesh.protocol.metadata import (
    ANNOUNCE,
    COMPOSITE,
    DEADLINE,
    OCTET_STREAM,
    ROUTING,
    encode_composite,
    encode_deadline,
    encode_entry,
    encode_routing,
)
from rsocket_mesh.transport.base import Receiver, Transport
from rsocket_mesh.transport.framed import NOBODY


class ListTransport(Transport):
    """Keeps what was flushed; how much of it counts as unread is the test's to say."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.scheme = "memory"
        self.peer_address = None
        self.outbound = []
        self.first: list[bytes] = []
        self.bytes_in = self.bytes_out = 0
        self.partial_since = 0.0
        self.written = b""
        self.closed = False
        self.flushes = 0
        self.rests: list[float] = []
        self.waiting = 0  # bytes that a peer that does not read would leave
        self.receiver: Receiver = NOBODY

    def flush(self) -> None:
        self.flushes += 1
        self.written += b"".join(self.first + self.outbound)
        self.first.clear()
        self.outbound.clear()

    def send_first(self, frame: bytes) -> None:
        self.first += prefix_lengths([frame])

    def flush_soon(self) -> None:
        pass

    def hand_to(self, receiver: Receiver) -> None:
        self.receiver = receiver

    def outbound_size(self) -> int:
        return self.waiting

    def rest(self, seconds: float) -> bool:
        self.rests.append(seconds)
        return len(self.rests) == 1

    def close(self) -> None:
        self.flush()
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    @property
    def is_closing(self) -> bool:
        return self.closed


class RawPeer:
    """One connection to the hub."""

    def __init__(
        self, hub: Hub, name: str, default_service: str = "", address: str | None = None
    ) -> None:
        self.hub = hub
        self.link = hub.new_link(default_service)
        self.transport = ListTransport(name)
        self.transport.peer_address = address
        self.waiting: list[bytes] = []
        self.transport.receiver = self.link
        self.link.connected(self.transport)

    def send(self, *frames: bytes) -> None:
        """Send all *frames* in one batch."""
        self.send_bytes(b"".join(prefix_lengths(frames)))

    def send_bytes(self, data: bytes) -> int:
        return self.transport.receiver.batch_received(data)

    def received(self) -> list[bytes]:
        """Return the frames that have come since the last call."""
        if isinstance(self.transport.receiver, ResumableTransport):
            self.transport.receiver.flush()
        self.transport.flush()
        waiting, self.waiting = self.waiting, []
        frames, used = cut(self.transport.written)
        self.transport.written = self.transport.written[used:]
        return waiting + frames

    def setup(
        self,
        announcement: Announcement | None = None,
        *,
        metadata_mime: str = COMPOSITE,
        data_mime: str = OCTET_STREAM,
        lifetime_ms: int = 90_000,
        lease: bool = False,
    ) -> RawPeer:
        metadata = None
        if announcement is not None:
            metadata = encode_entry(ANNOUNCE, encode_announcement(announcement))
        setup = Setup(20_000, lifetime_ms, metadata_mime, data_mime, metadata, lease=lease)
        self.send(encode_setup(setup), encode_keepalive(respond=True))
        self.waiting = self.received()  # stream 0 goes first, and there a LEASE
        answer = self.waiting.pop(1 if lease else 0)
        assert peek(answer)[1] == KEEPALIVE, describe(answer)
        return self

    def close(self) -> None:
        receiver, self.transport.receiver = self.transport.receiver, NOBODY
        receiver.disconnected(None)


class Bench:
    """A hub whose clock the test owns, and peers around it."""

    def __init__(self, config: Config | None = None) -> None:
        self.counters = Counters()
        self.time = 1000.0
        loop: Any = asyncio.get_running_loop()
        self.hub = Hub(
            config or Config(),
            self.counters,
            lambda hub, link: BuiltinServices(hub, link, _info),
            _Clock(self, loop),  # type: ignore[arg-type]  # the part of a loop that a hub uses
        )

    def pass_time(self, seconds: float) -> None:
        """Let time pass and whatever is due happen."""
        self.time += seconds
        self.hub.now = self.time
        self.hub.wheel.expire(self.time)

    def peer(
        self, name: str = "peer", default_service: str = "", address: str | None = None
    ) -> RawPeer:
        return RawPeer(self.hub, name, default_service, address)

    def caller(self, **setup: Any) -> RawPeer:
        return self.peer("caller").setup(None, **setup)

    def provider(
        self, service: str = "echo", instance: str = "", version: str = "1.0.0", **setup: Any
    ) -> RawPeer:
        info = ServiceInfo(service, version=version, **setup.pop("info", {}))
        announced = Announcement("app", instance, services=(info,), **setup.pop("announce", {}))
        return self.peer(f"provider {instance}").setup(announced, **setup)


class _Clock:
    def __init__(self, bench: Bench, loop: asyncio.AbstractEventLoop) -> None:
        self._bench = bench
        self._loop = loop

    def time(self) -> float:
        return self._bench.time

    def call_soon(self, callback: Any) -> asyncio.Handle:
        return self._loop.call_soon(callback)

    def call_at(self, when: float, callback: Any) -> asyncio.TimerHandle:
        return self._loop.call_later(3600, callback)


def routed(route: str, *tags: str, deadline_ms: int | None = None) -> bytes:
    """Return composite metadata with a routing entry, and a deadline if asked for."""
    entries: list[tuple[str | int, bytes]] = [(ROUTING, encode_routing([route, *tags]))]
    if deadline_ms is not None:
        entries.append((DEADLINE, encode_deadline(deadline_ms)))
    return encode_composite(entries)


def request(
    kind: int,
    stream_id: int,
    route: str = "echo.say",
    data: bytes = b"hello",
    *,
    n: int | None = None,
    deadline_ms: int | None = None,
    **more: Any,
) -> bytes:
    """Return a request frame."""
    metadata = more.pop("metadata", routed(route, deadline_ms=deadline_ms))
    return encode_request(kind, stream_id, metadata, data, n, **more)


async def _info() -> dict[str, object]:
    return {"broker": "bench"}
