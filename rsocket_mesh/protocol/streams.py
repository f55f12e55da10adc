"""One stream's life per interaction, and its request-n credit.

One table per side covers all five interactions: what a side may do depends
only on which halves of the stream are open.

                    requester                          responder
    request-response  AWAITING -> ENDED                 ANSWERING -> ENDED
    request-stream    RECEIVING -> ENDED                SENDING -> ENDED
    request-channel   DUPLEX -> SENDING or RECEIVING    DUPLEX -> SENDING or RECEIVING
                             -> ENDED                          -> ENDED
    fire-and-forget   (ends with its last byte)         ASSEMBLING -> ENDED
    metadata push     not a stream: see `connection`

A request in fragments begins in ASSEMBLING on the responder. Sans-IO: frames in, an outcome out;
the verbs `send_*` return the frames that say it. What the tables do not name is ignored when the
peer does it ("Handling the Unexpected") and a `LocalProtocolError` when we do.
Sources: RSocket Protocol 1.0, "Stream Sequences and Lifetimes", "Flow Control"; where the text is
silent, what most implementations do.
"""

from __future__ import annotations

from collections.abc import Container
from enum import IntEnum
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
    MAX_STREAM_ID,
    PAYLOAD,
    REQUEST_CHANNEL,
    REQUEST_FNF,
    REQUEST_N,
    REQUEST_RESPONSE,
    REQUEST_STREAM,
    decode_tail,
)
from rsocket_mesh.protocol.payload import Payload

UNLIMITED: Final = MAX_REQUEST_N  # credit that is no longer counted down, as java and go read it
EXCESS_TOLERATED: Final = 1  # items over the credit; two libraries overrun by one out of habit


class Phase(IntEnum):
    """Which halves of a stream are open, seen from this side."""

    AWAITING = 0  # requester: one answer is due
    ANSWERING = 1  # responder: one answer is due
    ASSEMBLING = 2  # responder: the request is not complete
    RECEIVING = 3
    SENDING = 4
    DUPLEX = 5
    ENDED = 6


class Signal(IntEnum):
    """What can happen to a stream: frames of the peer, then our own acts."""

    ITEM = 0  # PAYLOAD with NEXT, whole
    LAST_ITEM = 1  # PAYLOAD with NEXT and COMPLETE
    COMPLETE = 2  # PAYLOAD with COMPLETE only
    REQUEST_N = 3
    CANCEL = 4
    ERROR = 5
    SEND_ITEM = 6
    SEND_LAST_ITEM = 7
    SEND_COMPLETE = 8
    SEND_REQUEST_N = 9
    SEND_CANCEL = 10
    SEND_ERROR = 11


class Effect(IntEnum):
    """What the owner of a stream has to do about it."""

    IGNORED = 0  # nothing, but count it
    HELD = 1  # nothing: a fragment was kept
    REQUESTED = 2  # responder: the request is complete, run the handler
    ITEM = 3
    LAST_ITEM = 4  # an item, and the inbound half is complete
    COMPLETED = 5  # the inbound half is complete
    CREDIT = 6  # the credit to send has grown
    RETURNED = 7  # an item was spent on nothing: grant it again
    STOPPED = 8  # the peer wants no more of our items; receiving goes on
    CANCELED = 9  # the requester ended the whole stream
    FAILED = 10  # the stream has ended with the error in the outcome
    SENT = 11  # our own act is legal


AWAITING, ANSWERING, ASSEMBLING, RECEIVING, SENDING, DUPLEX, ENDED = Phase
(
    IGNORED,
    HELD,
    REQUESTED,
    ITEM,
    LAST_ITEM,
    COMPLETED,
    CREDIT,
    RETURNED,
    STOPPED,
    CANCELED,
    FAILED,
    SENT,
) = Effect  # aliases: `is ITEM` is 8 ns, `is Effect.ITEM` 56

# What a received frame amounts to: effect, payload, error, frames to send because of it.
Outcome = tuple[Effect, Payload | None, StreamError | None, tuple[bytes, ...]]
Rules = dict[tuple[Phase, Signal], tuple[Effect, Phase]]

