"""HAProxy: one HTTP/2 hop."""

from __future__ import annotations

import os
import shutil
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

ORDER: Final = 44
CONFIG: Final = """\
global
  nbthread 1
  maxconn 4000
  tune.h2.max-concurrent-streams 2048
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend front
  bind 127.0.0.1:{port} proto h2
  default_backend behind
backend behind
  http-reuse always
  server answering 127.0.0.1:{behind} proto h2
"""


@contextmanager
def haproxy(options: Options) -> Iterator[Running]:
    """One thread, HTTP/2 on both sides."""
    path = shutil.which("haproxy", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if path is None:
        raise Unavailable("haproxy is not installed (on Debian: haproxy)")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        port, behind = free_port(), free_port()
        config = Path(folder, "haproxy.cfg")
        config.write_text(CONFIG.format(port=port, behind=behind))
        command = [path, "-db", "-f", str(config)]
        with process(command, core=options.core, ready=listens(port)) as child:
            version = " ".join(said_by(path, "-v").split()[:3])
            yield Running(f"tcp:{port}", (child.pid,), behind, version)


CONTENDERS: Final = (Contender("HAProxy", "http2", haproxy, "C; one HTTP/2 hop, one thread"),)
