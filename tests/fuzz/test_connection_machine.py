"""Stream 0 of both ends, joined by wires that deliver any part of what was written, in any order
between the two directions. Laws: nothing raises, what arrives is what was sent, in order and once,
both ends learn of the end and of one end only, and what is held in between stays bounded."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from rsocket_mesh.errors import ErrorCode, SetupRefused
from rsocket_mesh.protocol.connection import (
    AWAIT_SETUP,
    CLOSED,
    DRAINING,
    IDLE,
    JUDGING,
    MAX_HELD_BYTES,
    MAX_HELD_FRAMES,
    OPEN,
    SETTING_UP,
    Connection,
    Role,
)
from rsocket_mesh.protocol.events import (
    ConnectionEnded,
    Event,
    Ignored,
    KeepaliveAnswered,
    MetadataPushed,
    PeerClosing,
    SetupArrived,
)
from rsocket_mesh.protocol.frames import (
    KEEPALIVE,
    REQUEST_FNF,
    Setup,
    encode_request,
    peek,
)
from rsocket_mesh.protocol.framing import Backlog, cut, prefix_lengths

SETUP = Setup(20_000, 60_000, "a/b", "c/d")
RUNNING = (SETTING_UP, OPEN, DRAINING)


class Side:
    """One connection, its half of the wire, and what it has heard."""

    def __init__(self, role: Role) -> None:
        self.connection = Connection(role, now=0.0)
        self.wire = b""  # written by this side, not delivered yet
        self.backlog = Backlog()
        self.events: list[Event] = []
        self.asked = self.sent_pushes = self.sent_requests = self.seen_requests = 0
        self.end_text: str | None = None  # of our own act that ended it

    def take(self, events: list[Event]) -> None:
        assert not (self.ended and events), f"{events} after the end"
        self.events += events
        self.flush()

    def flush(self) -> None:
        frames = self.connection.frames_to_send()
        self.asked += sum(peek(f)[1:] == (KEEPALIVE, 0x80) for f in frames)
        self.wire += b"".join(prefix_lengths(frames))

    def receive(self, data: bytes, now: float) -> None:
        batch = self.backlog.feed(data)
        if batch is None:
            return
        frames, used = cut(batch)
        for frame in frames:
            stream_id = peek(frame)[0]
            if not stream_id or self.connection.phase not in (OPEN, DRAINING):
                self.take(self.connection.receive_frame(frame, now))
            if stream_id and self.connection.phase is not CLOSED:
                self.seen_requests += 1  # the shell keeps those that come before the verdict
        if used < len(batch):
            self.backlog.keep(batch[used:])

    @property
    def ended(self) -> bool:
        return any(isinstance(event, ConnectionEnded) for event in self.events)

    def heard(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]


class Connections(RuleBasedStateMachine):
    """A client and a server."""

    @initialize()
    def begin(self) -> None:
        self.now = 0.0
        self.client, self.server = Side(Role.CLIENT), Side(Role.SERVER)
        self.lost = False
        self.accepted = self.refused = False

    def other(self, side: Side) -> Side:
        return self.server if side is self.client else self.client

    def sides(self, chosen: bool) -> Side:
        return self.client if chosen else self.server

    # -- the wire ---------------------------------------------------------------------------------

    @rule(client=st.booleans(), size=st.sampled_from([1 << 20, 1 << 20, 17, 5, 1]))
    def deliver(self, client: bool, size: int) -> None:
        """Some bytes of what this side wrote reach the other one."""
        side = self.sides(client)
        data, side.wire = side.wire[:size], side.wire[size:]
        if data and not self.lost:
            self.other(side).receive(data, self.now)

    @rule(seconds=st.sampled_from([0.001, 5.0, 19.0, 45.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        for side in (self.client, self.server):
            side.take(side.connection.handle_deadline(self.now))

    @precondition(lambda self: not self.lost)
    @rule(client=st.booleans())
    def lose(self, client: bool) -> None:
        """The socket breaks; one end is told, the other later by its own deadline."""
        side = self.sides(client)
        self.lost = True
        side.take(side.connection.lost("gone", "transport-lost"))

    # -- acts -------------------------------------------------------------------------------------

    @precondition(lambda self: self.client.connection.phase is IDLE)
    @rule()
    def introduce(self) -> None:
        self.client.connection.send_setup(SETUP, self.now)
        self.client.flush()

    @precondition(lambda self: self.server.connection.phase is JUDGING)
    @rule(good=st.booleans())
    def judge(self, good: bool) -> None:
        connection = self.server.connection
        self.accepted, self.refused = good, not good
        if good:
            self.server.take(connection.accept(self.now))
        else:
            self.server.take(connection.refuse(ErrorCode.REJECTED_SETUP, "FORBIDDEN: no"))

    @rule(client=st.booleans())
    def ask_for_a_sign(self, client: bool) -> None:
        side = self.sides(client)
        if side.connection.phase in RUNNING:
            side.connection.send_keepalive(self.now)
            side.flush()

    @rule(client=st.booleans())
    def push(self, client: bool) -> None:
        side = self.sides(client)
        if side.connection.phase in RUNNING:
            side.connection.send_metadata_push(b"%d" % side.sent_pushes)
            side.sent_pushes += 1
            side.flush()

    @rule()
    def request(self) -> None:
        """A request of the client, which need not wait for the verdict (C-29)."""
        client = self.client
        if client.connection.phase in RUNNING:
            frame = encode_request(REQUEST_FNF, 1 + 2 * client.sent_requests, None, b"")
            client.sent_requests += 1
            client.wire += b"".join(prefix_lengths([frame]))

    @rule(client=st.booleans(), orderly=st.booleans())
    def fail(self, client: bool, orderly: bool) -> None:
        side = self.sides(client)
        if side.connection.phase in RUNNING:
            side.end_text = "ended on purpose"
            code = ErrorCode.CONNECTION_CLOSE if orderly else ErrorCode.CONNECTION_ERROR
            side.take(side.connection.fail(code, side.end_text, "closed"))

    # -- laws -------------------------------------------------------------------------------------

    @invariant()
    def pushes_arrive_in_order_and_once(self) -> None:
        for side in (self.client, self.server):
            heard = [event.metadata for event in side.heard(MetadataPushed)]
            assert heard == [b"%d" % number for number in range(len(heard))]
            assert len(heard) <= self.other(side).sent_pushes

    @invariant()
    def no_answer_without_a_question(self) -> None:
        for side in (self.client, self.server):
            assert len(side.heard(KeepaliveAnswered)) <= side.asked
            assert self.server.seen_requests <= self.client.sent_requests

    @invariant()
    def the_server_serves_nobody_before_its_verdict(self) -> None:
        phase = self.server.connection.phase
        assert self.accepted or phase in (AWAIT_SETUP, JUDGING, CLOSED)
        assert len(self.server.heard(SetupArrived)) <= 1
        assert not (self.server.heard(MetadataPushed) and not self.accepted)

    @invariant()
    def a_refusal_is_what_the_client_was_told(self) -> None:
        for side in (self.client, self.server):
            ends = [event for event in side.events if isinstance(event, ConnectionEnded)]
            assert len(ends) <= 1
            assert bool(ends) == (side.connection.phase is CLOSED)
        for event in self.client.events:
            if isinstance(event, ConnectionEnded) and isinstance(event.error, SetupRefused):
                assert self.refused or not self.accepted  # by judgement, or by its time

    @invariant()
    def what_is_held_is_bounded(self) -> None:
        held = self.server.connection._held
        assert len(held) <= MAX_HELD_FRAMES + 1
        assert sum(map(len, held)) <= MAX_HELD_BYTES + (1 << 24)
        assert not self.client.connection._held

    def teardown(self) -> None:
        """Everything is delivered. Without an end, all is there; then both ends come to theirs."""
        if not hasattr(self, "client"):
            return
        if self.server.connection.phase is JUDGING:
            self.judge(True)
        for _ in range(4):
            self.deliver(True, 1 << 20)
            self.deliver(False, 1 << 20)
            if self.server.connection.phase is JUDGING:
                self.judge(True)
        sides = (self.client, self.server)
        if self.accepted and not self.lost and not any(side.ended for side in sides):
            for side in sides:
                assert len(side.heard(MetadataPushed)) == self.other(side).sent_pushes
                assert len(side.heard(KeepaliveAnswered)) == side.asked
                assert not side.heard(PeerClosing)
                assert not side.heard(Ignored), side.events
            assert self.server.seen_requests == self.client.sent_requests
        if self.client.connection.phase is IDLE:
            return  # a client that never began has no deadline
        self.lost = True
        for side in sides:
            side.wire = b""
        for _ in range(40):
            self.now += 61.0
            for side in sides:
                side.take(side.connection.handle_deadline(self.now))
        assert self.client.ended
        assert self.server.ended


Connections.TestCase.settings = settings(
    max_examples=120, stateful_step_count=40, derandomize=True, database=None
)
TestConnections = Connections.TestCase
