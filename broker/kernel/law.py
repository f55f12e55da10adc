"""The law of a relayed stream: which frame may come from which side, and what it does.

A leg is one side of a stream pair. Each leg has a *law*: a dictionary from the sixteen header bits
(type and flags) to an action. The inner loop asks it once per frame; `END`, `ITEM` and `ITEM_UP`
are dealt with there, everything else is thought about in `broker.forwarding.turns`. A frame whose
bits are not in the law is either not canonical (undefined flags set, F together with C) or out of
place, and out of place means ignored. When a stream changes its state its legs get another law.

Each law has a twin in which every frame is thought about: both legs have it while a message is
under way in fragments, because then sizes are counted and credit has to wait.
Source: RSocket Protocol 1.0, "Stream Sequences and Lifetimes".
"""

from __future__ import annotations

from typing import Final

from rsocket_mesh.protocol.frames import (
    CANCEL,
    ERROR,
    FLAG_COMPLETE,
    FLAG_FOLLOWS,
    FLAG_METADATA,
    FLAG_NEXT,
    PAYLOAD,
    REQUEST_CHANNEL,
    REQUEST_FNF,
    REQUEST_N,
    REQUEST_RESPONSE,
    REQUEST_STREAM,
)

# Actions. The first three are the inner loop's own, if nothing else is in the way.
END: Final = 0  # forward; the request-response ends well
ITEM: Final = 1  # forward; one whole item is delivered to the caller
ITEM_UP: Final = 2  # forward; one whole item is delivered to a channel's provider
# Those above ITEM_UP need thought.
PIECE: Final = 3  # forward; a fragment with more to come
ANSWER: Final = 4  # an answer without COMPLETE: set it, forward, end (C-67)
FIRST: Final = 5  # the first item (or its first fragment): the deadline is met
REQUESTED: Final = 6  # the last fragment of the request
HALF_CLOSE: Final = 7  # this side has sent its last item
DEMAND: Final = 8  # REQUEST_N
STOP: Final = 9  # CANCEL by the requester: ends the call
REFUSE_MORE: Final = 10  # CANCEL by a channel's responder: the requester sends no more
FAIL: Final = 11  # ERROR: ends the call
BLANK: Final = 12  # neither NEXT nor COMPLETE: not an item; dropped, its credit given back (C-88)
LAST: Final = 13  # forward; the provider has sent its last item, and the stream ends well
THINK: Final = 16  # added to an action: think about it although the inner loop could do it

Law = dict[int, int]


def _word(kind: int, flags: int = 0) -> int:
    return kind << 10 | flags


def _payload(flags: int, action: int) -> Law:
    """PAYLOAD with *flags*, with and without metadata."""
    return {_word(PAYLOAD, flags): action, _word(PAYLOAD, flags | FLAG_METADATA): action}


_N, _C, _F = FLAG_NEXT, FLAG_COMPLETE, FLAG_FOLLOWS
_ENDINGS: Final[Law] = {_word(ERROR): FAIL}
_FROM_CALLER: Final[Law] = {_word(CANCEL): STOP, _word(ERROR): FAIL}
_DEMAND: Final[Law] = {_word(REQUEST_N): DEMAND}

# What may come from the provider.
RESPONSE: Final[Law] = {
    **_payload(_N | _C, END),
    **_payload(_C, END),
    **_payload(_N, ANSWER),
    **_payload(_N | _F, PIECE),
    **_ENDINGS,
}
ITEMS: Final[Law] = {
    **_payload(_N, ITEM),
    **_payload(_N | _F, PIECE),
    **_payload(_N | _C, LAST),
    **_payload(_C, LAST),
    **_payload(0, BLANK),
    **_ENDINGS,
}
FIRST_ITEM: Final[Law] = {**ITEMS, **_payload(_N, FIRST), **_payload(_N | _F, FIRST)}
_CHANNEL_ITEMS: Final[Law] = {
    **ITEMS,
    **_payload(_N | _C, HALF_CLOSE),
    **_payload(_C, HALF_CLOSE),
    _word(CANCEL): REFUSE_MORE,
}
CHANNEL_DOWN: Final[Law] = {**_CHANNEL_ITEMS, **_DEMAND}
CHANNEL_DOWN_FIRST: Final[Law] = {
    **CHANNEL_DOWN,
    **_payload(_N, FIRST),
    **_payload(_N | _F, FIRST),
}
CHANNEL_DOWN_CLOSED: Final[Law] = {**_ENDINGS, **_DEMAND, _word(CANCEL): REFUSE_MORE}

