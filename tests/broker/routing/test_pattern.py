"""Announced route patterns: which routes they match, and which of several wins."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.routing.pattern import PatternTree, canonical, has_wildcard


def tree_of(*patterns: str) -> PatternTree[str]:
    tree: PatternTree[str] = PatternTree()
    for pattern in patterns:
        tree.set(canonical(pattern), pattern)
    return tree


@pytest.mark.parametrize(
    ("pattern", "route"),
    [
        ("echo", "echo"),
        ("a/b", "a/b"),
        ("items.{id}", "items.17"),
        ("items/{id}/parts/{part}", "items/17/parts/wheel"),
        ("{any}", "echo"),
        ("/a/{x}", "/a/b"),
        ("a..{x}", "a..b"),
        ("items.{id}", "items.{id}"),
    ],
)
def test_a_pattern_matches(pattern, route):
    assert tree_of(pattern).match(route) == pattern


@pytest.mark.parametrize(
    ("pattern", "route"),
    [
        ("echo", "Echo"),
        ("a/b", "a.b"),
        ("items.{id}", "items"),
        ("items.{id}", "items."),
        ("items.{id}", "items.1.2"),
        ("items.{id}", "items.1/2"),
        ("items.{id}", "items/17"),
        ("items.{id}.x", "items.17"),
        ("{x}", "."),
        ("{x}", ""),
        ("echo", "echo."),
    ],
)
def test_a_pattern_does_not_match(pattern, route):
    assert tree_of(pattern).match(route) is None


@pytest.mark.parametrize(
    ("patterns", "route", "winner"),
    [
        (["items.{id}", "items.new"], "items.new", "items.new"),
        (["{x}.{y}", "{x}.list", "items.{y}"], "items.list", "items.{y}"),
        (["a.{x}.{y}", "{x}.b.c"], "a.b.c", "{x}.b.c"),
        (["a.{x}.{y}.d", "a.b.{y}.{z}"], "a.b.c.d", "a.b.{y}.{z}"),
        (["a.b.{x}.e", "a.{x}.c.d"], "a.b.c.d", "a.{x}.c.d"),
    ],
)
def test_the_most_literal_pattern_wins_then_the_one_literal_further_left(patterns, route, winner):
    assert tree_of(*patterns).match(route) == winner
    assert tree_of(*reversed(patterns)).match(route) == winner


def test_names_of_wildcards_make_no_difference():
    assert canonical("items.{id}/{part}") == canonical("items.{name}/{p}") == "items.{}/{}"
    assert has_wildcard(canonical("items.{id}"))
    assert not has_wildcard(canonical("items.id"))


def test_a_removed_pattern_is_gone_with_its_branches():
    tree = tree_of("a.{x}.c", "a.{x}")
    tree.remove("a.{}.c")
    assert tree.match("a.b.c") is None
    assert tree.match("a.b") == "a.{x}"
    tree.remove("a.{}")
    assert tree._root.branches == {}


def test_removing_what_is_not_there_changes_nothing():
    tree = tree_of("a.{x}")
    tree.remove("a.{}.c")
    tree.remove("b")
    assert tree.match("a.b") == "a.{x}"


def test_a_wide_tree_costs_a_route_its_own_length():
    tree = tree_of(*(f"items{number}.{{id}}" for number in range(10_000)))
    assert tree.match("items777.x") == "items777.{id}"


segment = st.sampled_from(["a", "b", "{x}"])
pattern = st.lists(segment, min_size=1, max_size=4).flatmap(
    lambda parts: st.sampled_from("./").map(lambda mark: mark.join(parts))
)


@given(st.lists(pattern, unique_by=canonical, max_size=8), st.data())
def test_the_tree_agrees_with_trying_every_pattern(patterns, data):
    kept = data.draw(st.lists(st.sampled_from(patterns), unique=True)) if patterns else []
    tree = tree_of(*patterns)
    for gone in set(patterns) - set(kept):
        tree.remove(canonical(gone))
    route = data.draw(pattern).replace("{x}", "a")

    def rank(candidate: str) -> tuple[int, tuple[bool, ...]]:
        literal = tuple("{" not in part for part in re.split("[./]", candidate))
        return sum(literal), literal

    fitting = [
        candidate
        for candidate in kept
        if re.fullmatch(re.escape(canonical(candidate)).replace(r"\{\}", "[^./]+"), route)
    ]
    assert tree.match(route) == max(fitting, key=rank, default=None)
