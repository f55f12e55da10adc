"""What all transports share: how bytes of a peer reach the receiver, and how a connection ends.

Stands on `base`; `sockets` and `memory` stand on it. The rules that no transport may differ in:
bytes are offered with what the receiver left over, a bad length is refused before anything is
buffered, nothing but `disconnected` follows our close or a violation, and an exception of the
receiver (a bug of ours, never the peer's doing) ends that one connection and no other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from rsocket_mesh.errors import ConnectionClosed, FrameTooLong, RemoteProtocolError
from rsocket_mesh.protocol.framing import Backlog, LargeFrame, large_frame, prefix
from rsocket_mesh.transport.base import (
    CLOSE_TIMEOUT,
    FRAME_TOO_LONG,
    PROTOCOL_ERROR,
    Receiver,
    Transport,
)

HIGH_WATER: Final = 256 * 1024  # bytes; more than a round trip on a fast link needs
LOW_WATER: Final = HIGH_WATER // 2  # bytes; far enough below that the state does not flicker
MAX_OUTBOUND: Final = 128 * 1024 * 1024  # bytes for one peer that does not read: 8 largest frames

Accept = Callable[[], Receiver]  # called once per connection, when it is ready for use

_log = logging.getLogger(__name__)


class _Nobody:
    """The receiver before `connected` and after `disconnected`: hears nothing, keeps nothing."""

    def connected(self, transport: Transport) -> None:
        pass

    def batch_received(self, data: bytes) -> int:
        return len(data)

    def protocol_violated(self, text: str, reason: str = PROTOCOL_ERROR) -> None:
        pass

    def disconnected(self, error: Exception | None) -> None:
        pass

    def writable(self, ready: bool) -> None:
        pass


NOBODY: Final = _Nobody()


class FramedTransport(Transport):
    """Delivers to one receiver. The bytes come from, and go to, what a subclass knows."""

    __slots__ = (
        "_backlog",
        "_closing",
        "_first",
        "_flush_due",
        "_large",
        "_loop",
        "_max_frame",
        "_max_outbound",
        "_receiver",
    )

    def __init__(
        self, loop: asyncio.AbstractEventLoop, scheme: str, max_frame: int, max_outbound: int
    ) -> None:
        self.outbound = []
        self.name = self.scheme = scheme
        self.peer_address = None
        self.linger = CLOSE_TIMEOUT
        self.bytes_in = self.bytes_out = 0
        self.partial_since = 0.0
        self._loop = loop
        self._receiver: Receiver = NOBODY
        self._max_frame = max_frame
        self._backlog: Backlog | None = None
        self._large: LargeFrame | None = None  # the frame that is coming, if it is large
        self._max_outbound = max_outbound
        self._closing = False
        # Prefixed frames that go in front of all that waits. None where there are none, as with all
        # that an idle connection has no use for: thousands are idle.
        self._first: bytearray | None = None
        self._flush_due = False

    @property
    def is_closing(self) -> bool:
        return self._closing

    def send_first(self, frame: bytes) -> None:
        if self._first is None:
            self._first = bytearray()
        self._first += prefix(len(frame))
        self._first += frame
        self.flush_soon()

    def hand_to(self, receiver: Receiver) -> None:
        if self._receiver is not NOBODY:  # whoever was told the end hears no more
            self._receiver = receiver

    def flush_soon(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._flush_due = False
        self.flush()

    def _last_flush(self) -> bool:
        """Flush before closing in order; False if the flush itself has ended the connection."""
        self.flush()
        return not self._closing

    def _attach(self, accept: Accept) -> None:
        """Give the connection, now ready for use, to the receiver that *accept* returns."""
        try:
            self._receiver = accept()
            self._receiver.connected(self)
        except Exception:
            self._receiver_failed()

    def _deliver(self, data: bytes) -> None:
        """Offer what was read, behind what was left over; keep what is left over now."""
        if self._closing:
            return
        self.bytes_in += len(data)
        if self._large is None and self._backlog is None:
            self._offer(data)
        elif (batch := self._begun_with(data)) is not None:
            self._offer(batch)

    def _begun_with(self, data: bytes) -> bytes | None:
        """Return what there is to offer now that *data* has come behind what was left over."""
        if self._large is not None:
            taken = self._large.feed(data)
            if self._large.is_complete:
                self._large_arrived(self._large)
            data = data[taken:]
            if not data or self._closing:
                return None
        if self._backlog is not None:
            batch = self._backlog.feed(data)
            if batch is not None:
                self._backlog = None
            return batch
        return data

    def _offer(self, batch: bytes) -> None:
        """Have the receiver take *batch*, and keep what it leaves over."""
        try:
            used = self._receiver.batch_received(batch)
        except Exception:
            self._receiver_failed()
            return
        if used == len(batch):
            self.partial_since = 0.0
        elif not self._closing:
            self.partial_since = self._loop.time()
            rest = batch[used:]
            self._large = large_frame(rest, self._max_frame)
            if self._large is None:
                self._keep(rest)

    def _keep(self, rest: bytes) -> None:
        backlog = Backlog(self._max_frame)
        try:
            backlog.keep(rest)
        except FrameTooLong as error:
            self._violated(str(error), FRAME_TOO_LONG)
        except RemoteProtocolError as error:
            self._violated(str(error))
        else:
            self._backlog = backlog

    def _large_arrived(self, frame: LargeFrame) -> None:
        """Have the receiver take a frame in the parts that it came in, or else as a batch."""
        self._large = None
        self.partial_since = 0.0
        if self._closing:
            return
        take = getattr(self._receiver, "large_received", None)
        try:
            if take is not None and take(frame.head, frame.tail()):
                return
        except Exception:
            self._receiver_failed()
            return
        self._offer(frame.join())

    def _violated(self, text: str, reason: str = PROTOCOL_ERROR) -> None:
        """The peer broke the framing: let the receiver have the last word, then close."""
        try:
            self._receiver.protocol_violated(text, reason)
        except Exception:
            self._receiver_failed()
        self.close()

    def _notify_writable(self, ready: bool) -> None:
        try:
            self._receiver.writable(ready)
        except Exception:
            self._receiver_failed()

    def _ended(self, error: Exception | None) -> None:
        """Say goodbye to the receiver, once; drop all that the connection still holds."""
        self._closing = True
        self.outbound.clear()
        self._first = self._backlog = self._large = None
        receiver, self._receiver = self._receiver, NOBODY
        try:
            receiver.disconnected(error)
        except Exception:
            _log.exception("%s: the receiver failed in disconnected", self.name)

    def _end_of_input(self) -> Exception | None:
        """What the peer's end of input means: None, or that it ended inside a frame."""
        arrived = len(self._backlog) if self._backlog is not None else 0
        if self._large is not None:
            arrived = self._large.arrived
        if not arrived:
            return None
        return ConnectionClosed(
            f"{self.name}: the peer closed after {arrived} bytes of a frame",
            reason="truncated-frame",
        )

    def _slow_reader(self, waiting: int) -> ConnectionClosed:
        return ConnectionClosed(
            f"{self.name}: {waiting} bytes wait for a peer that does not read them, "
            f"the limit is {self._max_outbound}",
            reason="slow-reader",
        )

    def _receiver_failed(self) -> None:
        """Called in an `except` block: a bug above us costs this connection, and no other."""
        _log.exception("%s: the receiver failed, the connection is aborted", self.name)
        self.abort()
