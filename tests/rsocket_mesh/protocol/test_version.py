"""Versions compare, and ranges admit, as people who know semantic versions expect."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsocket_mesh.errors import Invalid
from rsocket_mesh.protocol.version import MAX_LENGTH, parse_range, parse_version


def admits(text: str, version: str) -> bool:
    return parse_version(version) in parse_range(text)


def test_versions_are_in_the_order_of_semantic_versioning():
    """semver 2.0, section 11, and numbers by value."""
    order = "0 0.0.1 0.9 1.0.0-alpha 1.0.0-alpha.1 1.0.0-alpha.beta 1.0.0-beta 1.0.0-beta.2 "
    order += "1.0.0-beta.11 1.0.0-rc.1 1.0.0 1.0.0.1 1.0.1 1.9 1.10 2 10.0"
    versions = [parse_version(text) for text in order.split()]
    assert all(low < high for low, high in itertools.pairwise(versions))


@pytest.mark.parametrize(
    ("one", "other"),
    [("1", "1.0.0.0"), ("1.4", "1.4.0"), ("v1.4", "1.4"), ("1.4+build.7", "1.4"), ("1.04", "1.4")],
)
def test_missing_numbers_are_zero_and_build_metadata_does_not_count(one, other):
    assert parse_version(one) == parse_version(other)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "latest",
        "1.",
        ".1",
        "1..2",
        "1.2.3.4.5",
        "1.4-",
        "1.4-rc..1",
        "1.4 ",
        "-1",
        "1,4",
        "1.4-\u00fc",
        "\u0661.4",
        "1" * 10,
        "1." + "0" * MAX_LENGTH,
    ],
)
def test_what_is_no_version_is_refused(text):
    with pytest.raises(Invalid, match="is not a version"):
        parse_version(text)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        # a plain version is an exact match
        ("1.4", "1.4 1.4.0 1.4.0.0 1.4+b", "1.4.1 1.3.9 1.4.0-rc.1 1.4.0.1"),
        ("=1.4.2", "1.4.2", "1.4.1 1.4.3"),
        ("v1.4", "1.4", "1.5"),
        ("1.4.0-rc.1", "1.4.0-rc.1", "1.4.0 1.4.0-rc.2 1.4.0-rc"),
        # caret: the leftmost number that is not zero stays
        ("^1.4", "1.4 1.4.7 1.99.3", "1.3.9 2.0 2.0.0-rc.1 1.5.0-rc.1 1.4.0-rc.1"),
        ("^1.4.2", "1.4.2 1.5", "1.4.1 2"),
        ("^1", "1.0 1.9.9", "0.9 2.0"),
        ("^0.2.3", "0.2.3 0.2.9", "0.2.2 0.3.0"),
        ("^0.0.3", "0.0.3 0.0.3.7", "0.0.2 0.0.4"),
        ("^0.0", "0.0.0 0.0.9", "0.1.0"),
        ("^0", "0.0.0 0.9.9", "1.0.0"),
        ("^0.0.0", "0.0.0", "0.0.1"),
        ("^1.2.3-beta.2", "1.2.3-beta.2 1.2.3-beta.4 1.2.3 1.3", "1.2.3-beta.1 1.2.4-beta.2 2"),
        # tilde: the second number stays, or the first if it is alone
        ("~1.4.2", "1.4.2 1.4.9", "1.4.1 1.5.0 1.5.0-rc.1"),
        ("~1.4", "1.4.0 1.4.9", "1.3 1.5"),
        ("~1", "1.0 1.9", "0.9 2.0"),
        ("~0.2", "0.2.0 0.2.9", "0.3"),
        ("~ 1.4", "1.4.1", "1.5"),
        # comparisons, joined by blanks
        (">=1.2 <2", "1.2 1.9.9", "1.1.9 2.0 2.0.0-rc.1"),
        (">1.2", "1.2.1 3", "1.2 1.1"),
        ("<=1.2", "1.2 0.1", "1.2.1"),
        ("<1.2", "1.1.9 0", "1.2 1.2.0-rc.1"),
        (">= 1.2   < 2", "1.5", "2"),
        ("  >=1.2 ", "1.2", "1.1"),
        (">1.0.0-rc.1", "1.0.0-rc.2 1.0.0 1.1", "1.0.0-rc.1 1.1.0-rc.5"),
        (">2 <1", "", "0 1 1.5 2 3"),
        # wildcards
        ("1.x", "1.0 1.9.9", "0.9 2.0 1.5.0-rc.1"),
        ("1.4.*", "1.4.0 1.4.9", "1.5 1.3"),
        ("1.2.3.X", "1.2.3 1.2.3.9", "1.2.4"),
        ("1.x.x", "1.0 1.9.9", "2.0"),
        ("^1.2.x", "1.2.0 1.9", "1.1 2"),
        ("~1.2.x", "1.2.0 1.2.9", "1.3"),
        (">=1.x", "1.0 3.0", "0.9"),
        (">1.x", "2.0 3.0", "1.0 1.9"),
        ("<1.x", "0.9", "1.0 1.5"),
        ("<=1.x", "0.9 1.0 1.9", "2.0"),
        ("*", "0 1.4 99.0", "1.4.0-rc.1"),
        ("x", "0 1.4", ""),
        (">=*", "0 1.4", ""),
        # alternatives
        ("1.4 || ^2.1", "1.4 2.1 2.9", "1.5 2.0 3"),
        ("<1 || >=3", "0.5 3", "1 2.9"),
        ("1||2", "1 2", "3"),
    ],
)
def test_a_range_admits(text, inside, outside):
    assert [v for v in inside.split() if not admits(text, v)] == []
    assert [v for v in outside.split() if admits(text, v)] == []


def test_a_pre_release_is_admitted_only_by_the_alternative_that_names_one_of_its_numbers():
    assert admits("^1.0 || >=1.5.0-rc.1", "1.5.0-rc.2")
    assert not admits("^1.0 || >=1.5.0-rc.1", "1.6.0-rc.2")
    assert admits(">=2.0.0-alpha <2.0.0", "2.0.0-rc.1")


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "||",
        "1 ||",
        "|| 1",
        "1 | 2",
        "^",
        ">=",
        "=> 1",
        ">=1.2,<2",
        "1.2 - 2.3",
        "latest",
        "^latest",
        "1x",
        "x.1",
        "1.x.2",
        "<*",
        ">x",
        "~>1.2",
        "1.2.3.4.x",
    ],
)
def test_what_is_no_range_is_refused(text):
    with pytest.raises(Invalid):
        parse_range(text)


def test_a_range_has_at_most_a_bounded_length():
    text = "1.4".ljust(MAX_LENGTH)
    assert str(parse_range(text)) == text
    with pytest.raises(Invalid, match=f"65 characters exceeds {MAX_LENGTH}"):
        parse_range(text + " ")


@given(st.text(alphabet="0123456789.xX*^~<>=|v -rc+", max_size=MAX_LENGTH + 5))
def test_any_text_is_a_range_and_a_version_or_invalid(text):
    for parse in (parse_range, parse_version):
        try:
            parse(text)
        except Invalid:
            pass


numbers = st.lists(st.integers(0, 3), min_size=1, max_size=4).map(lambda n: ".".join(map(str, n)))
versions = st.builds(str.__add__, numbers, st.sampled_from(["", "-alpha", "-rc.2", "-rc.10"]))


@given(versions, versions)
def test_comparisons_agree_with_the_order_of_versions(bound, version):
    low, value = parse_version(bound), parse_version(version)
    if "-" in version and not ("-" in bound and low[0] == value[0]):
        return  # a pre-release that the bound does not name
    assert admits(f"<{bound}", version) == (value < low)
    assert admits(f"<={bound}", version) == (value <= low)
    assert admits(f">{bound}", version) == (value > low)
    assert admits(f">={bound}", version) == (value >= low)
    assert admits(bound, version) == (value == low)


@given(versions)
def test_a_version_is_within_its_own_caret_and_tilde(version):
    assert admits(f"^{version}", version)
    assert admits(f"~{version}", version)
