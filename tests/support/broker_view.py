"""A broker that is only a view: what admin and metrics see, set by hand."""

from __future__ import annotations

from broker.admin.snapshot import ConnectionView, ServiceView, Snapshot
from broker.observe.counters import Counters


class FakeView:
    """A `BrokerView` whose next snapshot is `shown`; an exception there is raised instead."""

    def __init__(self) -> None:
        self.counters = Counters()
        self.shown: Snapshot | Exception = a_snapshot()

    async def refresh(self) -> bool:
        return True

    def snapshot(self) -> Snapshot:
        if isinstance(self.shown, Exception):
            raise self.shown
        return self.shown


def a_snapshot(
    state: str = "ready",
    connections: tuple[ConnectionView, ...] = (),
    services: tuple[ServiceView, ...] = (),
) -> Snapshot:
    return Snapshot(state, "1.2.3", 12.5, connections, services, streams_open=7)


def a_connection(number: int = 1, **changes: object) -> ConnectionView:
    connection = ConnectionView(
        id=number,
        transport="tcp 127.0.0.1:51234",
        tenant="default",
        app="shop",
        instance=f"shop-{number}",
        connected_for=61.0,
        streams_open=2,
        bytes_in=1000,
        bytes_out=2000,
        outbound=10,
        services=("orders",),
    )
    return connection._replace(**changes)


def a_service(name: str = "orders", **changes: object) -> ServiceView:
    service = ServiceView("default", name, ("1.4.0",), instances=2, in_flight=3)
    return service._replace(**changes)
