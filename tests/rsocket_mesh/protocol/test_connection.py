"""Stream 0 for both roles: the table pair by pair, then establishment, keepalive and the end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsocket_mesh.errors import ConnectionClosed, ErrorCode, LocalProtocolError, SetupRefused
from rsocket_mesh.protocol import frames
from rsocket_mesh.protocol.connection import (
    DRAIN_TIMEOUT,
    MAX_KEEPALIVE_DATA,
    RULES,
    STREAM_FRAME,
    UNEXPECTED,
    UNKNOWN,
    Connection,
)
from rsocket_mesh.protocol.events import (
    ConnectionEnded,
    Ignored,
    KeepaliveAnswered,
    LeaseArrived,
    MetadataPushed,
    PeerClosing,
    SetupArrived,
)
from rsocket_mesh.protocol.frames import (
    FLAG_IGNORE,
    FLAG_RESPOND,
    FrameType,
    Lease,
    Resume,
    Setup,
    peek,
)
from rsocket_mesh.protocol.phases import Phase, Role

SETUP = Setup(20_000, 90_000, "message/x.rsocket.composite-metadata.v0", "application/cbor")
REQUEST = frames.encode_request(frames.REQUEST_RESPONSE, 1, None, b"x")
SAMPLES = {
    FrameType.SETUP: frames.encode_setup(SETUP),
    FrameType.LEASE: frames.encode_lease(Lease(1000, 10)),
    FrameType.KEEPALIVE: frames.encode_keepalive(respond=True, data=b"k"),
    FrameType.REQUEST_RESPONSE: frames.HEADER.pack(0, frames.REQUEST_RESPONSE << 10),
    FrameType.REQUEST_FNF: frames.HEADER.pack(0, frames.REQUEST_FNF << 10),
    FrameType.REQUEST_STREAM: frames.HEADER.pack(0, frames.REQUEST_STREAM << 10) + b"\0\0\0\1",
    FrameType.REQUEST_CHANNEL: frames.HEADER.pack(0, frames.REQUEST_CHANNEL << 10) + b"\0\0\0\1",
    FrameType.REQUEST_N: frames.encode_request_n(0, 1),
    FrameType.CANCEL: frames.encode_cancel(0),
    FrameType.PAYLOAD: frames.encode_payload(0, None, b"x"),
    FrameType.ERROR: frames.encode_error(0, ErrorCode.CONNECTION_ERROR, "no"),
    FrameType.METADATA_PUSH: frames.encode_metadata_push(b"m"),
    FrameType.RESUME: frames.encode_resume(Resume(b"t", 0, 0)),
    FrameType.RESUME_OK: frames.encode_resume_ok(0),
    FrameType.EXT: frames.encode_ext(frames.Ext(0, 1, None, b"", ignore=True)),
    UNKNOWN: frames.HEADER.pack(0, 0x0F << 10 | FLAG_IGNORE),
    STREAM_FRAME: REQUEST,
}


def a_server(**changes):
    return Connection(Role.SERVER, now=0.0, **changes)


def a_client(setup=SETUP):
    connection = Connection(Role.CLIENT, now=0.0)
    connection.send_setup(setup, 0.0)
    connection.frames_to_send()
    return connection


def in_phase(role, phase):
    """A connection of *role* that came to *phase* by legal steps."""
    connection = Connection(role, now=0.0)
    if role is Role.CLIENT:
        if phase is not Phase.IDLE:
            connection.send_setup(SETUP, 0.0)
        if phase not in (Phase.IDLE, Phase.SETTING_UP):
            connection.receive_frame(REQUEST, 0.0)
    elif phase is not Phase.AWAIT_SETUP:
        connection.receive_frame(SAMPLES[FrameType.SETUP], 0.0)
        if phase is not Phase.JUDGING:
            connection.accept(0.0)
    if phase is Phase.DRAINING:
        close = frames.encode_error(0, ErrorCode.CONNECTION_CLOSE, "bye")
        connection.receive_frame(close, 0.0)
    if phase is Phase.CLOSED:
        connection.fail(ErrorCode.CONNECTION_CLOSE, "over", "closed")
    connection.frames_to_send()
    assert connection.phase is phase
    return connection


def an_open(role=Role.SERVER):
    return in_phase(role, Phase.OPEN)


def errors_sent(connection):
    return [
        frames.decode_error(frame)
        for frame in connection.frames_to_send()
        if peek(frame)[1] == frames.ERROR
    ]


def codes_sent(connection):
    return [error.code for error in errors_sent(connection)]


def ended(events):
    return [event.reason for event in events if isinstance(event, ConnectionEnded)]


# -- the table ------------------------------------------------------------------------------------

PHASES = {
    Role.CLIENT: [Phase.IDLE, Phase.SETTING_UP, Phase.OPEN, Phase.DRAINING, Phase.CLOSED],
    Role.SERVER: [Phase.AWAIT_SETUP, Phase.JUDGING, Phase.OPEN, Phase.DRAINING, Phase.CLOSED],
}
ENDS_IT = {  # pairs whose effect depends on more than the type; the samples end the connection
    (Role.SERVER, FrameType.RESUME),
    (Role.SERVER, FrameType.ERROR),
    (Role.CLIENT, FrameType.ERROR),
}


@pytest.mark.parametrize(
    ("role", "phase", "kind"),
    [
        pytest.param(role, phase, kind, id=f"{role.name}-{phase.name}-{kind}")
        for role, phases in PHASES.items()
        for phase in phases
        for kind in SAMPLES
    ],
)
def test_each_frame_leads_where_its_row_says(role, phase, kind):
    connection = in_phase(role, phase)
    events = connection.receive_frame(SAMPLES[kind], 1.0)
    if phase is Phase.CLOSED:
        assert events == []
        assert connection.frames_to_send() == []
        return
    _, following = RULES.get((phase, kind)) or UNEXPECTED[phase]
    if phase in (Phase.AWAIT_SETUP, Phase.OPEN, Phase.DRAINING) and (role, kind) in ENDS_IT:
        following = Phase.CLOSED
    assert connection.phase is following
    assert bool(ended(events)) == (following is Phase.CLOSED)


@given(
    role=st.sampled_from(Role),
    received=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 0xFFFF), st.binary(max_size=30))),
)
def test_nothing_a_peer_sends_raises_and_the_end_comes_once(role, received):
    """C-13: also for what nobody understands."""
    connection = in_phase(role, Phase.OPEN)
    ends = 0
    for stream_id, word, body in received:
        events = connection.receive_frame(frames.HEADER.pack(stream_id, word) + body, 1.0)
        ends += len(ended(events))
    assert ends == (connection.phase is Phase.CLOSED)
    assert ends <= 1


@given(st.binary(max_size=40))
def test_whatever_comes_first_a_server_serves_only_behind_a_setup(frame):
    connection = a_server()
    events = connection.receive_frame(frame, 0.0)
    if connection.phase is Phase.JUDGING:
        assert isinstance(events[0], SetupArrived)
    else:
        assert connection.phase is Phase.CLOSED
        assert codes_sent(connection)[0] < 0x100


# -- establishment, server ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame",
    [SAMPLES[kind] for kind in SAMPLES if kind not in (FrameType.SETUP, FrameType.RESUME)],
    ids=frames.describe,
)
def test_any_other_first_frame_is_refused(frame):
    """C-26, C-27 and b01: no request is served before SETUP."""
    connection = a_server()
    assert ended(connection.receive_frame(frame, 0.0)) == ["invalid-setup"]
    assert codes_sent(connection) == [ErrorCode.INVALID_SETUP]


@pytest.mark.parametrize("kind", [FrameType.SETUP, FrameType.RESUME])
def test_a_setup_on_a_stream_is_refused(kind):
    """C-28."""
    connection = a_server()
    connection.receive_frame(frames.restamp(SAMPLES[kind], 1), 0.0)
    assert codes_sent(connection) == [ErrorCode.INVALID_SETUP]


def test_nothing_is_sent_for_a_setup_that_was_accepted():
    """C-29."""
    connection = a_server()
    connection.receive_frame(SAMPLES[FrameType.SETUP], 0.0)
    assert connection.accept(0.0) == []
    assert connection.frames_to_send() == []
    assert connection.phase is Phase.OPEN


def test_what_came_behind_the_setup_is_done_after_the_verdict_in_order():
    """C-30: the KEEPALIVE that asks for the verdict is answered only then."""
    connection = in_phase(Role.SERVER, Phase.JUDGING)
    assert connection.receive_frame(SAMPLES[FrameType.KEEPALIVE], 0.0) == []
    assert connection.receive_frame(REQUEST, 0.0) == []  # kept by the shell
    assert connection.receive_frame(SAMPLES[FrameType.METADATA_PUSH], 0.0) == []
    assert connection.frames_to_send() == []
    assert connection.accept(0.0) == [MetadataPushed(b"m")]
    assert [peek(frame)[1] for frame in connection.frames_to_send()] == [frames.KEEPALIVE]


def test_nothing_behind_a_refused_setup_has_an_effect():
    """C-31."""
    connection = in_phase(Role.SERVER, Phase.JUDGING)
    connection.receive_frame(SAMPLES[FrameType.METADATA_PUSH], 0.0)
    connection.refuse(ErrorCode.REJECTED_SETUP, "no")
    assert connection.receive_frame(SAMPLES[FrameType.METADATA_PUSH], 0.0) == []
    assert connection.receive_frame(REQUEST, 0.0) == []


@pytest.mark.parametrize(
    "code", [ErrorCode.INVALID_SETUP, ErrorCode.UNSUPPORTED_SETUP, ErrorCode.REJECTED_SETUP]
)
def test_a_refused_setup_is_answered_and_the_connection_closed(code):
    """C-32 and b02."""
    connection = in_phase(Role.SERVER, Phase.JUDGING)
    assert ended(connection.refuse(code, "FORBIDDEN: no")) == ["setup-refused"]
    assert errors_sent(connection) == [frames.Error(0, code, "FORBIDDEN: no")]
    assert connection.phase is Phase.CLOSED
    assert connection.next_deadline() is None


@pytest.mark.parametrize("at", [10, 14])
def test_a_keepalive_time_of_zero_is_refused(at):
    """C-33 and b17."""
    setup = bytearray(SAMPLES[FrameType.SETUP])
    setup[at : at + 4] = bytes(4)
    connection = a_server()
    connection.receive_frame(bytes(setup), 0.0)
    assert codes_sent(connection) == [ErrorCode.INVALID_SETUP]


@pytest.mark.parametrize("version", [(0, 0), (1, 1), (2, 0), (9, 9)])
def test_another_version_is_refused(version):
    """C-34 and b17."""
    connection = a_server()
    setup = SETUP._replace(major=version[0], minor=version[1])
    connection.receive_frame(frames.encode_setup(setup), 0.0)
    (error,) = errors_sent(connection)
    assert error.code == ErrorCode.INVALID_SETUP
    assert f"{version[0]}.{version[1]}" in error.text


@given(st.integers(6, len(SAMPLES[FrameType.SETUP]) - 1))
def test_a_setup_that_is_cut_short_is_refused(size):
    """C-35: lengths beyond the end of the frame; C-16 during setup."""
    connection = a_server()
    connection.receive_frame(SAMPLES[FrameType.SETUP][:size], 0.0)
    assert codes_sent(connection) == [ErrorCode.INVALID_SETUP]


def test_a_setup_that_wants_resume_is_refused():
    """C-36."""
    connection = a_server()
    connection.receive_frame(frames.encode_setup(SETUP._replace(resume_token=b"token")), 0.0)
    assert codes_sent(connection) == [ErrorCode.REJECTED_SETUP]


def test_a_setup_that_wants_leases_is_refused():
    connection = a_server()
    connection.receive_frame(frames.encode_setup(SETUP._replace(lease=True)), 0.0)
    assert codes_sent(connection) == [ErrorCode.UNSUPPORTED_SETUP]


def test_a_resume_is_refused():
    """C-117, as long as nothing can be resumed."""
    connection = a_server()
    connection.receive_frame(SAMPLES[FrameType.RESUME], 0.0)
    assert codes_sent(connection) == [ErrorCode.REJECTED_RESUME]


@pytest.mark.parametrize("phase", [Phase.JUDGING, Phase.OPEN])
def test_a_second_setup_is_ignored(phase):
    """C-37."""
    connection = in_phase(Role.SERVER, phase)
    other = SETUP._replace(lifetime_ms=1000)
    events = connection.receive_frame(frames.encode_setup(other), 0.0)
    assert events == [Ignored("SETUP on stream 0")]
    assert connection.lifetime == 90.0
    assert connection.frames_to_send() == []


def test_a_client_ignores_a_setup():
    """C-38."""
    for phase in (Phase.SETTING_UP, Phase.OPEN):
        connection = in_phase(Role.CLIENT, phase)
        events = connection.receive_frame(SAMPLES[FrameType.SETUP], 0.0)
        assert events == [Ignored("SETUP on stream 0")]


@pytest.mark.parametrize("code", [1, 2, 3, 4])
@pytest.mark.parametrize("role", Role)
def test_setup_errors_are_ignored_once_established(role, code):
    """C-39 for a server, C-40 for a client."""
    connection = an_open(role)
    events = connection.receive_frame(frames.encode_error(0, code, "late"), 0.0)
    assert [type(event) for event in events] == [Ignored]
    assert connection.phase is Phase.OPEN


def test_a_transport_without_a_setup_is_closed_at_the_deadline_and_not_before():
    """C-42."""
    connection = a_server(setup_timeout=10.0)
    assert connection.next_deadline() == 10.0
    assert connection.handle_deadline(9.9) == []
    assert ended(connection.handle_deadline(10.0)) == ["setup-timeout"]
    assert "10 s" in errors_sent(connection)[0].text


def test_a_setup_without_a_verdict_is_refused_at_the_deadline():
    connection = in_phase(Role.SERVER, Phase.JUDGING)
    connection.heard(9.0)
    assert ended(connection.handle_deadline(10.0)) == ["setup-timeout"]
    assert codes_sent(connection) == [ErrorCode.REJECTED_SETUP]


def test_the_setup_reaches_the_acceptor_as_it_was_sent():
    """C-43."""
    setup = SETUP._replace(metadata=b"\x00meta", data=b"data\xff", metadata_mime="a/b")
    events = a_server().receive_frame(frames.encode_setup(setup), 0.0)
    assert events == [SetupArrived(setup)]


def test_what_is_held_for_the_verdict_is_bounded():
    for size, count in ((1, 65), (100_000, 3)):
        connection = in_phase(Role.SERVER, Phase.JUDGING)
        frame = frames.encode_metadata_push(bytes(size))
        events = []
        for _ in range(count):
            assert events == []
            events = connection.receive_frame(frame, 0.0)
        assert ended(events) == ["protocol-error"]


@pytest.mark.parametrize(("asked", "given"), [(1, 5.0), (30_000, 30.0), (0x7FFF_FFFF, 60.0)])
def test_the_lifetime_asked_for_is_clamped(asked, given):
    connection = a_server(min_lifetime=5.0, max_lifetime=60.0)
    setup = SETUP._replace(lifetime_ms=asked)
    connection.receive_frame(frames.encode_setup(setup), 0.0)
    connection.accept(0.0)
    assert connection.lifetime == given
    assert connection.next_deadline() == given


# -- establishment, client ------------------------------------------------------------------------


def test_a_client_introduces_itself_first():
    """C-26."""
    connection = Connection(Role.CLIENT, now=0.0)
    with pytest.raises(LocalProtocolError, match="KEEPALIVE"):
        connection.send_keepalive(0.0)
    connection.send_setup(SETUP, 0.0)
    connection.send_keepalive(0.0)
    setup, keepalive = connection.frames_to_send()
    assert frames.decode_setup(setup) == SETUP
    assert peek(keepalive)[1:] == (frames.KEEPALIVE, FLAG_RESPOND)
    with pytest.raises(LocalProtocolError, match="once"):
        connection.send_setup(SETUP, 0.0)


@pytest.mark.parametrize("code", [1, 2, 3, 4])
def test_a_refused_client_learns_it(code):
    """C-41."""
    connection = a_client()
    (event,) = connection.receive_frame(frames.encode_error(0, code, "FORBIDDEN: no"), 0.0)
    assert isinstance(event.error, SetupRefused)
    assert (event.error.code, event.error.token) == (code, "FORBIDDEN")
    assert connection.frames_to_send() == []


def test_a_connection_error_before_establishment_fails_the_connect():
    """C-41."""
    (event,) = a_client().receive_frame(SAMPLES[FrameType.ERROR], 0.0)
    assert event.reason == "peer-error"


def test_a_keepalive_does_not_prove_acceptance_but_a_frame_of_a_stream_does():
    """Java answers KEEPALIVE while its acceptor is still thinking."""
    connection = a_client()
    connection.receive_frame(frames.encode_keepalive(respond=False), 0.0)
    assert connection.phase is Phase.SETTING_UP
    connection.receive_frame(REQUEST, 0.0)
    assert connection.phase is Phase.OPEN


# -- errors and the unexpected --------------------------------------------------------------------


@pytest.mark.parametrize("role", Role)
@pytest.mark.parametrize("code", [0x101, 0x201, 0x301, 0xFFFF_FFFF, 0])
def test_connection_error_ends_the_connection(role, code):
    """C-45; codes without a meaning on stream 0 count as CONNECTION_ERROR."""
    connection = an_open(role)
    frame = frames.HEADER.pack(0, frames.ERROR << 10) + code.to_bytes(4, "big") + b"why"
    (event,) = connection.receive_frame(frame, 0.0)
    assert event.reason == "peer-error"
    assert isinstance(event.error, ConnectionClosed)
    assert "why" in str(event.error)
    assert connection.frames_to_send() == []  # an ERROR is never answered with an ERROR


def test_connection_close_lets_open_streams_finish_for_a_bounded_time():
    """C-46."""
    connection = an_open()
    close = frames.encode_error(0, ErrorCode.CONNECTION_CLOSE, "bye")
    assert connection.receive_frame(close, 5.0) == [PeerClosing("bye")]
    assert connection.phase is Phase.DRAINING
    assert connection.receive_frame(close, 6.0) == [Ignored("second CONNECTION_CLOSE")]
    connection.heard(30.0)
    assert connection.handle_deadline(5.0 + DRAIN_TIMEOUT - 0.1) == []
    assert ended(connection.handle_deadline(5.0 + DRAIN_TIMEOUT)) == ["peer-closing"]


def test_error_text_that_is_not_utf8_does_not_raise():
    """C-47."""
    connection = an_open()
    frame = frames.HEADER.pack(0, frames.ERROR << 10) + b"\0\0\1\1\xff\xfe"
    assert ended(connection.receive_frame(frame, 0.0)) == ["peer-error"]


def test_a_code_of_streams_cannot_be_sent_about_the_connection():
    """C-44."""
    with pytest.raises(LocalProtocolError):
        an_open().fail(ErrorCode.REJECTED, "x", "x")


@pytest.mark.parametrize("word", [0x0F << 10, 0x3E << 10, 0])
def test_an_unknown_type_follows_the_ignore_flag(word):
    """C-12, C-13, and C-15 for type 0."""
    connection = an_open()
    ignored = connection.receive_frame(frames.HEADER.pack(0, word | FLAG_IGNORE) + b"x", 0.0)
    assert [type(event) for event in ignored] == [Ignored]
    assert connection.phase is Phase.OPEN
    assert ended(connection.receive_frame(frames.HEADER.pack(0, word) + b"x", 0.0)) == [
        "protocol-error"
    ]
    assert codes_sent(connection) == [ErrorCode.CONNECTION_ERROR]


def test_an_extension_follows_the_ignore_flag():
    """C-14."""
    connection = an_open()
    ext = frames.Ext(0, 77, None, b"")
    connection.receive_frame(frames.encode_ext(ext._replace(ignore=True)), 0.0)
    assert connection.phase is Phase.OPEN
    connection.receive_frame(frames.encode_ext(ext), 0.0)
    assert connection.phase is Phase.CLOSED


@pytest.mark.parametrize(
    "kind", [FrameType.KEEPALIVE, FrameType.ERROR, FrameType.METADATA_PUSH, FrameType.LEASE]
)
def test_a_body_that_is_too_short_ends_the_connection_unless_it_may_be_ignored(kind):
    """C-16, C-23."""
    if kind is FrameType.METADATA_PUSH:
        body = b"\0\0\0"  # not even a header
    elif kind is FrameType.LEASE:
        connection = a_client(SETUP._replace(lease=True))
        assert ended(connection.receive_frame(SAMPLES[kind][:10], 0.0)) == ["protocol-error"]
        return
    else:
        body = SAMPLES[kind][:8]
    connection = an_open()
    assert ended(connection.receive_frame(body, 0.0)) == ["protocol-error"]
    if kind is not FrameType.METADATA_PUSH:
        connection = an_open()
        ignorable = frames.HEADER.pack(0, kind << 10 | FLAG_IGNORE) + b"\0"
        assert ended(connection.receive_frame(ignorable, 0.0)) == []


def test_an_id_with_the_reserved_bit_is_nobodys():
    """C-10."""
    connection = an_open()
    frame = bytes.fromhex("80000001 1000")
    assert ended(connection.receive_frame(frame, 0.0)) == ["protocol-error"]
    assert "reserved" in errors_sent(connection)[0].text


@pytest.mark.parametrize("kind", [4, 5, 6, 7, 8, 9, 10])
def test_frames_of_streams_have_no_effect_on_stream_0(kind):
    """C-61, C-77, C-89."""
    connection = an_open()
    (event,) = connection.receive_frame(SAMPLES[FrameType(kind)], 0.0)
    assert isinstance(event, Ignored)
    assert connection.frames_to_send() == []


def test_a_resume_behind_setup_ends_the_connection():
    """C-121."""
    connection = an_open()
    connection.receive_frame(SAMPLES[FrameType.RESUME], 0.0)
    assert codes_sent(connection) == [ErrorCode.CONNECTION_ERROR]


def test_a_server_that_takes_leases_accepts_the_setup_that_wants_them():
    connection = a_server(lease=True)
    setup = SETUP._replace(lease=True)
    assert connection.receive_frame(frames.encode_setup(setup), 0.0) == [SetupArrived(setup)]
    connection.accept(0.0)
    connection.send_lease(Lease(1000, 5))
    assert connection.frames_to_send() == [frames.encode_lease(Lease(1000, 5))]
    assert connection.receive_frame(SAMPLES[FrameType.LEASE], 0.0) == [
        LeaseArrived(Lease(1000, 10))
    ]


def test_a_lease_that_comes_before_the_verdict_counts_after_it():
    connection = a_server(lease=True)
    connection.receive_frame(frames.encode_setup(SETUP._replace(lease=True)), 0.0)
    assert connection.receive_frame(SAMPLES[FrameType.LEASE], 0.0) == []
    assert connection.accept(0.0) == [LeaseArrived(Lease(1000, 10))]


def test_a_server_that_takes_leases_ignores_those_of_a_client_that_asked_for_none():
    """C-112."""
    connection = a_server(lease=True)
    connection.receive_frame(frames.encode_setup(SETUP), 0.0)
    connection.accept(0.0)
    assert connection.receive_frame(SAMPLES[FrameType.LEASE], 0.0) == [Ignored("LEASE on stream 0")]
    with pytest.raises(LocalProtocolError, match="without L in SETUP"):
        connection.send_lease(Lease(1000, 5))


def test_a_client_may_grant_right_behind_its_setup_and_nobody_before():
    connection = a_client(SETUP._replace(lease=True))
    connection.send_lease(Lease(1000, 5))
    assert connection.frames_to_send() == [frames.encode_lease(Lease(1000, 5))]
    server = a_server(lease=True)
    server.receive_frame(frames.encode_setup(SETUP._replace(lease=True)), 0.0)
    with pytest.raises(LocalProtocolError, match="LEASE is not allowed in phase JUDGING"):
        server.send_lease(Lease(1000, 5))
    assert server.frames_to_send() == []


def test_a_lease_that_was_not_negotiated_changes_nothing():
    """C-112."""
    for connection in (an_open(), an_open(Role.CLIENT)):
        assert connection.receive_frame(SAMPLES[FrameType.LEASE], 0.0) == [
            Ignored("LEASE on stream 0")
        ]
    connection = a_client(SETUP._replace(lease=True))
    assert connection.receive_frame(SAMPLES[FrameType.LEASE], 0.0) == [
        LeaseArrived(Lease(1000, 10))
    ]
    assert connection.phase is Phase.OPEN


# -- keepalive and metadata push ------------------------------------------------------------------


@pytest.mark.parametrize("busy", [False, True])
def test_a_client_sends_keepalive_at_its_interval_idle_or_busy(busy):
    """C-49."""
    connection = in_phase(Role.CLIENT, Phase.OPEN)
    sent = []
    for now in (20.0, 40.0, 60.0, 80.0):
        assert connection.next_deadline() == now
        assert connection.handle_deadline(now - 0.1) == []
        assert connection.frames_to_send() == []
        if busy:
            connection.heard(now)
        assert connection.handle_deadline(now) == []
        sent += connection.frames_to_send()
    assert [peek(frame) for frame in sent] == [(0, frames.KEEPALIVE, FLAG_RESPOND)] * 4
    assert {frames.decode_keepalive(frame).position for frame in sent} == {0}  # C-53


def test_a_keepalive_is_answered_with_its_own_data_and_our_position():
    """C-50, C-53, row 32: not with the peer's position."""
    connection = an_open()
    connection.receive_frame(frames.encode_keepalive(True, position=77, data=b"d"), 0.0)
    assert connection.frames_to_send() == [frames.encode_keepalive(False, 0, b"d")]


