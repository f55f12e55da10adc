"""Frames of known streams that need thought: what turns a call from one state into the next.

`relay` forwards what the law lets pass; it comes here with the rest. Each action of
`broker.forwarding.law` above `ITEM_UP` has its function in one table at the end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from broker.forwarding import law
from broker.forwarding.call import Call, Leg
from broker.observe.counters import CALLER_CANCELED, OK
from rsocket_mesh.errors import (
    ApplicationError,
    ErrorCode,
    Invalid,
    RemoteProtocolError,
    error_from_wire,
)
from rsocket_mesh.protocol.frames import (
    FLAG_COMPLETE,
    FLAG_METADATA,
    FLAG_NEXT,
    HEADER,
    MAX_REQUEST_N,
    PAYLOAD,
    REQUEST_CHANNEL,
    REQUEST_FNF,
    STREAM_ID,
    TYPE_NAMES,
    Error,
    decode_error,
    decode_request_n,
    describe,
    encode_cancel,
    encode_error,
    encode_request_n,
    restamp,
)

if TYPE_CHECKING:
    from broker.forwarding.link import Link

_STANDARD_CODES: Final = frozenset(
    (
        ErrorCode.APPLICATION_ERROR,
        ErrorCode.REJECTED,
        ErrorCode.CANCELED,
        ErrorCode.INVALID,
    )
)


class Turn:
    """One frame that needs thought, with what `relay` knows of it.

    Attributes:
        link: where it came from; `peer` where it would go, under the stream id `stamp`.
        frame: the whole frame without prefix; `word` its canonical type and flags.
    """

    __slots__ = ("call", "frame", "link", "peer", "stamp", "word")

    def __init__(self, link: Link, frame: bytes, word: int, leg: Leg) -> None:
        self.link = link
        self.frame = frame
        self.word = word
        self.peer, self.stamp, _, self.call = leg

    @property
    def from_caller(self) -> bool:
        """A session may call itself; then the parity of the stream id tells the sides apart."""
        return self.link is self.call.caller and STREAM_ID.unpack_from(self.frame)[0] & 1 == 1

    def forward(self, more_flags: int = 0) -> None:
        """Send the frame on, with its canonical flags and *more_flags*."""
        stream_id = STREAM_ID.unpack(self.stamp)[0]
        self.peer.send(HEADER.pack(stream_id, self.word | more_flags) + self.frame[6:])


def think(link: Link, data: bytes, position: int, stop: int, word: int, leg: Leg) -> None:
    """Deal with the frame at *position* of the batch *data*, which belongs to *leg*."""
    frame = data[position + 3 : stop]
    plain = law.canonical(word)
    if plain >> 10 == PAYLOAD and plain & FLAG_METADATA and not _metadata_fits(frame):
        link.violated(f"{describe(frame)}: metadata longer than the frame")
        return
    action = leg[2].get(plain)
    if action is None:
        link.ignored(TYPE_NAMES.get(plain >> 10, "unknown type"))
        return
    try:
        ACTIONS[action](Turn(link, frame, plain, leg))
    except RemoteProtocolError as exc:
        link.violated(str(exc))


def _metadata_fits(frame: bytes) -> bool:
    return len(frame) >= 9 and int.from_bytes(frame[6:9], "big") <= len(frame) - 9


# -- what only its flags made unusual -------------------------------------------------------------


def _pass(turn: Turn) -> None:
    turn.forward()


def _item(turn: Turn) -> None:
    credit = turn.call.up if turn.from_caller else turn.call.down
    if credit is not None:
        credit.delivered += 1
    turn.forward()


def _end(turn: Turn) -> None:
    turn.call.end(OK)
    turn.forward()


def _answer(turn: Turn) -> None:
    turn.call.end(OK)
    turn.forward(FLAG_COMPLETE)


def _blank(turn: Turn) -> None:
    turn.link.ignored("PAYLOAD without NEXT and COMPLETE")
    # It cost its sender a credit that its receiver will never see used.
    stream_id = STREAM_ID.unpack_from(turn.frame)[0]
    turn.link.send(encode_request_n(stream_id, 1))


# -- the life of a request ------------------------------------------------------------------------


def _requested(turn: Turn) -> None:
    """The last fragment of the request: from now on the law of the open stream holds."""
    call = turn.call
    turn.forward(FLAG_NEXT)
    if call.kind == REQUEST_FNF:
        call.end(OK)
        return
    if call.kind != REQUEST_CHANNEL:
        call.set_caller_law(law.OPENED[call.kind][0])
        return
    if turn.word & FLAG_COMPLETE or call.up is None:
        _close_up(call)
    elif call.down is None:
        call.set_caller_law(law.CHANNEL_UP_ONLY)
    else:
        call.set_caller_law(law.CHANNEL_UP)


def _first(turn: Turn) -> None:
    """The first item, or its first fragment, has come: the deadline is met."""
    call = turn.call
    call.disarm()
    call.set_provider_law(
        law.ITEMS if call.kind != REQUEST_CHANNEL else law.CHANNEL_DOWN,
    )
    plain = call.provider.streams[call.provider_id][2]
    if plain[turn.word] == law.ITEM and call.down is not None:
        call.down.delivered += 1
    turn.forward()


def _half_close(turn: Turn) -> None:
    turn.forward()
    if turn.from_caller:
        _close_up(turn.call)
    else:
        turn.call.disarm()
        if turn.call.close_down():
            turn.call.end(OK)


def _close_up(call: Call) -> None:
    if call.close_up():
        call.end(OK)


def _demand(turn: Turn) -> None:
    items = decode_request_n(turn.frame)
    call = turn.call
    if not 1 <= items <= MAX_REQUEST_N:
        _refuse_demand(turn, items)
        return
    credit = call.down if turn.from_caller else call.up
    if credit is None:
        turn.link.ignored("REQUEST_N for a closed half")
        return
    grant = credit.ask(items)
    if grant:
        turn.peer.send(encode_request_n(STREAM_ID.unpack(turn.stamp)[0], grant))


def _refuse_demand(turn: Turn, items: int) -> None:
    """REQUEST_N of 0 or over 2^31-1 ends the stream, both ways (C-76)."""
    error = Invalid(f"REQUEST_N of {items}, must be 1 to {MAX_REQUEST_N}")
    call = turn.call
    call.end("invalid")
    code, text = error.to_wire()
    turn.link.send(encode_error(STREAM_ID.unpack_from(turn.frame)[0], code, text))
    if turn.from_caller:
        call.cancel_provider()
    else:
        call.caller.send(encode_error(call.caller_id, ErrorCode.CANCELED, text))


# -- endings --------------------------------------------------------------------------------------


def _stop(turn: Turn) -> None:
    call = turn.call
    call.end(CALLER_CANCELED)
    call.cancel_provider()


def _refuse_more(turn: Turn) -> None:
    """A channel's responder takes no more items; the requester goes on receiving."""
    call = turn.call
    if call.up is None and not call.is_requesting:
        turn.link.ignored("CANCEL for a closed half")
        return
    requesting = call.is_requesting
    call.caller.send(encode_cancel(call.caller_id))
    if call.close_up():
        call.end(OK)
    elif requesting:
        # The rest of the request's fragments is of no use to anybody now.
        call.set_caller_law(law.CALLER_ASKS)


