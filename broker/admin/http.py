"""The HTTP side for operators: health, metrics, a read-only JSON API and a page.

Beside the broker, not in it: all it sees is `BrokerView`. It shares the broker's loop, so that
`/healthz` answers only while the loop turns; every answer is one snapshot and bounded in rows. The
`Host` of each request is checked, because a web page can point a name of its own at the reader's
loopback (DNS rebinding) and would then read all of this.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias
from urllib.parse import urlsplit

import msgspec
from aiohttp import web

from broker.admin import page
from broker.admin.snapshot import BrokerView, ConnectionView, ServiceView, WorkerView
from broker.config import AdminConfig
from broker.observe import prometheus
from broker.observe.logs import OncePer

DEFAULT_ROWS: Final = 1000  # items of one JSON answer unless `limit` asks for another number
MAX_ROWS: Final = 10_000  # the most that `limit` may ask for: some MB, built while the loop waits
KEEPALIVE_TIMEOUT: Final = 15.0  # seconds that an idle connection of a browser stays open
SHUTDOWN_TIMEOUT: Final = 1.0  # seconds for running answers; none of them waits for anything
MAX_REQUEST: Final = 1024  # bytes of body; no path here takes one
LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "::1"})
WARN_EVERY: Final = 60.0  # seconds between two log lines about the same refused Host
WARN_KEYS: Final = 16  # different Hosts that are logged in that time

_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Server": "rsocket-broker",  # aiohttp would tell its version and that of Python
    "X-Content-Type-Options": "nosniff",
}
_HOST: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::\d+)?")
_Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = logging.getLogger(__name__)


class AdminServer:
    """Serves one `BrokerView` over HTTP.

    Attributes:
        url: where it listens, with the real port; as configured until `start` has returned.
    """

    def __init__(self, view: BrokerView, config: AdminConfig) -> None:
        """Args:
        config: its `url` must not be empty.
        """
        self.url = config.url
        self._view = view
        self._registry = prometheus.registry_for(view)
        self._allowed_hosts = LOOPBACK_NAMES | {host.lower() for host in config.allowed_hosts}
        self._warn_host = OncePer(WARN_EVERY, WARN_KEYS)
        self._runner: web.AppRunner | None = None
        self._paths: dict[str, _Handler] = {
            "/": self._page,
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/metrics": self._metrics,
            "/api/v1/status": self._status,
            "/api/v1/connections": self._connections,
            "/api/v1/services": self._services,
            "/api/v1/workers": self._workers,
        }

    async def start(self) -> None:
        """Open the socket and serve until `stop`.

        Raises:
            OSError: the address is taken or not ours; the text names the URL.
        If cancelled: nothing stays open.
        """
        app = web.Application(client_max_size=MAX_REQUEST, middlewares=[self._guard])
        for path, handler in self._paths.items():
            app.router.add_get(path, handler)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            keepalive_timeout=KEEPALIVE_TIMEOUT,
            shutdown_timeout=SHUTDOWN_TIMEOUT,
        )
        wanted = urlsplit(self.url)
        try:
            await self._runner.setup()
            await web.TCPSite(self._runner, wanted.hostname, wanted.port).start()
        except OSError as exc:
            await self.stop()
            text = f"cannot listen on {self.url}: {exc.strerror}"
            raise OSError(exc.errno, text) from exc
        except BaseException:
            await self.stop()
            raise
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def stop(self) -> None:
        """Close the socket and its connections, within about a second. Idempotent."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    @web.middleware
    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Around every request: who is asked for, and what goes wrong, in one place."""
        if not self._is_asked_for(request):
            response: web.StreamResponse = self._refuse_host(request)
        else:
            try:
                response = await handler(request)
            except web.HTTPMethodNotAllowed as exc:
                text = f"{request.method} is not allowed: all of this is read-only; use GET"
                response = _json({"error": text}, status=405)
                response.headers["Allow"] = exc.headers["Allow"]
            except web.HTTPNotFound:
                text = f"there is no {request.path}; see paths"
                response = _json({"error": text, "paths": sorted(self._paths)}, status=404)
            except web.HTTPException as exc:
                response = _json({"error": exc.text or exc.reason}, status=exc.status)
            except Exception:
                log.exception("admin request failed", extra={"path": request.path})
                response = _json({"error": "a bug in the broker; its log has more"}, status=500)
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    def _is_asked_for(self, request: web.Request) -> bool:
        host = _host_name(request.headers.get("Host", ""))
        if host in self._allowed_hosts:
            return True
        # The address itself: nobody can make a browser send that for a page of another origin.
        socket_name = request.get_extra_info("sockname")
        return bool(socket_name) and _same_address(host, socket_name[0])

    def _refuse_host(self, request: web.Request) -> web.Response:
        host = request.headers.get("Host", "")[:100]
        left_out = self._warn_host.admit(host, time.monotonic())
        if left_out is not None:
            log.warning("admin request refused: Host is not ours", extra={"host": host})
        text = (
            f'this is the admin side of a broker, and "{host}" is not one of its names; if it is,'
            " add it to allowed_hosts in [admin] of the broker's config"
        )
        return _json({"error": text}, status=421)

    async def _healthz(self, request: web.Request) -> web.Response:
        if await self._view.refresh():
            return _json({"status": "ok"})
        return _json({"status": "a worker does not answer; see /api/v1/workers"}, status=503)

    async def _readyz(self, request: web.Request) -> web.Response:
        await self._view.refresh()
        state = self._view.snapshot().state
        return _json({"state": state}, status=200 if state == "ready" else 503)

    async def _metrics(self, request: web.Request) -> web.Response:
        await self._view.refresh()
        body = prometheus.render(self._registry)
        return web.Response(body=body, headers={"Content-Type": prometheus.CONTENT_TYPE})

    async def _status(self, request: web.Request) -> web.Response:
        await self._view.refresh()
        snapshot, counters = self._view.snapshot(), self._view.counters
        status = {
            "state": snapshot.state,
            "version": snapshot.version,
            "uptime_seconds": round(snapshot.uptime, 3),
            "connections": len(snapshot.connections),
            "services": len(snapshot.services),
            "streams_open": snapshot.streams_open,
            "accepted": counters.accepted,
            "refused": counters.refused,
            "closes": counters.closes,
            "resumed": counters.resumed,
            "resume_refused": counters.resume_refused,
            "dropped": counters.dropped,
            "ignored": counters.ignored,
        }
        return _json(status)

    async def _connections(self, request: web.Request) -> web.Response:
        await self._view.refresh()
        return _rows(request, "connections", self._view.snapshot().connections)

    async def _services(self, request: web.Request) -> web.Response:
        await self._view.refresh()
        return _rows(request, "services", self._view.snapshot().services)

    async def _workers(self, request: web.Request) -> web.Response:
        await self._view.refresh()
        return _rows(request, "workers", self._view.snapshot().workers)

    async def _page(self, request: web.Request) -> web.Response:
        await self._view.refresh()
        response = web.Response(text=page.render(self._view.snapshot()), content_type="text/html")
        response.headers["Content-Security-Policy"] = page.CONTENT_SECURITY_POLICY
        return response


def _json(value: object, status: int = 200) -> web.Response:
    body = msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"
    return web.Response(body=body, status=status, content_type="application/json")


def _rows(
    request: web.Request, name: str, rows: Sequence[ConnectionView | ServiceView | WorkerView]
) -> web.Response:
    """Answer with the part of *rows* that was asked for, and how many there are in all."""
    offset = _number(request, "offset", 0)
    limit = min(_number(request, "limit", DEFAULT_ROWS), MAX_ROWS)
    shown = [row._asdict() for row in rows[offset : offset + limit]]
    return _json({"total": len(rows), "offset": offset, name: shown})


def _number(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise web.HTTPBadRequest(text=f"{name} is a whole number from 0; got {text[:20]!r}")
    return int(text)


def _host_name(host: str) -> str:
    """Return a `Host` without its port and brackets; nothing for one that cannot be read."""
    match = _HOST.fullmatch(host)
    return (match[1] or match[2]).lower() if match else ""


def _same_address(host: str, address: str) -> bool:
    try:
        return ipaddress.ip_address(host) == ipaddress.ip_address(address)
    except ValueError:
        return False
