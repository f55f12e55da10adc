"""nginx with `grpc_pass`: one HTTP/2 hop."""

from __future__ import annotations

import os
import re
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

ORDER: Final = 42
COMMON: Final = """\
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
{user}
events {{ worker_connections 20000; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 600;
  http2_max_concurrent_streams 2048;
  client_body_buffer_size 2m; client_max_body_size 8m;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
"""
PROXY: Final = """\
  upstream behind {{
    server 127.0.0.1:{behind} max_fails=0; keepalive 2048; keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{port} http2;
    location / {{ grpc_pass grpc://behind; grpc_buffer_size 64k; }}
  }}
}}
"""


def user() -> str:
    """Return the line that lets workers read the folder where we are root."""
    return "user root;" if os.geteuid() == 0 else ""


def found() -> str:
    """Return the path of nginx, which on Debian is not in the path of plain users."""
    path = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if path is None:
        raise Unavailable("nginx is not installed (on Debian: nginx)")
    return path


def nginx_version() -> str:
    """Return nginx's word about itself."""
    match = re.search(r"nginx/\S+", said_by(found(), "-v"))
    return match[0] if match else ""


@contextmanager
def nginx(options: Options) -> Iterator[Running]:
    """One worker. It opens a connection for each call in flight: its upstreams don't multiplex."""
    path = found()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        port, behind = free_port(), free_port()
        config = Path(folder, "nginx.conf")
        config.write_text(
            COMMON.format(folder=folder, user=user()) + PROXY.format(port=port, behind=behind)
        )
        command = [path, "-c", str(config), "-p", folder, "-e", f"{folder}/error.log"]
        with process(command, core=options.core, ready=listens(port)) as child:
            yield Running(f"tcp:{port}", (child.pid,), behind, nginx_version())


CONTENDERS: Final = (Contender("nginx grpc_pass", "http2", nginx, "C; one HTTP/2 hop, one worker"),)
