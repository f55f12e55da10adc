"""Routes of one worker: its own providers first, those of the others through their workers.

On `forwarding.routes`. The rules, worked out once per route and change of the table:

- The instances of each other worker are one candidate together, with the sum of their weights; that
  worker chooses among them, and at most one hop is made: what comes from another worker is served
  by our own providers or not at all.
- Where we have instances too, a call stays with the better of two of them, unless these are clearly
  busier than those elsewhere (`balance`), or take no calls.
- Instances with limits of their own are asked for room before any other worker is.
- A shard key has its instance among all of them, wherever it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from broker.forwarding.hub import DEFAULT_TENANT
from broker.forwarding.routes import Route, Routes
from broker.observe.counters import CallCounters, Counters
from broker.routing.candidates import Candidate, Candidates, Miss, MissKind
from broker.routing.selection import choose
from broker.workers.balance import Balance
from broker.workers.siblings import RemoteInstance
from rsocket_mesh.protocol.announce import ServiceInfo

if TYPE_CHECKING:
    from broker.config import Config
    from broker.forwarding.link import Link
    from broker.routing.table import Offer, RoutingTable


class Split:
    """What routes with the same candidates share: those of ours, and the others' by worker.

    Attributes:
        source: the candidates that were split; kept, so that their id stays theirs.
        here: those of ours; empty if there are none.
        far: one for each other worker that has some.
        both: all to choose from.
        instances: all instances, each with the link that leads to it.
        is_limited: all of ours have limits of their own.
        is_thought_about: calls have to take the general way.
    """

    __slots__ = ("both", "far", "here", "instances", "is_limited", "is_thought_about", "source")

    def __init__(
        self,
        source: Candidates[Link],
        here: list[Candidate[Link]],
        far: list[Candidate[Link]],
        has_links_tenant: bool,
    ) -> None:
        there: dict[int, list[Candidate[Link]]] = {}  # by worker
        wants_caller = False
        for entry in far:
            remote = cast(RemoteInstance, entry.provider)
            group = there.setdefault(remote.link.index, [])
            group.append(entry._replace(provider=remote.link))
            wants_caller |= remote.wants_caller
        self.source = source
        self.here = Candidates(tuple(here))
        self.far = Candidates(tuple(map(_together, there.values())))
        self.both = Candidates((*here, *self.far.entries)) if here else self.far
        others = (entry for group in there.values() for entry in group)
        self.instances = Candidates((*here, *others))
        limited = [_is_limited(entry) for entry in here]
        self.is_limited = bool(here) and all(limited)
        # Who calls is said in the metadata, and so is another tenant than the one of all links.
        self.is_thought_about = any(limited) or wants_caller or not has_links_tenant


class MixedRoute(Route):
    """A route to instances of ours and of other workers.

    While ours are not busier than others it is as if there were no others, and costs as little. It
    *spills* while they are: then each call is looked at.
    """

    __slots__ = ("_far", "_here", "_home")

    def __init__(self, split: Split, counters: CallCounters, home: Home) -> None:
        super().__init__(split.both, counters, split.is_thought_about)
        self._here = split.here
        self._far = split.far
        self._home = home
        home.routes.append(self)
        self.spill(home.spills)

    def spill(self, spills: bool) -> None:
        """Look at each call from now on, or at none."""
        here = self._here.providers
        self.only = here[0] if len(here) == 1 and not spills else None
        is_equal = len(here) > 1 and self._here.cumulative is None
        self.equals = here if is_equal and not spills else ()

    def pick(self, draw: int) -> Candidate[Link] | None:
        near = choose(self._here, draw)
        if near is not None and (not self._home.spills or self._home.keeps(near)):
            return near
        far = choose(self._far, draw)
        return far if far is not None and far.provider.accepting else near


class Home:
    """Our own instances of one service, which others have as well: how busy they are.

    Attributes:
        routes: those to the service.
        spills: whether calls may go to other workers.
    """

    def __init__(
        self,
        offers: Sequence[Offer[Link]],
        balance: Balance,
        own: CallCounters,
        others: CallCounters,
    ) -> None:
        """*own* counts what our callers call, *others* what other workers pass on to us."""
        self.balance = balance
        self.routes: list[MixedRoute] = []
        self.spills = False
        self._weights = {offer.provider: offer.service.weight for offer in offers}
        self._own = own
        self._others = others
        self._lately = self._own_lately = 0

    def look(self) -> int:
        """Look how busy our instances are, and whether calls may go elsewhere; return how many
        calls of our own callers they work on.

        Both go up at once and down slowly, since calls come and go in batches, and a look between
        two of them finds nothing.
        """
        now = sum(provider.in_flight for provider in self._weights)
        own = max(0, now - at_work(self._others))
        self._lately = max(now, self._lately * 7 // 8)
        self._own_lately = max(own, self._own_lately * 7 // 8)
        elsewhere = max(0, at_work(self._own) - own)
        weight = sum(self._weights.values())
        spills = not self.balance.stays(self._lately, weight, elsewhere)
        if spills is not self.spills:
            self.spills = spills
            for route in self.routes:
                route.spill(spills)
        return self._own_lately

    def keeps(self, near: Candidate[Link]) -> bool:
        """Return whether a call stays with *near*."""
        busy = near.provider.in_flight
        if not busy:
            return True
        now = sum(provider.in_flight for provider in self._weights)
        elsewhere = max(0, at_work(self._own) - max(0, now - at_work(self._others)))
        return self.balance.stays(busy, near.service.weight, elsewhere)


class NearRoutes(Routes):
    """Routes of our own sessions, to the instances of all workers.

    Attributes:
        homes: services of which there are instances here and elsewhere, as far as they are called.
        told: calls that other workers have at work of their own, by service and worker.
    """

    def __init__(
        self,
        tenant: str,
        table: RoutingTable[Link],
        counters: Counters,
        config: Config,
        passed_on: Counters,
    ) -> None:
        """*passed_on* counts what comes from other workers."""
        super().__init__(tenant, table, counters, config)
        self._passed_on = passed_on
        self.homes: dict[str, Home] = {}
        self.told: dict[str, dict[int, int]] = {}
        self._splits: dict[int, Split] = {}  # by the id of the candidates

    def clear(self) -> None:
        super().clear()
        self.homes.clear()
        self._splits.clear()

    def tell(self, service: str, worker: int, at_work: int) -> None:
        """Another worker has so many calls of its own callers to *service* at work."""
        self.told.setdefault(service, {})[worker] = at_work
        home = self.homes.get(service)
        if home is not None:
            home.balance.told = sum(self.told[service].values())

    def part(self, worker: int) -> None:
        """Another worker is gone."""
        for told in self.told.values():
            told.pop(worker, None)
        self.clear()

    def _route(self, candidates: Candidates[Link]) -> Route:
        split = self._splits.get(id(candidates.entries))
        if split is None:
            here = [entry for entry in candidates if not entry.provider.is_remote]
            far = [entry for entry in candidates if entry.provider.is_remote]
            # If none of all takes calls just now, the worker that has some says so to the caller.
            far = [entry for entry in far if entry.provider.accepting] or ([] if here else far)
            if not far:
                return super()._route(_only(here, candidates))
            split = Split(candidates, here, far, self.tenant == DEFAULT_TENANT)
            self._splits[id(candidates.entries)] = split
        name = candidates.entries[0].service.name
        counters = self._counters.calls_to(name)
        if split.here:
            route: Route = MixedRoute(split, counters, self._home(name, counters))
        else:
            route = Route(split.both, counters, split.is_thought_about)
        route.instances = split.instances
        if split.is_limited:
            route.nearest = split.here
        return route

    def _home(self, service: str, counters: CallCounters) -> Home:
        home = self.homes.get(service)
        if home is None:
            offers = self._table.describe(self.tenant, service)
            here = [offer for offer in offers if not offer.provider.is_remote]
            far = sum(offer.service.weight for offer in offers if offer.provider.is_remote)
            balance = Balance(far)
            balance.told = sum(self.told.get(service, {}).values())
            home = Home(here, balance, counters, self._passed_on.calls_to(service))
            self.homes[service] = home
        return home


class HereRoutes(Routes):
    """Routes of what comes from other workers: to our own providers."""

    def _route(self, candidates: Candidates[Link]) -> Route:
        here = [entry for entry in candidates if not entry.provider.is_remote]
        return super()._route(_only(here, candidates))


def at_work(calls: CallCounters) -> int:
    """Return how many calls have begun and not ended."""
    return calls.started - calls.ok - sum(calls.others.values())


def _only(here: list[Candidate[Link]], candidates: Candidates[Link]) -> Candidates[Link]:
    """Return *here*, what is ours of *candidates*; say why if that is nothing."""
    if here or not candidates:
        return candidates if len(here) == len(candidates) else Candidates(tuple(here))
    name = candidates.entries[0].service.name
    return Candidates((), Miss(MissKind.NO_SERVICE, f"the last provider of {name!r} has just left"))


def _together(group: list[Candidate[Link]]) -> Candidate[Link]:
    """Return the one candidate that stands for all instances of a worker, over the connection that
    suits most of them."""
    weight = sum(entry.service.weight for entry in group)
    first = group[0]
    service = ServiceInfo(first.service.name, first.service.version, weight)
    links = Counter(entry.provider for entry in group)
    return Candidate(links.most_common(1)[0][0], service, "", 0)


def _is_limited(entry: Candidate[Link]) -> bool:
    budget = entry.provider.budget
    return budget is not None and budget.limits(entry.service)
