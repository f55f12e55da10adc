"""Delays between attempts are random, each process its own, unless a test has seeded them."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest

from rsocket_mesh.peer.jitter import jitter


def test_who_seeds_random_does_not_seed_the_delays():
    random.seed(1)
    first = jitter.random()
    random.seed(1)
    assert jitter.random() != first


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_has_delays_of_its_own():
    # In a process of its own: forking one with threads, as this may be, is not for tests.
    program = (
        "import os\n"
        "from rsocket_mesh.peer.jitter import jitter\n"
        "if os.fork() == 0:\n"
        "    os.write(1, f'{jitter.random()}\\n'.encode())\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "os.write(1, f'{jitter.random()}\\n'.encode())\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    child, parent = ran.stdout.split()
    assert child != parent
