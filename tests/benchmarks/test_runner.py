"""The runner over real processes, and contenders that are not there."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from click.testing import CliRunner

from benchmarks import registry, stage
from benchmarks.__main__ import main
from benchmarks.context import Context
from benchmarks.model import read
from benchmarks.stage import Contender, Options, Running, Unavailable, process

needs_compiler = pytest.mark.skipif(shutil.which("gcc") is None, reason="the load is C")


@contextmanager
def missing(options: Options) -> Iterator[Running]:
    raise Unavailable("it is not installed (on Debian: nothing)")
    yield


@contextmanager
def present(options: Options) -> Iterator[Running]:
    yield Running("self", version="1.0")


def test_a_contender_that_cannot_be_had_is_a_skip_line_and_the_others_run():
    context = Context([])
    context.workload = "many"
    everybody = [Contender("gone", "x", missing, ""), Contender("here", "x", present, "")]
    with context.started(everybody) as running, context.started(everybody):
        assert list(running) == ["here"]
    [skip] = context.skips  # once, not at each start
    assert (skip.contender, skip.workload) == ("gone", "many")
    assert "on Debian" in skip.reason
    assert context.versions == {"here": "1.0"}


def test_a_contender_that_fails_in_one_case_is_left_out_of_that_case_alone():
    context = Context([], rounds=3)
    context.workload = "many"
    asked: list[str] = []

    def sample(one: Contender, at: Running) -> tuple[dict[str, float], list[tuple[float, int]]]:
        asked.append(one.name)
        if one.name == "weak":
            raise Unavailable("it refused")
        return {"cpu_us": 1.0}, []

    with context.started([Contender(name, "x", present, "") for name in ("weak", "ok")]) as both:
        rows = context.interleave({"size": 1}, both, sample)
    assert [(one.contender, one.metrics) for one in rows] == [("ok", {"cpu_us": [1.0] * 3})]
    assert asked == ["weak", "ok", "ok", "ok"]
    assert "size 1: it refused" in context.skips[0].reason


def test_a_program_that_ends_at_once_is_unavailable_with_its_last_words():
    command = [sys.executable, "-c", "import sys; sys.exit('no such file: x')"]
    with (
        pytest.raises(Unavailable, match="no such file: x"),
        process(command, core=None, ready=lambda child: False),
    ):
        pass


def test_cpu_and_memory_are_of_the_whole_process_tree():
    script = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c',"
        " 'import time; t = time.process_time\\nwhile t() < 0.2: pass\\n"
        "print(1, flush=True); time.sleep(60)'], stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\nprint('ready', flush=True)\ntime.sleep(60)\n"
    )
    command = [sys.executable, "-c", script]
    with process(command, core=None, ready=stage.Lines()) as child:
        found = Running("", (child.pid,))
        assert len(found.tree()) == 2
        assert found.cpu_seconds() > 0.2
        assert found.resident_bytes() > stage.resident_bytes(child.pid)


def test_names_of_workloads_and_contenders_are_unique():
    for names in (
        [one.name for one in registry.workloads()],
        [one.name for one in registry.contenders()],
    ):
        assert len(names) == len(set(names))
        assert len(names) > 10


def test_an_unknown_name_is_a_usage_error_that_lists_what_there_is():
    found = CliRunner().invoke(main, ["--only", "nonsense"])
    assert found.exit_code == 2
    assert "request-response" in found.output


def test_the_list_names_every_workload_and_contender():
    found = CliRunner().invoke(main, ["--list"])
    assert found.exit_code == 0
    for one in (*registry.workloads(), *registry.contenders()):
        assert one.name in found.output


@needs_compiler
def test_a_quick_run_over_real_processes_measures_and_writes_the_report(tmp_path):
    names = ("direct", "byte relay", "bare relay", "broker (plain)")
    arguments = ["--quick", "--rounds", "1", "--output", str(tmp_path)]
    for workload in ("request-response", "channel", "churn"):
        arguments += ["--only", workload]
    for name in names:
        arguments += ["--with", name]
    found = CliRunner().invoke(main, arguments, catch_exceptions=False)
    assert found.exit_code == 0, found.output
    results = read(tmp_path / "results.json")
    assert {row.contender for row in results.rows} == set(names)
    assert results.skips == []
    for row in results.rows:
        assert (row.median("per_second") or 0) > 0
        assert (row.median("cpu_us") or 0) > 0 or row.contender == "direct"
        assert "failed" not in row.metrics
    [calls] = [
        row
        for row in results.of("request-response", payload=128, in_flight=64)
        if row.contender == "broker (plain)"
    ]
    assert (calls.median("p99_us") or 0) >= (calls.median("p50_us") or 0) > 0
    page = (tmp_path / "README.md").read_text()
    assert "## Request-response" in page
    assert "1. broker (plain), 1 in flight: CPU, beside a byte relay" in page

    again = CliRunner().invoke(main, ["--report-only", str(tmp_path / "results.json")])
    assert again.exit_code == 0, again.output
    assert (tmp_path / "README.md").read_text() == page
