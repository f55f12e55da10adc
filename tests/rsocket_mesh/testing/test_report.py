"""What the three readers of a run get: JUnit, JSON and Markdown, whatever the server wrote."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from rsocket_mesh.protocol import frames as f
from rsocket_mesh.testing.conformance import (
    REQUIREMENTS,
    Outcome,
    Report,
    Verdict,
    to_document,
    to_junit,
    to_markdown,
)
from rsocket_mesh.testing.conformance.seen_frame import SeenFrame

HOSTILE = "<b>\0\x1b[31m]]>& |\n\ud800"
PASSED = Outcome(REQUIREMENTS["C-01"], Verdict.PASSED, 0.25)
FAILED = Outcome(
    REQUIREMENTS["C-02"], Verdict.FAILED, 0.5, "a case", "an answer", HOSTILE, ("-> a", "<- b")
)
DIFFERS = Outcome(REQUIREMENTS["C-06"], Verdict.DIFFERS, 0.0, "a case", "an end", "nothing")
NOT_TRIED = Outcome(REQUIREMENTS["C-26"], Verdict.NOT_APPLICABLE, reason="about who dials")
REPORT = Report("a server", (PASSED, FAILED, DIFFERS, NOT_TRIED))


def test_junit_counts_and_names_what_came_whatever_characters_it_has() -> None:
    suite = ET.fromstring(to_junit(REPORT))[0]
    counts = {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "4", "failures": "1", "errors": "0", "skipped": "2"}
    assert suite.get("time") == "0.750"
    names = [case.get("name", "").split()[0] for case in suite]
    assert names == ["C-01", "C-02", "C-06", "C-26"]
    assert [[child.tag for child in case] for case in suite] == [
        [],
        ["failure"],
        ["skipped"],
        ["skipped"],
    ]
    text = suite[1][0].text or ""
    assert "an answer" in text
    assert "<b>" in text
    assert "<- b" in text


def test_json_says_why() -> None:
    assert to_document(PASSED)["verdict"] == "passed"
    failed = to_document(FAILED)
    assert (failed["expected"], failed["came"]) == ("an answer", HOSTILE)
    assert to_document(NOT_TRIED)["reason"] == "about who dials"


def test_the_page_has_every_requirement_and_every_reason_and_no_times() -> None:
    outcomes = {o.requirement.id: o for o in REPORT.outcomes}
    whole = tuple(
        outcomes.get(name, PASSED._replace(requirement=requirement))
        for name, requirement in REQUIREMENTS.items()
    )
    page = to_markdown([Report("a server", whole)])
    assert page == to_markdown([Report("a server", tuple(o._replace(seconds=9) for o in whole))])
    for name in REQUIREMENTS:
        assert f"| {name} |" in page
    assert "- C-26: about who dials" in page
    assert "**FAILED**" in page


@pytest.mark.parametrize(
    ("frame", "text"),
    [
        (f.encode_request(f.REQUEST_RESPONSE, 1, None, b"hi"), "REQUEST_RESPONSE(1, b'hi')"),
        (
            f.encode_request(f.REQUEST_CHANNEL, 7, b"md", b"", 16, complete=True),
            "REQUEST_CHANNEL(7, CM, n=16, metadata of 2, b'')",
        ),
        (f.encode_payload(1, None, b"x" * 30, complete=True), None),
        (f.encode_error(0, 0x101, "over"), "ERROR(0, CONNECTION_ERROR, 'over')"),
        (f.encode_error(3, 0x301, "own"), "ERROR(3, 0x301, 'own')"),
        (f.encode_keepalive(True, 7, b"d"), "KEEPALIVE(0, R, position=7, b'd')"),
        (f.encode_lease(f.Lease(1000, 5)), "LEASE(0, ttl=1000 ms, requests=5)"),
        (f.encode_request_n(1, 5), "REQUEST_N(1, n=5)"),
        (bytes.fromhex("000000003e00"), "type 0x0f(0, I, 6 bytes)"),
        (bytes.fromhex("0000000111000000646162"), "REQUEST_RESPONSE(1, M, b'\\x00\\x00dab')"),
        (b"\0\1", "2 bytes: 00 01"),
        (b"", "0 bytes: "),
    ],
)
def test_a_frame_is_shown_as_people_read_it(frame: bytes, text: str | None) -> None:
    shown = str(SeenFrame(frame))
    assert shown == text or (text is None and shown.endswith("... 30 bytes)"))
