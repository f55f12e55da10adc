"""`rsocket-mesh conformance`, as a shell runs it against a real broker and against nobody."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

from tests.rsocket_mesh.cli.conftest import Run


def test_a_broker_passes_and_every_requirement_is_reported(mesh: Run, broker_url: str) -> None:
    done = mesh("conformance", broker_url, "--as", "broker", "-o", "json", "--timeout", "20")
    assert done.code == 0, done.out + done.err
    assert len(done.lines) == 150
    assert {line["verdict"] for line in done.lines} == {"passed", "not applicable"}
    assert sum(line["verdict"] == "passed" for line in done.lines) > 90
    assert all(line["reason"] for line in done.lines if line["verdict"] == "not applicable")


def test_a_server_that_fails_is_exit_code_1_and_says_what_came(
    mesh: Run, broker_url: str, tmp_path: Path
) -> None:
    # Without `--as broker` it is any server, and it does not serve what --route claims.
    done = mesh(
        "conformance", broker_url, "--only", "c-01,C-27", "--route", "echo", "-o", "table",
        "--junit", "report.xml", "--timeout", "2",
    )  # fmt: skip
    assert done.code == 1
    assert "✗ C-01" in done.out
    assert "NO_ROUTE" in done.out
    assert "✓ 1 passed   ✗ 1 failed" in done.out
    suite = ET.parse(tmp_path / "report.xml").getroot()[0]
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")


def test_a_section_is_tried_alone(mesh: Run, broker_url: str) -> None:
    done = mesh("conformance", broker_url, "--section", "extensions", "-o", "json")
    assert [line["id"] for line in done.lines] == [f"C-{n}" for n in range(126, 136)]
    assert done.code == 0


def test_nobody_there_is_exit_code_3_and_one_line(mesh: Run, unused_port: int) -> None:
    for scheme in ("tcp", "ws", "tls"):
        done = mesh("conformance", f"{scheme}://127.0.0.1:{unused_port}")
        assert done.code == 3
        assert done.err.count("\n") == 1
        assert "no server at" in done.err


def test_a_server_of_another_protocol_is_no_server(mesh: Run, broker_url: str) -> None:
    done = mesh("conformance", broker_url.replace("tcp", "ws"))
    assert done.code == 3
    assert "Traceback" not in done.err


def test_wrong_usage_says_what_there_is(mesh: Run) -> None:
    for arguments, text in (
        (("nothing",), "no scheme"),
        (("memory://x",), "only its own process"),
        (("tcp://127.0.0.1:1", "--only", "C-151"), "C-01 to C-150"),
        (("tcp://127.0.0.1:1", "--section", "colour"), "framing"),
        (("tcp://127.0.0.1:1", "--route", "dance=x"), "the behaviours are echo"),
        (("tcp://127.0.0.1:1", "--as", "broker", "--route", "echo=x"), "its own application"),
        (("tcp://127.0.0.1:1", "--junit", "no/such/folder.xml"), "no folder"),
    ):
        done = mesh("conformance", *arguments)
        assert done.code == 2, arguments
        assert text in done.err
        assert done.err.count("\n") == 1
