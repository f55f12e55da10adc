"""The routing table: who is found, what is said when nobody is, and what changes return."""

from __future__ import annotations

import pytest

from broker.routing import table as table_module
from broker.routing.candidates import MissKind
from broker.routing.table import Change, RoutingTable
from rsocket_mesh.errors import Invalid
from rsocket_mesh.protocol.announce import Announcement
from tests.support.routing import FakeProvider, announcement, service, to


@pytest.fixture
def table():
    return RoutingTable()


def join(table, name, *services, tenant="t", app="shop", **tags):
    """Register a provider called *name*, which is its instance's name too."""
    provider = FakeProvider(name)
    table.register(provider, tenant, name, announcement(*services, app=app, **tags))
    return provider


def found(table, *tags, tenant="t"):
    return [entry.instance for entry in table.find(tenant, to(*tags))]


def miss(table, *tags, tenant="t"):
    candidates = table.find(tenant, to(*tags))
    assert not candidates
    return candidates.miss


# -- service.method -------------------------------------------------------------------------------


def test_a_candidate_carries_provider_service_and_method(table):
    orders = service("orders")
    provider = join(table, "a", orders)
    found = table.find("t", to("orders.total"))
    (candidate,) = found
    assert candidate.provider is provider
    assert candidate.service is orders
    assert found.method == "total"
    assert candidate.instance == "a"
    assert table.find("t", to("orders.total")).miss is None


def test_the_service_is_what_stands_before_the_last_dot(table):
    join(table, "a", service("shop.eu.orders"))
    found = table.find("t", to("shop.eu.orders.total"))
    (candidate,) = found
    assert (candidate.service.name, found.method) == ("shop.eu.orders", "total")


def test_a_service_with_methods_serves_only_those(table):
    join(table, "a", service("orders", "1", "total"))
    assert found(table, "orders.total") == ["a"]
    assert miss(table, "orders.totl").kind is MissKind.NO_METHOD


def test_a_service_with_an_empty_list_of_methods_serves_none(table):
    provider = FakeProvider()
    nothing = Announcement("shop", services=(service("orders", "1", "x"),))
    empty = Announcement("shop", services=(type(nothing.services[0])("orders", methods={}),))
    table.register(provider, "t", "a", empty)
    assert miss(table, "orders.total").text == "'orders' has no method 'total'; it has: none"


def test_a_service_without_methods_serves_any(table):
    join(table, "a", service("orders", "1", "total"))
    join(table, "b", service("orders", "2"))
    assert found(table, "orders.other") == ["b"]
    assert found(table, "orders.total") == ["a", "b"]


def test_tenants_do_not_see_each_other(table):
    join(table, "a", service("orders"), tenant="red")
    assert found(table, "orders.total", tenant="red") == ["a"]
    assert miss(table, "orders.total", tenant="blue").kind is MissKind.NO_SERVICE


# -- selectors ------------------------------------------------------------------------------------


def test_without_a_version_selector_any_version_is_a_candidate(table):
    join(table, "old", service("orders", "1.4.0"))
    join(table, "new", service("orders", "2.0.0-rc.1"))
    assert found(table, "orders.total") == ["old", "new"]


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("1.4", ["a"]),
        ("1.4.0", ["a"]),
        ("^1.4", ["a", "b"]),
        ("~1.4", ["a"]),
        (">=1.5 <3", ["b", "c"]),
        ("1.4 || 2", ["a", "c"]),
        ("*", ["a", "b", "c"]),
    ],
)
def test_a_version_selector_is_exact_or_a_range(table, selector, expected):
    for name, version in (("a", "1.4"), ("b", "1.5.2"), ("c", "2.0")):
        join(table, name, service("orders", version))
    assert found(table, "orders.total", f"version={selector}") == expected


def test_an_instance_selector_asks_for_one_instance(table):
    join(table, "a", service("orders"))
    join(table, "b", service("orders"))
    assert found(table, "orders.total", "instance=b") == ["b"]


def test_other_selectors_match_tags_of_the_service_first_then_of_the_instance(table):
    join(table, "a", service("orders", tags={"zone": "eu-2"}), zone="eu-1")
    join(table, "b", service("orders"), zone="eu-1", tier="gold")
    assert found(table, "orders.total", "zone=eu-1") == ["b"]
    assert found(table, "orders.total", "zone=eu-2") == ["a"]
    assert found(table, "orders.total", "zone=eu-1", "tier=gold") == ["b"]
    assert miss(table, "orders.total", "zone=eu-2", "tier=gold").kind is MissKind.NO_MATCH


