"""Request metadata: what callers write, services read, however it was put together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsocket_mesh.errors import Invalid
from rsocket_mesh.protocol.metadata import (
    ACCEPT_MIME_TYPES,
    CALLER,
    DEADLINE,
    ROUTING,
    TRACING,
    decode_composite,
    decode_routing,
    encode_deadline,
    encode_entry,
)
from rsocket_mesh.rpc.metadata import (
    deadline_entry,
    mime_entry,
    read_request,
    routing_entry,
    trace_entry,
)


def test_routing_is_first_and_the_deadline_right_behind_it():
    raw = routing_entry("orders.total", (("version", "^1.4"), ("zone", "eu"))) + deadline_entry(1.5)
    first, second = decode_composite(raw)
    assert first.mime == ROUTING
    assert decode_routing(first.content) == ["orders.total", "version=^1.4", "zone=eu"]
    assert second == (DEADLINE, encode_deadline(1500))
    assert raw[0] == 0xFE  # by well-known id


def test_the_usual_request_is_read():
    routing = routing_entry("a.b")
    assert read_request(routing) == (b"\x03a.b", None, None, None, None)
    assert read_request(routing + deadline_entry(2)) == (b"\x03a.b", 2000, None, None, None)
    assert read_request(None) == (None, None, None, None, None)


@given(order=st.permutations(range(6)))
def test_entries_are_found_in_any_order(order: list[int]):
    entries = [
        routing_entry("a.b"),
        deadline_entry(0.25),
        mime_entry("application/json"),
        trace_entry(b"\x20"),
        encode_entry(CALLER, b"somebody"),
        encode_entry(ACCEPT_MIME_TYPES, b"\x85"),
    ]
    raw = b"".join(entries[index] for index in order)
    assert read_request(raw) == (
        b"\x03a.b",
        250,
        "application/json",
        b"\x20",
        b"\x85",
    )


@given(st.binary(max_size=80))
def test_metadata_of_any_kind_is_read_or_invalid(raw: bytes):
    try:
        read_request(raw)
    except Invalid:
        pass


@given(st.integers(1, 60))
def test_metadata_that_was_cut_is_never_read_as_another_route(cut: int):
    raw = routing_entry("orders.total") + deadline_entry(1)
    try:
        routing = read_request(raw[:-cut] if cut < len(raw) else b"")[0]
    except Invalid:
        return
    assert routing in (None, b"\x0corders.total")


@pytest.mark.parametrize(
    ("route", "selectors", "text"),
    [
        ("", (), "the route is empty"),
        ("a.b", (("m", "x"),), "selector 'm' cannot be used"),
        ("a.b", (("a=b", "x"),), "cannot be used"),
        ("a" * 300, (), "exceeds 255"),
    ],
)
def test_what_cannot_travel_is_refused(
    route: str, selectors: tuple[tuple[str, str], ...], text: str
):
    with pytest.raises(ValueError, match=text):
        routing_entry(route, selectors)


def test_a_deadline_is_at_least_one_millisecond_and_at_most_what_fits():
    assert read_request(routing_entry("a.b") + deadline_entry(0.00001))[1] == 1
    assert read_request(routing_entry("a.b") + deadline_entry(float("inf")))[1] == 0xFFFF_FFFF


def test_tracing_is_written_as_its_well_known_type():
    assert decode_composite(trace_entry(b"\x10")) == [(TRACING, b"\x10")]
