"""The route cache of one tenant: raw bytes of a routing entry in, who may answer out.

Parsing an address and finding its candidates costs microseconds; both depend on nothing but the
bytes and the table. So the answer is kept until the table changes, and then all are dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from broker.config import Config
from broker.forwarding.limiter import OverLimit
from broker.kernel import RouteCore
from broker.observe.counters import CallCounters, Counters
from broker.routing.address import parse_address
from broker.routing.candidates import Candidate, Candidates, Miss, MissKind
from broker.routing.selection import choose
from broker.routing.table import RoutingTable
from rsocket_mesh.protocol.announce import RESERVED_PREFIX
from rsocket_mesh.protocol.metadata import TooMany, decode_routing

if TYPE_CHECKING:
    from broker.forwarding.link import Link

NOBODY: Final = "(none)"  # the service that calls to nobody are counted under
LONGEST_KEY: Final = 1024  # bytes of routing tags that are cached; more is no usual address
# Candidates that cached routes hold, some 100 bytes each: routes that have the same share them, and
# who asks in ever other ways for a service of a thousand instances pays with time, not with memory.
MOST_CANDIDATES: Final = 500_000
BUILTIN: Final = frozenset({"mesh.broker", "mesh.health", "mesh.registry"})


class Route(RouteCore):
    """Where calls with the same routing bytes go.

    Attributes:
        candidates: who may take them; empty with the reason in `candidates.miss`.
        instances: all instances that may take them, for shard keys; `candidates` unless other
            workers have some, which stand there together.
        nearest: those of `candidates` that are asked first for room; None for all.
        is_builtin: the broker answers itself.
        item_bytes, item_bytes_up: how large items were lately, towards the caller and towards the
            provider; 0 before the first.
    """

    __slots__ = (
        "candidates",
        "instances",
        "is_builtin",
        "item_bytes",
        "item_bytes_up",
        "nearest",
    )

    only: Link | None
    equals: tuple[Link, ...]
    counters: CallCounters

    def __init__(
        self,
        candidates: Candidates[Link],
        counters: CallCounters,
        is_budgeted: bool,
        is_builtin: bool = False,
    ) -> None:
        providers = candidates.providers
        super().__init__(
            providers[0] if len(providers) == 1 else None,
            providers if len(providers) > 1 and candidates.cumulative is None else (),
            is_budgeted,
            counters,
        )
        self.candidates = self.instances = candidates
        self.nearest: Candidates[Link] | None = None
        self.is_builtin = is_builtin
        self.item_bytes = self.item_bytes_up = 0

    def pick(self, draw: int) -> Candidate[Link] | None:
        """Return who takes a call, or None if none of the candidates does just now.

        Args:
            draw: random bits, as `choose` wants them.
        """
        return choose(self.candidates, draw)


class Routes(dict[bytes, Route]):
    """Cached routes by the content of the routing entry. Bounded in number, in length of keys and
    in candidates: full means start anew."""

    def __init__(
        self, tenant: str, table: RoutingTable[Link], counters: Counters, config: Config
    ) -> None:
        super().__init__()
        self.tenant = tenant
        self._table = table
        self._counters = counters
        self._limit = config.routing.route_cache
        self._most_tags = config.limits.route_tags
        self._longest_route = config.limits.route_bytes
        self._defaults: dict[str, Route] = {}
        # The lists of candidates that routes share, by their ids: whether any has a budget.
        self._lists: dict[int, bool] = {}
        self._entries = 0  # candidates in all of them

    def clear(self) -> None:
        super().clear()
        self._defaults.clear()
        self._lists.clear()
        self._entries = 0

    def resolve(self, key: bytes) -> Route:
        """Return the route for the routing tags *key*, from the cache or from the table.

        Raises:
            Invalid: *key* cannot be parsed, or is more than what a peer may ask for.
        """
        route = self.get(key)
        if route is not None:
            return route
        address = parse_address(self._tags(key))
        if address.route.startswith(RESERVED_PREFIX):
            service = address.route.rpartition(".")[0]
            name = service if service in BUILTIN else NOBODY
            route = Route(Candidates(()), self._counters.calls_to(name), False, is_builtin=True)
        else:
            route = self._route(self._table.find(self.tenant, address))
        if len(key) <= LONGEST_KEY:
            self._keep(key, route)
        return route

    def _keep(self, key: bytes, route: Route) -> None:
        if len(self) >= self._limit or self._entries > MOST_CANDIDATES:
            self.clear()
        self[key] = route
        entries = route.candidates.entries
        if id(entries) not in self._lists:  # it lives as long as the route is kept
            self._lists[id(entries)] = route.is_budgeted
            self._entries += len(entries)

    def _tags(self, key: bytes) -> list[str]:
        try:
            tags = decode_routing(key, self._most_tags)
        except TooMany as exc:
            raise OverLimit("route_tags", exc.text) from None
        size = len(tags[0].encode()) if tags else 0
        if size > self._longest_route:
            text = f"route of {size} bytes exceeds the limit of {self._longest_route}"
            raise OverLimit("route_bytes", text)
        return tags

    def default(self, service: str) -> Route:
        """Return the route to any provider of *service*, for calls that carry no routing."""
        route = self._defaults.get(service)
        if route is not None:
            return route
        entries = tuple(
            Candidate(offer.provider, offer.service, offer.instance, offer.seed)
            for offer in self._table.describe(self.tenant, service)
        )
        text = f"nobody serves {service!r}, the default for calls without routing"
        miss = None if entries else Miss(MissKind.NO_SERVICE, text)
        route = self._route(Candidates(entries, miss))
        if len(self._defaults) >= self._limit:
            self._defaults.clear()
        self._defaults[service] = route
        return route

    def _route(self, candidates: Candidates[Link]) -> Route:
        """Return the route to *candidates*. A broker of several workers chooses among them."""
        service = candidates.entries[0].service.name if candidates else NOBODY
        is_budgeted = self._lists.get(id(candidates.entries))
        if is_budgeted is None:
            is_budgeted = any(
                entry.provider.budget is not None and entry.provider.budget.limits(entry.service)
                for entry in candidates
            )
        return Route(candidates, self._counters.calls_to(service), is_budgeted)
