"""The process helper keeps its promises: other tests rest on them."""

from __future__ import annotations

import os
import signal
import sys
import time

import pytest

from tests.support.processes import Process, running

CHATTER = "import sys; [print('line', n) for n in range(20000)]; print('last', file=sys.stderr)"
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("grandchild", child.pid)
time.sleep(600)
"""


def exists(pid: int) -> bool:
    """Whether *pid* runs; a zombie, which waits for its new parent to look, does not."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_line_is_found_once_and_what_stood_before_it_counts_as_read():
    with running(sys.executable, "-c", "print('a 1'); print('b 2'); print('a 3')") as process:
        assert process.wait_for_line(r"b (\d)")[1] == "2"
        assert process.wait_for_line(r"a (\d)")[1] == "3"
        assert process.lines() == ["a 1", "b 2", "a 3"]


def test_waiting_for_a_line_fails_with_the_output_when_the_process_ends():
    with running(sys.executable, "-c", "print('other'); raise SystemExit(3)") as process:
        process.wait()
        with pytest.raises(AssertionError, match=r"(?s)before it ended.*exit status 3.*other"):
            process.wait_for_line("never")


def test_waiting_for_a_line_fails_at_the_deadline():
    with running(sys.executable, "-c", "input()") as process:
        began = time.monotonic()
        with pytest.raises(AssertionError, match=r"in 0.2 s"):
            process.wait_for_line("never", timeout=0.2)
        assert time.monotonic() - began < 5


def test_a_child_that_prints_much_is_never_blocked_by_an_unread_pipe():
    with running(sys.executable, "-c", CHATTER) as process:
        assert process.wait(30) == 0
        process.wait_for_line("last", stream="stderr")


def test_a_child_that_ignores_sigterm_is_killed_with_its_whole_group():
    process = Process([sys.executable, "-c", STUBBORN], name="stubborn")
    grandchild = int(process.wait_for_line(r"grandchild (\d+)")[1])
    assert process.stop(timeout=0.2) == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while exists(grandchild) and time.monotonic() < deadline:
        os.sched_yield()
    assert not exists(grandchild)
    assert process.stop() == -signal.SIGKILL


def test_a_failure_inside_the_block_carries_the_output_and_ends_the_child():
    def fails() -> None:
        with running(sys.executable, "-c", "print('a clue'); input()") as process:
            started.append(process)
            process.wait_for_line("clue")
            raise RuntimeError

    started: list[Process] = []
    with pytest.raises(RuntimeError) as caught:
        fails()
    assert "a clue" in caught.value.__notes__[0]
    assert started[0].returncode is not None


async def test_the_loop_runs_on_while_a_line_is_awaited():
    with running(sys.executable, "-c", "print(input())") as process:
        process.send_line("hello")
        assert (await process.line("hel+o"))[0] == "hello"
        assert await process.ended() == 0
