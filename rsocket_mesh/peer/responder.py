"""The responder side of one connection: requests in, handlers in tasks, answers out.

Nothing of the application runs in the receive loop, and a handler that waits has a task of its own
(`turns`), so a slow one delays neither the next request nor the KEEPALIVE nor its own CANCEL.
Usable without a `Peer`: the broker serves its own services with it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from rsocket_mesh.errors import (
    ApplicationError,
    Canceled,
    ConnectionClosed,
    Overloaded,
    RSocketError,
    StreamError,
)
from rsocket_mesh.peer.handler import RequestHandler, describe
from rsocket_mesh.peer.inbox import DEFAULT_PREFETCH, Inbox, PayloadStream
from rsocket_mesh.peer.outbox import Outbox
from rsocket_mesh.peer.producer import Producer
from rsocket_mesh.peer.tasks import start_task
from rsocket_mesh.peer.turns import Turns
from rsocket_mesh.protocol.fragments import (
    DEFAULT_FRAGMENT_SIZE,
    ReassemblyBudget,
    payload_frames,
)
from rsocket_mesh.protocol.frames import (
    CANCEL,
    FLAG_FOLLOWS,
    REQUEST_CHANNEL,
    REQUEST_FNF,
    REQUEST_RESPONSE,
    encode_error,
)
from rsocket_mesh.protocol.payload import Payload
from rsocket_mesh.protocol.stream_rules import (
    ANSWERING,
    CANCELED,
    COMPLETED,
    CREDIT,
    ENDED,
    FAILED,
    ITEM,
    LAST_ITEM,
    REQUESTED,
    RETURNED,
    Effect,
)
from rsocket_mesh.protocol.streams import ResponderStream

MAX_STREAMS: Final = 10_000  # open requests of one peer; each may hold a task and a payload

_LOST: Final = Canceled("the connection has ended")  # for our own books: nobody hears it

_log = logging.getLogger(__name__)


class _Serving(ResponderStream):
    """One request that is being served; the source of its channel's inbox."""

    __slots__ = ("inbox", "producer", "responder", "task")

    def __init__(self, responder: Responder, stream_id: int, kind: int) -> None:
        super().__init__(stream_id, kind, responder.budget)
        self.responder = responder
        self.task: asyncio.Task[None] | None = None
        self.producer: Producer | None = None
        self.inbox: Inbox | None = None

    async def begin(self, n: int) -> None:
        self.grant(n)

    def grant(self, n: int) -> None:
        if self.is_receiving:
            self.send_request_n(n)
            self.responder.outbox.put_request_n(self.stream_id, n)

    def stop(self) -> None:
        if self.is_receiving and self.responder.owns(self.stream_id):
            self.responder.outbox.send(self.send_cancel())
            self.responder.forget_if_ended(self)


