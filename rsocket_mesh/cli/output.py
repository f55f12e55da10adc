"""Results on stdout: JSON lines for programs, tables for people, bytes as they are.

What a service answers is foreign text: tables show control characters as escapes, so that an
answer cannot move the cursor or retitle the terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import msgspec

from rsocket_mesh.cli.failures import AnswerError

if TYPE_CHECKING:
    from rich.console import Console

Mode = Literal["table", "json", "bytes"]

_PIPED_WIDTH: Final = 10_000  # columns; a table that goes into a file is not cut to a terminal's
_MAX_COLUMN: Final = 40  # columns that one field of a stream's items is padded to, at most
_MAX_FIELDS: Final = 12  # more fields than that do not fit side by side


class Printer:
    """Prints the results of one command.

    Attributes:
        mode: `json` is one document per line; `bytes` is for values that are bytes.
    """

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self._fields: tuple[str, ...] | None = None
        self._widths: list[int] = []
        self._console: Console | None = None

    @classmethod
    def of(cls, chosen: Mode | None, default: Mode | None = None) -> Self:
        """Return a printer: as the user chose, else *default*, else as stdout suggests."""
        return cls(chosen or default or ("table" if sys.stdout.isatty() else "json"))

    def value(self, value: Any) -> None:
        """Print the one result of a command; raises `AnswerError` if it has no form in JSON."""
        if self.mode != "table":
            self.item(value)
        elif isinstance(value, dict) and value:
            self.table(("field", "value"), [(key, value[key]) for key in value])
        elif (fields := _common_fields(value)) is not None:
            self.table(fields, [[row[field] for field in fields] for row in value])
        elif isinstance(value, list | dict):
            self.line(msgspec.json.format(to_json(value)).decode())
        else:
            self.line(cell(value))

    def item(self, value: Any) -> None:
        """Print one of many results as it comes; tables get a new head when the fields change."""
        if self.mode == "json":
            self._write(to_json(value))
            return
        if self.mode == "bytes":
            self._write(value)
            return
        if isinstance(value, dict) and 0 < len(value) <= _MAX_FIELDS:
            fields = tuple(map(str, value))
            cells = [cell(part, nested=True) for part in value.values()]
        else:
            fields, cells = ("item",), [cell(value, nested=True)]
        if fields != self._fields:
            self._fields = fields
            sizes = (max(len(a), len(b)) for a, b in zip(fields, cells, strict=True))
            self._widths = [min(size, _MAX_COLUMN) for size in sizes]
            self._columns([cell(field) for field in fields])
        self._columns(cells)

    def table(self, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Print a table for people."""
        from rich.console import Console  # here: only tables need it
        from rich.table import Table
        from rich.text import Text

        if self._console is None:
            width = None if sys.stdout.isatty() else _PIPED_WIDTH
            self._console = Console(width=width, markup=False, highlight=False)
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in head:
            table.add_column(Text(cell(name)), overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell(value, nested=True)) for value in row))
        sys.stdout.flush()
        self._console.print(table)

    def line(self, text: str) -> None:
        """Print a line of text that is known to be harmless."""
        self._write(text.encode(errors="backslashreplace"))

    def _columns(self, cells: Sequence[str]) -> None:
        padded = (text.ljust(width) for text, width in zip(cells, self._widths, strict=True))
        self.line("  ".join(padded).rstrip())

    def _write(self, line: bytes) -> None:
        sys.stdout.flush()
        sys.stdout.buffer.write(line + b"\n")
        sys.stdout.buffer.flush()


def to_json(value: Any) -> bytes:
    """Return *value* as compact JSON; raises `AnswerError` if it has no form there."""
    try:
        return msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as exc:
        raise AnswerError(f"the answer has no form in JSON: {exc}; try --codec raw") from exc


def cell(value: Any, *, nested: bool = False) -> str:
    """Return *value* as harmless text; inside a table (*nested*) it is one line."""
    if isinstance(value, str):
        text = value
    elif value is None:
        text = "" if nested else "null"
    else:
        text = to_json(value).decode()
    allowed = "" if nested else "\n\t"
    return "".join(
        char if char.isprintable() or char in allowed else repr(char)[1:-1] for char in text
    )


def _common_fields(value: Any) -> tuple[str, ...] | None:
    """Return the fields that all elements of a list have, or None if it is no list of records."""
    if not isinstance(value, list) or not value or not isinstance(value[0], dict):
        return None
    fields = tuple(value[0])
    if not 0 < len(fields) <= _MAX_FIELDS:
        return None
    alike = all(isinstance(row, dict) and tuple(row) == fields for row in value)
    return fields if alike else None
