"""The commands that keep contexts: `context add`, `use`, `list`, `remove`."""

from __future__ import annotations

import re
from typing import Final

import click
import msgspec

from rsocket_mesh.cli.contexts import Context, Contexts, load_contexts, save_contexts
from rsocket_mesh.cli.output import Mode, Printer

_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


@click.group()
def context() -> None:
    """Save names for brokers, and choose the one that is used.

    \b
    Examples:
      rsocket-mesh context add dev --broker tcp://127.0.0.1:7878 --use
      rsocket-mesh context add prod --broker tls://b1.example:7878 --broker tls://b2.example:7878
      rsocket-mesh context use prod
      rsocket-mesh context list
      rsocket-mesh context remove dev
    """


@context.command()
@click.argument("name")
@click.option(
    "--broker",
    "-b",
    multiple=True,
    required=True,
    metavar="URL",
    help="May be repeated: the first that answers is used.",
)
@click.option("--use", "use_it", is_flag=True, help="Use it from now on.")
def add(name: str, broker: tuple[str, ...], use_it: bool) -> None:
    """Save a context, in place of another one of that name.

    \b
    Example:
      rsocket-mesh context add dev --broker tcp://127.0.0.1:7878 --use
    """
    from rsocket_mesh.transport.url import InvalidUrl, parse_url  # here: --help needs none of it

    if _NAME.fullmatch(name) is None:
        raise click.UsageError(f"{name!r}: a name is 1 to 64 of A-Z a-z 0-9 . _ -")
    try:
        for url in broker:
            parse_url(url)
    except InvalidUrl as exc:
        raise click.UsageError(f"broker {exc}") from exc
    saved = load_contexts()
    current = name if use_it else saved.current
    save_contexts(Contexts(current, {**saved.contexts, name: Context(broker)}))


@context.command()
@click.argument("name")
def use(name: str) -> None:
    """Use a saved context wherever neither --broker, --context nor the environment says another.

    \b
    Example:
      rsocket-mesh context use prod
    """
    saved = load_contexts()
    saved.named(name)
    save_contexts(msgspec.structs.replace(saved, current=name))


@context.command("list")
@click.option("--output", "-o", type=click.Choice(["table", "json"]))
def list_(output: Mode | None) -> None:
    """Show the saved contexts; `*` marks the one in use.

    \b
    Example:
      rsocket-mesh context list -o json
    """
    saved = load_contexts()
    printer = Printer.of(output)
    if printer.mode == "json":
        printer.item(saved)
    elif saved.contexts:
        rows = [
            ("*" if name == saved.current else "", name, " ".join(saved.contexts[name].brokers))
            for name in sorted(saved.contexts)
        ]
        printer.table(("", "CONTEXT", "BROKERS"), rows)
    else:
        click.echo("no context is saved; see `rsocket-mesh context add --help`", err=True)


@context.command()
@click.argument("name")
def remove(name: str) -> None:
    """Forget a saved context.

    \b
    Example:
      rsocket-mesh context remove dev
    """
    saved = load_contexts()
    saved.named(name)
    left = {other: saved.contexts[other] for other in saved.contexts if other != name}
    save_contexts(Contexts("" if name == saved.current else saved.current, left))
