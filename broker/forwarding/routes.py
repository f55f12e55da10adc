"""The route cache of one tenant: raw bytes of a routing entry in, who may answer out.

Parsing an address and finding its candidates costs microseconds; both depend on nothing but the
bytes and the table. So the answer is kept until the table changes, and then all are dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from broker.observe.counters import CallCounters, Counters
from broker.routing.address import parse_address
from broker.routing.candidates import Candidate, Candidates, Miss, MissKind
from broker.routing.table import RoutingTable
from rsocket_mesh.protocol.announce import RESERVED_PREFIX
from rsocket_mesh.protocol.metadata import decode_routing

if TYPE_CHECKING:
    from broker.forwarding.link import Link

NOBODY: Final = "(none)"  # the service that calls to nobody are counted under
LONGEST_KEY: Final = 1024  # bytes of routing tags that are cached; more is no usual address
BUILTIN: Final = frozenset({"mesh.broker", "mesh.health", "mesh.registry"})


class Route:
    """Where calls with the same routing bytes go.

    Attributes:
        candidates: who may take them; empty with the reason in `candidates.miss`.
        only: the one provider if there is just one, so that nothing has to be chosen.
        counters: of the service.
        is_builtin: the broker answers itself.
        is_budgeted: a candidate has a budget, so calls have to ask for room first.
    """

    __slots__ = ("candidates", "counters", "is_budgeted", "is_builtin", "only")

    def __init__(
        self, candidates: Candidates[Link], counters: CallCounters, is_builtin: bool = False
    ) -> None:
        self.candidates = candidates
        self.counters = counters
        self.is_builtin = is_builtin
        self.is_budgeted = any(
            entry.provider.budget is not None and entry.provider.budget.limits(entry.service)
            for entry in candidates
        )
        self.only = candidates.entries[0].provider if len(candidates) == 1 else None


class Routes(dict[bytes, Route]):
    """Cached routes by the content of the routing entry. Bounded in number and length of keys:
    full means start anew."""

    def __init__(
        self, tenant: str, table: RoutingTable[Link], counters: Counters, limit: int
    ) -> None:
        super().__init__()
        self.tenant = tenant
        self._table = table
        self._counters = counters
        self._limit = limit

    def resolve(self, key: bytes) -> Route:
        """Return the route for the routing tags *key*, from the cache or from the table.

        Raises:
            Invalid: *key* cannot be parsed.
        """
        route = self.get(key)
        if route is not None:
            return route
        address = parse_address(decode_routing(key))
        if address.route.startswith(RESERVED_PREFIX):
            service = address.route.rpartition(".")[0]
            name = service if service in BUILTIN else NOBODY
            route = Route(Candidates(()), self._counters.calls_to(name), is_builtin=True)
        else:
            route = self._route(self._table.find(self.tenant, address))
        if len(key) <= LONGEST_KEY:
            if len(self) >= self._limit:
                self.clear()
            self[key] = route
        return route

    def default(self, service: str) -> Route:
        """Return the route to any provider of *service*, for calls that carry no routing."""
        entries = tuple(
            Candidate(offer.provider, offer.service, "", offer.instance, offer.seed)
            for offer in self._table.describe(self.tenant, service)
        )
        text = f"nobody serves {service!r}, the default for calls without routing"
        return self._route(
            Candidates(entries, None if entries else Miss(MissKind.NO_SERVICE, text))
        )

    def _route(self, candidates: Candidates[Link]) -> Route:
        service = candidates.entries[0].service.name if candidates else NOBODY
        return Route(candidates, self._counters.calls_to(service))
