"""The cases, one module per section of the catalogue; importing a module enters its cases."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules


def load() -> None:
    """Import all modules of cases; idempotent."""
    for module in iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
