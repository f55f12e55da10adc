"""Statistics of benchmarks: buckets, quantiles, coordinated omission."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.figures import (
    bucket,
    histogram_of,
    intended_latencies,
    merged,
    quantile,
    spread,
    upper_edge_us,
)

latencies = st.integers(0, 2**40)


@given(latencies)
def test_a_latency_lies_below_the_upper_edge_of_its_bucket_and_less_than_two_per_cent_below(ns):
    edge = upper_edge_us(bucket(ns)) * 1e3
    assert ns < edge + 1e-6
    assert edge - ns <= max(1.0, ns / 60) + 1e-6


@given(latencies, latencies)
def test_a_larger_latency_is_never_in_a_lower_bucket(one, other):
    assert bucket(min(one, other)) <= bucket(max(one, other))


def test_quantiles_are_those_of_the_sorted_calls_within_a_bucket():
    histogram = histogram_of(1000 * n for n in range(1, 1001))
    assert quantile(histogram, 0.5) == pytest.approx(500, rel=0.02)
    assert quantile(histogram, 0.99) == pytest.approx(990, rel=0.02)
    assert quantile(histogram, 1.0) == pytest.approx(1000, rel=0.02)


def test_an_empty_histogram_has_no_quantiles():
    with pytest.raises(ValueError, match="empty"):
        quantile([], 0.5)


@given(st.lists(latencies, max_size=20), st.lists(latencies, max_size=20))
def test_rounds_added_up_are_the_histogram_of_all_their_calls(one, other):
    assert merged([histogram_of(one), histogram_of(other)]) == histogram_of([*one, *other])


def test_calls_that_a_pause_kept_from_being_made_are_charged_for_it():
    # One call each 10 ns. The first takes 35 ns and holds up those behind it.
    started, took = [0, 35, 36, 37, 40], [35, 1, 1, 1, 1]
    assert intended_latencies(started, took, 0, 10) == [35, 26, 17, 8, 1]


def test_a_call_that_left_early_gets_no_credit_for_it():
    assert intended_latencies([0, 5], [3, 3], 0, 10) == [3, 3]


def test_spread_is_relative_and_zero_for_equal_rounds():
    assert spread([2.0, 2.0]) == 0
    assert spread([1.0, 2.0, 3.0]) == 1.0
