"""The pages are true: their code runs, their output is what comes, their links lead somewhere."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from broker.config import Config
from broker.knobs import Knob, knobs
from broker.observe.prometheus import BrokerCollector
from rsocket_mesh.protocol.announce import Announcement, ServiceInfo, decode_announcement
from tests.docs.fences import Fence, fences
from tests.docs.wire_examples import EXAMPLES
from tests.support.broker_view import FakeView
from tests.support.processes import ROOT, Process, broker_process, running

PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
LESSONS = [
    ROOT / "README.md",
    ROOT / "docs" / "first-service.md",
    ROOT / "docs" / "codecs.md",
    ROOT / "docs" / "reactivex.md",
    ROOT / "docs" / "coming-from-rsocket-py.md",
]
URL = "tcp://127.0.0.1:7878"
COMMAND = f"{sys.executable} -c 'from rsocket_mesh.cli.main import main; main()'"
HEX_WIDTH = 47  # columns; a comment stands behind them
ENDINGS = {"fail", "end", "_end", "refuse", "lost"}  # methods that end a connection
TIMEOUT = 60.0  # seconds for one program of a page


class Lesson:
    """A page whose blocks are worked through in order, against a broker of its own.

    A python block begins with `# name.py`. One that calls `.run("tcp...` is a service and stays,
    until a block of the same name takes its place; any other is run to its end, and if a text block
    follows, that is its output. Console lines that begin with `$ rsocket-mesh` are run as people at
    a terminal would see them.
    """

    def __init__(self, folder: Path, url: str, stack: ExitStack) -> None:
        self.folder = folder
        self.url = url
        self.stack = stack
        self.services: dict[str, Process] = {}
        self.env = {"PYTHONPATH": str(ROOT), "RSOCKET_MESH_BROKER": url}

    def work_through(self, page: Path) -> int:
        """Return how many blocks were run."""
        blocks = fences(page)
        followers = [*blocks[1:], Fence("", "", "")]
        done = 0
        for block, follower in zip(blocks, followers, strict=True):
            if block.language == "python":
                self.program(block.text, follower.text if follower.language == "text" else None)
                done += 1
            elif block.language == "console":
                done += self.console(block.text)
        return done

    def program(self, text: str, expected: str | None) -> None:
        name = re.match(r"# (\w+\.py)\n", text)
        assert name is not None, f"a program says its name first:\n{text}"
        file = self.folder / name[1]
        file.write_text(text.replace(URL, self.url))
        if re.search(r"\.run\(\s*\"", text):
            if name[1] in self.services:
                self.services[name[1]].stop()
            process = self.stack.enter_context(running(sys.executable, file, env=self.env))
            process.wait_for_line("registered .* at", stream="stderr")
            self.services[name[1]] = process
            return
        ran = self.run([sys.executable, str(file)])
        assert ran.returncode == 0, ran.stdout
        if expected is not None:
            assert ran.stdout == expected

    def console(self, text: str) -> int:
        commands = re.findall(r"^\$ rsocket-mesh (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE)
        for arguments, expected in commands:
            verb = arguments.split()[0]
            table = "" if verb == "fire" else " -o table"
            ran = self.run(["/bin/sh", "-c", f"{COMMAND} {arguments}{table}"])
            assert words(ran.stdout) == words(expected), arguments
        return len(commands)

    def run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT,
            env={**os.environ, **self.env},
            check=False,
        )


def words(text: str) -> list[list[str]]:
    """The words of each line: tables are padded to what they hold."""
    return [line.split() for line in text.splitlines()]


@pytest.mark.parametrize("page", LESSONS, ids=lambda page: page.name)
def test_the_programs_of_a_page_run_as_printed(page: Path, tmp_path: Path):
    with broker_process(listen=("tcp://127.0.0.1:0",)) as broker, ExitStack() as stack:
        assert Lesson(tmp_path, broker.url("tcp"), stack).work_through(page) >= 2


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(file), f"{page.name}: {target}"


def anchors(page: Path) -> set[str]:
    """The anchors that a Markdown viewer makes of headings."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def all_knobs() -> list[str]:
    found: list[str] = []

    def walk(prefix: str, known: dict[str, Knob]) -> None:
        for name, knob in known.items():
            if knob.table is not None:
                walk(f"{prefix}{name}.", knobs(knob.table))
            else:
                found.append(f"{prefix}{name}")

    walk("", knobs(Config))
    return found


def test_operate_names_every_key_of_the_config():
    text = (ROOT / "docs" / "operate.md").read_text()
    assert [key for key in all_knobs() if f"`{key}`" not in text] == []


def test_operate_names_every_metric():
    text = (ROOT / "docs" / "operate.md").read_text()
    view = FakeView()
    names = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in BrokerCollector(view).collect()
    }
    assert names
    assert sorted(name for name in names if f"`{name}`" not in text) == []


def reasons_given_in(source: Path) -> set[str]:
    """The words with a hyphen that calls which end a connection give as its reason."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source.read_text())):
        if not isinstance(node, ast.Call):
            continue
        values = [word.value for word in node.keywords if word.arg == "reason"]
        if isinstance(node.func, ast.Attribute) and node.func.attr in ENDINGS:
            values += node.args
        words = (value.value for value in values if isinstance(value, ast.Constant))
        found |= {word for word in words if re.fullmatch(r"[a-z]+(-[a-z]+)+", str(word))}
    return found


def test_operate_names_every_reason_a_connection_can_end_with():
    text = (ROOT / "docs" / "operate.md").read_text()
    sources = [
        *(ROOT / "broker").rglob("*.py"),
        *(ROOT / "rsocket_mesh" / "transport").rglob("*.py"),
        *(ROOT / "rsocket_mesh" / "protocol").rglob("*.py"),
    ]
    reasons = set[str]().union(*map(reasons_given_in, sources))
    assert reasons >= {"slow-reader", "keepalive-timeout", "setup-refused"}
    assert sorted(word for word in reasons if f"`{word}`" not in text) == []


def test_the_bytes_of_the_wire_contract_are_those_of_our_codec():
    shown = {
        block.label: bytes.fromhex(
            "".join(line[:HEX_WIDTH].replace("|", "") for line in block.text.splitlines())
        )
        for block in fences(ROOT / "docs" / "wire-contract.md")
        if block.language == "hex"
    }
    assert shown == EXAMPLES


def test_the_announcement_of_the_wire_contract_can_be_announced():
    page = fences(ROOT / "docs" / "wire-contract.md")
    text = next(block.text for block in page if '"services": [' in block.text)
    announced = decode_announcement(text.encode())
    (service,) = announced.services
    assert service.methods is not None
    everything = {*json.loads(text), *json.loads(text)["services"][0]}
    assert everything == {*Announcement.__struct_fields__, *ServiceInfo.__struct_fields__}