class Responder:
    """Serves the requests of one peer with a handler. Use it on its loop only.

    Attributes:
        ignored: frames of streams that are not open here; a count.
        refused: requests refused because too many are open, or beyond a lease; a count.
        idle: called whenever the last open stream has ended.
    """

    def __init__(
        self,
        send: Callable[[bytes], None],
        handler: RequestHandler,
        *,
        budget: ReassemblyBudget | None = None,
        fragment_size: int = DEFAULT_FRAGMENT_SIZE,
        max_streams: int = MAX_STREAMS,
    ) -> None:
        """Begin with a connection that is open.

        Args:
            send: takes one whole frame without its prefix.
            budget: shared with the other side of the connection.
            fragment_size: bytes of the largest frame; what is larger leaves in fragments.
            max_streams: open requests; those beyond are refused with `Overloaded`.
        """
        self.loop = asyncio.get_running_loop()
        self.budget = budget or ReassemblyBudget()
        self.outbox = Outbox(send, fragment_size=fragment_size)
        self.outbox.emptied = self._tell_if_idle
        self.ignored = 0
        self.refused = 0
        self.idle: Callable[[], None] | None = None
        self._handler = handler
        self._max_streams = max_streams
        self._streams: dict[int, _Serving] = {}
        # Tasks without a stream: fire-and-forget, and cancelled ones that have not ended.
        self._detached: set[asyncio.Task[None]] = set()
        self._refusal: StreamError | None = None
        self._turns = Turns(self.loop, self._answer)

    @property
    def open_streams(self) -> int:
        """Requests being served, counting answers that have not left completely."""
        return len(self._streams.keys() | self.outbox.busy.keys()) + len(self._detached)

    def owns(self, stream_id: int) -> bool:
        """Whether *stream_id* is open here."""
        return stream_id in self._streams

    # -- the connection's side --------------------------------------------------------------------

    def receive_frame(self, stream_id: int, kind: int, flags: int, frame: bytes) -> None:
        """Take one frame of a stream with one of the peer's ids; unknown streams are ignored.

        Raises:
            RemoteProtocolError: the frame is malformed: a matter of the connection.
        """
        stream = self._streams.get(stream_id)
        if stream is not None:
            effect, payload, error, replies = stream.receive_frame(kind, flags, frame)
        elif REQUEST_RESPONSE <= kind <= REQUEST_CHANNEL and stream_id not in self.outbox.busy:
            if len(self._streams) + len(self._detached) >= self._max_streams or self._refusal:
                self._refuse(stream_id, kind)
                return
            stream = _Serving(self, stream_id, kind)
            if kind == REQUEST_RESPONSE and not flags & FLAG_FOLLOWS:
                payload = stream.receive_whole(flags, frame)
                self._streams[stream_id] = stream
                self._turns.put(stream, payload)
                return
            effect, payload, error, replies = stream.receive_request(flags, frame)
            if stream.phase is not ENDED:
                self._streams[stream_id] = stream
        else:
            if kind == CANCEL:
                self.outbox.drop(stream_id)  # an answer that is leaving in fragments
            self.ignored += 1
            return
        for reply in replies:
            self.outbox.send(reply)
        if effect is REQUESTED:
            assert payload is not None
            self._serve(stream, payload)
        else:
            self._handle(stream, effect, payload, error)

    def set_writable(self, ready: bool) -> None:
        """The transport is over its high watermark (False) or down at the low one (True)."""
        self.outbox.set_writable(ready)

    def refuse_new(self, error: StreamError) -> None:
        """Refuse every new request with *error* from now on; what is open goes on."""
        self._refusal = error

    def close(self, error: RSocketError) -> None:
        """The connection has ended: cancel every handler; idempotent.

        *error* is what the items of open channels end with, as the cause of a ConnectionClosed.
        """
        self.outbox.close()
        # Cycles would keep this, and the handler, until a collection.
        self.outbox.emptied = None
        self._turns.close()
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            if stream.phase is not ENDED:  # so that a handler that ignores its cancel ends too
                stream.send_abort(_LOST)
            if stream.inbox is not None:
                closed = ConnectionClosed(str(error), getattr(error, "reason", "closed"))
                closed.__cause__ = error
                stream.inbox.finish(closed)
            self._detach(stream)
        for task in self._detached:
            task.cancel()

    # -- one stream -------------------------------------------------------------------------------

    def _refuse(self, stream_id: int, kind: int, why: StreamError | None = None) -> None:
        self.refused += 1
        if kind != REQUEST_FNF:
            error = (
                why
                or self._refusal
                or Overloaded(
                    f"{self._max_streams} requests of this connection are open; finish some first"
                )
            )
            self.outbox.send(encode_error(stream_id, *error.to_wire()))

    def _serve(self, stream: _Serving, request: Payload) -> None:
        kind = stream.kind
        if kind == REQUEST_RESPONSE:
            self._turns.put(stream, request)
        elif kind == REQUEST_FNF:
            self._streams.pop(stream.stream_id, None)
            task = start_task(self.loop, self._take(request))
            if not task.done():
                self._detached.add(task)
                task.add_done_callback(self._gone)
        else:
            stream.producer = Producer(stream, self.outbox)
            if kind == REQUEST_CHANNEL:
                stream.inbox = Inbox(stream, DEFAULT_PREFETCH, None)
                if not stream.is_receiving:
                    stream.inbox.finish(None)
            stream.task = start_task(self.loop, self._produce(stream, stream.producer, request))

    def _handle(
        self,
        stream: _Serving,
        effect: Effect,
        payload: Payload | None,
        error: StreamError | None,
    ) -> None:
        inbox = stream.inbox
        if effect is CREDIT:
            if stream.producer is not None:
                stream.producer.credit_arrived()
        elif effect is CANCELED or effect is FAILED:
            if inbox is not None:
                inbox.finish(error or Canceled("the requester canceled the stream"))
            self._detach(stream)
        elif inbox is not None:
            if effect is ITEM or effect is LAST_ITEM:
                assert payload is not None
                inbox.put(payload)
            if effect is LAST_ITEM or effect is COMPLETED:
                inbox.finish(None)
            elif effect is RETURNED:
                inbox.give_back()
        if stream.phase is ENDED:
            self.forget_if_ended(stream)

    def _detach(self, stream: _Serving) -> None:
        """Cancel the stream's handler; its id is free at once, however long the handler takes."""
        self.outbox.drop(stream.stream_id)
        task = stream.task
        if task is not None and not task.done():
            task.cancel()
            self._detached.add(task)
            task.add_done_callback(self._gone)

    def _gone(self, task: asyncio.Task[None]) -> None:
        self._detached.discard(task)
        self._tell_if_idle()

    def forget_if_ended(self, stream: _Serving) -> None:
        """Remove *stream* if both its halves have ended."""
        if stream.phase is ENDED and self._streams.get(stream.stream_id) is stream:
            del self._streams[stream.stream_id]
            if self.idle is not None:
                self._tell_if_idle()

    def _tell_if_idle(self) -> None:
        if self.idle is not None and not self.open_streams:
            self.idle()

    # -- tasks ------------------------------------------------------------------------------------

    async def _answer(self, stream: _Serving, request: Payload) -> None:
        if stream.phase is ENDED:  # canceled before it began
            return
        try:
            answer = await self._handler.request_response(request)
            if not isinstance(answer, Payload):
                raise TypeError(f"the answer must be a Payload, not {type(answer).__name__}")
        except BaseException as exc:
            self._fail(stream, exc)
            raise_if_stopped(exc)
            return
        if stream.phase is ANSWERING:
            stream.send_answer()
            outbox, stream_id = self.outbox, stream.stream_id
            if not outbox.put_small_answer(stream_id, answer):
                size = outbox.fragment_size
                outbox.put_answer(stream_id, payload_frames(stream_id, answer, size, complete=True))
            self.forget_if_ended(stream)

    async def _take(self, request: Payload) -> None:
        try:
            await self._handler.fire_and_forget(request)
        except Exception as exc:
            if not isinstance(exc, StreamError):
                _log.warning("fire-and-forget handler failed", exc_info=exc)

    async def _produce(self, stream: _Serving, producer: Producer, request: Payload) -> None:
        try:
            # No variable holds the handle: when the handler lets go of it, the half is closed.
            if stream.inbox is None:
                await producer.run(self._handler.request_stream(request))
            else:
                await producer.run(
                    self._handler.request_channel(request, PayloadStream(stream.inbox))
                )
        except BaseException as exc:
            self._fail(stream, exc)
            raise_if_stopped(exc)
            return
        self.forget_if_ended(stream)

    def _fail(self, stream: _Serving, exc: BaseException) -> None:
        """Tell the requester that the handler ended with *exc*, unless the stream has ended."""
        if stream.phase is ENDED or not self.owns(stream.stream_id):
            return
        if isinstance(exc, StreamError):
            error = exc
        elif isinstance(exc, asyncio.CancelledError):
            error = Canceled("the handler was cancelled")
        else:
            _log.warning("handler failed", exc_info=exc)
            error = ApplicationError(describe(exc))
        self.outbox.drop(stream.stream_id)
        for frame in stream.send_abort(error):
            self.outbox.send(frame)
        if stream.inbox is not None:
            stream.inbox.finish(error)
        self.forget_if_ended(stream)


def raise_if_stopped(exc: BaseException) -> None:
    """Raise *exc* again unless it is an ordinary failure, which the requester was told of."""
    if not isinstance(exc, Exception):
        raise exc
