"""The application that stands behind a subject of ours: five behaviours, and a record of all calls.

The routing tag `conformance.BEHAVIOUR` chooses; what a foreign server is asked for is the same by
other names. The record shows a case what reached the application, which no frame can show.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final, NamedTuple

from rsocket_mesh.errors import ApplicationError, Invalid
from rsocket_mesh.protocol.metadata import ROUTING, decode_routing, find_entry
from rsocket_mesh.protocol.payload import Payload

SERVICE: Final = "conformance"
BEHAVIOURS: Final[dict[str, str]] = {
    "echo": "request-response: answers with the request's data",
    "never": "request-response: does not answer",
    "fail": "request-response: ends with an application error, the data as its text",
    "stream": "request-stream: the data is a number; sends 1, 2, 3... as text, then completes",
    "channel": "request-channel: sends each item back, and completes when the requester has",
    "sink": "request-channel: asks for no items and sends none",
    "one": "request-channel: takes one item, cancels the rest, and sends none before CANCEL",
    "talk": "request-channel: takes items without end; sends one and completes its own half",
    "fire": "fire-and-forget: takes it",
}


class Call(NamedTuple):
    """A request that reached the application."""

    behaviour: str
    payload: Payload


class Seen:
    """What has reached the application.

    Attributes:
        calls: requests, in order.
        items: data of a channel's later items, of all channels.
        completed: channels whose requester completed its half; a count.
        ended: behaviours whose handler was cancelled or whose requester gave up, in order.
        pushed: metadata of METADATA_PUSH.
        yielded: items that `stream` was asked for and gave; a count.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.items: list[bytes] = []
        self.completed = 0
        self.ended: list[str] = []
        self.pushed: list[bytes] = []
        self.yielded = 0

    def data(self) -> list[bytes]:
        """Return the data of all requests."""
        return [call.payload.data for call in self.calls]


class Application:
    """Implements `peer.RequestHandler`; one object may stand behind many connections."""

    def __init__(self) -> None:
        self.seen = Seen()

    def _arrived(self, payload: Payload) -> str:
        entry = find_entry(payload.metadata, ROUTING) if payload.metadata else None
        route = decode_routing(entry)[0] if entry else f"{SERVICE}.echo"
        behaviour = route.rpartition(".")[2]
        self.seen.calls.append(Call(behaviour, payload))
        return behaviour

    async def request_response(self, payload: Payload) -> Payload:
        behaviour = self._arrived(payload)
        if behaviour == "fail":
            raise ApplicationError(payload.data.decode("utf-8", "replace"))
        if behaviour == "never":
            await self._forever(behaviour)
        return Payload(payload.data)

    async def _forever(self, behaviour: str) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            self.seen.ended.append(behaviour)

    async def fire_and_forget(self, payload: Payload) -> None:
        if self._arrived(payload) == "fail":
            raise ApplicationError("nobody hears this")

    async def request_stream(self, payload: Payload) -> AsyncIterator[Payload]:
        behaviour = self._arrived(payload)
        try:
            count = int(payload.data)
        except ValueError as exc:
            raise Invalid("the data of `stream` is a number") from exc
        finished = False
        try:
            for number in range(1, count + 1):
                self.seen.yielded += 1
                yield Payload(str(number).encode())
            finished = True
        finally:
            if not finished:
                self.seen.ended.append(behaviour)

    async def request_channel(
        self, payload: Payload, incoming: AsyncIterator[Payload]
    ) -> AsyncIterator[Payload]:
        behaviour = self._arrived(payload)
        finished = False
        try:
            if behaviour == "sink":
                await asyncio.get_running_loop().create_future()
            elif behaviour == "one":
                self.seen.items.append((await anext(incoming)).data)
                del incoming  # nobody holds it any more: the requester is told to stop
                await asyncio.get_running_loop().create_future()
            elif behaviour == "talk":
                yield payload
                # The half that comes in stays open behind the one that has ended.
                asyncio.get_running_loop().create_task(self._listen(incoming))
            else:
                yield Payload(payload.data)
                async for item in incoming:
                    self.seen.items.append(item.data)
                    yield Payload(item.data)
                self.seen.completed += 1
            finished = True
        finally:
            if not finished:
                self.seen.ended.append(behaviour)

    async def _listen(self, incoming: AsyncIterator[Payload]) -> None:
        try:
            async for item in incoming:
                self.seen.items.append(item.data)
        except Exception:
            self.seen.ended.append("talk")
        else:
            self.seen.completed += 1

    def metadata_pushed(self, metadata: bytes) -> None:
        self.seen.pushed.append(metadata)
