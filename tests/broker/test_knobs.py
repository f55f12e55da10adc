"""How the value of one knob is read, and what an error about it says."""

from __future__ import annotations

import math
import tomllib
from contextlib import suppress
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from broker.knobs import ConfigError, about, count, knobs, seconds, size, toml


class Example(Struct):
    room: Annotated[int, size("r", 0, 1 << 40)] = 0
    wait: Annotated[float, seconds("w", 0, 3600)] = 0.0
    number: Annotated[int, count("n", 1, 9)] = 1
    name: Annotated[str, about("a")] = ""
    names: Annotated[tuple[str, ...], about("b")] = ()
    switch: Annotated[bool, about("s")] = False
    choice: Annotated[Literal["red", "blue"], about("c")] = "red"


@pytest.mark.parametrize(
    ("name", "written", "meant"),
    [
        ("room", 512, 512),
        ("room", "512", 512),
        ("room", "64 KiB", 65536),
        ("room", "1.5MiB", 1572864),
        ("room", "2 MB", 2_000_000),
        ("wait", 2, 2.0),
        ("wait", "500 ms", 0.5),
        ("wait", "1.5 min", 90.0),
        ("wait", "1h", 3600.0),
        ("number", 9, 9),
        ("names", ["a", "b"], ("a", "b")),
        ("switch", True, True),
        ("choice", "blue", "blue"),
    ],
)
def test_a_value_is_read_in_its_unit(name, written, meant):
    value = knobs(Example)[name].read(written)
    assert value == meant
    assert type(value) is type(meant)


@pytest.mark.parametrize(
    ("name", "written", "text"),
    [
        ("room", "64 KB", r'unknown unit in "64 KB" \(did you mean KiB\?\); known are B, kB, MB'),
        ("room", "lots", '"lots" is not a number with a unit'),
        ("room", "0.5 B", "not a whole number of bytes"),
        ("room", 1.5, r"expected 0 to 1099511627776 bytes: .*; got 1\.5"),
        ("room", -1, "got -1"),
        ("room", True, "got true"),
        ("wait", "5 sec", r'unknown unit in "5 sec".*known are ms, s, min, h'),
        ("wait", "2 h", "expected 0 to 3600 seconds"),
        ("wait", math.nan, "got nan"),
        ("wait", math.inf, "got inf"),
        ("number", 10, "expected a whole number from 1 to 9; got 10"),
        ("number", "5", 'got "5"'),
        ("name", 5, "expected a text; got 5"),
        ("names", "a", r'expected a list of texts; got "a"'),
        ("names", ["a", 1], r'got \["a", 1\]'),
        ("switch", "yes", "expected true or false"),
        ("choice", "green", 'expected one of "red", "blue"; got "green"'),
        ("name", {"a": "x" * 1000}, r'got \{a = "x{54}\.\.\.$'),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_allowed(name, written, text):
    with pytest.raises(ConfigError, match=text):
        knobs(Example)[name].read(written)


@given(st.text())
def test_any_text_for_a_quantity_is_read_or_refused_in_words(text):
    for name in ("room", "wait"):
        with suppress(ConfigError):
            assert knobs(Example)[name].read(text) >= 0


@given(st.lists(st.text() | st.integers() | st.booleans()))
def test_a_value_is_written_as_toml_reads_it(values):
    assert tomllib.loads(f"a = {toml(values)}") == {"a": values}
