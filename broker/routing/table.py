"""Which live providers serve what: pure data, changed by sessions, asked by calls.

Middle stage of a lookup. Changes are synchronous and are returned, for the caller to announce;
answers are immutable, and `generation` says for how long they may be kept. Tenants never see each
other. The table asks nobody for the time, for a random number or for a socket.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Generic, NamedTuple

from broker.routing.address import Address
from broker.routing.candidates import Candidate, Candidates, Miss, MissKind, P
from broker.routing.pattern import PatternTree, canonical, has_wildcard
from broker.routing.selection import seed_of
from rsocket_mesh.protocol.announce import Announcement, ServiceInfo
from rsocket_mesh.protocol.version import Version, parse_version

MAX_NAMES_IN_TEXT = 10  # names that a text about a miss lists; more help nobody
# Candidates in answers that are kept to be shared, some 100 bytes each. Who asks in ever other ways
# for a service of a thousand instances pays with time.
MOST_REMEMBERED = 200_000


class Offer(NamedTuple, Generic[P]):
    """One service of one instance; `tags` are those of the instance under those of the service."""

    provider: P
    app: str
    instance: str
    service: ServiceInfo
    version: Version
    tags: dict[str, str]
    seed: int


class Change(NamedTuple):
    """What one call to the table changed; false if nothing did.

    A service whose description or tags changed is in `removed` as it was and in `added` as it is.
    """

    tenant: str
    app: str
    instance: str
    added: tuple[ServiceInfo, ...] = ()
    removed: tuple[ServiceInfo, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed)


class _Registration(NamedTuple, Generic[P]):
    tenant: str
    app: str
    instance: str
    offers: tuple[Offer[P], ...]


class _Tenant(Generic[P]):
    """What one tenant's providers serve, by each way of asking for it. No empty entries."""

    __slots__ = (
        "answers",
        "instances",
        "patterns",
        "remembered",
        "routes",
        "services",
        "sessions",
    )

    def __init__(self) -> None:
        # What `find` has answered, by the ids of the offers that fit: thousands of routes of a
        # service have the same thousand providers, and one list of them is enough.
        self.answers: dict[tuple[int, ...], Candidates[P]] = {}
        self.remembered = 0  # candidates in all of them
        self.sessions = 0
        self.services: dict[str, tuple[Offer[P], ...]] = {}
        self.routes: dict[str, tuple[Offer[P], ...]] = {}  # by canonical pattern
        self.patterns: PatternTree[str] = PatternTree()  # the keys of `routes` with wildcards
        self.instances: dict[tuple[str, str], P] = {}  # (app, instance) -> who registered last

    def candidates(self, offers: Sequence[Offer[P]]) -> Candidates[P]:
        """Return the candidates for *offers*, which share all that takes room with others."""
        key = tuple(map(id, offers))
        found = self.answers.get(key)
        if found is None:
            found = Candidates(
                tuple(Candidate(o.provider, o.service, o.instance, o.seed) for o in offers)
            )
            if self.remembered + len(offers) > MOST_REMEMBERED:
                self._forget_answers()
            self.answers[key] = found
            self.remembered += len(offers)
        return found

    def _forget_answers(self) -> None:
        self.answers.clear()
        self.remembered = 0

    def announced(self, route: str) -> str | None:
        """Return the announced pattern that *route* belongs to, or None."""
        return route if route in self.routes else self.patterns.match(route)

    def change(self, removed: Iterable[Offer[P]], added: Iterable[Offer[P]]) -> None:
        """Take *removed* out and put *added* in.

        One pass over each service and route that is touched, however many offers touch it: an
        announcement of thousands of versions must not stop the process for seconds.
        """
        self._forget_answers()  # the ids of offers that are gone may be given anew
        gone = set()
        services: dict[str, list[Offer[P]]] = {}
        routes: dict[str, list[Offer[P]]] = {}
        for offer in removed:
            gone.add(id(offer))
            services.setdefault(offer.service.name, [])
            for route in offer.service.routes:
                routes.setdefault(canonical(route), [])
        for offer in added:
            services.setdefault(offer.service.name, []).append(offer)
            for route in {canonical(route) for route in offer.service.routes}:
                routes.setdefault(route, []).append(offer)
        for index, touched in ((self.services, services), (self.routes, routes)):
            for key, come in touched.items():
                left = (offer for offer in index.get(key, ()) if id(offer) not in gone)
                index[key] = (*left, *come)
                if not index[key]:
                    del index[key]
        for route in filter(has_wildcard, routes):
            if route in self.routes:
                self.patterns.set(route, route)
            else:
                self.patterns.remove(route)


