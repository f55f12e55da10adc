"""Mixed load with kills, stops and a bad network: `python -m tests.soak --seconds 600 --seed N`.

`make soak` runs it; `tests.soak.director` says what happens. Exit status 1: there were violations.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tests.soak.director import Plan, run


def main() -> int:
    """Read the command line, run, print the report."""
    default = Plan()
    parser = argparse.ArgumentParser(prog="tests.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=default.seconds)
    parser.add_argument("--seed", type=int, default=None, help="default: the time")
    parser.add_argument("--services", type=int, default=default.services)
    parser.add_argument("--callers", type=int, default=default.callers)
    parser.add_argument("--workers", type=int, default=default.workers, help="per caller")
    parser.add_argument("--kill-every", type=float, default=default.kill_every, metavar="SECONDS")
    parser.add_argument(
        "--broker-kill-every",
        type=float,
        default=default.broker_kill_every,
        metavar="SECONDS",
        help="0 leaves the broker alone",
    )
    parser.add_argument("--report", type=Path, default=Path(".soak/report.json"))
    options = vars(parser.parse_args())
    if options["seed"] is None:
        options["seed"] = int(time.time()) & 0xFFFF_FFFF
    report = run(Plan(**options))
    print(report.table())
    print(f"  written to         {options['report']}")
    return 1 if report.violations else 0


if __name__ == "__main__":
    sys.exit(main())
