"""The line scanner against `tomllib`: the same keys, each on the line where it was written."""

from __future__ import annotations

import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from broker.toml_lines import KeyPath, key_lines


def flatten(value: Any, path: KeyPath = ()) -> set[KeyPath]:
    """Every table, key and array item of a parsed document."""
    if isinstance(value, dict):
        below = value.items()
    elif isinstance(value, list):
        below = enumerate(value)
    else:
        below = ()
    found = {path} if path else set()
    for key, item in below:
        found |= flatten(item, (*path, key))
    return found


def lines_of(text: str) -> dict[KeyPath, int]:
    lines = key_lines(text)
    assert set(lines) == flatten(tomllib.loads(text))
    return lines


def test_keys_stand_on_their_own_lines_and_tables_on_that_of_their_header():
    text = (
        "# a comment\n\ntop = 1\n[limits]\nframe_bytes = 2 # [not.a.table]\n\n[drain]\ntimeout = 3"
    )
    assert lines_of(text) == {
        ("top",): 3,
        ("limits",): 4,
        ("limits", "frame_bytes"): 5,
        ("drain",): 7,
        ("drain", "timeout"): 8,
    }


def test_each_table_of_an_array_has_its_index():
    text = '[[listeners]]\nurl = "a"\n\n[[listeners]]\nurl = "b"\n[listeners.more]\nx = 1\n'
    assert lines_of(text) == {
        ("listeners",): 1,
        ("listeners", 0): 1,
        ("listeners", 0, "url"): 2,
        ("listeners", 1): 4,
        ("listeners", 1, "url"): 5,
        ("listeners", 1, "more"): 6,
        ("listeners", 1, "more", "x"): 7,
    }


def test_an_array_of_tables_inside_another_counts_anew():
    text = "[[a]]\n[[a.b]]\n[[a.b]]\n[[a]]\n[[a.b]]\nc = 1\n"
    lines = lines_of(text)
    assert lines["a", 0, "b", 1] == 3
    assert lines["a", 1, "b", 0] == 5
    assert lines["a", 1, "b", 0, "c"] == 6


def test_a_dotted_key_puts_its_tables_on_its_line():
    lines = lines_of("[x]\na . \"b.c\" . 'd' = 1\na.e = 2\n")
    assert lines == {
        ("x",): 1,
        ("x", "a"): 2,
        ("x", "a", "b.c"): 2,
        ("x", "a", "b.c", "d"): 2,
        ("x", "a", "e"): 3,
    }


def test_items_of_an_array_over_several_lines_stand_on_their_own():
    text = 'a = [ # ] not yet\n  1,\n  "]", # "\n\n  [2,\n   3],\n]\nb = 1\n'
    lines = lines_of(text)
    assert [lines["a", index] for index in range(3)] == [2, 3, 5]
    assert lines["a", 2, 1] == 6
    assert lines["b",] == 8


def test_keys_of_inline_tables_are_found():
    lines = lines_of('a = [{url = "x", b.c = 1},\n  {url = "}"}, {}]\nd = {e = {f = []}}')
    assert lines["a", 0, "b", "c"] == 1
    assert lines["a", 1, "url"] == 2
    assert lines["d", "e", "f"] == 3


def test_strings_over_several_lines_hide_what_looks_like_keys():
    text = (
        'a = """\nx = 1\n"" \\""" [y]\n"""""\n'
        "b = '''\n[z]\n''''\n"
        'c = ""\nd = """"""\ne = "\\\\"\nf = \'\\\'\ng = 1979-05-27 07:32:00\n'
    )
    lines = lines_of(text)
    assert lines == {
        ("a",): 1, ("b",): 5, ("c",): 8, ("d",): 9, ("e",): 10, ("f",): 11, ("g",): 12,
    }  # fmt: skip


def test_quoted_keys_are_read_with_their_escapes():
    assert lines_of('"\\u00e9\\U0001F600\\t\\"\\\\U" = 1\n"tab\t" = 2\n') == {
        ('\u00e9\U0001f600\t"\\U',): 1,
        ("tab\t",): 2,
    }


def test_windows_line_ends_count_once():
    assert lines_of("a = 1\r\n\r\n[b]\r\nc = 2\r\n")["b", "c"] == 4


BARE = st.text("abcxyz-_09", min_size=1, max_size=4)
STRINGS = st.sampled_from(
    ['"x"', "'y # ['", '"""\n[t]\nk = 1\n"""', "'''\n[[t]]\n'''", '"""a""b"""""', '"\\"]}"']
)
SCALARS = st.one_of(STRINGS, st.sampled_from(["1", "-2.5e3", "true", "inf", "1979-05-27 07:32:00"]))
GAPS = st.sampled_from(["", " ", "\n", " # ] } \" '\n"])


@st.composite
def values(draw: st.DrawFn, depth: int = 2) -> str:
    kind = draw(st.integers(0, 3)) if depth else 0
    if kind == 1:
        items = draw(st.lists(values(depth - 1), max_size=3))
        return "[" + ",".join(draw(GAPS) + item + draw(GAPS) for item in items) + "]"
    if kind == 2:
        keys = draw(st.lists(BARE, unique=True, max_size=3))
        return "{" + ", ".join(f"{key} = {draw(values(depth - 1))}" for key in keys) + "}"
    return draw(SCALARS)


@st.composite
def documents(draw: st.DrawFn) -> tuple[str, dict[KeyPath, int]]:
    """A document and the lines of its tables and keys, known from writing it."""
    text, lines = "", {}

    def write(line: str, *paths: KeyPath) -> None:
        nonlocal text
        for path in paths:
            lines.setdefault(path, text.count("\n") + 1)
        text += line + draw(st.sampled_from(["\n", " # [c]\n", "\n\n"]))

    for name in draw(st.lists(BARE, unique=True, max_size=4)):
        tables: list[KeyPath] = [(name,)]
        if is_array := draw(st.booleans()):
            tables = [(name, index) for index in range(draw(st.integers(1, 3)))]
        for table in tables:
            write(f"[[{name}]]" if is_array else f" [ {name} ]", (name,), table)
            for key in draw(st.lists(BARE, unique=True, max_size=3)):
                write(f"{key} = {draw(values())}", (*table, key))
    return text, lines


@given(documents())
def test_every_key_that_tomllib_finds_has_the_line_on_which_it_was_written(document):
    text, written = document
    lines = lines_of(text)
    assert {path: lines[path] for path in written} == written