def _fail(turn: Turn) -> None:
    error = decode_error(turn.frame)
    if turn.from_caller:
        turn.call.end(CALLER_CANCELED)
        if turn.call.kind != REQUEST_CHANNEL:  # only a channel's requester has items to fail
            turn.call.cancel_provider()
            return
    else:
        known = error_from_wire(error.code, error.text)
        turn.call.end((known.token or type(known).__name__).lower())
    turn.peer.send(_readable(turn.frame, error, STREAM_ID.unpack(turn.stamp)[0]))


def _readable(frame: bytes, error: Error, stream_id: int) -> bytes:
    """Return the ERROR *frame* under *stream_id*, in a form that every client can read.

    Some drop an ERROR with a code of the application's own, or with text that is not UTF-8, and
    then wait for ever. Such a code becomes a detail of APPLICATION_ERROR.
    """
    code, text = error.code, error.text
    if code not in _STANDARD_CODES:
        code, text = ApplicationError(text, code=code).to_wire()
    elif "\N{REPLACEMENT CHARACTER}" not in text:
        return restamp(frame, stream_id)
    return encode_error(stream_id, code, text)


ACTIONS: Final[dict[int, Callable[[Turn], None]]] = {
    law.PASS: _pass,
    law.ITEM: _item,
    law.ITEM_UP: _item,
    law.END: _end,
    law.ANSWER: _answer,
    law.FIRST: _first,
    law.REQUESTED: _requested,
    law.HALF_CLOSE: _half_close,
    law.DEMAND: _demand,
    law.STOP: _stop,
    law.REFUSE_MORE: _refuse_more,
    law.FAIL: _fail,
    law.BLANK: _blank,
}
