"""The law of relayed streams: every pair of law and header bits has one meaning."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.kernel import law
from rsocket_mesh.protocol.frames import (
    CANCEL,
    ERROR,
    FLAG_COMPLETE,
    FLAG_FOLLOWS,
    FLAG_METADATA,
    FLAG_NEXT,
    PAYLOAD,
    REQUEST_N,
    TYPE_NAMES,
)

LAWS = {
    name: value
    for name, value in vars(law).items()
    if isinstance(value, dict) and name.isupper() and name not in ("REQUESTING", "OPENED")
    if name != "AWAITING_FIRST" and not name.startswith("_")
} | {f"REQUESTING[{TYPE_NAMES[kind]}]": value for kind, value in law.REQUESTING.items()}

N, C, F, M = FLAG_NEXT, FLAG_COMPLETE, FLAG_FOLLOWS, FLAG_METADATA


@pytest.mark.parametrize("name", LAWS)
def test_a_law_speaks_only_of_canonical_frames_of_known_kinds(name: str) -> None:
    for word in LAWS[name]:
        assert law.canonical(word) == word
        assert word >> 10 in (PAYLOAD, REQUEST_N, CANCEL, ERROR)


@pytest.mark.parametrize("name", LAWS)
def test_metadata_never_changes_what_a_payload_does(name: str) -> None:
    rules = LAWS[name]
    for word, action in rules.items():
        if word >> 10 == PAYLOAD:
            assert rules[word ^ M] == action


@given(word=st.integers(0, 0xFFFF))
def test_canonical_is_a_projection(word: int) -> None:
    once = law.canonical(word)
    assert law.canonical(once) == once
    assert once >> 10 == word >> 10


@given(word=st.integers(0, 0xFFFF), name=st.sampled_from(sorted(LAWS)))
def test_undefined_flag_bits_change_nothing(word: int, name: str) -> None:
    """C-11."""
    rules = LAWS[name]
    noisy = word | 0x01F  # bits that no frame type defines
    assert rules.get(law.canonical(noisy)) == rules.get(law.canonical(word))


@pytest.mark.parametrize(
    ("name", "flags", "action"),
    [
        ("RESPONSE", N | C, law.END),
        ("RESPONSE", C, law.END),  # C-68
        ("RESPONSE", N, law.ANSWER),  # C-67
        ("RESPONSE", N | F, law.PIECE),
        ("ITEMS", N, law.ITEM),
        ("ITEMS", N | C, law.LAST),
        ("ITEMS", C, law.LAST),
        ("ITEMS", N | F, law.PIECE),  # C-94: a fragment is not an item
        ("ITEMS", N | F | C, law.LAST),  # C-97: F is ignored with C
        ("ITEMS", F, law.PIECE),  # accepted without N, forwarded with it
        ("ITEMS", 0, law.BLANK),  # C-88
        ("FIRST_ITEM", N, law.FIRST),
        ("FIRST_ITEM", N | F, law.FIRST),
        ("FIRST_ITEM", C, law.LAST),
        ("CHANNEL_UP", N, law.ITEM_UP),
        ("CHANNEL_UP", N | C, law.HALF_CLOSE),
        ("CHANNEL_DOWN", C, law.HALF_CLOSE),
        ("CHANNEL_DOWN_CLOSED", N, None),  # C-86: after its end a half says nothing
        ("CALLER_ASKS", N, None),
        ("CALLER_WAITS", N, None),
    ],
)
def test_payloads(name: str, flags: int, action: int | None) -> None:
    word = law.canonical(PAYLOAD << 10 | flags)
    assert LAWS[name].get(word) == action


def test_only_streams_and_channels_know_credit() -> None:
    """C-77: REQUEST_N on a request-response is ignored."""
    assert REQUEST_N << 10 not in law.CALLER_WAITS
    assert law.CALLER_ASKS[REQUEST_N << 10] == law.DEMAND
    assert REQUEST_N << 10 not in law.ITEMS  # a stream's responder has nothing to ask for
    assert law.CHANNEL_DOWN[REQUEST_N << 10] == law.DEMAND


def test_a_channels_responder_may_refuse_more_items() -> None:
    """C-85."""
    assert law.CHANNEL_DOWN[CANCEL << 10] == law.REFUSE_MORE
    assert CANCEL << 10 not in law.ITEMS
