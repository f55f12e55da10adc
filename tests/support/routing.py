"""What tests of routing talk about: providers, announcements and addresses, in one line each."""

from __future__ import annotations

from broker.routing.address import Address, parse_address
from rsocket_mesh.protocol.announce import Announcement, MethodInfo, ServiceInfo


class FakeProvider:
    """A session as routing sees it."""

    def __init__(self, name: str = "p", in_flight: int = 0, accepting: bool = True) -> None:
        self.name = name
        self.in_flight = in_flight
        self.accepting = accepting

    def __repr__(self) -> str:
        return self.name


def service(name: str, version: str = "1.0", *methods: str, **fields: object) -> ServiceInfo:
    """One service; it has any method unless some are named."""
    known = {method: MethodInfo() for method in methods} if methods else None
    return ServiceInfo(name, version, methods=known, **fields)  # type: ignore[arg-type]  # by field name


def announcement(*services: ServiceInfo, app: str = "shop", **tags: str) -> Announcement:
    return Announcement(app, tags=tags, services=services)


def to(*tags: str) -> Address:
    return parse_address(tags)
