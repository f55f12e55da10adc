"""Frames of known streams that need thought: what turns a call from one state into the next.

`relay` forwards what the law lets pass; it comes here with the rest: what changes the state of a
call, items whose credit is to be settled, messages in fragments, and all that goes to a peer that
does not read what it has. Each action of `broker.kernel.law` has its function in one table at
the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from broker.forwarding.items import ItemCall
from broker.forwarding.pressure import count_reset, too_much_unfinished
from broker.kernel import law
from broker.observe.counters import CALLER_CANCELED, OK
from rsocket_mesh.errors import (
    ApplicationError,
    Canceled,
    ErrorCode,
    Invalid,
    RemoteProtocolError,
    SlowConsumer,
    StreamError,
    error_from_wire,
)
from rsocket_mesh.protocol.frames import (
    FLAG_COMPLETE,
    FLAG_FOLLOWS,
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
    restamp,
)
from rsocket_mesh.protocol.framing import prefix
from rsocket_mesh.transport.chunks import LARGE_CHUNK

if TYPE_CHECKING:
    from broker.forwarding.link import Link
    from broker.kernel.cores import Leg

# Bytes that a fragment counts for at least: whoever puts the message together pays for each,
# however empty it is, and a message cannot go on for ever without growing.
SMALLEST_PIECE: Final = 1024
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
        frame: the frame without prefix; `word` its canonical type and flags. Of a large PAYLOAD it
            is the first part, with the header and the length of the metadata; `tail` the others.
        length: of the whole frame, in bytes.
        size: bytes of the message that it is, or ends.
    """

    __slots__ = ("call", "frame", "length", "link", "peer", "size", "stamp", "tail", "word")

    def __init__(
        self, link: Link, frame: bytes, tail: Sequence[memoryview], word: int, leg: Leg
    ) -> None:
        self.link = link
        self.frame = frame
        self.tail = tail
        self.word = word
        self.size = self.length = len(frame) + sum(map(len, tail)) if tail else len(frame)
        self.peer, self.stamp, _, self.call = leg

    @property
    def from_caller(self) -> bool:
        """A session may call itself; then the parity of the stream id tells the sides apart."""
        return self.link is self.call.caller and STREAM_ID.unpack_from(self.frame)[0] & 1 == 1

    @property
    def items(self) -> ItemCall:
        """The call, which has items: the law says so."""
        assert isinstance(self.call, ItemCall)
        return self.call

    def forward(self, more_flags: int = 0) -> None:
        """Send the frame on, with its canonical flags and *more_flags*."""
        peer = self.peer
        header = HEADER.pack(STREAM_ID.unpack(self.stamp)[0], self.word | more_flags)
        # Large frames are passed on as they are; of small ones a copy costs less than a view.
        body = memoryview(self.frame) if self.length >= LARGE_CHUNK else self.frame
        peer.out += (prefix(self.length), header, body[HEADER.size :], *self.tail)
        peer.hub.counters.frames_out += 1
        if self.tail or peer.congested:
            peer.transport.flush()  # so that the next frame of this batch sees it counted
        else:
            peer.transport.flush_soon()

    @property
    def is_piece(self) -> bool:
        """Whether the message that this frame belongs to began in an earlier frame."""
        call = self.call
        return bool(call.coming_up if self.from_caller else call.coming_down)

    def may_pass(self) -> bool:
        """Whether there is room for the frame at its receiver; if not, the call has ended."""
        peer = self.peer
        if not peer.congested or peer.has_room(self.length):
            return True
        waiting = peer.transport.outbound_size()
        side = "provider" if self.from_caller else "consumer"
        self.call.fail(
            SlowConsumer(f"the {side} does not read: {waiting} bytes wait for it at the broker")
        )
        peer.limit_hit("large_payload_bytes")
        return False

    def overrun(self) -> None:
        """The sender has sent more items than it had credit for, and more than by habit."""
        self.link.limit_hit("credit")
        self.offend(Canceled("items were sent beyond the credit that had been granted for them"))

    def offend(self, error: StreamError) -> None:
        """The sender broke a rule of the stream: end it for both, and tell each in its way."""
        call = self.call
        if self.from_caller:
            call.fail(error)
            return
        call.end((error.token or type(error).__name__).lower())
        code, text = error.to_wire()
        call.provider.send(encode_cancel(call.provider_id))
        if call.kind == REQUEST_CHANNEL:  # only a channel's responder asks, and so hears errors
            call.provider.send(encode_error(call.provider_id, code, text))
        call.caller.send(encode_error(call.caller_id, ErrorCode.CANCELED, text))


def think(link: Link, data: bytes, position: int, stop: int, word: int, leg: Leg) -> None:
    """Deal with the frame at *position* of the batch *data*, which belongs to *leg*."""
    think_of(link, data[position + 3 : stop], (), word, leg)


def think_of(link: Link, frame: bytes, tail: Sequence[memoryview], word: int, leg: Leg) -> None:
    """Deal with *frame*, of which a *tail* follows if it is a large PAYLOAD in parts."""
    plain = law.canonical(word)
    is_payload = plain >> 10 == PAYLOAD
    turn = Turn(link, frame, tail, plain, leg)
    if is_payload and plain & FLAG_METADATA and not _metadata_fits(frame, turn.length):
        link.violated(f"{describe(frame)}: metadata longer than the frame")
        return
    if is_payload and turn.is_piece and not plain & FLAG_NEXT:
        turn.word = plain = plain | FLAG_NEXT  # the last piece: some leave it out, others insist
    action = leg[2].get(plain)
    if action is None:
        link.ignored(TYPE_NAMES.get(plain >> 10, "unknown type"))
        return
    try:
        if not is_payload:
            ACTIONS[action & ~law.THINK](turn)
        elif turn.may_pass():
            _take_payload(turn, ACTIONS[action & ~law.THINK])
    except RemoteProtocolError as exc:
        link.violated(str(exc))