class RoutingTable(Generic[P]):
    """Which live providers serve which address.

    `find` costs a dictionary lookup and time per provider of the one service that is asked for; a
    change costs its services and routes times their providers. Size is bounded by who may register
    and by the limit on the bytes of an announcement, both the caller's.

    Attributes:
        generation: grows with every change that can change an answer; an answer that was given at
            the same number is still right.
    """

    def __init__(self) -> None:
        self.generation = 0
        self._tenants: dict[str, _Tenant[P]] = {}
        self._registrations: dict[P, _Registration[P]] = {}

    # -- changes ----------------------------------------------------------------------------------

    def register(
        self, provider: P, tenant: str, instance: str, announcement: Announcement
    ) -> Change:
        """Enter what a new session announces, also if that is no service at all.

        *announcement* has been checked (`check_announcement`); *instance* is its name for the
        instance, or the one that the caller chose.

        Raises:
            ValueError: *provider* is registered already; nothing has changed.
        """
        if provider in self._registrations:
            raise ValueError(f"{announcement.app}/{instance} is registered already")
        app = announcement.app
        offers = _offers(provider, app, instance, announcement)
        known = self._tenants.setdefault(tenant, _Tenant())
        known.sessions += 1
        known.instances[app, instance] = provider
        return self._put(provider, _Registration(tenant, app, instance, ()), offers)

    def replace(self, provider: P, announcement: Announcement) -> Change:
        """Put *announcement* in the place of what *provider* announced before, in one step.

        The app and the name of the instance stay as they were registered.

        Raises:
            KeyError: *provider* is not registered.
        """
        before = self._registrations[provider]
        after = _offers(provider, before.app, before.instance, announcement)
        # What stays the same stays the same object, so that only what differs is touched.
        known = {_key(offer): offer for offer in before.offers}
        kept = (known.get(_key(offer)) for offer in after)
        offers = tuple(old if old == new else new for old, new in zip(kept, after, strict=True))
        return self._put(provider, before, offers)

    def withdraw(self, provider: P) -> Change | None:
        """Forget *provider*; None if it was not registered."""
        registration = self._registrations.pop(provider, None)
        if registration is None:
            return None
        tenant_name, app, instance, offers = registration
        tenant = self._tenants[tenant_name]
        tenant.change(offers, ())
        if tenant.instances.get((app, instance)) is provider:
            del tenant.instances[app, instance]
        self.generation += bool(offers)
        tenant.sessions -= 1
        if not tenant.sessions:
            del self._tenants[tenant_name]
        return Change(tenant_name, app, instance, (), tuple(offer.service for offer in offers))

    def _put(self, provider: P, before: _Registration[P], offers: tuple[Offer[P], ...]) -> Change:
        old, new = ({id(offer) for offer in some} for some in (before.offers, offers))
        removed = [offer for offer in before.offers if id(offer) not in new]
        added = [offer for offer in offers if id(offer) not in old]
        self._tenants[before.tenant].change(removed, added)
        self._registrations[provider] = before._replace(offers=offers)
        self.generation += bool(added or removed)
        return Change(
            before.tenant,
            before.app,
            before.instance,
            tuple(offer.service for offer in added),
            tuple(offer.service for offer in removed),
        )

    # -- answers ----------------------------------------------------------------------------------

    def find(self, tenant: str, address: Address) -> Candidates[P]:
        """Return who may take a call to *address*, or why nobody can.

        An announced pattern comes before `service.method`. Whether a candidate accepts calls just
        now is not asked here, so that the answer stays right while load comes and goes.
        """
        known = self._tenants.get(tenant)
        announced = known.announced(address.route) if known is not None else None
        if known is not None and announced is not None:
            method, offers = announced, known.routes[announced]
        else:
            service, _, method = address.route.rpartition(".")
            offers = known.services.get(service, ()) if known is not None else ()
            if not offers:
                return Candidates((), _no_service(address.route, service))
            serving = tuple(offer for offer in offers if _serves(offer, method))
            if not serving:
                return Candidates((), _no_method(service, method, offers))
            offers = serving
        fitting = offers if address.is_plain else [o for o in offers if _fits(o, address)]
        if known is None or not fitting:
            return Candidates((), _no_match(address, offers))
        return known.candidates(fitting).called(method)

    def holder(self, tenant: str, app: str, instance: str) -> P | None:
        """Return who registered last under these names and is still registered, or None."""
        known = self._tenants.get(tenant)
        return known.instances.get((app, instance)) if known is not None else None

    def tenants(self) -> tuple[str, ...]:
        """Return the tenants that have a registered session, sorted."""
        return tuple(sorted(self._tenants))

    def services(self, tenant: str) -> tuple[str, ...]:
        """Return the names of all services of *tenant*, sorted."""
        known = self._tenants.get(tenant)
        return tuple(sorted(known.services)) if known is not None else ()

    def describe(self, tenant: str, service: str) -> tuple[Offer[P], ...]:
        """Return who serves *service*, in the order of registration; empty if nobody does."""
        known = self._tenants.get(tenant)
        return known.services.get(service, ()) if known is not None else ()