# What may come from the caller.
CALLER_WAITS: Final[Law] = _FROM_CALLER  # request-response
CALLER_ASKS: Final[Law] = {**_FROM_CALLER, **_DEMAND}  # request-stream; a channel's closed half
CHANNEL_UP: Final[Law] = {
    **CALLER_ASKS,
    **_payload(_N, ITEM_UP),
    **_payload(_N | _F, PIECE),
    **_payload(_N | _C, HALF_CLOSE),
    **_payload(_C, HALF_CLOSE),
    **_payload(0, BLANK),
}
CHANNEL_UP_ONLY: Final[Law] = {  # the provider has completed its half
    **_FROM_CALLER,
    **{word: action for word, action in CHANNEL_UP.items() if word >> 10 == PAYLOAD},
}

_REQUEST_FRAGMENTS: Final[Law] = {
    **_payload(_N | _F, PIECE),
    **_payload(_N, REQUESTED),
    **_payload(0, REQUESTED),
    **_payload(_N | _C, REQUESTED),
    **_payload(_C, REQUESTED),
}
# While fragments of the request itself are still to come, per kind of request.
REQUESTING: Final[dict[int, Law]] = {
    REQUEST_FNF: {**_REQUEST_FRAGMENTS, _word(CANCEL): STOP},
    REQUEST_RESPONSE: {**_FROM_CALLER, **_REQUEST_FRAGMENTS},
    REQUEST_STREAM: {**CALLER_ASKS, **_REQUEST_FRAGMENTS},
    REQUEST_CHANNEL: {**CALLER_ASKS, **_REQUEST_FRAGMENTS},
}
# Once the request is complete: (law of the caller's leg, law of the provider's).
OPENED: Final[dict[int, tuple[Law, Law]]] = {
    REQUEST_FNF: ({}, {}),
    REQUEST_RESPONSE: (CALLER_WAITS, RESPONSE),
    REQUEST_STREAM: (CALLER_ASKS, ITEMS),
    REQUEST_CHANNEL: (CHANNEL_UP, CHANNEL_DOWN),
}
# The provider's law while a deadline bounds the time to the first item.
AWAITING_FIRST: Final[dict[int, Law]] = {
    REQUEST_STREAM: FIRST_ITEM,
    REQUEST_CHANNEL: CHANNEL_DOWN_FIRST,
}


_TWINS: Final[dict[int, Law]] = {}
_WHOLE: Final[dict[int, Law]] = {}


def _make_twins() -> None:
    for law in (
        *(RESPONSE, ITEMS, FIRST_ITEM, CHANNEL_DOWN, CHANNEL_DOWN_FIRST, CHANNEL_DOWN_CLOSED),
        *(CALLER_WAITS, CALLER_ASKS, CHANNEL_UP, CHANNEL_UP_ONLY),
        *REQUESTING.values(),
    ):
        thinking = {word: action | THINK for word, action in law.items()}
        _TWINS[id(law)] = thinking
        _WHOLE[id(thinking)] = law


_make_twins()


def twin(law: Law) -> Law:
    """Return the law that says the same as *law* and has every frame thought about."""
    return _TWINS.get(id(law), law)


def whole(law: Law) -> Law:
    """Return the law that *law* is the twin of, or *law* itself."""
    return _WHOLE.get(id(law), law)


_DEFINED: Final[dict[int, int]] = {
    PAYLOAD: FLAG_METADATA | FLAG_FOLLOWS | FLAG_COMPLETE | FLAG_NEXT,
    REQUEST_FNF: FLAG_METADATA | FLAG_FOLLOWS,
    REQUEST_RESPONSE: FLAG_METADATA | FLAG_FOLLOWS,
    REQUEST_STREAM: FLAG_METADATA | FLAG_FOLLOWS,
    REQUEST_CHANNEL: FLAG_METADATA | FLAG_FOLLOWS | FLAG_COMPLETE,
}


def canonical(word: int) -> int:
    """Return *word* as it may be forwarded: without undefined flags (C-11), without F where C
    overrides it (C-97), and with N on every fragment (some peers leave it out, others insist)."""
    kind = word >> 10
    flags = word & _DEFINED.get(kind, 0)
    if kind == PAYLOAD:
        if flags & FLAG_COMPLETE:
            flags &= ~FLAG_FOLLOWS
        elif flags & FLAG_FOLLOWS:
            flags |= FLAG_NEXT
    return kind << 10 | flags
