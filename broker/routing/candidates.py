"""The answer of a lookup: who may take a call, or in words why nobody can.

Between table and selection. The answer is immutable and safe to keep for as long as the table's
generation is the same; what selection needs on every call (weights) is worked out here, once.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from itertools import accumulate
from typing import Generic, NamedTuple, Protocol, TypeVar

from rsocket_mesh.protocol.announce import ServiceInfo


class Provider(Protocol):
    """What this room has to know of a session that serves something. Must be hashable."""

    @property
    def in_flight(self) -> int:
        """Calls that it is working on."""

    @property
    def accepting(self) -> bool:
        """False while it must get no new calls: draining, detached or behind with reading."""


P = TypeVar("P", bound=Provider)


class Candidate(NamedTuple, Generic[P]):
    """One provider that may take the call.

    Attributes:
        instance: the name of the provider's instance.
        seed: 64 bits that stand for app and instance, the same on every broker.
    """

    provider: P
    service: ServiceInfo
    instance: str
    seed: int


class MissKind(Enum):
    """Why a lookup found nobody."""

    NO_SERVICE = "no-service"  # nobody in this tenant serves the service or the route
    NO_METHOD = "no-method"  # the service is there, but in no version has this method
    NO_MATCH = "no-match"  # service and method are there, but no provider fits the selectors


class Miss(NamedTuple):
    """Why a lookup found nobody; `text` is for the message of a NO_ROUTE error."""

    kind: MissKind
    text: str


class Candidates(Generic[P]):
    """All providers that may take a call; false if there are none, and then `miss` says why.

    Attributes:
        entries: the candidates, in no order that means anything.
        providers: theirs, in the same order.
        cumulative: running totals of their weights; None when all weigh the same.
        method: the method's name, or the announced pattern that the route belongs to: bounded in
            number either way, so fit for labels of metrics.
        miss: None unless `entries` is empty.
    """

    __slots__ = ("cumulative", "entries", "method", "miss", "providers")

    def __init__(self, entries: tuple[Candidate[P], ...], miss: Miss | None = None) -> None:
        self.entries = entries
        self.providers = tuple(entry.provider for entry in entries)
        self.cumulative = running_weights(entries)
        self.method = ""
        self.miss = miss

    def called(self, method: str) -> Candidates[P]:
        """Return the same candidates for *method*; all that takes room is shared."""
        twin: Candidates[P] = Candidates((), self.miss)
        twin.entries, twin.providers = self.entries, self.providers
        twin.cumulative, twin.method = self.cumulative, method
        return twin

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[Candidate[P]]:
        return iter(self.entries)


def running_weights(entries: tuple[Candidate[P], ...]) -> tuple[int, ...] | None:
    """Return the running totals of the weights, or None when all weigh the same."""
    weights = [entry.service.weight for entry in entries]
    return tuple(accumulate(weights)) if len(set(weights)) > 1 else None
