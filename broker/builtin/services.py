"""The services that the broker itself answers: `mesh.broker`, `mesh.registry`, `mesh.health`.

An ordinary request handler on the session of whoever asks. JSON by default; CBOR if the caller's
connection or request says so; an answer in another type than the connection's states its type.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

import msgspec

from broker.builtin.documents import change_document, service_description, service_list
from broker.forwarding.limiter import OverLimit
from broker.routing.table import Change
from rsocket_mesh.codec import Codec, DecodeError, codec_for
from rsocket_mesh.errors import Invalid, NoRoute
from rsocket_mesh.protocol.announce import Announcement, check_announcement
from rsocket_mesh.protocol.metadata import (
    ACCEPT_MIME_TYPES,
    CBOR,
    COMPOSITE,
    DATA_MIME_TYPE,
    JSON,
    ROUTING,
    decode_composite,
    decode_mime,
    decode_mimes,
    decode_routing,
    encode_entry,
    encode_mime,
)
from rsocket_mesh.protocol.payload import Payload

if TYPE_CHECKING:
    from broker.forwarding.hub import Hub
    from broker.forwarding.link import Link

MAX_CHANGES_KEPT: Final = 256  # per watcher that reads slowly; beyond it gets a fresh snapshot

MAX_ACCEPTED: Final = 16  # types of an accept list that are looked at; we know two


class Question(NamedTuple):
    """One request to a service of the broker, taken apart."""

    route: str
    codec: Codec
    answer_codec: Codec
    states_type: bool
    data: bytes

    def argument(self, wanted: Any) -> Any:
        """Return the data as *wanted*; raises `Invalid` naming what does not fit."""
        try:
            return self.codec.decode(self.data, wanted)
        except DecodeError as exc:
            raise Invalid(f"{self.route}: {exc}") from None

    def answer(self, value: object) -> Payload:
        """Return *value* as the payload of an answer."""
        metadata = None
        if self.states_type:
            metadata = encode_entry(DATA_MIME_TYPE, encode_mime(self.answer_codec.mime))
        return Payload(self.answer_codec.encode(value), metadata)


class BuiltinServices:
    """The handler for one session; implements `rsocket_mesh.peer.RequestHandler`."""

    def __init__(self, hub: Hub, link: Link, info: Callable[[], Awaitable[dict[str, Any]]]) -> None:
        self._hub = hub
        self._link = link
        self._info = info

    async def request_response(self, payload: Payload) -> Payload:
        """Answer one question."""
        question = self._question(payload)
        match question.route:
            case "mesh.broker.info":
                value: Any = await self._info()
            case "mesh.health.check":
                value = self._health(question)
            case "mesh.registry.list":
                value = service_list(self._hub, self._link.tenant)
            case "mesh.registry.describe":
                value = await self._describe(question)
            case "mesh.registry.announce":
                value = self._announce(question)
                await self._hub.settled(self._link)
            case _:
                _refuse(question.route, "request-response")
        return question.answer(value)

    async def fire_and_forget(self, payload: Payload) -> None:
        """Nothing here takes fire-and-forget; whatever comes is dropped and counted."""
        self._hub.counters.dropped["builtin"] += 1

    async def request_stream(self, payload: Payload) -> AsyncIterator[Payload]:
        """Answer `mesh.registry.watch`; ends when the caller cancels or leaves."""
        question = self._question(payload)
        if question.route != "mesh.registry.watch":
            _refuse(question.route, "request-stream")
        changes: deque[Change] = deque(maxlen=MAX_CHANGES_KEPT + 1)
        wake = asyncio.Event()
        tenant = self._link.tenant

        def changed(change: Change) -> None:
            if change.tenant == tenant:
                changes.append(change)
                wake.set()

        self._hub.watchers.add(changed)
        try:
            yield question.answer(self._snapshot())
            while True:
                await wake.wait()
                wake.clear()
                while changes:
                    if len(changes) > MAX_CHANGES_KEPT:
                        changes.clear()
                        yield question.answer(self._snapshot())
                    else:
                        yield question.answer(change_document(changes.popleft()))
        finally:
            self._hub.watchers.discard(changed)

    def request_channel(
        self, payload: Payload, incoming: AsyncIterator[Payload]
    ) -> AsyncIterator[Payload]:
        """Nothing here is a channel."""
        _refuse(self._question(payload).route, "request-channel")

    def metadata_pushed(self, metadata: bytes) -> None:
        """Pushes are taken by the session itself, never here."""

    # -- questions --------------------------------------------------------------------------------

    def _question(self, payload: Payload) -> Question:
        mime = self._link.sends.metadata_mime
        connection_type = self._link.sends.data_mime
        data_type: str | int = connection_type
        accepted: list[str | int] = []
        routing = b""
        if mime == ROUTING:
            routing = payload.metadata or b""
        elif mime == COMPOSITE:
            for entry in decode_composite(payload.metadata or b""):
                if entry.mime == ROUTING:
                    routing = routing or entry.content
                elif entry.mime == DATA_MIME_TYPE:
                    data_type = decode_mime(entry.content)
                elif entry.mime == ACCEPT_MIME_TYPES:
                    accepted = decode_mimes(entry.content, MAX_ACCEPTED)
        codec = _structured(data_type) or _JSON
        answer_codec = next(filter(None, map(_structured, accepted)), codec)
        states_type = mime == COMPOSITE and answer_codec.mime != connection_type
        tags = decode_routing(routing)
        return Question(tags[0] if tags else "", codec, answer_codec, states_type, payload.data)

    def _health(self, question: Question) -> dict[str, str]:
        name = question.argument(str | None) if question.data else None
        if self._hub.is_draining:
            return {"status": "draining"}
        if name and service_description(self._hub, self._link.tenant, name) is None:
            return {"status": "unknown", "service": name}
        return {"status": "serving"}

    async def _describe(self, question: Question) -> dict[str, Any]:
        name = question.argument(str)
        await self._hub.look_closer(self._link.tenant, name)
        found = service_description(self._hub, self._link.tenant, name)
        if found is None:
            raise NoRoute(f"nobody serves {name!r}")
        return found

    def _announce(self, question: Question) -> Any:
        limiter = self._hub.limiter
        try:
            limiter.check_announcement_size(len(question.data))
            limiter.check_change(self._link, len(question.data))
            announcement = question.argument(Announcement)
            check_announcement(announcement)
            limiter.check_announcement(announcement)
        except OverLimit as exc:
            limiter.hit(exc.limit, self._link, exc.text)
            raise
        return msgspec.to_builtins(self._hub.announce(self._link, announcement))

    def _snapshot(self) -> dict[str, Any]:
        return {"type": "snapshot", "services": service_list(self._hub, self._link.tenant)}


def _structured(mime: str | int) -> Codec | None:
    return codec_for(mime) if mime in (JSON, CBOR) else None


_json: Final = codec_for(JSON)
assert _json is not None
_JSON: Final = _json


def _refuse(route: str, model: str) -> NoReturn:
    raise NoRoute(f"the broker has no {model} {route!r}; see mesh.registry.describe of mesh.*")
