"""Every knob of the broker: its unit, its default and the reason for it.

`broker.config_file` fills these structs from TOML and the environment; `rsocket-broker
--print-config` prints this page as a config file. What cannot be used safely cannot be built: each
struct checks itself, so a config that exists is one that the broker may start with.
"""

from __future__ import annotations

import re
import sys
from typing import Annotated, Final, Literal

from msgspec import Struct

from broker.addresses import admin_address, check_exposure, listener_address, socket_name
from broker.knobs import GIB, KIB, MIB, ConfigError, about, count, seconds, size
from broker.limits import ConnectionLimits
from rsocket_mesh.protocol.frames import MAX_FRAME_SIZE

__all__ = [
    "AdminConfig",
    "Config",
    "ConfigError",
    "DrainConfig",
    "LeaseConfig",
    "Limits",
    "ListenerConfig",
    "LogConfig",
    "RoutingConfig",
    "WorkersConfig",
]

INSECURE: Final = (
    "Confirms that whoever can reach the address may use it: nobody is asked who they are. Without"
    " it, an address that other machines can reach is refused at start, because such a broker is"
    " more often a mistake than a wish."
)
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*|[0-9A-Fa-f:]*::[0-9A-Fa-f:.]*")
_ORIGIN: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s]+")


class ListenerConfig(Struct, frozen=True):
    """A socket that services and callers connect to. Write one [[listeners]] for each."""

    url: Annotated[
        str,
        about(
            "tcp://host:port, tls://host:port, ws://host:port, wss://host:port or unix:///path."
            " Port 0 takes a free one. Loopback by default, so that trying the broker out opens"
            " nothing to the network."
        ),
    ]
    default_service: Annotated[
        str,
        about(
            "The service that gets the calls of clients that know no routes; empty answers them"
            " with NO_ROUTE, since guessing a service would hide a mistake."
        ),
    ] = ""
    allowed_origins: Annotated[
        tuple[str, ...],
        about(
            "Web pages that may connect, such as https://app.example.org (ws and wss only). None by"
            " default: a browser lets any page open a socket to loopback, and says which in Origin."
        ),
    ] = ()
    insecure: Annotated[bool, about(INSECURE)] = False
    certificate: Annotated[
        str, about("PEM file with the certificate chain; tls and wss need it, others refuse it.")
    ] = ""
    key: Annotated[
        str, about("PEM file with the private key; tls and wss need it, others refuse it.")
    ] = ""

    def __post_init__(self) -> None:
        address = listener_address(self.url)
        for name, value in (("certificate", self.certificate), ("key", self.key)):
            if address.is_encrypted and not value:
                raise ConfigError(f'"{self.url}" needs the PEM files certificate and key', name)
            if value and not address.is_encrypted:
                raise ConfigError(f"{address.scheme}:// has no encryption; tls and wss do", name)
        if self.allowed_origins and not address.is_websocket:
            raise ConfigError(
                f"{address.scheme}:// has no origins; ws and wss do", "allowed_origins"
            )
        for index, origin in enumerate(self.allowed_origins):
            if not _ORIGIN.fullmatch(origin):
                text = f'expected scheme://host[:port] and nothing behind it; got "{origin}"'
                raise ConfigError(text, "allowed_origins", index)
        check_exposure(address, self.insecure)


class AdminConfig(Struct, frozen=True):
    """The HTTP side for operators: health, metrics, a JSON API and a page to look at."""

    url: Annotated[
        str,
        about(
            "http://host:port; empty switches it off. Read-only, yet it tells who is connected:"
            " loopback by default."
        ),
    ] = "http://127.0.0.1:7880"
    allowed_hosts: Annotated[
        tuple[str, ...],
        about(
            "Host names or addresses, without port, under which it may be asked for, besides"
            " loopback names and the address itself. Others are refused, since a web page can point"
            " a name of its own at your loopback (DNS rebinding)."
        ),
    ] = ()
    insecure: Annotated[bool, about(INSECURE)] = False

    def __post_init__(self) -> None:
        if not self.url:
            return
        address = admin_address(self.url)
        for index, host in enumerate(self.allowed_hosts):
            if not _HOST_NAME.fullmatch(host):
                text = f'expected a host name without port, or an address; got "{host}"'
                raise ConfigError(text, "allowed_hosts", index)
        check_exposure(address, self.insecure)


class WorkersConfig(Struct, frozen=True):
    """How many processes share the work of the broker."""

    count: Annotated[
        int,
        count(
            "Processes that connections are shared out to, and that behave as one broker. One"
            " process uses one core. With more, calls between connections of different processes"
            " cost a second hop, so take as many as there are cores to spare, and no more.",
            1,
            64,
        ),
    ] = 1


