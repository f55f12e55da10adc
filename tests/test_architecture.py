"""The rooms of the project, as tests: who may import whom, and how a module has to look.

Read from the source with `ast`, so that an import inside a function counts as well.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIBRARY, BROKER = "rsocket_mesh", "broker"

# Each floor of the library imports itself and the floors that stand before it.
FLOORS = ["errors", "protocol", "codec", "transport", "peer", "rpc", "testing", "cli"]
BROKER_MAY_IMPORT = {"errors", "protocol", "codec", "transport", "peer"}
IMPORTS_BROKER = {"testing"}

# Modules at the top of the broker that are about configuration alone; they know no room.
CONFIG = {"addresses", "config", "config_file", "knobs", "limits", "toml_lines"}
# What a room of the broker may see of the rest of it; a room that is not listed may see all.
ROOM_SEES: dict[str, set[str]] = {
    **dict.fromkeys(CONFIG, CONFIG),
    "routing": set(),
    "kernel": set(),
    "observe": CONFIG | {"admin.snapshot", "kernel"},
    "admin": CONFIG | {"observe"},  # its own snapshot, counters and how they are shown
}
ROOM_NEVER_SEES: dict[str, set[str]] = {
    "forwarding": {"__main__", "admin", "daemon", "serve"},
    "builtin": {"__main__", "admin.http", "daemon", "serve"},
}

SANS_IO = ["rsocket_mesh/protocol", "broker/routing", "broker/kernel"]
SANS_IO_BUT = {"broker/kernel/__init__.py": {"os"}}  # the environment says which kernel
IO_MODULES = {
    "asyncio",
    "os",
    "random",
    "secrets",
    "select",
    "selectors",
    "socket",
    "ssl",
    "subprocess",
    "threading",
    "time",
    "uvloop",
}

MAX_LINES = 450  # of one file: more than one idea, or one that is not understood yet


def modules_of(*trees: str) -> list[Path]:
    return sorted(path for tree in trees for path in (ROOT / tree).rglob("*.py"))


def name_of(path: Path) -> str:
    """Return the dotted name of the module in *path*."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> Iterator[str]:
    """Yield the dotted name of everything that the module imports, names of modules included."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from package import name` may import a module: the longer name says which room.
            yield from (f"{module}.{alias.name}" for alias in node.names)


def room_of(dotted: str) -> str:
    """Return the room of a module of ours; the top of a package is a room called ``."""
    return dotted.split(".")[1] if "." in dotted else ""


def is_within(dotted: str, *names: str) -> bool:
    return any(dotted == name or dotted.startswith(f"{name}.") for name in names)


def identified(paths: list[Path]) -> list[object]:
    return [pytest.param(path, id=str(path.relative_to(ROOT))) for path in paths]


ours = identified(modules_of(LIBRARY, BROKER))


@pytest.mark.parametrize("path", identified(modules_of(LIBRARY)))
def test_a_floor_of_the_library_imports_only_floors_before_it(path):
    floor = room_of(name_of(path))
    if floor == "":
        return  # the package itself gives applications the names of all floors
    assert floor in FLOORS, f"{floor} is no floor of the library"
    allowed = FLOORS[: FLOORS.index(floor) + 1]
    upward = [
        name
        for name in imports_of(path)
        if is_within(name, LIBRARY) and room_of(name) not in allowed
    ]
    assert upward == []


@pytest.mark.parametrize("path", identified(modules_of(LIBRARY)))
def test_only_the_test_kit_of_the_library_imports_the_broker(path):
    if room_of(name_of(path)) not in IMPORTS_BROKER:
        assert [name for name in imports_of(path) if is_within(name, BROKER)] == []


@pytest.mark.parametrize("path", identified(modules_of(BROKER)))
def test_the_broker_imports_only_the_lower_floors_of_the_library(path):
    used = {name: room_of(name) for name in imports_of(path) if is_within(name, LIBRARY)}
    assert [name for name, floor in used.items() if floor not in BROKER_MAY_IMPORT] == []


@pytest.mark.parametrize("path", identified(modules_of(BROKER)))
def test_a_room_of_the_broker_sees_only_what_it_may(path):
    room = room_of(name_of(path))
    others = [
        name for name in imports_of(path) if is_within(name, BROKER) and room_of(name) != room
    ]
    if room in ROOM_SEES:
        allowed = [f"{BROKER}.{name}" for name in ROOM_SEES[room]]
        assert [name for name in others if not is_within(name, *allowed)] == []
    never = [f"{BROKER}.{name}" for name in ROOM_NEVER_SEES.get(room, ())]
    assert [name for name in others if is_within(name, *never)] == []


@pytest.mark.parametrize("path", identified(modules_of(*SANS_IO)))
def test_sans_io_rooms_import_nothing_that_does_input_or_output(path):
    modules = IO_MODULES - SANS_IO_BUT.get(str(path.relative_to(ROOT)), set())
    assert [name for name in imports_of(path) if name.split(".")[0] in modules] == []


@pytest.mark.parametrize("path", ours)
def test_a_file_holds_one_idea(path):
    lines = path.read_text().count("\n")
    assert lines <= MAX_LINES


@pytest.mark.parametrize("path", ours)
def test_a_module_says_in_its_header_what_it_is(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "a module begins with what it is, where it stands and why"


def test_these_tests_look_at_something():
    assert len(modules_of(LIBRARY)) > 10
    assert len(modules_of(BROKER)) > 10
    framing = ROOT / "rsocket_mesh/protocol/framing.py"
    assert "rsocket_mesh.errors.LocalProtocolError" in set(imports_of(framing))
