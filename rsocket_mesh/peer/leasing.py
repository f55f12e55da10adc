"""The two sides of a connection whose SETUP asked for leases.

As a requester: calls wait for the peer's LEASE, in order and each within its own time. As a
responder: what the peer may send is granted in LEASE frames, renewed in time, and what is beyond is
refused. They stand in for `Requester` and `Responder`, so that connections without leases pay
nothing.
Source: RSocket Protocol 1.0, "Lease Semantics".
"""

# ruff: noqa: ASYNC109 - a timeout is part of a call's contract: it bounds the answer, not the await

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from rsocket_mesh.errors import DeadlineExceeded, Overloaded, RSocketError
from rsocket_mesh.peer.calls import SentCall
from rsocket_mesh.peer.requester import Requester
from rsocket_mesh.peer.responder import Responder
from rsocket_mesh.protocol.frames import REQUEST_CHANNEL, REQUEST_RESPONSE, Lease
from rsocket_mesh.protocol.lease import MAX_REQUESTS, Leased, Lessor
from rsocket_mesh.protocol.payload import Payload

MAX_WAITING: Final = 256  # requests of one connection that wait for a LEASE; more fail at once
LEASE_TTL: Final = 10.0  # s that what we grant is good for; renewed after half of it


class LeasedRequester(Requester):
    """Sends requests as far as the peer's leases go.

    Attributes:
        leased: the account of the newest LEASE; None if leases were not negotiated.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """Arguments as for `Requester`."""
        super().__init__(*arguments, **options)
        self.leased: Leased | None = None
        self._waiting: OrderedDict[asyncio.Future[None], None] = OrderedDict()

    async def request_response(self, payload: Payload, *, timeout: float | None = None) -> Payload:
        """As `Requester` does it, when the lease allows it.

        Raises, besides:
            DeadlineExceeded: there was no lease for it within *timeout*; nothing was sent.
            Overloaded: too many requests wait for a lease already; nothing was sent.
        """
        left = await self.admit_stream(timeout)
        return await super().request_response(payload, timeout=left)

    def begin_call(self, request: bytes, timeout: float) -> SentCall | None:
        """None where there are leases: a request may have to wait for one."""
        return super().begin_call(request, timeout) if self.leased is None else None

    async def fire_and_forget(self, payload: Payload, *, timeout: float | None = None) -> None:
        """As `request_response`; it is one request of the lease like the others."""
        left = await self.admit_stream(timeout)
        await super().fire_and_forget(payload, timeout=left)

    async def admit_stream(self, timeout: float | None) -> float | None:
        """Wait until a request may be sent and the lease has a unit for it, which it uses; return
        what is left of *timeout*.

        If cancelled: no unit is used.
        """
        left = await self.admit(timeout)
        leased = self.leased
        if leased is None or (not self._waiting and leased.take(self.loop.time())):
            return left
        if len(self._waiting) >= MAX_WAITING:
            raise Overloaded(f"{MAX_WAITING} requests wait for a lease of the peer already")
        begun = self.loop.time()
        unit: asyncio.Future[None] = self.loop.create_future()
        self._waiting[unit] = None
        try:
            async with asyncio.timeout(left):
                await unit
        except BaseException as exc:
            if unit.done() and not unit.cancelled() and unit.exception() is None:
                assert self.leased is not None
                self.leased.left += 1  # given in the moment of giving up; it may be another by now
                self._hand_out()
            if isinstance(exc, TimeoutError):
                raise DeadlineExceeded(
                    f"the peer granted no lease for it within {left:g} s; nothing was sent"
                ) from None
            raise
        finally:
            self._waiting.pop(unit, None)
        self._check()
        return None if left is None else max(0.001, left - (self.loop.time() - begun))

    def lease_arrived(self, lease: Lease) -> None:
        """The peer grants: those who wait go first, in the order in which they came."""
        if self.leased is not None:
            self.leased.receive(lease, self.loop.time())
            self._hand_out()

    def _hand_out(self) -> None:
        now = self.loop.time()
        while self._waiting and self.leased is not None and self.leased.available(now):
            unit, _ = self._waiting.popitem(last=False)
            if not unit.done():
                self.leased.take(now)
                unit.set_result(None)

    def refuse_new(self, error: RSocketError) -> None:
        """Those who wait for a lease are new, too."""
        super().refuse_new(error)
        self._fail_waiting()

    def close(self, error: RSocketError) -> None:
        super().close(error)
        self._fail_waiting()

    def _fail_waiting(self) -> None:
        waiting, self._waiting = self._waiting, OrderedDict()
        for unit in waiting:
            if not unit.done():
                unit.set_exception(self._closed_error())


class LeasedResponder(Responder):
    """Serves the requests that its own leases allow.

    Attributes:
        lessor: the account of what was granted; None if leases were not negotiated.
    """

    def __init__(
        self,
        *arguments: Any,
        free: Callable[[float], int] | None,
        grant: Callable[[Lease], None],
        **options: Any,
    ) -> None:
        """Further arguments as for `Responder`.

        Args:
            free: how many requests could be taken at a time; None grants as many as there are.
            grant: sends a LEASE.
        """
        super().__init__(*arguments, **options)
        self.lessor: Lessor | None = None
        self._free = free
        self._grant = grant
        self._timer: asyncio.TimerHandle | None = None
        self._is_due = False

    def begin_leases(self) -> None:
        """Leases were negotiated, or there is a new socket: grant the first now, and go on."""
        if self.lessor is None:
            self.lessor = Lessor(LEASE_TTL)
        else:
            self.lessor.restart(self.loop.time())
        self._renew()

    def receive_frame(self, stream_id: int, kind: int, flags: int, frame: bytes) -> None:
        """As `Responder` does it; a request beyond the lease is refused (C-111)."""
        lessor = self.lessor
        if (
            lessor is not None
            and REQUEST_RESPONSE <= kind <= REQUEST_CHANNEL
            and stream_id not in self._streams
            and stream_id not in self.outbox.busy
        ):
            now = self.loop.time()
            if not lessor.take(now):
                pause = max(1, round(lessor.retry_after(now) * 1000))
                text = "beyond the lease of this connection; wait for the next one"
                self._refuse(stream_id, kind, Overloaded(text, retry_after_ms=pause))
                return
            self._renew_soon(lessor)
        super().receive_frame(stream_id, kind, flags, frame)

    def forget_if_ended(self, stream: Any) -> None:
        super().forget_if_ended(stream)
        if self.lessor is not None:
            self._renew_soon(self.lessor)

    def _gone(self, task: asyncio.Task[None]) -> None:
        super()._gone(task)
        if self.lessor is not None:
            self._renew_soon(self.lessor)

    def close(self, error: RSocketError) -> None:
        self.lessor = None
        if self._timer is not None:
            self._timer.cancel()
        super().close(error)

    def _renew_soon(self, lessor: Lessor) -> None:
        """A request has come or ended: grant more if half is used up and there is room."""
        if lessor.is_low and not self._is_due:
            # Not before the handlers of this batch have begun, in the next turn of the loop or, if
            # one of them waits, in the one behind it: until then they do not count.
            self._is_due = True
            soon = self.loop.call_soon
            soon(soon, soon, self._renew)

    def _renew(self) -> None:
        self._is_due = False
        lessor = self.lessor
        if lessor is None:
            return
        now = self.loop.time()
        lease = lessor.offer(MAX_REQUESTS if self._free is None else self._free(now), now)
        if lease is not None:
            self._grant(lease)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_at(lessor.next_deadline(), self._renew)
