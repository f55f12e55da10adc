"""The report is made from the JSON alone: promises, who is better, tables, plots."""

from __future__ import annotations

import pytest

from benchmarks.model import About, Results, Row, Skip, read, write
from benchmarks.report import markdown, plots
from benchmarks.report.promises import verdicts
from benchmarks.report.slower import worse


def row(contender: str, cpu: list[float], **metrics: list[float]) -> Row:
    parameters: dict[str, str | int | float] = {"payload": 128, "in_flight": 64}
    histogram = [(10.0, 90), (20.0, 10)]
    return Row("request-response", contender, parameters, {"cpu_us": cpu, **metrics}, histogram)


def results(*rows: Row, skips: list[Skip] | None = None) -> Results:
    return Results(
        machine={"processor": "a test"},
        versions={"nats-server": "v1"},
        conditions={"rounds": "2"},
        started="today",
        seconds=1.0,
        load_average=[0.5, 0.7],
        about=[About("request-response", "Request-response", "What it is.")],
        rows=list(rows),
        skips=skips or [],
    )


def test_results_come_back_from_json_as_they_were(tmp_path):
    before = results(row("broker (plain)", [1.0]), skips=[Skip("Envoy", "not here")])
    write(before, tmp_path / "results.json")
    assert read(tmp_path / "results.json") == before


def test_a_file_that_holds_no_results_is_refused_with_its_name(tmp_path):
    (tmp_path / "other.json").write_text('{"rows": 3}')
    with pytest.raises(ValueError, match=r"other\.json holds no results"):
        read(tmp_path / "other.json")


def test_a_promise_is_judged_by_the_ratios_of_rounds_and_not_by_absolute_figures():
    # The machine was half as fast in the second round; the ratio is the same.
    found = results(row("broker (plain)", [2.6, 5.2]), row("nats-server", [2.0, 4.0]))
    [verdict] = [one for one in verdicts(found) if one.seen is not None]
    assert "64 in flight" in verdict.what
    assert "nats-server" in verdict.what
    assert verdict.seen == pytest.approx(1.3)
    assert verdict.kept


def test_a_promise_that_is_not_kept_is_said_to_be_not_kept():
    found = results(row("broker (plain)", [3.0]), row("nats-server", [2.0]))
    assert "**not kept**" in markdown.report(found, [], "results.json")


def test_what_was_not_measured_is_said_and_never_counted_as_kept():
    found = verdicts(results())
    assert len(found) > 20
    assert {verdict.kept for verdict in found} == {None}
    assert "not measured in this run" in markdown.report(results(), [], "results.json")


def test_the_report_names_what_is_slower_than_a_peer_the_worst_first():
    found = worse(
        results(
            row("broker (plain)", [4.0], per_second=[100.0]),
            row("nats-server", [2.0], per_second=[110.0]),
            row("Envoy", [8.0], per_second=[400.0]),
            row("byte relay", [0.1]),  # a measuring stick is no peer
        )
    )
    assert [(one.peer, one.metric, round(one.times, 2)) for one in found] == [
        ("Envoy", "per_second", 4.0),
        ("nats-server", "cpu_us", 2.0),
        ("nats-server", "per_second", 1.1),
    ]


def test_a_difference_within_the_noise_is_none():
    assert worse(results(row("broker (plain)", [2.04]), row("nats-server", [2.0]))) == []


def test_where_both_kernels_were_measured_the_compiled_one_stands_for_us():
    found = results(
        row("broker (plain)", [4.0]), row("broker (compiled)", [1.0]), row("nats-server", [2.0])
    )
    assert worse(found) == []


def test_who_was_left_out_is_in_the_report_with_the_reason():
    found = results(skips=[Skip("HAProxy", "haproxy is not installed", "many")])
    page = markdown.report(found, [], "results.json")
    assert "- **HAProxy** (many): haproxy is not installed" in page


def test_tables_hold_every_row_with_its_median_and_spread():
    page = markdown.report(results(row("nats-server", [1.0, 2.0, 3.0])), [], "results.json")
    assert "| 128 | 64 | nats-server | 2 | ±50% |" in page


def test_plots_are_drawn_from_the_same_results(tmp_path):
    pytest.importorskip("matplotlib", reason="an extra: pip install '.[bench]'")
    rows = [
        row(name, [cpu], per_second=[1e5])
        for name, cpu in (("broker (plain)", 2.0), ("nats-server", 3.0))
    ]
    drawn = plots.draw(results(*rows), tmp_path)
    assert [name for name, _ in drawn] == ["cpu.svg", "throughput.svg"]
    assert "nats-server" in markdown.report(results(*rows), drawn, "results.json")
    assert (tmp_path / "cpu.svg").read_text().startswith("<?xml")
