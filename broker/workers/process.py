"""One worker as a child process: started, spoken to, asked, and surely ended.

The child is a fresh interpreter, not a fork of a process that has a loop and threads. It ends when
its end of the channel closes, and on Linux the system kills it when its parent dies, whatever it is
doing then: no worker outlives its broker.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any, Final

import broker
from broker.workers.channel import Channel
from broker.workers.messages import Answer, Ask, ToSupervisor

ASK_TIMEOUT: Final = 1.0  # s for an answer; a scrape has to be done within a few
_HERE: Final = str(Path(broker.__file__).parent.parent)


class WorkerProcess:
    """One life of one worker. All methods on the loop's thread.

    Attributes:
        channel: to the child.
        is_ready: it may be handed connections.
        process: the child.
    """

    def __init__(
        self,
        index: int,
        received: Callable[[WorkerProcess, Any, list[int]], None],
        lost: Callable[[WorkerProcess], None],
    ) -> None:
        self.index = index
        self.is_ready = False
        self.started_at = asyncio.get_running_loop().time()
        self._received = received
        self._numbers = count(1)
        self._asked: dict[int, asyncio.Future[Any]] = {}
        ours, theirs = socket.socketpair()
        with theirs:
            # The same code as ours, wherever that was found.
            path = os.pathsep.join(filter(None, (_HERE, os.environ.get("PYTHONPATH"))))
            self.process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-m", "broker.workers", str(theirs.fileno()), str(os.getpid())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path},
            )
        self.channel = Channel(ours, ToSupervisor, self._take, lambda: lost(self))

    def _take(self, message: Any, descriptors: list[int]) -> None:
        if isinstance(message, Answer):
            asked = self._asked.pop(message.number, None)
            if asked is not None and not asked.done():
                asked.set_result(message.answer)
        else:
            self._received(self, message, descriptors)

    async def ask(self, question: str, argument: Any = None) -> Any:
        """Return its answer, or None if it gives none in time.

        If cancelled: the answer is dropped when it comes.
        """
        number = next(self._numbers)
        asked = self._asked[number] = asyncio.get_running_loop().create_future()
        self.channel.send(Ask(number, question, argument))
        try:
            return await asyncio.wait_for(asked, ASK_TIMEOUT)
        except TimeoutError:
            return None
        finally:
            self._asked.pop(number, None)

    async def end(self, within: float) -> int:
        """Wait for its end for *within* seconds, then kill it; return its exit status."""
        try:
            return await asyncio.to_thread(self.process.wait, within)
        except subprocess.TimeoutExpired:
            return self.kill()
        finally:
            self.channel.close()

    def kill(self) -> int:
        """End it at once; return its exit status."""
        self.process.kill()
        self.channel.close()
        return self.process.wait()
