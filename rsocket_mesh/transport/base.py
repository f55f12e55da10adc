"""What every transport is to the floors above: whole frames in batches, bounded outbound.

A transport moves bytes and understands no frame. A *batch* is length-prefixed frames back to back
(`rsocket_mesh.protocol.framing`). Inbound, the receiver cuts the batch itself and returns how many
bytes it used, so that a broker can look at each frame once; outbound, whoever sends appends chunks
to `outbound` and asks for a flush, so that one turn of the loop makes one write.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Final, Protocol

# Why a peer's bytes cannot be cut into frames any more.
PROTOCOL_ERROR: Final = "protocol-error"
FRAME_TOO_LONG: Final = "frame-too-long"
# What may be appended to `outbound`. Views are of memory that does not change any more; small parts
# are bytes, since a view keeps all of its memory alive.
Chunk = bytes | memoryview
CLOSE_TIMEOUT: Final = 5.0  # seconds for flushing and for the peer's own close, then abort


class Receiver(Protocol):
    """The session above one transport. All methods are called on the loop's thread."""

    def connected(self, transport: Transport) -> None:
        """The transport is ready for use. Called once, first."""

    def batch_received(self, data: bytes) -> int:
        """Take bytes that begin at a frame's prefix; return how many were used.

        What is left over begins a frame that is not complete; the transport keeps it and offers it
        again together with what follows. Must not raise for anything a peer can send.
        """

    # def large_received(self, head: bytes, tail: list[memoryview]) -> bool
    #     Optional: take one frame of `LARGE` bytes or more, prefix included, in the parts that it
    #     was read into; nobody writes to them any more. False if it has to come as bytes instead.

    def protocol_violated(self, text: str, reason: str = PROTOCOL_ERROR) -> None:
        """The peer broke the framing (a bad length, a text message). No more bytes will come; the
        receiver sends its ERROR and closes. *reason* is a stable word for operators."""

    def disconnected(self, error: Exception | None) -> None:
        """The transport has ended; None means that the peer closed it in order. Called once, last,
        also after our own `close` or `abort`."""

    def writable(self, ready: bool) -> None:
        """`outbound_size` rose over the high watermark (False) or fell to the low one (True)."""


class Transport(ABC):
    """One connection. Not thread-safe: use it on its loop only.

    Attributes:
        outbound: chunks that together are whole prefixed frames. Append all chunks of a frame, in
            order, before control returns to the loop, then call `flush_soon` (or `flush`).
        name: for people, such as `tcp 127.0.0.1:51234`; never secret.
        scheme: `tcp`, `tls`, `unix`, `ws`, `wss` or `memory`.
        peer_address: the peer's host, or None where there is none.
        bytes_in, bytes_out: payload bytes moved so far, prefixes included.
        linger: seconds that what was written, and the peer's own close, may take once `close` was
            called; `CLOSE_TIMEOUT` unless somebody has set less.
        partial_since: when the first bytes came of a frame that is not complete yet, in the loop's
            time; 0.0 if there is none.
    """

    __slots__ = (
        "bytes_in",
        "bytes_out",
        "linger",
        "name",
        "outbound",
        "partial_since",
        "peer_address",
        "scheme",
    )

    outbound: list[Chunk]
    name: str
    scheme: str
    peer_address: str | None
    bytes_in: int
    bytes_out: int
    linger: float
    partial_since: float

    @abstractmethod
    def flush(self) -> None:
        """Hand `outbound` to the operating system now, as one write."""

    @abstractmethod
    def send_first(self, frame: bytes) -> None:
        """Send one whole *frame*, without its prefix, in front of all that still waits on our side;
        flushes with this turn of the loop.

        For frames of stream 0: a KEEPALIVE behind megabytes of items would come too late. Not for
        ERROR, which must not overtake answers. Between themselves they keep their order.
        """

    @abstractmethod
    def flush_soon(self) -> None:
        """Flush once at the end of this turn of the loop, however often this is called."""

    @abstractmethod
    def outbound_size(self) -> int:
        """Bytes flushed and not yet taken by the operating system; `outbound` is not counted."""

    @abstractmethod
    def close(self) -> None:
        """Flush, then close in order; what was written still leaves, for at most a bounded time.
        Nothing is received any more. Idempotent."""

    @abstractmethod
    def abort(self) -> None:
        """Close at once; what was not written is lost. Idempotent."""

    def rest(self, seconds: float) -> bool:
        """Read nothing for *seconds* once what is being delivered has been worked off.

        Call it while a batch is delivered. The longest of several calls counts; return whether this
        was the first. A transport that cannot stop its peer does nothing.
        """
        return False

    @abstractmethod
    def hand_to(self, receiver: Receiver) -> None:
        """Deliver to *receiver* from now on; it is not told `connected`.

        The batch that is being delivered stays with whoever has it: pass on what is left of it.
        """

    @property
    @abstractmethod
    def is_closing(self) -> bool:
        """True once `close` or `abort` was called or the connection was lost."""
