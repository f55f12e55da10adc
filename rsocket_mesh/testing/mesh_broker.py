"""A whole mesh inside one test: the real broker, real services and callers, and a manual clock.

The top of the kit. Nothing here is a mock: the broker is `broker.daemon.Broker` with an address in
memory, services and callers are those of the library. What differs from production is what a test
has to own: the time, chance, and the network.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Iterable
from contextlib import suppress
from random import Random
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import msgspec

from broker.config import AdminConfig, Config, Limits, ListenerConfig
from broker.daemon import Broker
from rsocket_mesh.errors import RSocketError, StreamError
from rsocket_mesh.peer.jitter import jitter
from rsocket_mesh.rpc.mesh import Connecting, Mesh, connect
from rsocket_mesh.rpc.service import Service
from rsocket_mesh.testing.clock import HOUR, ManualClock, manual_clock
from rsocket_mesh.testing.links import Link
from rsocket_mesh.testing.record import Record, RecordedCall
from rsocket_mesh.testing.switchboard import Rejection, Switchboard
from rsocket_mesh.testing.wires import ALWAYS
from rsocket_mesh.transport.memory import pair_memory_by

if TYPE_CHECKING:
    from broker.forwarding.guard import MemoryGuard
    from broker.forwarding.hub import Hub

T = TypeVar("T")

NAME: Final = "mesh"  # of the address in memory; a second broker in the same process has `mesh-2`
CALLER: Final = "test"  # the app of who connects without a name
DEFAULTS: Final = Config(limits=Limits(frame_timeout=HOUR))


class _Broker(Broker):
    """The real one, in a process whose memory is not its own."""

    def _watch_memory(self, hub: Hub) -> MemoryGuard | None:
        return None


class MeshBroker:
    """A broker in memory with all that a test wants to do to it; `broker` makes it.

    Use it in `async with`. It belongs to the event loop of that block, and puts a manual clock
    under it: until the block ends, time passes only through `clock`.

    Attributes:
        clock: the time of everything on the loop.
        seed: of every random choice of broker and library.
        url: for `rsocket_mesh.connect`, such as `memory://mesh`.
        calls: every call of the mesh, in the order in which they were sent.
        trace: what happened, in lines; the same in two runs with the same seed.
    """

    def __init__(self, seed: int, config: Config, name: str) -> None:
        self.seed = seed
        self.clock: ManualClock
        self.url = ""
        self._name = name
        self._config = config
        self._random = Random(seed)  # noqa: S311  # no secret
        self._broker: Broker | None = None
        self._record = Record(lambda: self.clock.now - self._began)
        self._board = Switchboard(self._record)
        self._began = 0.0
        self._meshes: list[Mesh] = []
        self._made = 0  # instances that were given a name
        self._is_open = False

    def __repr__(self) -> str:
        return f"<MeshBroker {self.url}, {len(self._board.links)} links, {len(self.calls)} calls>"

    @property
    def calls(self) -> list[RecordedCall]:
        return self._record.calls

    @property
    def trace(self) -> list[str]:
        return self._record.trace

    @property
    def broker(self) -> Broker:
        """The broker itself, for what is not offered here; another one after `restart`."""
        if self._broker is None:
            raise RuntimeError("the broker is stopped; `await start()` starts it again")
        return self._broker

    # -- the life of the broker -------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._is_open:
            raise RuntimeError("this mesh is in use already")
        self.clock = manual_clock().__enter__()
        self._began = self.clock.now
        self._is_open = True
        jitter.seed(self.seed)
        try:
            await self.start()
        except BaseException:
            self._leave()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Let all connections of `serve` and `connect` leave in order, stop the broker, and give
        the loop its own time back. As much time passes as that takes. Idempotent.

        If cancelled: what is left of it ends with the loop.
        """
        if not self._is_open:
            return
        try:
            await in_time(self.clock, self._close())
        finally:
            self._leave()

    async def _close(self) -> None:
        for mesh in reversed(self._meshes):
            with suppress(RSocketError, OSError):
                await mesh.close()
        await self.stop()
        self._board.close()

    def _leave(self) -> None:
        self._is_open = False
        jitter.seed()
        self.clock.__exit__(None, None, None)

    async def start(self) -> None:
        """Start the broker again after `stop`, under the same address and with nobody connected."""
        if self._broker is not None:
            raise RuntimeError("the broker runs already")
        number = 1
        while True:
            name = self._name if number == 1 else f"{self._name}-{number}"
            url = self.url or f"memory://{name}"
            try:
                self._broker = await self._started(url)
                break
            except OSError as exc:
                if exc.errno != errno.EADDRINUSE or self.url:
                    raise
                number += 1
        self.url = url
        self._board.hub = self._broker.hub
        self._broker.hub.draw = self._random.getrandbits
        pair_memory_by(url.removeprefix("memory://"), self._board.pair)
        self._record.say("the broker is ready")

    async def _started(self, url: str) -> Broker:
        started = _Broker(
            msgspec.structs.replace(
                self._config, listeners=(ListenerConfig(url),), admin=AdminConfig("")
            )
        )
        await started.start()
        return started

    async def stop(self) -> None:
        """Stop the broker at once, without its drain; whoever was connected tries to connect again.
        Lets a moment pass for its last words, up to a second where a peer does not read."""
        stopped, self._broker = self._broker, None
        if stopped is not None:
            self._record.say("the broker stops")
            await in_time(self.clock, stopped.stop())
            self._board.hub = None

    async def restart(self) -> None:
        """`stop` and `start`: all sessions are forgotten, and everybody connects again."""
        await self.stop()
        await self.start()

    # -- who takes part ---------------------------------------------------------------------------

    async def serve(
        self,
        *services: Service,
        app: str | None = None,
        instance: str | None = None,
        **options: Any,
    ) -> Mesh:
        """Connect one program that serves these, until the mesh ends; return its connection.

        Args:
            app: by default the name of the first service, with `-` in the place of dots.
            instance: by default one with a number, such as `orders-1`.
            options: of `rsocket_mesh.connect`.
        Raises:
            SetupRefused, Unreachable, ValueError: as of `connect`.
        """
        if not services:
            raise ValueError("serve() needs a service; connect() is for callers")
        name = app or services[0].name.replace(".", "-")
        return await self.connect(app=name, instance=instance, serve=services, **options)

    def connect(
        self,
        *,
        app: str = CALLER,
        instance: str | None = None,
        serve: Iterable[Service] = (),
        **options: Any,
    ) -> Connecting:
        """Connect a program to the mesh, to be awaited or used in `async with`.

        It is `rsocket_mesh.connect` to the address of this broker; a program of the test's own may
        call that itself. What is left open is closed with the mesh. Connecting and leaving let as
        much time pass as they take: none, unless the link has faults.

        Args:
            app: who calls, in records and faults.
            instance: by default one with a number, such as `test-1`.
            options: of `rsocket_mesh.connect`.
        """
        if not self.url:
            raise RuntimeError("the mesh has not begun; use it in `async with`")
        if instance is None:
            self._made += 1
            instance = f"{app}-{self._made}"
        return _Connecting(
            self.clock,
            self._meshes,
            connect(self.url, app=app, instance=instance, serve=serve, **options),
        )

    def link(self, who: Service | Mesh | str) -> Link:
        """Return the link of a program, to give it faults.

        Args:
            who: a service that one program serves; a connection; or a name: of a link as in the
                trace, or of an app that need not be connected yet.
        Raises:
            ValueError: nobody serves it, or several do; the text names them.
        """
        if isinstance(who, str):
            return self._board.links.get(who) or self._board.link(who)
        if isinstance(who, Mesh):
            return self._board.link(who.app, who.instance)
        links = self._board.links
        serving = [link for link in links.values() if who.name in link.services]
        if len(serving) != 1:
            names = ", ".join(repr(link.name) for link in serving) or "nobody"
            known = ", ".join(map(repr, links)) or "none"
            raise ValueError(f"{who.name!r} is served by {names}; links: {known}")
        return serving[0]

    # -- calls ------------------------------------------------------------------------------------

    def reject(self, route: str, error: StreamError, *, times: int | None = None) -> None:
        """Refuse calls with *error* from now on, in the place of the broker: they reach nobody.

        Not for calls over connections with resume, whose two sides count what they have received.

        Args:
            route: `service.method`, or `service` for all of its methods.
            times: so many calls; None for all until `accept`.
        """
        self._board.rejections[route] = Rejection(error, ALWAYS if times is None else times)

    def accept(self, route: str) -> None:
        """Let calls pass that `reject` refuses."""
        self._board.rejections.pop(route, None)

    def calls_to(self, route: str) -> list[RecordedCall]:
        """Return the calls to `service.method`, or to all methods of a `service`."""
        return [
            call
            for call in self.calls
            if call.route == route or call.route.rpartition(".")[0] == route
        ]