# (phase, signal) -> (effect, next phase). The tables are the law; only they and `_begin`
# (which enters the first real phase) set one.
REQUESTER_RULES: Final[Rules] = {
    (AWAITING, Signal.ITEM): (LAST_ITEM, ENDED),  # COMPLETE is implied (C-67)
    (AWAITING, Signal.LAST_ITEM): (LAST_ITEM, ENDED),
    (AWAITING, Signal.COMPLETE): (COMPLETED, ENDED),
    (AWAITING, Signal.ERROR): (FAILED, ENDED),
    (AWAITING, Signal.SEND_CANCEL): (SENT, ENDED),
    (RECEIVING, Signal.ITEM): (ITEM, RECEIVING),
    (RECEIVING, Signal.LAST_ITEM): (LAST_ITEM, ENDED),
    (RECEIVING, Signal.COMPLETE): (COMPLETED, ENDED),
    (RECEIVING, Signal.ERROR): (FAILED, ENDED),
    (RECEIVING, Signal.SEND_REQUEST_N): (SENT, RECEIVING),
    (RECEIVING, Signal.SEND_CANCEL): (SENT, ENDED),
    (DUPLEX, Signal.ITEM): (ITEM, DUPLEX),
    (DUPLEX, Signal.LAST_ITEM): (LAST_ITEM, SENDING),
    (DUPLEX, Signal.COMPLETE): (COMPLETED, SENDING),
    (DUPLEX, Signal.REQUEST_N): (CREDIT, DUPLEX),
    (DUPLEX, Signal.CANCEL): (STOPPED, RECEIVING),  # stops our half only (C-85)
    (DUPLEX, Signal.ERROR): (FAILED, ENDED),
    (DUPLEX, Signal.SEND_ITEM): (SENT, DUPLEX),
    (DUPLEX, Signal.SEND_COMPLETE): (SENT, RECEIVING),
    (DUPLEX, Signal.SEND_REQUEST_N): (SENT, DUPLEX),
    (DUPLEX, Signal.SEND_CANCEL): (SENT, ENDED),
    (DUPLEX, Signal.SEND_ERROR): (SENT, ENDED),
    (SENDING, Signal.REQUEST_N): (CREDIT, SENDING),
    (SENDING, Signal.CANCEL): (STOPPED, ENDED),
    (SENDING, Signal.ERROR): (FAILED, ENDED),  # also when it had completed (C-83)
    (SENDING, Signal.SEND_ITEM): (SENT, SENDING),
    (SENDING, Signal.SEND_COMPLETE): (SENT, ENDED),
    (SENDING, Signal.SEND_CANCEL): (SENT, ENDED),
    (SENDING, Signal.SEND_ERROR): (SENT, ENDED),
}
RESPONDER_RULES: Final[Rules] = {
    (ASSEMBLING, Signal.ITEM): (REQUESTED, ASSEMBLING),  # `_begin` enters the real phase
    (ASSEMBLING, Signal.LAST_ITEM): (REQUESTED, ASSEMBLING),
    (ASSEMBLING, Signal.REQUEST_N): (CREDIT, ASSEMBLING),
    (ASSEMBLING, Signal.CANCEL): (CANCELED, ENDED),
    (ASSEMBLING, Signal.ERROR): (CANCELED, ENDED),
    (ASSEMBLING, Signal.SEND_ERROR): (SENT, ENDED),
    (ANSWERING, Signal.CANCEL): (CANCELED, ENDED),
    (ANSWERING, Signal.ERROR): (CANCELED, ENDED),  # not foreseen; java treats it so
    (ANSWERING, Signal.SEND_LAST_ITEM): (SENT, ENDED),
    (ANSWERING, Signal.SEND_ERROR): (SENT, ENDED),
    (SENDING, Signal.REQUEST_N): (CREDIT, SENDING),
    (SENDING, Signal.CANCEL): (CANCELED, ENDED),
    (SENDING, Signal.ERROR): (CANCELED, ENDED),
    (SENDING, Signal.SEND_ITEM): (SENT, SENDING),
    (SENDING, Signal.SEND_COMPLETE): (SENT, ENDED),
    (SENDING, Signal.SEND_ERROR): (SENT, ENDED),
    (DUPLEX, Signal.ITEM): (ITEM, DUPLEX),
    (DUPLEX, Signal.LAST_ITEM): (LAST_ITEM, SENDING),
    (DUPLEX, Signal.COMPLETE): (COMPLETED, SENDING),
    (DUPLEX, Signal.REQUEST_N): (CREDIT, DUPLEX),
    (DUPLEX, Signal.CANCEL): (CANCELED, ENDED),  # ends both halves (C-84)
    (DUPLEX, Signal.ERROR): (FAILED, ENDED),
    (DUPLEX, Signal.SEND_ITEM): (SENT, DUPLEX),
    (DUPLEX, Signal.SEND_COMPLETE): (SENT, RECEIVING),
    (DUPLEX, Signal.SEND_REQUEST_N): (SENT, DUPLEX),
    (DUPLEX, Signal.SEND_CANCEL): (SENT, SENDING),  # "send me no more"
    (DUPLEX, Signal.SEND_ERROR): (SENT, ENDED),
    (RECEIVING, Signal.ITEM): (ITEM, RECEIVING),
    (RECEIVING, Signal.LAST_ITEM): (LAST_ITEM, ENDED),
    (RECEIVING, Signal.COMPLETE): (COMPLETED, ENDED),
    (RECEIVING, Signal.CANCEL): (CANCELED, ENDED),
    (RECEIVING, Signal.ERROR): (FAILED, ENDED),
    (RECEIVING, Signal.SEND_REQUEST_N): (SENT, RECEIVING),
    (RECEIVING, Signal.SEND_CANCEL): (SENT, ENDED),
    (RECEIVING, Signal.SEND_ERROR): (SENT, ENDED),
}

