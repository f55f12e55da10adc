"""The worked examples of the wire contract, made by our own codec."""

from __future__ import annotations

from rsocket_mesh.errors import NoRoute
from rsocket_mesh.protocol.announce import Announcement, ServiceInfo, encode_announcement
from rsocket_mesh.protocol.frames import (
    REQUEST_RESPONSE,
    Lease,
    Setup,
    encode_error,
    encode_keepalive,
    encode_lease,
    encode_metadata_push,
    encode_payload,
    encode_request,
    encode_setup,
)
from rsocket_mesh.protocol.framing import prefix
from rsocket_mesh.protocol.metadata import (
    ANNOUNCE,
    CBOR,
    COMPOSITE,
    DATA_MIME_TYPE,
    DEADLINE,
    JSON,
    NOTICE,
    ROUTING,
    SHARD,
    encode_composite,
    encode_deadline,
    encode_entry,
    encode_mime,
    encode_routing,
)


def on_tcp(frame: bytes) -> bytes:
    return prefix(len(frame)) + frame


def setup() -> bytes:
    announcement = Announcement("shop", services=(ServiceInfo("orders", "1.4.0"),))
    return encode_setup(
        Setup(
            keepalive_ms=20_000,
            lifetime_ms=60_000,
            metadata_mime=COMPOSITE,
            data_mime=JSON,
            metadata=encode_composite([(ANNOUNCE, encode_announcement(announcement))]),
        )
    )


def request() -> bytes:
    metadata = encode_composite(
        [
            (ROUTING, encode_routing(["orders.total", "version=^1.4"])),
            (DEADLINE, encode_deadline(1500)),
        ]
    )
    return encode_request(REQUEST_RESPONSE, 1, metadata, b'{"sku":"A1"}')


EXAMPLES: dict[str, bytes] = {
    "setup": on_tcp(setup()),
    "keepalive": on_tcp(encode_keepalive(respond=True)),
    "keepalive-answer": on_tcp(encode_keepalive(respond=False)),
    "lease": on_tcp(encode_lease(Lease(10_000, 8))),
    "request": on_tcp(request()),
    "answer": on_tcp(encode_payload(1, None, b"7", complete=True)),
    "error": on_tcp(encode_error(1, *NoRoute("nobody serves 'orders'").to_wire())),
    "data-type": encode_entry(DATA_MIME_TYPE, encode_mime(CBOR)),
    "shard": encode_entry(SHARD, b"customer-17"),
    "notice": on_tcp(
        encode_metadata_push(encode_entry(NOTICE, b'{"type":"draining","timeout_s":30.0}'))
    ),
}
