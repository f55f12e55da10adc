"""Raw frames over a blocking socket to a broker that is a process: a peer that may do anything."""

from __future__ import annotations

import socket
from contextlib import suppress

from rsocket_mesh.protocol.announce import Announcement, encode_announcement
from rsocket_mesh.protocol.frames import (
    ERROR,
    KEEPALIVE,
    Setup,
    decode_error,
    encode_keepalive,
    encode_setup,
    peek,
)
from rsocket_mesh.protocol.framing import cut, prefix_lengths
from rsocket_mesh.protocol.metadata import ANNOUNCE, COMPOSITE, OCTET_STREAM, encode_entry
from tests.support.processes import BrokerProcess

SETUP = Setup(20_000, 90_000, COMPOSITE, OCTET_STREAM)
WAIT = 10.0  # seconds


class RawClient:
    """A TCP connection that speaks whatever a test wants."""

    def __init__(self, broker: BrokerProcess) -> None:
        port = int(broker.url("tcp").rpartition(":")[2])
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=WAIT)
        self.name = f"127.0.0.1:{self.sock.getsockname()[1]}"
        self._data = b""
        self._frames: list[bytes] = []

    def send(self, *frames: bytes) -> None:
        self.sock.sendall(b"".join(prefix_lengths(frames)))

    def frame(self) -> bytes:
        """Return the next frame; b"" at the end of the connection."""
        while not self._frames:
            more = self.sock.recv(65_536)
            if not more:
                return b""
            self._data += more
            self._frames, used = cut(self._data)
            self._data = self._data[used:]
        return self._frames.pop(0)

    def setup(self, announcement: Announcement | None = None) -> RawClient:
        metadata = None
        if announcement is not None:
            metadata = encode_entry(ANNOUNCE, encode_announcement(announcement))
        self.send(encode_setup(SETUP._replace(metadata=metadata)), encode_keepalive(True))
        assert peek(self.frame())[1] == KEEPALIVE
        return self

    def refused(self) -> tuple[int, str]:
        """Return the ERROR of stream 0, behind which the connection ends."""
        error = decode_error(self.frame())
        assert error.stream_id == 0
        assert self.frame() == b""
        return error.code, error.text

    def verdict(self) -> str:
        """Read until the end of the connection; return what stream 0 was told, if anything."""
        text = ""
        with suppress(ConnectionError):
            while frame := self.frame():
                stream_id, kind, _ = peek(frame)
                if kind == ERROR and stream_id == 0:
                    text = decode_error(frame).text
        return text

    def close(self) -> None:
        self.sock.close()
