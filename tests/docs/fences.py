"""The fenced blocks of a Markdown page, in order."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

_FENCE = re.compile(r"^```(\w*)[ ]*(.*?)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Fence(NamedTuple):
    """One block; `label` is what stands behind the language."""

    language: str
    label: str
    text: str


def fences(page: Path) -> list[Fence]:
    return [Fence(*match.groups()) for match in _FENCE.finditer(page.read_text())]
