"""The law of streams: which halves are open, what can happen, and what follows from it.

One table per side covers all five interactions: what a side may do depends only on which halves of
the stream are open.

                    requester                          responder
    request-response  AWAITING -> ENDED                 ANSWERING -> ENDED
    request-stream    RECEIVING -> ENDED                SENDING -> ENDED
    request-channel   DUPLEX -> SENDING or RECEIVING    DUPLEX -> SENDING or RECEIVING
                             -> ENDED                          -> ENDED
    fire-and-forget   (ends with its last byte)         ASSEMBLING -> ENDED
    metadata push     not a stream: see `connection`

A request in fragments begins in ASSEMBLING on the responder. What the tables do not name is ignored
when the peer does it ("Handling the Unexpected") and refused when we do. `protocol.streams` obeys.
Sources: RSocket Protocol 1.0, "Stream Sequences and Lifetimes", "Flow Control"; where the text is
silent, what most implementations do.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final


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

Rules = dict[tuple[Phase, Signal], tuple[Effect, Phase]]

# (phase, signal) -> (effect, next phase). The tables are the law; only they set a
# phase, and `ResponderStream`, which enters the first one of a request that is whole.
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

Rows = tuple[tuple[tuple[Effect, Phase], ...], ...]


def compile_rules(rules: Rules) -> Rows:
    """Return *rules* as rows[phase][signal]: two index steps instead of hashing two enums."""
    return tuple(
        tuple(rules.get((phase, signal), (IGNORED, phase)) for signal in Signal) for phase in Phase
    )


REQUESTER_ROWS: Final = compile_rules(REQUESTER_RULES)
RESPONDER_ROWS: Final = compile_rules(RESPONDER_RULES)
