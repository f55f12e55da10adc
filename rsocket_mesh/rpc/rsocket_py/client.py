"""A mesh connection as the `RSocket` that code for rsocket-py calls.

Streams and channels hand frames on to their subscriber as they come, and its `request` as
REQUEST_N, one to one: there is no task, queue or credit of our own between.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Final, Self

from reactivestreams.publisher import Publisher
from reactivestreams.subscription import Subscription
from rsocket.extensions.mimetypes import ensure_encoding_name
from rsocket.rsocket import RSocket

from rsocket_mesh.errors import DeadlineExceeded, RSocketError
from rsocket_mesh.peer.calls import Subscription as Stream
from rsocket_mesh.peer.inbox import Inbox
from rsocket_mesh.protocol.frames import MAX_REQUEST_N, REQUEST_CHANNEL, REQUEST_STREAM
from rsocket_mesh.protocol.metadata import DATA_MIME_TYPE, find_entry
from rsocket_mesh.protocol.payload import Payload
from rsocket_mesh.rpc.context import CURRENT
from rsocket_mesh.rpc.mesh import Mesh
from rsocket_mesh.rpc.metadata import deadline_entry, mime_entry, trace_entry
from rsocket_mesh.rpc.route import DEFAULT_TIMEOUT, check_seconds
from rsocket_mesh.rpc.rsocket_py.convert import error_to_theirs, to_ours, to_theirs
from rsocket_mesh.rpc.rsocket_py.publishers import PublisherItems

log: Final = logging.getLogger("rsocket_mesh.rsocket_py")


class MeshRSocket(RSocket):  # type: ignore[misc]  # their package has no types
    """Their client interface over a mesh. Use it on its loop only; the mesh stays the program's.

    Payloads go out with their metadata as it is, which has to be composite and to carry a route;
    what a call of ours would add (deadline, trace) is added. Errors are raised and given to
    subscribers as their client does: `RSocketProtocolError`, or `RuntimeError` for those of the
    application; ours is the `__cause__`.

    Args:
        data_encoding: of the data, for payloads whose metadata do not say; a MIME type or one of
            their `WellKnownMimeTypes`. As in their client, JSON unless another is named.
        timeout: seconds that a request-response has, and that anything waits for a connection.
            Streams and channels have no deadline, as in their client.
    Raises:
        ValueError: the time-out is not above 0.
    """

    def __init__(
        self,
        mesh: Mesh,
        *,
        data_encoding: Any = "application/json",
        timeout: float = DEFAULT_TIMEOUT,
    ) -> None:
        check_seconds("timeout", timeout)
        self._mesh = mesh
        self._timeout = timeout
        name = ensure_encoding_name(data_encoding)
        self._mime_entry = mime_entry(name if isinstance(name, str) else name.decode())
        self._tasks: set[asyncio.Future[Any]] = set()

    def request_response(self, payload: Any) -> asyncio.Future[Any]:
        """Send a request at once; return the future of its answer."""
        return self.start(self._response(to_ours(payload)))

    def fire_and_forget(self, payload: Any) -> asyncio.Future[None]:
        """Send a request that is not answered, at once; return the future of its having left."""
        return self.start(self._fire(to_ours(payload)))

    def metadata_push(self, metadata: bytes) -> asyncio.Future[None]:
        """Send metadata about the connection, at once; return the future of its having left."""
        return self.start(
            _as_theirs(self._mesh.metadata_push(bytes(metadata), timeout=self._timeout))
        )

    def request_stream(self, payload: Any) -> MeshPublisher:
        """Return the publisher of a stream; the request is sent when it is subscribed to."""
        return MeshPublisher(self, REQUEST_STREAM, to_ours(payload), None)

    def request_channel(
        self,
        payload: Any,
        publisher: Any = None,
        sending_done: asyncio.Event | None = None,
    ) -> MeshPublisher:
        """Return the publisher of a channel; the request is sent when it is subscribed to.

        Args:
            payload: the first item of our half.
            publisher: the others; None means there are none.
            sending_done: set when our half has ended.
        """
        closed = sending_done.set if sending_done is not None else lambda: None
        outgoing = PublisherItems(publisher if publisher is not None else _Nothing(), closed)
        return MeshPublisher(self, REQUEST_CHANNEL, to_ours(payload), outgoing)

    async def connect(self) -> Self:
        """Wait for the connection; it is made and renewed by the mesh."""
        await self._mesh.session.connected(self._timeout)
        return self

    def close(self) -> asyncio.Future[None]:
        """Do nothing: the connection is the mesh's, and closed with it."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass

    # -- shared with the publishers ---------------------------------------------------------------

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Future[Any]:
        """Run *work* in a task that lasts, whoever holds it."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def requester(self, seconds: float | None = None) -> Any:
        """Return the requester of the connection, as soon as there is one."""
        return await self._mesh.session.connected(seconds or self._timeout)

    def complete(self, payload: Payload, seconds: float | None) -> Payload:
        """Return *payload* with what a call of ours has in its metadata."""
        metadata = payload.metadata or b""
        if find_entry(metadata, DATA_MIME_TYPE) is None:
            metadata += self._mime_entry
        if seconds is not None:
            metadata += deadline_entry(seconds)
        call = CURRENT.get()
        if call is not None and call.trace is not None:
            metadata += trace_entry(call.trace)
        return Payload(payload.data, metadata)

    def seconds(self) -> float | None:
        """What the running handler has left, in seconds; None outside of handlers."""
        call = CURRENT.get()
        left = None if call is None else call.remaining()
        if left is not None and left <= 0:
            raise DeadlineExceeded("the deadline had passed already; nothing was sent")
        return left

    async def _response(self, payload: Payload) -> Any:
        return to_theirs(await _as_theirs(self._request(payload)))

    async def _request(self, payload: Payload) -> Payload:
        left = self.seconds()
        seconds = self._timeout if left is None else min(self._timeout, left)
        requester = await self.requester(seconds)
        answer: Payload = await requester.request_response(
            self.complete(payload, seconds), timeout=seconds
        )
        return answer

    async def _fire(self, payload: Payload) -> None:
        requester = await self.requester()
        await _as_theirs(
            requester.fire_and_forget(self.complete(payload, None), timeout=self._timeout)
        )


async def _as_theirs(work: Coroutine[Any, Any, Any]) -> Any:
    try:
        return await work
    except RSocketError as exc:
        raise error_to_theirs(exc) from exc


class MeshPublisher(Publisher, Subscription):  # type: ignore[misc]  # their package has no types
    """One stream or channel: a publisher for one subscriber, and its subscription."""

    def __init__(
        self, rsocket: MeshRSocket, kind: int, payload: Payload, outgoing: PublisherItems | None
    ) -> None:
        self._rsocket = rsocket
        self._kind = kind
        self._payload = payload
        self._outgoing = outgoing
        self._initial = MAX_REQUEST_N
        self._more = 0  # requested before the request was sent
        self._stream: Stream | None = None
        self._begun = False
        self._beginning: asyncio.Future[None] | None = None

    def initial_request_n(self, n: int) -> Self:
        """Ask for *n* items with the request; without this call, for all.

        Raises:
            ValueError: *n* is not 1 to 2147483647.
        """
        _check(n)
        self._initial = n
        return self

    def subscribe(self, subscriber: Any) -> None:
        """Send the request, and give *subscriber* what comes.

        Raises:
            RuntimeError: it has a subscriber already; ask for another stream.
        """
        if self._beginning is not None:
            raise RuntimeError("this publisher has had its subscriber; make the request again")
        self._beginning = self._rsocket.start(self._begin(subscriber))
        subscriber.on_subscribe(self)

    def request(self, n: int) -> None:
        """Ask for *n* items more.

        Raises:
            ValueError: *n* is not 1 to 2147483647.
        """
        _check(n)
        if self._begun and self._stream is not None:
            self._stream.grant(n)
        else:
            self._more += n

    def cancel(self) -> None:
        """End the stream: CANCEL is sent, and the subscriber hears nothing more."""
        if self._beginning is not None and not self._begun:
            self._beginning.cancel()
        if self._stream is not None and self._stream.inbox is not None:
            self._stream.inbox.stop()

    async def _begin(self, subscriber: Any) -> None:
        try:
            seconds = self._rsocket.seconds()
            requester = await self._rsocket.requester(seconds)
            payload = self._rsocket.complete(self._payload, seconds)
            stream = Stream(requester, self._kind, payload, self._outgoing, seconds)
            stream.inbox = _Direct(stream, subscriber)
            self._stream = stream
            await stream.begin(min(self._initial, MAX_REQUEST_N))
            self._begun = True
            if self._more:
                stream.grant(min(self._more, MAX_REQUEST_N))
        except BaseException as exc:
            if self._outgoing is not None:
                await self._outgoing.aclose()
            if not isinstance(exc, RSocketError):
                raise
            subscriber.on_error(error_to_theirs(exc))


class _Direct(Inbox):
    """The end of a stream of ours that hands on at once what comes, to a subscriber of theirs."""

    __slots__ = ("_subscriber",)

    def __init__(self, stream: Stream, subscriber: Any) -> None:
        super().__init__(stream, 1, None)
        self._subscriber = subscriber

    def put(self, payload: Payload) -> None:
        if not self.ended:
            self._tell("on_next", to_theirs(payload), False)

    def finish(self, error: Exception | None) -> None:
        if self.ended:
            return
        self.ended = True
        if error is None:
            self._tell("on_complete")
        else:
            self._tell("on_error", error_to_theirs(error))

    def stop(self) -> None:
        self.ended = True  # and the subscriber hears nothing of it
        self._source.stop()

    def _tell(self, what: str, *arguments: object) -> None:
        # In the receive loop: what a subscriber raises is his own affair, and ends his stream.
        try:
            getattr(self._subscriber, what)(*arguments)
        except Exception:
            log.exception("%s of a subscriber raised; its stream is canceled", what)
            self.stop()


class _Nothing(Publisher):  # type: ignore[misc]  # their package has no types
    """A publisher that completes at once."""

    def subscribe(self, subscriber: Any) -> None:
        subscriber.on_subscribe(_NoSubscription())
        subscriber.on_complete()


class _NoSubscription(Subscription):  # type: ignore[misc]  # their package has no types
    def request(self, n: int) -> None:
        pass

    def cancel(self) -> None:
        pass


def _check(n: int) -> None:
    if not 1 <= n <= MAX_REQUEST_N:
        raise ValueError(f"{n} items requested, must be 1 to {MAX_REQUEST_N}")
