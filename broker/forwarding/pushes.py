"""METADATA_PUSH: an announcement of the session itself, or something for a provider.

It has no flow control and no answer, so what can't be used is dropped and counted, and only who
floods with it hears of it. Credentials and entries of ours stay on their hop.
Source: RSocket Protocol 1.0, "Metadata Push".
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from broker.forwarding.limiter import OverLimit
from broker.forwarding.passing import Asker, passed_on, unpacked
from broker.forwarding.splice import Wanted, read, splice_push
from rsocket_mesh.errors import Invalid, LocalProtocolError, StreamError
from rsocket_mesh.protocol.frames import encode_metadata_push
from rsocket_mesh.protocol.metadata import ANNOUNCE

if TYPE_CHECKING:
    from broker.forwarding.link import Link

_log: Final = logging.getLogger("rsocket_broker.sessions")


def pushed(link: Link, metadata: bytes) -> None:
    """Take a METADATA_PUSH of *link*."""
    hub = link.hub
    try:
        asker: Asker = link
        if link.is_sibling:
            asker, inner = unpacked(link, link, metadata)
            metadata = inner or b""
        else:
            hub.limiter.check_push(link, len(metadata))
        wanted = read(metadata, asker.sends.metadata_mime, hub.config.limits.metadata_entries)
        announced = next((e.content for e in wanted.entries if e.mime == ANNOUNCE), None)
        if announced is not None:
            hub.limiter.check_change(link, len(announced))
            hub.announce(link, hub.decoded(announced))
        else:
            _pass(link, asker, wanted, metadata)
    except StreamError as exc:
        _drop(link, exc)


def _pass(link: Link, asker: Asker, wanted: Wanted, metadata: bytes) -> None:
    counters = link.hub.counters
    chosen = asker.route_of(wanted.routing).pick(counters.frames_in)
    if chosen is None:
        counters.dropped["push_no_route"] += 1
        return
    provider = chosen.provider
    try:
        if provider.is_sibling:
            passed = passed_on(metadata, wanted, link, None)
            assert passed is not None
        else:
            passed = splice_push(metadata, wanted, asker.sends, provider.takes)
    except LocalProtocolError as exc:
        raise Invalid(f"the metadata cannot be passed on: {exc}") from None
    provider.send(encode_metadata_push(passed))


def _drop(link: Link, error: StreamError) -> None:
    hub = link.hub
    hub.counters.dropped[f"push_{(error.token or 'error').lower()}"] += 1
    if isinstance(error, OverLimit):
        hub.limiter.hit(error.limit, link, error.text)
    if _log.isEnabledFor(logging.DEBUG):  # the link's name costs more than the rest
        _log.debug("%s: METADATA_PUSH dropped: %s", link.name, error)
