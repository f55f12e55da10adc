"""Service versions and the ranges that select them.

A version is one to four dotted numbers with an optional `-pre.release` and `+build` part, as
people write them: `2`, `1.4`, `1.4.0-rc.1`. Missing numbers count as 0; build metadata is ignored.
A range is what npm users know: `^1.4`, `~1.4.2`, `>=1.2 <2`, `1.x`, `*`, and `||` between
alternatives; a plain version is an exact match. As there, a pre-release is only admitted by a
range that names a pre-release of the same numbers: `^1.4` never means `1.5.0-rc.1`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

from rsocket_mesh.errors import Invalid

MAX_LENGTH: Final = 64  # characters of a version or range; more is no version

_VERSION: Final = re.compile(
    r"v?([0-9]{1,9}(?:\.[0-9]{1,9}){0,3})(?:-([0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*))?(?:\+[0-9A-Za-z.-]+)?"
)
_TERM: Final = re.compile(r"(\^|~|>=|<=|>|<|=)?\s*([^\s<>=^~|]+)\s*")
_WILD: Final = re.compile(r"v?(?:([0-9]{1,9}(?:\.[0-9]{1,9}){0,2})\.)?[xX*](?:\.[xX*])*")

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
        for terms in self._alternatives:
            if all(term.low <= version < term.high for term in terms):
                named = version[1] == _RELEASE or version[0] in (term.preview for term in terms)
                if named:
                    return True
        return False


@lru_cache(maxsize=1024)
def parse_range(text: str) -> VersionRange:
    """Return the range *text* describes; raises `Invalid` for what is none."""
    return VersionRange(text)


class _Term(NamedTuple):
    """What one term admits: from *low* up to, not including, *high*.

    `preview` are the numbers of a term that was written with a pre-release, else None.
    """

    low: Version
    high: Version
    preview: tuple[int, ...] | None


_BOTTOM: Final[Version] = ((-1, 0, 0, 0), _RELEASE)
_TOP: Final[Version] = ((1 << 40, 0, 0, 0), _RELEASE)


def _parse_terms(part: str, whole: str) -> list[_Term]:
    terms: list[_Term] = []
    position = 0
    part = part.strip()
    while match := _TERM.match(part, position):
        terms.append(_term(match[1] or "=", match[2], whole))
        position = match.end()
    if position < len(part) or not terms:
        raise Invalid(f"{whole!r} is not a version range such as ^1.4 or >=1.2 <2")
    return terms


def _term(operator: str, text: str, whole: str) -> _Term:
    wild = _WILD.fullmatch(text)
    if wild is not None and wild[1] is None:
        if operator in "<>":
            raise Invalid(f"{whole!r}: nothing is {operator} any version")
        return _Term(_BOTTOM, _TOP, None)
    written = wild[1] if wild is not None else text.removeprefix("v")
    version = parse_version(written)
    numbers, rank = version
    preview = None if rank == _RELEASE else numbers
    given = len(re.split(r"[-+]", written)[0].split("."))
    above = _raised(numbers, given - 1) if wild is not None else (numbers, (*rank, 0))
    if operator == "^":
        # The leftmost number that is not zero may not change; of zeros, the last that was given.
        index = next((i for i in range(given) if numbers[i]), given - 1)
        above = _raised(numbers, index)
    elif operator == "~":
        above = _raised(numbers, min(1, given - 1))
    low = _BOTTOM if operator in ("<", "<=") else above if operator == ">" else version
    high = _TOP if operator in (">", ">=") else version if operator == "<" else above
    return _Term(low, high, preview)


def _raised(numbers: tuple[int, ...], index: int) -> Version:
    """Return the bound below every version, also a pre-release, with the number at *index* + 1."""
    return (*numbers[:index], numbers[index] + 1, *(0,) * (3 - index)), (0, ())