def _offers(
    provider: P, app: str, instance: str, announcement: Announcement
) -> tuple[Offer[P], ...]:
    seed = seed_of(app, instance)
    return tuple(
        Offer(
            provider,
            app,
            instance,
            service,
            parse_version(service.version),
            # Shared where they can be: an instance's tags are not worth a copy per service.
            {**announcement.tags, **service.tags} if service.tags else announcement.tags,
            seed,
        )
        for service in announcement.services
    )


def _key(offer: Offer[P]) -> tuple[str, str]:
    return offer.service.name, offer.service.version  # once per announcement: it was checked


def _serves(offer: Offer[P], method: str) -> bool:
    return offer.service.methods is None or method in offer.service.methods


def _fits(offer: Offer[P], address: Address) -> bool:
    return (
        (address.version is None or offer.version in address.version)
        and (address.instance is None or offer.instance == address.instance)
        and all(offer.tags.get(key) == value for key, value in address.tags)
    )


# -- misses, in words ---------------------------------------------------------------------------


def _no_service(route: str, service: str) -> Miss:
    if not service:
        text = f"nobody announced the route {route!r}, and it does not name a service.method"
    else:
        text = f"nobody serves {service!r} (route {route!r})"
    return Miss(MissKind.NO_SERVICE, text)


def _no_method(service: str, method: str, offers: tuple[Offer[P], ...]) -> Miss:
    names = {name for offer in offers for name in offer.service.methods or ()}
    there = _listed(sorted(names)) or "none"
    return Miss(MissKind.NO_METHOD, f"{service!r} has no method {method!r}; it has: {there}")


def _no_match(address: Address, offers: tuple[Offer[P], ...]) -> Miss:
    versions = Counter((offer.version, offer.service.version) for offer in offers)
    there = _listed(f"{text} ({versions[version, text]})" for version, text in sorted(versions))
    return Miss(
        MissKind.NO_MATCH,
        f"{address.route!r} has no provider for {address.selectors()}; versions there: {there}",
    )


def _listed(names: Iterable[str]) -> str:
    known = list(names)
    more = len(known) - MAX_NAMES_IN_TEXT
    return ", ".join(known[:MAX_NAMES_IN_TEXT]) + (f" and {more} more" if more > 0 else "")