# -- announced routes -----------------------------------------------------------------------------


def test_an_announced_route_wins_over_service_and_method(table):
    join(table, "a", service("orders"))
    join(table, "b", service("legacy", routes=("orders.total",)))
    assert found(table, "orders.total") == ["b"]
    assert found(table, "orders.other") == ["a"]


def test_a_route_without_a_dot_matches_only_announced_patterns(table):
    join(table, "a", service("echo"))
    assert miss(table, "echo").kind is MissKind.NO_SERVICE
    join(table, "b", service("tools", routes=("echo",)))
    assert found(table, "echo") == ["b"]


def test_the_method_of_a_pattern_is_the_pattern_so_that_names_stay_few(table):
    join(table, "a", service("items", routes=("items.{id}", "items.{id}/parts")))
    assert table.find("t", to("items.17")).method == "items.{}"
    assert table.find("t", to("items.17/parts")).method == "items.{}/parts"


def test_routes_with_the_same_providers_share_one_list_of_them_until_something_changes(table):
    for name in "abc":
        join(table, name, service("orders"))
    total, count = (table.find("t", to(f"orders.{method}")) for method in ("total", "count"))
    assert total.entries is count.entries
    assert total.providers is count.providers
    assert (total.method, count.method) == ("total", "count")
    assert table.find("t", to("orders.total", "version=1.0")).entries is total.entries
    join(table, "d", service("orders"))
    assert len(table.find("t", to("orders.total"))) == 4
    assert len(total) == 3


def test_lists_that_are_kept_to_be_shared_are_bounded(table, monkeypatch):
    monkeypatch.setattr(table_module, "MOST_REMEMBERED", 5)
    for name in "abc":
        join(table, name, service("orders"), service(f"own-{name}"))
    first = table.find("t", to("orders.total"))
    for name in "abc":
        table.find("t", to(f"own-{name}.get"))
    assert table.find("t", to("orders.total")).entries is not first.entries


def test_providers_of_one_pattern_are_candidates_together_whatever_they_call_its_parts(table):
    join(table, "a", service("items", routes=("items.{id}",)))
    join(table, "b", service("items", routes=("items.{name}", "items.{id}")))
    assert found(table, "items.17") == ["a", "b"]


def test_selectors_narrow_announced_routes_too(table):
    join(table, "a", service("tools", "1", routes=("echo",)))
    join(table, "b", service("tools", "2", routes=("echo",)))
    assert found(table, "echo", "version=2") == ["b"]
    assert miss(table, "echo", "version=3").kind is MissKind.NO_MATCH


def test_a_withdrawn_pattern_uncovers_the_service_below(table):
    join(table, "a", service("orders"))
    over = join(table, "b", service("legacy", routes=("orders.{x}",)))
    assert found(table, "orders.total") == ["b"]
    table.withdraw(over)
    assert found(table, "orders.total") == ["a"]


# -- misses, in words -----------------------------------------------------------------------------


def test_a_miss_says_that_nobody_serves_it(table):
    assert miss(table, "orders.total") == (
        MissKind.NO_SERVICE,
        "nobody serves 'orders' (route 'orders.total')",
    )


def test_a_miss_says_that_a_route_names_no_method(table):
    assert miss(table, "echo").text == (
        "nobody announced the route 'echo', and it does not name a service.method"
    )


def test_a_miss_lists_the_methods_there_are(table):
    join(table, "a", service("orders", "1", "total", "list"))
    join(table, "b", service("orders", "2", "total", "pay"))
    assert miss(table, "orders.refund").text == (
        "'orders' has no method 'refund'; it has: list, pay, total"
    )


def test_a_miss_lists_the_versions_there_are_in_their_order(table):
    for name, version in (("a", "1.10"), ("b", "1.9"), ("c", "1.9")):
        join(table, name, service("orders", version))
    assert miss(table, "orders.total", "version=^2", "zone=x") == (
        MissKind.NO_MATCH,
        "'orders.total' has no provider for version=^2 zone=x; versions there: 1.9 (2), 1.10 (1)",
    )


