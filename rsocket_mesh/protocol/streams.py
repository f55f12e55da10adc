"""One stream's life and its request-n credit, by the law of `stream_rules`.

Sans-IO: a frame in, an outcome out; the verbs `send_*` return the frames that say it. Fragments of
the peer are put together here, items beyond the credit are counted here. A violation ends the one
stream, with the frames that tell the peer; only a malformed frame is the connection's matter.
Sources: RSocket Protocol 1.0, "Flow Control", "Fragmentation and Reassembly".
"""

from __future__ import annotations

from typing import ClassVar, Final

from rsocket_mesh.errors import (
    ErrorCode,
    Invalid,
    LocalProtocolError,
    StreamError,
    error_from_wire,
)
from rsocket_mesh.protocol import frames
from rsocket_mesh.protocol.fragments import Reassembly, ReassemblyBudget
from rsocket_mesh.protocol.frames import (
    CANCEL,
    ERROR,
    FLAG_COMPLETE,
    FLAG_FOLLOWS,
    FLAG_METADATA,
    FLAG_NEXT,
    MAX_REQUEST_N,
    PAYLOAD,
    REQUEST_CHANNEL,
    REQUEST_FNF,
    REQUEST_N,
    REQUEST_RESPONSE,
    REQUEST_STREAM,
    decode_tail,
)
from rsocket_mesh.protocol.payload import Payload
from rsocket_mesh.protocol.stream_rules import (
    ANSWERING,
    ASSEMBLING,
    AWAITING,
    CREDIT,
    DUPLEX,
    ENDED,
    FAILED,
    HELD,
    IGNORED,
    ITEM,
    LAST_ITEM,
    RECEIVING,
    REQUESTED,
    REQUESTER_ROWS,
    RESPONDER_ROWS,
    RETURNED,
    SENDING,
    Effect,
    Phase,
    Rows,
    Signal,
)

UNLIMITED: Final = MAX_REQUEST_N  # credit that is no longer counted down, as java and go read it
EXCESS_TOLERATED: Final = 1  # items over the credit; two libraries overrun by one out of habit

# What a received frame amounts to: effect, payload, error, frames to send because of it.
Outcome = tuple[Effect, Payload | None, StreamError | None, tuple[bytes, ...]]

_SIGNALS: Final[dict[int, Signal]] = {
    REQUEST_N: Signal.REQUEST_N,
    CANCEL: Signal.CANCEL,
    ERROR: Signal.ERROR,
}
_FIRST_PHASE: Final[dict[int, Phase]] = {
    REQUEST_RESPONSE: ANSWERING,
    REQUEST_FNF: ENDED,
    REQUEST_STREAM: SENDING,
    REQUEST_CHANNEL: DUPLEX,
}
_IGNORED_OUTCOME: Final[Outcome] = (IGNORED, None, None, ())
_HELD_OUTCOME: Final[Outcome] = (HELD, None, None, ())
_RETURNED_OUTCOME: Final[Outcome] = (RETURNED, None, None, ())
_CREDIT_OUTCOME: Final[Outcome] = (CREDIT, None, None, ())


def add_credit(credit: int, n: int) -> int:
    """Return *credit* grown by *n*; at 2^31-1 it is unlimited and stays so (C-74)."""
    return min(credit + n, UNLIMITED)


