"""Service versions and the ranges that select them.

A version is one to four dotted numbers with an optional `-pre.release` and `+build` part, as
people write them: `2`, `1.4`, `1.4.0-rc.1`. Missing numbers count as 0; build metadata is ignored.
A range is what npm users know: `^1.4`, `~1.4.2`, `>=1.2 <2`, `1.x`, `*`, and `||` between
alternatives; a plain version is an exact match.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from rsocket_mesh.errors import Invalid

MAX_LENGTH: Final = 64  # characters of a version or range; more is no version

_VERSION: Final = re.compile(
    r"v?(\d{1,9}(?:\.\d{1,9}){0,3})(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+[0-9A-Za-z.-]+)?"
)
_TERM: Final = re.compile(r"(\^|~|>=|<=|>|<|=)?\s*([^\s<>=^~|]+)")

# Numbers padded to four, then the pre-release: (1,) for a release sorts behind (0, parts).
Version = tuple[tuple[int, ...], tuple[object, ...]]
_RELEASE: Final[tuple[object, ...]] = (1,)


def parse_version(text: str) -> Version:
    """Return a value that compares as versions do: `1.4.0-rc.1` < `1.4` == `1.4.0` < `1.10`.

    Raises:
        Invalid: *text* is no version.
    """
    match = _VERSION.fullmatch(text) if len(text) <= MAX_LENGTH else None
    if match is None:
        raise Invalid(f"{text[:MAX_LENGTH]!r} is not a version such as 1.4.0")
    numbers = tuple(int(part) for part in match[1].split("."))
    padded = numbers + (0,) * (4 - len(numbers))
    if match[2] is None:
        return padded, _RELEASE
    # Numeric identifiers sort before words, each among themselves (semver 11.4).
    parts = tuple(
        (0, int(part), "") if part.isdecimal() else (1, 0, part) for part in match[2].split(".")
    )
    return padded, (0, parts)


class VersionRange:
    """A parsed range; immutable. `str()` gives the text back."""

    __slots__ = ("_alternatives", "text")

    def __init__(self, text: str) -> None:
        if len(text) > MAX_LENGTH:
            raise Invalid(f"version range of {len(text)} characters exceeds {MAX_LENGTH}")
        self.text = text
        self._alternatives = [_parse_terms(part, text) for part in text.split("||")]

    def __str__(self) -> str:
        return self.text

    def __contains__(self, version: Version) -> bool:
        return any(
            all(low <= version < high for low, high in bounds) for bounds in self._alternatives
        )


@lru_cache(maxsize=1024)
def parse_range(text: str) -> VersionRange:
    """Return the range *text* describes; raises `Invalid` for what is none."""
    return VersionRange(text)


_BOTTOM: Final[Version] = ((-1, 0, 0, 0), _RELEASE)
_TOP: Final[Version] = ((1 << 40, 0, 0, 0), _RELEASE)


def _just_above(version: Version) -> Version:
    numbers, rank = version
    return numbers, (*rank, 0)


def _before(numbers: tuple[int, ...]) -> Version:
    """The bound below every pre-release of *numbers*: `<2` does not admit `2.0.0-rc.1`."""
    return numbers, (0, ())


def _raised(numbers: tuple[int, ...], index: int) -> Version:
    return _before((*numbers[:index], numbers[index] + 1, *(0,) * (3 - index)))


def _parse_terms(part: str, whole: str) -> list[tuple[Version, Version]]:
    bounds: list[tuple[Version, Version]] = []
    position = 0
    part = part.strip()
    while position < len(part):
        match = _TERM.match(part, position)
        if match is None:
            raise Invalid(f"{whole!r} is not a version range such as ^1.4 or >=1.2 <2")
        bounds.append(_bounds(match[1] or "=", match[2]))
        position = match.end()
        while position < len(part) and part[position] == " ":
            position += 1
    if not bounds:
        raise Invalid(f"{whole!r} is not a version range such as ^1.4 or >=1.2 <2")
    return bounds


def _bounds(operator: str, text: str) -> tuple[Version, Version]:
    if text in ("*", "x", "X"):
        return _BOTTOM, _TOP
    wild = re.fullmatch(r"((?:\d{1,9}\.){1,3})[xX*]", text)
    if wild is not None:
        numbers, _ = parse_version(wild[1].rstrip("."))
        return _before(numbers), _raised(numbers, wild[1].count(".") - 1)
    version = parse_version(text)
    numbers = version[0]
    given = len(re.split(r"[-+]", text.lstrip("v"))[0].split("."))
    if operator == "^":
        # The leftmost number that is not zero may not change; of zeros, the last that was given.
        index = next((i for i in range(given) if numbers[i]), given - 1)
        return version, _raised(numbers, index)
    if operator == "~":
        return version, _raised(numbers, min(1, given - 1))
    return {
        ">=": (version, _TOP),
        ">": (_just_above(version), _TOP),
        "<": (_BOTTOM, _before(numbers) if version[1] == _RELEASE else version),
        "<=": (_BOTTOM, _just_above(version)),
        "=": (version, _just_above(version)),
    }[operator]
