"""Services whose handlers take whole requests of any method: the ground for adapters.

Such a service announces a name and route patterns, but no methods, and gets every request for it as
data and metadata, as they came. What is in them is the affair of the code that it was written for.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Final

from rsocket_mesh.errors import Invalid
from rsocket_mesh.protocol.announce import Model, ServiceInfo
from rsocket_mesh.protocol.payload import Payload
from rsocket_mesh.rpc.service import Method, Service
from rsocket_mesh.rpc.signature import Signature

_WILDCARD: Final = re.compile(r"\\\{[^{}./]+\\\}")  # as `re.escape` writes it


class WholeService(Service):
    """Serves any method of *name*, and what the patterns match, with one handler per model.

    Args:
        name, version, options: as for `Service`.
        routes: patterns for routes that don't follow `service.method`, such as `items.{id}`.
    Raises:
        ValueError: a name, version, number or route is no good; the text names it.
    """

    def __init__(
        self, name: str, version: str = "0", *, routes: Sequence[str] = (), **options: Any
    ) -> None:
        self.routes = tuple(routes)
        super().__init__(name, version, **options)
        self._patterns = [
            re.compile(_WILDCARD.sub("[^./]+", re.escape(route))) for route in self.routes
        ]
        others: dict[Model, Method] = {}
        self.any_method = others["request-response"] = self._whole(
            "request-response", self.whole_response, others
        )
        others["request-stream"] = self._whole("request-stream", self.whole_stream, others)
        others["request-channel"] = self._whole("request-channel", self.whole_channel, others)
        others["fire-and-forget"] = self._whole("fire-and-forget", self.whole_event, others)

    def info(self) -> ServiceInfo:
        """Return what the announcement says of this service: any method, and its routes."""
        return ServiceInfo(
            name=self.name,
            version=self.version,
            weight=self.weight,
            tags=self.tags,
            routes=self.routes,
            description=self.description,
            concurrency=self.concurrency,
            rate=self.rate,
        )

    def serves(self, route: str) -> bool:
        """Whether *route* is a method of this service, or one of its patterns matches it."""
        return route.rpartition(".")[0] == self.name or any(
            pattern.fullmatch(route) for pattern in self._patterns
        )

    def _whole(
        self, model: Model, handler: Callable[..., Any], others: dict[Model, Method]
    ) -> Method:
        incoming = Payload if model == "request-channel" else None
        signature = Signature((Payload,), 1, None, Any, incoming, False, False)
        method = Method(self, "*", model, handler, signature, idempotent=False)
        method.others = others
        return method

    # -- for subclasses -------------------------------------------------------------------------

    def whole_response(self, payload: Payload) -> Awaitable[Payload]:
        """Return the one answer."""
        raise Invalid(f"{self.name} answers no requests")

    def whole_event(self, payload: Payload) -> Awaitable[None]:
        """Take a request that is never answered."""
        raise Invalid(f"{self.name} takes no fire-and-forget")

    def whole_stream(self, payload: Payload) -> AsyncIterator[Payload]:
        """Return the items that answer a request."""
        raise Invalid(f"{self.name} has no streams")

    def whole_channel(
        self, items: AsyncIterator[Payload], payload: Payload
    ) -> AsyncIterator[Payload]:
        """Return the items of our half; *payload* is the request, *items* what comes in: the
        request first if it has data, then the others."""
        raise Invalid(f"{self.name} has no channels")