def test_an_answer_is_not_answered():
    """C-51."""
    connection = an_open()
    frame = frames.encode_keepalive(False, data=b"d")
    assert connection.receive_frame(frame, 0.0) == [KeepaliveAnswered(b"d")]
    assert connection.frames_to_send() == []


def test_a_silent_server_is_dead_at_the_deadline_and_not_before():
    """C-52 and b07."""
    connection = in_phase(Role.CLIENT, Phase.OPEN)
    connection.heard(10.0)
    for now in (20.0, 40.0, 60.0, 80.0, 99.9):
        assert ended(connection.handle_deadline(now)) == []
    (event,) = connection.handle_deadline(100.0)
    assert event.reason == "keepalive-timeout"
    assert str(event.error) == "nothing heard for 90 s"


def test_a_server_reaps_a_silent_client():
    """b07: any frame is a sign of life, silence is none."""
    connection = an_open()
    connection.heard(50.0)
    assert connection.next_deadline() == 140.0
    assert ended(connection.handle_deadline(139.9)) == []
    assert ended(connection.handle_deadline(140.0)) == ["keepalive-timeout"]
    assert codes_sent(connection) == [ErrorCode.CONNECTION_ERROR]


def test_a_server_initiates_no_keepalive():
    """Row 31: a C++ client would close."""
    connection = an_open()
    connection.handle_deadline(80.0)
    assert connection.frames_to_send() == []


