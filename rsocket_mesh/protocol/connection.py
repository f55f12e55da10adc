"""Stream 0 of one connection: SETUP, KEEPALIVE, METADATA_PUSH, LEASE, ERROR and the deadlines.

Sans-IO, for both roles: frames, our own acts and `now` in; events, frames and one deadline out. It
owns no socket, no clock and no task, and it knows nothing of streams, except that until it is OPEN
the shell shows it *every* frame: a server serves nobody before a SETUP that was accepted, and a
client is established by the first frame of a stream.

    server  AWAIT_SETUP -SETUP-> JUDGING -accept-> OPEN -CONNECTION_CLOSE-> DRAINING -> CLOSED
    client  IDLE -send_setup-> SETTING_UP -lease, stream frame-> OPEN -(as above)-> CLOSED

Nothing that a peer sends raises, and nothing is lost: events in front of a bad frame were returned
before it. Times are seconds of the caller's monotonic clock.
Source: RSocket Protocol 1.0, "Connection Establishment", "Keepalive Frame", "Error Frame",
"Handling the Unexpected".
"""

# ruff: noqa: SLF001 - the table below the class names its private effects

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from rsocket_mesh.errors import (
    ConnectionClosed,
    ErrorCode,
    LocalProtocolError,
    RemoteProtocolError,
    RSocketError,
    SetupRefused,
)
from rsocket_mesh.protocol import frames
from rsocket_mesh.protocol.events import (
    ConnectionEnded,
    Event,
    Ignored,
    KeepaliveAnswered,
    LeaseArrived,
    MetadataPushed,
    PeerClosing,
    ResumeArrived,
    SetupArrived,
    TransportSilent,
)
from rsocket_mesh.protocol.frames import FLAG_IGNORE, TYPE_NAMES, VERSION, FrameType, Lease, Setup
from rsocket_mesh.protocol.phases import Phase, Role

SETUP_TIMEOUT: Final = 10.0  # s from the transport to an accepted SETUP; idle sockets cost memory
MIN_LIFETIME: Final = 1.0  # s; less would call a peer dead for one pause of its garbage collector
MAX_LIFETIME: Final = 600.0  # s; the default of rsocket-py, the most patient of the libraries
DRAIN_TIMEOUT: Final = 30.0  # s from the peer's CONNECTION_CLOSE until we stop waiting for its end
MAX_KEEPALIVE_DATA: Final = 65_536  # bytes that we echo; libraries send none (C-54)
MAX_HELD_FRAMES: Final = 64  # frames of stream 0 kept while a SETUP is being judged
MAX_HELD_BYTES: Final = 262_144  # bytes of these

IDLE, SETTING_UP, AWAIT_SETUP, JUDGING, OPEN, DRAINING, CLOSED = Phase  # 8 ns, `Phase.OPEN` 56

STREAM_FRAME: Final = -1  # stands in the table for any frame with a stream id above 0
UNKNOWN: Final = -2  # stands in the table for every type that has no name


