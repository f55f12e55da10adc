"""Connections that carry whole frames: TCP, TLS, Unix sockets, WebSocket, and in memory.

Stands on `protocol`; `peer` and the broker stand on it. A transport moves batches of whole frames,
understands none, and never holds more than its limits: what is incomplete (`max_frame`), what waits
for a peer that does not read (`max_outbound`), and how long a close may take.

    url        one form of URL           dialing, listening   `dial`, `listen`
    base       the two contracts         framed, sockets, chunks, fair_reads  what transports share
    tcp        TCP, TLS, Unix sockets    websocket, memory    the other two
"""

from rsocket_mesh.transport.base import Receiver, Transport
from rsocket_mesh.transport.dialing import dial
from rsocket_mesh.transport.listening import Listener, listen
from rsocket_mesh.transport.tls import server_tls
from rsocket_mesh.transport.url import InvalidUrl, Url, parse_url

__all__ = [
    "InvalidUrl",
    "Listener",
    "Receiver",
    "Transport",
    "Url",
    "dial",
    "listen",
    "parse_url",
    "server_tls",
]
