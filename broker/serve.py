"""One broker from its start to its end: sockets, the lines on stdout, signals, the drain.

Composes `Broker` and, beside it, `AdminServer`; `broker.__main__` calls it with a checked config.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from broker.config import Config
from broker.daemon import Broker
from rsocket_mesh.errors import RSocketError

if TYPE_CHECKING:
    from broker.admin.http import AdminServer
    from broker.admin.snapshot import BrokerView
    from broker.workers.supervisor import Supervisor

ENDED_IN_ORDER: Final = 0  # exit codes
CUT_OFF: Final = 1

# Objects by which the process has to grow before the youngest are looked at; Python does so at 700.
# More would spare a busy broker work, but a storm of connections then makes each look take so long
# that others notice.
YOUNG_OBJECTS: Final = 1_000
# Collections of the middle generation between two full ones, 100 times what Python does by itself.
FULL_COLLECTION_EVERY: Final = 1000

log = logging.getLogger(__name__)


class StartFailed(RSocketError):
    """A socket could not be opened, or what it needs could not be read; the text says which."""


async def serve(config: Config) -> int:
    """Run one broker until a signal ends it; return the exit code of the process.

    Prints `listening URL` for each open address and `ready` when all are. The first SIGTERM or
    SIGINT drains, the second stops at once.

    Raises:
        StartFailed: nothing was served.
    If cancelled: everything is closed at once.
    """
    signals = _Signals()
    broker = _broker(config)
    admin = _admin_server(broker, config)
    try:
        try:
            if admin is not None:  # first, so that `/readyz` can say that the broker is starting
                await admin.start()
            await broker.start()
        except OSError as exc:
            raise StartFailed(exc.strerror or str(exc)) from exc
        except RSocketError as exc:
            raise StartFailed(str(exc)) from exc
        for url in (*(listener.url for listener in broker.listeners), admin and admin.url):
            if url:
                print(f"listening {url}", flush=True)  # noqa: T201 - the command's output
        look_for_cycles_rarely()
        print("ready", flush=True)  # noqa: T201 - the command's output
        await signals.first.wait()
        return await _drain(broker, signals)
    finally:
        await broker.stop()
        if admin is not None:
            await admin.stop()


def look_for_cycles_rarely() -> None:
    """Keep the garbage collector from stopping everybody.

    A full collection looks at every object of every connection: 60 ms with 10,000 of them, in which
    nobody is served, and it finds nothing, since sessions are made so that they go without it. What
    start-up made stays to the end and is not looked at again.
    """
    gc.freeze()
    gc.enable()
    _, middle, _ = gc.get_threshold()
    gc.set_threshold(YOUNG_OBJECTS, middle, FULL_COLLECTION_EVERY)


def _broker(config: Config) -> Broker | Supervisor:
    if config.workers.count == 1:
        return Broker(config)
    from broker.workers.supervisor import Supervisor  # here: one process needs none

    return Supervisor(config)


def _admin_server(broker: BrokerView, config: Config) -> AdminServer | None:
    if not config.admin.url:
        return None
    with _no_certificates():
        from broker.admin.http import AdminServer  # here: an HTTP server costs 0.1 s to import

    return AdminServer(broker, config.admin)


@contextmanager
def _no_certificates() -> Iterator[None]:
    """Keep aiohttp from reading the system's certificates while it is imported.

    Its client does, a fifth of the whole start of a broker, and the broker uses only its server.
    """
    name = "SSL_CERT_FILE"
    before = os.environ.get(name)
    os.environ[name] = os.devnull
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


async def _drain(broker: Broker | Supervisor, signals: _Signals) -> int:
    """Let running calls finish, unless a second signal says that there is no time."""
    log.info("draining; the same signal again stops at once")
    drained = asyncio.create_task(broker.drain())
    hurried = asyncio.create_task(signals.second.wait())
    await asyncio.wait((drained, hurried), return_when=asyncio.FIRST_COMPLETED)
    hurried.cancel()
    if drained.done():
        await drained  # an error in it is a bug and ends in a traceback
        log.info("drained")
        return ENDED_IN_ORDER
    drained.cancel()
    log.warning("stopped by a second signal; running calls were cut off")
    return CUT_OFF


class _Signals:
    """SIGTERM and SIGINT as two events: the first asks to drain, the second to stop."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            if sys.platform == "win32":  # its loops have no signal handlers
                signal.signal(number, lambda *_: loop.call_soon_threadsafe(self._receive))
            else:
                loop.add_signal_handler(number, self._receive)

    def _receive(self) -> None:
        (self.second if self.first.is_set() else self.first).set()
