"""Statistics: medians and spread, quantiles of a histogram, coordinated omission.

Latencies are kept as counts in buckets that grow with the value (64 per doubling, 1.6 % wide), so
that millions of calls fit into some hundred numbers and rounds can be added up.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Final

SUB_BUCKETS: Final = 64  # per doubling; `native/load.c` has the same number
QUANTILES: Final = {"p50_us": 0.5, "p90_us": 0.9, "p99_us": 0.99, "p999_us": 0.999}

Histogram = list[tuple[float, int]]  # (upper edge in microseconds, calls), rising


def median(samples: Sequence[float]) -> float:
    """Return the middle one of *samples*."""
    return statistics.median(samples)


def spread(samples: Sequence[float]) -> float:
    """Return (most - least) / median: 0 is perfectly steady. A median of 0 has no spread."""
    middle = median(samples)
    return (max(samples) - min(samples)) / middle if middle else 0.0


def bucket(nanoseconds: int) -> int:
    """Return the number of the bucket that a latency falls into."""
    if nanoseconds < SUB_BUCKETS:
        return max(0, nanoseconds)
    shift = nanoseconds.bit_length() - SUB_BUCKETS.bit_length()
    return (shift + 1) * SUB_BUCKETS + (nanoseconds >> shift) - SUB_BUCKETS


def upper_edge_us(number: int) -> float:
    """Return the first latency, in microseconds, that no longer falls into bucket *number*."""
    if number < SUB_BUCKETS:
        return (number + 1) / 1e3
    shift, place = divmod(number, SUB_BUCKETS)
    return ((SUB_BUCKETS + place + 1) << (shift - 1)) / 1e3


def histogram_of(nanoseconds: Iterable[int]) -> Histogram:
    """Return the histogram of single latencies."""
    counts: dict[int, int] = {}
    for value in nanoseconds:
        number = bucket(value)
        counts[number] = counts.get(number, 0) + 1
    return from_buckets(counts.items())


def from_buckets(counts: Iterable[tuple[int, int]]) -> Histogram:
    """Return the histogram of `(bucket number, calls)`."""
    return [(upper_edge_us(number), calls) for number, calls in sorted(counts)]


def merged(histograms: Iterable[Histogram]) -> Histogram:
    """Return the sum of several histograms."""
    counts: dict[float, int] = {}
    for histogram in histograms:
        for edge, calls in histogram:
            counts[edge] = counts.get(edge, 0) + calls
    return sorted(counts.items())


def quantile(histogram: Histogram, share: float) -> float:
    """Return the latency in microseconds that *share* of the calls did not exceed.

    Raises:
        ValueError: the histogram is empty.
    """
    total = sum(calls for _, calls in histogram)
    if not total:
        raise ValueError("an empty histogram has no quantiles")
    left = share * total
    for edge, calls in histogram:
        left -= calls
        if left <= 0:
            return edge
    return histogram[-1][0]


def quantiles(histogram: Histogram) -> dict[str, float]:
    """Return the metrics p50, p90, p99 and p99.9 of a histogram."""
    return {name: quantile(histogram, share) for name, share in QUANTILES.items()}


def intended_latencies(
    started: Sequence[int], took: Sequence[int], begin: int, interval: float
) -> list[int]:
    """Return latencies counted from when each call should have begun, in nanoseconds.

    A load that waits for a slow answer sends the next call late and so never sees how long it
    would have waited ("coordinated omission"). Call *i* was meant for `begin + i * interval`; what
    it was late by is added to what it took. A call that came early is not given credit for it.

    Args:
        started: when each call really began, rising.
        took: how long it then took.
    """
    pairs = zip(started, took, strict=True)
    return [
        duration + max(0, int(start - (begin + number * interval)))
        for number, (start, duration) in enumerate(pairs)
    ]
