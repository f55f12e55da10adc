"""What holds for all tests."""

from __future__ import annotations

from hypothesis import settings

# A generated example has no time limit of its own: on a busy machine any may take 200 ms.
settings.register_profile("mesh", deadline=None)
settings.load_profile("mesh")
