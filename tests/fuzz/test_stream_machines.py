"""Requester against responder, joined by wires and by the real relay of the broker.

Both ends do whatever the law of streams lets them, at any time; frames wait on each of the wires,
first in first out per direction, and are delivered in pieces of any size in any order between the
directions. With the broker in the middle sessions end, providers come and go and time passes as
well. In the end everything is delivered, and both ends have to agree (`stream_model`).
"""

from __future__ import annotations

from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from broker.config import Config, RoutingConfig
from broker.forwarding.hub import Hub
from broker.observe.counters import Counters
from rsocket_mesh.protocol.fragments import ReassemblyBudget, request_frames
from rsocket_mesh.protocol.frames import (
    CANCEL,
    ERROR,
    PAYLOAD,
    REQUEST_CHANNEL,
    REQUEST_FNF,
    REQUEST_N,
    REQUEST_RESPONSE,
    REQUEST_STREAM,
    encode_cancel,
    encode_keepalive,
    peek,
)
from rsocket_mesh.protocol.framing import Backlog, cut, prefix_lengths
from rsocket_mesh.protocol.payload import Payload
from rsocket_mesh.protocol.stream_rules import ENDED, REQUESTED
from rsocket_mesh.protocol.streams import ResponderStream
from tests.fuzz.ends import End, ManualLoop
from tests.fuzz.sessions import setup_frames
from tests.fuzz.stream_model import FRAME_LIMIT, Call, EndOfCall, requester_of
from tests.support.raw_peers import routed

SIZES = st.sampled_from([0, 1, 100, 151])  # bytes of items; the last two leave in fragments
PIECES = st.sampled_from([1 << 20, 64, 1])  # bytes that are delivered at once
KINDS = st.sampled_from([REQUEST_RESPONSE, REQUEST_FNF, REQUEST_STREAM, REQUEST_CHANNEL])
WHICH = st.sampled_from([0, 0, 1, 2])  # of the calls, counted from the newest
EXTRA = 5  # items that every open producer sends at the end
WAIT = 1.0  # s that a request is held for a provider that may come
LONG_ENOUGH = 1 << 20  # bytes; more than ever waits


class Host:
    """One end of the wires: what it wrote, what arrived, and its streams."""

    def __init__(self) -> None:
        self.wire = b""
        self.inbox: list[bytes] = []
        self.streams: dict[int, EndOfCall] = {}
        self.budget = ReassemblyBudget()

    def send(self, frame: bytes) -> None:
        self.wire += b"".join(prefix_lengths([frame]))

    def forget(self) -> None:
        """The connection is gone, and all that was on it."""
        self.wire = b""
        self.inbox.clear()
        for end in self.streams.values():
            end.stream.drop_pieces()
            end.pending = None
        assert self.budget.used == 0
        self.streams = {}


