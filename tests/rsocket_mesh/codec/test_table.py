"""The table of docs/codecs.md: which codec carries which type, by round trips."""

from __future__ import annotations

from typing import Any

import pytest

from rsocket_mesh.codec import Codec, DecodeError, EncodeError, find_codec
from tests.support.processes import ROOT
from tests.support.value_types import CASES, Case

CODECS = tuple(map(find_codec, ("cbor", "json", "msgpack", "protobuf", "raw", "text")))
PAGE = ROOT / "docs" / "codecs.md"


def comes_back(codec: Codec, case: Case) -> bool:
    """Whether the value comes back equal and of its type; what is refused is refused well."""
    value = case.make()
    try:
        data = codec.encode(value)
        found = codec.decode(data, case.wanted)
    except (EncodeError, DecodeError):
        return False
    return bool(found == value) and type(found) is type(value)


def table() -> str:
    names = [codec.name for codec in CODECS]
    lines = [f"| | {' | '.join(names)} |", f"|---|{'---|' * len(names)}"]
    for case in CASES:
        cells = ["yes" if comes_back(codec, case) else "-" for codec in CODECS]
        lines.append(f"| {case.name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def test_the_table_in_the_docs_is_what_round_trips_show():
    assert table() in PAGE.read_text(), f"write this into {PAGE.name}:\n{table()}"


STRUCTURED = CODECS[:3]
BUT = {("msgpack", "`int`, longer")}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("codec", STRUCTURED, ids=lambda codec: codec.name)
def test_codecs_for_values_carry_every_type(codec: Codec, case: Case):
    assert comes_back(codec, case) or (codec.name, case.name) in BUT


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_one_codec_decodes_another_encodes_again(case: Case):
    value: Any = case.make()
    for codec in STRUCTURED:
        if (codec.name, case.name) not in BUT:
            value = codec.decode(codec.encode(value), case.wanted)
    assert value == case.make()
