"""From an incoming request to its handler and back: the service's side of every model.

`peer` calls these methods, each in a task of its own as soon as it waits, so a slow handler delays
nobody. This module knows routes, codecs and deadlines; streams, credit and ERROR frames are the
peer's.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

from rsocket_mesh.codec import Codec, DecodeError, codec_for, known_mimes
from rsocket_mesh.errors import (
    ApplicationError,
    ConnectionClosed,
    DeadlineExceeded,
    Draining,
    Invalid,
    NoRoute,
    StreamError,
    Unreachable,
)
from rsocket_mesh.protocol.announce import Model
from rsocket_mesh.protocol.capacity import Capacity
from rsocket_mesh.protocol.lease import MAX_REQUESTS
from rsocket_mesh.protocol.metadata import decode_routing
from rsocket_mesh.protocol.payload import Payload
from rsocket_mesh.protocol.version import parse_range
from rsocket_mesh.rpc.accepting import answering_codec
from rsocket_mesh.rpc.context import CURRENT, Call
from rsocket_mesh.rpc.metadata import is_usual, read_request
from rsocket_mesh.rpc.service import Method, Service
from rsocket_mesh.rpc.signature import Bind
from rsocket_mesh.rpc.threads import call_in_thread, iterate_in_thread

if TYPE_CHECKING:
    from rsocket_mesh.rpc.mesh import Mesh

MAX_CACHED: Final = 4096  # different routing entries whose method is remembered
MAX_CACHED_SIZE: Final = 512  # bytes of metadata that are remembered for it
MAX_NAMES_IN_ERROR: Final = 20  # what a caller is told of the methods there are

log: Final = logging.getLogger("rsocket_mesh.service")

K = TypeVar("K")

# What a routing entry and a data type lead to: the method, the codec, its arguments, the routing.
Target = tuple[Method, Codec, Bind, bytes]


class Dispatcher:
    """All services of one connection, as the request handler that `peer` wants.

    Attributes:
        running: calls whose handlers are at work.
        draining: set it, and new calls are refused (`Draining`) while the running ones end.
    """

    def __init__(self, codec: Codec, services: Iterable[Service] = ()) -> None:
        self.mesh: Mesh | None = None
        self.running = 0
        self.draining = False
        self._codec = codec
        self._services: list[Service] = []
        self._methods: dict[str, list[Method]] = {}
        self._targets: dict[tuple[bytes, str | int | None, bytes | None], Target] = {}
        # The same by the whole metadata of usual requests but for the milliseconds at its end, so
        # that those are not even taken apart.
        self._usual: dict[bytes, Target] = {}
        self._idle: list[asyncio.Future[None]] = []
        self._now = self._first_now
        for service in services:
            self.add(service)

    @property
    def services(self) -> tuple[Service, ...]:
        """The services, in the order they were added."""
        return tuple(self._services)

    def add(self, service: Service) -> None:
        """Serve *service* from now on.

        Raises:
            ValueError: one of the same name and version is served already.
        """
        for other in self._services:
            if (other.name, other.version) == (service.name, service.version):
                raise ValueError(f"{service.name} {service.version} is served already")
        self._services.append(service)
        self._index()

    def remove(self, service: Service) -> None:
        """Refuse new calls of *service*; those that run go on. Unknown services are ignored."""
        if service in self._services:
            self._services.remove(service)
            self._index()

    def _index(self) -> None:
        self._methods.clear()
        self._targets.clear()
        self._usual.clear()
        for service in self._services:
            for method in service.methods.values():
                self._methods.setdefault(method.route, []).append(method)
        for methods in self._methods.values():
            methods.sort(key=lambda method: method.version, reverse=True)

    def free(self, now: float) -> int:
        """Return how many calls could be taken at *now*, of all services together; MAX_REQUESTS
        if one of them has no limits, and while there are none."""
        free = 0
        for service in self._services:
            if service.capacity is None:
                return MAX_REQUESTS
            free += service.capacity.free(now)
        return min(free, MAX_REQUESTS) if self._services else MAX_REQUESTS

    async def idle(self) -> None:
        """Return when no handler runs any more; at once if none does."""
        while self.running:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._idle.append(future)
            await future

    # -- the five models ------------------------------------------------------------------------

    async def request_response(self, payload: Payload) -> Payload:
        """Run the handler of one request; see `RequestHandler`."""
        method, codec, call, bind = self._open(payload, "request-response")
        try:
            arguments = bind(payload, call)
        except DecodeError as exc:
            raise Invalid(str(exc)) from exc
        capacity = method.capacity
        if capacity is not None:
            _enter(method, capacity)
        self.running += 1
        try:
            if method.signature.threaded:
                answer = await call_in_thread(method.handler, arguments)
            else:
                answer = await method.handler(*arguments)
            if type(answer) is Payload:
                return answer
            data = codec.encode(answer)
            return tuple.__new__(Payload, (data, codec.answer_metadata))  # half of `Payload(...)`
        except Exception as exc:
            _fail(method, exc)
        finally:
            if capacity is not None:
                capacity.leave()
            self.running -= 1
            if self._idle:
                self._tell_if_idle()

    async def fire_and_forget(self, payload: Payload) -> None:
        """Run the handler of one request that nobody waits for; errors are logged."""
        try:
            method, _codec, call, bind = self._open(payload, "fire-and-forget")
            call.deadline = None  # nobody waits
            arguments = bind(payload, call)
        except (StreamError, DecodeError) as exc:
            log.warning("dropped a fire-and-forget: %s", exc)
            return
        capacity = method.capacity
        if capacity is not None:
            _enter(method, capacity)  # what is refused is counted, not logged: it may be many
        self.running += 1
        try:
            if method.signature.threaded:
                await call_in_thread(method.handler, arguments)
            else:
                await method.handler(*arguments)
        except Exception:
            log.exception("%s failed", method.route)
        finally:
            if capacity is not None:
                capacity.leave()
            self.running -= 1
            self._tell_if_idle()

    # Not generators around `_items`: closing an outer one would leave the inner, and with it the
    # handler, to the garbage collector and a task of the loop's.
    def request_stream(self, payload: Payload) -> AsyncIterator[Payload]:
        """Run the handler of one stream; advanced only when there is credit."""
        method, codec, call, bind = self._open(payload, "request-stream")
        try:
            arguments = bind(payload, call)
        except DecodeError as exc:
            raise Invalid(str(exc)) from exc
        return self._items(method, codec, call, arguments)

    def request_channel(
        self, payload: Payload, incoming: AsyncIterator[Payload]
    ) -> AsyncIterator[Payload]:
        """Run the handler of one channel; *payload* is the first item if it has data."""
        method, codec, call, bind = self._open(payload, "request-channel")
        decode = codec.decoder(method.signature.incoming)
        takes_payload = method.signature.incoming is Payload

        async def items() -> AsyncIterator[Any]:
            try:
                if payload.data:
                    yield payload if takes_payload else decode(payload.data)
                async for item in incoming:
                    yield item if takes_payload else decode(item.data)
            except DecodeError as exc:
                raise Invalid(str(exc)) from exc

        # The binder puts in the Call; the iterator is the one argument besides it.
        arguments = bind(payload, call)
        at = 0 if method.signature.call_at != 0 else 1
        arguments = (*arguments[:at], items(), *arguments[at:])
        return self._items(method, codec, call, arguments)

    def metadata_pushed(self, metadata: bytes) -> None:
        """Hand a METADATA_PUSH to the mesh, which knows who wants it."""
        if self.mesh is not None:
            self.mesh.metadata_pushed(metadata)

    # -- what they share ------------------------------------------------------------------------

    def _first_now(self) -> float:
        """The loop's time. A dispatcher is made before its loop runs, and asking for the running
        loop is a call of the system's: once is enough."""
        self._now = asyncio.get_running_loop().time
        return self._now()

    def _open(self, payload: Payload, model: Model) -> tuple[Method, Codec, Call, Bind]:
        metadata = payload.metadata or b""
        target = self._usual.get(metadata[:-4])
        deadline_ms: int | None
        trace: bytes | None = None
        if target is not None:
            deadline_ms = int.from_bytes(metadata[-4:], "big")
        else:
            target, deadline_ms, trace = self._read(metadata)
        method, codec, bind, routing = target
        if method.model != model:
            method = method.in_model(model)
            bind = method.signature.binder(codec)
        if self.draining:
            raise Draining(f"{method.route}: the service is going away")
        deadline: float | None = None
        if deadline_ms is not None:
            if deadline_ms == 0:
                raise DeadlineExceeded(f"{method.route}: the deadline had passed on arrival")
            deadline = self._now() + deadline_ms / 1000
        call = Call(routing, metadata, deadline, trace, self.mesh)
        CURRENT.set(call)
        return method, codec, call, bind

    def _read(self, metadata: bytes) -> tuple[Target, int | None, bytes | None]:
        routing, deadline_ms, mime, trace, accepted = read_request(metadata)
        if routing is None:
            raise NoRoute("the request has no routing metadata, and there is no default here")
        target = self._targets.get((routing, mime, accepted))
        if target is None:
            method = self._find(routing)
            codec = self._codec
            if method.others is None:  # else the handler takes any data, and knows what it is
                codec = codec if mime is None else _codec_for(mime)
                codec = answering_codec(codec, method.codecs, accepted)
            target = method, codec, method.signature.binder(codec), routing
            size = len(routing) + len(accepted or b"")
            _remember(self._targets, (routing, mime, accepted), target, size)
        if is_usual(metadata, routing):
            _remember(self._usual, metadata[:-4], target, len(metadata))
        return target, deadline_ms, trace

    def _find(self, routing: bytes) -> Method:
        tags = decode_routing(routing)
        route = tags[0] if tags else ""
        methods = self._methods.get(route) or self._any_methods(route)
        for tag in tags[1:]:
            if tag.startswith("version="):
                wanted = parse_range(tag.removeprefix("version="))
                methods = [method for method in methods if method.version in wanted]
        if not methods:
            raise NoRoute(self._what_there_is(route))
        return methods[0]

    def _any_methods(self, route: str) -> list[Method]:
        found = [service.any_method for service in self._services if service.serves(route)]
        methods = [method for method in found if method is not None]
        return sorted(methods, key=lambda method: method.version, reverse=True)

    def _what_there_is(self, route: str) -> str:
        name = route.rpartition(".")[0]
        same = [service for service in self._services if service.name == name]
        if not same:
            return f"{route!r}: no service {name!r} here"
        known = [f"{s.version}: {', '.join([*s.methods][:MAX_NAMES_IN_ERROR])}" for s in same]
        return f"{route!r}: {name} has no such method; it has {'; '.join(known)}"

    async def _items(
        self, method: Method, codec: Codec, call: Call, arguments: tuple[Any, ...]
    ) -> AsyncIterator[Payload]:
        encode, metadata = codec.encode, codec.answer_metadata
        items: Any = None
        capacity = method.capacity
        if capacity is not None:
            _enter(method, capacity)
        self.running += 1
        try:
            if method.signature.threaded:
                items = iterate_in_thread(method.handler, arguments)
            else:
                items = method.handler(*arguments)
                if method.signature.awaited:
                    items = await items
            async for item in items:
                call.deadline = None  # it bounds the first item only
                yield item if type(item) is Payload else Payload(encode(item), metadata)
        except Exception as exc:
            _fail(method, exc)
        finally:
            close = getattr(items, "aclose", None)
            try:
                if close is not None:
                    await close()
            finally:
                if capacity is not None:
                    capacity.leave()
                self.running -= 1
            self._tell_if_idle()

    def _tell_if_idle(self) -> None:
        if not self.running and self._idle:
            waiting, self._idle = self._idle, []
            for future in waiting:
                if not future.done():
                    future.set_result(None)


