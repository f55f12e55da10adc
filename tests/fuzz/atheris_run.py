"""Coverage-guided fuzzing of one decoder, or of all in turn: `python -m tests.fuzz.atheris_run`.

Run by `make fuzz`, which installs atheris first (it has wheels for Linux and CPython 3.11 to 3.13;
elsewhere its build needs clang with libFuzzer). Each target runs in a process of its own for
FUZZ_SECONDS, starting from the committed corpus; what it learned meanwhile is kept in
`.fuzz/<decoder>` and continued the next time. An input that shows a fault is written to the corpus
as `found-...`, where the tests replay it from then on, and the run ends with status 1.
"""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[2]
KNOWLEDGE = ROOT / ".fuzz"  # what earlier runs learned; not committed
MAX_INPUT = 8192  # bytes; no limit of the targets is above it
SLOWEST = 10  # s for one input: a hang is a fault as well
MAX_MEMORY = 1024  # MiB of one process: so is memory without bound
GRACE = 60  # s to start, and to end after the time is up


def fuzz(name: str, seconds: int) -> None:
    """Fuzz the decoder *name* in this process; does not return."""
    import atheris  # an optional tool; imported first, so that it sees our modules being loaded

    with atheris.instrument_imports(include=["rsocket_mesh", "broker", "tests.fuzz"]):
        from tests.fuzz.decoders import DECODERS
    from tests.fuzz.seeds import CORPUS, keep

    decoder = DECODERS[name]
    logging.disable()  # a line per bad peer is right, and most of the time of a run

    def one_input(data: bytes) -> None:
        try:
            decoder(data)
        except BaseException:
            traceback.print_exc()
            print(f"FAULT in {name}: kept as {keep(name, data)}", flush=True)
            os._exit(77)  # libFuzzer would go on to describe a fault that is Python's

    learned = KNOWLEDGE / name
    learned.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as artifacts:
        arguments = [
            sys.argv[0],
            str(learned),
            str(CORPUS / name),
            f"-max_total_time={seconds}",
            f"-max_len={MAX_INPUT}",
            f"-timeout={SLOWEST}",
            f"-rss_limit_mb={MAX_MEMORY}",
            f"-artifact_prefix={artifacts}/",
            "-print_final_stats=1",
            "-verbosity=0",
        ]
        atheris.Setup(arguments, one_input)
        atheris.Fuzz()


def _executions(output: str) -> str:
    for line in output.splitlines():
        if "stat::number_of_executed_units" in line:
            return f"{int(line.split()[-1]):,} inputs"
    return ""


def main() -> int:
    """Fuzz what the command line names; return the exit status."""
    from tests.fuzz.decoders import DECODERS

    parser = argparse.ArgumentParser(prog="tests.fuzz.atheris_run", description=__doc__)
    parser.add_argument("targets", nargs="*", help=f"of: {', '.join(DECODERS)}; default: all")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default 60)")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = set(options.targets) - set(DECODERS)
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    if importlib.util.find_spec("atheris") is None:
        print("atheris is not installed: pip install atheris (without a wheel: needs clang)")
        return 2
    if options.here:
        fuzz(options.targets[0], options.seconds)
    failed = []
    targets = options.targets or list(DECODERS)
    for number, name in enumerate(targets, 1):
        print(f"[{number}/{len(targets)}] {name:<20} ", end="", flush=True)
        command = [sys.executable, "-m", "tests.fuzz.atheris_run", name, "--here"]
        command += ["--seconds", str(options.seconds)]
        try:
            done = subprocess.run(
                command,
                check=False,
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=options.seconds + GRACE,
            )
            output, status = done.stdout, done.returncode
        except subprocess.TimeoutExpired as exc:
            output, status = str(exc.stdout), -1
        if status:
            failed.append(name)
            print(f"FAILED with status {status}\n{output[-4000:]}")
        else:
            print(_executions(output))
    print(f"faults in {', '.join(failed)}" if failed else f"no fault in {len(targets)} targets")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
