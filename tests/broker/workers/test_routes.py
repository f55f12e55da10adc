"""The routes of one worker: near before far, one candidate per worker, all instances for shards."""

from __future__ import annotations

from typing import Any

import pytest

from broker.config import Config
from broker.kernel import LinkCore
from broker.observe.counters import Counters
from broker.routing.table import RoutingTable
from broker.workers.balance import NEAR
from broker.workers.routes import HereRoutes, MixedRoute, NearRoutes
from rsocket_mesh.protocol.announce import Announcement, ServiceInfo
from rsocket_mesh.protocol.metadata import encode_routing

ROUTE = encode_routing(["echo.say"])


class OwnLink(LinkCore):
    """A session of this worker, or with an `index` the link to another one."""

    is_remote = False
    budget = None

    def __init__(self, index: int = -1) -> None:
        super().__init__()
        self.accepting = True
        self.index = index


class Remote:
    """An instance that another worker has."""

    is_remote = True
    budget = None
    in_flight = 0

    def __init__(self, link: OwnLink, accepting: bool = True, wants_caller: bool = False) -> None:
        self.link = link
        self.accepting = accepting
        self.wants_caller = wants_caller


class Bench:
    """A table, and the routes over it."""

    def __init__(self) -> None:
        self.table: RoutingTable[Any] = RoutingTable()
        self.passed_on = Counters()
        self.counters = Counters()
        config = Config()
        self.near = NearRoutes("default", self.table, self.counters, config, self.passed_on)
        self.here = HereRoutes("default", self.table, self.passed_on, config)
        self._number = 0

    def serve(self, provider: Any, weight: int = 100, **more: Any) -> Any:
        self._number += 1
        announced = Announcement("app", services=(ServiceInfo("echo", weight=weight, **more),))
        self.table.register(provider, "default", f"i{self._number}", announced)
        self.near.clear()
        self.here.clear()
        return provider

    def begin(self, provider: Any, calls: int = 1) -> None:
        """Calls of our own callers begin."""
        provider.in_flight += calls
        self.counters.calls_to("echo").started += calls


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_the_instances_of_another_worker_are_one_candidate_with_the_sum_of_their_weights(bench):
    one, two = OwnLink(1), OwnLink(2)
    for link, weight in ((one, 100), (one, 50), (two, 70)):
        bench.serve(Remote(link), weight)
    route = bench.near.resolve(ROUTE)
    assert [(e.provider, e.service.weight) for e in route.candidates] == [(one, 150), (two, 70)]
    assert [entry.provider for entry in route.instances] == [one, one, two]


def test_a_route_to_one_other_worker_alone_takes_the_fast_way(bench):
    link = OwnLink(1)
    bench.serve(Remote(link))
    bench.serve(Remote(link))
    route = bench.near.resolve(ROUTE)
    assert route.only is link
    assert not route.is_budgeted


def test_our_own_instances_alone_are_a_route_like_any_other(bench):
    mine = bench.serve(OwnLink())
    route = bench.near.resolve(ROUTE)
    assert type(route) is not MixedRoute
    assert route.only is mine


def test_as_long_as_ours_is_not_busy_it_is_as_if_there_were_no_others(bench):
    mine = bench.serve(OwnLink())
    bench.serve(Remote(OwnLink(1)))
    route = bench.near.resolve(ROUTE)
    assert route.only is mine
    second = bench.serve(OwnLink())
    route = bench.near.resolve(ROUTE)
    assert (route.only, set(route.equals)) == (None, {mine, second})


def test_a_busy_one_spills_until_the_others_are_half_as_busy(bench):
    mine, link = bench.serve(OwnLink()), OwnLink(1)
    bench.serve(Remote(link))
    route = bench.near.resolve(ROUTE)
    bench.begin(mine, NEAR + 1)
    assert route.only is mine  # nobody has looked
    home = bench.near.homes["echo"]
    assert home.look() == NEAR + 1
    assert (route.only, route.equals) == (None, ())
    assert route.pick(0).provider is link
    bench.begin(link)
    assert route.pick(0).provider is mine  # twice as busy is near enough
    bench.near.tell("echo", 1, 100)  # and others are busy there, too
    home.look()
    assert route.only is mine


def test_what_other_workers_pass_on_to_us_is_not_told_as_our_own(bench):
    mine = bench.serve(OwnLink())
    bench.serve(Remote(OwnLink(1)))
    bench.near.resolve(ROUTE)
    mine.in_flight += 5
    bench.passed_on.calls_to("echo").started += 5
    assert bench.near.homes["echo"].look() == 0


def test_a_busy_moment_is_forgotten_slowly(bench):
    mine = bench.serve(OwnLink())
    bench.serve(Remote(OwnLink(1)))
    bench.near.resolve(ROUTE)
    home = bench.near.homes["echo"]
    mine.in_flight = 80
    looks = [home.look()]
    mine.in_flight = 0
    looks += [home.look() for _ in range(40)]
    assert looks[:3] == [80, 70, 61]
    assert looks[-1] == 0


def test_instances_that_take_no_calls_are_left_out_unless_there_are_no_others(bench):
    link = OwnLink(1)
    bench.serve(Remote(link, accepting=False))
    assert [entry.provider for entry in bench.near.resolve(ROUTE).candidates] == [link]
    mine = bench.serve(OwnLink())
    assert [entry.provider for entry in bench.near.resolve(ROUTE).candidates] == [mine]


def test_a_worker_that_takes_no_calls_just_now_is_not_chosen(bench):
    mine, link = bench.serve(OwnLink()), OwnLink(1)
    bench.serve(Remote(link))
    route = bench.near.resolve(ROUTE)
    bench.begin(mine, 50)
    bench.near.homes["echo"].look()
    link.accepting = False
    assert route.pick(0).provider is mine
    mine.accepting = False
    assert route.pick(0) is None
    link.accepting = True
    assert route.pick(0).provider is link


def test_who_wants_to_know_the_caller_is_reached_the_general_way(bench):
    bench.serve(Remote(OwnLink(1), wants_caller=True))
    assert bench.near.resolve(ROUTE).is_budgeted


def test_what_comes_from_another_worker_goes_to_our_own_alone(bench):
    bench.serve(Remote(OwnLink(1)))
    route = bench.here.resolve(ROUTE)
    assert not route.candidates
    assert "has just left" in route.candidates.miss.text
    mine = bench.serve(OwnLink())
    assert bench.here.resolve(ROUTE).only is mine


def test_thousands_of_routes_share_what_takes_room(bench):
    bench.serve(OwnLink())
    bench.serve(Remote(OwnLink(1)))
    routes = [bench.near.resolve(encode_routing([f"echo.m{number}"])) for number in range(50)]
    assert len({id(route.candidates.entries) for route in routes}) == 1
    assert len({id(route.instances) for route in routes}) == 1
    assert len(bench.near.homes) == 1
