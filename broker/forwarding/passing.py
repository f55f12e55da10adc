"""A request that another worker passes on: who asks, in front of what the caller sent.

A request between two workers of one broker (`broker.workers`) crosses an internal connection. If it
is plain and nobody has to know who calls, its frame crosses as it is. Otherwise the worker that has
the caller puts one entry in front of the caller's metadata, which stays as it came byte by byte:
how the caller writes (its MIME types), who it is, and where it goes without a route. The worker
that has the provider takes the entry off and goes on as if the caller were its own, so one rule
holds whether a call crosses or not. The entry is believed because only workers have such links.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import msgspec

from broker.forwarding.splice import Shape, Wanted, splice
from rsocket_mesh.errors import Invalid, NoRoute
from rsocket_mesh.protocol.metadata import encode_entry

if TYPE_CHECKING:
    from broker.forwarding.link import Link
    from broker.forwarding.routes import Route

ORIGIN: Final = "message/x.rsocket-mesh.origin"  # between workers of one version only
_HEAD: Final = encode_entry(ORIGIN, b"")[:-3]  # the entry's type, in front of its length


class Asker(Protocol):
    """Whose request it is: a link, or a caller of another worker."""

    @property
    def sends(self) -> Shape:
        """How it writes its requests."""

    @property
    def tenant(self) -> str: ...

    @property
    def caller_entry(self) -> bytes:
        """Who it is, as JSON, for providers that want to know."""

    def route_of(self, routing: bytes | None) -> Route:
        """Return where a request with these routing tags goes; raises as `Link.route_of`."""


class _Origin(msgspec.Struct, array_like=True):
    metadata_mime: str
    data_mime: str
    caller_entry: bytes
    tenant: str
    default_service: str
    has_metadata: bool


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(_Origin)


class RemoteAsker:
    """A caller of another worker."""

    __slots__ = ("_default", "_link", "caller_entry", "sends", "tenant")

    def __init__(self, link: Link, origin: _Origin) -> None:
        self._link = link
        self._default = origin.default_service
        self.sends = Shape(origin.metadata_mime, origin.data_mime)
        self.caller_entry = origin.caller_entry
        self.tenant = origin.tenant

    def route_of(self, routing: bytes | None) -> Route:
        routes = self._link.hub.routes_here(self.tenant)
        if routing is not None:
            return routes.resolve(routing)
        if not self._default:
            raise NoRoute("the request has no routing metadata and there is no default service")
        return routes.default(self._default)


def passed_on(
    metadata: bytes | None, wanted: Wanted, link: Link, remaining_ms: int | None
) -> bytes | None:
    """Return the metadata with which a request of *link* crosses to another worker.

    Args:
        wanted: what was read from *metadata*.
        remaining_ms: the deadline to restamp; None leaves it as it is.
    Raises:
        LocalProtocolError: as `splice`.
    """
    shape = link.sends
    inner = splice(metadata, wanted, shape, shape, b"", remaining_ms)
    announced = link.announcement.default_service if link.announcement is not None else ""
    origin = _encoder.encode(
        _Origin(
            *(shape.metadata_mime, shape.data_mime, link.caller_entry, link.tenant),
            *(announced or link.default_service, inner is not None),
        )
    )
    return b"".join((_HEAD, len(origin).to_bytes(3, "big"), origin, inner or b""))


def unpacked(link: Link, asker: Asker, metadata: bytes | None) -> tuple[Asker, bytes | None]:
    """Return who asks and with what metadata, of a request that came over the sibling *link*;
    *asker* if it does not say."""
    if metadata is None or not metadata.startswith(_HEAD):
        return asker, metadata
    begin = len(_HEAD) + 3
    end = begin + int.from_bytes(metadata[len(_HEAD) : begin], "big")
    try:
        origin = _decoder.decode(metadata[begin:end])
    except msgspec.DecodeError as exc:
        raise Invalid(f"the request of another worker cannot be read: {exc}") from exc
    return RemoteAsker(link, origin), metadata[end:] if origin.has_metadata else None