def _enter(method: Method, capacity: Capacity) -> None:
    """Count a call that begins; raise `Overloaded` if its service can take no more now."""
    now = asyncio.get_running_loop().time()
    if capacity.free(now) <= 0:
        raise capacity.refuse(method.route, now)
    capacity.enter(now)


def _remember(cache: dict[K, Target], key: K, target: Target, size: int) -> None:
    if size <= MAX_CACHED_SIZE:
        if len(cache) >= MAX_CACHED:
            cache.clear()
        cache[key] = target


def _codec_for(mime: str | int) -> Codec:
    codec = codec_for(mime)
    if codec is None:
        known = ", ".join(known_mimes())
        raise Invalid(f"data type {mime!r} is not known here; there are {known}")
    return codec


def _fail(method: Method, error: Exception) -> NoReturn:
    """Raise what the caller shall see of *error*.

    A handler may raise any of our errors on purpose. One that reached it from a call of its own
    says "nothing was started" about that other call, which would be a lie about this one.
    """
    if isinstance(error, StreamError) and error.route is None:
        raise error
    if isinstance(error, DeadlineExceeded):
        raise DeadlineExceeded(f"{method.route}: {error.text}") from error
    if isinstance(error, StreamError):
        kind = error.token or type(error).__name__
        raise ApplicationError(f"{kind} from {error.route}: {error.text}") from error
    if isinstance(error, ConnectionClosed | Unreachable):
        raise ApplicationError(f"{type(error).__name__}: {error}") from error
    log.error("%s failed", method.route, exc_info=error)
    raise ApplicationError(f"{type(error).__name__}: {error}") from error
