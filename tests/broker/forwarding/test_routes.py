"""The route cache: what many routes and many instances cost, and where it ends."""

from __future__ import annotations

import tracemalloc

import pytest

from broker.config import Config, RoutingConfig
from broker.forwarding import routes
from rsocket_mesh.protocol.frames import REQUEST_FNF
from tests.support.raw_peers import Bench, RawPeer, request, routed


def call_all(caller: RawPeer, count: int) -> None:
    for number in range(count):
        caller.send(request(REQUEST_FNF, 1, f"echo.method-{number}"))


async def test_more_routes_than_may_be_kept_begin_anew() -> None:
    bench = Bench(Config(routing=RoutingConfig(route_cache=16)))
    provider, caller = bench.provider(), bench.caller()
    call_all(caller, 40)
    assert len(provider.received()) == 40
    assert caller.link.routes is not None
    assert len(caller.link.routes) == 40 - 2 * 16


async def test_many_routes_of_many_instances_share_what_takes_room() -> None:
    """A caller that makes names up must not fill the broker's memory by the number of instances."""
    bench = Bench()
    for number in range(200):
        bench.provider(instance=f"i-{number}")
    caller = bench.caller()
    call_all(caller, 1)
    tracemalloc.start()
    try:
        call_all(caller, 500)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 500 * 1024  # as with one instance; a list of 200 of its own takes 20 KiB
    assert caller.link.routes is not None
    assert len({id(route.candidates.entries) for route in caller.link.routes.values()}) == 1


async def test_lists_of_candidates_are_bounded_in_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "MOST_CANDIDATES", 5)
    bench = Bench()
    for number in range(3):
        bench.provider(instance=f"i-{number}")
    caller = bench.caller()
    assert caller.link.routes is not None
    ways = ("", "version=1.0.0", "instance=i-0", "instance=i-1", "instance=i-2", "version=^1.0")
    sizes = []
    for way in ways:  # lists of three, of the same three, and of one each; then it is full
        caller.send(request(REQUEST_FNF, 1, metadata=routed("echo.say", *filter(None, [way]))))
        sizes.append(len(caller.link.routes))
    assert sizes == [1, 2, 3, 4, 5, 1]