class Limits(ConnectionLimits, frozen=True):
    """What one peer, and all of them together, may make the broker hold or do."""

    frame_bytes: Annotated[
        int,
        size(
            "Largest frame that is accepted; a longer one ends its connection. The default is what"
            " the 24-bit length of the protocol can say: clients choose where they fragment.",
            64,
            MAX_FRAME_SIZE,
        ),
    ] = MAX_FRAME_SIZE
    outbound_bytes: Annotated[
        int,
        size(
            "Bytes that may wait for one peer. Streams are granted credit so that their items stay"
            " below it however slowly the peer reads, and who has more waiting and reads nothing"
            " for slow_reader_timeout is closed. Room for some round trips on a fast link.",
            MIB,
            64 * GIB,
        ),
    ] = 4 * MIB
    large_payload_bytes: Annotated[
        int,
        size(
            "Bytes that may wait for one peer beyond outbound_bytes while answers or items under"
            " way to it are large. Beyond both, the stream that brings more ends with"
            " SLOW_CONSUMER. As much as the largest payload that is usual.",
            0,
            64 * GIB,
        ),
    ] = 64 * MIB
    stream_window_bytes: Annotated[
        int,
        size(
            "Bytes of items that one stream may have on their way to a consumer's socket, and fewer"
            " if many streams share it. A round trip to the provider of 40 ms at 100 Mbit/s, or of"
            " 4 ms at 1 Gbit/s; more lets one stream be faster over a long way.",
            KIB,
            GIB,
        ),
    ] = 512 * KIB
    slow_reader_timeout: Annotated[
        float,
        seconds(
            "A peer that has more than outbound_bytes waiting and takes nothing at all for so long"
            " is closed as slow-reader. Longer than any pause of a garbage collector.",
            0.1,
            3600,
        ),
    ] = 10.0
    payload_bytes: Annotated[
        int,
        size(
            "Largest message in fragments. The broker passes fragments on and holds none, but"
            " whoever gets them has to: twice what is usual, and more belongs into a stream.",
            64 * KIB,
            64 * GIB,
        ),
    ] = 128 * MIB
    unfinished_bytes: Annotated[
        int,
        size(
            "Bytes of all messages together that one peer has begun in fragments and not finished."
            " Room for two of the largest, or thousands of ordinary ones.",
            64 * KIB,
            64 * GIB,
        ),
    ] = 256 * MIB
    memory_bytes: Annotated[
        int,
        size(
            "Memory of the whole process. From 85 % of it on streams get smaller windows, from 92 %"
            " on new requests and sessions are refused, from 95 % on the peer with most waiting is"
            " closed. 0 takes three quarters of what the machine or the container has.",
            0,
            64 * 1024 * GIB,
        ),
    ] = 0
    streams: Annotated[
        int,
        count(
            "Requests that one peer may have open at once, about 1 KiB each. More than a busy"
            " gateway ever has, and few enough that one peer cannot fill the memory with them.",
            1,
            10_000_000,
        ),
    ] = 16_384
    requests_per_second: Annotated[
        int,
        count(
            "Requests that one peer may begin per second. Above what one core relays, so nobody"
            " meets it by working; lower it to share one broker fairly.",
            1,
            1_000_000_000,
        ),
    ] = 1_000_000
    resets_per_second: Annotated[
        int,
        count(
            "Requests that one peer may cancel per second in the long run, and twice as many at"
            " once. Opening and cancelling costs the peer nothing and providers a lot: beyond it"
            " the connection is closed as rapid-reset.",
            1,
            1_000_000_000,
        ),
    ] = 10_000
    setup_timeout: Annotated[
        float,
        seconds(
            "From the connection to its SETUP frame. Generous for a slow network, short for"
            " somebody who only holds sockets open.",
            0.1,
            300,
        ),
    ] = 5.0
    lifetime_min: Annotated[
        float,
        seconds(
            "A peer that asks in SETUP to be called dead after less silence than this gets this:"
            " one pause of its garbage collector should not cost it its connection.",
            0.1,
            3600,
        ),
    ] = 1.0
    lifetime_max: Annotated[
        float,
        seconds(
            "A peer that asks for more silence than this gets this. A dead provider is offered"
            " calls until its lifetime ends; common clients ask for up to 10 minutes.",
            0.1,
            86400,
        ),
    ] = 900.0
    announcement_bytes: Annotated[
        int,
        size(
            "Largest announcement of one peer's services, schemas included. Room for hundreds of"
            " methods; it is kept as long as the peer is connected.",
            KIB,
            MAX_FRAME_SIZE,
        ),
    ] = 256 * KIB
    metadata_bytes: Annotated[
        int,
        size(
            "Metadata collected from a fragmented request until its routing entry is complete. A"
            " route is short; a client that hides it behind more than this is refused.",
            KIB,
            MAX_FRAME_SIZE,
        ),
    ] = 64 * KIB
    waiting_requests: Annotated[
        int,
        count(
            "Requests, of all peers together, that may wait for somebody who serves their route"
            " (see routing.route_wait). More are refused at once.",
            0,
            10_000_000,
        ),
    ] = 10_000
    waiting_bytes: Annotated[
        int,
        size(
            "Bytes that those waiting requests may hold together: about 6 KiB each by default.",
            0,
            64 * GIB,
        ),
    ] = 64 * MIB

    def __post_init__(self) -> None:
        if self.lifetime_min > self.lifetime_max:
            text = f"{self.lifetime_min:g} s is more than lifetime_max, {self.lifetime_max:g} s"
            raise ConfigError(text, "lifetime_min")


