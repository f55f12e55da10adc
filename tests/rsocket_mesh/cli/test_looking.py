"""`list`, `describe` and `ping` against a real broker and a real service."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.rsocket_mesh.cli.conftest import COMMAND, Result, environment
from tests.support.processes import running

Run = Callable[..., Result]


def test_list_shows_the_services_that_are_connected(mesh: Run):
    (service,) = mesh("list").json
    assert service["name"] == "desk"
    assert service["versions"] == ["1.4.2"]
    assert "total" in service["methods"]


def test_list_wide_shows_the_methods_to_people(mesh: Run):
    narrow = mesh("list", "-o", "table").out.splitlines()
    assert [line.split()[:3] for line in narrow] == [
        ["SERVICE", "VERSIONS", "INSTANCES"],
        ["desk", "1.4.2", "1"],
    ]
    assert " total" not in narrow[1]
    wide = mesh("list", "--wide", "-o", "table").out.splitlines()
    assert wide[0].split()[3] == "METHODS"
    assert " total" in wide[1]


def test_on_a_terminal_tables_are_the_default(broker_url: str, tmp_path: Path):
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            [*COMMAND, "list"],
            stdin=theirs,
            stdout=theirs,
            stderr=subprocess.PIPE,
            env={**environment(broker_url, tmp_path), "TERM": "dumb"},
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert b"SERVICE" in os.read(ours, 4096)
    finally:
        os.close(ours)
        os.close(theirs)


def test_list_says_on_stderr_that_there_is_nothing(own_broker: tuple[str, object], mesh: Run):
    url, _ = own_broker
    assert mesh("list", "-b", url) == (0, "[]\n", "")
    assert mesh("list", "-b", url, "-o", "table") == (0, "", "no service is connected\n")


def test_describe_shows_instances_methods_and_types(mesh: Run):
    out = mesh("describe", "desk", "-o", "table").out
    limits = "0 of 1000 at once, 100000 a second"
    found = rf"^desk-1 +desk +1\.4\.2 +100 +zone=eu-1 +0 +{limits}"
    assert re.search(found, out, re.MULTILINE)
    assert "\n  total(Order) -> integer  [request-response, idempotent]\n" in out
    assert "\n      Return what an order costs.\n" in out
    assert "\n  count(integer) -> {*: integer}  [request-stream]\n" in out
    assert "\n  note(string)  [fire-and-forget]\n" in out
    assert "Order: {sku: string, quantity?: integer = 1, note?: string | null}\n" in out


def test_describe_as_json_has_the_schemas(mesh: Run):
    document = mesh("describe", "desk").json
    (instance,) = document["instances"]
    assert instance["instance"] == "desk-1"
    assert instance["methods"]["total"]["output"] == {"type": "integer"}


def test_describe_knows_the_services_of_the_broker(mesh: Run):
    assert "watch()  [request-stream]" in mesh("describe", "mesh.registry", "-o", "table").out


def test_describe_of_what_nobody_serves_is_a_remote_error(mesh: Run):
    result = mesh("describe", "nobody")
    assert result.code == 1
    assert "nobody serves 'nobody'" in result.err


def test_ping_says_who_answers_and_how_fast(mesh: Run, broker_url: str):
    found = mesh("ping", "--count", "3").json
    assert found["url"] == broker_url
    assert found["broker"] == "rsocket-broker"
    assert found["status"] == "serving"
    assert found["count"] == 3
    assert 0 < found["min_ms"] <= found["avg_ms"] <= found["max_ms"]


def test_ping_shows_people_each_round_trip(mesh: Run):
    lines = mesh("ping", "-n", "2", "-o", "table").out.splitlines()
    assert re.fullmatch(
        r"tcp://\S+: rsocket-broker \S+ \(ready\), connected in [\d.]+ ms", lines[0]
    )
    assert [line.split()[:2] for line in lines[1:3]] == [["1:", "serving"], ["2:", "serving"]]
    assert re.fullmatch(r"min/avg/max [\d.]+/[\d.]+/[\d.]+ ms", lines[3])


def test_ctrl_c_ends_a_ping_with_the_figures_so_far(broker_url: str, tmp_path: Path):
    command = [*COMMAND, "ping", "--count", "1000", "-o", "table"]
    with running(*command, env=environment(broker_url, tmp_path)) as process:
        process.wait_for_line("^2: serving")
        process.signal(signal.SIGINT)
        assert process.wait() == 0
        assert process.lines()[-1].startswith("min/avg/max ")
