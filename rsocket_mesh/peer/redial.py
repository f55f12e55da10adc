"""How a client finds a new socket for its session: dial again, RESUME, and wait for the answer.

Beside `resumable`, which it gives the new socket to. It tries the URL of the session, where its
server is, with a jittered and growing delay, until the server takes the session, says that it does
not, or the peer gives up because the session's time is over.
Source: RSocket Protocol 1.0, "Resuming Operation".
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from rsocket_mesh.errors import (
    ConnectionClosed,
    ErrorCode,
    RemoteProtocolError,
    ResumeRefused,
    RSocketError,
)
from rsocket_mesh.peer.jitter import jitter
from rsocket_mesh.peer.resumable import ResumableTransport
from rsocket_mesh.protocol.frames import (
    ERROR,
    RESUME_OK,
    decode_error,
    decode_resume_ok,
    describe,
    encode_error,
    peek,
)
from rsocket_mesh.protocol.framing import PREFIX_SIZE, prefix_lengths
from rsocket_mesh.transport.base import PROTOCOL_ERROR, Receiver, Transport
from rsocket_mesh.transport.framed import NOBODY

RESUME_TIME: Final = 60.0  # s from the loss of a socket; brokers keep sessions about that long
ATTEMPT_TIMEOUT: Final = 5.0  # s for a socket and the answer to RESUME
FIRST_DELAY: Final = 0.05  # s before the first attempt, jittered: many clients lose one broker
MAX_DELAY: Final = 2.0  # s between two attempts

Dial = Callable[[Receiver], Awaitable[Transport]]

_log = logging.getLogger(__name__)


class Redial:
    """Resumes the session of *transport* by its *token* over what *dial* opens."""

    def __init__(self, transport: ResumableTransport, token: bytes, dial: Dial) -> None:
        self.transport = transport
        self._token = token
        self._dial = dial
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """The socket is lost: find another one."""
        self.stop()  # one that looked for the last
        self._task = asyncio.create_task(self._find(), name="rsocket-mesh resume")

    def stop(self) -> None:
        """Look no further. Idempotent."""
        if self._task is not None:
            self._task.cancel()

    async def _find(self) -> None:
        loop = asyncio.get_running_loop()
        lost_at = loop.time()
        delay = FIRST_DELAY
        while True:
            await asyncio.sleep(delay * jitter.uniform(0.1, 1))
            delay = min(delay * 2, MAX_DELAY)
            if not self.transport.is_detached:
                return
            try:
                await self._attempt()
            except (ResumeRefused, RemoteProtocolError) as exc:
                text = f"the session could not be resumed: {exc}"
                self.transport.end(ConnectionClosed(text, "resume-refused"))
                return
            except (RSocketError, TimeoutError) as exc:
                _log.debug("%s: not resumed yet: %s", self.transport.name, exc)
            except Exception:  # a bug, or the system's: not a reason to stop trying
                _log.exception("%s: unexpected", self.transport.name)
            else:
                took = loop.time() - lost_at
                _log.info("%s: resumed %.2f s after the loss", self.transport.name, took)
                return

    async def _attempt(self) -> None:
        exchange = _Exchange(self.transport, self._token)
        try:
            async with asyncio.timeout(ATTEMPT_TIMEOUT):
                await self._dial(exchange)
                await exchange.answered
        except TimeoutError:
            if not exchange.is_resumed:  # the answer may have come in the same turn of the loop
                raise
        finally:
            exchange.close()


class _Exchange:
    """The receiver of a new socket, until the server has answered RESUME.

    Attributes:
        answered: done when the session runs on the socket; else why it does not.
        is_resumed: whether the session runs on the socket.
    """

    def __init__(self, session: ResumableTransport, token: bytes) -> None:
        self._session = session
        self._token = token
        self._socket: Transport | None = None  # ours, as long as there is no answer
        self.is_resumed = False
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.answered.add_done_callback(_look_at_it)

    def connected(self, transport: Transport) -> None:
        self._socket = transport
        asked = self._session.books.request_resume(self._token)
        transport.outbound += prefix_lengths([asked])  # and nothing else (C-116)
        transport.flush()

    def batch_received(self, data: bytes) -> int:
        stop = PREFIX_SIZE + int.from_bytes(data[:PREFIX_SIZE], "big")
        if self.answered.done():  # given up, maybe in this very turn of the loop
            return len(data)
        if len(data) < stop or self._socket is None:
            return 0
        try:
            self._answer(data[PREFIX_SIZE:stop])
        except RemoteProtocolError as exc:
            error = encode_error(0, ErrorCode.CONNECTION_ERROR, str(exc))
            self._socket.outbound += prefix_lengths([error])
            self._fail(exc)
            return len(data)
        if self.is_resumed and stop < len(data):
            return stop + self._session.batch_received(data[stop:])
        return stop if self.is_resumed else len(data)

    def _answer(self, frame: bytes) -> None:
        stream_id, kind, _ = peek(frame)
        if stream_id == 0 and kind == RESUME_OK:
            assert self._socket is not None
            self._session.resumed(self._socket, decode_resume_ok(frame))
            self._socket = None
            self.is_resumed = True
            self.answered.set_result(None)
        elif stream_id == 0 and kind == ERROR:
            error = decode_error(frame)
            if error.code == ErrorCode.REJECTED_RESUME:  # for good (C-119)
                self._fail(ResumeRefused(error.text, "rejected"))
            else:
                self._fail(ConnectionClosed(error.text, "peer-error"))
        else:
            raise RemoteProtocolError(f"{describe(frame)} in answer to RESUME")

    def protocol_violated(self, text: str, reason: str = PROTOCOL_ERROR) -> None:
        self._fail(ConnectionClosed(text, reason))

    def disconnected(self, error: Exception | None) -> None:
        text = f"lost before the answer to RESUME: {error or 'the peer closed'}"
        self._fail(ConnectionClosed(text, "transport-lost"))

    def writable(self, ready: bool) -> None:
        pass

    def _fail(self, error: Exception) -> None:
        if not self.answered.done():
            self.answered.set_exception(error)
        self.close()

    def close(self) -> None:
        """Give the socket up, unless the session has it."""
        socket, self._socket = self._socket, None
        if socket is not None:
            socket.hand_to(NOBODY)
            socket.close()


def _look_at_it(future: asyncio.Future[None]) -> None:
    """Mark the exception as seen: nobody waits for it if dialling itself has failed."""
    if not future.cancelled():
        future.exception()
