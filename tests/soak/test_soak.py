"""The soak itself works, and finds what it is there to find: a short one, with everything in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.soak.director import Plan, run
from tests.soak.measures import MIB, Report, Sample, fit, sparkline
from tests.soak.payloads import Wrong, check, item_size, make


def test_twenty_seconds_of_kills_and_a_bad_network_leave_nothing_wrong(tmp_path: Path) -> None:
    plan = Plan(
        seconds=20,
        seed=7,
        services=3,
        callers=3,
        workers=3,
        kill_every=2.0,
        stop_every=4.0,
        disturb_every=2.0,
        broker_kill_every=9.0,
        largest=2 * MIB,
        report=tmp_path / "report.json",
    )
    report = run(plan)
    print(report.table())
    assert report.violations == []
    assert report.kills >= 4
    assert report.events["killed brokers"] >= 1
    assert report.totals["end ok"] > 100
    assert report.totals["items"] > 500
    assert json.loads((tmp_path / "report.json").read_text())["seed"] == 7


@pytest.mark.parametrize("size", [0, 40, 100, 3 * MIB])
def test_a_payload_is_told_from_every_other(size: int) -> None:
    payload = make(5, 2, size)
    assert len(payload) == size
    check(payload, 5, 2, size)
    if not size:
        return
    bent = payload[:-1] + bytes((payload[-1] ^ 1,))
    for data, call, item, length in (
        (payload, 6, 2, size),
        (payload, 5, 3, size),
        (payload, 5, 2, size + 1),
        (payload[:-1], 5, 2, size),
        (bent, 5, 2, size),
        (b"", 5, 2, size),
    ):
        with pytest.raises(Wrong):
            check(data, call, item, length)


def test_sizes_of_items_are_the_same_at_both_ends_and_at_most_the_largest() -> None:
    assert {item_size(9, item, 3) for item in range(100)} == {0, 1, 2, 3}


def test_memory_that_grows_is_a_violation_and_memory_that_is_flat_is_none() -> None:
    for slope, violations in ((0.0, 0), (2.0, 1)):  # MiB per second
        samples = [
            Sample(float(t), 1, int((50 + slope * t) * MIB) + t % 7 * MIB, 9) for t in range(120)
        ]
        report = Report(1, 120.0, samples=samples)
        report.judge_memory()
        assert len(report.violations) == violations, report.growth()


def test_a_line_is_fitted_through_points_and_few_points_are_no_line() -> None:
    assert fit([(0, 1.0), (1, 3.0), (2, 5.0)]) == pytest.approx(2.0)
    assert fit([(0, 1.0)]) == 0.0
    assert fit([(3, 1.0), (3, 2.0)]) == 0.0


def test_a_sparkline_shows_the_largest_of_each_column() -> None:
    assert sparkline([0, 9 * MIB, 0, 0], width=2) == "█▁ 0 to 9 MiB"
    assert sparkline([]) == "not measured"