class Connection:
    """One end of one connection.

    Attributes:
        phase: see `Phase`; read only.
        lifetime: seconds of silence after which the peer is dead; known after SETUP.
    """

    def __init__(
        self,
        role: Role,
        *,
        now: float,
        setup_timeout: float = SETUP_TIMEOUT,
        min_lifetime: float = MIN_LIFETIME,
        max_lifetime: float = MAX_LIFETIME,
        lease: bool = False,
        resume: bool = False,
    ) -> None:
        """Begin with an open transport and nothing sent.

        Args:
            setup_timeout: server: seconds from now to an accepted SETUP.
            min_lifetime, max_lifetime: server: bounds in seconds for what a SETUP asks for.
            lease: server: a SETUP may ask for leases (L); else that is UNSUPPORTED_SETUP.
            resume: server: sessions may outlive their transport, if their SETUP asks for it.
        """
        self.role = role
        self.phase = AWAIT_SETUP if role is Role.SERVER else IDLE
        self.lifetime = max_lifetime
        self._min_lifetime = min_lifetime
        self._setup_deadline = now + setup_timeout
        self._setup_timeout = setup_timeout
        self._heard_at = now
        self._keepalive_interval = 0.0
        self._next_keepalive = now
        self._drain_deadline = now
        self._takes_lease = lease
        self._leases = False  # negotiated: both sides send LEASE (C-112)
        self._resume = resume
        self._resumable = False  # whether this session was made so by its SETUP
        self._suspended_until: float | None = None
        self._held: list[bytes] = []
        self._outgoing: list[bytes] = []

    # -- the peer's frames ------------------------------------------------------------------------

    def receive_frame(self, frame: bytes, now: float) -> list[Event]:
        """Take one whole frame of stream 0, or any frame while `phase` is not OPEN or DRAINING.

        Return its events in order; then call `frames_to_send`. A frame of a stream is only looked
        at: what it means for its stream is the shell's business, if the phase is OPEN afterwards.
        """
        if self.phase is CLOSED:
            return []
        self._heard_at = now
        flags = 0
        try:
            stream_id, kind, flags = frames.peek(frame)
            if stream_id:
                kind = STREAM_FRAME
            elif kind not in TYPE_NAMES:
                kind = UNKNOWN
            phase = self.phase
            effect, following = RULES.get((phase, kind)) or UNEXPECTED[phase]
            events = effect(self, frame, flags, now)
            if self.phase is phase:  # an effect that ended the connection has the last word
                self.phase = following
            return events
        except RemoteProtocolError as exc:
            if flags & FLAG_IGNORE and self.phase is not AWAIT_SETUP:
                return [Ignored("malformed frame with the ignore flag")]
            return self._violated(exc)

    def heard(self, now: float) -> None:
        """Note a sign of life; any frame is one. Call it once per batch."""
        self._heard_at = now

    def _violated(self, exc: RemoteProtocolError) -> list[Event]:
        if self.phase is AWAIT_SETUP:
            return self.fail(ErrorCode.INVALID_SETUP, str(exc), "invalid-setup")
        return self.fail(exc.code, str(exc), "protocol-error")

    # -- our own acts -----------------------------------------------------------------------------

    def send_setup(self, setup: Setup, now: float) -> None:
        """Client: introduce ourselves. Requests may follow at once (C-29).

        Raises:
            LocalProtocolError: not a client, SETUP was sent already, or *setup* can't be encoded.
        """
        if self.phase is not IDLE:
            raise LocalProtocolError(f"SETUP in phase {self.phase.name}; it comes first, and once")
        self._outgoing.append(frames.encode_setup(setup))
        self.phase = SETTING_UP
        self.lifetime = setup.lifetime_ms / 1000
        self._keepalive_interval = setup.keepalive_ms / 1000
        self._next_keepalive = now + self._keepalive_interval
        self._heard_at = now
        self._leases = setup.lease
        self._resumable = setup.resume_token is not None

    def send_keepalive(self, now: float) -> None:
        """Ask the peer for a sign of life; right behind SETUP this asks for its verdict too."""
        if self.phase in (IDLE, AWAIT_SETUP, JUDGING, CLOSED):
            raise LocalProtocolError(f"KEEPALIVE is not allowed in phase {self.phase.name}")
        self._outgoing.append(frames.encode_keepalive(respond=True))
        self._next_keepalive = now + self._keepalive_interval

    def send_metadata_push(self, metadata: bytes) -> None:
        """Send *metadata* about the connection as a whole; it is never answered.

        Raises:
            LocalProtocolError: the connection is not established, or *metadata* exceeds a frame.
        """
        if self.phase not in (SETTING_UP, OPEN, DRAINING):
            raise LocalProtocolError(f"METADATA_PUSH is not allowed in phase {self.phase.name}")
        self._outgoing.append(frames.encode_metadata_push(metadata))

    def send_lease(self, lease: Lease) -> None:
        """Let the peer send requests; what it had left is replaced.

        Raises:
            LocalProtocolError: not negotiated, the connection is not established, or bad numbers.
        """
        if not self._leases or self.phase not in (SETTING_UP, OPEN, DRAINING):
            text = "as negotiated" if self._leases else "without L in SETUP"
            raise LocalProtocolError(f"LEASE is not allowed in phase {self.phase.name} {text}")
        self._outgoing.append(frames.encode_lease(lease))

    def accept(self, now: float) -> list[Event]:
        """Server: the SETUP is good. Nothing is sent for it (C-29).

        Return the events of the frames of stream 0 that came meanwhile.
        """
        if self.phase is not JUDGING:
            raise LocalProtocolError(f"no SETUP to accept in phase {self.phase.name}")
        self.phase = OPEN
        held, self._held = self._held, []
        events: list[Event] = []
        for frame in held:
            events += self.receive_frame(frame, now)
        return events

    def refuse(self, code: int, text: str) -> list[Event]:
        """Server: the SETUP (or RESUME) is not good; ERROR with one of their codes, and the end."""
        if self.phase is not JUDGING:
            raise LocalProtocolError(f"no SETUP to refuse in phase {self.phase.name}")
        return self.fail(code, text, "setup-refused")

    def fail(self, code: int, text: str, reason: str) -> list[Event]:
        """End the connection ourselves: queue the ERROR and close.

        Args:
            code: of stream 0; CONNECTION_CLOSE for an orderly end.
            reason: a short stable word for operators.
        """
        if self.phase is CLOSED:
            return []
        if self.phase is not IDLE:
            self._outgoing.append(frames.encode_error(0, code, text))
        return self._end(reason, ConnectionClosed(text, reason))

    def lost(self, text: str, reason: str) -> list[Event]:
        """The transport has ended; nothing can be sent any more."""
        self._outgoing.clear()
        return [] if self.phase is CLOSED else self._end(reason, ConnectionClosed(text, reason))

    def suspend(self, until: float) -> None:
        """The transport is lost and the session waits for another one, at most *until* then."""
        self._suspended_until = until

    def resume(self, now: float) -> None:
        """There is a transport again: the peer has a whole lifetime for its next sign of life."""
        self._suspended_until = None
        self._heard_at = now
        self._next_keepalive = now + self._keepalive_interval

    def frames_to_send(self) -> list[bytes]:
        """Return, once, the frames that wait; they go before those of streams."""
        outgoing, self._outgoing = self._outgoing, []
        return outgoing

    # -- time -------------------------------------------------------------------------------------

    def next_deadline(self) -> float | None:
        """Return when to call `handle_deadline`; None if never."""
        if self.phase is CLOSED or self.phase is IDLE:
            return None
        if self.phase is AWAIT_SETUP or self.phase is JUDGING:
            return self._setup_deadline
        if self._suspended_until is not None:
            return self._suspended_until
        deadline = self._heard_at + self.lifetime
        if self._keepalive_interval:
            deadline = min(deadline, self._next_keepalive)
        if self.phase is DRAINING:
            deadline = min(deadline, self._drain_deadline)
        return deadline

    def handle_deadline(self, now: float) -> list[Event]:
        """Do what is due at *now*; too early is harmless. Then call `frames_to_send`."""
        deadline = self.next_deadline()
        if deadline is None or now < deadline:
            return []
        if self.phase is AWAIT_SETUP:
            text = f"no SETUP within {self._setup_timeout:g} s"
            return self.fail(ErrorCode.INVALID_SETUP, text, "setup-timeout")
        if self.phase is JUDGING:
            text = f"no verdict on the SETUP within {self._setup_timeout:g} s"
            return self.fail(ErrorCode.REJECTED_SETUP, text, "setup-timeout")
        if self._suspended_until is not None:
            return self.lost("the session was not resumed in its time", "resume-timeout")
        if now >= self._heard_at + self.lifetime:
            text = f"nothing heard for {self.lifetime:g} s"
            if self._resumable:
                self._heard_at = now  # said once
                return [TransportSilent(ConnectionClosed(text, "keepalive-timeout"))]
            return self.fail(ErrorCode.CONNECTION_ERROR, text, "keepalive-timeout")
        if self.phase is DRAINING and now >= self._drain_deadline:
            text = f"still open {DRAIN_TIMEOUT:g} s after CONNECTION_CLOSE"
            return self.fail(ErrorCode.CONNECTION_CLOSE, text, "peer-closing")
        self.send_keepalive(now)
        return []

    # -- effects of the table ---------------------------------------------------------------------

    def _end(self, reason: str, error: RSocketError) -> list[Event]:
        self.phase = CLOSED
        self._held.clear()
        return [ConnectionEnded(reason, error)]

    def _ignore(self, frame: bytes, flags: int, now: float) -> list[Event]:
        stream_id, kind, _ = frames.peek(frame)
        name = TYPE_NAMES.get(kind, "unknown type")
        return [Ignored(f"{name} on stream {'n' if stream_id else '0'}")]

    def _pass(self, frame: bytes, flags: int, now: float) -> list[Event]:
        return []

    def _read_setup(self, frame: bytes, flags: int, now: float) -> list[Event]:
        setup = frames.decode_setup(frame)
        if (setup.major, setup.minor) != VERSION:
            text = f"protocol version {setup.major}.{setup.minor} is not supported, 1.0 is"
            return self.fail(ErrorCode.INVALID_SETUP, text, "invalid-setup")
        token = setup.resume_token
        if token is not None and not self._resume:
            text = "resume is not supported; connect without a resume token"
            return self.fail(ErrorCode.REJECTED_SETUP, text, "unsupported-setup")
        self._resumable = token is not None
        if setup.lease and not self._takes_lease:
            text = "lease is not supported; connect without the lease flag"
            return self.fail(ErrorCode.UNSUPPORTED_SETUP, text, "unsupported-setup")
        self._leases = setup.lease
        self.lifetime = max(self._min_lifetime, min(setup.lifetime_ms / 1000, self.lifetime))
        return [SetupArrived(setup)]

    def _refuse_first(self, frame: bytes, flags: int, now: float) -> list[Event]:
        text = f"the first frame must be SETUP on stream 0, not {frames.describe(frame)}"
        return self.fail(ErrorCode.INVALID_SETUP, text, "invalid-setup")

    def _read_resume(self, frame: bytes, flags: int, now: float) -> list[Event]:
        if self._resume:
            return [ResumeArrived(frames.decode_resume(frame))]
        text = "resume is not supported; begin a new session"
        return self.fail(ErrorCode.REJECTED_RESUME, text, "resume-rejected")

    def _late_resume(self, frame: bytes, flags: int, now: float) -> list[Event]:
        if self.role is Role.CLIENT:
            return self._ignore(frame, flags, now)
        text = "RESUME after SETUP"
        return self.fail(ErrorCode.CONNECTION_ERROR, text, "protocol-error")

    def _hold(self, frame: bytes, flags: int, now: float) -> list[Event]:
        """Keep a frame of stream 0 until the verdict: a KEEPALIVE is answered only after it."""
        self._held.append(frame)
        size = sum(map(len, self._held))
        if len(self._held) > MAX_HELD_FRAMES or size > MAX_HELD_BYTES:
            text = f"{len(self._held)} frames of {size} bytes on stream 0 before the verdict"
            return self.fail(ErrorCode.REJECTED_SETUP, text, "protocol-error")
        return []

    def _keepalive(self, frame: bytes, flags: int, now: float) -> list[Event]:
        keepalive = frames.decode_keepalive(frame)
        if not keepalive.respond:
            return [KeepaliveAnswered(keepalive.data)]
        if len(keepalive.data) > MAX_KEEPALIVE_DATA:
            text = f"KEEPALIVE data of {len(keepalive.data)} bytes exceeds {MAX_KEEPALIVE_DATA}"
            return self.fail(ErrorCode.CONNECTION_ERROR, text, "protocol-error")
        # Position 0: where sessions are resumable, the layer below fills in ours (C-50, C-53).
        self._outgoing.append(frames.encode_keepalive(respond=False, data=keepalive.data))
        return []

    def _metadata_push(self, frame: bytes, flags: int, now: float) -> list[Event]:
        return [MetadataPushed(frames.decode_metadata_push(frame))]

    def _lease(self, frame: bytes, flags: int, now: float) -> list[Event]:
        if not self._leases:  # not negotiated (C-112)
            return self._ignore(frame, flags, now)
        return [LeaseArrived(frames.decode_lease(frame))]

    def _setup_refused(self, frame: bytes, flags: int, now: float) -> list[Event]:
        error = frames.decode_error(frame)
        if error.code in SETUP_CODES:
            return self._end("setup-refused", SetupRefused(error.code, error.text))
        return self._end("peer-error", _from_peer(error))

    def _error(self, frame: bytes, flags: int, now: float) -> list[Event]:
        error = frames.decode_error(frame)
        if error.code in SETUP_CODES:  # their time is over (C-39, C-40)
            return [Ignored(f"ERROR {error.code:#05x} after establishment")]
        if error.code != ErrorCode.CONNECTION_CLOSE:  # unknown codes count as CONNECTION_ERROR
            return self._end("peer-error", _from_peer(error))
        if self.phase is DRAINING:
            return [Ignored("second CONNECTION_CLOSE")]
        self.phase = DRAINING
        self._drain_deadline = now + DRAIN_TIMEOUT
        return [PeerClosing(error.text)]

    def _unknown(self, frame: bytes, flags: int, now: float) -> list[Event]:
        if flags & FLAG_IGNORE:
            return [Ignored("unknown frame type with the ignore flag")]
        text = f"{frames.describe(frame)} is not understood and must not be ignored"
        return self.fail(ErrorCode.CONNECTION_ERROR, text, "protocol-error")