def _metadata_fits(frame: bytes, length: int) -> bool:
    return length >= 9 and int.from_bytes(frame[6:9], "big") <= length - 9


def _take_payload(turn: Turn, action: Callable[[Turn], None]) -> None:
    """Act on a PAYLOAD, and keep account of the message if it comes in fragments."""
    call = turn.call
    if turn.word & FLAG_FOLLOWS:
        charged = max(turn.length, SMALLEST_PIECE)
        size = (call.piece_up if turn.from_caller else call.piece_down)(charged)
        error = too_much_unfinished(turn.link, size)
        if error is not None:
            turn.offend(error)
            return
        action(turn)
    elif turn.is_piece:
        # The first look, since afterwards the call may be over.
        from_caller = turn.from_caller
        turn.size += call.coming_up if from_caller else call.coming_down
        action(turn)
        # Only now may credit go to whom the message went.
        if from_caller and call.coming_up:
            call.whole_up()
        elif not from_caller and call.coming_down:
            call.whole_down()
    else:
        action(turn)


# -- items ----------------------------------------------------------------------------------------


def _piece(turn: Turn) -> None:
    turn.forward()


def _item(turn: Turn) -> None:
    call = turn.items
    credit = call.up if turn.from_caller else call.down
    assert credit is not None  # the law of a closed half has no items
    credit.deliver(turn.size)
    if credit.is_overrun:
        turn.overrun()
        return
    turn.forward()
    if not credit.left:
        if turn.from_caller:
            call.settle_up()
        else:
            call.settle_down()


def _last(turn: Turn) -> None:
    """The end of a stream, maybe with its last item."""
    credit = turn.call.down
    if turn.word & FLAG_NEXT and credit is not None:
        credit.deliver(turn.size)
        if credit.is_overrun:
            turn.overrun()
            return
    turn.call.end(OK)
    turn.forward()


def _end(turn: Turn) -> None:
    turn.call.end(OK)
    turn.forward()


def _answer(turn: Turn) -> None:
    turn.call.end(OK)
    turn.forward(FLAG_COMPLETE)


def _blank(turn: Turn) -> None:
    """It cost its sender a credit that its receiver will never see used."""
    turn.link.ignored("PAYLOAD without NEXT and COMPLETE")
    call = turn.items
    if turn.from_caller:
        call.take_back(call.up)
        call.settle_up()
    else:
        call.take_back(call.down)
        call.settle_down()


def _first(turn: Turn) -> None:
    """The first item, or its first fragment, has come: the deadline is met."""
    call = turn.call
    call.disarm()
    call.set_provider_law(law.ITEMS if call.kind != REQUEST_CHANNEL else law.CHANNEL_DOWN)
    if turn.word & FLAG_FOLLOWS:
        turn.forward()
    else:
        _item(turn)


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
        _close_up(turn.items)
    elif call.down is None:
        call.set_caller_law(law.CHANNEL_UP_ONLY)
    else:
        call.set_caller_law(law.CHANNEL_UP)


def _half_close(turn: Turn) -> None:
    """A channel's half ends, maybe with its last item."""
    call = turn.items
    credit = call.up if turn.from_caller else call.down
    if turn.word & FLAG_NEXT and credit is not None:
        credit.deliver(turn.size)
        if credit.is_overrun:
            turn.overrun()
            return
    turn.forward()
    if turn.from_caller:
        _close_up(call)
    else:
        call.disarm()
        if call.close_down():
            call.end(OK)


def _close_up(call: ItemCall) -> None:
    if call.close_up():
        call.end(OK)


def _demand(turn: Turn) -> None:
    items = decode_request_n(turn.frame)
    call = turn.items
    if not 1 <= items <= MAX_REQUEST_N:  # ends the stream, both ways (C-76)
        turn.offend(Invalid(f"REQUEST_N of {items}, must be 1 to {MAX_REQUEST_N}"))
        return
    credit = call.down if turn.from_caller else call.up
    if credit is None:
        turn.link.ignored("REQUEST_N for a closed half")
        return
    credit.ask(items)
    if turn.from_caller:
        call.settle_down()
    else:
        call.settle_up()


# -- endings --------------------------------------------------------------------------------------


def _stop(turn: Turn) -> None:
    call = turn.call
    call.end(CALLER_CANCELED)
    call.cancel_provider()
    count_reset(turn.link)


def _refuse_more(turn: Turn) -> None:
    """A channel's responder takes no more items; the requester goes on receiving."""
    call = turn.call
    if call.up is None and not call.is_requesting:
        turn.link.ignored("CANCEL for a closed half")
        return
    requesting = call.is_requesting
    call.caller.send(encode_cancel(call.caller_id))
    if turn.items.close_up():
        call.end(OK)
    elif requesting:
        # The rest of the request's fragments is of no use to anybody now.
        call.set_caller_law(law.CALLER_ASKS)
    if call.coming_up:  # nor is that of an item: its end will not be seen
        call.whole_up()


def _fail(turn: Turn) -> None:
    error = decode_error(turn.frame)
    if turn.from_caller:
        turn.call.end(CALLER_CANCELED)
        count_reset(turn.link)
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
    law.END: _end,
    law.ITEM: _item,
    law.ITEM_UP: _item,
    law.PIECE: _piece,
    law.ANSWER: _answer,
    law.FIRST: _first,
    law.REQUESTED: _requested,
    law.HALF_CLOSE: _half_close,
    law.DEMAND: _demand,
    law.STOP: _stop,
    law.REFUSE_MORE: _refuse_more,
    law.FAIL: _fail,
    law.BLANK: _blank,
    law.LAST: _last,
}
