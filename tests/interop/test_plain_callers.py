"""Callers that do not know our conventions: one kind of metadata only, or no routing at all.

A connection's metadata type may be the routing type itself; and many clients send no routing,
because the default of their library is `application/json`. They reach the default service.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import product

import pytest

from tests.interop.conftest import Cast
from tests.interop.driving import LANGUAGES, PeerError, poll
from tests.support.processes import broker_process

FOREIGN = ("rsocket-py", "rsocket-js")
CONFIG = """
[[listeners]]
url = "tcp://127.0.0.1:0"
default_service = "{service}"

[[listeners]]
url = "ws://127.0.0.1:0"
default_service = "{service}"
"""


@pytest.fixture(scope="module")
def casts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Cast]]:
    """A broker per language, whose listeners' default service is in that language."""
    with ExitStack() as stack:
        casts = {}
        for language in LANGUAGES:
            config = tmp_path_factory.mktemp("config") / "broker.toml"
            config.write_text(CONFIG.format(service=f"{language}.tcp"))
            broker = stack.enter_context(broker_process("--config", str(config), listen=()))
            casts[language] = Cast(broker, stack)
        yield casts


def counters(cast: Cast, service: str) -> dict[str, list[str]]:
    """The service's counters, read by a caller that knows routes."""
    return cast.caller("rsocket-py").stats(f"{service}.stats")


@pytest.mark.parametrize(
    ("caller", "service", "scheme"), [*product(FOREIGN, LANGUAGES, ("tcp", "ws"))]
)
def test_a_connection_of_the_routing_type_reaches_every_service_in_all_models(
    cast: Cast, caller: str, service: str, scheme: str
):
    peer, name = cast.caller(caller, scheme, "routing"), cast.service(service)
    assert peer.response(f"{name}.echo", data="hello") == "hello"
    assert peer.stream(f"{name}.count", total=5)[1] == ["1", "2", "3", "4", "5"]
    assert peer.channel(f"{name}.relay", items=["a", "b", "c"]) == ["a", "b", "c"]
    before = peer.stats(f"{name}.stats")["fired"]
    peer.call("fire", tags=[f"{name}.fire"], data="event")
    poll(lambda: peer.stats(f"{name}.stats")["fired"] == [*before, "event"])


@pytest.mark.parametrize(
    ("caller", "service", "scheme"), [*product(FOREIGN, FOREIGN, ("tcp", "ws"))]
)
def test_a_call_without_routing_reaches_the_default_service_in_all_models(
    casts: dict[str, Cast], caller: str, service: str, scheme: str
):
    cast = casts[service]
    name, peer = cast.service(service), cast.caller(caller, scheme, "none")
    assert peer.response(data="hello") == "hello"
    assert peer.stream(total=5)[1] == ["1", "2", "3", "4", "5"]
    assert peer.channel(items=["a", "b", "c"]) == ["a", "b", "c"]
    before = counters(cast, name)["fired"]
    peer.call("fire", tags=[], data="event")
    poll(lambda: counters(cast, name)["fired"] == [*before, "event"])


@pytest.mark.parametrize(("caller", "scheme"), [*product(FOREIGN, ("tcp", "ws"))])
def test_a_consumer_without_routing_gets_what_it_asks_for_and_no_more(
    casts: dict[str, Cast], caller: str, scheme: str
):
    cast = casts["rsocket-py"]
    name, peer = cast.service("rsocket-py"), cast.caller(caller, scheme, "none")
    before = counters(cast, name)["yielded"]
    stream, items = peer.stream(total=100, credit=3)
    assert items == ["1", "2", "3"]
    peer.response(data="behind the items")
    assert peer.seen(stream) == items
    assert counters(cast, name)["yielded"] == before + 3
    peer.call("cancel", of=stream)


@pytest.mark.parametrize(("caller", "scheme"), [*product(FOREIGN, ("tcp", "ws"))])
def test_a_call_without_routing_is_told_so_where_no_default_service_is_set(
    cast: Cast, caller: str, scheme: str
):
    with pytest.raises(PeerError, match="NO_ROUTE: "):
        cast.caller(caller, scheme, "none").response(data="hello")


# rsocket-js can neither send METADATA_PUSH (it throws) nor bear one (it closes the connection).
@pytest.mark.parametrize(("caller", "service"), [*product(("ours", "rsocket-py"), repeat=2)])
def test_a_metadata_push_reaches_the_default_service(
    casts: dict[str, Cast], caller: str, service: str
):
    cast = casts[service]
    name = cast.service(service)
    before = counters(cast, name)["pushed"]
    cast.caller(caller).call("push", mime="text/plain", data=f"note {len(before)}")
    poll(lambda: counters(cast, name)["pushed"] == [*before, f"note {len(before)}"])
