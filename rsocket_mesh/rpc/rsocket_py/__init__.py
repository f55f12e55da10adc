"""Programs written for rsocket-py, through the mesh: its handlers served, its client interface.

`HandlerService` serves a `RequestHandler` of theirs (so also a `RequestRouter`) unchanged;
`MeshRSocket` is a mesh connection for code that expects their `RSocket`. Both keep the demand:
`Subscription.request` is credit on the wire, and credit is `Subscription.request`.
Source: rsocket-py 0.4, `rsocket.request_handler`, `rsocket.rsocket`, and `reactivestreams`.
"""

from rsocket_mesh.rpc.rsocket_py.client import MeshRSocket
from rsocket_mesh.rpc.rsocket_py.serving import HandlerService

__all__ = ["HandlerService", "MeshRSocket"]
