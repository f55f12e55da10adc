"""The command `rsocket-mesh`: arguments in, one exit code out.

Whatever a user or a remote side does wrong is one line on stderr; a traceback means a bug here.
`calling`, `looking`, `saving` and `conforming` hold the commands, `failures` the exit codes.
"""

from __future__ import annotations

import sys

import click

from rsocket_mesh.cli import calling, conforming, looking, saving
from rsocket_mesh.cli.failures import INTERRUPTED, USAGE, explain, one_line
from rsocket_mesh.errors import RSocketError

_HELP = """Call and look at the services of a mesh: JSON in, JSON or tables out.

Works with every service that is connected to the broker; nothing has to be generated first.

\b
Examples:
  rsocket-mesh list
  rsocket-mesh describe orders
  rsocket-mesh call orders.total '{"sku": "A1", "quantity": 2}'
  rsocket-mesh stream ticker.prices '"ACME"' --limit 10 -o json
  rsocket-mesh --help; rsocket-mesh call --help

\b
The broker is, in this order:
  --broker URL         may be repeated; the first that answers
  --context NAME       saved by `rsocket-mesh context add`
  RSOCKET_MESH_BROKER  one or several URLs
  the context chosen by `rsocket-mesh context use`
  tcp://127.0.0.1:7878

\b
Exit codes:
  0  ok
  1  the service or the broker answered with an error
  2  wrong usage, or input that is not JSON
  3  no broker can be reached, or the connection was lost
  4  no answer in time
"""


@click.group(help=_HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rsocket-mesh", message="%(prog)s %(version)s")
def cli() -> None:
    pass


for _command in (
    calling.call,
    calling.stream,
    calling.fire,
    calling.channel,
    looking.list_,
    looking.describe,
    looking.ping,
    saving.context,
    conforming.conformance,
):
    cli.add_command(_command)


def main() -> None:
    """Run the command with the arguments of this process, and exit."""
    sys.exit(run())


def run() -> int:
    """Run the command with the arguments of this process and return its exit code."""
    try:
        return int(cli.main(prog_name="rsocket-mesh", standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as exc:
        exc.show()
        return USAGE
    except click.exceptions.Abort:  # Ctrl-C
        return INTERRUPTED
    except click.ClickException as exc:
        hint = ""
        if isinstance(exc, click.UsageError) and exc.ctx is not None:
            hint = f" (see `{exc.ctx.command_path} --help`)"
        return _fail(USAGE, exc.format_message().rstrip(".") + hint)
    except RSocketError as exc:
        return _fail(*explain(exc))


def _fail(code: int, text: str) -> int:
    click.echo(f"rsocket-mesh: {one_line(text)}", err=True)
    return code
