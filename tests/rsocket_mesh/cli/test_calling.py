"""`call`, `stream`, `fire` and `channel` against a real broker and a real service."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.rsocket_mesh.cli.conftest import COMMAND, Result, environment
from tests.support.processes import running

Run = Callable[..., Result]


def one_line(result: Result) -> str:
    """The one line of an error; a traceback or a second line fails."""
    assert result.err.count("\n") == 1, result.err
    assert result.err.startswith("rsocket-mesh: "), result.err
    return result.err


# -- call -----------------------------------------------------------------------------------------


def test_a_call_takes_json_and_prints_one_line_of_json(mesh: Run):
    result = mesh("call", "desk.total", '{"sku": "A1", "quantity": 2}')
    assert result == (0, "6\n", "")


def test_several_parameters_are_an_array(mesh: Run):
    assert mesh("call", "desk.add", "[40, 2]").json == 42


def test_without_json_no_data_is_sent(mesh: Run):
    assert mesh("call", "desk.hello").json == "hello"


def test_an_argument_is_read_from_stdin_or_a_file(mesh: Run, tmp_path: Path):
    (tmp_path / "order.json").write_text('{"sku": "A1"}')
    assert mesh("call", "desk.total", "-", stdin='{"sku": "A1", "quantity": 5}').json == 15
    assert mesh("call", "desk.total", "@order.json").json == 3


def test_values_survive_in_both_codecs(mesh: Run):
    value = {"text": "grüße", "list": [1, 2.5, None, True], "big": 2**63, "empty": {}}
    for codec in ("json", "cbor"):
        assert mesh("call", "desk.echo", json.dumps(value), "--codec", codec).json == value


def test_the_codec_that_a_method_announces_is_used(mesh: Run):
    assert mesh("call", "desk.packed").json == {"came_as": "application/cbor"}


def test_raw_is_bytes_in_and_bytes_out(mesh: Run):
    assert mesh("call", "desk.reverse", "abc", "--codec", "raw") == (0, "cba\n", "")
    assert mesh("call", "desk.reverse", "abc", "--codec", "raw", "-o", "json").json == "cba"
    not_text = mesh("call", "desk.reverse", "-", "--codec", "raw", "-o", "json", stdin=b"\xff\x00")
    assert not_text.json == {"base64": "AP8="}


def test_a_table_for_people_shows_fields_and_escapes_control_characters(mesh: Run):
    assert mesh("call", "desk.escape", "-o", "table").out == "a\\x1b[31mb\n"
    out = mesh("call", "desk.echo", '{"name": "Ada", "tags": ["x"]}', "-o", "table").out
    assert [line.split() for line in out.splitlines()] == [
        ["field", "value"],
        ["name", "Ada"],
        ["tags", '["x"]'],
    ]
    out = mesh("call", "desk.echo", '[{"a": 1, "b": null}, {"a": 2, "b": 3}]', "-o", "table").out
    assert [line.split() for line in out.splitlines()] == [["a", "b"], ["1"], ["2", "3"]]


def test_selectors_choose_among_providers(mesh: Run):
    chosen = ("--version-range", "^1.4", "--instance", "desk-1", "--tag", "zone=eu-1")
    assert mesh("call", "desk.hello", *chosen).code == 0
    for wrong in (
        ("--version-range", "^2"),
        ("--instance", "desk-2"),
        ("--tag", "zone=us"),
        ("--tag", "route=x"),
    ):
        result = mesh("call", "desk.hello", *wrong)
        assert result.code == 1
        assert "NO_ROUTE" in one_line(result)


# -- errors of calls ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("desk.fail", '"no stock"'), "desk.fail: the service failed: ValueError: no stock"),
        (("desk.fail", '"two\\nlines\\u001b[2J"'), "two lines\\x1b[2J"),
        (("desk.refuse",), "OVERLOADED: the desk is full (nothing was done; try again in 250 ms)"),
        (("desk.total", '{"sku": 1}'), "INVALID: $.sku: expected str, got int"),
        (("desk.total", '{"sku": 1}'), "`rsocket-mesh describe desk`"),
        (("desk.nothing",), "NO_ROUTE: 'desk' has no method 'nothing'; it has: add, "),
        (("nobody.home",), "`rsocket-mesh list` shows what there is"),
        (("desk.count", "3"), "is a request-stream, it was called as a request-response"),
        (("desk.reverse", "[1]"), "the answer of 3 bytes is not JSON"),
    ],
)
def test_a_remote_error_is_exit_code_1_and_one_line_that_says_who(
    mesh: Run, arguments: tuple[str, ...], said: str
):
    result = mesh("call", *arguments)
    assert result.code == 1
    assert result.out == ""
    assert said in one_line(result)


def test_no_answer_in_time_is_exit_code_4(mesh: Run):
    result = mesh("call", "desk.sleep", "--timeout", "0.3")
    assert result.code == 4
    # Caller and broker keep the same deadline, and either may be the first to say so.
    assert "desk.sleep: no answer " in one_line(result)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("call",), "Missing argument 'ROUTE'"),
        (("call", "desk.total", "{sku: A1}"), "text needs its own quotes"),
        (("call", "desk.total", "@absent.json"), "@absent.json: No such file"),
        (("call", "desk.hello", "--tag", "zone"), "must be KEY=VALUE"),
        (("call", "desk.hello", "--tag", "version=1"), "use --version-range 1"),
        (("call", "desk.hello", "--tag", "a=1", "--tag", "a=2"), "a is there twice"),
        (("call", "desk.hello", "--tag", "m=1"), "selector 'm' cannot be used"),
        (("call", "desk.hello", "--version-range", "newest"), "--version-range: 'newest'"),
        (("call", ""), "the route is empty"),
        (("call", "desk.hello", "--timeout", "0"), "--timeout"),
        (("call", "desk.hello", "--broker", "localhost"), "no scheme; expected tcp://host:port"),
        (("stream", "desk.count", "1", "--limit", "0"), "--limit"),
        (("channel", "desk.double", "--item", "x"), "item 1: 'x': not JSON"),
        (("frobnicate",), "No such command 'frobnicate'"),
    ],
)
def test_wrong_usage_is_exit_code_2_and_one_line_that_names_the_part(
    mesh: Run, arguments: tuple[str, ...], said: str
):
    result = mesh(*arguments)
    assert result.code == 2
    assert result.out == ""
    assert said in one_line(result)


def test_no_broker_is_exit_code_3_and_says_what_was_tried(mesh: Run, unused_port: int):
    url = f"tcp://127.0.0.1:{unused_port}"
    result = mesh("call", "desk.hello", broker=url)
    assert result.code == 3
    assert url in one_line(result)
    assert "`rsocket-broker` starts one" in result.err


def test_the_first_broker_that_answers_is_used(mesh: Run, unused_port: int, broker_url: str):
    dead = f"tcp://127.0.0.1:{unused_port}"
    assert mesh("call", "desk.hello", "-b", dead, "-b", broker_url, broker="").code == 0
    assert mesh("call", "desk.hello", broker=f"{dead} {broker_url}").code == 0


# -- stream ---------------------------------------------------------------------------------------


def test_a_stream_prints_one_document_per_line(mesh: Run):
    result = mesh("stream", "desk.count", "3")
    assert result.code == 0
    assert result.lines == [{"number": n, "square": n * n} for n in (1, 2, 3)]


def test_a_stream_as_table_has_a_head_and_a_row_per_item(mesh: Run):
    out = mesh("stream", "desk.count", "2", "-o", "table").out
    assert [line.split() for line in out.splitlines()] == [
        ["number", "square"],
        ["1", "1"],
        ["2", "4"],
    ]


def test_the_limit_is_the_demand_so_the_service_never_makes_one_item_more(mesh: Run):
    result = mesh("stream", "desk.made", "--limit", "7")
    assert [item["number"] for item in result.lines] == list(range(1, 8))
    assert mesh("call", "desk.seen").json["made"] == 7


def test_items_before_an_error_are_printed(mesh: Run):
    result = mesh("stream", "desk.breaks")
    assert (result.code, result.out) == (1, "1\n")
    assert "desk.breaks: the service failed: RuntimeError: after one item" in one_line(result)


def test_the_deadline_of_a_stream_is_to_its_first_item(mesh: Run):
    assert mesh("stream", "desk.silence", "--timeout", "0.3").code == 4
    assert mesh("stream", "desk.slow", "--timeout", "0.5").lines == [1, 2, 3]


def cancelled(mesh: Run, name: str) -> bool:
    """Whether the service saw the stream *name* cancelled, within 20 s."""
    deadline = time.monotonic() + 20
    while name not in mesh("call", "desk.seen").json["cancelled"]:
        if time.monotonic() > deadline:
            return False
    return True


def test_ctrl_c_cancels_the_stream_at_the_service(mesh: Run, broker_url: str, tmp_path: Path):
    command = [*COMMAND, "stream", "desk.forever", '"ctrl-c"']
    with running(*command, env=environment(broker_url, tmp_path)) as process:
        process.wait_for_line("^5$")
        process.signal(signal.SIGINT)
        assert process.wait() == 130
        assert "Traceback" not in process.report()
    assert cancelled(mesh, "ctrl-c")


def test_a_reader_that_leaves_cancels_the_stream(mesh: Run, broker_url: str, tmp_path: Path):
    process = subprocess.Popen(
        [*COMMAND, "stream", "desk.forever", '"pipe"'],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(broker_url, tmp_path),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        assert process.stdout.readline() == b"1\n"
        process.stdout.close()
        assert process.wait(60) == 141
        assert process.stderr.read() == b""
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
    assert cancelled(mesh, "pipe")


def test_a_broker_that_goes_away_is_exit_code_3(
    own_broker: tuple[str, Callable[[], int]], mesh: Run
):
    url, kill = own_broker
    watch = [*COMMAND, "stream", "mesh.registry.watch", "--broker", url]
    with running(*watch) as process:
        process.wait_for_line("snapshot")
        kill()
        assert process.wait() == 3
        assert process.lines("stderr")[0].startswith("rsocket-mesh: connection lost")


# -- fire -----------------------------------------------------------------------------------------


def test_fire_prints_nothing_and_arrives(mesh: Run):
    assert mesh("fire", "desk.note", '"one"') == (0, "", "")
    deadline = time.monotonic() + 20
    while "one" not in mesh("call", "desk.seen").json["fired"]:
        assert time.monotonic() < deadline


# -- channel --------------------------------------------------------------------------------------


def test_a_channel_sends_lines_of_stdin_and_prints_the_answers(mesh: Run):
    result = mesh("channel", "desk.double", stdin="1\n2\n\n3")
    assert result == (0, "2\n4\n6\n", "")


def test_a_channel_sends_the_items_given(mesh: Run):
    assert mesh("channel", "desk.double", "--item", "4", "--item", "5").lines == [8, 10]


def test_a_channel_without_items_ends(mesh: Run):
    assert mesh("channel", "desk.double") == (0, "", "")


def test_a_channel_answers_each_line_while_stdin_stays_open(broker_url: str, tmp_path: Path):
    command = [*COMMAND, "channel", "desk.double"]
    with running(*command, env=environment(broker_url, tmp_path)) as process:
        for number in (1, 2, 3):
            process.send_line(str(number))
            process.wait_for_line(f"^{2 * number}$")
        process.signal(signal.SIGINT)
        assert process.wait() == 130


def test_a_line_that_is_not_json_ends_the_channel_and_is_named(mesh: Run):
    result = mesh("channel", "desk.double", stdin="1\n2\nthree\n")
    assert result.code == 2
    assert "stdin line 3: 'three': not JSON" in one_line(result)
