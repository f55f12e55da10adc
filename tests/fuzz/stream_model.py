"""A call seen from both its ends, for state machines: what each sent, asked for, got, and how it
ended. The ends are the streams of the library (`protocol.streams`); what joins them, a wire or a
broker, is the machine's affair. Whatever an end accepts is held against what the other one sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from rsocket_mesh.errors import ApplicationError, Canceled, StreamError
from rsocket_mesh.protocol.fragments import ReassemblyBudget, payload_frames
from rsocket_mesh.protocol.frames import (
    MAX_REQUEST_N,
    REQUEST_CHANNEL,
    REQUEST_RESPONSE,
)
from rsocket_mesh.protocol.payload import Payload
from rsocket_mesh.protocol.stream_rules import (
    ANSWERING,
    CANCELED,
    COMPLETED,
    ENDED,
    FAILED,
    ITEM,
    LAST_ITEM,
    RETURNED,
    STOPPED,
)
from rsocket_mesh.protocol.streams import (
    EXCESS_TOLERATED,
    Outcome,
    RequesterStream,
    ResponderStream,
)

FRAME_LIMIT: Final = 64  # bytes; the smallest, so that any item of 100 bytes leaves in fragments

Send = Callable[[bytes], None]


class EndOfCall:
    """One end.

    Attributes:
        pending: the rest of a message of which the first fragment has left.
        sent, got: items in order; `asked` how many this end has granted to the other one.
        peer: the other end, once it is known.
        completed: the other half has ended well; `failure`: the stream has ended with this.
        said: our own last word, `complete`, `cancel` or an error's text.
        stopped: the other end wanted no more, or no part of it any more.
    """

    def __init__(self, stream: RequesterStream | ResponderStream, send: Send) -> None:
        self.stream = stream
        self.send = send
        self.pending: Iterator[bytes] | None = None
        self.sent: list[Payload] = []
        self.got: list[Payload] = []
        self.asked = stream.expected
        self.peer: EndOfCall | None = None
        self.completed = self.stopped = self.overruns = False
        self.failure: StreamError | None = None
        self.said: set[str] = set()

    # -- frames -----------------------------------------------------------------------------------

    def receive(self, kind: int, flags: int, frame: bytes) -> None:
        """Take one frame that arrived for this stream."""
        self.apply(self.stream.receive_frame(kind, flags, frame))

    def apply(self, outcome: Outcome) -> None:
        effect, payload, error, frames = outcome
        for frame in frames:
            self.send(frame)
        if effect is ITEM or effect is LAST_ITEM:
            assert payload is not None
            self.got.append(payload)
            self._check_items()
        if effect is LAST_ITEM or effect is COMPLETED:
            assert not self.completed
            self.completed = True
        elif effect is FAILED:
            self.failure = error
        elif effect is STOPPED or effect is CANCELED:
            self.stopped = True
        elif effect is RETURNED:
            self.send(self.stream.send_request_n(1))
        if not self.stream.is_sending and self.stream.phase is ENDED:
            self.pending = None
        if effect is STOPPED:
            self.pending = None

    def _check_items(self) -> None:
        """In order, each once, none that was not sent, none that was not asked for."""
        assert self.peer is not None
        sent = self.peer.sent
        assert self.got == sent[: len(self.got)], f"{self.got} of {sent}"
        assert len(self.got) <= self.asked + EXCESS_TOLERATED

    def check_credit(self) -> None:
        """What this end may send, and has sent, was asked for by the other one."""
        if self.peer is None or self.stream.credit >= MAX_REQUEST_N or self.overruns:
            return
        assert self.stream.credit + len(self.sent) <= self.peer.asked

    # -- acts; each does nothing where the law of streams forbids it ------------------------------

    def start_item(self, size: int, *, beyond_credit: bool = False) -> bool:
        """Send the first frame of the next item; return whether there was one to send."""
        stream = self.stream
        if self.pending is not None or not stream.is_sending:
            return False
        if stream.credit <= 0:
            if not beyond_credit:
                return False
            self.overruns = True
        else:
            stream.send_item()
        item = Payload(b"%d|" % len(self.sent) + b"x" * size, b"m" if size % 2 else None)
        self.sent.append(item)
        self.begin(payload_frames(stream.stream_id, item, FRAME_LIMIT))
        return True

    def answer(self, size: int) -> None:
        """Send the one answer of a request-response."""
        if self.stream.phase is ANSWERING and isinstance(self.stream, ResponderStream):
            self.stream.send_answer()
            item = Payload(b"answer" + b"x" * size)
            self.sent.append(item)
            self.said.add("complete")
            self.begin(payload_frames(self.stream.stream_id, item, FRAME_LIMIT, complete=True))

    def begin(self, frames: bytes | Iterator[bytes]) -> None:
        if isinstance(frames, bytes):
            self.send(frames)
            return
        self.pending = frames
        self.next_fragment()

    def next_fragment(self) -> bool:
        """Send one more fragment of the message on its way; return whether there was one."""
        if self.pending is None:
            return False
        frame = next(self.pending, None)
        if frame is None:
            self.pending = None
            return False
        self.send(frame)
        return True

    def request_n(self, n: int) -> None:
        if self.stream.is_receiving:
            self.asked += n
            self.send(self.stream.send_request_n(n))

    def complete(self) -> None:
        if self.stream.is_sending and self.pending is None:
            self.said.add("complete")
            self.send(self.stream.send_complete())

    def cancel(self) -> None:
        stream = self.stream
        if isinstance(stream, RequesterStream):
            if stream.phase is not ENDED:
                self.said.add("cancel")
                self.pending = None
                for frame in stream.send_cancel():
                    self.send(frame)
        elif stream.kind == REQUEST_CHANNEL and stream.is_receiving:
            self.said.add("cancel")
            self.send(stream.send_cancel())

    def fail(self) -> None:
        """End the whole stream with an error, where this end may."""
        is_requester = isinstance(self.stream, RequesterStream)
        if self.stream.phase is ENDED or (is_requester and not self.stream.is_sending):
            return
        error = Canceled("given up") if is_requester else ApplicationError("broken")
        self.said.add(error.text)
        self.pending = None
        self.send(self.stream.send_error(error))


class Call:
    """Both ends of one call; the responder's appears when its request has arrived."""

    def __init__(self, number: int, kind: int, requester: EndOfCall | None) -> None:
        self.number = number
        self.kind = kind
        self.requester = requester  # None for fire-and-forget
        self.responder: EndOfCall | None = None
        self.is_lost = False  # an end, its session or the deadline went away
        self.requester_is_gone = False  # and the responder has to learn of it

    def __repr__(self) -> str:
        return f"call {self.number} (type {self.kind:#x})"

    @property
    def is_open(self) -> bool:
        """Something can still be done with it."""
        return any(end.stream.phase is not ENDED for end in self.ends())

    def meet(self, responder: EndOfCall) -> None:
        """The request has arrived, whole."""
        assert self.responder is None, f"{self}: its request arrived twice"
        self.responder = responder
        # A channel's request may be its requester's last word as well.
        responder.completed = self.kind == REQUEST_CHANNEL and not responder.stream.is_receiving
        responder.peer = self.requester
        if self.requester is not None:
            self.requester.peer = responder

    def ends(self) -> list[EndOfCall]:
        return [end for end in (self.requester, self.responder) if end is not None]

    def check_halves(self) -> None:
        """Nothing is under way: what is open at one end is open at the other."""
        requester, responder = self.requester, self.responder
        if requester is None or any(end.overruns for end in self.ends()):
            return
        if responder is None:  # still waiting for a provider, or refused
            return
        mine, theirs = requester.stream, responder.stream
        if self.requester_is_gone or mine.phase is ENDED:
            assert theirs.phase is ENDED, f"{self}: the responder is {theirs.phase.name}"
        elif theirs.phase is ENDED:
            raise AssertionError(f"{self}: the requester is {mine.phase.name}")
        else:
            assert mine.is_sending == theirs.is_receiving, f"{self}: {mine.phase}, {theirs.phase}"
            assert mine.is_receiving == theirs.is_sending, f"{self}: {mine.phase}, {theirs.phase}"
            for end in (requester, responder):  # grants come in portions, but they come
                assert end.peer is not None
                if end.stream.is_sending and end.peer.asked > len(end.sent):
                    assert end.stream.credit > 0, f"{self}: starved at {len(end.sent)} items"

    def check_end(self) -> None:
        """Everything was delivered and both were told to end: they agree on how it went."""
        for end in self.ends():
            assert end.stream.phase is ENDED, f"{self}: {end.stream.phase.name}"
        requester, responder = self.requester, self.responder
        if requester is None or responder is None or self.is_lost:
            return
        for near, far in ((requester, responder), (responder, requester)):
            if near.completed:
                assert near.got == far.sent, f"{self}: {len(near.got)} of {len(far.sent)} items"
                assert "complete" in far.said or self.kind == REQUEST_RESPONSE
            if near.failure is not None and not (near.overruns or far.overruns):
                assert near.failure.text in far.said, f"{self}: {near.failure}, said {far.said}"
            if near.stopped and not (near.overruns or far.overruns):
                assert far.said - {"complete"}, f"{self}: stopped, but nobody said so"
        if not any(end.said - {"complete"} or end.overruns for end in self.ends()):
            assert requester.completed, f"{self}: never completed"
            assert self.kind != REQUEST_CHANNEL or responder.completed


def requester_of(
    stream_id: int, kind: int, budget: ReassemblyBudget, n: int, complete: bool, send: Send
) -> EndOfCall:
    """Return the end that asks; its request has yet to be sent."""
    end = EndOfCall(RequesterStream(stream_id, kind, budget, n), send)
    if kind == REQUEST_CHANNEL and complete:
        end.stream.send_complete()  # said by the request itself
        end.said.add("complete")
    return end
