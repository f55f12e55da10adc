"""Our broker: with the plain and with the compiled kernel, over each transport, with workers."""

from __future__ import annotations

import functools
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

from benchmarks.stage import (
    Contender,
    Lines,
    Options,
    Running,
    Unavailable,
    process,
    said_by,
)

ORDER: Final = 20
PLAIN: Final = {"RSOCKET_MESH_PURE": "1"}
# One load process stands for thousands of peers: what bounds one peer is raised, nothing is off.
ROOM: Final = {
    "RSOCKET_BROKER_LIMITS__CONNECTIONS_PER_ADDRESS": "20000",
    "RSOCKET_BROKER_LIMITS__STREAMS": "100000",
    "RSOCKET_BROKER_LIMITS__ANNOUNCED_SERVICES": "20000",
}
ALL: Final = frozenset({"stream", "fnf", "channel", "many", "sessions"})


@functools.cache
def version() -> str:
    """Return what `rsocket-broker --version` says, in one line."""
    return ", ".join(said_by(sys.executable, "-m", "broker", "--version").splitlines())


@functools.cache
def _help() -> str:
    return said_by(sys.executable, "-m", "broker", "--help")


def has_compiled_kernel() -> bool:
    """Return whether the broker would run its compiled kernel."""
    return "kernel: compiled" in version()


def fastest() -> str:
    """Return the name of the contender that stands for the broker as it is installed."""
    return "broker (compiled)" if has_compiled_kernel() else "broker (plain)"


@contextmanager
def broker(
    options: Options, *arguments: str, environment: Mapping[str, str] | None = None
) -> Iterator[tuple[Lines, int]]:
    """Run the broker; yield its addresses and process id."""
    variables = {
        "RSOCKET_BROKER_LOG__LEVEL": "error",
        **(ROOM if options.room else {}),
        **(environment or {}),
        **options.environment,
    }
    lines = Lines()
    command = [sys.executable, "-m", "broker", "--admin", "", *arguments]
    with process(command, core=options.core, ready=lines, environment=variables) as child:
        yield lines, child.pid


def tcp(kernel: str, *arguments: str) -> Callable[[Options], AbstractContextManager[Running]]:
    """Return a start over TCP with a kernel: `plain`, `compiled`, or `` for whichever there is."""

    @contextmanager
    def start(options: Options) -> Iterator[Running]:
        if kernel == "compiled" and not has_compiled_kernel():
            raise Unavailable(
                "the compiled kernel was not built: it needs a C compiler when the package is"
                f" installed; `rsocket-broker --version` says: {version()}"
            )
        if "--workers" in arguments and "--workers" not in _help():
            raise Unavailable("this broker has no option --workers")
        environment = PLAIN if kernel == "plain" else None
        listen = ("--listen", "tcp://127.0.0.1:0")
        with broker(options, *listen, *arguments, environment=environment) as (lines, pid):
            address = "tcp:" + lines.urls[0].rpartition(":")[2]
            yield Running(address, (pid,), version=version())

    return start


@contextmanager
def unix(options: Options) -> Iterator[Running]:
    """Over a Unix socket."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        path = f"{folder}/broker.sock"
        with broker(options, "--listen", f"unix://{path}") as (_, pid):
            yield Running(f"unix:{path}", (pid,))


@contextmanager
def websocket(options: Options) -> Iterator[Running]:
    """Over WebSocket."""
    with broker(options, "--listen", "ws://127.0.0.1:0") as (lines, pid):
        yield Running("ws:" + lines.urls[0].rpartition(":")[2], (pid,))


@contextmanager
def tls(options: Options) -> Iterator[Running]:
    """Over TLS, with a certificate made for the occasion. The load checks nothing."""
    try:
        import trustme  # an extra: only this contender needs it
    except ImportError as exc:
        raise Unavailable("trustme is not installed (pip install '.[bench]')") from exc
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        made = trustme.CA().issue_cert("127.0.0.1", "localhost")
        certificate, key = Path(folder, "certificate.pem"), Path(folder, "key.pem")
        for blob in made.cert_chain_pems:
            blob.write_to_path(str(certificate), append=True)
        made.private_key_pem.write_to_path(str(key))
        config = Path(folder, "broker.toml")
        config.write_text(
            f'[[listeners]]\nurl = "tls://127.0.0.1:0"\n'
            f'certificate = "{certificate}"\nkey = "{key}"\n'
        )
        with broker(options, "--config", str(config)) as (lines, pid):
            yield Running("tls:" + lines.urls[0].rpartition(":")[2], (pid,))


CONTENDERS: Final = (
    Contender(
        "broker (plain)", "rsocket", tcp("plain"), "ours over TCP, plain Python, all features", ALL
    ),
    Contender(
        "broker (compiled)", "rsocket", tcp("compiled"), "ours over TCP, compiled kernel", ALL
    ),
    Contender("broker, Unix socket", "rsocket", unix, "ours", ALL, frozenset({"transports"})),
    Contender("broker, TLS", "rsocket", tls, "ours, TLS 1.3", ALL, frozenset({"transports"})),
    Contender("broker, WebSocket", "rsocket", websocket, "ours", ALL, frozenset({"transports"})),
    Contender("broker, TCP", "rsocket", tcp(""), "ours", ALL, frozenset({"transports"})),
    Contender("1 worker", "rsocket", tcp(""), "ours, one process", ALL, frozenset({"workers"})),
    Contender(
        "2 workers",
        "rsocket",
        tcp("", "--workers", "2"),
        "ours, two processes that are one broker",
        ALL,
        frozenset({"workers"}),
    ),
)
