"""Stream 0 of a session that may outlive its transport: SETUP, RESUME, silence, and waiting."""

import pytest

from rsocket_mesh.errors import ErrorCode
from rsocket_mesh.protocol import frames
from rsocket_mesh.protocol.connection import Connection
from rsocket_mesh.protocol.events import (
    ConnectionEnded,
    ResumeArrived,
    SetupArrived,
    TransportSilent,
)
from rsocket_mesh.protocol.frames import Resume, Setup
from rsocket_mesh.protocol.phases import Phase, Role

TOKEN = b"0123456789abcdef"
SETUP = Setup(20_000, 90_000, "a/b", "c/d", resume_token=TOKEN)
RESUME = frames.encode_resume(Resume(TOKEN, 100, 50))


def a_server():
    return Connection(Role.SERVER, now=0.0, resume=True)


def an_open(setup=SETUP):
    connection = a_server()
    connection.receive_frame(frames.encode_setup(setup), 0.0)
    connection.accept(0.0)
    return connection


def a_client():
    connection = Connection(Role.CLIENT, now=0.0)
    connection.send_setup(SETUP, 0.0)
    connection.receive_frame(frames.encode_payload(1, None, b"x"), 0.0)
    connection.frames_to_send()
    return connection


def test_a_setup_with_a_token_is_judged_like_any_other():
    assert a_server().receive_frame(frames.encode_setup(SETUP), 0.0) == [SetupArrived(SETUP)]


def test_a_resume_as_first_frame_is_the_shell_s_to_judge():
    connection = a_server()
    assert connection.receive_frame(RESUME, 0.0) == [ResumeArrived(Resume(TOKEN, 100, 50))]
    assert connection.phase is Phase.JUDGING
    connection.refuse(ErrorCode.REJECTED_RESUME, "no such session")
    (frame,) = connection.frames_to_send()
    assert frames.decode_error(frame).code == ErrorCode.REJECTED_RESUME
    assert connection.phase is Phase.CLOSED


@pytest.mark.parametrize("phase", [Phase.OPEN, Phase.DRAINING])
def test_a_resume_behind_setup_ends_the_connection(phase):
    """C-121."""
    connection = an_open()
    if phase is Phase.DRAINING:
        close = frames.encode_error(0, ErrorCode.CONNECTION_CLOSE, "bye")
        connection.receive_frame(close, 0.0)
    (event,) = connection.receive_frame(RESUME, 0.0)
    assert isinstance(event, ConnectionEnded)
    (frame,) = connection.frames_to_send()
    assert frames.decode_error(frame).code == ErrorCode.CONNECTION_ERROR


@pytest.mark.parametrize("make", [an_open, a_client])
def test_silence_ends_the_transport_of_a_resumable_session_and_not_the_session(make):
    connection = make()
    if connection.role is Role.CLIENT:
        connection.send_keepalive(89.0)
    (event,) = connection.handle_deadline(90.0)
    assert isinstance(event, TransportSilent)
    assert (event.error.reason, str(event.error)) == (
        "keepalive-timeout",
        "nothing heard for 90 s",
    )
    assert connection.phase is Phase.OPEN
    assert connection.next_deadline() > 90.0  # it is said once per lifetime


def test_silence_ends_a_session_that_did_not_ask_for_resume():
    connection = an_open(SETUP._replace(resume_token=None))
    (event,) = connection.handle_deadline(90.0)
    assert isinstance(event, ConnectionEnded)


@pytest.mark.parametrize("make", [an_open, a_client])
def test_deadlines_stand_still_while_the_session_waits_for_a_transport(make):
    connection = make()
    connection.suspend(1000.0)
    assert connection.next_deadline() == 1000.0
    assert connection.handle_deadline(999.0) == []
    connection.resume(999.0)
    assert connection.frames_to_send() == []
    expected = 999.0 + (20.0 if connection.role is Role.CLIENT else 90.0)
    assert connection.next_deadline() == expected


def test_a_session_that_is_not_resumed_in_its_time_ends_and_says_nothing():
    """C-125."""
    connection = an_open()
    connection.suspend(1000.0)
    (event,) = connection.handle_deadline(1000.0)
    assert isinstance(event, ConnectionEnded)
    assert event.reason == "resume-timeout"
    assert connection.frames_to_send() == []
    assert connection.next_deadline() is None
