"""On which line of a TOML text each key stands.

`tomllib` reads a file into dictionaries and forgets the lines; an operator who made a mistake
wants the line. This scanner walks over a text that `tomllib` has already accepted, so it checks
nothing: it only has to know where strings, comments and brackets end.
Source: TOML 1.0.0, the grammar of keys, strings, arrays and tables.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from typing import Final, TypeAlias

KeyPath: TypeAlias = tuple[str | int, ...]

_BLANK: Final = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE: Final = re.compile(r"[ \t]*")
_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")
# A text over several lines may end in up to two quotes of its own, in front of the closing three.
_STRING: Final = re.compile(
    r"""
    \"{3} (?: \\. | [^\\] )*? \"{3} \"{0,2} |
     '{3}         .         *?  '{3}  '{0,2} |
    \"    (?: \\. | [^"\\] )*  \"            |
     '             [^']      *   '
    """,
    re.DOTALL | re.VERBOSE,
)
_SCALAR: Final = re.compile(r"[^,\]}#\n]*")  # numbers, booleans; dates may hold a space


def key_lines(text: str) -> dict[KeyPath, int]:
    """Return the line, counted from 1, on which each table, key and array item first appears.

    An item of an array, written as `[...]` or as `[[tables]]`, has its index in the path.

    Args:
        text: a document that `tomllib.loads` accepts; for others the answer is meaningless.
    """
    scanner = _Scanner(text)
    scanner.document()
    return scanner.lines


class _Scanner:
    def __init__(self, text: str) -> None:
        self.lines: dict[KeyPath, int] = {}
        self._text = text
        self._at = 0
        self._line_ends = [match.start() for match in re.finditer("\n", text)]
        self._last_item: dict[KeyPath, int] = {}  # array of tables -> index of its newest table

    def document(self) -> None:
        table: KeyPath = ()
        while self._skip(_BLANK):
            if self._text.startswith("[[", self._at):
                table = self._array_header()
            elif self._text.startswith("[", self._at):
                table = self._table_header()
            else:
                self._pair(table)

    def _array_header(self) -> KeyPath:
        start = self._at
        self._at += len("[[")
        *parents, name = self._key()
        array = (*self._resolve(parents), name)
        self._note(array, start)
        index = self._last_item[array] = self._last_item.get(array, -1) + 1
        self._note((*array, index), start)
        self._skip(_SPACE)
        self._at += len("]]")
        return (*array, index)

    def _table_header(self) -> KeyPath:
        start = self._at
        self._at += len("[")
        table = self._resolve(self._key())
        for size in range(1, len(table) + 1):
            self._note(table[:size], start)
        self._skip(_SPACE)
        self._at += len("]")
        return table

    def _resolve(self, names: list[str]) -> KeyPath:
        """A header's names mean the newest table of each array of tables on their way."""
        path: KeyPath = ()
        for name in names:
            path = (*path, name)
            if path in self._last_item:
                path = (*path, self._last_item[path])
        return path

    def _pair(self, table: KeyPath) -> None:
        start = self._at
        path = table
        for name in self._key():
            path = (*path, name)
            self._note(path, start)
        self._skip(_SPACE)
        self._at += len("=")
        self._value(path)

    def _key(self) -> list[str]:
        names: list[str] = []
        while True:
            self._skip(_SPACE)
            if bare := _BARE_KEY.match(self._text, self._at):
                names.append(bare[0])
                self._at = bare.end()
            else:
                names.append(_unquote(self._take(_STRING)))
            self._skip(_SPACE)
            if not self._text.startswith(".", self._at):
                return names
            self._at += len(".")

    def _value(self, path: KeyPath) -> None:
        self._skip(_SPACE)
        match self._text[self._at]:
            case '"' | "'":
                self._take(_STRING)
            case "[":
                self._items(path)
            case "{":
                self._inline_table(path)
            case _:
                self._take(_SCALAR)

    def _items(self, path: KeyPath) -> None:
        self._at += len("[")
        index = 0
        while self._skip(_BLANK) and self._text[self._at] != "]":
            self._note((*path, index), self._at)
            self._value((*path, index))
            index += 1
            self._skip_comma()
        self._at += len("]")

    def _inline_table(self, path: KeyPath) -> None:
        self._at += len("{")
        while self._skip(_BLANK) and self._text[self._at] != "}":
            self._pair(path)
            self._skip_comma()
        self._at += len("}")

    def _skip_comma(self) -> None:
        self._skip(_BLANK)
        if self._text.startswith(",", self._at):
            self._at += len(",")

    def _skip(self, pattern: re.Pattern[str]) -> bool:
        """Pass over *pattern*, which may be empty; return whether anything is left behind it."""
        self._take(pattern)
        return self._at < len(self._text)

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise ValueError(f"not TOML at character {self._at}: tomllib must accept it first")
        self._at = match.end()
        return match[0]

    def _note(self, path: KeyPath, at: int) -> None:
        self.lines.setdefault(path, bisect_right(self._line_ends, at - 1) + 1)


_ESCAPE: Final = re.compile(r"\\(?:U([0-9A-Fa-f]{8})|(.))", re.DOTALL)


def _unquote(key: str) -> str:
    if key[0] == "'":
        return key[1:-1]
    # JSON has the escapes of a one-line TOML text, save the eight-digit one; and it forbids a tab
    # that TOML allows.
    body = _ESCAPE.sub(lambda m: json.dumps(chr(int(m[1], 16)))[1:-1] if m[1] else m[0], key)
    text = json.loads(body, strict=False)
    assert isinstance(text, str)
    return text
