"""The incoming call that the running handler serves, and what it hands on to outgoing calls.

A handler that takes a parameter annotated `Call` gets this object; every other handler reaches it
by `current_call()`. It lives in a context variable, so tasks that a handler starts have it too,
and each outgoing call made under it inherits the remaining deadline and the trace.
"""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from rsocket_mesh.protocol.metadata import Entry, decode_composite, decode_routing

if TYPE_CHECKING:
    from rsocket_mesh.rpc.mesh import Mesh


class Call:
    """One incoming call.

    Attributes:
        deadline: the loop time at which the caller stops waiting, or None. For a stream or channel
            it bounds the first item only and becomes None once that is out.
        trace: content of the caller's tracing entry (0x7D), or None.
        mesh: the connection it came over, for calls of the handler's own.
    """

    __slots__ = ("_mesh", "_metadata", "_routing", "deadline", "trace")

    def __init__(
        self,
        routing: bytes,
        metadata: bytes,
        deadline: float | None,
        trace: bytes | None,
        mesh: Mesh | None,
    ) -> None:
        self._routing = routing
        self._metadata = metadata
        self.deadline = deadline
        self.trace = trace
        self._mesh = mesh

    @property
    def mesh(self) -> Mesh:
        """The connection the call came over.

        Raises:
            RuntimeError: the service is driven without one, as in a test of its handlers.
        """
        if self._mesh is None:
            raise RuntimeError("this call came over no mesh: the service runs without connect()")
        return self._mesh

    @property
    def route(self) -> str:
        """What was called, such as `orders.total`."""
        return decode_routing(self._routing)[0]

    @property
    def selectors(self) -> dict[str, str]:
        """The caller's selectors: `version`, `instance` and tags; the last of equal keys counts."""
        pairs = (tag.partition("=") for tag in decode_routing(self._routing)[1:])
        return {key: value for key, mark, value in pairs if mark}

    @property
    def entries(self) -> list[Entry]:
        """All entries of the request's metadata, in order, ours included."""
        return decode_composite(self._metadata)

    def entry(self, mime: str) -> bytes | None:
        """Return the content of the first metadata entry of type *mime*, or None."""
        return next((entry.content for entry in self.entries if entry.mime == mime), None)

    def remaining(self) -> float | None:
        """Return the seconds left to the deadline, at least 0, or None without a deadline."""
        if self.deadline is None:
            return None
        return max(0.0, self.deadline - asyncio.get_running_loop().time())


CURRENT: Final[ContextVar[Call | None]] = ContextVar("rsocket_mesh.call", default=None)


def current_call() -> Call | None:
    """Return the incoming call that this code runs for, or None outside of handlers."""
    return CURRENT.get()
