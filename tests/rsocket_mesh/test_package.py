"""The package as it is imported: quick, and complete."""

from __future__ import annotations

import statistics
import subprocess
import sys

import pytest

import rsocket_mesh

LIMIT = 0.100  # seconds for `import rsocket_mesh`, in an interpreter that has loaded nothing else
PROGRAM = """
import sys, time
began = time.perf_counter()
import rsocket_mesh
print(time.perf_counter() - began)
print(",".join(sorted(sys.modules)))
"""


def test_importing_the_package_is_quick_and_loads_nothing_heavy():
    runs = [
        subprocess.run(
            [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60
        ).stdout.splitlines()
        for _ in range(3)
    ]
    assert statistics.median(float(run[0]) for run in runs) < LIMIT
    assert not {"asyncio", "msgspec", "aiohttp", "cbor2"} & set(runs[0][1].split(","))


@pytest.mark.parametrize("name", rsocket_mesh.__all__)
def test_every_public_name_is_there(name: str):
    assert getattr(rsocket_mesh, name) is not None
    assert name in dir(rsocket_mesh)


def test_other_names_are_not():
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = rsocket_mesh.nothing
