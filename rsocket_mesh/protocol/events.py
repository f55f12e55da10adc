"""What happens on stream 0 of a connection, as its shell gets to see it.

Tuples without behaviour: `protocol.connection` returns them in the order in which they happened,
and each shell acts on those that concern it.
"""

from __future__ import annotations

from typing import NamedTuple

from rsocket_mesh.errors import ConnectionClosed, RSocketError
from rsocket_mesh.protocol.frames import Lease, Resume, Setup


class SetupArrived(NamedTuple):
    """A valid SETUP: answer with `accept` or `refuse`."""

    setup: Setup


class ResumeArrived(NamedTuple):
    """RESUME came as the first frame: give the transport to that session, or `refuse`."""

    resume: Resume


class TransportSilent(NamedTuple):
    """Nothing was heard for the lifetime, so the transport is dead: drop it, and `suspend`.

    Only for a resumable session; any other one ends.
    """

    error: ConnectionClosed


class KeepaliveAnswered(NamedTuple):
    """The peer answered our KEEPALIVE; the first time, it has also accepted our SETUP."""

    data: bytes


class MetadataPushed(NamedTuple):
    metadata: bytes


class LeaseArrived(NamedTuple):
    lease: Lease


class PeerClosing(NamedTuple):
    """The peer sent CONNECTION_CLOSE: begin nothing new, close after the last open stream."""

    text: str


class ConnectionEnded(NamedTuple):
    """Nothing more will happen here: send what `frames_to_send` holds, then close the transport.

    `reason` is a short stable word for operators; `error` is what fails the pending calls.
    """

    reason: str
    error: RSocketError


class Ignored(NamedTuple):
    """A frame without effect; `what` is a short stable text to count by."""

    what: str


Event = (
    SetupArrived
    | ResumeArrived
    | TransportSilent
    | KeepaliveAnswered
    | MetadataPushed
    | LeaseArrived
    | PeerClosing
    | ConnectionEnded
    | Ignored
)
