"""Saved contexts: what is chosen, what is refused, and what the file looks like."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.rsocket_mesh.cli.conftest import Result

Run = Callable[..., Result]


def saved(home: Path) -> Path:
    return home / "rsocket-mesh" / "contexts.json"


def test_a_context_in_use_takes_the_place_of_the_option(mesh: Run, broker_url: str):
    assert mesh("context", "add", "dev", "--broker", broker_url, "--use") == (0, "", "")
    assert mesh("call", "desk.hello", broker="").json == "hello"


def test_a_named_context_wins_over_the_environment(mesh: Run, broker_url: str, unused_port: int):
    dead = f"tcp://127.0.0.1:{unused_port}"
    mesh("context", "add", "good", "--broker", dead, "--broker", broker_url)
    mesh("context", "add", "bad", "--broker", dead)
    assert mesh("call", "desk.hello", "--context", "good", broker=dead).code == 0
    assert mesh("call", "desk.hello", "--context", "bad").code == 3


def test_the_environment_wins_over_the_context_in_use(mesh: Run, unused_port: int):
    mesh("context", "add", "bad", "--broker", f"tcp://127.0.0.1:{unused_port}", "--use")
    assert mesh("call", "desk.hello").code == 0
    assert mesh("call", "desk.hello", broker="").code == 3


def test_contexts_are_listed_used_and_removed(mesh: Run, tmp_path: Path):
    mesh("context", "add", "a", "--broker", "tcp://a:1", "--use")
    mesh("context", "add", "b", "--broker", "tcp://b:1", "--broker", "ws://b:2/x")
    assert mesh("context", "use", "b").code == 0
    assert mesh("context", "list").json == {
        "current": "b",
        "contexts": {
            "a": {"brokers": ["tcp://a:1"]},
            "b": {"brokers": ["tcp://b:1", "ws://b:2/x"]},
        },
    }
    table = mesh("context", "list", "-o", "table").out.splitlines()
    assert [line.split() for line in table] == [
        ["CONTEXT", "BROKERS"],
        ["a", "tcp://a:1"],
        ["*", "b", "tcp://b:1", "ws://b:2/x"],
    ]
    assert mesh("context", "remove", "b").code == 0
    assert mesh("context", "list").json["current"] == ""
    assert stat.S_IMODE(saved(tmp_path).stat().st_mode) == 0o600
    assert [file.name for file in saved(tmp_path).parent.iterdir()] == ["contexts.json"]


def test_an_empty_list_says_on_stderr_how_to_begin(mesh: Run):
    result = mesh("context", "list", "-o", "table")
    assert (result.code, result.out) == (0, "")
    assert "context add" in result.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("context", "use", "absent"), "no context 'absent'; there are: none is saved"),
        (("context", "remove", "absent"), "no context 'absent'"),
        (("list", "--context", "absent"), "no context 'absent'"),
        (("list", "--context", "a", "--broker", "tcp://a:1"), "exclude each other"),
        (("context", "add", "a b", "--broker", "tcp://a:1"), "a name is 1 to 64 of"),
        (("context", "add", "a", "--broker", "a:1"), "expected tcp://host:port"),
        (("context", "add", "a"), "Missing option '--broker'"),
    ],
)
def test_wrong_contexts_are_wrong_usage(mesh: Run, arguments: tuple[str, ...], said: str):
    result = mesh(*arguments)
    assert (result.code, result.out) == (2, "")
    assert said in result.err


@pytest.mark.parametrize("content", ["{", '{"contexts": []}', '{"curent": ""}'])
def test_a_damaged_file_is_named_and_left_alone(mesh: Run, tmp_path: Path, content: str):
    file = saved(tmp_path)
    file.parent.mkdir()
    file.write_text(content)
    for arguments in (("list",), ("context", "add", "a", "--broker", "tcp://a:1")):
        result = mesh(*arguments, broker="")
        assert result.code == 2
        assert str(file) in result.err
    assert file.read_text() == content
    assert json.loads(mesh("list").out)  # the environment says another broker: no file is needed
