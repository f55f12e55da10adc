"""Who and what there is: every module in `contenders/` and `workloads/` says it itself."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

import benchmarks.contenders
import benchmarks.workloads
from benchmarks.model import Row
from benchmarks.stage import Contender

if TYPE_CHECKING:
    from benchmarks.context import Context


@dataclass(frozen=True)
class Workload:
    """Something to measure.

    Attributes:
        name: for `--only` and the JSON.
        title: the report's heading.
        about: what is measured and how, for the report.
        run: measures it.
        order: of the report's sections; the important ones first.
    """

    name: str
    title: str
    about: str
    run: Callable[[Context], list[Row]]
    order: int = 50


def contenders() -> list[Contender]:
    """Return all contenders: measuring sticks, ours, then others."""
    found: list[tuple[int, str, Contender]] = []
    for module in _modules(benchmarks.contenders):
        order = getattr(module, "ORDER", 50)
        found += [(order, module.__name__, one) for one in getattr(module, "CONTENDERS", ())]
    return [one for _, _, one in sorted(found, key=lambda entry: entry[:2])]


def workloads() -> list[Workload]:
    """Return all workloads in the order of the report."""
    found = [
        workload
        for module in _modules(benchmarks.workloads)
        for workload in getattr(module, "WORKLOADS", ())
    ]
    return sorted(found, key=lambda workload: (workload.order, workload.name))


def _modules(package: ModuleType) -> Iterator[ModuleType]:
    for entry in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        yield importlib.import_module(entry.name)
