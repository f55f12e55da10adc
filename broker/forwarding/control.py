"""What a session does about stream 0: each event of the connection's state machine, in order.

Stands beside `link`, which brings the events, and sends what the machine has to say about them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from broker.forwarding.pushes import pushed
from rsocket_mesh.protocol.events import (
    ConnectionEnded,
    Event,
    Ignored,
    LeaseArrived,
    MetadataPushed,
    PeerClosing,
    ResumeArrived,
    SetupArrived,
    TransportSilent,
)
from rsocket_mesh.protocol.frames import Lease

if TYPE_CHECKING:
    from broker.forwarding.link import Link


def act_on(link: Link, events: Iterable[Event]) -> bool:
    """Act on *events*; return whether the machine may have more to say afterwards."""
    hub = link.hub
    for event in events:
        if isinstance(event, SetupArrived):
            hub.admit(link, event.setup)
        elif isinstance(event, ResumeArrived):
            hub.resume(link, event.resume)
            return False
        elif isinstance(event, TransportSilent):
            assert link.session is not None
            link.session.lose(event.error)
        elif isinstance(event, MetadataPushed):
            pushed(link, event.metadata)
        elif isinstance(event, LeaseArrived):
            _leased(link, event.lease)
        elif isinstance(event, Ignored):
            link.ignored(event.what)
        elif isinstance(event, PeerClosing):
            link.accepting = False  # what is open finishes; the peer or a deadline closes
            hub.watch(link)
        elif isinstance(event, ConnectionEnded):
            link.flush_connection()
            if event.reason == "setup-timeout":
                link.limit_hit("setup_timeout")
            link.end(event.reason, str(event.error))
            return False
    return True


def _leased(link: Link, lease: Lease) -> None:
    budget = link.budget
    if budget is not None and budget.leased is not None:
        link.hub.counters.leases_received += 1
        budget.leased.receive(lease, link.hub.now)
        link.hub.queue.wake()
