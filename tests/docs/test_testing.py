"""The page about testing is true: its tests pass, and its program prints what stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.fences import fences
from tests.support.processes import ROOT

PAGE = ROOT / "docs" / "testing.md"
TIMEOUT = 60.0  # s for everything on the page


def run(folder: Path, *command: str) -> str:
    """Return what *command* prints; it has to end well."""
    ran = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(folder)))},
        stdout=subprocess.PIPE,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
    return ran.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """All programs of the page, under the names that they say."""
    for block in fences(PAGE):
        if block.language == "python":
            name = re.match(r"# (\w+\.py)\n", block.text)
            assert name is not None, f"a program says its name first:\n{block.text}"
            (tmp_path / name[1]).write_text(block.text)
        elif block.language == "toml":
            (tmp_path / "pyproject.toml").write_text(block.text)
    return tmp_path


def test_the_tests_of_the_page_pass(folder: Path):
    written = sum(text.read_text().count("async def test_") for text in folder.glob("test_*.py"))
    assert written > 8
    output = run(folder, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider")
    passed = re.search(r"(\d+) passed", output)
    assert passed is not None
    assert int(passed[1]) >= written


def test_the_program_of_the_page_prints_what_stands_there(folder: Path):
    expected = next(block.text for block in fences(PAGE) if block.language == "text")
    assert run(folder, "plain.py") == expected
