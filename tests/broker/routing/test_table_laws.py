"""After any sequence of changes the table answers like a plain list of who announced what."""

from __future__ import annotations

import re

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from broker.routing.pattern import canonical
from broker.routing.table import RoutingTable
from rsocket_mesh.protocol.announce import Announcement, ServiceInfo
from rsocket_mesh.protocol.version import parse_range, parse_version
from tests.support.routing import FakeProvider, service, to

TENANTS = ("red", "blue")
ROUTES = ("a.x", "a.y", "b.x", "a.b.x", "echo", "e/1", "a.", "nobody.x")
SELECTORS = ("version=^1", "version=2.0", "instance=i1", "zone=eu", "tier=gold")

# In one order: two that are equal have to look equal below.
tags = st.dictionaries(st.sampled_from(["zone", "tier"]), st.sampled_from(["eu", "gold"])).map(
    lambda labels: dict(sorted(labels.items()))
)
services = st.lists(
    st.builds(
        service,
        st.sampled_from(["a", "b", "a.b"]),
        st.sampled_from(["1.0", "1.5", "2.0"]),
        routes=st.lists(
            st.sampled_from(["echo", "e/{n}", "a.{m}", "a.{k}", "a.x", "{s}.x"]), max_size=2
        ).map(tuple),
        tags=tags,
    ),
    max_size=3,
    unique_by=lambda info: (info.name, info.version),
)
limited = st.builds(
    lambda infos, methods: [
        ServiceInfo(i.name, i.version, tags=i.tags, routes=i.routes, methods=methods) for i in infos
    ],
    services,
    st.sampled_from([None, {}, service("m", "1", "x").methods]),
)
announcements = st.builds(
    lambda infos, labels: Announcement("shop", tags=labels, services=tuple(infos)),
    services | limited,
    tags,
)


class TableAgainstAList(RuleBasedStateMachine):
    """The model is a list: who registered what, in no index at all."""

    providers = Bundle("providers")

    def __init__(self):
        super().__init__()
        self.table = RoutingTable()
        self.model: dict[FakeProvider, tuple[str, str, Announcement]] = {}
        self.answers: dict[tuple, list] = {}
        self.generation = 0

    @rule(
        target=providers,
        tenant=st.sampled_from(TENANTS),
        instance=st.sampled_from(["i1", "i2"]),
        announcement=announcements,
    )
    def register(self, tenant, instance, announcement):
        provider = FakeProvider(instance)
        change = self.table.register(provider, tenant, instance, announcement)
        self.model[provider] = (tenant, instance, announcement)
        assert (change.added, change.removed) == (announcement.services, ())
        return provider

    @rule(provider=providers, announcement=announcements)
    def replace(self, provider, announcement):
        tenant, instance, before = self.model[provider]
        change = self.table.replace(provider, announcement)
        self.model[provider] = (tenant, instance, announcement)
        left = [info for info in before.services if info not in change.removed]
        assert sorted(map(repr, [*left, *change.added])) == sorted(map(repr, announcement.services))

    @rule(provider=consumes(providers))
    def withdraw(self, provider):
        change = self.table.withdraw(provider)
        _, _, before = self.model.pop(provider)
        assert sorted(map(repr, change.removed)) == sorted(map(repr, before.services))

    @invariant()
    def find_agrees_with_the_list(self):
        answers = {}
        for tenant in TENANTS:
            for route in ROUTES:
                for selector in (None, *SELECTORS):
                    wanted = self.expected(tenant, route, selector)
                    address = to(route, *([selector] if selector else []))
                    candidates = self.table.find(tenant, address)
                    got = [(id(e.provider), e.service, candidates.method) for e in candidates]
                    assert sorted(map(repr, got)) == sorted(map(repr, wanted))
                    assert (candidates.miss is None) == bool(wanted)
                    answers[tenant, route, selector] = sorted(map(repr, got))
        if answers != self.answers and self.answers:
            assert self.table.generation > self.generation
        self.answers, self.generation = answers, self.table.generation

    @invariant()
    def listings_agree_with_the_list(self):
        for tenant in TENANTS:
            mine = [a for where, _, a in self.model.values() if where == tenant]
            names = {info.name for announcement in mine for info in announcement.services}
            assert self.table.services(tenant) == tuple(sorted(names))
            for name in names:
                offers = self.table.describe(tenant, name)
                assert sorted(repr(offer.service) for offer in offers) == sorted(
                    repr(info) for a in mine for info in a.services if info.name == name
                )
        assert self.table.tenants() == tuple(sorted({where for where, _, _ in self.model.values()}))

    def expected(self, tenant, route, selector):
        offers = [
            (provider, instance, announcement, info)
            for provider, (where, instance, announcement) in self.model.items()
            for info in announcement.services
            if where == tenant
        ]
        pattern = best_pattern(route, [p for *_, info in offers for p in info.routes])
        name, _, method = route.rpartition(".")
        wanted = []
        for provider, instance, announcement, info in offers:
            if pattern is not None:
                if pattern not in map(canonical, info.routes):
                    continue
            elif info.name != name or (info.methods is not None and method not in info.methods):
                continue
            if selector is None or fits(selector, instance, announcement, info):
                wanted.append((id(provider), info, pattern if pattern is not None else method))
        return wanted


def best_pattern(route, patterns):
    fitting = {
        canonical(p)
        for p in patterns
        if re.fullmatch(re.sub(r"\\\{\w+\\\}", "[^./]+", re.escape(p)), route)
    }
    literal = {p: tuple(part != "{}" for part in re.split("[./]", p)) for p in fitting}
    return max(fitting, key=lambda p: (sum(literal[p]), literal[p]), default=None)


def fits(selector, instance, announcement, info):
    key, value = selector.split("=", 1)
    if key == "version":
        return parse_version(info.version) in parse_range(value)
    if key == "instance":
        return instance == value
    return {**announcement.tags, **info.tags}.get(key) == value


TestTableAgainstAList = TableAgainstAList.TestCase
TestTableAgainstAList.settings = settings(max_examples=60, stateful_step_count=20)
