"""The announcement: what is optional may be missing, what is wrong is refused by name."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsocket_mesh.errors import Invalid
from rsocket_mesh.protocol.announce import (
    MAX_NAME_LENGTH,
    MAX_ROUTE_LENGTH,
    Announcement,
    MethodInfo,
    ServiceInfo,
    check_announcement,
    check_name,
    decode_announcement,
    encode_announcement,
)

FULL = """
    {"app": "shop", "instance": "shop-7f3c", "tags": {"zone": "eu-1"}, "notices": true,
     "caller": true, "default_service": "stock",
     "services": [{"name": "orders", "version": "1.4.0", "weight": 100, "tags": {},
                   "routes": ["items.{id}"],
                   "methods": {"total": {"model": "request-response", "idempotent": true,
                                          "description": "...", "input": {"type": "object"},
                                          "output": {"type": "integer"},
                                          "mime": ["application/cbor"]}}}]}
"""


def decode(value) -> Announcement:
    return decode_announcement(json.dumps(value).encode())


def service(**fields) -> Announcement:
    return decode({"app": "shop", "services": [{"name": "orders", **fields}]})


def test_the_example_of_the_contract_is_understood():
    assert decode_announcement(FULL.encode()) == Announcement(
        app="shop",
        instance="shop-7f3c",
        tags={"zone": "eu-1"},
        notices=True,
        caller=True,
        default_service="stock",
        services=(
            ServiceInfo(
                name="orders",
                version="1.4.0",
                routes=("items.{id}",),
                methods={
                    "total": MethodInfo(
                        idempotent=True,
                        description="...",
                        input={"type": "object"},
                        output={"type": "integer"},
                        mime=("application/cbor",),
                    )
                },
            ),
        ),
    )


def test_only_app_and_the_names_of_services_are_required():
    announcement = decode({"app": "shop", "services": [{"name": "orders"}]})
    assert announcement == Announcement("shop", services=(ServiceInfo("orders"),))
    assert announcement.services[0].methods is None
    assert decode({"app": "shop"}).services == ()


def test_unknown_keys_are_ignored_at_every_level():
    announcement = decode(
        {
            "app": "shop",
            "new": 1,
            "services": [{"name": "orders", "new": [], "methods": {"total": {"new": {}}}}],
        }
    )
    assert announcement.services == (ServiceInfo("orders", methods={"total": MethodInfo()}),)


def test_no_methods_and_an_empty_list_of_methods_are_different_things():
    for methods in (None, {}):
        announcement = Announcement("shop", services=(ServiceInfo("orders", methods=methods),))
        assert decode_announcement(encode_announcement(announcement)) == announcement


def test_defaults_are_not_written():
    assert encode_announcement(Announcement("shop")) == b'{"app":"shop"}'


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({}, "missing required field `app`"),
        ({"app": 1}, r"Expected `str`, got `int` - at `\$.app`"),
        ({"app": ""}, "app: '' must be parts of"),
        ({"app": "a b"}, "app: 'a b' must be parts of"),
        ({"app": "a", "instance": "a/b"}, "instance: 'a/b'"),
        ({"app": "a", "default_service": "x."}, "default_service: 'x.'"),
        ({"app": "a", "tags": {"zone": 1}}, r"`\$.tags\[...\]`"),
        ({"app": "a", "notices": "yes"}, r"`\$.notices`"),
        ({"app": "a", "services": {}}, r"`\$.services`"),
        ({"app": "a", "services": [{}]}, r"field `name` - at `\$.services\[0\]`"),
        ([], "Expected `object`, got `array`"),
        (None, "got `null`"),
    ],
)
def test_what_is_wrong_is_refused_with_the_name_of_the_field(value, said):
    with pytest.raises(Invalid, match=said):
        decode(value)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "a..b"}, r"services\[0\].name: 'a..b'"),
        ({"name": "mesh.broker"}, "'mesh.broker' belongs to the broker"),
        ({"name": "mesh"}, "'mesh' belongs to the broker"),
        ({"version": "newest"}, r"services\[0\].version: 'newest' is not a version"),
        ({"version": 1.4}, r"`\$.services\[0\].version`"),
        ({"weight": -1}, r"services\[0\].weight: -1 must be 0 to 10000"),
        ({"weight": 10_001}, "10001 must be 0 to 10000"),
        ({"weight": 1e30}, "weight"),
        ({"routes": [""]}, r"services\[0\].routes\[0\]: 0 bytes, must be 1 to 255"),
        ({"routes": ["ok", "x" * 256]}, r"services\[0\].routes\[1\]: 256 bytes"),
        ({"routes": ["item-{id}"]}, "'item-{id}' a wildcard must be a whole segment"),
        ({"routes": ["a.{}"]}, "a wildcard must be a whole segment"),
        ({"routes": ["a.{b.c}"]}, "a wildcard must be a whole segment"),
        ({"routes": ["a}"]}, "a wildcard must be a whole segment"),
        ({"routes": ["mesh.broker.info"]}, "'mesh.broker.info' belongs to the broker"),
        ({"methods": {"a b": {}}}, r"services\[0\].methods: 'a b'"),
        ({"methods": {"a.b": {}}}, "'a.b' must not have a dot"),
        ({"methods": {"a": {"model": "telepathy"}}}, r"Invalid enum value 'telepathy'"),
        ({"methods": []}, r"`\$.services\[0\].methods`"),
    ],
)
def test_a_wrong_service_is_refused_with_the_name_of_the_field(fields, said):
    with pytest.raises(Invalid, match=said):
        service(**fields)


def test_one_service_may_be_announced_in_several_versions_but_each_once():
    both = [{"name": "orders", "version": "1"}, {"name": "orders", "version": "2"}]
    assert len(decode({"app": "a", "services": both}).services) == 2
    with pytest.raises(Invalid, match=r"services\[2\]: orders 1 is announced twice"):
        decode({"app": "a", "services": [*both, both[0]]})


@pytest.mark.parametrize(
    "route", ["a/b", "echo", "items.{id}", "/a//{x}/b", "{any}", "x" * MAX_ROUTE_LENGTH, "a.b c!"]
)
def test_a_route_is_any_text_with_whole_segments_for_wildcards(route):
    assert service(routes=[route]).services[0].routes == (route,)


@pytest.mark.parametrize("weight", [0, 10_000])
def test_a_weight_may_be_0_to_10000(weight):
    assert service(weight=weight).services[0].weight == weight


def test_a_name_has_at_most_128_characters():
    check_name("x" * MAX_NAME_LENGTH, "app")
    with pytest.raises(Invalid, match="app: name of 129 characters exceeds 128"):
        check_name("x" * (MAX_NAME_LENGTH + 1), "app")


@pytest.mark.parametrize("name", ["a", "A-1_b", "a.b.c", "0"])
def test_a_name_is_parts_joined_by_dots(name):
    check_name(name, "app")


@pytest.mark.parametrize("name", ["", ".", "a.", ".a", "a..b", "a b", "a\n", "\u00e4", "a/b"])
def test_any_other_name_is_refused(name):
    with pytest.raises(Invalid, match="app: "):
        check_name(name, "app")


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "announcement is not JSON"),
        (b"{", "announcement is not JSON"),
        (b"\xff", "announcement is not JSON"),
        (b'{"app": "\xff"}', "announcement is not JSON"),
        (b'{"app": "a", "new": ' + b"[" * 100_000, "nested too deeply"),
        (
            b'{"app": "a", "services": [{"name": "s", "methods": {"m": {"input": ' + b"[" * 100_000,
            "nested too deeply",
        ),
    ],
)
def test_what_is_not_json_is_refused(raw, said):
    with pytest.raises(Invalid, match=said):
        decode_announcement(raw)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
SERVICE_KEYS = ["version", "weight", "tags", "routes", "methods"]
service_like = st.fixed_dictionaries(
    {"name": st.sampled_from(["orders", "mesh.x", "a b"]) | json_values},
    optional=dict.fromkeys(SERVICE_KEYS, json_values),
)
announcement_like = st.fixed_dictionaries(
    {"app": st.just("shop") | json_values},
    optional={
        "instance": json_values,
        "tags": json_values,
        "notices": json_values,
        "services": st.lists(service_like, max_size=3) | json_values,
    },
)


@given(st.binary(max_size=60) | announcement_like.map(lambda value: json.dumps(value).encode()))
def test_no_bytes_raise_anything_but_invalid(raw):
    try:
        announcement = decode_announcement(raw)
    except Invalid:
        return
    assert decode_announcement(encode_announcement(announcement)) == announcement


def test_capacity_is_two_optional_numbers():
    announced = service(concurrency=8, rate=100).services[0]
    assert (announced.concurrency, announced.rate) == (8, 100.0)
    assert service().services[0].concurrency is service().services[0].rate is None
    assert b"rate" not in encode_announcement(service())


@pytest.mark.parametrize(
    ("field", "value", "text"),
    [
        ("concurrency", 0, r"services\[0\]\.concurrency: 0 must be 1 to 1000000"),
        ("concurrency", 1_000_001, r"services\[0\]\.concurrency: 1000001 must be"),
        ("concurrency", 1.5, r"concurrency"),
        ("concurrency", "8", r"concurrency"),
        ("rate", 0, r"services\[0\]\.rate: 0 must be above 0"),
        ("rate", -1.5, r"services\[0\]\.rate: -1\.5 must be above 0"),
        ("rate", 1e7, r"services\[0\]\.rate: 1e\+07 must be above 0 and at most 1e\+06"),
        ("rate", "fast", r"rate"),
    ],
)
def test_a_capacity_that_makes_no_sense_is_refused_by_its_name(field, value, text):
    with pytest.raises(Invalid, match=text):
        service(**{field: value})


def test_a_rate_that_is_no_number_is_refused():
    # JSON has none; CBOR, in which a session may announce as well, has.
    bad = Announcement("shop", services=(ServiceInfo("orders", rate=float("nan")),))
    with pytest.raises(Invalid, match=r"services\[0\]\.rate: nan must be above 0"):
        check_announcement(bad)