class Streams(RuleBasedStateMachine):
    """Calls from one host to another over a plain wire."""

    @initialize()
    def begin(self) -> None:
        self.calls: list[Call] = []
        self.caller, self.provider = Host(), Host()
        self.backlogs = {True: Backlog(), False: Backlog()}
        self.connect()

    def connect(self) -> None:
        """Make whatever is between the hosts."""

    def carry(self, up: bool, data: bytes) -> None:
        """Take bytes of one host; what comes of it is in the inboxes."""
        batch = self.backlogs[up].feed(data)
        if batch is None:
            return
        frames, used = cut(batch)
        (self.provider if up else self.caller).inbox.extend(frames)
        if used < len(batch):
            self.backlogs[up].keep(batch[used:])

    # -- the wires --------------------------------------------------------------------------------

    @rule(up=st.booleans(), size=PIECES)
    def deliver(self, up: bool, size: int) -> None:
        host = self.caller if up else self.provider
        data, host.wire = host.wire[:size], host.wire[size:]
        if data:
            self.carry(up, data)

    @rule(caller=st.booleans(), count=st.sampled_from([1, 2, 100]))
    def read(self, caller: bool, count: int) -> None:
        host = self.caller if caller else self.provider
        frames, host.inbox = host.inbox[:count], host.inbox[count:]
        for frame in frames:
            (self.caller_reads if caller else self.provider_reads)(frame)

    def caller_reads(self, frame: bytes) -> None:
        stream_id, kind, flags = peek(frame)
        assert kind in (PAYLOAD, ERROR, REQUEST_N, CANCEL)
        end = self.caller.streams.get(stream_id)
        assert end is not None, f"a frame for stream {stream_id}, which was never opened"
        end.receive(kind, flags, frame)

    def provider_reads(self, frame: bytes) -> None:
        stream_id, kind, flags = peek(frame)
        end = self.provider.streams.get(stream_id)
        if REQUEST_RESPONSE <= kind <= REQUEST_CHANNEL:
            assert end is None, f"a second request on stream {stream_id}"
            stream = ResponderStream(stream_id, kind, self.provider.budget)
            end = self.provider.streams[stream_id] = EndOfCall(stream, self.provider.send)
            outcome = stream.receive_request(flags, frame)
        else:
            assert end is not None, f"a frame for stream {stream_id}, which was never opened"
            outcome = end.stream.receive_frame(kind, flags, frame)
        if outcome[0] is REQUESTED:
            assert outcome[1] is not None
            number = int(outcome[1].data.split(b"|")[0])
            call = next(call for call in self.calls if call.number == number)
            assert outcome[1].data == self.request_of(number, len(outcome[1].data)).data
            call.meet(end)
            end.asked = end.stream.expected
        else:
            end.apply(outcome)

    # -- acts -------------------------------------------------------------------------------------

    @staticmethod
    def request_of(number: int, size: int) -> Payload:
        return Payload((b"%d|" % number).ljust(size, b"r"))

    def metadata(self, deadline_ms: int | None) -> bytes | None:
        return None

    @rule(
        kind=KINDS,
        n=st.integers(1, 3),
        size=st.sampled_from([4, 150]),
        complete=st.booleans(),
        deadline=st.booleans(),
    )
    def call(self, kind: int, n: int, size: int, complete: bool, deadline: bool) -> None:
        host, number = self.caller, len(self.calls)
        stream_id = 1 + 2 * number
        if kind == REQUEST_RESPONSE:
            n = 1
        complete = complete and kind == REQUEST_CHANNEL
        end = requester_of(stream_id, kind, host.budget, n, complete, host.send)
        call = Call(number, kind, end if kind != REQUEST_FNF else None)
        self.calls.append(call)
        payload = self.request_of(number, size)._replace(
            metadata=self.metadata(1500 if deadline else None)
        )
        frames = request_frames(kind, stream_id, payload, FRAME_LIMIT, n, complete)
        if kind != REQUEST_FNF:
            host.streams[stream_id] = end
            end.begin(frames)
        else:  # leaves at once: it has no stream that could do anything meanwhile
            for frame in [frames] if isinstance(frames, bytes) else frames:
                host.send(frame)

    @rule(kind=KINDS, n=st.integers(1, 3), size=st.sampled_from([4, 150]))
    def open(self, kind: int, n: int, size: int) -> None:
        """A call that arrives at once, so that there are calls to do something with."""
        self.call(kind, n, size, complete=False, deadline=False)
        self.exchange()

    @rule()
    def exchange(self) -> None:
        """Everything arrives, fragments too: there is a moment at which both ends agree."""
        self.finish_messages()
        for call in self.calls:
            call.check_halves()

    def end_of(self, which: int, caller: bool) -> EndOfCall | None:
        open_calls = [call for call in self.calls if call.is_open]
        if not open_calls:
            return None
        call = open_calls[-1 - which % len(open_calls)]
        return call.requester if caller else call.responder

    @rule(which=WHICH, caller=st.booleans(), sizes=st.lists(SIZES, min_size=1, max_size=3))
    def items(self, which: int, caller: bool, sizes: list[int]) -> None:
        if end := self.end_of(which, caller):
            for size in sizes:
                end.start_item(size)
            end.answer(sizes[0])

    @rule(which=WHICH, caller=st.booleans(), sizes=st.lists(SIZES, min_size=1, max_size=4))
    def flow(self, which: int, caller: bool, sizes: list[int]) -> None:
        """Items that are asked for and sent, and wait on the wire."""
        end = self.end_of(which, caller)
        if end is not None and end.peer is not None:
            end.peer.request_n(len(sizes))
            self.exchange()
            for size in sizes:
                end.start_item(size)
                while end.next_fragment():
                    pass

    @rule(which=WHICH, caller=st.booleans())
    def fragment(self, which: int, caller: bool) -> None:
        if end := self.end_of(which, caller):
            end.next_fragment()

    @rule(which=WHICH, caller=st.booleans(), n=st.sampled_from([1, 2, 7, 0x7FFF_FFFF]))
    def request_n(self, which: int, caller: bool, n: int) -> None:
        if end := self.end_of(which, caller):
            end.request_n(n)

    @rule(which=WHICH, caller=st.booleans())
    def complete(self, which: int, caller: bool) -> None:
        if end := self.end_of(which, caller):
            end.complete()

    @rule(which=WHICH, caller=st.booleans(), act=st.sampled_from(["cancel", "fail", "overrun"]))
    def give_up(self, which: int, caller: bool, act: str) -> None:
        if end := self.end_of(which, caller):
            if act == "overrun":
                end.start_item(1, beyond_credit=True)
            else:
                getattr(end, act)()

    # -- laws -------------------------------------------------------------------------------------

    @invariant()
    def nobody_may_send_more_than_was_asked_for(self) -> None:
        for call in getattr(self, "calls", ()):
            for end in call.ends():
                end.check_credit()

    def pump(self) -> None:
        """Deliver everything there is, until nothing more comes."""
        while self.caller.wire or self.provider.wire or self.caller.inbox or self.provider.inbox:
            for side in (True, False):
                self.deliver(side, LONG_ENOUGH)
                self.read(side, LONG_ENOUGH)

    def finish_messages(self) -> None:
        for call in self.calls:
            for end in call.ends():
                while end.next_fragment():
                    pass
        self.pump()

    def teardown(self) -> None:
        if not hasattr(self, "calls"):
            return
        self.exchange()
        self.send_the_rest()
        for call in self.calls:
            for end in call.ends():
                end.complete()
                end.answer(100)
        self.finish_messages()
        for call in self.calls:
            call.check_end()
            assert call.kind != REQUEST_FNF or call.responder is not None or call.is_lost
        for host in (self.caller, self.provider):
            assert host.budget.used == 0
            assert all(end.stream.phase is ENDED for end in host.streams.values())

    def send_the_rest(self) -> None:
        """Whoever may still send gets credit and sends a few items more: all of them arrive."""
        producers = []
        for call in self.calls:
            for end in call.ends():
                if end.stream.is_sending and end.peer and end.peer.stream.is_receiving:
                    end.peer.request_n(max(0, len(end.sent) - end.peer.asked) + EXTRA)
                    producers.append((call, end, len(end.sent) + EXTRA))
        self.pump()
        for _, end, target in producers:
            while len(end.sent) < target and end.start_item(len(end.sent) % 2 * 100):
                self.finish_messages()
        for call, end, target in producers:
            if call.is_lost or any(each.overruns for each in call.ends()):
                continue
            assert end.peer is not None
            if end.stream.is_sending and end.peer.stream.is_receiving:
                assert len(end.sent) == target, f"{call}: starved at {len(end.sent)}"
                assert end.peer.got == end.sent


