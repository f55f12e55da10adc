"""Lines of standard input as asyncio wants them: one is read when one is asked for.

A thread reads, because a terminal, a pipe and a file have no other reading in common. It reads the
descriptor itself: a thread that is blocked in `sys.stdin` would hold a lock that the interpreter
needs when it ends.
"""

from __future__ import annotations

import asyncio
import os
import sys
from queue import SimpleQueue
from threading import Thread
from typing import Final, Self

import click

MAX_LINE: Final = 16 * 1024 * 1024  # bytes of one item
_CHUNK: Final = 65_536  # bytes per read

_Answer = asyncio.Future[bytes | None]


class InputLines:
    """The lines of standard input, without their ends and without empty ones.

    Iterating raises `click.UsageError` for a line over `MAX_LINE` bytes or input that cannot be
    read. If cancelled: the line that was waited for is lost.

    Attributes:
        number: of the line that was returned last, from 1.
    """

    def __init__(self) -> None:
        self.number = 0
        self._loop = asyncio.get_running_loop()
        self._asked: SimpleQueue[_Answer] = SimpleQueue()
        self._buffer = bytearray()
        Thread(target=self._work, name="stdin", daemon=True).start()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        answer: _Answer = self._loop.create_future()
        self._asked.put(answer)
        line = await answer
        if line is None:
            raise StopAsyncIteration
        return line

    # -- the thread's side ------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            answer = self._asked.get()
            line: bytes | None = None
            error: Exception | None = None
            try:
                line = self._next_line()
            except (OSError, click.UsageError) as exc:
                error = exc
            try:
                self._loop.call_soon_threadsafe(_settle, answer, line, error)
            except RuntimeError:  # the loop is closed: the command has ended
                return

    def _next_line(self) -> bytes | None:
        while True:
            end = self._buffer.find(b"\n")
            if end < 0:
                chunk = os.read(sys.stdin.fileno(), _CHUNK)
                if chunk:
                    self._buffer += chunk
                    self._check_size(len(self._buffer))
                    continue
                end = len(self._buffer)
            line = bytes(self._buffer[:end])
            ended = end == len(self._buffer)
            del self._buffer[: end + 1]
            self.number += 1
            if line.strip():
                return line
            if ended:
                return None

    def _check_size(self, size: int) -> None:
        if size > MAX_LINE + _CHUNK:
            raise click.UsageError(f"stdin line {self.number + 1}: over {MAX_LINE} bytes")


def _settle(answer: _Answer, line: bytes | None, error: Exception | None) -> None:
    if answer.done():
        return
    if error is None:
        answer.set_result(line)
    elif isinstance(error, click.UsageError):
        answer.set_exception(error)
    else:
        answer.set_exception(click.UsageError(f"stdin: {error}"))
