"""What one worker tells of itself when it is asked: its snapshot and its counters, as data.

The supervisor adds these up (`view`). Counters are sent as they are, since the last report of a
worker that dies is what is left of it.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from broker.admin.snapshot import Snapshot
from broker.observe.counters import CallCounters, Counters

# Attributes of `Counters` and `CallCounters` that are numbers, and those that are numbers by name.
NUMBERS = (
    "accepted",
    "resumed",
    "frames_in",
    "frames_out",
    "bytes_in",
    "bytes_out",
    "leases_granted",
    "leases_received",
)
BY_NAME = ("refused", "resume_refused", "closes", "dropped", "ignored", "limits", "leased_requests")
CALL_NUMBERS = (
    "started",
    "ok",
    "over_budget",
    "credit_granted",
    "credit_used",
    "credit_returned",
)


class CallReport(msgspec.Struct, array_like=True):
    """`CallCounters` as data; the numbers in the order of `CALL_NUMBERS`."""

    service: str
    numbers: list[int]
    others: dict[str, int]
    starved_seconds: dict[str, float]


class CountersReport(msgspec.Struct, array_like=True):
    """`Counters` as data; in the order of `NUMBERS` and `BY_NAME`."""

    numbers: list[int]
    by_name: list[dict[str, int]]
    calls: list[CallReport]


class Report(msgspec.Struct, array_like=True):
    """One worker, at one moment."""

    snapshot: Snapshot
    counters: CountersReport
    passed_on: int
    link_bytes: int
    cpu_seconds: float
    resident: int


def counters_report(counters: Counters) -> CountersReport:
    """Return *counters* as data."""
    return CountersReport(
        [getattr(counters, name) for name in NUMBERS],
        [dict(getattr(counters, name)) for name in BY_NAME],
        [
            CallReport(
                calls.service,
                [getattr(calls, name) for name in CALL_NUMBERS],
                dict(calls.others),
                calls.starved_seconds,
            )
            for calls in counters.calls.values()
        ],
    )


def add(total: Counters, report: CountersReport) -> None:
    """Add *report* to *total*."""
    for name, number in zip(NUMBERS, report.numbers, strict=True):
        setattr(total, name, getattr(total, name) + number)
    for name, numbers in zip(BY_NAME, report.by_name, strict=True):
        counter: Counter[str] = getattr(total, name)
        counter.update(numbers)
    for calls in report.calls:
        _add_calls(total.calls_to(calls.service), calls)


def _add_calls(total: CallCounters, report: CallReport) -> None:
    for name, number in zip(CALL_NUMBERS, report.numbers, strict=True):
        setattr(total, name, getattr(total, name) + number)
    total.others.update(report.others)
    for by, seconds in report.starved_seconds.items():
        total.starved_seconds[by] += seconds


def read_report(answer: Any) -> Report:
    """Return the report in an answer, which came as plain data."""
    return msgspec.convert(answer, Report)
