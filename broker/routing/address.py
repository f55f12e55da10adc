"""What a call is addressed to: the routing tags of one request, parsed.

First stage of a lookup (address -> table -> selection); sans-IO like all of this room. The first
tag is the route, the others are selectors `key=value` that narrow down who may answer. Our
contract of routing metadata (docs/wire-contract.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from rsocket_mesh.errors import Invalid
from rsocket_mesh.protocol.version import VersionRange, parse_range

# Keys that other dialects use for routing type, encoding and stickiness: never tags of a service.
RESERVED_KEYS: Final = frozenset({"m", "e", "sticky"})


class Address(NamedTuple):
    """One parsed address; `version` and `instance` are None when the caller does not care.

    `tags` are the other selectors: each must equal a tag of the service or of its instance.
    """

    route: str
    version: VersionRange | None = None
    instance: str | None = None
    tags: tuple[tuple[str, str], ...] = ()

    @property
    def is_plain(self) -> bool:
        """True if there is a route and nothing else."""
        return self.version is None and self.instance is None and not self.tags

    def selectors(self) -> str:
        """Return the selectors as they are written, such as `version=^1.4 zone=eu-1`."""
        said = [f"version={self.version}"] if self.version is not None else []
        said += [f"instance={self.instance}"] if self.instance is not None else []
        return " ".join([*said, *(f"{key}={value}" for key, value in self.tags)])


def parse_address(tags: Sequence[str]) -> Address:
    """Return the address that the *tags* of a routing entry describe.

    Tags without `=` behind the first are ignored, and so are the reserved keys.

    Raises:
        Invalid: there is no route, a version range cannot be read, or `version` or `instance`
            is there twice.
    """
    if not tags or not tags[0]:
        raise Invalid("routing metadata: the first tag must be a route such as service.method")
    version: VersionRange | None = None
    instance: str | None = None
    others: list[tuple[str, str]] = []
    for tag in tags[1:]:
        key, equals, value = tag.partition("=")
        if not equals or key in RESERVED_KEYS:
            continue
        if key == "version":
            _once(key, version)
            version = parse_range(value)
        elif key == "instance":
            _once(key, instance)
            instance = value
        else:
            others.append((key, value))
    return Address(tags[0], version, instance, tuple(others))


def _once(key: str, before: object) -> None:
    if before is not None:
        raise Invalid(f"routing metadata: the selector {key}= is there twice")
