"""Every language calls every language, in all four models, over TCP and over WebSocket.

Each corner is two real processes and a real broker between them. Together with `test_plain_callers`
this is what "any RSocket client in any language" means.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import pytest

from tests.interop.conftest import Cast
from tests.interop.driving import LANGUAGES, Peer, PeerError, poll

REJECTED, APPLICATION_ERROR = 0x202, 0x201


class Corner(NamedTuple):
    caller: Peer
    service: str

    def route(self, method: str) -> str:
        return f"{self.service}.{method}"

    def count(self, what: str) -> int:
        """One counter of the service; read by a call, so what was sent before has arrived."""
        return int(self.caller.stats(self.route("stats"))[what])

    def leave(self, stream: int) -> None:
        """Cancel *stream*; return when the service has noticed, so that no later count is off."""
        cancelled = self.count("cancelled")
        self.caller.call("cancel", of=stream)
        poll(lambda: self.count("cancelled") == cancelled + 1)


PAIRINGS = [
    *((*pair, "tcp", "tcp") for pair in product(LANGUAGES, repeat=2)),
    *((*pair, "ws", "ws") for pair in product(LANGUAGES, repeat=2)),
    ("ours", "rsocket-py", "tcp", "ws"),
    ("rsocket-py", "rsocket-js", "tcp", "ws"),
    ("rsocket-js", "ours", "ws", "tcp"),
]


def name_of(pairing: tuple[str, str, str, str]) -> str:
    caller, service, caller_scheme, service_scheme = pairing
    return f"{caller} over {caller_scheme} to {service} over {service_scheme}"


def find(cast: Cast, pairing: tuple[str, str, str, str]) -> Corner:
    caller, service, caller_scheme, service_scheme = pairing
    return Corner(cast.caller(caller, caller_scheme), cast.service(service, service_scheme))


@pytest.fixture(scope="module", params=PAIRINGS, ids=name_of)
def corner(request: pytest.FixtureRequest, cast: Cast) -> Corner:
    """Each corner in turn."""
    return find(cast, request.param)


@pytest.fixture(scope="module", params=[p for p in PAIRINGS if p[0] != "ours"], ids=name_of)
def foreign_caller(request: pytest.FixtureRequest, cast: Cast) -> Corner:
    """The corners whose caller grants credit by hand."""
    return find(cast, request.param)


@pytest.fixture(scope="module", params=[p for p in PAIRINGS if p[0] == "ours"], ids=name_of)
def our_caller(request: pytest.FixtureRequest, cast: Cast) -> Corner:
    """The corners whose caller's credit follows from what it takes."""
    return find(cast, request.param)


def test_a_request_gets_its_response(corner: Corner):
    assert corner.caller.response(corner.route("echo"), data="héllo") == "héllo"


def test_a_large_payload_comes_back_whole(corner: Corner):
    data = "".join(map(str, range(60_000)))  # 288 890 bytes, no two parts of it alike
    assert corner.caller.response(corner.route("echo"), data=data) == data


def test_an_event_arrives_once(corner: Corner):
    before = corner.caller.stats(corner.route("stats"))["fired"]
    corner.caller.call("fire", tags=[corner.route("fire")], data=f"event {len(before)}")
    after = [*before, f"event {len(before)}"]
    poll(lambda: corner.caller.stats(corner.route("stats"))["fired"] == after)


def test_a_stream_brings_all_items_in_order_and_ends(corner: Corner):
    _, items = corner.caller.stream(corner.route("count"), total=500)
    assert items == [str(number) for number in range(1, 501)]


def test_a_consumer_that_asks_for_three_gets_three_and_the_provider_makes_no_fourth(corner: Corner):
    yielded = corner.count("yielded")
    stream, items = corner.caller.stream(corner.route("count"), total=100, credit=3)
    assert items == ["1", "2", "3"]
    # This call goes the way of the items: a fourth one would have arrived before its answer.
    assert corner.count("yielded") - yielded == 3
    assert corner.caller.seen(stream) == ["1", "2", "3"]
    corner.leave(stream)


def test_a_consumer_that_asks_for_more_gets_just_that(foreign_caller: Corner):
    corner = foreign_caller
    yielded = corner.count("yielded")
    stream, _ = corner.caller.stream(corner.route("count"), total=100, credit=3)
    items = corner.caller.call("more", of=stream, credit=2)["items"]
    assert items == ["1", "2", "3", "4", "5"]
    assert corner.count("yielded") - yielded == 5
    assert corner.caller.seen(stream) == items
    corner.leave(stream)


def test_a_consumer_that_takes_slowly_has_asked_for_its_prefetch_and_no_more(our_caller: Corner):
    corner = our_caller
    yielded = corner.count("yielded")
    slow = {"tags": [corner.route("count")], "data": "100", "prefetch": 4, "take": 2}
    stream = corner.caller.begin("slow", **slow)
    assert corner.caller.answer(stream)["items"] == ["1", "2"]
    assert 2 <= corner.count("yielded") - yielded <= 2 + 4
    corner.leave(stream)


def test_a_consumer_that_leaves_ends_the_stream_at_the_provider(corner: Corner):
    stream, _ = corner.caller.stream(corner.route("count"), total=100, credit=1)
    corner.leave(stream)


def test_a_channel_carries_items_both_ways(corner: Corner):
    sent = [f"item {number}" for number in range(50)]
    assert corner.caller.channel(corner.route("relay"), items=sent) == sent


def test_a_channel_of_one_item_ends_on_both_sides(corner: Corner):
    assert corner.caller.channel(corner.route("relay"), items=["only"]) == ["only"]


def test_an_error_of_the_handler_reaches_the_caller_with_its_text(corner: Corner):
    with pytest.raises(PeerError, match="no such order") as caught:
        corner.caller.response(corner.route("fail"), data="no such order")
    assert caught.value.code == APPLICATION_ERROR


def test_a_refusal_of_the_handler_keeps_its_code(corner: Corner):
    with pytest.raises(PeerError, match="not today") as caught:
        corner.caller.response(corner.route("reject"), data="not today")
    assert caught.value.code == REJECTED


@pytest.mark.parametrize(("caller", "scheme"), [*product(LANGUAGES, ("tcp", "ws"))])
def test_a_call_that_nobody_serves_fails_at_once(cast: Cast, caller: str, scheme: str):
    with pytest.raises(PeerError) as caught:
        cast.caller(caller, scheme).response("nobody.echo")
    assert caught.value.code == REJECTED
    # Our own library shows the token as the exception's class; foreign ones show the whole text.
    assert caught.value.text.startswith("NO_ROUTE: ")


@pytest.mark.parametrize(("caller", "service"), [*product(("rsocket-py", "rsocket-js"), LANGUAGES)])
def test_a_request_in_fragments_arrives_whole(cast: Cast, caller: str, service: str):
    fragmenting = cast.caller(caller, "tcp", "composite", "1024")
    data = "".join(map(str, range(20_000)))
    assert fragmenting.response(f"{cast.service(service)}.echo", data=data) == data
