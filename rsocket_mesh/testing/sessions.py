"""The frames of one session on their way, read for the record: which call, and how it goes.

Between `record` and `wires`. One object per session and not per connection: calls of a session with
resume go on over the next one, and what is sent again there is not counted twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from rsocket_mesh.errors import Invalid, StreamError, error_from_wire
from rsocket_mesh.protocol.announce import decode_announcement
from rsocket_mesh.protocol.frames import (
    CANCEL,
    ERROR,
    FLAG_COMPLETE,
    FLAG_FOLLOWS,
    FLAG_NEXT,
    PAYLOAD,
    REQUEST_CHANNEL,
    REQUEST_FNF,
    REQUEST_RESPONSE,
    REQUEST_STREAM,
    Request,
    Setup,
    decode_error,
    decode_payload,
    decode_request,
    peek,
)
from rsocket_mesh.protocol.metadata import (
    COMPOSITE,
    DATA_MIME_TYPE,
    DEADLINE,
    ROUTING,
    decode_composite,
    decode_deadline,
    decode_mime,
    decode_routing,
)
from rsocket_mesh.protocol.resume import TRACKED
from rsocket_mesh.rpc.mesh import ANNOUNCE_ROUTE
from rsocket_mesh.testing.record import CANCELED, LATE, LOST, OK, SENT, Record, RecordedCall

if TYPE_CHECKING:
    from broker.forwarding.link import Link as BrokerLink

MODELS: Final = {
    REQUEST_RESPONSE: "request-response",
    REQUEST_FNF: "fire-and-forget",
    REQUEST_STREAM: "request-stream",
    REQUEST_CHANNEL: "request-channel",
}
OWN: Final = "mesh."  # the broker's own services
_UP, _DOWN = 1, 2  # the halves of a call that are over


class Positions:
    """How far one direction was read, over all sockets of a session.

    Attributes:
        at: bytes of tracked frames that the sender has sent up to here.
    """

    def __init__(self) -> None:
        self.at = 0
        self._seen = 0

    def is_old(self, kind: int, size: int) -> bool:
        """Count a frame; return whether it came before and is sent again."""
        if kind not in TRACKED:
            return False
        self.at += size
        if self.at <= self._seen:
            return True
        self._seen = self.at
        return False


class SessionRecord:
    """The calls that one client has made and not seen the end of.

    Attributes:
        broker_link: the session as the broker has it; None before its SETUP has come there.
        up, down: how far the two directions were read.
    """

    def __init__(
        self,
        record: Record,
        name: str,
        setup: Setup,
        reject: Callable[[str], StreamError | None],
        announced: Callable[[bytes], None],
    ) -> None:
        """*reject* returns what calls to a route are to be refused with; *announced* is given what
        the client announces later on."""
        self.broker_link: BrokerLink | None = None
        self.up, self.down = Positions(), Positions()
        self._record = record
        self._name = name
        self._metadata_mime = setup.metadata_mime
        self._data_mime = setup.data_mime
        self._reject = reject
        self._announced = announced
        self._open: dict[int, RecordedCall] = {}
        self._over: dict[int, int] = {}  # halves of channels
        self._unfinished: set[int] = set()  # requests that are under way in fragments
        self._refused: set[int] = set()  # streams that the broker does not hear of

    # -- towards the broker -----------------------------------------------------------------------

    def sent(self, frame: bytes) -> tuple[bool, StreamError | None]:
        """Read a frame that the client has sent; return whether it goes on, and the error to answer
        it with."""
        stream_id, kind, flags = peek(frame)
        if self.up.is_old(kind, len(frame)):
            return True, None
        if kind in MODELS:
            error = self._begin(decode_request(frame))
            if error is not None:
                self._refused.add(stream_id)
            return error is None, error
        if stream_id in self._refused:
            return False, None
        call = self._open.get(stream_id)
        if call is None:
            return True, None
        if kind == PAYLOAD:
            self._payload_up(stream_id, call, frame, flags)
        elif kind == CANCEL:
            self._end(stream_id, LATE if self._record.is_late(call) else CANCELED)
        elif kind == ERROR:
            self._fail(stream_id, frame)
        return True, None

    def _begin(self, request: Request) -> StreamError | None:
        tags, mime, timeout = self._read(request.metadata)
        route = tags[0] if tags else ""
        if route == ANNOUNCE_ROUTE:  # the library's own talk is no call of the test's
            self._announced(request.data)
            return None
        call = self._record.begin(
            route, MODELS[request.kind], self._name, mime, tuple(t for t in tags[1:] if "=" in t)
        )
        call.data = request.data
        call.timeout = timeout
        if route.startswith(OWN):
            call.provider = "broker"
        error = self._reject(route)
        self._open[request.stream_id] = call
        if error is not None:
            self._end(request.stream_id, error.token or type(error).__name__, error)
            return error
        if request.follows:
            self._unfinished.add(request.stream_id)
        if request.complete or request.kind != REQUEST_CHANNEL:
            self._over[request.stream_id] = _UP
        if request.kind == REQUEST_FNF and not request.follows:
            self._record.fired.append(call)
            self._end(request.stream_id, SENT)
        return None

    def _read(self, metadata: bytes | None) -> tuple[list[str], str, float | None]:
        """Return the routing tags, the MIME type of the data, and the seconds that it may take."""
        try:
            if metadata is not None and self._metadata_mime == ROUTING:
                return decode_routing(metadata), self._data_mime, None
            if metadata is not None and self._metadata_mime == COMPOSITE:
                entries = {entry.mime: entry.content for entry in decode_composite(metadata)}
                tags = decode_routing(entries[ROUTING]) if ROUTING in entries else []
                mime, timeout = self._data_mime, None
                if DATA_MIME_TYPE in entries:
                    mime = str(decode_mime(entries[DATA_MIME_TYPE]))
                if DEADLINE in entries:
                    timeout = decode_deadline(entries[DEADLINE]) / 1000
                return tags, mime, timeout
        except Invalid:
            pass  # what the broker says to it will be seen
        return [], self._data_mime, None

    def _payload_up(self, stream_id: int, call: RecordedCall, frame: bytes, flags: int) -> None:
        if stream_id in self._unfinished:
            call.data += decode_payload(frame).data
            if not flags & FLAG_FOLLOWS:
                self._unfinished.discard(stream_id)
                if call.model == MODELS[REQUEST_FNF]:
                    self._end(stream_id, SENT)
                    return
        elif flags & FLAG_NEXT and not flags & FLAG_FOLLOWS:
            call.items_sent += 1
        if flags & FLAG_COMPLETE:
            self._half(stream_id, _UP)

    # -- towards the client -----------------------------------------------------------------------

    def received(self, frame: bytes) -> None:
        """Read a frame that reaches the client."""
        stream_id, kind, flags = peek(frame)
        if self.down.is_old(kind, len(frame)):
            return
        call = self._open.get(stream_id)
        if call is None:
            return
        if kind == PAYLOAD:
            if flags & FLAG_NEXT and not flags & FLAG_FOLLOWS:
                self._record.item(call)
            is_answer = call.model == MODELS[REQUEST_RESPONSE] and not flags & FLAG_FOLLOWS
            if flags & FLAG_COMPLETE or is_answer:
                self._half(stream_id, _DOWN)
        elif kind == ERROR:
            self._fail(stream_id, frame)
        elif kind == CANCEL:  # a channel's responder takes no more
            self._half(stream_id, _UP)

    def running(self, stream_id: int) -> RecordedCall | None:
        """Return the call that the client has made on *stream_id*, if it is not over."""
        return self._open.get(stream_id)

    # -- the end ----------------------------------------------------------------------------------

    def lose(self) -> None:
        """The session is over, and with it the calls that were running."""
        for stream_id in list(self._open):
            self._end(stream_id, LOST)

    def _half(self, stream_id: int, half: int) -> None:
        over = self._over[stream_id] = self._over.get(stream_id, 0) | half
        if over == _UP | _DOWN:
            self._end(stream_id, OK)

    def _fail(self, stream_id: int, frame: bytes) -> None:
        told = decode_error(frame)
        error = error_from_wire(told.code, told.text)
        self._end(stream_id, error.token or type(error).__name__, error)

    def _end(self, stream_id: int, outcome: str, error: StreamError | None = None) -> None:
        self._over.pop(stream_id, None)
        self._unfinished.discard(stream_id)
        self._record.end(self._open.pop(stream_id), outcome, error)


def services_in(announcement: bytes) -> tuple[str, ...] | None:
    """Return the names of the services that *announcement* has; None if it cannot be read."""
    try:
        return tuple(service.name for service in decode_announcement(announcement).services)
    except Invalid:
        return None