class RelayedStreams(Streams):
    """The same calls with a broker in the middle."""

    def connect(self) -> None:
        self.loop = ManualLoop()
        self.counters = Counters()
        loop: Any = self.loop
        config = Config(routing=RoutingConfig(route_wait=WAIT))
        self.hub = Hub(config, self.counters, lambda *_: None, loop)  # type: ignore[arg-type,return-value]
        self.ends: dict[bool, End | None] = {}
        self.attach(True)
        self.attach(False)

    def attach(self, caller: bool) -> None:
        end = self.ends[caller] = End(self.loop, self.hub.new_link(""))
        end.feed(setup_frames(*(() if caller else ("echo",))))
        self.loop.turn()
        frames = end.frames()  # the answer to the KEEPALIVE, and requests that were waiting
        frames.remove(encode_keepalive(respond=False))
        (self.caller if caller else self.provider).inbox += frames
        self.collect()

    def collect(self) -> None:
        self.loop.turn()
        for caller, end in self.ends.items():
            if end is not None and end.reading:
                (self.caller if caller else self.provider).inbox += end.frames()

    def carry(self, up: bool, data: bytes) -> None:
        end = self.ends[up]
        assert end is not None
        end.feed(data)
        self.collect()

    def metadata(self, deadline_ms: int | None) -> bytes | None:
        return routed("echo.say", deadline_ms=deadline_ms)

    @rule(caller=st.booleans())
    def stop_or_go_on_reading(self, caller: bool) -> None:
        """What the broker sends one end waits there; beyond a few items it is congested."""
        end = self.ends[caller]
        if end is not None and end.reading:
            end.stop()
        elif end is not None:
            end.go_on()
            self.collect()

    @rule(which=WHICH, caller=st.booleans())
    def ask_while_congested(self, which: int, caller: bool) -> None:
        """A consumer that does not read what it has asks for more; later it goes on reading."""
        self.flow(which, caller, [151])  # so that the relay knows the size, and grants several
        self.flow(which, caller, [151, 151, 151])
        end, reader = self.end_of(which, caller), self.ends[not caller]
        if end is not None and end.peer is not None and reader is not None:
            reader.stop()
            while end.next_fragment():
                pass
            self.deliver(caller, LONG_ENOUGH)
            end.peer.request_n(3)
            self.deliver(not caller, LONG_ENOUGH)

    @rule()
    def exchange(self) -> None:
        for end in self.ends.values():
            if end is not None:
                end.go_on()
        self.collect()
        super().exchange()

    @rule(what=st.sampled_from(["time", "more time", "provider", "provider", "caller"]))
    def disturb(self, what: str) -> None:
        """One rule for what ends many calls at once, so that it does not happen all the time."""
        if what == "caller":
            self.leave(True)
            self.attach(True)
        elif what != "provider":
            self.pass_time(0.7 if what == "time" else 2.0)
        elif self.ends[False] is None:
            self.attach(False)
        else:
            self.leave(False)

    def pass_time(self, seconds: float) -> None:
        """Deadlines and waits come to their end; what that does is nobody's fault here."""
        for call in self.calls:
            met = call.kind >= REQUEST_STREAM and call.requester and call.requester.got
            if not met:  # the first item bounds a stream's deadline, the answer that of a response
                call.is_lost |= call.is_open or call.responder is None
        self.loop.pass_time(seconds)
        self.collect()

    def leave(self, caller: bool) -> None:
        end, host = self.ends[caller], self.caller if caller else self.provider
        assert end is not None
        self.ends[caller] = None
        end.end()
        for call in self.calls:
            call.is_lost = True
            call.requester_is_gone |= caller
            gone = call.requester if caller else call.responder
            if gone is not None:
                gone.pending = None
                while gone.stream.phase is not ENDED:  # nobody is there any more
                    gone.cancel()
                    gone.fail()
        host.forget()
        self.collect()

    @invariant()
    def the_tables_agree(self) -> None:
        hub = getattr(self, "hub", None)
        if hub is None:
            return
        assert sum(len(link.held) for link in hub.links.values()) == len(hub.held)
        assert (hub.held_bytes == 0) == (not hub.held)
        in_flight = sum(link.in_flight for link in hub.links.values())
        for calls in self.counters.calls.values():
            in_flight -= calls.started - calls.ok - sum(calls.others.values())
        assert in_flight == 0, "open calls are those started and not ended"

    def teardown(self) -> None:
        if not hasattr(self, "calls"):
            return
        if self.ends[False] is None:
            self.attach(False)
        super().teardown()
        hub = self.hub
        assert hub.streams_open() == 0
        assert (hub.held, hub.held_bytes) == ({}, 0)
        for link in hub.links.values():
            assert not link.streams
            assert link.in_flight == 0
            assert link.open
        self.ends[True].feed(b"".join(prefix_lengths([encode_cancel(1)])))  # type: ignore[union-attr]
        assert self.ends[True].frames() == []  # type: ignore[union-attr]


COMMON: dict[str, Any] = {
    "stateful_step_count": 50,
    "derandomize": True,
    "database": None,
    "deadline": None,
    "report_multiple_bugs": False,
}
Streams.TestCase.settings = settings(max_examples=80, **COMMON)
RelayedStreams.TestCase.settings = settings(max_examples=150, **COMMON)
TestStreams = Streams.TestCase
TestRelayedStreams = RelayedStreams.TestCase
