"""The arithmetic of the regression gate: what counts, when it measures again, when it fails."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from rich.console import Console

from benchmarks.counting import SOFTWARE, TASK_CLOCK, CpuTime, Events, Meter
from benchmarks.gate import ALLOWED, CASES, TRIES, Side, Verdict, judge, low, ratio_of, report


class Figures(Meter):
    """An account that grows as the test says."""

    name = "figures"

    def __init__(self) -> None:
        self.used = {1: 0.0, 2: 0.0}

    def read(self, pid: int) -> float:
        return self.used[pid]

    def side(self, pid: int, costs: list[float]) -> Side:
        """One that costs so much per unit, round by round; the first round warms up."""
        left = iter([1000.0, *costs])

        def work(units: int) -> None:
            self.used[pid] += next(left) * units

        return Side([pid], work, 10)


def measured(*ratios: float) -> Callable[[], float]:
    """Measurements with these results and no others."""
    return iter(ratios).__next__


def test_noise_that_makes_some_rounds_dearer_changes_nothing() -> None:
    meter = Figures()
    ours = meter.side(1, [2.0, 2.0, 9.0, 2.0, 7.0, 2.0, 30.0, 2.0])
    stick = meter.side(2, [1.0, 5.0, 1.0, 1.0, 1.0, 4.0, 1.0, 6.0])
    assert ratio_of(meter, ours, stick, rounds=8) == pytest.approx(2.0)


def test_a_cost_that_rose_in_every_round_is_seen() -> None:
    meter = Figures()
    ratio = ratio_of(meter, meter.side(1, [2.5] * 4), meter.side(2, [1.0] * 4), rounds=4)
    assert ratio == pytest.approx(2.5)


def test_the_lower_quartile_is_the_cost() -> None:
    assert low([5.0, 1.0, 4.0, 2.0, 3.0]) == 2.0


def test_up_to_the_limit_one_measurement_is_enough() -> None:
    verdict = judge(measured(2.0 * ALLOWED), 2.0)
    assert not verdict.has_regressed
    assert len(verdict.ratios) == 1


def test_who_is_over_is_measured_again_and_good_if_once_below() -> None:
    verdict = judge(measured(2.5, 2.31, 2.0), 2.0)
    assert not verdict.has_regressed
    assert verdict.ratios == [2.5, 2.31, 2.0]


def test_a_regression_is_over_every_time() -> None:
    verdict = judge(measured(*[2.31] * TRIES), 2.0)
    assert verdict.has_regressed
    assert len(verdict.ratios) == TRIES


def test_what_has_no_committed_ratio_fails_the_report_but_not_as_a_regression() -> None:
    verdict = judge(measured(2.0), None)
    assert not verdict.has_regressed
    said = Console(record=True, quiet=False, file=open(os.devnull, "w"), width=120)  # noqa: SIM115
    with said.file:
        assert not report({("plain", "relay"): verdict}, said)
    assert "nothing is committed" in said.export_text()


@pytest.mark.parametrize(("ratio", "good"), [(2.0, True), (3.0, False)])
def test_the_report_says_in_one_line_each_how_much_dearer_it_is(ratio: float, good: bool) -> None:
    said = Console(record=True, file=open(os.devnull, "w"), width=120)  # noqa: SIM115
    with said.file:
        assert report({("plain", "relay"): Verdict([ratio], 2.0 * ALLOWED)}, said) is good
    text = said.export_text()
    assert ("+50.0%" in text) is not good
    assert ("REGRESSED" in text) is not good
    assert ("--update" in text) is not good


def test_every_case_says_what_it_measures() -> None:
    assert all(begin.__doc__ for begin in CASES.values())


def test_both_meters_see_work() -> None:
    # The counter of instructions needs hardware; a clock that the kernel keeps is read likewise.
    meters: list[Meter] = [CpuTime()]
    try:
        meters.append(Events("clock", SOFTWARE, TASK_CLOCK))
    except OSError as exc:
        assert "perf_event_open" in str(exc)  # noqa: PT017 - forbidden here; that is told clearly
    for meter in meters:
        before = meter.read(os.getpid())
        sum(range(1_000_000))
        assert meter.read(os.getpid()) > before
        if isinstance(meter, Events):
            meter.close()
