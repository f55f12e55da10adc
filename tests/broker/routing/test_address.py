"""The routing tags of a request become an address (design: addressing a call)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.routing.address import RESERVED_KEYS, Address, parse_address
from rsocket_mesh.errors import Invalid
from rsocket_mesh.protocol.version import parse_range


def test_the_first_tag_is_the_route_and_the_rest_are_selectors():
    address = parse_address(["orders.total", "version=^1.4", "instance=shop-1", "zone=eu-1"])
    assert address == Address("orders.total", parse_range("^1.4"), "shop-1", (("zone", "eu-1"),))


def test_the_first_tag_is_the_route_even_if_it_looks_like_a_selector():
    assert parse_address(["version=^1.4"]) == Address("version=^1.4")


def test_tags_without_an_equals_sign_are_ignored():
    assert parse_address(["a.b", "", "loose", "also loose"]) == Address("a.b")


@pytest.mark.parametrize("key", sorted(RESERVED_KEYS))
def test_reserved_keys_are_ignored(key):
    assert parse_address(["a.b", f"{key}=anything"]) == Address("a.b")


def test_a_value_may_contain_equals_signs_and_may_be_empty():
    assert parse_address(["a.b", "k=x=y", "empty="]).tags == (("k", "x=y"), ("empty", ""))


def test_a_selector_given_twice_with_other_values_asks_for_both():
    assert parse_address(["a.b", "zone=a", "zone=b"]).tags == (("zone", "a"), ("zone", "b"))


@pytest.mark.parametrize("tags", [[], [""], ["", "version=1"]])
def test_an_address_without_a_route_is_invalid(tags):
    with pytest.raises(Invalid, match="first tag must be a route"):
        parse_address(tags)


@pytest.mark.parametrize("key", ["version", "instance"])
def test_version_and_instance_may_be_there_only_once(key):
    with pytest.raises(Invalid, match=f"{key}= is there twice"):
        parse_address(["a.b", f"{key}=1", f"{key}=2"])


def test_a_version_that_is_no_range_is_invalid_and_named():
    with pytest.raises(Invalid, match="'latest'"):
        parse_address(["a.b", "version=latest"])


def test_the_selectors_can_be_said_again():
    tags = ["version=>=1.2 <2", "instance=shop-1", "zone=eu-1"]
    assert parse_address(["a.b", *tags]).selectors() == "version=>=1.2 <2 instance=shop-1 zone=eu-1"
    assert parse_address(["a.b"]).selectors() == ""


@given(st.lists(st.text(max_size=30), max_size=6))
def test_whatever_the_tags_are_there_is_an_address_or_invalid(tags):
    try:
        address = parse_address(tags)
    except Invalid:
        return
    assert address.route == tags[0]