SETUP_CODES: Final = frozenset(
    (
        ErrorCode.INVALID_SETUP,
        ErrorCode.UNSUPPORTED_SETUP,
        ErrorCode.REJECTED_SETUP,
        ErrorCode.REJECTED_RESUME,
    )
)


def _from_peer(error: frames.Error) -> ConnectionClosed:
    return ConnectionClosed(f"the peer ended the connection: {error.text}", "peer-error")


_Rule = tuple[Callable[[Connection, bytes, int, float], list[Event]], Phase]

# (phase, type on stream 0) -> (effect, next phase). The table is the law; besides it only our own
# acts, `_end` and CONNECTION_CLOSE (which is a code, not a type) set the phase.
RULES: Final[dict[tuple[Phase, int], _Rule]] = {
    (AWAIT_SETUP, FrameType.SETUP): (Connection._read_setup, JUDGING),
    (AWAIT_SETUP, FrameType.RESUME): (Connection._read_resume, JUDGING),
    (JUDGING, FrameType.SETUP): (Connection._ignore, JUDGING),  # a second one (C-37)
    (JUDGING, STREAM_FRAME): (Connection._pass, JUDGING),  # the shell keeps it (C-30)
    (SETTING_UP, FrameType.KEEPALIVE): (Connection._keepalive, SETTING_UP),  # java: before verdict
    (SETTING_UP, FrameType.METADATA_PUSH): (Connection._metadata_push, SETTING_UP),
    (SETTING_UP, FrameType.LEASE): (Connection._lease, OPEN),
    (SETTING_UP, FrameType.ERROR): (Connection._setup_refused, CLOSED),
    (SETTING_UP, FrameType.EXT): (Connection._unknown, SETTING_UP),
    (SETTING_UP, UNKNOWN): (Connection._unknown, SETTING_UP),
    (SETTING_UP, STREAM_FRAME): (Connection._pass, OPEN),
    (OPEN, FrameType.KEEPALIVE): (Connection._keepalive, OPEN),
    (OPEN, FrameType.METADATA_PUSH): (Connection._metadata_push, OPEN),
    (OPEN, FrameType.LEASE): (Connection._lease, OPEN),
    (OPEN, FrameType.ERROR): (Connection._error, OPEN),
    (OPEN, FrameType.RESUME): (Connection._late_resume, OPEN),
    (OPEN, FrameType.EXT): (Connection._unknown, OPEN),
    (OPEN, UNKNOWN): (Connection._unknown, OPEN),
    (OPEN, STREAM_FRAME): (Connection._pass, OPEN),
    (DRAINING, FrameType.KEEPALIVE): (Connection._keepalive, DRAINING),
    (DRAINING, FrameType.METADATA_PUSH): (Connection._metadata_push, DRAINING),
    (DRAINING, FrameType.LEASE): (Connection._lease, DRAINING),
    (DRAINING, FrameType.ERROR): (Connection._error, DRAINING),
    (DRAINING, FrameType.RESUME): (Connection._late_resume, DRAINING),
    (DRAINING, FrameType.EXT): (Connection._unknown, DRAINING),
    (DRAINING, UNKNOWN): (Connection._unknown, DRAINING),
    (DRAINING, STREAM_FRAME): (Connection._pass, DRAINING),
}
UNEXPECTED: Final[dict[Phase, _Rule]] = {
    IDLE: (Connection._ignore, IDLE),  # nothing was asked for yet
    SETTING_UP: (Connection._ignore, SETTING_UP),  # "Handling the Unexpected"
    AWAIT_SETUP: (Connection._refuse_first, CLOSED),  # "Connection Establishment", the strict case
    JUDGING: (Connection._hold, JUDGING),
    OPEN: (Connection._ignore, OPEN),
    DRAINING: (Connection._ignore, DRAINING),
}
