"""Options that several commands share, and what they come to: where to connect, how to print.

A command is an `async def` whose first argument is the `Target`; `mesh_command` makes a click
command of it. Heavy imports wait until a command really runs: `--help` needs none of them.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import sys
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import click

from rsocket_mesh.cli.contexts import DEFAULT_BROKER, ENV_BROKER, broker_urls
from rsocket_mesh.cli.failures import PIPE_CLOSED
from rsocket_mesh.cli.output import Mode
from rsocket_mesh.errors import Invalid

if TYPE_CHECKING:
    from rsocket_mesh.rpc.mesh import Connecting, Mesh
    from rsocket_mesh.rpc.route import Route

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_TIMEOUT: Final = 10.0  # seconds; as in the library
MAX_TIMEOUT: Final = 86_400.0  # seconds; a day, beyond any answer that somebody waits for


class Selectors(NamedTuple):
    """Which providers may answer; empty takes any."""

    version: str
    instance: str
    tags: dict[str, str]


class Target(NamedTuple):
    """Where a command connects, how long it waits, and how it prints.

    Attributes:
        timeout: seconds for the connection, and again for each answer or first item.
        output: None unless the user chose one.
    """

    urls: tuple[str, ...]
    timeout: float
    output: Mode | None

    def connect(self) -> Connecting:
        """Return the connection, to be entered with `async with`.

        Raises:
            click.UsageError: a URL cannot be read.
        """
        from rsocket_mesh.rpc.mesh import connect  # here: see the module's text
        from rsocket_mesh.transport.url import InvalidUrl, parse_url

        try:
            for url in self.urls:
                parse_url(url)
        except InvalidUrl as exc:
            raise click.UsageError(f"broker {exc}") from exc
        return connect(
            self.urls,
            app="rsocket-mesh",
            codec="json",
            timeout=self.timeout,
            connect_timeout=self.timeout,
        )


def route_of(mesh: Mesh, name: str, selectors: Selectors) -> Route:
    """Return the route *name* narrowed by *selectors*; raises `click.UsageError`."""
    from rsocket_mesh.protocol.version import parse_range  # here: see the module's text

    try:
        if selectors.version:
            parse_range(selectors.version)
        return mesh.route(
            name, version=selectors.version, instance=selectors.instance, **selectors.tags
        )
    except Invalid as exc:
        raise click.UsageError(f"--version-range: {exc.text}") from exc
    except ValueError as exc:
        raise click.UsageError(str(exc)) from exc


def mesh_command(function: Callable[..., Coroutine[Any, Any, int | None]]) -> Callable[..., int]:
    """Add the options of every command that connects, and run it on a loop of its own."""

    @click.option(
        "--broker",
        "-b",
        multiple=True,
        metavar="URL",
        help="The broker; of several, the first that answers. "
        f"[env: {ENV_BROKER}; else the current context; else {DEFAULT_BROKER}]",
    )
    @click.option("--context", "-c", default="", metavar="NAME", help="Use this saved context.")
    @click.option(
        "--timeout",
        "-t",
        type=click.FloatRange(0, MAX_TIMEOUT, min_open=True),
        default=DEFAULT_TIMEOUT,
        show_default=True,
        metavar="SECONDS",
        help="For the connection, and then for the answer (of streams: the first item).",
    )
    @click.option(
        "--output",
        "-o",
        type=click.Choice(["table", "json"]),
        help="json: one document per line. [default: table on a terminal, else json]",
    )
    @click.option("--verbose", "-v", is_flag=True, help="Log the connection's life to stderr.")
    @functools.wraps(function)
    def run(
        *,
        broker: tuple[str, ...],
        context: str,
        timeout: float,
        output: Mode | None,
        verbose: bool,
        **arguments: Any,
    ) -> int:
        log_to_stderr(verbose)
        target = Target(broker_urls(broker, context), timeout, output)
        return run_on_loop(function(target, **arguments))

    return run


def run_on_loop(command: Coroutine[Any, Any, int | None]) -> int:
    """Run *command* on a loop of its own; return its exit code."""
    try:
        return asyncio.run(command) or 0
    except BrokenPipeError:
        # What is still in Python's buffer must not fail again when the process ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED


def selector_options(function: F) -> F:
    """Add `--version-range`, `--instance` and `--tag`; the command gets `selectors`."""

    @click.option(
        "--version-range", default="", metavar="RANGE", help="Only these versions: 1.4.0, '^1.4'."
    )
    @click.option("--instance", default="", metavar="NAME", help="Only this instance.")
    @click.option(
        "--tag",
        "tags",
        multiple=True,
        metavar="KEY=VALUE",
        help="Only instances or services that carry this tag; may be repeated.",
    )
    @functools.wraps(function)
    def run(
        *args: Any, version_range: str, instance: str, tags: tuple[str, ...], **arguments: Any
    ) -> Any:
        selectors = Selectors(version_range, instance, _parse_tags(tags))
        return function(*args, selectors=selectors, **arguments)

    return run  # type: ignore[return-value]  # other options, as every click decorator


def _parse_tags(tags: tuple[str, ...]) -> dict[str, str]:
    parsed: dict[str, str] = {}
    for tag in tags:
        key, equals, value = tag.partition("=")
        if not key or not equals:
            raise click.UsageError(f"--tag {tag!r}: must be KEY=VALUE, such as zone=eu-1")
        if key in ("version", "instance"):
            option = "--version-range" if key == "version" else "--instance"
            raise click.UsageError(f"--tag {tag!r}: use {option} {value}")
        if key in parsed:
            raise click.UsageError(f"--tag {tag!r}: {key} is there twice")
        parsed[key] = value
    return parsed


def log_to_stderr(verbose: bool) -> None:
    """Log everything if *verbose*, else nothing."""
    if verbose:
        logging.basicConfig(
            level=logging.DEBUG, format="%(asctime)s %(levelname)s %(name)s %(message)s"
        )
        logging.getLogger("asyncio").setLevel(logging.WARNING)
    else:
        # A failure is one line of ours; without any handler, warnings would go to stderr as well.
        logging.getLogger().addHandler(logging.NullHandler())