_Compiled = tuple[tuple[tuple[Effect, Phase], ...], ...]


def _compile(rules: Rules) -> _Compiled:
    """Return *rules* as rows[phase][signal]: two index steps instead of hashing two enums."""
    return tuple(
        tuple(rules.get((phase, signal), (IGNORED, phase)) for signal in Signal) for phase in Phase
    )


_REQUESTER: Final = _compile(REQUESTER_RULES)
_RESPONDER: Final = _compile(RESPONDER_RULES)
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

    _rules: ClassVar[_Compiled]

    def __init__(self, stream_id: int, phase: Phase, budget: ReassemblyBudget) -> None:
        self.stream_id = stream_id
        self.phase = phase
        self.credit = 0
        self.expected = 0
        self._budget = budget
        self._pieces: Reassembly | None = None

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

    _rules = _REQUESTER

    def __init__(
        self, stream_id: int, kind: int, budget: ReassemblyBudget, initial_n: int = 1
    ) -> None:
        """*initial_n*: credit in the request; 1 stands for the one answer of request-response."""
        if kind == REQUEST_RESPONSE:
            phase = AWAITING
        else:
            phase = RECEIVING if kind == REQUEST_STREAM else DUPLEX
        super().__init__(stream_id, phase, budget)
        self.expected = initial_n

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

    _rules = _RESPONDER

    def __init__(self, stream_id: int, kind: int, budget: ReassemblyBudget) -> None:
        super().__init__(stream_id, ASSEMBLING, budget)
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
        self._act(Signal.SEND_LAST_ITEM)

    def send_cancel(self) -> bytes:
        """Ask for no more items of the requester's half; return the frame."""
        self._act(Signal.SEND_CANCEL)
        self.drop_pieces()
        return frames.encode_cancel(self.stream_id)

    def send_abort(self, error: StreamError) -> tuple[bytes, ...]:
        frame = self.send_error(error)
        return () if self.kind == REQUEST_FNF else (frame,)  # never answered (C-71)


class StreamIds:
    """The ids of one side: rising by two from 1 (client) or 2 (server), then around once more.

    A connection that lives for a day at 20 000 requests a second does use up its ids, so they wrap
    and skip those that are still in use ("Stream Identifiers"; C-57, C-62, C-65).
    """

    __slots__ = ("_first", "_last", "_next", "_wrapped")

    def __init__(self, first: int, last: int = MAX_STREAM_ID) -> None:
        self._first = self._next = first
        self._last = last
        self._wrapped = False

    def allocate(self, in_use: Container[int]) -> int:
        """Return the next id; the caller sends its request at once, so ids rise on the wire.

        Raises:
            LocalProtocolError: every id is in use (C-64).
        """
        stream_id = self._next
        if stream_id > self._last or self._wrapped:
            stream_id = self._free(in_use)
        self._next = stream_id + 2
        return stream_id

    def _free(self, in_use: Container[int]) -> int:
        self._wrapped = True
        for stream_id in range(self._next, self._last + 1, 2):
            if stream_id not in in_use:
                return stream_id
        for stream_id in range(self._first, min(self._next, self._last + 1), 2):
            if stream_id not in in_use:
                return stream_id
        raise LocalProtocolError("every stream id of this connection is in use; open another one")
