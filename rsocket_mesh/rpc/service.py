"""A service: named handlers, collected by decorators, and what is announced about them.

Pure description: no connection and no loop. `dispatch` runs the handlers, `connect` announces them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar, overload

from rsocket_mesh.codec import Codec
from rsocket_mesh.errors import Invalid
from rsocket_mesh.protocol.announce import (
    Announcement,
    MethodInfo,
    Model,
    ServiceInfo,
    check_announcement,
    check_name,
)
from rsocket_mesh.protocol.capacity import Capacity
from rsocket_mesh.protocol.version import parse_version
from rsocket_mesh.rpc.accepting import Codecs, codecs_of, mimes_of
from rsocket_mesh.rpc.observing import without_observables
from rsocket_mesh.rpc.signature import Handler, Signature, read_signature

F = TypeVar("F", bound=Handler)

# Seconds of the rate: a broker spaces calls out, and the way here may push them together again.
_RATE_SLACK: Final = 0.1


class Method:
    """One handler and how to call it; made by the decorators of `Service`.

    Attributes:
        route: what callers write, `service.method`.
        version: of the service, parsed, to tell two versions in one program apart.
        capacity: of the service; None if it has no limits.
        codecs: what its data may be in; None means all that there are.
        others: of a service that takes whole requests, the methods for all models; else None.
    """

    __slots__ = (
        "capacity",
        "codecs",
        "description",
        "handler",
        "idempotent",
        "model",
        "name",
        "others",
        "route",
        "signature",
        "version",
    )

    def __init__(
        self,
        service: Service,
        name: str,
        model: Model,
        handler: Handler,
        signature: Signature,
        idempotent: bool,
        codecs: tuple[Codec, ...] | None = None,
    ) -> None:
        self.name = name
        self.route = f"{service.name}.{name}"
        self.version = parse_version(service.version)
        self.capacity = service.capacity
        self.codecs = codecs or service.codecs
        self.model = model
        self.handler = handler
        self.signature = signature
        self.idempotent = idempotent
        self.description = inspect.getdoc(handler) or ""
        self.others: Mapping[Model, Method] | None = None

    def in_model(self, model: Model) -> Method:
        """Return what serves this route when it is called in *model*, which is not its own.

        Raises:
            Invalid: nothing does.
        """
        if self.others is None:
            raise Invalid(f"{self.route} is a {self.model}, it was called as a {model}")
        return self.others[model]

    def info(self) -> MethodInfo:
        """Return what the announcement says of this method."""
        return MethodInfo(
            model=self.model,
            idempotent=self.idempotent,
            description=self.description,
            input=self.signature.input_schema,
            output=None if self.model == "fire-and-forget" else self.signature.output_schema,
            mime=mimes_of(self.codecs, self.signature),
        )


class Service:
    """Handlers under one name; decorate functions, then `run` it or pass it to `connect`.

    Args:
        name: parts of `A-Z a-z 0-9 _ -` joined by dots; `mesh.` is the broker's own.
        version: such as `1.4.0`; callers may ask for a range.
        weight: its share of the calls among instances of the service, 0 to 10000.
        tags: what callers may select by, besides version and instance.
        concurrency: calls at work at once that this instance can have; None for no such limit.
        rate: calls per second that it can take, at most one second's worth at once; None for no
            such limit. What is beyond either is refused (`Overloaded`) before a handler sees it;
            the broker knows both and gives such calls to other instances.
        codecs: what data its methods take and give, unless a method says otherwise; None means
            all that are registered. An answer is in the type of its request, or in what the
            caller lists as accepted.
    Raises:
        ValueError: the name, version or a number is no good; the text names it.
    """

    def __init__(
        self,
        name: str,
        version: str = "0",
        *,
        weight: int = 100,
        tags: Mapping[str, str] | None = None,
        description: str = "",
        concurrency: int | None = None,
        rate: float | None = None,
        codecs: Codecs | None = None,
    ) -> None:
        self.codecs = codecs_of(codecs)
        self.name = name
        self.version = version
        self.weight = weight
        self.tags = dict(tags or {})
        self.description = description
        self.concurrency = concurrency
        self.rate = rate
        self.methods: dict[str, Method] = {}
        self.push_handler: Handler | None = None
        self.any_method: Method | None = None  # for requests that no method of ours is named in
        try:
            check_announcement(Announcement("check", services=(self.info(),)))
        except Invalid as exc:
            raise ValueError(exc.text.replace("services[0]", "Service")) from None
        self.capacity: Capacity | None = None
        if concurrency is not None or rate is not None:
            self.capacity = Capacity(concurrency, rate, slack=_RATE_SLACK)

    def __repr__(self) -> str:
        return f"<Service {self.name} {self.version}, {len(self.methods)} methods>"

    def info(self) -> ServiceInfo:
        """Return what the announcement says of this service."""
        return ServiceInfo(
            name=self.name,
            version=self.version,
            weight=self.weight,
            tags=self.tags,
            methods={name: method.info() for name, method in self.methods.items()},
            description=self.description,
            concurrency=self.concurrency,
            rate=self.rate,
        )

    def serves(self, route: str) -> bool:
        """Whether `any_method` is to have the requests for *route*."""
        return False

    @overload
    def request_response(self, handler: F, /) -> F: ...
    @overload
    def request_response(
        self,
        *,
        name: str | None = None,
        idempotent: bool = False,
        codecs: Codecs | None = None,
    ) -> Callable[[F], F]: ...
    def request_response(
        self,
        handler: F | None = None,
        *,
        name: str | None = None,
        idempotent: bool = False,
        codecs: Codecs | None = None,
    ) -> F | Callable[[F], F]:
        """Serve requests with one answer each; the function's return value is the answer.

        An `async def` runs on the loop, a plain `def` in a bounded pool of threads.

        Args:
            name: of the method; the function's own by default.
            idempotent: doing it twice is as good as once, so callers may repeat it.
            codecs: what its data may be in; None means what the service has.
        Raises:
            TypeError: the function's signature does not fit; the text says what to write.
            ValueError: the name is no good or taken, or there is no such codec.
        """
        return self._decorate("request-response", handler, name, idempotent, codecs)

    @overload
    def request_stream(self, handler: F, /) -> F: ...
    @overload
    def request_stream(
        self,
        *,
        name: str | None = None,
        idempotent: bool = False,
        codecs: Codecs | None = None,
    ) -> Callable[[F], F]: ...
    def request_stream(
        self,
        handler: F | None = None,
        *,
        name: str | None = None,
        idempotent: bool = False,
        codecs: Codecs | None = None,
    ) -> F | Callable[[F], F]:
        """Serve requests with many answers; what the asynchronous generator yields is sent.

        It is advanced only while the consumer has asked for more, and closed when the consumer
        leaves. A plain generator is advanced in a bounded pool of threads.
        Arguments and errors as for `request_response`.
        """
        return self._decorate("request-stream", handler, name, idempotent, codecs)

    @overload
    def request_channel(self, handler: F, /) -> F: ...
    @overload
    def request_channel(
        self,
        *,
        name: str | None = None,
        idempotent: bool = False,
        codecs: Codecs | None = None,
    ) -> Callable[[F], F]: ...
    def request_channel(
        self,
        handler: F | None = None,
        *,
        name: str | None = None,
        idempotent: bool = False,
        codecs: Codecs | None = None,
    ) -> F | Callable[[F], F]:
        """Serve items in both directions: an asynchronous generator over an `AsyncIterator`.

        The request's own payload is the first item that comes in, unless it has no data. More is
        asked of the peer only as the handler takes items.
        Arguments and errors as for `request_response`.
        """
        return self._decorate("request-channel", handler, name, idempotent, codecs)

    @overload
    def fire_and_forget(self, handler: F, /) -> F: ...
    @overload
    def fire_and_forget(
        self,
        *,
        name: str | None = None,
        idempotent: bool = False,
        codecs: Codecs | None = None,
    ) -> Callable[[F], F]: ...
    def fire_and_forget(
        self,
        handler: F | None = None,
        *,
        name: str | None = None,
        idempotent: bool = False,
        codecs: Codecs | None = None,
    ) -> F | Callable[[F], F]:
        """Serve requests without an answer; errors are logged here, nobody else learns of them.

        Arguments and errors as for `request_response`.
        """
        return self._decorate("fire-and-forget", handler, name, idempotent, codecs)

    def metadata_push(self, handler: F, /) -> F:
        """Call *handler* with the bytes of each METADATA_PUSH that is not the broker's notice.

        Raises:
            TypeError: it is no `async def` with one parameter.
            ValueError: the service has such a handler already.
        """
        where = f"{self.name}: metadata_push"
        if (
            not inspect.iscoroutinefunction(handler)
            or len(inspect.signature(handler).parameters) != 1
        ):
            raise TypeError(f"{where}: must be an async def with one parameter, the bytes")
        if self.push_handler is not None:
            raise ValueError(f"{where}: there is one already")
        self.push_handler = handler
        return handler

    def run(self, url: str | Sequence[str], **options: Any) -> None:
        """Connect, serve until SIGINT or SIGTERM, then leave in order; blocks.

        A broker that cannot be reached yet is waited for. The options are those of `connect`.

        Raises:
            SetupRefused: the broker does not take this service; the text has its reason.
        """
        from rsocket_mesh.rpc.runner import run  # the runner needs this class

        run(url, self, **options)

    def _decorate(
        self,
        model: Model,
        handler: F | None,
        name: str | None,
        idempotent: bool,
        codecs: Codecs | None,
    ) -> F | Callable[[F], F]:
        def add(function: F) -> F:
            self._add(model, function, name, idempotent, codecs_of(codecs))
            return function

        return add if handler is None else add(handler)

    def _add(
        self,
        model: Model,
        handler: Handler,
        name: str | None,
        idempotent: bool,
        codecs: tuple[Codec, ...] | None,
    ) -> None:
        if not callable(handler):
            raise TypeError(
                f"{self.name}: {handler!r} is no function; options are given by keyword, "
                f"as in @service.{model.replace('-', '_')}(name=...)"
            )
        word = name or str(getattr(handler, "__name__", ""))
        try:
            check_name(word, f"{self.name}: method")
        except Invalid as exc:
            raise ValueError(exc.text) from None
        if "." in word:
            raise ValueError(f"{self.name}: method {word!r}: the service ends at the last dot")
        if word in self.methods:
            raise ValueError(f"{self.name}.{word} is there already; give one of them a name=")
        handler = without_observables(handler, model, f"{self.name}.{word}")
        signature = read_signature(handler, model, f"{self.name}.{word}")
        self.methods[word] = Method(self, word, model, handler, signature, idempotent, codecs)
