"""A TCP proxy that cuts its connections in the middle of a byte stream, at places a seed decides.

It forwards up to a random byte in one of the two directions, so that a frame, a prefix or the
answer to a RESUME may be cut anywhere, and then ends both sides, by FIN or by RST.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from types import TracebackType
from typing import Self

READ = 65_536  # bytes


class CuttingProxy:
    """Use it in `async with`; connect to `url` in the place of the target's.

    Attributes:
        cuts: how many connections were cut so far.
        at: where: `(up, bytes)`, up from the client to the target.
    """

    def __init__(self, target: str, seed: int, *, most: int = 50_000) -> None:
        """Forward to *target*, a `tcp://` URL; cut after 1 to *most* bytes of one direction."""
        self._host, _, port = target.removeprefix("tcp://").rpartition(":")
        self._port = int(port)
        self._random = random.Random(seed)
        self._most = most
        self._left = 0
        self._server: asyncio.Server | None = None
        self._pairs: dict[_Pair, asyncio.Task[None]] = {}
        self.cuts = 0
        self.at: list[tuple[bool, int]] = []

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"tcp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    @property
    def is_done(self) -> bool:
        """Whether all cuts that were ordered have happened."""
        return self._left == 0

    def cut(self, count: int) -> None:
        """From now on cut connections, those that are open as well, until *count* were."""
        self._left = count
        for pair in self._pairs:
            self._arm(pair)

    def cut_all_now(self) -> None:
        """Cut whatever is open."""
        for pair in list(self._pairs):
            pair.cut()

    async def refuse(self, seconds: float) -> None:
        """Cut whatever is open, and let nobody in for a while."""
        server = self._server
        assert server is not None
        address = server.sockets[0].getsockname()
        server.close()
        self.cut_all_now()
        await asyncio.sleep(seconds)
        self._server = await asyncio.start_server(self._accepted, *address)

    def _arm(self, pair: _Pair) -> None:
        few = self._random.random() < 0.25  # inside RESUME, its answer, or the first of a replay
        pair.limit = self._random.randint(1, 120 if few else self._most)
        pair.limits_up = self._random.random() < 0.5
        pair.rst = self._random.random() < 0.5

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.transport.abort()
            return
        pair = _Pair(writer, far_writer)
        if self._left:
            self._arm(pair)
        task = asyncio.current_task()
        assert task is not None
        self._pairs[pair] = task
        try:
            await asyncio.gather(
                self._pump(pair, reader, far_writer, True),
                self._pump(pair, far_reader, writer, False),
            )
        finally:
            del self._pairs[pair]
            pair.cut()

    async def _pump(
        self, pair: _Pair, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, up: bool
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(READ):
                if pair.is_cut:
                    return
                limited = pair.limit is not None and pair.limits_up is up and self._left > 0
                if limited:
                    assert pair.limit is not None
                    data, pair.limit = data[: pair.limit], pair.limit - len(data)
                writer.write(data)
                if limited and pair.limit <= 0:
                    self._left -= 1
                    self.cuts += 1
                    self.at.append((up, len(data)))
                    with suppress(OSError):
                        await asyncio.wait_for(writer.drain(), 1)
                    break
                await writer.drain()
        pair.cut()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        tasks = list(self._pairs.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Pair:
    """Two sockets that live and die together."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self._ends = (near, far)
        self.limit: int | None = None  # bytes of one direction that still pass
        self.limits_up = False
        self.rst = False
        self.is_cut = False

    def cut(self) -> None:
        self.is_cut = True
        for writer in self._ends:
            if self.rst:
                writer.transport.abort()
            else:
                writer.close()