def test_large_keepalive_data_is_echoed_or_ends_the_connection():
    """C-54."""
    connection = an_open()
    connection.receive_frame(frames.encode_keepalive(True, data=bytes(MAX_KEEPALIVE_DATA)), 0.0)
    assert len(connection.frames_to_send()[0]) == MAX_KEEPALIVE_DATA + 14
    larger = frames.encode_keepalive(True, data=bytes(MAX_KEEPALIVE_DATA + 1))
    assert ended(connection.receive_frame(larger, 0.0)) == ["protocol-error"]


def test_a_metadata_push_is_delivered_and_not_answered():
    """C-55."""
    connection = an_open()
    frame = frames.encode_metadata_push(b"m")
    assert connection.receive_frame(frame, 0.0) == [MetadataPushed(b"m")]
    assert connection.frames_to_send() == []
    connection.send_metadata_push(b"back")
    assert connection.frames_to_send() == [frames.encode_metadata_push(b"back")]


# -- the end --------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", Role)
def test_our_own_end_is_told_once(role):
    connection = an_open(role)
    assert ended(connection.fail(ErrorCode.CONNECTION_CLOSE, "bye", "closed")) == ["closed"]
    assert connection.fail(ErrorCode.CONNECTION_CLOSE, "bye", "closed") == []
    assert codes_sent(connection) == [ErrorCode.CONNECTION_CLOSE]
    assert connection.next_deadline() is None
    assert connection.handle_deadline(1e9) == []


def test_a_lost_transport_is_told_nothing():
    """C-08."""
    connection = an_open()
    connection.receive_frame(SAMPLES[FrameType.KEEPALIVE], 0.0)
    (event,) = connection.lost("reset", "transport-lost")
    assert event.reason == event.error.reason == "transport-lost"
    assert connection.frames_to_send() == []
    assert connection.lost("again", "x") == []


def test_acts_in_the_wrong_phase_raise_and_change_nothing():
    server, client = an_open(), Connection(Role.CLIENT, now=0.0)
    for act in (
        lambda: server.accept(0.0),
        lambda: server.refuse(3, "x"),
        lambda: server.send_setup(SETUP, 0.0),
        lambda: client.send_metadata_push(b"x"),
    ):
        with pytest.raises(LocalProtocolError):
            act()
    assert (server.phase, client.phase) == (Phase.OPEN, Phase.IDLE)
    assert client.next_deadline() is None