class RoutingConfig(Struct, frozen=True):
    """How a call finds its provider."""

    route_wait: Annotated[
        float,
        seconds(
            "How long a call waits for somebody who serves its route. 0 refuses at once, which a"
            " caller sees and may repeat; a few seconds hide the restart of a single instance.",
            0,
            300,
        ),
    ] = 0.0
    default_deadline: Annotated[
        float,
        seconds(
            "For a request-response whose caller names no deadline, so that nothing waits without"
            " bound. Libraries name their own, mostly far shorter.",
            0.1,
            86400,
        ),
    ] = 60.0
    route_cache: Annotated[
        int,
        count(
            "Routing entries whose providers are remembered, about 0.5 KiB each. More than the"
            " distinct routes in use, or calls pay for parsing again.",
            16,
            10_000_000,
        ),
    ] = 65_536


class LeaseConfig(Struct, frozen=True):
    """What clients that ask for leases (L in SETUP) are granted."""

    ttl: Annotated[
        float,
        seconds(
            "How long a LEASE is good for; it is renewed after half of it. Long enough to cost"
            " nothing, short enough that a share nobody uses comes back.",
            0.5,
            3600,
        ),
    ] = 10.0
    first_requests: Annotated[
        int,
        count(
            "Requests granted to a client that has called nothing lately, so that nobody knows what"
            " its providers can take. Few, since with half of them used it is granted what fits.",
            1,
            1_000_000,
        ),
    ] = 8
    max_requests: Annotated[
        int,
        count(
            "Requests granted at most by one LEASE, also where the providers name no limit. In fact"
            " no limit, since it is renewed when half is used.",
            1,
            2_147_483_647,
        ),
    ] = 1_000_000


class DrainConfig(Struct, frozen=True):
    """What happens between the order to stop and the end."""

    timeout: Annotated[
        float,
        seconds(
            "How long running calls may take to finish; then they are cut off. Service managers"
            " kill after a time of their own, mostly 10 to 90 s: stay below it.",
            0,
            86400,
        ),
    ] = 30.0


class LogConfig(Struct, frozen=True):
    """Lines about the broker itself, on stderr."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"],
        about(
            "The least level that is written. No level logs single calls: counting is cheaper than"
            " writing, see /metrics."
        ),
    ] = "info"
    format: Annotated[
        Literal["text", "json"],
        about("text for people, json (one object a line) for log collectors."),
    ] = "text"


class Config(Struct, frozen=True):
    """The whole configuration of one broker; `Config()` is what runs without any file."""

    listeners: Annotated[
        tuple[ListenerConfig, ...], about("Where services and callers connect; at least one.")
    ] = (ListenerConfig("tcp://127.0.0.1:7878"), ListenerConfig("ws://127.0.0.1:7879"))
    admin: Annotated[AdminConfig, about("The HTTP side for operators.")] = AdminConfig()
    workers: Annotated[WorkersConfig, about("The processes of the broker.")] = WorkersConfig()
    limits: Annotated[Limits, about("What peers may make the broker hold.")] = Limits()
    routing: Annotated[RoutingConfig, about("How calls find providers.")] = RoutingConfig()
    lease: Annotated[LeaseConfig, about("What clients that ask for leases are granted.")] = (
        LeaseConfig()
    )
    drain: Annotated[DrainConfig, about("How the broker stops.")] = DrainConfig()
    log: Annotated[LogConfig, about("What the broker writes.")] = LogConfig()

    def __post_init__(self) -> None:
        if not self.listeners:
            raise ConfigError("a broker without a listener serves nobody; name one", "listeners")
        if self.workers.count > 1 and sys.platform == "win32":
            text = "this system cannot hand sockets from one process to another; 1 works"
            raise ConfigError(text, "workers", "count")
        taken: dict[str, str] = {}
        if self.admin.url and (admin := socket_name(admin_address(self.admin.url))):
            taken[admin] = "admin.url"
        for index, listener in enumerate(self.listeners):
            address = listener_address(listener.url)
            if self.workers.count > 1 and address.scheme == "memory":
                text = f'"{listener.url}" is reached in one process only; set workers.count to 1'
                raise ConfigError(text, "listeners", index, "url")
            name = socket_name(address)
            if name in taken:
                text = f'"{listener.url}" is already taken by {taken[name]}'
                raise ConfigError(text, "listeners", index, "url")
            if name:
                taken[name] = f"listeners[{index}].url"
