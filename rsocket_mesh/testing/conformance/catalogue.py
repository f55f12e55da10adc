"""What RSocket asks of a peer, as a numbered list: the index that cases and reports go by.

Bottom of `conformance`; knows no case and no wire. The numbers are stable names (C-01 to C-150),
the texts are ours, and each names the section of the specification that it comes from.
Source: RSocket Protocol 1.0, its extensions, and the RSocket Broker Specification 0.1.
"""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple

from rsocket_mesh.testing.conformance.texts_connection import CONNECTION
from rsocket_mesh.testing.conformance.texts_streams import STREAMS


class Mark(Enum):
    """What kind of requirement it is; the value is its sign in reports."""

    GOOD = "+"  # the good path
    HOSTILE = "-"  # malformed or hostile input
    POLICY = "p"  # malformed input to which the specification leaves the reaction open


class Section(NamedTuple):
    """A group of requirements: C-first to C-last."""

    name: str
    title: str
    first: int
    last: int


SECTIONS: Final = (
    Section("framing", "Framing and header", 1, 16),
    Section("metadata", "Metadata and data", 17, 25),
    Section("establishment", "Connection establishment", 26, 43),
    Section("errors_keepalive", "Errors, keepalive, metadata push", 44, 56),
    Section("stream_ids", "Stream ids", 57, 65),
    Section("models", "Interaction models", 66, 90),
    Section("fragments", "Fragmentation", 91, 104),
    Section("lease", "Lease", 105, 112),
    Section("resume", "Resume", 113, 125),
    Section("extensions", "Metadata extensions", 126, 135),
    Section("broker", "Broker", 136, 150),
)


class Requirement(NamedTuple):
    """One requirement.

    Attributes:
        id: `C-27`.
        source: the section of the specification.
        open: implementations differ here, either because the specification leaves it open or
            because it is custom rather than text. A foreign server that does otherwise differs,
            it does not fail.
    """

    id: str
    mark: Mark
    section: Section
    source: str
    text: str
    open: bool


def _section_of(number: int) -> Section:
    return next(section for section in SECTIONS if section.first <= number <= section.last)


def _requirements() -> dict[str, Requirement]:
    found: dict[str, Requirement] = {}
    for number, (sign, source, text) in enumerate((*CONNECTION, *STREAMS), 1):
        name = f"C-{number:02}"
        mark = Mark(sign[0])
        is_open = sign.endswith("?") or mark is Mark.POLICY
        found[name] = Requirement(name, mark, _section_of(number), source, text, is_open)
    return found


REQUIREMENTS: Final = _requirements()
