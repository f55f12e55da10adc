"""The command `rsocket-broker`: options in, one running broker, an exit code out.

What goes wrong with the command, the config or a socket is one line on stderr; a traceback means a
bug. `broker.serve` does the running.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
from pathlib import Path
from typing import Final

import click

from broker.config import Config, ConfigError
from broker.config_file import ENV_FILE, load, render
from broker.kernel import KERNEL
from broker.observe import logs
from rsocket_mesh.transport import server_tls

USAGE: Final = 2  # the exit code when the command line or the config is wrong

log = logging.getLogger("broker")

_HELP: Final = f"""Run the broker: services connect to it, say what they serve, and call each other.

\b
Without options it listens on loopback only:
  tcp://127.0.0.1:7878   RSocket over TCP
  ws://127.0.0.1:7879    RSocket over WebSocket
  http://127.0.0.1:7880  /healthz /readyz /metrics /api/v1/ and a page at /

\b
Examples:
  rsocket-broker
  rsocket-broker --listen tcp://127.0.0.1:0 --admin ''
  rsocket-broker --listen unix:///run/mesh/broker.sock
  rsocket-broker --workers 4
  rsocket-broker --print-config > broker.toml
  rsocket-broker --config broker.toml --check
  RSOCKET_BROKER_LIMITS__FRAME_BYTES='1 MiB' rsocket-broker

It prints `listening URL` for each open address, then `ready`. The log goes to stderr.

\b
SIGTERM, SIGINT: no new work, running calls finish (drain.timeout), exit 0.
The same again: stop at once, exit 1.

\b
--workers N: N processes share the listeners and behave as one broker. The
one that was started hands each connection to the process that has fewest,
restarts those that die, and is the one to send signals to.

\b
Exit codes: 0 ended in order, 1 could not start or was cut off, 2 wrong usage
or config.

An address that other machines can reach needs insecure = true beside it in the config, because
nobody would be asked who they are. {ENV_FILE} names a config file too, and every key has a
variable of its own: see --print-config.
"""


def main() -> None:
    """Run the command with the arguments of this process, and exit."""
    try:
        code = command.main(prog_name="rsocket-broker", standalone_mode=False)
    except click.UsageError as exc:
        code = _fail(USAGE, f"{exc.format_message()} (see --help)")
    except click.ClickException as exc:
        code = _fail(USAGE, exc.format_message())
    except ConfigError as exc:
        code = _fail(USAGE, str(exc))
    sys.exit(code)


@click.command(help=_HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    envvar=ENV_FILE,
    metavar="FILE",
    help="Read this TOML file.",
)
@click.option(
    "--listen",
    multiple=True,
    metavar="URL",
    help="Listen here and nowhere else; may be repeated. tcp, tls, ws, wss or unix; port 0"
    " takes a free one. Further settings of the same URL in the file apply.",
)
@click.option("--admin", metavar="URL", help="Serve HTTP for operators here; '' switches it off.")
@click.option(
    "--workers", type=int, metavar="N", help="Share the work among N processes; 1 by default."
)
@click.option("--check", is_flag=True, help="Validate, print what would be opened, and exit.")
@click.option(
    "--print-config", is_flag=True, help="Print the config in force, with reasons, and exit."
)
@click.version_option(
    package_name="rsocket-mesh", message=f"%(prog)s %(version)s (kernel: {KERNEL})"
)
def command(
    file: Path | None,
    listen: tuple[str, ...],
    admin: str | None,
    workers: int | None,
    check: bool,
    print_config: bool,
) -> int:
    config = load(file, os.environ, listen=listen, admin=admin, workers=workers)
    if print_config:
        click.echo(render(config), nl=False)
        return 0
    if check:
        return _check(config)
    logs.configure(config.log)
    _raise_file_limit()
    gc.disable()  # there is nothing to collect while modules are loaded; `serve` goes on with it
    from broker.serve import StartFailed, serve  # here: `--help` and `--check` need no broker

    try:
        if sys.platform == "win32":  # uvloop does not exist there
            return asyncio.run(serve(config))
        import uvloop

        return uvloop.run(serve(config))
    except StartFailed as exc:
        return _fail(1, f"cannot start: {exc}")


def _check(config: Config) -> int:
    """Try what can be tried without opening a socket; print what would be opened."""
    for index, listener in enumerate(config.listeners):
        if listener.certificate:
            try:
                server_tls(listener.certificate, listener.key)
            except OSError as exc:
                text = f"listeners[{index}].certificate: {exc.strerror or exc}"
                raise ConfigError(text) from None
    for url in (*(listener.url for listener in config.listeners), config.admin.url):
        if url:
            click.echo(f"would listen on {url}")
    click.echo("config is valid")
    return 0


def _raise_file_limit() -> None:
    """Allow as many sockets as this user may have: the default of 1024 ends a busy day early."""
    if sys.platform == "win32":  # it has no such limit
        return
    import resource  # here, because Windows has no such module

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError) as exc:  # macOS has a lower limit than the one it tells
        log.warning("file limit stays at %d: %s", soft, exc)


def _fail(code: int, text: str) -> int:
    click.echo(f"rsocket-broker: {text}", err=True)
    return code


if __name__ == "__main__":
    main()
