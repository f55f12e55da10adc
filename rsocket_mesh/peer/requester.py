"""The requester side of one connection: calls out, answers in.

No task per call: a future, or an inbox for items; only a channel's own half runs in a task. Every
call that waits has one owner here, which fails it when the connection ends, so nothing waits for an
answer that can't come. Deadlines of all calls share one timer.

Nearly every call ends before its deadline, so a deadline is a number of the call and nothing else:
when the earliest of those that were open has come, all that is open is looked through. With usual
time-outs that is once in some seconds, and never more than `LOOKS_PER_SECOND`.
"""

# ruff: noqa: ASYNC109 - a timeout is part of a call's contract: it bounds the answer, not the await

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from typing import Final

from rsocket_mesh.errors import (
    ConnectionClosed,
    DeadlineExceeded,
    Overloaded,
    RSocketError,
    StreamError,
)
from rsocket_mesh.peer.calls import NO_DEADLINE, SentCall, Subscription
from rsocket_mesh.peer.inbox import DEFAULT_PREFETCH, Inbox, PayloadStream
from rsocket_mesh.peer.outbox import Outbox
from rsocket_mesh.protocol.fragments import (
    DEFAULT_FRAGMENT_SIZE,
    ReassemblyBudget,
    request_frames,
)
from rsocket_mesh.protocol.frames import (
    FLAG_METADATA,
    HEADER,
    PAYLOAD,
    REQUEST_CHANNEL,
    REQUEST_FNF,
    REQUEST_RESPONSE,
    REQUEST_STREAM,
    encode_cancel,
    encode_metadata_push,
)
from rsocket_mesh.protocol.payload import Payload
from rsocket_mesh.protocol.phases import Role
from rsocket_mesh.protocol.stream_ids import StreamIds
from rsocket_mesh.protocol.stream_rules import ENDED

LOOKS_PER_SECOND: Final = 64  # a deadline is kept to within 16 ms, late and never early
_WITH_METADATA: Final = REQUEST_RESPONSE << 10 | FLAG_METADATA


