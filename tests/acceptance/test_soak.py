"""A minute of soak; `make soak` is the long one."""

from __future__ import annotations

import pytest

from tests.acceptance.figures import say
from tests.soak.director import Plan, run

pytestmark = pytest.mark.acceptance

SECONDS = 60.0
PER_KILL = 5.0  # seconds; so that ten minutes kill more than a hundred processes


def test_a_minute_of_kills_stops_and_a_bad_network_leaves_nothing_wrong() -> None:
    report = run(Plan(seconds=SECONDS, seed=60, broker_kill_every=25.0))
    print(f"\n{report.table()}")
    assert report.violations == []
    assert report.kills >= SECONDS / PER_KILL
    say(
        f"soak of {SECONDS:.0f} s",
        f"{report.kills} processes killed, {report.totals['calls']:,} calls, "
        f"{report.totals['items']:,} items checked, no violation",
    )
