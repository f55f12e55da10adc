"""Random delays: clients that lost one broker together should not all come back at once.

A generator of our own. Programs that seed `random`, many with a constant, would give all of their
instances the same delays; and the test kit seeds this one, so that a test can be repeated.
"""

from __future__ import annotations

import os
from random import Random
from typing import Final

jitter: Final = Random()  # noqa: S311  # no secret

if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=jitter.seed)  # as `random` does it for its own