class Requester:
    """Sends requests over one connection. Use it on its loop only.

    Attributes:
        ignored: frames of streams that are not open here; a count.
        idle: called whenever the last open stream has ended.
    """

    def __init__(
        self,
        send: Callable[[bytes], None],
        role: Role,
        *,
        budget: ReassemblyBudget | None = None,
        fragment_size: int = DEFAULT_FRAGMENT_SIZE,
    ) -> None:
        """Begin with a connection on which requests may be sent.

        Args:
            send: takes one whole frame without its prefix.
            budget: shared with the other side of the connection.
            fragment_size: bytes of the largest frame; what is larger leaves in fragments.
        """
        self.loop = asyncio.get_running_loop()
        self.budget = budget or ReassemblyBudget()
        self.outbox = Outbox(send, fragment_size=fragment_size)
        self.outbox.emptied = self._tell_if_idle
        self.ignored = 0
        self.idle: Callable[[], None] | None = None
        self._ids = StreamIds(role)
        self._streams: dict[int, SentCall | Subscription] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        self._error: RSocketError | None = None  # why nothing new may begin

    @property
    def open_streams(self) -> int:
        """Streams that have not ended, counting messages that have not left completely."""
        return len(self._streams.keys() | self.outbox.busy.keys())

    @property
    def accepting(self) -> bool:
        """Whether the connection takes new requests: it has not ended and nobody is closing it."""
        return self._error is None

    # -- calls ------------------------------------------------------------------------------------

    async def request_response(self, payload: Payload, *, timeout: float | None = None) -> Payload:
        """Send one request and wait for its one answer.

        Args:
            payload: data and metadata, in bytes; what exceeds one frame is sent in fragments.
            timeout: seconds from the call to the answer; None waits as long as the connection
                lives.
        Returns:
            The answer; an empty payload if the responder completed without one.
        Raises:
            NoRoute, Unavailable, Overloaded: nothing was started; `safe_to_retry` is true.
            ApplicationError: the handler failed; the text is the peer's.
            StreamError: any other error of the responder.
            ConnectionClosed: the connection ended first; whether the work was done is unknown.
            DeadlineExceeded: *timeout* passed; CANCEL was sent, a late answer will be dropped.
        If cancelled: CANCEL is sent, the stream ends here at once, the peer may have done the work.
        Source: Protocol 1.0, "Request Response".
        """
        left = timeout
        if self._error is not None or not self.outbox.open:
            left = await self.admit(timeout)
        call = SentCall(self, self.loop.create_future(), timeout)
        self.start(call, REQUEST_RESPONSE, payload, 0, left)
        return await call.payload()

    def begin_call(self, request: bytes, timeout: float) -> SentCall | None:
        """Send a request-response that may leave at once in one frame; None if it can't.

        What `request_response` does for nearly all requests, without a coroutine to wait in: await
        `answer` of the result, and `cancel` the result if that is cancelled. The errors are the
        same.

        Args:
            request: the size of the metadata in three bytes, the metadata, the data.
            timeout: seconds from now to the answer.
        """
        outbox = self.outbox
        if self._error is not None or not outbox.open or len(request) > outbox.small:
            return None
        stream_id = self._ids.allocate(self._streams)
        call = SentCall(self, self.loop.create_future(), timeout)
        call.stream_id = stream_id
        self._streams[stream_id] = call
        outbox.send(HEADER.pack(stream_id, _WITH_METADATA) + request)
        call.due = due = self.loop.time() + timeout
        if due < self._timer_at:
            self._arm_timer(due)
        return call

    async def fire_and_forget(self, payload: Payload, *, timeout: float | None = None) -> None:
        """Send one request that is never answered; return when it has left for the transport.

        Args:
            timeout: seconds until it must have left; None waits as long as the connection lives.
        Raises:
            ConnectionClosed: the connection ended before it had left.
            DeadlineExceeded: *timeout* passed before it had left; it will not be processed.
        If cancelled: the rest of a large request is not sent, and the peer drops the beginning.
        Source: Protocol 1.0, "Request Fire-n-Forget".
        """
        left = timeout
        if self._error is not None or not self.outbox.open:
            left = await self.admit(timeout)
        stream_id = self._ids.allocate(self._streams)
        outbox = self.outbox
        outbox.put_request(
            stream_id, request_frames(REQUEST_FNF, stream_id, payload, outbox.fragment_size)
        )
        if stream_id not in outbox.busy:
            return
        try:
            async with asyncio.timeout(left):
                await outbox.drained(stream_id)
        except TimeoutError:
            raise DeadlineExceeded(f"the request did not leave within {timeout:g} s") from None
        finally:
            if stream_id in outbox.busy:
                outbox.drop(stream_id)
                if self._error is None:
                    outbox.send(encode_cancel(stream_id))
        self._check()

    def request_stream(
        self,
        payload: Payload,
        *,
        prefetch: int = DEFAULT_PREFETCH,
        limit: int | None = None,
        timeout: float | None = None,
    ) -> PayloadStream:
        """Return the items that answer one request; it is sent when the first is asked for.

        Args:
            prefetch: items asked for and not yet consumed, at most; topped up in halves.
            limit: items ever asked for; behind the last of them the stream is cancelled, unless
                it has completed. None asks for more as long as the consumer does.
            timeout: seconds from the first demand to the first item (or end); None waits as long
                as the connection lives.
        Raises:
            ConnectionClosed: the connection has ended. While iterating: all that
                `request_response` raises.
        Source: Protocol 1.0, "Request Stream".
        """
        return self._subscribe(REQUEST_STREAM, payload, None, prefetch, limit, timeout)

    def request_channel(
        self,
        payload: Payload,
        outgoing: AsyncIterator[Payload],
        *,
        prefetch: int = DEFAULT_PREFETCH,
        limit: int | None = None,
        timeout: float | None = None,
    ) -> PayloadStream:
        """Return the items that answer a stream of our own; arguments as for `request_stream`.

        Args:
            payload: the first of our items; it needs no credit.
            outgoing: the others; asked for one by one as the responder grants credit. When it
                raises, the stream ends on both sides with that error.
        Closing the returned stream ends both halves.
        Source: Protocol 1.0, "Request Channel".
        """
        return self._subscribe(REQUEST_CHANNEL, payload, outgoing, prefetch, limit, timeout)

    def _subscribe(
        self,
        kind: int,
        payload: Payload,
        outgoing: AsyncIterator[Payload] | None,
        prefetch: int,
        limit: int | None,
        timeout: float | None,
    ) -> PayloadStream:
        self._check()
        subscription = Subscription(self, kind, payload, outgoing, timeout)
        subscription.inbox = Inbox(subscription, prefetch, limit)
        return PayloadStream(subscription.inbox)

    def metadata_push(self, metadata: bytes) -> None:
        """Send metadata about the connection as a whole; it is never answered.

        Raises:
            ConnectionClosed: the connection has ended.
            Overloaded: the transport takes nothing just now; nothing was sent.
        """
        self._check()
        if not self.outbox.open:
            raise Overloaded("the outbound buffer is full; try again when the peer has read")
        self.outbox.send(encode_metadata_push(metadata))

    # -- the connection's side --------------------------------------------------------------------

    def receive_frame(self, stream_id: int, kind: int, flags: int, frame: bytes) -> None:
        """Take one frame of a stream with one of our ids; unknown streams are ignored silently.

        Raises:
            RemoteProtocolError: the frame is malformed: a matter of the connection.
        """
        stream = self._streams.get(stream_id)
        if stream is None:
            self.ignored += 1
            return
        if kind == PAYLOAD and type(stream) is SentCall and stream.take_answer(flags, frame):
            del self._streams[stream_id]
            if self.outbox.busy:
                self.outbox.drop(stream_id)  # an answer to the first fragments of a request
            if self.idle is not None:
                self._tell_if_idle()
            return
        effect, payload, error, replies = stream.receive_frame(kind, flags, frame)
        for reply in replies:
            self.outbox.send(reply)
        if stream.phase is ENDED:
            self.forget(stream)
        stream.handle(effect, payload, error)

    def set_writable(self, ready: bool) -> None:
        """The transport is over its high watermark (False) or down at the low one (True)."""
        self.outbox.set_writable(ready)

    def refuse_new(self, error: RSocketError) -> None:
        """Begin nothing new from now on: it fails with *error*. Open streams go on."""
        if self._error is None:
            self._error = error

    def close(self, error: RSocketError) -> None:
        """The connection has ended: fail all that waits with ConnectionClosed; idempotent."""
        self._error = error
        self.outbox.close()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            if stream.phase is not ENDED:  # so that a source that ignores its cancel ends too
                stream.send_cancel()
            stream.fail(self._closed_error())
            if isinstance(stream, Subscription) and stream.task is not None:
                stream.task.cancel()

    def _closed_error(self) -> RSocketError:
        # A fresh one per call: one shared exception would collect the tracebacks of all of them.
        cause = self._error
        if type(cause) is not ConnectionClosed and isinstance(cause, StreamError):
            return type(cause)(cause.text, **cause.details)
        error = ConnectionClosed(str(cause), getattr(cause, "reason", "setup-refused"))
        error.__cause__ = cause
        return error

    def _check(self) -> None:
        if self._error is not None:
            raise self._closed_error()

    # -- shared with the streams ------------------------------------------------------------------

    async def admit(self, timeout: float | None) -> float | None:
        """Wait until a request may be sent; return what is left of *timeout*, in seconds."""
        self._check()
        if self.outbox.open:
            return timeout
        begun = self.loop.time()
        try:
            async with asyncio.timeout(timeout):
                await self.outbox.turn()
        except TimeoutError:
            raise DeadlineExceeded(
                f"the peer did not read for {timeout:g} s; the request was not sent"
            ) from None
        self._check()
        return None if timeout is None else max(0.0, timeout - (self.loop.time() - begun))

    admit_stream = admit  # what a stream or channel waits for before its request

    def start(
        self,
        stream: SentCall | Subscription,
        kind: int,
        payload: Payload,
        initial_n: int,
        timeout: float | None,
    ) -> None:
        """Enter *stream* and send its request."""
        stream_id = self._ids.allocate(self._streams)
        outbox = self.outbox
        frames = request_frames(kind, stream_id, payload, outbox.fragment_size, initial_n)
        stream.stream_id = stream_id
        self._streams[stream_id] = stream
        outbox.put_request(stream_id, frames)
        if timeout is not None:
            stream.due = self.loop.time() + timeout
            if stream.due < self._timer_at:
                self._arm_timer(stream.due)

    def cancel(self, stream: SentCall | Subscription) -> None:
        """End *stream* from our side; harmless if it has ended."""
        if stream.phase is not ENDED:
            self.outbox.drop(stream.stream_id)
            for frame in stream.send_cancel():
                if stream.stream_id in self._streams:
                    self.outbox.send(frame)
        self.forget(stream)

    def forget(self, stream: SentCall | Subscription) -> None:
        """Remove *stream*, which has ended; idempotent."""
        stream_id = stream.stream_id
        if self._streams.get(stream_id) is not stream:
            return
        del self._streams[stream_id]
        if stream_id in self.outbox.busy:
            self.outbox.drop(stream_id)
        if isinstance(stream, Subscription) and stream.task is not None:
            stream.task.cancel()
        if self.idle is not None:
            self._tell_if_idle()

    def _tell_if_idle(self) -> None:
        if self.idle is not None and not self.open_streams:
            self.idle()

    def _arm_timer(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = when
        if when != math.inf:
            self._timer = self.loop.call_at(when, self._deadline_reached)

    def _deadline_reached(self) -> None:
        self._timer = None
        now = self.loop.time()
        # A timer may come a little early by the loop's own clock.
        due = [stream for stream in self._streams.values() if stream.due <= now]
        for stream in due:
            stream.due = NO_DEADLINE
            self.cancel(stream)
            stream.fail(DeadlineExceeded(f"no answer within {stream.timeout:g} s; CANCEL was sent"))
        earliest = min((stream.due for stream in self._streams.values()), default=math.inf)
        self._arm_timer(max(earliest, now + 1 / LOOKS_PER_SECOND))
