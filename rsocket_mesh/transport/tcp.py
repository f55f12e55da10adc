"""Batches over a byte stream as they are: TCP, TLS and Unix sockets.

Stands on `sockets`. The wire carries length-prefixed frames, which is what a batch is, so there is
nothing to encode and nothing to decode.
Source: RSocket Protocol 1.0, "Framing Protocol".
"""

from __future__ import annotations

from rsocket_mesh.transport.base import Chunk
from rsocket_mesh.transport.sockets import SocketTransport


class StreamTransport(SocketTransport):
    """One connection whose bytes are the batches themselves."""

    __slots__ = ()

    _reads_large = True

    def flush(self) -> None:
        if self._first:
            self._lead()
        if not self.outbound:
            return
        if self._closing:
            self.outbound.clear()
        else:
            size = self._write(self.outbound)  # may flush again: count behind it
            self.bytes_out += size

    def _encode(self, chunks: list[Chunk]) -> list[Chunk]:
        return chunks

    def _socket_ready(self) -> None:
        self._attach(self._accept)

    def _bytes_received(self, data: bytes) -> None:
        self._deliver(data)
