"""How a knob of the configuration is declared, described, and read.

A knob is a field of a `msgspec.Struct` whose annotation carries its bounds, its unit and its
reason. The page that `--print-config` prints, the check of a value, and the words of an error all
come from that one place.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import typing
from collections.abc import Iterable
from functools import cache
from typing import Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta, Struct

from rsocket_mesh.errors import RSocketError

UNITS: Final[dict[str, dict[str, float]]] = {
    "bytes": {
        "B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30,
    },
    "seconds": {"ms": 0.001, "s": 1, "min": 60, "h": 3600},
}  # fmt: skip
KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB
_QUANTITY: Final = re.compile(r"\s*(\d[\d_]*(?:\.\d+)?)\s*([A-Za-z]*)\s*")
_MAX_SHOWN: Final = 60  # characters of a wrong value that an error repeats


class ConfigError(RSocketError):
    """The configuration cannot be used; the text says where, what, and what is allowed.

    Attributes:
        path: the key it is about, relative to the struct that refused it.
    """

    def __init__(self, text: str, *path: str | int) -> None:
        super().__init__(text)
        self.path = path


def size(reason: str, low: int, high: int) -> Meta:
    """Declare a number of bytes."""
    return Meta(ge=low, le=high, description=reason, extra={"unit": "bytes"})


def seconds(reason: str, low: float, high: float) -> Meta:
    """Declare a length of time."""
    return Meta(ge=low, le=high, description=reason, extra={"unit": "seconds"})


def count(reason: str, low: int, high: int) -> Meta:
    """Declare a whole number of things."""
    return Meta(ge=low, le=high, description=reason)


def about(reason: str) -> Meta:
    """Declare a text, a list, a choice, a switch or a table: what has no unit."""
    return Meta(description=reason)


class Knob(NamedTuple):
    """One field of a config struct. `default` is `msgspec.NODEFAULT` where there is none."""

    name: str
    type: Any  # as declared, with its bounds; typing forms have no common type
    plain: Any  # without them
    meta: Meta
    default: object

    @property
    def unit(self) -> str | None:
        return (self.meta.extra or {}).get("unit")

    @property
    def table(self) -> type[Struct] | None:
        """The struct if this is a table or an array of tables."""
        kind = self.item if self.is_array else self.plain
        return kind if isinstance(kind, type) and issubclass(kind, Struct) else None

    @property
    def is_array(self) -> bool:
        return typing.get_origin(self.plain) is tuple

    @property
    def item(self) -> Any:  # a typing form again
        return typing.get_args(self.plain)[0]

    @property
    def is_verbatim(self) -> bool:
        """Whether an environment variable holds the value as it is, without TOML's quotes."""
        is_choice = typing.get_origin(self.plain) is Literal
        return self.plain is str or self.unit is not None or is_choice

    def allowed(self) -> str:
        """Say what a value may be, in words that fit behind "expected"."""
        low, high = _number(self.meta.ge), _number(self.meta.le)
        if self.unit == "bytes":
            return f'{low} to {high} bytes: a whole number, or a text such as "64 KiB"'
        if self.unit == "seconds":
            return f'{low} to {high} seconds: a number, or a text such as "500 ms"'
        if typing.get_origin(self.plain) is Literal:
            return "one of " + ", ".join(map(toml, typing.get_args(self.plain)))
        if self.table is not None:
            return "an array of tables" if self.is_array else "a table"
        if self.is_array:
            return "a list of texts"
        return {str: "a text", bool: "true or false"}.get(
            self.plain, f"a whole number from {low} to {high}"
        )

    def read(self, value: object) -> Any:  # its type is `plain`, which no type checker can follow
        """Return *value*, as TOML or a variable gave it, as the struct wants it.

        Raises:
            ConfigError: wrong type, unknown unit, out of bounds.
        """
        try:
            if self.unit is not None and isinstance(value, str):
                value = _quantity(value, self.unit, whole=self.plain is int)
            return msgspec.convert(value, self.type)
        except msgspec.ValidationError:
            raise ConfigError(f"expected {self.allowed()}; got {shown(value)}") from None


@cache
def knobs(kind: type[Struct]) -> dict[str, Knob]:
    """Return the knobs of a config struct by name, in the order in which they are declared."""
    declared = typing.get_type_hints(kind, include_extras=True)
    found: dict[str, Knob] = {}
    for field in msgspec.structs.fields(kind):
        full = declared[field.name]
        plain, meta = typing.get_args(full)[:2]
        found[field.name] = Knob(field.name, full, plain, meta, field.default)
    return found


def suggest(word: str, known: Iterable[str]) -> str:
    """Return ` (did you mean ...?)` for the known word closest to *word*, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def toml(value: object) -> str:
    """Write *value* as TOML would."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key} = {toml(item)}' for key, item in value.items())}}}"
    return str(value)


def shown(value: object) -> str:
    """Write *value* for an error: as in the file, and not longer than a person wants to read."""
    text = toml(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def _quantity(text: str, unit: str, *, whole: bool) -> int | float:
    units = UNITS[unit]
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise ConfigError(f"{shown(text)} is not a number with a unit ({', '.join(units)})")
    number, name = match[1].replace("_", ""), match[2]
    if name and name not in units:
        hint = suggest(name, units)
        raise ConfigError(f"unknown unit in {shown(text)}{hint}; known are {', '.join(units)}")
    amount = float(number) * units.get(name, 1)
    if not whole:
        return amount
    if not math.isfinite(amount) or amount != int(amount):
        raise ConfigError(f"{shown(text)} is not a whole number of {unit}")
    return int(amount)


def _number(bound: float | None) -> str:
    return "" if bound is None else f"{bound:.15g}"
