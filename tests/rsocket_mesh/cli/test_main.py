"""The command as a whole: its help, its version, and how fast it starts."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest

from rsocket_mesh.cli.main import cli
from tests.rsocket_mesh.cli.conftest import Result

Run = Callable[..., Result]

COMMANDS = [(), *((name,) for name in cli.commands)]
COMMANDS += [("context", name) for name in ("add", "use", "list", "remove")]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_help_has_examples(mesh: Run, command: tuple[str, ...]):
    result = mesh(*command, "--help")
    assert (result.code, result.err) == (0, "")
    assert "Example" in result.out
    assert f"  rsocket-mesh {' '.join(command)}".rstrip() in result.out


def test_help_lists_the_exit_codes(mesh: Run):
    assert "4  no answer in time" in mesh("--help").out


def test_without_a_command_the_help_is_shown(mesh: Run):
    result = mesh()
    assert result.code == 2
    assert "Commands:" in result.out + result.err


def test_version_is_that_of_the_package(mesh: Run):
    assert mesh("--version").out.startswith("rsocket-mesh 0.")


def test_help_loads_nothing_that_only_calls_need():
    program = (
        "import sys, rsocket_mesh.cli.main; "
        "print(*{'rich', 'cbor2', 'uvloop', 'ssl', 'rsocket_mesh.rpc'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    # asyncio itself loads ssl; everything else is loaded by the command that needs it.
    assert set(done.stdout.decode().split()) <= {"ssl"}
