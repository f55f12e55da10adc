"""A TCP relay that delays, stalls and cuts: the bad network of tests on machines without netem.

In a program: `FlakyProxy`. As a process, for instance inside a network namespace:
`python -m tests.support.flaky_proxy 10.77.0.1:7000 /run/broker.sock`; it prints `ready`.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from typing import Final, Self

CHUNK: Final = 65_536  # bytes of one read
MAX_WAITING: Final = 1 << 20  # bytes on their way per direction; beyond it the sender is not read


class FlakyProxy:
    """Accepts on one address and relays to another. Use it in `async with`.

    Attributes:
        address: `host:port` where it listens.
        delay: seconds that every byte is under way; may be changed at any time.
        connections: how many were accepted so far; `cuts` how many of them were cut.
    """

    def __init__(self, target: str, listen: str = "127.0.0.1:0") -> None:
        """*target* is `host:port`, or the path of a Unix socket."""
        self.address = listen
        self.delay = 0.0
        self.connections = self.cuts = 0
        self._target = target
        self._server: asyncio.Server | None = None
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        host, _, port = self.address.rpartition(":")
        self._server = await asyncio.start_server(self._accepted, host, int(port), limit=CHUNK)
        self.address = f"{host}:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def cut(self) -> None:
        """Reset every connection, whatever is under way."""
        for writer in self._open:
            writer.transport.abort()
            self.cuts += 1
        self._open.clear()

    def stall(self) -> None:
        """Deliver nothing until `flow`; connections stay open."""
        self._flowing.clear()

    def flow(self) -> None:
        """Deliver again; nothing was lost."""
        self._flowing.set()

    async def _accepted(self, near: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        try:
            await self._relay(near, writer)
        except (OSError, asyncio.CancelledError):
            pass  # either end is gone, or this proxy ends
        finally:
            writer.transport.abort()
            self._tasks.discard(task)

    async def _relay(self, near: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._target.startswith("/"):
            far, far_writer = await asyncio.open_unix_connection(self._target, limit=CHUNK)
        else:
            host, _, port = self._target.rpartition(":")
            far, far_writer = await asyncio.open_connection(host, int(port), limit=CHUNK)
        self._open |= {writer, far_writer}
        try:
            ways = [
                asyncio.ensure_future(self._pipe(near, far_writer)),
                asyncio.ensure_future(self._pipe(far, writer)),
            ]
            # RSocket knows no half-closed connection: one end's end is the other's.
            _, pending = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in pending:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        finally:
            self._open -= {writer, far_writer}
            far_writer.transport.abort()

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read ahead of what is due, so that a delay is no limit on the rate."""
        loop = asyncio.get_running_loop()
        waiting: deque[tuple[float, bytes]] = deque()
        changed = asyncio.Event()
        size = 0

        async def write() -> None:
            nonlocal size
            while True:
                while not waiting:
                    changed.clear()
                    await changed.wait()
                due, data = waiting[0]
                await asyncio.sleep(max(0.0, due - loop.time()))
                await self._flowing.wait()
                if not data:
                    return
                writer.write(data)
                await writer.drain()
                waiting.popleft()
                size -= len(data)
                changed.set()

        out = asyncio.ensure_future(write())
        try:
            data = b"-"
            while data and not out.done():
                data = await reader.read(CHUNK)
                waiting.append((loop.time() + self.delay, data))
                size += len(data)
                changed.set()
                while size > MAX_WAITING and not out.done():
                    changed.clear()
                    await changed.wait()
            await out
        finally:
            out.cancel()
            await asyncio.gather(out, return_exceptions=True)


async def _main(listen: str, target: str) -> None:
    async with FlakyProxy(target, listen):
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    try:
        asyncio.run(_main(sys.argv[1], sys.argv[2]))
    except KeyboardInterrupt:
        pass