def test_a_miss_never_lists_more_than_a_few_names(table):
    join(table, "a", service("orders", "1", *(f"m{number:03}" for number in range(500))))
    assert miss(table, "orders.x").text.endswith("m009 and 490 more")


# -- changes --------------------------------------------------------------------------------------


def test_registering_returns_what_was_added_and_withdrawing_what_went(table):
    orders, stock = service("orders"), service("stock")
    provider = FakeProvider()
    change = table.register(provider, "t", "a", announcement(orders, stock))
    assert change == Change("t", "shop", "a", added=(orders, stock))
    assert table.withdraw(provider) == Change("t", "shop", "a", removed=(orders, stock))
    assert table.withdraw(provider) is None


def test_replacing_returns_the_difference(table):
    orders, old, new = service("orders"), service("stock", "1"), service("stock", "2")
    provider = join(table, "a", orders, old)
    change = table.replace(provider, announcement(new, orders))
    assert change == Change("t", "shop", "a", added=(new,), removed=(old,))
    assert found(table, "stock.x", "version=2") == ["a"]
    assert not table.find("t", to("stock.x", "version=1"))


def test_replacing_with_the_same_changes_nothing(table):
    provider = join(table, "a", service("orders"), zone="eu")
    generation = table.generation
    assert not table.replace(provider, announcement(service("orders"), zone="eu"))
    assert table.generation == generation


def test_new_tags_of_an_instance_are_a_change_of_all_its_services(table):
    provider = join(table, "a", service("orders"), zone="eu-1")
    generation = table.generation
    change = table.replace(provider, announcement(service("orders"), zone="eu-2"))
    assert change.added == change.removed == (service("orders"),)
    assert table.generation > generation
    assert found(table, "orders.x", "zone=eu-2") == ["a"]


def test_a_pure_caller_is_registered_and_changes_no_answer(table):
    provider = FakeProvider()
    assert not table.register(provider, "t", "a", Announcement("anonymous"))
    assert table.generation == 0
    assert table.holder("t", "anonymous", "a") is provider
    assert not table.withdraw(provider)
    assert table.generation == 0


def test_replacing_keeps_app_and_instance(table):
    provider = join(table, "a", service("orders"))
    table.replace(provider, Announcement("other", "b", services=(service("orders"),)))
    assert [(o.app, o.instance) for o in table.describe("t", "orders")] == [("shop", "a")]


def test_a_provider_is_registered_once(table):
    provider = join(table, "a", service("orders"))
    with pytest.raises(ValueError, match="shop/b is registered already"):
        table.register(provider, "t", "b", announcement())
    with pytest.raises(KeyError):
        table.replace(FakeProvider(), announcement())
    assert found(table, "orders.x") == ["a"]


def test_an_announcement_that_is_refused_leaves_the_table_as_it_was(table):
    provider = FakeProvider()
    with pytest.raises(Invalid):
        table.register(provider, "t", "a", announcement(service("orders", "newest")))
    assert table.withdraw(provider) is None
    assert table.tenants() == ()


def test_the_holder_of_a_name_is_who_registered_last(table):
    first = join(table, "a", service("orders"))
    second = join(table, "a", service("orders"))
    assert table.holder("t", "shop", "a") is second
    table.withdraw(first)
    assert table.holder("t", "shop", "a") is second
    table.withdraw(second)
    assert table.holder("t", "shop", "a") is None


def test_an_answer_stays_as_it_was_given(table):
    provider = join(table, "a", service("orders"))
    answer = table.find("t", to("orders.total"))
    table.withdraw(provider)
    assert [entry.provider for entry in answer] == [provider]


def test_services_and_who_serves_them_can_be_listed(table):
    a = join(table, "a", service("stock"), service("orders", "1"))
    b = join(table, "b", service("orders", "2"))
    assert table.tenants() == ("t",)
    assert table.services("t") == ("orders", "stock")
    assert [offer.provider for offer in table.describe("t", "orders")] == [a, b]
    assert table.services("other") == ()
    assert table.describe("t", "other") == table.describe("other", "orders") == ()


def test_the_last_withdrawal_leaves_nothing_behind(table):
    a = join(table, "a", service("orders", routes=("a/{x}", "b")))
    b = join(table, "b", service("orders", routes=("a/{y}",)), service("stock"))
    table.withdraw(a)
    table.withdraw(b)
    assert table._tenants == {}
    assert table._registrations == {}
