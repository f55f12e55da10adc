"""nats-server: the message bus. A request is a message with an inbox, the answer one to it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

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

ORDER: Final = 30
# As it comes, but for payloads of 1 MiB, and for bursts that its default (64 MB) would cut off.
CONFIG: Final = """\
listen: "127.0.0.1:{port}"
max_payload: 8MB
max_pending: 512MB
max_connections: 100000
"""


@contextmanager
def nats_server(options: Options) -> Iterator[Running]:
    """One nats-server without persistence."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        port = free_port()
        config = Path(folder, "nats.conf")
        config.write_text(CONFIG.format(port=port))
        command = ["nats-server", "--config", str(config)]
        version = said_by(command[0], "--version")
        if not version:
            raise Unavailable("nats-server is not installed (on Debian: nats-server)")
        with process(command, core=options.core, ready=listens(port)) as child:
            yield Running(f"tcp:{port}", (child.pid,), version=version)


CONTENDERS: Final = (
    Contender(
        "nats-server",
        "nats",
        nats_server,
        "Go; request-reply over its text protocol",
        frozenset({"fnf", "many", "sessions"}),
    ),
)
