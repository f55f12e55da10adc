"""A program that only serves: connect, wait for a signal, leave in order."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Sequence
from typing import Any, Final

from rsocket_mesh.errors import Unreachable
from rsocket_mesh.rpc.mesh import Mesh, connect
from rsocket_mesh.rpc.service import Service

RETRY_DELAY: Final = 1.0  # s between two attempts while no broker can be reached at the start

log: Final = logging.getLogger("rsocket_mesh")


def run(url: str | Sequence[str], *services: Service, **options: Any) -> None:
    """Serve until SIGINT or SIGTERM; blocks. A second signal ends the program at once.

    A broker that cannot be reached yet is waited for; the options are those of `connect`. Logs one
    line when registered, on standard error unless the program has configured logging.

    Raises:
        SetupRefused: the broker does not take these services; the text has its reason.
        ValueError: a service, an option or the URL is no good.
    """
    if not logging.getLogger().handlers:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    with asyncio.Runner(loop_factory=_new_loop()) as runner:
        runner.run(_until_signal(url, services, options))


async def _until_signal(
    url: str | Sequence[str], services: Sequence[Service], options: dict[str, Any]
) -> None:
    loop = asyncio.get_running_loop()
    serving = loop.create_task(_serve(url, services, options))
    handled: list[signal.Signals] = []
    stopped = False

    def stop(number: signal.Signals) -> None:
        nonlocal stopped
        stopped = True
        log.info("%s: leaving; a second one ends the program at once", number.name)
        serving.cancel()
        while handled:
            loop.remove_signal_handler(handled.pop())

    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            loop.add_signal_handler(number, stop, number)
            handled.append(number)
        except (NotImplementedError, RuntimeError, ValueError):
            pass  # Windows, or not the main thread: whoever runs us interrupts it
    try:
        await serving
    except asyncio.CancelledError:
        if not stopped:
            raise
    finally:
        while handled:
            loop.remove_signal_handler(handled.pop())


async def _serve(
    url: str | Sequence[str], services: Sequence[Service], options: dict[str, Any]
) -> None:
    """Serve until cancelled, then leave in order."""
    mesh = await _connected(url, services, options)
    names = ", ".join(f"{service.name} {service.version}" for service in services)
    log.info("registered %s at %s as %s", names, mesh.url, mesh.instance)
    try:
        await asyncio.Event().wait()
    finally:
        await mesh.close()
        log.info("left %s", mesh.url)


async def _connected(
    url: str | Sequence[str], services: Sequence[Service], options: dict[str, Any]
) -> Mesh:
    last = ""
    while True:
        try:
            return await connect(url, serve=services, **options)
        except Unreachable as exc:
            if str(exc) != last:  # once, not every second
                log.warning("%s; trying again until one answers", exc)
                last = str(exc)
        await asyncio.sleep(RETRY_DELAY)


def _new_loop() -> Any:
    if sys.platform == "win32":
        return None
    try:
        import uvloop  # only programs that run services pay for it
    except ImportError:
        return None
    return uvloop.new_event_loop
