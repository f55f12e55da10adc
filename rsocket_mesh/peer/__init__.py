"""The asyncio shell of one live connection: requester, responder, and the timers.

Here payloads become frames and back; above are values (`rsocket_mesh.rpc`), below are bytes.
"""

from rsocket_mesh.peer.calls import SentCall
from rsocket_mesh.peer.handler import NoHandler, RequestHandler
from rsocket_mesh.peer.inbox import DEFAULT_PREFETCH, PayloadStream
from rsocket_mesh.peer.opening import open_peer
from rsocket_mesh.peer.peer import Peer
from rsocket_mesh.peer.requester import Requester
from rsocket_mesh.peer.responder import Responder
from rsocket_mesh.peer.resumable import ResumableTransport

__all__ = [
    "DEFAULT_PREFETCH",
    "NoHandler",
    "PayloadStream",
    "Peer",
    "RequestHandler",
    "Requester",
    "Responder",
    "ResumableTransport",
    "SentCall",
    "open_peer",
]
