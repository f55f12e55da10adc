"""Joins a request to its provider: the call, its two legs, and what its first frame carries.

Stands on `call`, `items` and `budget`; `requests` comes here when all has been decided. The fast
way, in the kernel, joins plain requests itself, and comes here for streams and channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.forwarding.budget import BudgetedCall, BudgetedItemCall
from broker.forwarding.call import Call
from broker.forwarding.credit import first_grant
from broker.forwarding.items import ItemCall
from broker.kernel import law
from rsocket_mesh.protocol.frames import HEADER, REQUEST_RESPONSE, STREAM_ID, Request

if TYPE_CHECKING:
    from broker.forwarding.link import Link
    from broker.forwarding.routes import Route
    from rsocket_mesh.protocol.capacity import Capacity


def join(
    link: Link,
    request: Request,
    route: Route,
    provider: Link,
    provider_id: int,
    granted: int | None,
    deadline: float | None,
    capacity: Capacity | None,
) -> Call:
    """Enter the call on both links and return it.

    Args:
        granted: how many items the request may ask the provider for; None if its kind has none.
        deadline: when the caller's patience ends, by the hub's clock; None if it named none.
        capacity: the account that the call counts in, entered already; None if there is none.
    """
    kind, stream_id, hub = request.kind, request.stream_id, link.hub
    call: Call
    if request.initial_n is None or granted is None:
        make = Call if capacity is None else BudgetedCall
        call = make(link, stream_id, provider, provider_id, kind, route.counters, None)
        if kind == REQUEST_RESPONSE:
            bucket = hub.default_bucket if deadline is None else hub.wheel.bucket(deadline)
            call.bucket = bucket
            bucket.add(call)
        caller_law, provider_law = law.OPENED[kind]
        link.streams[stream_id] = (provider, STREAM_ID.pack(provider_id), caller_law, call)
        provider.streams[provider_id] = (link, STREAM_ID.pack(stream_id), provider_law, call)
        provider.in_flight += 1
    else:
        make_items = ItemCall if capacity is None else BudgetedItemCall
        call = items = make_items(
            link, stream_id, provider, provider_id, kind, route, request.initial_n, granted
        )
        _join_items(items, deadline)
        if request.complete:
            items.close_up()
    if capacity is not None:
        assert isinstance(call, BudgetedCall | BudgetedItemCall)
        call.capacity = capacity
    return call


def open_plain(
    link: Link,
    stream_id: int,
    provider: Link,
    provider_id: int,
    kind: int,
    route: Route,
    asked: int,
    deadline_ms: int | None,
) -> int:
    """Enter a plain stream or channel on both links; return how many items to ask for
    (`LinkCore.open_items`)."""
    granted = first_grant(asked, link.item_room(), route.item_bytes)
    call = ItemCall(link, stream_id, provider, provider_id, kind, route, asked, granted)
    _join_items(call, None if deadline_ms is None else link.hub.now + deadline_ms * 0.001)
    return granted


def _join_items(call: ItemCall, deadline: float | None) -> None:
    link, provider = call.caller, call.provider
    caller_law, provider_law = law.OPENED[call.kind]
    if deadline is not None:  # of the first item
        provider_law = law.AWAITING_FIRST[call.kind]
        call.bucket = link.hub.wheel.bucket(deadline)
        call.bucket.add(call)
    link.streams[call.caller_id] = (provider, STREAM_ID.pack(call.provider_id), caller_law, call)
    provider.streams[call.provider_id] = (link, STREAM_ID.pack(call.caller_id), provider_law, call)
    provider.in_flight += 1


def with_initial_n(frame: bytes, initial_n: int | None) -> bytes:
    """Return the request *frame* with another initial request n, if its kind has one."""
    if initial_n is None:
        return frame
    return frame[: HEADER.size] + STREAM_ID.pack(initial_n) + frame[HEADER.size + 4 :]
