"""The other side of the subject: one connection on which a case says every frame itself.

A reader takes what arrives at once, so that the subject never waits for the case. Requests for a
sign of life are answered by it; all other frames wait in a queue for the case to look at them. To
show that nothing is sent there is a fence, never a sleep: `silence` asks the subject something,
and what it had to say before has come when the answer has.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import count
from typing import Any, Final, Self

from rsocket_mesh.errors import ErrorCode
from rsocket_mesh.protocol.frames import (
    ERROR,
    KEEPALIVE,
    PAYLOAD,
    REQUEST_CHANNEL,
    REQUEST_FNF,
    REQUEST_RESPONSE,
    REQUEST_STREAM,
    TYPE_NAMES,
    Setup,
    encode_keepalive,
    encode_payload,
    encode_request,
    encode_setup,
)
from rsocket_mesh.protocol.metadata import (
    COMPOSITE,
    OCTET_STREAM,
    ROUTING,
    encode_composite,
    encode_routing,
)
from rsocket_mesh.testing.conformance.seen_frame import SeenFrame
from rsocket_mesh.testing.conformance.verdicts import Failed, NotApplicable, check
from rsocket_mesh.testing.conformance.wire import Wire

KEPT: Final = 40  # frames of the transcript that a failure shows
SETUP: Final = Setup(20_000, 90_000, COMPOSITE, OCTET_STREAM)
MODELS: Final[dict[str, int]] = {
    "echo": REQUEST_RESPONSE,
    "never": REQUEST_RESPONSE,
    "fail": REQUEST_RESPONSE,
    "stream": REQUEST_STREAM,
    "channel": REQUEST_CHANNEL,
    "sink": REQUEST_CHANNEL,
    "one": REQUEST_CHANNEL,
    "talk": REQUEST_CHANNEL,
    "fire": REQUEST_FNF,
}
DEFAULT_N: Final = 100  # items asked for, where the case is not about credit

Entries = Iterable[tuple[str | int, bytes]]


class RawPeer:
    """One connection to the subject. Use it as `async with`; leaving it ends the connection.

    Attributes:
        setup: what a subject that dialled introduced itself with, if a case has read it.
        keepalives: signs of life that the subject asked for, in order.
        answers_keepalive: whether those are answered.
        answers_requests: whether each REQUEST_RESPONSE gets an empty answer, unseen by the case.
        passes_over: types of frames that the case does not get to see, since the subject may send
            them when it likes, such as another REQUEST_N; they are in `passed_over`.
        last_id: stream id of the last request that `ask` sent.
        waiting_for: what the case waits for just now, for the report of one that waits in vain.
    """

    def __init__(
        self,
        wire: Wire,
        first_id: int,
        routes: dict[str, str],
        transcript: list[str],
        can_echo: bool,
    ) -> None:
        self.wire = wire
        self.setup: SeenFrame | None = None
        self.keepalives: list[SeenFrame] = []
        self.answers_keepalive = True
        self.answers_requests = False
        self.passes_over: set[int] = set()
        self.passed_over: list[SeenFrame] = []
        self.waiting_for = ""
        self.first_id = first_id
        self.last_id = 0
        self.can_echo = can_echo
        self._routes = routes
        self._transcript = transcript
        self._ids = count(first_id, 2)
        self._fences = count(1)
        self._frames: asyncio.Queue[SeenFrame | None] = asyncio.Queue()
        self._answered: dict[bytes, asyncio.Future[SeenFrame]] = {}
        self._asked = asyncio.Event()
        self._ended = self._closing = False
        self._awaits_setup = first_id == 2
        self._reader = asyncio.create_task(self._read())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connection in order."""
        self._closing = True
        await self.wire.close()
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)

    async def _read(self) -> None:
        try:
            while (raw := await self.wire.receive()) is not None:
                frame = SeenFrame(raw)
                self._note("<-", frame)
                is_first, self._awaits_setup = self._awaits_setup, False
                if is_first:
                    self._frames.put_nowait(frame)  # whatever a client begins with is looked at
                elif frame.kind == KEEPALIVE and frame.stream_id == 0:
                    await self._sign_of_life(frame)
                elif self.answers_requests and frame.kind == REQUEST_RESPONSE:
                    await self.send(encode_payload(frame.stream_id, None, b"", complete=True))
                else:
                    self._frames.put_nowait(frame)
        finally:
            self._ended = True
            if not self._closing:
                self._transcript.append("-- the subject has ended the connection")
            self._frames.put_nowait(None)
            for waiting in self._answered.values():
                if not waiting.done():
                    waiting.set_exception(Failed("an open connection", "the subject closed it"))
                    waiting.exception()
        await self.wire.close()  # the subject may wait for our side of it

    async def _sign_of_life(self, frame: SeenFrame) -> None:
        if frame.flags & 0x080:
            self.keepalives.append(frame)
            self._asked.set()
            if self.answers_keepalive:
                await self.send(encode_keepalive(False, 0, frame.data))
            return
        waiting = self._answered.get(frame.data)
        if waiting is not None and not waiting.done():
            waiting.set_result(frame)
        else:
            self._frames.put_nowait(frame)  # nobody asked for it

    def _note(self, arrow: str, frame: SeenFrame) -> None:
        self._transcript.append(f"{arrow} {frame}")
        del self._transcript[:-KEPT]

    # -- sending ----------------------------------------------------------------------------------

    async def send(self, *frames: bytes) -> None:
        """Send *frames* together."""
        for frame in frames:
            self._note("->", SeenFrame(frame))
        await self.wire.send(frames)

    async def send_hex(self, text: str) -> None:
        """Send one frame given in hexadecimal."""
        await self.send(bytes.fromhex(text))

    async def introduce(self, setup: Setup = SETUP) -> None:
        """Send SETUP and return when the subject has dealt with it."""
        await self.send(encode_setup(setup))
        await self.fence()

    def next_id(self) -> int:
        """Return the next stream id of this side."""
        return next(self._ids)

    def request(
        self,
        behaviour: str,
        data: bytes = b"",
        *,
        stream_id: int,
        n: int | None = None,
        entries: Entries = (),
        **more: Any,
    ) -> bytes:
        """Return a request for one of the application's behaviours.

        Args:
            n: items asked for; of streams and channels only.
            entries: further ones of the composite metadata.
            more: `follows`, `complete`, or `metadata` in place of the usual.
        Raises:
            NotApplicable: the subject's application does not do that.
        """
        kind = MODELS[behaviour]
        if "metadata" not in more:
            more["metadata"] = self.routed(behaviour, entries)
        if n is None and kind in (REQUEST_STREAM, REQUEST_CHANNEL):
            n = DEFAULT_N
        return encode_request(kind, stream_id, data=data, initial_n=n, **more)

    def routed(self, behaviour: str, entries: Entries = ()) -> bytes | None:
        """Return the metadata that leads to *behaviour*; None if it needs none."""
        if behaviour not in self._routes:
            raise NotApplicable(
                f"needs an application that does `{behaviour}`; say where with --route "
                f"{behaviour}=NAME"
            )
        route = self._routes[behaviour]
        first: list[tuple[str | int, bytes]] = [(ROUTING, encode_routing([route]))] if route else []
        composite = encode_composite((*first, *entries))
        return composite or None

    async def ask(self, behaviour: str, data: bytes = b"", **more: Any) -> int:
        """Send a request and return its stream id; arguments as for `request`."""
        stream_id = self.last_id = more.pop("stream_id", 0) or self.next_id()
        await self.send(self.request(behaviour, data, stream_id=stream_id, **more))
        return stream_id

    # -- looking ----------------------------------------------------------------------------------

    async def frame_or_end(self, what: str = "a frame") -> SeenFrame | None:
        """Return the next frame, None if the subject ended the connection instead."""
        self.waiting_for = what
        while (frame := await self._frames.get()) is not None and frame.kind in self.passes_over:
            self.passed_over.append(frame)
        if frame is None:
            self._frames.put_nowait(None)
        return frame

    async def frame(self, what: str = "a frame") -> SeenFrame:
        """Return the next frame; an ended connection is a failure."""
        frame = await self.frame_or_end(what)
        if frame is None:
            raise Failed(what, "the subject ended the connection")
        return frame

    async def expect(self, kind: int, stream_id: int, what: str = "") -> SeenFrame:
        """Return the next frame, which has to be of this type on this stream."""
        wanted = what or f"{TYPE_NAMES[kind]} on stream {stream_id}"
        frame = await self.frame(wanted)
        check((frame.kind, frame.stream_id) == (kind, stream_id), wanted, frame)
        return frame

    async def expect_one_of(self, stream_id: int, *kinds: int) -> SeenFrame:
        """Return the next frame, of one of these types on this stream."""
        names = " or ".join(TYPE_NAMES[kind] for kind in kinds)
        frame = await self.frame(f"{names} on stream {stream_id}")
        is_one = frame.kind in kinds and frame.stream_id == stream_id
        check(is_one, f"{names} on stream {stream_id}", frame)
        return frame

    async def expect_answer(self, stream_id: int, data: bytes) -> SeenFrame:
        """Return the answer of a request-response, after checking what is in it."""
        frame = await self.expect(PAYLOAD, stream_id)
        check(frame.next and frame.data == data, f"the item {data[:40]!r}", frame)
        return frame

    async def expect_items(self, stream_id: int, items: Iterable[bytes]) -> SeenFrame:
        """Take these items in order and return the last frame."""
        for item in items:
            frame = await self.expect_answer(stream_id, item)
        return frame

    async def expect_error(self, stream_id: int, *codes: int) -> SeenFrame:
        """Return the next frame, an ERROR with one of *codes*."""
        names = " or ".join(ErrorCode(code).name for code in codes)
        frame = await self.expect(ERROR, stream_id, f"ERROR[{names}] on stream {stream_id}")
        check(frame.number in codes, f"ERROR[{names}] on stream {stream_id}", frame)
        return frame

    async def expect_end(self, *codes: int) -> None:
        """Expect ERROR with one of *codes* (by default CONNECTION_ERROR), then the end."""
        wanted = codes or (ErrorCode.CONNECTION_ERROR,)
        names = " or ".join(ErrorCode(code).name for code in wanted)
        what = f"ERROR[{names}] on stream 0, then the end of the connection"
        frame = await self.frame_or_end(what)
        if frame is None:
            raise Failed(what, "the connection ended without a word")
        is_one = (frame.kind, frame.stream_id) == (ERROR, 0) and frame.number in wanted
        check(is_one, what, frame)
        await self.expect_closed()

    async def alive_or_ended(self) -> bool:
        """Expect that the subject goes on (True), or ends with CONNECTION_ERROR (False)."""
        alive = asyncio.create_task(self.fence())
        frame = asyncio.create_task(self.frame_or_end("a sign of life, or CONNECTION_ERROR"))
        try:
            await asyncio.wait((alive, frame), return_when=asyncio.FIRST_COMPLETED)
            if not frame.done():
                await alive
                return True
        finally:
            alive.cancel()
            frame.cancel()
            await asyncio.gather(alive, return_exceptions=True)
        what = "that the subject goes on, or ends with ERROR[CONNECTION_ERROR]"
        seen = frame.result()
        if seen is None:
            raise Failed(what, "the connection ended without a word")
        is_one = (seen.kind, seen.stream_id) == (ERROR, 0)
        check(is_one and seen.number == ErrorCode.CONNECTION_ERROR, what, seen)
        await self.expect_closed()
        return False

    async def expect_closed(self) -> None:
        """Expect the end of the connection; frames in front of it are passed over."""
        while await self.frame_or_end("the end of the connection") is not None:
            pass

    async def fence(self) -> SeenFrame:
        """Ask for a sign of life; return the answer, before which all else was dealt with."""
        data = b"fence %d" % next(self._fences)
        self.waiting_for = "the answer to a KEEPALIVE"
        if self._ended:
            raise Failed("an open connection", "the subject had closed it")
        waiting: asyncio.Future[SeenFrame] = asyncio.get_running_loop().create_future()
        self._answered[data] = waiting
        await self.send(encode_keepalive(True, 0, data))
        return await waiting

    async def silence(self) -> None:
        """Show that the subject has nothing to say: frames that wait are a failure.

        Where the application echoes, the fence goes through it, since its answers come after those
        to earlier requests; a second one follows, because answers to KEEPALIVE may overtake.
        """
        await self.fence()
        if self.can_echo:
            stream_id = await self.ask("echo", b"fence")
            frame = await self.frame("the echo of a fence, and nothing before it")
            check(
                (frame.kind, frame.stream_id, frame.data) == (PAYLOAD, stream_id, b"fence"),
                "nothing more from the subject",
                frame,
            )
        await self.fence()
        while not self._frames.empty():
            left = self._frames.get_nowait()
            if left is None or left.kind not in self.passes_over:
                came = f"came {left}" if left is not None else "the subject ended the connection"
                raise Failed("nothing more from the subject", came)
            self.passed_over.append(left)

    async def keepalive_asked(self) -> SeenFrame:
        """Return the next sign of life that the subject asks for."""
        self.waiting_for = "KEEPALIVE from the subject"
        self._asked.clear()
        await self._asked.wait()
        return self.keepalives[-1]
