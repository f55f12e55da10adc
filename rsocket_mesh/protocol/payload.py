"""A payload: the unit that applications exchange, whole, whatever fragments carried it."""

from __future__ import annotations

from typing import NamedTuple


class Payload(NamedTuple):
    """Data and metadata in bytes; `metadata` None is absent, b"" is present and empty."""

    data: bytes = b""
    metadata: bytes | None = None