class _Connecting(Connecting):
    """A connection that the mesh closes, if nobody else does."""

    def __init__(self, clock: ManualClock, meshes: list[Mesh], connecting: Connecting) -> None:
        self._clock = clock
        self._meshes = meshes
        self._connecting = connecting

    async def __aenter__(self) -> Mesh:
        mesh = await in_time(self._clock, self._connecting.__aenter__())
        self._meshes.append(mesh)
        return mesh

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await in_time(self._clock, self._connecting.__aexit__(kind, error, traceback))


async def in_time(clock: ManualClock, awaitable: Awaitable[T]) -> T:
    """Return the result of *awaitable*; let time pass for it, unless somebody does that already."""
    if clock.is_moving or not clock.is_in_use:
        return await awaitable
    return await clock.until(awaitable)


def broker(*, seed: int = 0, config: Config | None = None, name: str = NAME) -> MeshBroker:
    """Return a broker in memory, to be used in `async with`.

    Args:
        seed: of every random choice that broker and library make: which of several providers gets
            a call, and how long a reconnecting client waits. The same seed, the same trace.
        config: of the broker (`broker.config.Config`); its listeners, its admin side and its
            budget of memory are not used. None means the defaults, but for `limits.frame_timeout`:
            no frame comes in pieces here, and looking for those that do is work.
        name: of its address in memory, `memory://NAME`; a number follows if it is taken.
    """
    return MeshBroker(seed, DEFAULTS if config is None else config, name)
