"""The first bytes of a connection: a SETUP, or something that has to be told so.

Stands beside `link`, which comes here until its SETUP has been accepted. Whatever is no SETUP is
refused by its header, because what claims to be a frame may never be complete.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from broker.kernel import relay
from rsocket_mesh.errors import ErrorCode
from rsocket_mesh.protocol.frames import HEADER, RESUME, SETUP
from rsocket_mesh.protocol.framing import PREFIX_SIZE

if TYPE_CHECKING:
    from broker.forwarding.link import Link

_HTTP_METHODS: Final = (b"GET ", b"POST ", b"PUT ", b"HEAD ", b"OPTIONS ", b"DELETE ", b"PRI * ")
_HTTP_ANSWER: Final = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
    b"This port speaks RSocket over TCP. For WebSocket and for HTTP the broker has other ports.\n"
)


def before_setup(link: Link, data: bytes) -> int:
    """Take a batch of a session that is not open; return how many bytes were used."""
    hub = link.hub
    if link.connection.next_deadline() is None:  # it has ended
        return len(data)
    head = data[PREFIX_SIZE : PREFIX_SIZE + HEADER.size]
    if len(head) < HEADER.size:
        return 0
    stream_id, word = HEADER.unpack(head)
    if stream_id or word >> 10 not in (SETUP, RESUME):
        if data.startswith(_HTTP_METHODS) and link.transport.scheme in ("tcp", "tls", "unix"):
            link.out.append(_HTTP_ANSWER)
            link.end("http-on-rsocket-port", "spoke HTTP on an RSocket port")
        else:
            link.handle(link.connection.receive_frame(head, hub.now))
        return len(data)
    stop = PREFIX_SIZE + int.from_bytes(data[:PREFIX_SIZE], "big")
    most = hub.config.limits.setup_bytes
    if stop - PREFIX_SIZE > most:
        text = f"SETUP frame of {stop - PREFIX_SIZE} bytes exceeds the limit of {most}"
        link.limit_hit("setup_bytes")
        link.fail(ErrorCode.INVALID_SETUP, text, "invalid-setup")
        return len(data)
    if stop > len(data) or stop < PREFIX_SIZE + HEADER.size:
        return 0
    hub.counters.frames_in += 1
    if word >> 10 == RESUME and stop < len(data):  # (C-116, C-121)
        link.violated(f"{len(data) - stop} bytes behind RESUME, before it was answered")
        return len(data)
    link.handle(link.connection.receive_frame(data[PREFIX_SIZE:stop], hub.now))
    if not link.open:
        return len(data)
    if stop == len(data):
        return stop
    if link.session is not None:  # what comes in one batch with its SETUP counts, too
        return stop + link.session.batch_received(data[stop:])
    return stop + relay(link, data[stop:])
