"""Log lines: one per record whatever is in it, and few of them however many bad peers come."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.config import LogConfig
from broker.observe.logs import OncePer, as_json, as_text, configure


def a_record(message: str, *args: object, **extra: object) -> logging.LogRecord:
    record = logging.makeLogRecord(extra)
    record.name, record.levelno, record.levelname = "broker.link", logging.WARNING, "WARNING"
    record.msg, record.args, record.created = message, args, 1_700_000_000.25
    return record


@pytest.fixture
def untouched_logging() -> Iterator[None]:
    """Put back what `configure` changes for the whole process."""
    loggers = [logging.getLogger(name) for name in (None, "aiohttp", "asyncio")]
    before = [(logger, logger.level, logger.handlers[:]) for logger in loggers]
    yield
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


def test_a_text_line_says_when_how_bad_who_and_what():
    line = as_text(a_record("refused %s", "SETUP", peer="tcp 127.0.0.1:5", code=3))
    assert line == (
        "2023-11-14T22:13:20.250Z WARNING broker.link: refused SETUP peer=tcp 127.0.0.1:5 code=3"
    )


def test_a_json_line_says_the_same_in_keys():
    assert json.loads(as_json(a_record("refused %s", "SETUP", peer="tcp 1"))) == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "warning",
        "logger": "broker.link",
        "message": "refused SETUP",
        "peer": "tcp 1",
    }


def test_an_extra_field_cannot_replace_what_the_broker_says():
    entry = json.loads(as_json(a_record("true", level="info", time="never")))
    assert (entry["level"], entry["time"]) == ("warning", "2023-11-14T22:13:20.250Z")


@given(message=st.text(), extra=st.text())
def test_no_peer_can_forge_a_second_line_or_paint_the_terminal(message, extra):
    for write in (as_text, as_json):
        line = write(a_record("%s", message, peer=extra))
        assert len(line.splitlines()) == 1
        assert "\x1b" not in line


def test_a_traceback_follows_indented_in_text_and_as_a_key_in_json():
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        record = a_record("failed")
        record.exc_info = sys.exc_info()
    first, *trace = as_text(record).splitlines()
    assert first.endswith("failed")
    assert trace
    assert all(line.startswith("    ") for line in trace)
    assert "ValueError: first" in json.loads(as_json(record))["traceback"]


@pytest.mark.usefixtures("untouched_logging")
def test_configure_sends_everything_from_its_level_on_to_one_stream():
    stream = io.StringIO()
    configure(LogConfig(level="warning", format="json"), io.StringIO())
    configure(LogConfig(level="info", format="json"), stream)
    logging.getLogger("broker.x").info("seen")
    logging.getLogger("broker.x").debug("not seen")
    logging.getLogger("aiohttp.server").info("not seen either")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["seen"]


def test_a_key_passes_once_per_period_and_the_next_line_tells_how_many_did_not():
    once = OncePer(seconds=60, keys=10)
    assert once.admit("a", 0) == 0
    assert once.admit("a", 1) is None
    assert once.admit("a", 59.9) is None
    assert once.admit("b", 59.9) == 2
    assert once.admit("a", 60) == 0


def test_a_flood_of_different_keys_passes_as_few_lines_as_keys_are_remembered():
    once = OncePer(seconds=60, keys=3)
    passed = [once.admit(f"peer {number}", number / 1000) for number in range(5000)]
    assert [number for number, left_out in enumerate(passed) if left_out is not None] == [0, 1, 2]
    assert once.admit("later", 60) == 4997


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0, 30)), max_size=60),
    st.integers(1, 4),
)
def test_no_period_has_more_lines_than_keys_and_none_is_forgotten(arrivals, keys):
    once, now, passed, told = OncePer(seconds=60, keys=keys), 0.0, [], 0
    for key, pause in arrivals:
        now += pause
        left_out = once.admit(key, now)
        if left_out is not None:
            passed.append((key, now))
            told += left_out
    for _, start in passed:
        inside = [key for key, at in passed if start <= at < start + 60]
        assert len(inside) <= keys
        assert len(inside) == len(set(inside))
    waiting = once.admit("the end", now + 61)  # 60 would be 59.99... for some sums
    assert len(passed) + told + (waiting or 0) == len(arrivals)
