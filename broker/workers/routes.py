"""Routes of one worker: its own providers first, those of the others through their workers.

On `forwarding.routes`. The rule, applied once per route and change of the table, so that a call
costs no more than anywhere else:

- The instances of each other worker are one candidate together, with the sum of their weights; that
  worker chooses among them. A hop costs about as much as the relay itself, so an instance of our
  own counts `NEAR` times its weight. Otherwise all is as among instances: one is drawn by weight,
  and a second gets the call if it has less in flight for its weight. A lone instance of ours thus
  gets `NEAR` times its share while it answers as fast as the others, and less as soon as it lags.
- Instances with limits of their own are asked for room before any other worker is.
- A shard key has its instance among all of them, wherever it is.

What comes from another worker is served by our own providers or not at all: one hop at most.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, cast

import msgspec

from broker.forwarding.hub import DEFAULT_TENANT
from broker.forwarding.routes import Route, Routes
from broker.routing.candidates import Candidate, Candidates, Miss, MissKind
from broker.workers.siblings import RemoteInstance
from rsocket_mesh.protocol.announce import ServiceInfo

if TYPE_CHECKING:
    from broker.forwarding.link import Link

# With equal load everywhere a quarter of what weights alone would send away crosses; a worker whose
# callers ask for all that there is still sends a fifth away.
NEAR: Final = 4


class NearRoutes(Routes):
    """Routes of our own sessions, to the instances of all workers."""

    def _route(self, candidates: Candidates[Link]) -> Route:
        here = [entry for entry in candidates if not entry.provider.is_remote]
        far = [entry for entry in candidates if entry.provider.is_remote]
        # If none of all takes calls just now, the worker that has some says so to the caller.
        far = [entry for entry in far if entry.provider.accepting] or ([] if here else far)
        if not far:
            return super()._route(_only(here, candidates))
        there: dict[int, list[Candidate[Link]]] = {}  # by worker
        wants_caller = False
        for entry in far:
            remote = cast(RemoteInstance, entry.provider)
            group = there.setdefault(remote.link.index, [])
            group.append(entry._replace(provider=remote.link))
            wants_caller |= remote.wants_caller
        entries = [_near(entry) for entry in here]
        entries += [_together(group) for group in there.values()]
        route = super()._route(Candidates(tuple(entries)))
        route.instances = Candidates((*here, *(one for group in there.values() for one in group)))
        if here and all(_is_limited(entry) for entry in here):
            route.nearest = Candidates(tuple(here))
        # Who calls is said in the metadata, and so is another tenant than the one of all links.
        if wants_caller or self.tenant != DEFAULT_TENANT:
            route.is_budgeted = True
        return route


class HereRoutes(Routes):
    """Routes of what comes from other workers: to our own providers, which are told apart."""

    def _route(self, candidates: Candidates[Link]) -> Route:
        here = [e for e in candidates if not e.provider.is_remote]
        return super()._route(_only(here, candidates))


def _only(here: list[Candidate[Link]], candidates: Candidates[Link]) -> Candidates[Link]:
    """Return *here*, what is ours of *candidates*; say why if that is nothing."""
    if here or not candidates:
        return candidates if len(here) == len(candidates) else Candidates(tuple(here))
    name = candidates.entries[0].service.name
    return Candidates((), Miss(MissKind.NO_SERVICE, f"the last provider of {name!r} has just left"))


def _near(entry: Candidate[Link]) -> Candidate[Link]:
    service = msgspec.structs.replace(entry.service, weight=NEAR * entry.service.weight)
    return entry._replace(service=service)


def _together(group: list[Candidate[Link]]) -> Candidate[Link]:
    """Return the one candidate that stands for all instances of a worker, over the connection
    that suits most of them."""
    weight = sum(entry.service.weight for entry in group)
    first = group[0]
    service = ServiceInfo(first.service.name, first.service.version, weight)
    links = Counter(entry.provider for entry in group)
    return Candidate(links.most_common(1)[0][0], service, first.method, "", 0)


def _is_limited(entry: Candidate[Link]) -> bool:
    budget = entry.provider.budget
    return budget is not None and budget.limits(entry.service)
