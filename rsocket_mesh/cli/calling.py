"""The commands that call services: `call`, `stream`, `fire`, `channel`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Final

import click

from rsocket_mesh.cli.lines import InputLines
from rsocket_mesh.cli.options import Selectors, Target, mesh_command, route_of, selector_options
from rsocket_mesh.cli.output import Printer

if TYPE_CHECKING:
    from rsocket_mesh.cli.values import CodecName, Coding
    from rsocket_mesh.protocol.payload import Payload
    from rsocket_mesh.rpc.streams import ItemStream

MAX_LIMIT: Final = 2**31 - 1  # items; the largest credit there is

_ROUTE = click.argument("route")
_DATA = click.argument("data", required=False, metavar="[JSON]")
_CODEC = click.option(
    "--codec",
    type=click.Choice(["json", "cbor", "raw"]),
    help="How data travels; raw: bytes as they are, in and out. "
    "[default: what the method announces, else json]",
)
_LIMIT = click.option(
    "--limit",
    "-n",
    type=click.IntRange(1, MAX_LIMIT),
    metavar="N",
    help="Ask for N items and not one more, then stop.",
)


@click.command()
@_ROUTE
@_DATA
@_CODEC
@selector_options
@mesh_command
async def call(
    target: Target, route: str, data: str | None, codec: CodecName | None, selectors: Selectors
) -> None:
    """Send one request and print its one answer.

    ROUTE is service.method. JSON is the argument: a value, - for stdin, @FILE for a file; none
    sends no data. A method with several parameters takes an array.

    \b
    Examples:
      rsocket-mesh call orders.total '{"sku": "A1", "quantity": 2}'
      rsocket-mesh call greeter.greet '"Ada"' --version-range '^1.4' --tag zone=eu-1
      rsocket-mesh call mesh.broker.info
      rsocket-mesh call images.scale @in.png --codec raw > out.png
      jq -c .order request.json | rsocket-mesh call orders.total - -o json
    """
    from rsocket_mesh.cli.values import coding_for, read_argument  # here: loads the codecs

    text = None if data is None else read_argument(data)
    async with target.connect() as mesh:
        to = route_of(mesh, route, selectors)
        coding = await coding_for(mesh, route, codec)
        request = b"" if text is None else coding.encode(text, "JSON")
        answer = await to.request_response(request, mime=coding.codec.mime)
        printer = _printer(target, coding)
        as_bytes = printer.mode == "bytes"
        printer.value(coding.decode(answer, route, as_bytes=as_bytes))


@click.command()
@_ROUTE
@_DATA
@_LIMIT
@_CODEC
@selector_options
@mesh_command
async def stream(
    target: Target,
    route: str,
    data: str | None,
    limit: int | None,
    codec: CodecName | None,
    selectors: Selectors,
) -> None:
    """Send one request and print every item of its answer as it comes.

    A slow reader of the output slows the service down; Ctrl-C cancels the stream.

    \b
    Examples:
      rsocket-mesh stream ticker.prices '"ACME"'
      rsocket-mesh stream ticker.prices '"ACME"' --limit 10 -o json | jq .price
      rsocket-mesh stream mesh.registry.watch
    """
    from rsocket_mesh.cli.values import coding_for, read_argument  # here: loads the codecs

    text = None if data is None else read_argument(data)
    async with target.connect() as mesh:
        to = route_of(mesh, route, selectors)
        coding = await coding_for(mesh, route, codec)
        request = b"" if text is None else coding.encode(text, "JSON")
        items = to.request_stream(request, limit=limit, mime=coding.codec.mime)
        await _print_items(items, _printer(target, coding), coding, route)


@click.command()
@_ROUTE
@_DATA
@_CODEC
@selector_options
@mesh_command
async def fire(
    target: Target, route: str, data: str | None, codec: CodecName | None, selectors: Selectors
) -> None:
    """Send one request that is never answered.

    Exit code 0 means that it has left: nobody can tell whether it arrived.

    \b
    Examples:
      rsocket-mesh fire audit.record '{"who": "ada", "what": "login"}'
      rsocket-mesh fire audit.record @event.json --instance audit-7f3c
    """
    from rsocket_mesh.cli.values import coding_for, read_argument  # here: loads the codecs

    text = None if data is None else read_argument(data)
    async with target.connect() as mesh:
        to = route_of(mesh, route, selectors)
        coding = await coding_for(mesh, route, codec)
        request = b"" if text is None else coding.encode(text, "JSON")
        await to.fire_and_forget(request, mime=coding.codec.mime)


@click.command()
@_ROUTE
@click.option(
    "--item",
    "-i",
    "items",
    multiple=True,
    metavar="JSON",
    help="Send this item (or @FILE); may be repeated. [default: the lines of stdin]",
)
@_LIMIT
@_CODEC
@selector_options
@mesh_command
async def channel(
    target: Target,
    route: str,
    items: tuple[str, ...],
    limit: int | None,
    codec: CodecName | None,
    selectors: Selectors,
) -> None:
    """Send many items and print what comes back, both at the same time.

    Each line of stdin is one item, read when the service asks for it; the end of stdin ends our
    half. Ctrl-C cancels both.

    \b
    Examples:
      rsocket-mesh channel chat.join --item '"hello"' --item '"bye"'
      tail -f orders.jsonl | rsocket-mesh channel orders.import
      rsocket-mesh channel echo.lines --codec raw < words.txt
    """
    from rsocket_mesh.cli.values import coding_for  # here: loads the codecs

    async with target.connect() as mesh:
        to = route_of(mesh, route, selectors)
        coding = await coding_for(mesh, route, codec)
        outgoing = _given(items, coding) if items else _read(coding)
        # The deadline is the service's: a person may think about the first line.
        first = await anext(outgoing, None)
        answers = to.request_channel(_behind(first, outgoing), limit=limit, mime=coding.codec.mime)
        await _print_items(answers, _printer(target, coding), coding, route)


def _printer(target: Target, coding: Coding) -> Printer:
    return Printer.of(target.output, "bytes" if coding.is_raw else None)


async def _print_items(
    items: ItemStream[Payload], printer: Printer, coding: Coding, route: str
) -> None:
    as_bytes = printer.mode == "bytes"
    async with items:
        async for payload in items:
            printer.item(coding.decode(payload, route, as_bytes=as_bytes))


async def _given(items: tuple[str, ...], coding: Coding) -> AsyncIterator[bytes]:
    from rsocket_mesh.cli.values import read_argument  # here: loads the codecs

    for number, item in enumerate(items, 1):
        yield coding.encode(read_argument(item), f"item {number}")


async def _read(coding: Coding) -> AsyncIterator[bytes]:
    lines = InputLines()
    async for line in lines:
        yield coding.encode(line, f"stdin line {lines.number}")


async def _behind(first: bytes | None, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first is not None:
        yield first
    async for data in rest:
        yield data
