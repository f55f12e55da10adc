"""A small RSocket server that does everything right, except for one planted fault.

Hand-made from bytes, so that it shares no code with what the suite was written beside. It echoes
requests, streams the numbers up to the one asked for, and takes fire-and-forget.
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

(
    SETUP,
    LEASE,
    KEEPALIVE,
    RESPONSE,
    FNF,
    STREAM,
    CHANNEL,
    REQUEST_N,
    CANCEL,
    PAYLOAD,
    ERROR,
    PUSH,
) = range(1, 13)
RESUME, RESUME_OK, EXT = 13, 14, 63
METADATA, FOLLOWS, COMPLETE, NEXT, IGNORE = 0x100, 0x080, 0x040, 0x020, 0x200
MINIMUM = {LEASE: 14, KEEPALIVE: 14, STREAM: 10, CHANNEL: 10, REQUEST_N: 10, ERROR: 10, EXT: 10}
DEFINED = {RESPONSE: FOLLOWS, FNF: FOLLOWS, STREAM: FOLLOWS, PAYLOAD: FOLLOWS | COMPLETE | NEXT}
REQUESTS = (RESPONSE, FNF, STREAM, CHANNEL)

# fault -> the requirement that has to notice it
FAULTS = {
    "the length counts itself": "C-01",
    "forgets what was cut": "C-03",
    "answers in reverse": "C-04",
    "reads little-endian": "C-09",
    "masks the reserved bit": "C-10",
    "chokes on undefined flags": "C-11",
    "chokes on unknown types": "C-12",
    "leaves without a word": "C-13",
    "takes any metadata length": "C-21",
    "drops empty items": "C-24",
    "needs no SETUP": "C-27",
    "takes SETUP on a stream": "C-28",
    "answers SETUP": "C-29",
    "serves before the verdict": "C-31",
    "refuses and stays": "C-32",
    "takes times of 0": "C-33",
    "takes any version": "C-34",
    "takes lengths beyond the frame": "C-35",
    "calls resume unsupported": "C-36",
    "minds a second SETUP": "C-37",
    "minds setup errors": "C-39",
    "waits for SETUP for ever": "C-42",
    "puts stream codes on stream 0": "C-44",
    "minds errors of unknown streams": "C-48",
    "asks back": "C-50",
    "answers every KEEPALIVE": "C-51",
    "echoes the position": "C-53",
    "chokes on large KEEPALIVE": "C-54",
    "minds a push on a stream": "C-56",
    "kills the stream of a used id": "C-59",
    "takes any parity": "C-60",
    "serves stream 0": "C-61",
    "never frees an id": "C-63",
    "answers in two frames": "C-66",
    "answers fire-and-forget": "C-71",
    "ignores credit": "C-72",
    "completes for credit": "C-73",
    "forgets credit": "C-74",
    "takes an initial n of 0": "C-75",
    "takes a REQUEST_N of 0": "C-76",
    "minds REQUEST_N out of place": "C-77",
    "minds frames of no stream": "C-89",
    "waits behind F and C": "C-97",
    "goes on behind CANCEL": "C-98",
    "mixes requests": "C-101",
    "refuses short fragments": "C-104",
    "leases nothing": "C-107",
    "minds LEASE": "C-112",
    "resumes anything": "C-117",
    "ignores a late RESUME": "C-121",
}


class Gone(Exception):
    """The connection is over."""


class FaultyServer:
    """Use it as `async with`; `url` says where it is."""

    def __init__(self, fault: str = "") -> None:
        assert not fault or fault in FAULTS
        self.fault = fault
        self.url = ""
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"tcp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(Connection(self.fault, reader, writer).run())
        self._tasks.add(task)


class Connection:
    def __init__(
        self, fault: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.fault = fault
        self.reader = reader
        self.writer = writer
        self.streams: dict[int, list[int]] = {}  # id -> next number, last number, credit
        self.pieces: dict[int, tuple[int, int, bytes]] = {}  # id -> type, n, data so far
        self.used: set[int] = set()
        self.late: list[bytes] = []
        self.is_closing = False

    def has(self, fault: str) -> bool:
        assert fault in FAULTS
        return self.fault == fault

    async def run(self) -> None:
        try:
            await self._establish()
            while True:
                frame = await self._read()
                self._take(frame)
                if self.is_closing and not self.streams:
                    break
                if self.has("answers in reverse") and not self.reader._buffer:  # type: ignore[attr-defined]
                    self.writer.write(b"".join(reversed(self.late)))
                    self.late.clear()
        except (Gone, OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self.writer.close()

    async def _read(self) -> bytes:
        if self.has("forgets what was cut"):
            data = await self.reader.read(65_536)
            size = int.from_bytes(data[:3], "big")
            if len(data) < 3 + size or not data:
                raise Gone
            self.reader._buffer[:0] = data[3 + size :]  # type: ignore[attr-defined]
            return data[3 : 3 + size]
        size = int.from_bytes(await self.reader.readexactly(3), "big")
        if size < 6:
            self.fail(0x101, "too short")
        return await self.reader.readexactly(size)

    def send(self, stream_id: int, kind: int, flags: int, body: bytes = b"") -> None:
        frame = stream_id.to_bytes(4, "big") + (kind << 10 | flags).to_bytes(2, "big") + body
        size = len(frame) + 3 * self.has("the length counts itself")
        data = size.to_bytes(3, "big") + frame
        if self.has("answers in reverse"):
            self.late.append(data)
        else:
            self.writer.write(data)

    def error(self, stream_id: int, code: int, text: str = "no") -> None:
        self.send(stream_id, ERROR, 0, code.to_bytes(4, "big") + text.encode())

    def fail(self, code: int, text: str) -> None:
        if self.has("puts stream codes on stream 0"):
            code = 0x201
        self.error(0, code, text)
        raise Gone

    # -- SETUP ------------------------------------------------------------------------------------

    async def _establish(self) -> None:
        try:
            limit = None if self.has("waits for SETUP for ever") else 1.0
            frame = await asyncio.wait_for(self._read(), limit)
        except TimeoutError:
            raise Gone from None
        stream_id, kind, flags = self._header(frame)
        if kind == RESUME and not stream_id:
            if self.has("resumes anything"):
                self.send(0, RESUME_OK, 0, bytes(8))
            self.fail(4, "no resume")
        if self.has("needs no SETUP") and kind != SETUP:
            self._take(frame)
            return
        if kind != SETUP or (stream_id and not self.has("takes SETUP on a stream")):
            self.fail(1, "SETUP comes first")
        if self.has("serves before the verdict"):
            await asyncio.sleep(0)
            while len(self.reader._buffer) > 9:  # type: ignore[attr-defined]
                self._take(await self._read())
        code = self._judge(frame, flags)
        if code and self.has("refuses and stays"):
            self.error(0, code)
        elif code:
            self.fail(code, "not like this")
        if self.has("answers SETUP"):
            self.send(0, KEEPALIVE, 0, bytes(8) + b"welcome")

    def _judge(self, frame: bytes, flags: int) -> int:
        if frame[6:10] != b"\0\1\0\0" and not self.has("takes any version"):
            return 1
        times = (frame[10:14], frame[14:18])
        if bytes(4) in times and not self.has("takes times of 0"):
            return 1
        if self.has("takes lengths beyond the frame"):
            return 0
        at = 18
        for size in (2, 1, 1) if flags & 0x080 else (1, 1):
            at += size + int.from_bytes(frame[at : at + size], "big")
        if at > len(frame):
            return 1
        if flags & 0x080:
            return 2 if self.has("calls resume unsupported") else 3
        if flags & 0x040:
            return 0 if self.has("leases nothing") else 2
        return 0

    # -- frames -----------------------------------------------------------------------------------

    def _header(self, frame: bytes) -> tuple[int, int, int]:
        stream_id, word = int.from_bytes(frame[:4], "big"), int.from_bytes(frame[4:6], "big")
        if stream_id >> 31:
            if not self.has("masks the reserved bit"):
                self.fail(0x101, "reserved bit")
            stream_id &= 0x7FFF_FFFF
        return stream_id, word >> 10, word & 0x3FF

    def _take(self, frame: bytes) -> None:
        stream_id, kind, flags = self._header(frame)
        if kind in (0, EXT) or kind > RESUME_OK:
            self._unknown(flags)
            return
        if flags & 0x01F and self.has("chokes on undefined flags"):
            self.fail(0x101, "what flags are these?")
        if len(frame) < MINIMUM.get(kind, 6):
            self.fail(0x101, "too short")
        if stream_id and kind in (*REQUESTS, PAYLOAD, REQUEST_N, CANCEL, ERROR):
            self._take_of_stream(stream_id, kind, flags, frame)
        else:
            self._take_of_connection(stream_id, kind, flags, frame)

    def _unknown(self, flags: int) -> None:
        if flags & IGNORE and not self.has("chokes on unknown types"):
            return
        if self.has("leaves without a word"):
            raise Gone
        self.fail(0x101, "what is this?")

    def _take_of_connection(self, stream_id: int, kind: int, flags: int, frame: bytes) -> None:
        code = int.from_bytes(frame[6:10], "big")
        if kind == KEEPALIVE:
            self._keepalive(flags, frame)
        elif kind == ERROR and code == 0x102:
            self.is_closing = True
        elif kind == ERROR and (code > 4 or self.has("minds setup errors")):
            raise Gone
        elif kind == RESUME and not self.has("ignores a late RESUME"):
            self.fail(0x101, "too late")
        elif (
            (kind == SETUP and self.has("minds a second SETUP"))
            or (kind == LEASE and self.has("minds LEASE"))
            or (kind == PUSH and stream_id and self.has("minds a push on a stream"))
            or (kind in (PAYLOAD, CANCEL) and self.has("minds frames of no stream"))
        ):
            self.fail(0x101, "I mind")
        elif kind == RESPONSE and self.has("serves stream 0"):
            self.send(0, PAYLOAD, NEXT | COMPLETE, frame[6:])

    def _keepalive(self, flags: int, frame: bytes) -> None:
        if len(frame) > 65_536:
            if self.has("chokes on large KEEPALIVE"):
                raise ConnectionResetError
            self.fail(0x101, "too large")
        if flags & 0x080 or self.has("answers every KEEPALIVE"):
            position = frame[6:14]
            if not self.has("echoes the position"):
                position = bytes(8)
            else:
                position = b"\0\0\0\0\0\0\0\7"
            self.send(0, KEEPALIVE, 0x080 if self.has("asks back") else 0, position + frame[14:])

    def _take_of_stream(self, stream_id: int, kind: int, flags: int, frame: bytes) -> None:
        if kind in REQUESTS:
            self._request(stream_id, kind, flags, frame)
        elif stream_id in self.pieces:
            self._piece(stream_id, kind, flags, frame)
        elif kind == REQUEST_N:
            self._more(stream_id, frame)
        elif kind in (CANCEL, ERROR) and stream_id in self.streams:
            del self.streams[stream_id]
        elif kind == ERROR and self.has("minds errors of unknown streams"):
            self.fail(0x101, "which?")

    def _body(self, flags: int, frame: bytes, at: int) -> bytes:
        if not flags & METADATA:
            return frame[at:]
        size = int.from_bytes(frame[at : at + 3], "big")
        too_long = len(frame) < at + 3 + size
        if too_long and not flags & IGNORE and not self.has("takes any metadata length"):
            self.fail(0x101, "metadata beyond the frame")
        if too_long:
            raise LookupError
        return frame[at + 3 + size :]

    def _request(self, stream_id: int, kind: int, flags: int, frame: bytes) -> None:
        if not stream_id & 1 and not self.has("takes any parity"):
            return
        if stream_id in self.streams or (
            stream_id in self.pieces and not self.has("mixes requests")
        ):
            if self.has("kills the stream of a used id"):
                self.error(stream_id, 0x202)
            return
        if self.has("never frees an id") and stream_id in self.used:
            return
        self.used.add(stream_id)
        order = "little" if self.has("reads little-endian") else "big"
        n = int.from_bytes(frame[6:10], order) if kind in (STREAM, CHANNEL) else 0  # type: ignore[arg-type]
        if kind in (STREAM, CHANNEL) and not 0 < n < 2**31:
            if not self.has("takes an initial n of 0"):
                self.error(stream_id, 0x204)
            return
        try:
            data = self._body(flags, frame, 10 if kind in (STREAM, CHANNEL) else 6)
        except LookupError:
            if self.has("takes any metadata length"):
                self.send(stream_id, PAYLOAD, NEXT | COMPLETE)
            return
        if flags & FOLLOWS:
            _, _, before = self.pieces.get(stream_id, (0, 0, b""))
            self.pieces[stream_id] = (kind, n, before + data)
        else:
            _, _, before = self.pieces.get(stream_id, (0, 0, b""))
            self._serve(stream_id, kind, n, before + data)

    def _piece(self, stream_id: int, kind: int, flags: int, frame: bytes) -> None:
        of, n, before = self.pieces[stream_id]
        if kind in (CANCEL, ERROR):
            if not self.has("goes on behind CANCEL"):
                del self.pieces[stream_id]
            return
        if len(frame) < 64 and flags & FOLLOWS and self.has("refuses short fragments"):
            self.fail(0x101, "fragment is too small")
        data = before + self._body(flags, frame, 6)
        is_last = not flags & FOLLOWS or (flags & COMPLETE and not self.has("waits behind F and C"))
        if is_last:
            del self.pieces[stream_id]
            self._serve(stream_id, of, n, data)
        else:
            self.pieces[stream_id] = (of, n, data)

    # -- the application --------------------------------------------------------------------------

    def _serve(self, stream_id: int, kind: int, n: int, data: bytes) -> None:
        if kind == RESPONSE:
            self._answer(stream_id, data)
        elif kind == FNF and self.has("answers fire-and-forget"):
            self.error(stream_id, 0x201)
        elif kind == STREAM:
            self.streams[stream_id] = [1, int(data or b"0"), n]
            self._stream(stream_id)

    def _answer(self, stream_id: int, data: bytes) -> None:
        if self.has("answers in two frames"):
            self.send(stream_id, PAYLOAD, NEXT, data)
            self.send(stream_id, PAYLOAD, COMPLETE)
        elif self.has("drops empty items") and not data:
            self.send(stream_id, PAYLOAD, COMPLETE)
        else:
            self.send(stream_id, PAYLOAD, NEXT | COMPLETE, data)

    def _more(self, stream_id: int, frame: bytes) -> None:
        n = int.from_bytes(frame[6:10], "big")
        stream = self.streams.get(stream_id)
        if stream is None:
            if self.has("minds REQUEST_N out of place"):
                self.fail(0x101, "of what?")
            return
        if not 0 < n < 2**31:
            if not self.has("takes a REQUEST_N of 0"):
                del self.streams[stream_id]
                self.error(stream_id, 0x204)
            return
        if not self.has("forgets credit"):
            stream[2] += n
        self._stream(stream_id)

    def _stream(self, stream_id: int) -> None:
        stream = self.streams[stream_id]
        while stream[0] <= stream[1] and (stream[2] > 0 or self.has("ignores credit")):
            self.send(stream_id, PAYLOAD, NEXT, str(stream[0]).encode())
            stream[0] += 1
            stream[2] -= 1
        if stream[0] > stream[1] and not (self.has("completes for credit") and stream[2] < 2):
            del self.streams[stream_id]
            self.send(stream_id, PAYLOAD, COMPLETE)
