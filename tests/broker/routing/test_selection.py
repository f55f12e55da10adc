"""One candidate out of several: fair, by load and weight, never one that does not accept."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.routing.candidates import Candidate, Candidates
from broker.routing.selection import DRAW_BITS, choose, choose_equal, choose_shard, seed_of
from rsocket_mesh.protocol.announce import ServiceInfo
from tests.support.routing import FakeProvider

DRAWS = 20_000


def candidates(*providers: FakeProvider, weights: list[int] | None = None):
    weights = weights or [100] * len(providers)
    return Candidates(
        tuple(
            Candidate(
                provider,
                ServiceInfo("orders", weight=weight),
                provider.name,
                seed_of("shop", provider.name),
            )
            for provider, weight in zip(providers, weights, strict=True)
        )
    )


def named(*names: str) -> list[FakeProvider]:
    return [FakeProvider(name) for name in names]


def shares(offered, draws: int = DRAWS) -> dict[str, float]:
    source = random.Random(7)
    won = Counter(choose(offered, source.getrandbits(DRAW_BITS)).instance for _ in range(draws))
    return {entry.instance: won[entry.instance] / draws for entry in offered}


def test_the_only_candidate_is_chosen_whatever_its_load_and_weight():
    busy = FakeProvider(in_flight=10_000)
    assert choose(candidates(busy, weights=[0]), 0).provider is busy


def test_of_no_candidates_none_is_chosen():
    assert choose(candidates(), 0) is None
    assert choose_shard(candidates(), b"key") is None


def test_idle_providers_of_one_weight_share_evenly():
    for share in shares(candidates(*named("a", "b", "c", "d"))).values():
        assert share == pytest.approx(0.25, abs=0.02)


def test_idle_providers_share_by_weight():
    won = shares(candidates(*named("a", "b", "c"), weights=[100, 10, 890]))
    assert won["a"] == pytest.approx(0.10, abs=0.01)
    assert won["b"] == pytest.approx(0.01, abs=0.005)
    assert won["c"] == pytest.approx(0.89, abs=0.01)


def test_of_two_providers_the_one_with_less_in_flight_is_chosen():
    busy, idle = FakeProvider("busy", in_flight=1), FakeProvider("idle")
    assert shares(candidates(busy, idle))["idle"] == 1.0


def test_calls_in_flight_even_out_by_weight():
    providers = named("a", "b", "c")
    offered = candidates(*providers, weights=[100, 200, 300])
    source = random.Random(7)
    for _ in range(6000):
        choose(offered, source.getrandbits(DRAW_BITS)).provider.in_flight += 1
    in_flight = [provider.in_flight for provider in providers]
    assert in_flight == pytest.approx([1000, 2000, 3000], rel=0.02)


@given(st.lists(st.integers(0, 5), min_size=2, max_size=6), st.integers(0, (1 << DRAW_BITS) - 1))
def test_the_short_way_for_equal_weights_chooses_as_the_long_one_does(loads, draw):
    providers = [FakeProvider(f"p{load}", in_flight=load) for load in loads]
    offered = candidates(*providers)
    chosen = choose(offered, draw)
    assert chosen is not None
    assert choose_equal(tuple(providers), draw) is chosen.provider


def test_a_provider_of_weight_0_is_a_reserve():
    main, reserve = FakeProvider("main", in_flight=50), FakeProvider("reserve")
    offered = candidates(main, reserve, weights=[100, 0])
    assert shares(offered, 200)["main"] == 1.0
    main.accepting = False
    assert shares(offered, 200)["reserve"] == 1.0


def test_providers_that_all_weigh_nothing_share_evenly():
    for share in shares(candidates(*named("a", "b"), weights=[0, 0])).values():
        assert share == pytest.approx(0.5, abs=0.02)


provider = st.builds(
    FakeProvider,
    st.uuids().map(str),
    in_flight=st.integers(0, 5),
    accepting=st.booleans(),
)
weighted = st.lists(st.tuples(provider, st.sampled_from([0, 1, 100])), max_size=6)


@given(weighted, st.integers(0, 2**DRAW_BITS - 1), st.binary(max_size=8))
def test_who_does_not_accept_is_never_chosen_and_somebody_who_accepts_always_is(pairs, draw, key):
    offered = candidates(*(p for p, _ in pairs), weights=[weight for _, weight in pairs])
    for chosen in (choose(offered, draw), choose_shard(offered, key)):
        accepting = [entry for entry in offered if entry.provider.accepting]
        if not accepting:
            assert chosen is None
            continue
        assert chosen in accepting
        if chosen.service.weight == 0:
            assert not any(entry.service.weight for entry in accepting)


@given(weighted, st.binary(max_size=8), st.randoms())
def test_a_shard_key_has_one_provider_whatever_the_order_and_the_load(pairs, key, source):
    offered = candidates(*(p for p, _ in pairs), weights=[weight for _, weight in pairs])
    before = choose_shard(offered, key)
    for p, _ in pairs:
        p.in_flight = source.randrange(100)
    source.shuffle(pairs)
    again = candidates(*(p for p, _ in pairs), weights=[weight for _, weight in pairs])
    assert choose_shard(again, key) == before


def test_shard_keys_share_by_weight():
    offered = candidates(*named("a", "b", "c"), weights=[100, 200, 700])
    homes = Counter(choose_shard(offered, b"%d" % key).instance for key in range(DRAWS))
    assert homes["a"] / DRAWS == pytest.approx(0.1, abs=0.01)
    assert homes["b"] / DRAWS == pytest.approx(0.2, abs=0.01)
    assert homes["c"] / DRAWS == pytest.approx(0.7, abs=0.01)


def test_when_a_provider_leaves_or_drains_only_its_own_shard_keys_move():
    providers = named("a", "b", "c", "d")
    everybody = candidates(*providers)
    keys = [b"user-%d" % number for number in range(1000)]
    before = {key: choose_shard(everybody, key).instance for key in keys}
    without = candidates(*providers[1:])
    after = {key: choose_shard(without, key).instance for key in keys}
    assert {key for key in keys if before[key] != after[key]} == {
        key for key in keys if before[key] == "a"
    }
    assert set(Counter(before.values())) == {"a", "b", "c", "d"}
    providers[0].accepting = False
    assert {key: choose_shard(everybody, key).instance for key in keys} == after


def test_the_home_of_a_shard_key_is_the_same_on_every_broker_and_in_every_release():
    homes = [choose_shard(candidates(*named("a", "b", "c")), b"%d" % n).instance for n in range(12)]
    assert "".join(homes) == "aacaaabccbcc"
