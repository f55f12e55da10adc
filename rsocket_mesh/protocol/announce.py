"""The announcement: who I am and what I serve, as JSON in the metadata of SETUP.

The live connection is the registration; this is its content. Unknown keys are ignored, everything
but `app` and a service's `name` is optional, and what is wrong is refused with the name of the
field. Our contract, version 1 (docs/wire-contract.md); the size limit is the caller's.
"""

from __future__ import annotations

import re
from typing import Any, Final, Literal

import msgspec

from rsocket_mesh.errors import Invalid
from rsocket_mesh.protocol.capacity import MAX_CONCURRENCY, MAX_RATE
from rsocket_mesh.protocol.version import parse_version

MAX_NAME_LENGTH: Final = 128  # characters of app, instance, service and method names
MAX_ROUTE_LENGTH: Final = 255  # bytes; a route travels in one routing tag
RESERVED_PREFIX: Final = "mesh."

_NAME: Final = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
_SEGMENT: Final = re.compile(r"[^{}]*|\{[A-Za-z0-9_-]+\}")  # of a route: literal, or a wildcard

Model = Literal["request-response", "request-stream", "request-channel", "fire-and-forget"]


class MethodInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """One method; all of it is information for people and tools, the broker checks none of it."""

    model: Model = "request-response"
    idempotent: bool = False
    description: str = ""
    input: Any = None  # JSON Schema
    output: Any = None  # JSON Schema
    mime: tuple[str, ...] = ()


class ServiceInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """One service of an instance.

    Attributes:
        methods: None means any method.
        concurrency: calls that it can have at work at once; None for no such limit.
        rate: calls per second that it can take; None for no such limit.
    """

    name: str
    version: str = "0"
    weight: int = 100
    tags: dict[str, str] = {}
    routes: tuple[str, ...] = ()
    methods: dict[str, MethodInfo] | None = None
    description: str = ""
    concurrency: int | None = None
    rate: float | None = None


class Announcement(msgspec.Struct, frozen=True, omit_defaults=True):
    """All that one session says of itself.

    Attributes:
        app: the program; several instances of it may be connected.
        instance: which of them; empty lets the broker choose a name.
        notices: whether the session wants METADATA_PUSH notices.
        caller: whether its handlers want the broker's entry about the verified caller.
        default_service: where this session's own calls without routing go.
    """

    app: str
    instance: str = ""
    tags: dict[str, str] = {}
    notices: bool = False
    caller: bool = False
    default_service: str = ""
    services: tuple[ServiceInfo, ...] = ()


_decoder: Final = msgspec.json.Decoder(Announcement)


def check_name(name: str, field: str) -> None:
    """Raise `Invalid` naming *field* unless *name* is dotted parts of `[A-Za-z0-9_-]+`."""
    if len(name) > MAX_NAME_LENGTH:
        raise Invalid(f"{field}: name of {len(name)} characters exceeds {MAX_NAME_LENGTH}")
    if _NAME.fullmatch(name) is None:
        raise Invalid(f"{field}: {name!r} must be parts of A-Z a-z 0-9 _ - joined by dots")


def check_announcement(announcement: Announcement) -> None:
    """Raise `Invalid` naming the field for a bad name, version, number, route or duplicate."""
    check_name(announcement.app, "app")
    if announcement.instance:
        check_name(announcement.instance, "instance")
    if announcement.default_service:
        check_name(announcement.default_service, "default_service")
    seen: set[tuple[str, str]] = set()
    for index, service in enumerate(announcement.services):
        field = f"services[{index}]"
        check_name(service.name, f"{field}.name")
        if service.name.startswith(RESERVED_PREFIX) or service.name == RESERVED_PREFIX[:-1]:
            raise Invalid(f"{field}.name: {service.name!r} belongs to the broker")
        if (service.name, service.version) in seen:
            raise Invalid(f"{field}: {service.name} {service.version} is announced twice")
        seen.add((service.name, service.version))
        try:
            parse_version(service.version)
        except Invalid as exc:
            raise Invalid(f"{field}.version: {exc.text}") from None
        if not 0 <= service.weight <= 10_000:
            raise Invalid(f"{field}.weight: {service.weight} must be 0 to 10000")
        _check_capacity(service, field)
        for route_index, route in enumerate(service.routes):
            _check_route(route, f"{field}.routes[{route_index}]")
        for method in service.methods or ():
            check_name(method, f"{field}.methods")
            if "." in method:  # a call to `s.a.b` asks for the method `b` of the service `s.a`
                raise Invalid(f"{field}.methods: {method!r} must not have a dot")


def _check_capacity(service: ServiceInfo, field: str) -> None:
    concurrency, rate = service.concurrency, service.rate
    if concurrency is not None and not 1 <= concurrency <= MAX_CONCURRENCY:
        raise Invalid(f"{field}.concurrency: {concurrency} must be 1 to {MAX_CONCURRENCY}")
    if rate is not None and not 0 < rate <= MAX_RATE:  # put so, that it refuses NaN too
        raise Invalid(f"{field}.rate: {rate:g} must be above 0 and at most {MAX_RATE:g}")


def _check_route(route: str, field: str) -> None:
    size = len(route.encode())
    if not 1 <= size <= MAX_ROUTE_LENGTH:
        raise Invalid(f"{field}: {size} bytes, must be 1 to {MAX_ROUTE_LENGTH}")
    if not all(map(_SEGMENT.fullmatch, re.split("[./]", route))):
        raise Invalid(f"{field}: in {route!r} a wildcard must be a whole segment such as {{id}}")
    if route.startswith(RESERVED_PREFIX):
        raise Invalid(f"{field}: {route!r} belongs to the broker")


def encode_announcement(announcement: Announcement) -> bytes:
    """Return the JSON; defaults are left out."""
    return msgspec.json.encode(announcement)


def decode_announcement(raw: bytes) -> Announcement:
    """Return the announcement in *raw*.

    Raises:
        Invalid: it is not JSON, a field has the wrong type, a name or version is bad; the text
            names the field.
    """
    try:
        announcement = _decoder.decode(raw)
    except msgspec.ValidationError as exc:
        raise Invalid(f"announcement: {exc}") from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise Invalid(f"announcement is not JSON: {exc}") from exc
    except RecursionError:
        raise Invalid("announcement is nested too deeply") from None
    check_announcement(announcement)
    return announcement
