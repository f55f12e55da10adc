"""The corpus: one folder per decoder, one file per input; names say what it is or where it is from.

Small on purpose: it is replayed by every `make test`. `make fuzz` begins with it and adds what it
found, as `found-<hash>`; give such a file a name that says what it is when you fix the fault.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

CORPUS: Final = Path(__file__).parent / "corpus"


def inputs(name: str) -> list[Path]:
    """Return the inputs of the decoder *name*, in the order of their names."""
    return sorted(path for path in (CORPUS / name).glob("*") if path.is_file())


def keep(name: str, data: bytes) -> Path:
    """Add *data*, which has shown a fault, to the corpus; return the file."""
    path = CORPUS / name / f"found-{hashlib.sha256(data).hexdigest()[:12]}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path