class Stream:
    """What both sides have in common. Owns no task and no queue.

    Attributes:
        credit: items that we may send; `UNLIMITED` is not counted down.
        expected: items that we granted and that have not arrived; -1 after one in excess.
    """

    __slots__ = ("_budget", "_pieces", "credit", "expected", "phase", "stream_id")

    _rules: ClassVar[Rows]

    stream_id: int
    phase: Phase
    credit: int
    expected: int
    _budget: ReassemblyBudget
    _pieces: Reassembly | None

    # -- the peer's frames ------------------------------------------------------------------------

    def receive_frame(self, kind: int, flags: int, frame: bytes) -> Outcome:
        """Take one frame of this stream and return what it amounts to.

        Raises:
            RemoteProtocolError: the frame is malformed: a matter of the connection (C-21).
        """
        if kind == PAYLOAD:
            return self._receive_payload(flags, frame)
        signal = _SIGNALS.get(kind)
        if signal is None:  # a request on an id in use, or a type that has no place here (C-59)
            return _IGNORED_OUTCOME
        effect, phase = self._rules[self.phase][signal]
        if effect is IGNORED:
            return _IGNORED_OUTCOME
        if effect is CREDIT:
            n = frames.decode_request_n(frame)
            if not 1 <= n <= MAX_REQUEST_N:
                return self._violated(Invalid(f"REQUEST_N of {n}, must be 1 to {MAX_REQUEST_N}"))
            self.credit = add_credit(self.credit, n)
            return _CREDIT_OUTCOME
        error: StreamError | None = None
        if kind == ERROR:
            received = frames.decode_error(frame)
            error = error_from_wire(received.code, received.text)
        self.phase = phase
        if phase is ENDED or phase is SENDING:
            self.drop_pieces()
        return effect, None, error, ()

    def _receive_payload(self, flags: int, frame: bytes) -> Outcome:
        if self._pieces is not None or flags & (FLAG_FOLLOWS | FLAG_COMPLETE) == FLAG_FOLLOWS:
            return self._receive_fragment(flags, frame)
        if flags & FLAG_NEXT:
            signal = Signal.LAST_ITEM if flags & FLAG_COMPLETE else Signal.ITEM
        elif flags & FLAG_COMPLETE:
            signal = Signal.COMPLETE
        else:
            return self._receive_nothing()
        if flags & FLAG_METADATA:
            metadata, data = decode_tail(frame, 6, flags)
            return self._receive_item(signal, Payload(data, metadata))
        return self._receive_item(signal, Payload(frame[6:]))

    def _receive_item(self, signal: Signal, payload: Payload) -> Outcome:
        effect, phase = self._rules[self.phase][signal]
        if effect is ITEM or effect is LAST_ITEM:
            if self.expected <= -EXCESS_TOLERATED:
                return self._overrun()
            if self.expected < UNLIMITED:
                self.expected -= 1
            self.phase = phase
            return effect, payload, None, ()
        self.phase = phase
        return effect, None, None, ()

    def _receive_nothing(self) -> Outcome:
        """Neither NEXT nor COMPLETE: forbidden; an rsocket-py peer lost an empty item (C-88).

        It is not delivered, but it did use up credit at its sender, so that is granted again.
        """
        if self._rules[self.phase][Signal.ITEM][0] is not ITEM or self.expected <= 0:
            return _IGNORED_OUTCOME
        if self.expected < UNLIMITED:
            self.expected -= 1
        return _RETURNED_OUTCOME

    def _receive_fragment(self, flags: int, frame: bytes) -> Outcome:
        effect, _ = self._rules[self.phase][Signal.ITEM]
        if effect is IGNORED:  # a closed half stores nothing (C-100)
            return _IGNORED_OUTCOME
        pieces = self._pieces
        if pieces is None:
            if not flags & FLAG_NEXT:  # a fragment of nothing
                return _IGNORED_OUTCOME
            if self.expected <= -EXCESS_TOLERATED:
                return self._overrun()
            pieces = self._pieces = Reassembly(self._budget)
        metadata, data = decode_tail(frame, 6, flags)
        try:
            pieces.add(metadata, data)
        except StreamError as exc:
            return self._violated(exc)
        if flags & (FLAG_FOLLOWS | FLAG_COMPLETE) == FLAG_FOLLOWS:  # COMPLETE overrides (C-97)
            return _HELD_OUTCOME
        self._pieces = None
        signal = Signal.LAST_ITEM if flags & FLAG_COMPLETE else Signal.ITEM
        return self._receive_item(signal, pieces.finish())

    def _overrun(self) -> Outcome:
        return self._violated(
            Invalid("the peer sent items beyond the credit that it had been granted")
        )

    def _violated(self, error: StreamError) -> Outcome:
        """The peer broke a rule of this stream: end it on both sides, the connection lives."""
        return FAILED, None, error, self.send_abort(error)

    # -- our own acts -----------------------------------------------------------------------------

    def send_abort(self, error: StreamError) -> tuple[bytes, ...]:
        """End the stream because of *error*; return the frames that tell the peer."""
        raise NotImplementedError

    def _act(self, signal: Signal) -> None:
        effect, phase = self._rules[self.phase][signal]
        if effect is IGNORED:
            raise LocalProtocolError(
                f"stream {self.stream_id} is {self.phase.name}: {signal.name} is not allowed"
            )
        self.phase = phase
        if phase is ENDED:
            self.drop_pieces()

    @property
    def is_sending(self) -> bool:
        """Whether our half is open for items."""
        return self.phase is DUPLEX or self.phase is SENDING

    @property
    def is_receiving(self) -> bool:
        """Whether the peer's half is open for items."""
        return self.phase is DUPLEX or self.phase is RECEIVING

    def send_item(self) -> None:
        """Use one credit; the caller sends the item with `payload_frames`.

        Raises:
            LocalProtocolError: our half is closed, or there is no credit.
        """
        if self.credit <= 0:
            raise LocalProtocolError(f"stream {self.stream_id} has no credit to send an item")
        self._act(Signal.SEND_ITEM)
        if self.credit < UNLIMITED:
            self.credit -= 1

    def send_complete(self) -> bytes:
        """Close our half; return the frame. Needs no credit (C-73)."""
        self._act(Signal.SEND_COMPLETE)
        return frames.encode_payload(self.stream_id, None, b"", next=False, complete=True)

    def send_error(self, error: StreamError) -> bytes:
        """End the whole stream with *error*; return the frame. Needs no credit (C-73)."""
        self._act(Signal.SEND_ERROR)
        return frames.encode_error(self.stream_id, *error.to_wire())

    def send_request_n(self, n: int) -> bytes:
        """Grant *n* more items; return the frame."""
        self._act(Signal.SEND_REQUEST_N)
        self.expected = add_credit(self.expected, n)
        return frames.encode_request_n(self.stream_id, n)

    def drop_pieces(self) -> None:
        """Give up an unfinished message, for instance when the connection is lost (C-102)."""
        if self._pieces is not None:
            self._pieces.drop()
            self._pieces = None


