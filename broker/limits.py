"""The knobs that bound a connection as such: how many there are, and what each may say how often.

`broker.config.Limits` adds what a connection may make the broker hold; to operators both are the
one table `[limits]`. Each key is also the name under which the broker counts that the limit was
hit (`rsocket_broker_limits_hit_total`). Who enforces them is `broker.forwarding.admission` for the
number of connections, `broker.forwarding.resumption` for sessions that outlive theirs, and
`broker.forwarding.limiter` for the rest.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Struct

from broker.knobs import GIB, KIB, MIB, count, seconds, size
from rsocket_mesh.protocol.frames import MAX_FRAME_SIZE
from rsocket_mesh.protocol.metadata import MAX_TAG_LENGTH

__all__ = ["ConnectionLimits"]


class ConnectionLimits(Struct, frozen=True):
    """How many connections there may be, what each of them may say how often, and how long and at
    what cost a session may outlive its own."""

    connections: Annotated[
        int,
        count(
            "Connections of all peers together. An idle one costs at most 20 KiB; the default is"
            " 400 MiB of them. More are told OVERLOADED and closed.",
            1,
            10_000_000,
        ),
    ] = 20_000
    connections_per_address: Annotated[
        int,
        count(
            "Connections from one address. Many services may share one behind NAT or a proxy; the"
            " default keeps any one address from taking more than a quarter of the places. Unix"
            " sockets have no address.",
            1,
            10_000_000,
        ),
    ] = 5_000
    connections_without_setup: Annotated[
        int,
        count(
            "Connections that have not sent their SETUP yet. Beyond this the oldest of them makes"
            " room: it had the most time, and those who speak at once are never the oldest.",
            1,
            10_000_000,
        ),
    ] = 4_096
    spare_descriptors: Annotated[
        int,
        count(
            "Open files that connections may not use up: the admin side, the log and the broker's"
            " own sockets need some. With fewer left, accepting pauses, and who connects waits in"
            " the system's queue until others have gone.",
            8,
            1_000_000,
        ),
    ] = 64
    setup_bytes: Annotated[
        int,
        size(
            "Largest SETUP frame: an announcement of full size, credentials, and room for more."
            " Refused by its length, so nobody unknown makes the broker keep 16 MiB.",
            KIB,
            MAX_FRAME_SIZE,
        ),
    ] = 512 * KIB
    frame_timeout: Annotated[
        float,
        seconds(
            "From the first byte of a frame to its last. The largest frame needs 4.5 Mbit/s for"
            " it; slower networks need smaller frames, which clients can choose.",
            0.1,
            3600,
        ),
    ] = 30.0
    keepalives_per_second: Annotated[
        int,
        count(
            "Frames of stream 0 other than METADATA_PUSH, above all KEEPALIVE, which has to be"
            " answered. Clients send one in 0.5 to 30 s. Ten seconds' worth may come at once,"
            " since a network that stood still delivers all it held. Beyond: closed.",
            1,
            1_000_000,
        ),
    ] = 10
    leases_per_second: Annotated[
        int,
        count(
            "LEASE frames of a provider that asked for leases in its SETUP. One follows each call"
            " that makes room, so there are many more than keepalives; beyond this it is closed.",
            1,
            1_000_000,
        ),
    ] = 1000
    keepalive_bytes: Annotated[
        int,
        size(
            "Data of one KEEPALIVE, which is sent back as it came. Libraries send none; some peers"
            " put a clock or a name there.",
            0,
            MIB,
        ),
    ] = 4 * KIB
    pushes_per_second: Annotated[
        int,
        count(
            "METADATA_PUSH frames of one connection; twice as many may come at once. They are"
            " never answered and have no flow control, so more than this is dropped, and who goes"
            " on regardless is closed.",
            1,
            1_000_000,
        ),
    ] = 100
    announcements_per_second: Annotated[
        int,
        count(
            "Changes of one peer's announcement, by call or push; five times as many may come at"
            " once. Each makes every caller's routes be looked up anew. 64 KiB count as one, and"
            " what is beyond is refused with RATE_LIMITED; who goes on regardless is closed.",
            1,
            1_000_000,
        ),
    ] = 4
    stray_frames_per_second: Annotated[
        int,
        count(
            "Frames of one connection that are ignored, such as those of streams that have ended;"
            " five times as many may come at once. A peer that sends more is read as fast as"
            " this, and closed if it goes on; but not if it serves something, because what was"
            " under way when others cancelled is no fault of it.",
            1,
            1_000_000_000,
        ),
    ] = 10_000
    own_calls_per_second: Annotated[
        int,
        count(
            "Calls of one connection to the broker's own services (mesh.*); twice as many may come"
            " at once. Some answers list all services, which is more work than relaying thousands"
            " of calls. More are refused with RATE_LIMITED.",
            1,
            1_000_000,
        ),
    ] = 100
    metadata_entries: Annotated[
        int,
        count(
            "Entries of one frame's composite metadata. Usual are one to five; each costs time"
            " that its four bytes do not pay for.",
            1,
            1_000_000,
        ),
    ] = 64
    route_bytes: Annotated[
        int,
        size(
            "Longest route of a request, the first of its routing tags. The default is what the"
            " length byte of a tag can say.",
            1,
            MAX_TAG_LENGTH,
        ),
    ] = MAX_TAG_LENGTH
    route_tags: Annotated[
        int,
        count(
            "Routing tags of one request, the route included. Each selector is compared with the"
            " tags of every provider of the service.",
            1,
            10_000,
        ),
    ] = 32
    announced_services: Annotated[
        int,
        count(
            "Services that one peer may announce. A process that serves hundreds is a gateway, and"
            " may spread them over several connections.",
            1,
            100_000,
        ),
    ] = 256
    announced_methods: Annotated[
        int,
        count(
            "Methods that one peer may announce, of all its services together. Each costs some"
            " 200 bytes as long as the peer is connected, however short its name is.",
            1,
            1_000_000,
        ),
    ] = 2_000
    announced_routes: Annotated[
        int,
        count(
            "Route patterns that one peer may announce, of all its services together. Each segment"
            " of each is a place in the tree that routes are looked up in.",
            0,
            100_000,
        ),
    ] = 512
    announced_tags: Annotated[
        int,
        count(
            "Tags of one announced instance, and of each of its services. They are joined once per"
            " service, and compared on lookups.",
            0,
            10_000,
        ),
    ] = 32
    resume_timeout: Annotated[
        float,
        seconds(
            "How long a session whose client asked for resume waits for it after its socket was"
            " lost: calls in flight wait with it, new ones go elsewhere. 0 switches resume off; a"
            " minute outlasts a change of network and most restarts of what is in between.",
            0,
            86400,
        ),
    ] = 60.0
    resume_bytes: Annotated[
        int,
        size(
            "What one such session may keep to be sent again, overhead included. A full store"
            " forgets the oldest, and a client that lacks it is refused; a session that fills it"
            " while it waits ends. Twice outbound_bytes: streams are granted nothing more when half"
            " of it is full, and what they were granted before fits into the other half. Never more"
            " than outbound_bytes and large_payload_bytes together: it has to leave at once.",
            64 * KIB,
            GIB,
        ),
    ] = 8 * MIB
    resume_total_bytes: Annotated[
        int,
        size(
            "What all such sessions may keep together; beyond it the one that keeps most forgets"
            " it all.",
            64 * KIB,
            64 * GIB,
        ),
    ] = 256 * MIB
