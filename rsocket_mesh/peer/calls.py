"""What waits for answers: one request-response, or one stream or channel of items.

Each is its stream of the protocol together with the one who waits, so that a frame finds both with
one look-up. `requester` keeps them, sends their requests and ends them.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

from rsocket_mesh.errors import ApplicationError, Canceled, StreamError
from rsocket_mesh.peer.handler import describe
from rsocket_mesh.peer.inbox import Inbox
from rsocket_mesh.peer.producer import Producer
from rsocket_mesh.peer.tasks import start_task
from rsocket_mesh.protocol.frames import (
    FLAG_FOLLOWS,
    FLAG_METADATA,
    FLAG_NEXT,
    HEADER,
    REQUEST_RESPONSE,
)
from rsocket_mesh.protocol.payload import Payload
from rsocket_mesh.protocol.stream_rules import (
    COMPLETED,
    CREDIT,
    ENDED,
    FAILED,
    ITEM,
    LAST_ITEM,
    RETURNED,
    STOPPED,
    Effect,
)
from rsocket_mesh.protocol.streams import RequesterStream

if TYPE_CHECKING:
    from rsocket_mesh.peer.requester import Requester

NO_DEADLINE: Final = math.inf
# An answer in one frame, without metadata: of these flags only NEXT.
_SHAPE: Final = FLAG_METADATA | FLAG_FOLLOWS | FLAG_NEXT

_log = logging.getLogger(__name__)


class SentCall(RequesterStream):
    """One request-response that waits for its answer.

    Attributes:
        answer: the data of the answer, when it is there.
        metadata: of the answer, when that is there.
        due: loop time of the deadline.
    """

    __slots__ = ("_requester", "answer", "due", "metadata", "timeout")

    def __init__(
        self, requester: Requester, answer: asyncio.Future[bytes], timeout: float | None
    ) -> None:
        # The id comes with `start`.
        RequesterStream.__init__(self, 0, REQUEST_RESPONSE, requester.budget)
        self._requester = requester
        self.answer = answer
        self.metadata: bytes | None = None
        self.due = NO_DEADLINE
        self.timeout = timeout

    async def payload(self) -> Payload:
        """Return the answer as a payload. If cancelled: CANCEL is sent."""
        try:
            data = await self.answer
        except asyncio.CancelledError:
            self.cancel()
            raise
        return Payload(data, self.metadata)

    def cancel(self) -> None:
        """End the call from our side: CANCEL is sent; harmless if it has ended."""
        self._requester.cancel(self)

    def take_answer(self, flags: int, frame: bytes) -> bool:
        """Take a PAYLOAD that is the whole answer, as nearly all are; False if it is another.

        The short form of `receive_frame` and `handle`, at a third of their cost. Nobody finds a
        call that has ended, so its phase is AWAITING.
        """
        if flags & _SHAPE != FLAG_NEXT or self._pieces is not None:
            return False
        self.phase = ENDED
        if not self.answer.done():
            self.answer.set_result(frame[HEADER.size :])
        return True

    def handle(self, effect: Effect, payload: Payload | None, error: Exception | None) -> None:
        answer = self.answer
        if answer.done():
            return
        if effect is LAST_ITEM:
            assert payload is not None
            data, self.metadata = payload
            answer.set_result(data)
        elif effect is COMPLETED:  # without an item (C-68)
            answer.set_result(b"")
        elif effect is FAILED:
            assert error is not None
            answer.set_exception(error)

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class Subscription(RequesterStream):
    """One stream or channel, from the first demand of its consumer on; the source of its inbox."""

    __slots__ = (
        "_kind",
        "_outgoing",
        "_requester",
        "due",
        "inbox",
        "producer",
        "request",
        "task",
        "timeout",
    )

    def __init__(
        self,
        requester: Requester,
        kind: int,
        request: Payload,
        outgoing: AsyncIterator[Payload] | None,
        timeout: float | None,
    ) -> None:
        super().__init__(0, kind, requester.budget)  # the id comes with `begin`
        self._requester = requester
        self._kind = kind
        self._outgoing = outgoing
        self.timeout = timeout
        self.request: Payload | None = request
        self.inbox: Inbox | None = None
        self.producer: Producer | None = None
        self.task: asyncio.Task[None] | None = None
        self.due = NO_DEADLINE

    # -- what the inbox wants ---------------------------------------------------------------------

    async def begin(self, n: int) -> None:
        requester = self._requester
        left = await requester.admit_stream(self.timeout)
        request, self.request = self.request, None
        if request is None:  # stopped while it waited to be admitted
            raise Canceled("the stream was closed before its request was sent")
        self.expected = n
        requester.start(self, self._kind, request, n, left)
        if self._outgoing is not None:
            self.producer = Producer(self, requester.outbox)
            start_task(requester.loop, self._produce(self._outgoing))

    def grant(self, n: int) -> None:
        if self.is_receiving:
            self.send_request_n(n)
            self._requester.outbox.put_request_n(self.stream_id, n)

    def stop(self) -> None:
        self.request = None
        if self.stream_id:
            self._requester.cancel(self)

    # -- what the connection brings ---------------------------------------------------------------

    def handle(self, effect: Effect, payload: Payload | None, error: Exception | None) -> None:
        inbox = self.inbox
        assert inbox is not None
        if effect is not CREDIT and effect is not STOPPED:
            self.due = NO_DEADLINE
        if effect is ITEM or effect is LAST_ITEM:
            assert payload is not None
            inbox.put(payload)
        if effect is LAST_ITEM or effect is COMPLETED:
            inbox.finish(None)
        elif effect is FAILED:
            inbox.finish(error)
        elif effect is RETURNED:
            inbox.give_back()
        elif effect is CREDIT:
            if self.producer is not None:
                self.producer.credit_arrived()
        elif effect is STOPPED and self.task is not None:
            self.task.cancel()

    def fail(self, error: Exception) -> None:
        if self.inbox is not None:
            self.inbox.finish(error)

    async def _produce(self, outgoing: AsyncIterator[Payload]) -> None:
        assert self.producer is not None
        # Known from its first step on: a task that is cancelled before would not close *outgoing*.
        self.task = asyncio.current_task()
        try:
            await self.producer.run(outgoing)
        except BaseException as exc:
            self._outgoing_failed(exc)
            if not isinstance(exc, Exception):
                raise
        finally:
            self.task = None
            if self.phase is ENDED:
                self._requester.forget(self)

    def _outgoing_failed(self, exc: BaseException) -> None:
        """End the stream on both sides, if our half was still open."""
        if self.is_sending:
            if isinstance(exc, StreamError):
                error = exc
            elif isinstance(exc, asyncio.CancelledError):
                error = Canceled("what gives the channel's own items was cancelled")
            else:
                error = ApplicationError(describe(exc))
            self._requester.outbox.drop(self.stream_id)
            self._requester.outbox.send(self.send_error(error))
            self.fail(exc if isinstance(exc, Exception) else error)
        elif isinstance(exc, Exception):
            _log.warning("a channel's own items failed behind their end", exc_info=exc)