class RequesterStream(Stream):
    """The side that asked. Create it when the request is sent."""

    __slots__ = ()

    _rules = REQUESTER_ROWS

    def __init__(
        self, stream_id: int, kind: int, budget: ReassemblyBudget, initial_n: int = 1
    ) -> None:
        """*initial_n*: credit in the request; 1 stands for the one answer of request-response."""
        if kind == REQUEST_RESPONSE:
            phase = AWAITING
        else:
            phase = RECEIVING if kind == REQUEST_STREAM else DUPLEX
        # As in `ResponderStream`, not by `super`.
        self.stream_id = stream_id
        self.phase = phase
        self.credit = 0
        self.expected = initial_n
        self._budget = budget
        self._pieces = None

    def send_cancel(self) -> tuple[bytes, ...]:
        """End the stream here; return the frames that tell the responder.

        While our half of a channel is open, ERROR[CANCELED] follows: responders in go, C++ and
        rsocket-py end only the other half on CANCEL, and for the rest the stream is unknown then.
        """
        was_sending = self.is_sending
        self._act(Signal.SEND_CANCEL)
        cancel = frames.encode_cancel(self.stream_id)
        if not was_sending:
            return (cancel,)
        error = frames.encode_error(self.stream_id, ErrorCode.CANCELED, "canceled by the requester")
        return cancel, error

    def send_abort(self, error: StreamError) -> tuple[bytes, ...]:
        return self.send_cancel()


class ResponderStream(Stream):
    """The side that was asked. Create it for a request, then call `receive_request`."""

    __slots__ = ("_completes", "kind")

    _rules = RESPONDER_ROWS

    def __init__(self, stream_id: int, kind: int, budget: ReassemblyBudget) -> None:
        # All of it here: one is made per request, and a call of `super` costs as much as the rest.
        self.stream_id = stream_id
        self.phase = ASSEMBLING
        self.credit = self.expected = 0
        self._budget = budget
        self._pieces = None
        self.kind = kind
        self._completes = False

    def receive_request(self, flags: int, frame: bytes) -> Outcome:
        """Take the request's first frame: REQUESTED, HELD, or FAILED for an invalid initial n.

        Raises:
            RemoteProtocolError: the frame is malformed: a matter of the connection.
        """
        if self.kind >= REQUEST_STREAM:
            request = frames.decode_request(frame)
            n = request.initial_n or 0
            if not 1 <= n <= MAX_REQUEST_N:
                return self._violated(
                    Invalid(f"initial request n of {n}, must be 1 to {MAX_REQUEST_N}")
                )
            self.credit = n
            self._completes = request.complete  # counts once the request is whole
            metadata, data = request.metadata, request.data
        else:
            metadata, data = decode_tail(frame, 6, flags)
        if flags & FLAG_FOLLOWS:
            pieces = self._pieces = Reassembly(self._budget)
            try:
                pieces.add(metadata, data)
            except StreamError as exc:
                return self._violated(exc)
            return _HELD_OUTCOME
        return self._begin(Payload(data, metadata))

    def receive_whole(self, flags: int, frame: bytes) -> Payload:
        """Take a request-response that came in one frame: `receive_request` for nearly all.

        Raises:
            RemoteProtocolError: the frame is malformed: a matter of the connection.
        """
        metadata, data = decode_tail(frame, 6, flags)
        self.phase = ANSWERING
        # What `Payload(data, metadata)` comes to, at half its cost: one is made per request.
        return tuple.__new__(Payload, (data, metadata))

    def _receive_item(self, signal: Signal, payload: Payload) -> Outcome:
        if self.phase is not ASSEMBLING:
            return super()._receive_item(signal, payload)
        self._completes |= self.kind == REQUEST_CHANNEL and signal is Signal.LAST_ITEM
        return self._begin(payload)

    def _begin(self, request: Payload) -> Outcome:
        self.phase = SENDING if self._completes else _FIRST_PHASE[self.kind]
        return REQUESTED, request, None, ()

    def send_answer(self) -> None:
        """End a request-response; the caller sends the answer with `payload_frames`."""
        if self.phase is not ANSWERING:
            self._act(Signal.SEND_LAST_ITEM)
        self.phase = ENDED  # as `_act` would find in the table, at a fifth of the cost

    def send_cancel(self) -> bytes:
        """Ask for no more items of the requester's half; return the frame."""
        self._act(Signal.SEND_CANCEL)
        self.drop_pieces()
        return frames.encode_cancel(self.stream_id)

    def send_abort(self, error: StreamError) -> tuple[bytes, ...]:
        frame = self.send_error(error)
        return () if self.kind == REQUEST_FNF else (frame,)  # never answered (C-71)
