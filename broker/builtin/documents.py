"""What the broker's own services answer, as plain data: the contract of `mesh.*`.

Every value here becomes JSON or CBOR as it stands (docs/wire-contract.md lists the fields).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from broker.routing.table import Change, Offer

if TYPE_CHECKING:
    from broker.forwarding.hub import Hub
    from broker.forwarding.link import Link

_MODELS: Final = {
    "mesh.broker": {"info": ("request-response", "who this broker is and how it does")},
    "mesh.health": {"check": ("request-response", "whether it, or the service named, serves")},
    "mesh.registry": {
        "announce": ("request-response", "replace what this session announces"),
        "list": ("request-response", "all services, with versions and instances"),
        "describe": ("request-response", "all instances of the service named, with schemas"),
        "watch": ("request-stream", "a snapshot, then every change"),
    },
}


def service_list(hub: Hub, tenant: str) -> list[dict[str, Any]]:
    """Return the services of *tenant*, sorted by name."""
    found = []
    for name in hub.table.services(tenant):
        offers = hub.table.describe(tenant, name)
        methods = {method for offer in offers for method in offer.service.methods or ()}
        found.append(
            {
                "name": name,
                "versions": sorted({offer.service.version for offer in offers}),
                "instances": len(offers),
                "methods": sorted(methods),
            }
        )
    return found


def service_description(hub: Hub, tenant: str, name: str) -> dict[str, Any] | None:
    """Return all that is known of the service *name*; None if nobody serves it."""
    if name in _MODELS:
        methods = {
            method: {"model": model, "description": text}
            for method, (model, text) in _MODELS[name].items()
        }
        own = {"app": "rsocket-broker", "instance": "broker", "version": "1", "methods": methods}
        return {"name": name, "instances": [own]}
    offers = hub.table.describe(tenant, name)
    if not offers:
        return None
    return {"name": name, "instances": [_instance(offer) for offer in offers]}


def _instance(offer: Offer[Link]) -> dict[str, Any]:
    service = msgspec.to_builtins(offer.service)
    service.pop("name")
    budget = offer.provider.budget
    capacity = budget.capacity(offer.service) if budget is not None else None
    if capacity is not None:
        service["at_work"] = capacity.at_work
    return {
        "app": offer.app,
        "instance": offer.instance,
        "version": offer.service.version,
        **service,
        "tags": offer.tags,
        "in_flight": offer.provider.in_flight,
    }


def change_document(change: Change) -> dict[str, Any]:
    """Return one event of `mesh.registry.watch`."""
    return {
        "type": "changed",
        "app": change.app,
        "instance": change.instance,
        "added": [{"name": s.name, "version": s.version} for s in change.added],
        "removed": [{"name": s.name, "version": s.version} for s in change.removed],
    }
