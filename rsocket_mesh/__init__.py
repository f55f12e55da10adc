"""RSocket Mesh: services that find and call each other through one broker, over RSocket.

The rooms; each imports only from those above it:
    errors      the one exception tree, wire codes and reason tokens
    protocol    sans-IO: frames, metadata, announcement, connection, streams and credit
    codec       values <-> bytes by MIME type
    transport   TCP, TLS, Unix socket, WebSocket, memory: batches of whole frames
    peer        one live connection on asyncio: requester, responder, timers
    rpc         what applications use: `Service`, `connect` and calls by name
    testing     a whole mesh in one test; raw frames for any peer
    cli         the `rsocket-mesh` command
"""

# Names are loaded at their first use, so that importing the package costs next to nothing.

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rsocket_mesh.codec import Codec, DecodeError, EncodeError, register_codec
    from rsocket_mesh.errors import (
        ApplicationError,
        Canceled,
        ConnectionClosed,
        DeadlineExceeded,
        Draining,
        Forbidden,
        Invalid,
        NoRoute,
        Overloaded,
        PeerLost,
        ProtocolError,
        RateLimited,
        Rejected,
        RSocketError,
        SetupRefused,
        SlowConsumer,
        StreamError,
        Unavailable,
        Unreachable,
    )
    from rsocket_mesh.protocol.payload import Payload
    from rsocket_mesh.rpc.client import ServiceHandle
    from rsocket_mesh.rpc.context import Call, current_call
    from rsocket_mesh.rpc.mesh import Mesh, connect
    from rsocket_mesh.rpc.observables import on_overflow
    from rsocket_mesh.rpc.overflow import Demand, Overflow, buffer
    from rsocket_mesh.rpc.route import Route
    from rsocket_mesh.rpc.rsocket_py import HandlerService, MeshRSocket
    from rsocket_mesh.rpc.runner import run
    from rsocket_mesh.rpc.service import Service
    from rsocket_mesh.rpc.streams import ItemStream

__all__ = [
    "ApplicationError",
    "Call",
    "Canceled",
    "Codec",
    "ConnectionClosed",
    "DeadlineExceeded",
    "DecodeError",
    "Demand",
    "Draining",
    "EncodeError",
    "Forbidden",
    "HandlerService",
    "Invalid",
    "ItemStream",
    "Mesh",
    "MeshRSocket",
    "NoRoute",
    "Overflow",
    "Overloaded",
    "Payload",
    "PeerLost",
    "ProtocolError",
    "RSocketError",
    "RateLimited",
    "Rejected",
    "Route",
    "Service",
    "ServiceHandle",
    "SetupRefused",
    "SlowConsumer",
    "StreamError",
    "Unavailable",
    "Unreachable",
    "buffer",
    "connect",
    "current_call",
    "on_overflow",
    "register_codec",
    "run",
]

_HOMES = {
    "Call": "rpc.context",
    "Codec": "codec",
    "DecodeError": "codec",
    "Demand": "rpc.overflow",
    "EncodeError": "codec",
    "HandlerService": "rpc.rsocket_py",
    "ItemStream": "rpc.streams",
    "Mesh": "rpc.mesh",
    "MeshRSocket": "rpc.rsocket_py",
    "Overflow": "rpc.overflow",
    "Payload": "protocol.payload",
    "Route": "rpc.route",
    "Service": "rpc.service",
    "ServiceHandle": "rpc.client",
    "buffer": "rpc.overflow",
    "connect": "rpc.mesh",
    "current_call": "rpc.context",
    "on_overflow": "rpc.observables",
    "register_codec": "codec",
    "run": "rpc.runner",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
