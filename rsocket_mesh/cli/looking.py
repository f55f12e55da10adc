"""The commands that look at the mesh: `list`, `describe`, `ping`."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final

import click
import msgspec

from rsocket_mesh.cli.failures import AnswerError
from rsocket_mesh.cli.options import Target, mesh_command
from rsocket_mesh.cli.output import Printer, cell

if TYPE_CHECKING:
    from rsocket_mesh.rpc.mesh import Mesh

MAX_COUNT: Final = 1_000_000  # pings of one command
_INTERVAL: Final = 0.2  # seconds between two pings


class _Listed(msgspec.Struct):
    name: str
    versions: tuple[str, ...] = ()
    instances: int = 0
    methods: tuple[str, ...] = ()


class _Method(msgspec.Struct):
    model: str = "request-response"
    idempotent: bool = False
    description: str = ""
    input: Any = None
    output: Any = None


class _Instance(msgspec.Struct):
    app: str = ""
    instance: str = ""
    version: str = ""
    weight: int = 100
    tags: dict[str, str] = {}
    routes: tuple[str, ...] = ()
    methods: dict[str, _Method] | None = None
    description: str = ""
    in_flight: int | None = None
    concurrency: int | None = None
    rate: float | None = None
    at_work: int | None = None

    @property
    def limits(self) -> str:
        """What it can take, and what is at work of that: `2 of 8 at once, 100 a second`."""
        said = []
        if self.concurrency is not None:
            said.append(f"{self.at_work or 0} of {self.concurrency} at once")
        if self.rate is not None:
            said.append(f"{self.rate:g} a second")
        return ", ".join(said) or "none"


class _Described(msgspec.Struct):
    name: str
    instances: tuple[_Instance, ...] = ()


class _Info(msgspec.Struct):
    broker: str = "unknown"
    version: str = "unknown"
    state: str = ""


@click.command("list")
@click.option("--wide", "-w", is_flag=True, help="Show the methods as well.")
@mesh_command
async def list_(target: Target, wide: bool) -> None:
    """Show the services that are connected.

    \b
    Examples:
      rsocket-mesh list
      rsocket-mesh list --wide
      rsocket-mesh list -o json | jq -r '.[].name'
    """
    async with target.connect() as mesh:
        document = await _ask(mesh, "mesh.registry.list")
    printer = Printer.of(target.output)
    if printer.mode == "json":
        printer.item(document)
        return
    services = _read(document, tuple[_Listed, ...], "mesh.registry.list")
    if not services:
        click.echo("no service is connected", err=True)
        return
    head = ("SERVICE", "VERSIONS", "INSTANCES", *(("METHODS",) if wide else ()))
    printer.table(
        head,
        [
            (
                service.name,
                " ".join(service.versions),
                service.instances,
                *((" ".join(service.methods) or "(any)",) if wide else ()),
            )
            for service in services
        ],
    )


@click.command()
@click.argument("service")
@mesh_command
async def describe(target: Target, service: str) -> None:
    """Show the instances of a service, its methods and what they take and give.

    \b
    Examples:
      rsocket-mesh describe orders
      rsocket-mesh describe mesh.registry
      rsocket-mesh describe orders -o json | jq '.instances[0].methods.total.input'
    """
    route = "mesh.registry.describe"
    async with target.connect() as mesh:
        document = await _ask(mesh, route, service)
    printer = Printer.of(target.output)
    if printer.mode == "json":
        printer.item(document)
        return
    found = _read(document, _Described, route)
    printer.line(f"{cell(found.name, nested=True)}\n")
    printer.table(
        ("INSTANCE", "APP", "VERSION", "WEIGHT", "TAGS", "IN FLIGHT", "LIMITS"),
        [
            (
                instance.instance,
                instance.app,
                instance.version,
                instance.weight,
                " ".join(f"{key}={value}" for key, value in instance.tags.items()),
                instance.in_flight,
                instance.limits,
            )
            for instance in found.instances
        ],
    )
    shown: list[_Instance] = []
    for instance in found.instances:  # most instances are alike: each kind is shown once
        if not any(_alike(instance, other) for other in shown):
            shown.append(instance)
            _print_methods(printer, instance)


def _alike(one: _Instance, other: _Instance) -> bool:
    return (one.version, one.description, one.routes, one.methods) == (
        other.version,
        other.description,
        other.routes,
        other.methods,
    )


def _print_methods(printer: Printer, instance: _Instance) -> None:
    from rsocket_mesh.cli.schema import TypeWriter  # here: only `describe` needs it

    printer.line(f"\nversion {cell(instance.version, nested=True)}")
    if instance.description:
        printer.line(_indented(instance.description, 2))
    for route in instance.routes:
        printer.line(f"  route {cell(route, nested=True)}")
    if instance.methods is None:
        printer.line("  any method: it announces none")
        return
    writer = TypeWriter()
    for name, method in instance.methods.items():
        takes = "" if method.input is None else writer.write(method.input)
        gives = "" if method.output is None else f" -> {writer.write(method.output)}"
        marks = method.model + (", idempotent" if method.idempotent else "")
        printer.line(f"\n  {cell(name, nested=True)}({takes}){gives}  [{cell(marks, nested=True)}]")
        if method.description:
            printer.line(_indented(method.description, 6))
    if writer.named:
        printer.line("\n  types")
    for name, text in writer.named.items():
        printer.line(f"    {name}: {text}")


def _indented(text: str, width: int) -> str:
    return "\n".join(" " * width + cell(line, nested=True) for line in text.splitlines())


@click.command()
@click.option(
    "--count", "-n", type=click.IntRange(1, MAX_COUNT), default=5, show_default=True, metavar="N"
)
@mesh_command
async def ping(target: Target, count: int) -> int | None:
    """Measure round trips to the broker, and say which broker it is.

    Each is one call of mesh.health.check, 0.2 s apart; Ctrl-C ends early with the figures so far.

    \b
    Examples:
      rsocket-mesh ping
      rsocket-mesh ping --count 100 -o json | jq .avg_ms
      rsocket-mesh ping --broker tcp://broker.example:7878 --timeout 1
    """
    started = time.perf_counter()
    async with target.connect() as mesh:
        connected = time.perf_counter() - started
        info = _read(await _ask(mesh, "mesh.broker.info"), _Info, "mesh.broker.info")
        printer = Printer.of(target.output)
        for_people = printer.mode == "table"
        if for_people:
            who = cell(f"{info.broker} {info.version} ({info.state})", nested=True)
            printer.line(f"{mesh.url}: {who}, connected in {connected * 1000:.1f} ms")
        times: list[float] = []
        status = ""
        try:
            for number in range(count):
                if number:
                    await asyncio.sleep(_INTERVAL)
                began = time.perf_counter()
                answer = await _ask(mesh, "mesh.health.check")
                times.append((time.perf_counter() - began) * 1000)
                status = str(answer.get("status", "")) if isinstance(answer, dict) else ""
                if for_people:
                    printer.line(f"{number + 1}: {cell(status, nested=True)} {times[-1]:.3f} ms")
        except asyncio.CancelledError:  # Ctrl-C
            if not times:
                raise
        _print_times(printer, mesh, info, status, times)
    return None


def _print_times(
    printer: Printer, mesh: Mesh, info: _Info, status: str, times: list[float]
) -> None:
    least, mean, most = min(times), sum(times) / len(times), max(times)
    if printer.mode == "table":
        printer.line(f"min/avg/max {least:.3f}/{mean:.3f}/{most:.3f} ms")
        return
    printer.item(
        {
            "url": mesh.url,
            "broker": info.broker,
            "version": info.version,
            "status": status,
            "count": len(times),
            "min_ms": round(least, 3),
            "avg_ms": round(mean, 3),
            "max_ms": round(most, 3),
        }
    )


async def _ask(mesh: Mesh, route: str, argument: str | None = None) -> Any:
    """Call one of the broker's own services, whose data is JSON."""
    data = b"" if argument is None else msgspec.json.encode(argument)
    answer = await mesh.route(route).request_response(data)
    try:
        return msgspec.json.decode(answer.data)
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise AnswerError(f"{route}: the answer is not JSON: {exc}") from exc


def _read(document: Any, wanted: Any, route: str) -> Any:
    try:
        return msgspec.convert(document, wanted)
    except msgspec.ValidationError as exc:
        raise AnswerError(f"{route}: an answer that this version cannot read: {exc}") from exc
