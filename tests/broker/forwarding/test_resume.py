"""Sessions that outlive their sockets, seen frame by frame: resumed, refused, replaced, ended."""

from __future__ import annotations

import gc

import pytest

from broker.config import Config, Limits
from broker.forwarding.guard import MemoryGuard
from broker.forwarding.link import Link
from rsocket_mesh.errors import ErrorCode
from rsocket_mesh.protocol.announce import Announcement, ServiceInfo, encode_announcement
from rsocket_mesh.protocol.frames import (
    CANCEL,
    ERROR,
    KEEPALIVE,
    LEASE,
    REQUEST_N,
    REQUEST_RESPONSE,
    REQUEST_STREAM,
    RESUME_OK,
    Lease,
    Resume,
    Setup,
    decode_error,
    decode_keepalive,
    decode_lease,
    decode_payload,
    decode_request,
    decode_request_n,
    decode_resume_ok,
    encode_keepalive,
    encode_lease,
    encode_payload,
    encode_resume,
    encode_setup,
    peek,
)
from rsocket_mesh.protocol.framing import prefix_lengths
from rsocket_mesh.protocol.metadata import ANNOUNCE, COMPOSITE, OCTET_STREAM, encode_entry
from tests.support.raw_peers import Bench, RawPeer, request
from tests.support.waiting import settled

TOKEN = b"0123456789abcdef"


def tracked(frames: list[bytes]) -> int:
    """The position behind *frames*."""
    return sum(len(frame) for frame in frames if 4 <= peek(frame)[1] <= 0x0B)


def bench(**limits: object) -> Bench:
    return Bench(Config(limits=Limits(**limits)))  # type: ignore[arg-type]


def announced(instance: str = "one", app: str = "shop") -> Announcement:
    return Announcement(app, instance, services=(ServiceInfo("echo"),))


def setup_frame(announcement: Announcement | None = None, token: bytes = TOKEN) -> bytes:
    entry = None
    if announcement is not None:
        entry = encode_entry(ANNOUNCE, encode_announcement(announcement))
    return encode_setup(Setup(20_000, 90_000, COMPOSITE, OCTET_STREAM, entry, resume_token=token))


def resumable(at: Bench, announcement: Announcement | None = None, token: bytes = TOKEN) -> RawPeer:
    peer = at.peer("first socket")
    peer.send(setup_frame(announcement, token), encode_keepalive(respond=True))
    (answer,) = peer.received()
    assert peek(answer)[1] == KEEPALIVE
    return peer


def resume(at: Bench, received: int, first: int = 0, token: bytes = TOKEN) -> RawPeer:
    peer = at.peer("second socket")
    peer.send(encode_resume(Resume(token, received, first)))
    return peer


def refusal(peer: RawPeer) -> tuple[int, str]:
    (frame,) = peer.received()
    error = decode_error(frame)
    assert peer.transport.closed
    return error.code, error.text


def items(peer: RawPeer) -> list[bytes]:
    return [decode_payload(frame).data for frame in peer.received()]


# -- positions ------------------------------------------------------------------------------------


async def test_keepalive_answers_carry_what_was_received_also_in_the_batch_of_the_setup() -> None:
    """C-114, C-50."""
    at = bench()
    provider, peer = at.provider(), at.peer()
    call = request(REQUEST_RESPONSE, 1)
    peer.send(setup_frame(), call, encode_keepalive(respond=True, data=b"d"))
    (answer,) = peer.received()
    assert decode_keepalive(answer) == (False, len(call), b"d")
    assert len(provider.received()) == 1
    peer.send(request(REQUEST_RESPONSE, 3), encode_keepalive(respond=True))
    assert decode_keepalive(peer.received()[0]).position == 2 * len(call)


async def test_a_position_that_was_never_sent_ends_the_session() -> None:
    """C-124."""
    at = bench()
    peer = resumable(at, announced())
    peer.send(encode_keepalive(respond=True, position=7))
    code, text = refusal(peer)
    assert code == ErrorCode.CONNECTION_ERROR
    assert "7 is ahead of the 0" in text
    assert at.counters.closes["protocol-error"] == 1
    assert at.hub.table.services("default") == ()


async def test_sessions_without_resume_say_position_0() -> None:
    """C-53."""
    at = bench()
    at.provider()
    peer = at.caller()
    peer.send(request(REQUEST_RESPONSE, 1), encode_keepalive(respond=True))
    assert decode_keepalive(peer.received()[0]).position == 0


# -- going on -------------------------------------------------------------------------------------


async def test_a_caller_gets_what_it_missed_once_and_in_order() -> None:
    """C-115: some frames were lost on the way, some were sent while there was no socket."""
    at = bench()
    provider, caller = at.provider(), resumable(at)
    sent = request(REQUEST_STREAM, 1, n=100)
    caller.send(sent)
    provider.received()
    provider.send(*(encode_payload(2, None, b"%d" % i) for i in range(4)))
    got = caller.received()[:2]  # the others are lost with the socket
    caller.close()
    assert not caller.link.accepting
    provider.send(encode_payload(2, None, b"4"))
    again = resume(at, tracked(got))
    answer, *rest = again.received()
    assert decode_resume_ok(answer) == len(sent)
    assert [decode_payload(frame).data for frame in rest] == [b"2", b"3", b"4"]
    provider.send(encode_payload(2, None, b"5", complete=True))
    assert items(again) == [b"5"]
    assert at.hub.streams_open() == 0
    assert (at.counters.resumed, at.counters.accepted) == (1, 2)
    assert len(at.hub.links) == 2


async def test_a_provider_goes_on_with_its_calls_and_its_frames_count_once() -> None:
    """C-115, the other way: it sends again what the broker has not got."""
    at = bench()
    provider, caller = resumable(at, announced()), at.caller()
    caller.send(request(REQUEST_STREAM, 1, n=100))
    (asked,) = provider.received()
    answers = [encode_payload(2, None, b"%d" % i) for i in range(4)]
    provider.send(*answers[:2])
    batch = b"".join(prefix_lengths(answers[2:]))
    assert provider.send_bytes(batch[:-1]) == len(batch) // 2  # the last one never arrives whole
    provider.close()
    again = resume(at, len(asked))
    answer, *granted = again.received()
    assert decode_resume_ok(answer) == tracked(answers[:3])
    assert {peek(frame)[1] for frame in granted} == {REQUEST_N}
    again.send(answers[3])
    assert items(caller) == [b"0", b"1", b"2", b"3"]


async def test_a_detached_provider_stays_registered_and_gets_no_new_calls() -> None:
    at = bench()
    provider, caller = resumable(at, announced()), at.caller()
    provider.close()
    assert at.hub.table.services("default") == ("echo",)
    caller.send(request(REQUEST_RESPONSE, 1))
    assert decode_error(caller.received()[0]).text.startswith("UNAVAILABLE")
    other = at.provider("echo", "two")
    caller.send(request(REQUEST_RESPONSE, 3))
    assert len(other.received()) == 1
    other.close()
    again = resume(at, 0)
    again.received()
    caller.send(request(REQUEST_RESPONSE, 5))
    assert len(again.received()) == 1


async def test_a_resume_while_the_old_socket_looks_alive_closes_that_one_and_goes_on() -> None:
    at = bench()
    provider, caller = at.provider(), resumable(at)
    caller.send(request(REQUEST_RESPONSE, 1))
    provider.received()
    again = resume(at, 0)
    assert refusal(caller)[0] == ErrorCode.CONNECTION_ERROR
    assert peek(again.received()[0])[1] == RESUME_OK
    caller.send(request(REQUEST_RESPONSE, 3))  # the old socket is nobody's any more
    assert provider.received() == []
    provider.send(encode_payload(2, None, b"x", complete=True))
    assert items(again) == [b"x"]


async def test_silence_detaches_and_the_keepalive_clock_starts_anew_on_the_new_socket() -> None:
    at = bench()
    caller = resumable(at)
    at.pass_time(91)
    assert caller.transport.closed
    assert caller.link.session is not None
    assert caller.link.session.is_detached
    at.pass_time(59)
    again = resume(at, 0)
    at.pass_time(89)
    assert not again.transport.closed
    at.pass_time(2)
    assert again.transport.closed


async def test_leases_begin_anew_on_the_new_socket_in_both_directions() -> None:
    """C-123: what either side was granted before the cut is worth nothing."""
    at = bench()
    caller = at.caller()
    client = at.peer("first socket")
    entry = encode_entry(ANNOUNCE, encode_announcement(announced()))
    setup = Setup(20_000, 90_000, COMPOSITE, OCTET_STREAM, entry, lease=True, resume_token=TOKEN)
    client.send(encode_setup(setup), encode_lease(Lease(10_000, 5)))
    granted = [frame for frame in client.received() if peek(frame)[1] == LEASE]
    assert len(granted) == 1
    client.close()
    at.pass_time(7)  # its renewal falls into the time without a socket, and is lost
    again = resume(at, 0)
    kinds = [peek(frame)[1] for frame in again.received()]
    assert sorted(kinds) == sorted([RESUME_OK, LEASE])
    caller.send(request(REQUEST_RESPONSE, 1))
    assert decode_error(caller.received()[0]).text.startswith("OVERLOADED")
    again.send(encode_lease(Lease(10_000, 5)))
    caller.send(request(REQUEST_RESPONSE, 3))
    assert peek(again.received()[0])[1] == REQUEST_RESPONSE


async def test_requests_within_the_old_lease_that_come_again_are_not_beyond_the_new_one() -> None:
    at = bench()
    client = at.peer("first socket")
    setup = Setup(20_000, 90_000, COMPOSITE, OCTET_STREAM, lease=True, resume_token=TOKEN)
    client.send(encode_setup(setup))
    (old,) = (decode_lease(frame).requests for frame in client.received())
    client.close()  # and all that it sent is lost
    again = resume(at, 0)
    _, lease = sorted(again.received(), key=lambda frame: peek(frame)[1] == LEASE)
    count = old + decode_lease(lease).requests
    again.send(*(request(REQUEST_RESPONSE, 2 * index + 1) for index in range(count)))
    assert at.counters.leased_requests == {"used": count}


# -- the end --------------------------------------------------------------------------------------


async def test_a_session_that_is_not_resumed_in_time_ends_and_frees_its_store() -> None:
    """C-125."""
    at = bench(resume_timeout=30)
    provider, caller = resumable(at, announced()), at.caller()
    caller.send(request(REQUEST_RESPONSE, 1))
    provider.received()
    provider.close()
    at.pass_time(29)
    assert caller.received() == []
    assert at.hub.sessions.pool.used > 0
    at.pass_time(1.1)
    assert decode_error(caller.received()[0]).text.startswith("PEER_LOST")
    assert at.counters.closes["resume-timeout"] == 1
    assert at.counters.limits["resume_timeout"] == 1
    assert at.hub.sessions.pool.used == 0
    assert at.hub.table.services("default") == ()
    late = resume(at, 0)
    code, text = refusal(late)
    assert code == ErrorCode.REJECTED_RESUME
    assert "resume-timeout" in text
    assert at.counters.resume_refused["ended"] == 1


async def test_a_caller_that_does_not_come_back_leaves_no_call_at_the_provider() -> None:
    """C-125."""
    at = bench()
    provider, caller = at.provider(), resumable(at)
    caller.send(request(REQUEST_STREAM, 1, n=5))
    provider.received()
    caller.close()
    assert provider.received() == []
    at.pass_time(61)
    assert [peek(frame)[1] for frame in provider.received()] == [CANCEL]


async def test_a_broker_that_drains_waits_for_no_detached_session() -> None:
    at = bench()
    provider, other, caller = resumable(at, announced()), at.peer(), at.caller()
    other.send(setup_frame(announced("two"), b"another token of its own"))
    caller.send(request(REQUEST_RESPONSE, 1), request(REQUEST_RESPONSE, 3))
    provider.close()
    at.hub.begin_drain(30)
    assert at.counters.closes == {"drained": 1}
    assert at.hub.streams_open() == 1
    other.close()
    assert at.hub.streams_open() == 0


async def test_a_bug_of_ours_ends_the_session_since_its_frames_count_as_received(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    at = bench()
    caller = resumable(at)
    monkeypatch.setattr(Link, "take_frame", fails)
    with pytest.raises(LookupError):  # the transport catches it, logs it and aborts
        caller.send(request(REQUEST_RESPONSE, 1))
    caller.close()
    assert not caller.link.open
    assert at.hub.sessions.pool.used == 0
    assert refusal(resume(at, 0))[0] == ErrorCode.REJECTED_RESUME


def fails(link: Link, frame: bytes) -> None:
    raise LookupError("a bug")


@pytest.mark.parametrize("detached", [True, False])
async def test_a_session_that_ended_is_gone_without_a_collection(detached: bool) -> None:
    at = bench()
    peer = resumable(at)
    ended = peer.link.id
    gc.collect()  # of what other tests have left
    gc.disable()
    try:
        if detached:
            peer.close()
            at.pass_time(61)
            at.pass_time(11)  # what watches slow readers has looked once more
        else:
            peer.link.fail(ErrorCode.CONNECTION_ERROR, "enough", "protocol-error")
            peer.close()
        await settled()
        del peer
        assert ended not in {link.id for link in gc.get_objects() if type(link) is Link}
    finally:
        gc.enable()


async def test_a_peer_that_said_goodbye_is_not_waited_for() -> None:
    at = bench()
    peer = resumable(at, announced())
    peer.send(b"\0\0\0\0\x2c\0\0\0\1\2bye")  # CONNECTION_CLOSE
    peer.close()
    assert at.hub.table.services("default") == ()
    assert at.hub.sessions.pool.used == 0


async def test_a_new_session_of_the_same_instance_replaces_a_detached_one() -> None:
    at = bench()
    old = resumable(at, announced())
    old.close()
    new = resumable(at, announced())  # also with the same token (C-122)
    assert new.link.open
    assert not old.link.open
    assert at.counters.closes["replaced"] == 1
    new.close()
    assert peek(resume(at, 0).received()[0])[1] == RESUME_OK


async def test_what_a_detached_session_is_sent_is_bounded_and_beyond_that_it_ends() -> None:
    """Credit bounds items; answers are bounded by nothing but the store."""
    at = bench(resume_bytes=65_536)
    provider, caller = at.provider(), resumable(at)
    caller.send(*(request(REQUEST_RESPONSE, 2 * index + 1) for index in range(100)))
    provider.received()
    caller.close()
    most = 0
    for index in range(70):
        provider.send(encode_payload(2 * index + 2, None, bytes(1000), complete=True))
        most = max(most, at.hub.sessions.pool.used)
    await settled()
    assert 60_000 < most <= 65_536
    assert at.counters.closes["resume-overflow"] == 1
    assert at.counters.limits["resume_bytes"] == 1
    assert at.hub.sessions.pool.used == 0
    assert {peek(frame)[1] for frame in provider.received()} == {CANCEL}
    assert "resume-overflow" in refusal(resume(at, 0))[1]


async def test_a_full_store_asks_for_the_position_and_forgets_only_what_was_not_told() -> None:
    at = bench(resume_bytes=65_536)
    provider, caller = at.provider(), resumable(at)
    position, asked = 0, 0
    for index in range(200):
        caller.send(request(REQUEST_RESPONSE, 2 * index + 1))
        (call,) = provider.received()
        provider.send(encode_payload(peek(call)[0], None, bytes(1000), complete=True))
        got = caller.received()
        position += tracked(got)
        for frame in got:
            if peek(frame)[1] == KEEPALIVE:
                asked += 1
                caller.send(encode_keepalive(respond=False, position=position))
    assert 20 <= asked <= 30
    assert at.hub.sessions.pool.overflowed == 0
    caller.close()
    assert peek(resume(at, position).received()[0])[1] == RESUME_OK


async def test_who_is_asked_for_positions_and_asks_may_do_so_faster_than_its_clock() -> None:
    """What the limit on KEEPALIVEs per second is not meant for; without resume it holds."""
    at = bench(keepalives_per_second=1)
    provider, caller = at.provider(), resumable(at)
    for index in range(100):
        caller.send(request(REQUEST_RESPONSE, 2 * index + 1), encode_keepalive(respond=True))
        (call,) = provider.received()
        provider.send(encode_payload(peek(call)[0], None, bytes(20_000), complete=True))
        assert len(caller.received()) >= 2
    assert caller.link.open
    for _ in range(20):
        caller.send(encode_keepalive(respond=True))
    assert at.counters.closes == {"keepalive-flood": 1}


async def test_streams_are_granted_nothing_while_half_of_the_store_waits_to_be_confirmed() -> None:
    at = bench(resume_bytes=65_536)
    provider, caller = at.provider(), resumable(at)
    caller.send(request(REQUEST_STREAM, 1, n=0x7FFF_FFFF))
    granted = decode_request(provider.received()[0]).initial_n or 0
    sent = position = 0
    while granted > sent:
        provider.send(encode_payload(2, None, bytes(1000)))
        sent += 1
        position += tracked(caller.received())
        granted += sum(decode_request_n(frame) for frame in provider.received())
    assert caller.link.congested
    assert at.hub.sessions.pool.used > 32_768
    caller.send(encode_keepalive(respond=False, position=position))
    assert not caller.link.congested
    assert sum(decode_request_n(frame) for frame in provider.received()) > 0


async def test_a_peer_that_tells_no_positions_costs_its_store_and_cannot_resume() -> None:
    at = bench(resume_bytes=65_536)
    provider, caller = at.provider(), resumable(at)
    caller.send(*(request(REQUEST_RESPONSE, 2 * index + 1) for index in range(201)))
    provider.received()
    for index in range(200):
        provider.send(encode_payload(2 * index + 2, None, bytes(1000), complete=True))
    assert at.hub.sessions.pool.used <= 65_536
    assert at.hub.sessions.pool.overflowed > 0
    assert not caller.link.accepting  # and it gets no new calls meanwhile
    caller.close()
    again = resume(at, 0)
    code, text = refusal(again)
    assert code == ErrorCode.REJECTED_RESUME
    assert "position 0" in text
    assert at.counters.resume_refused["position-gone"] == 1
    assert at.counters.closes["resume-refused"] == 1
    assert [peek(frame)[1] for frame in provider.received()] == [CANCEL]


async def test_a_peer_that_reads_all_and_always_says_position_0_is_not_held_up() -> None:
    """It costs its session the way back, and no more."""
    at = bench(resume_bytes=65_536)
    provider, caller = at.provider(), resumable(at)
    caller.send(request(REQUEST_STREAM, 1, n=0x7FFF_FFFF))
    granted = decode_request(provider.received()[0]).initial_n or 0
    for sent in range(200):
        assert granted > sent, "the provider may go on"
        provider.send(encode_payload(2, None, bytes(1000)))
        for frame in caller.received():
            if peek(frame)[1] == KEEPALIVE:
                caller.send(encode_keepalive(respond=False))
        granted += sum(decode_request_n(frame) for frame in provider.received())
    assert not caller.link.congested
    assert at.hub.sessions.pool.used == 0
    caller.close()
    code, text = refusal(resume(at, 0))
    assert code == ErrorCode.REJECTED_RESUME
    assert "position 0" in text


async def test_when_memory_is_short_the_largest_store_is_forgotten_and_its_session_lives() -> None:
    at = bench()
    provider = at.provider()
    callers = [resumable(at, token=TOKEN + b"%d" % index) for index in range(2)]
    for index, caller in enumerate(callers):
        for number in range(10 * (index + 1)):
            caller.send(request(REQUEST_RESPONSE, 2 * number + 1))
            (call,) = provider.received()
            provider.send(encode_payload(peek(call)[0], None, bytes(100_000), complete=True))
        caller.received()
    MemoryGuard(at.hub, 100, lambda: 96, lambda: None)
    small, large = (caller.link.session for caller in callers)
    assert small is not None
    assert large is not None
    assert small.books.stored > 1_000_000
    assert large.books.stored == 0
    assert callers[1].link.open


@pytest.mark.parametrize("limit", ["connections", "connections_per_address"])
async def test_at_the_limit_of_connections_a_session_is_resumed_and_no_other_begun(
    limit: str,
) -> None:
    """Its client is the one who comes then; and sessions left behind do not add up."""
    at = bench(**{limit: 2})
    first = at.peer(address="192.0.2.1")
    first.send(setup_frame())
    other = at.peer(address="192.0.2.1")
    other.send(setup_frame(token=TOKEN + b"2"), encode_keepalive(respond=True))
    assert peek(other.received()[0])[1] == KEEPALIVE
    first.close()
    assert not at.hub.admission.is_full()
    third = at.peer(address="192.0.2.1")
    third.send(setup_frame(token=TOKEN + b"3"))
    code, text = refusal(third)
    assert code == ErrorCode.REJECTED_SETUP
    assert text.startswith("OVERLOADED: ")
    assert at.counters.limits[limit] == 1
    assert at.counters.closes["too-many-connections"] == 1
    again = at.peer(address="192.0.2.1")
    again.send(encode_resume(Resume(TOKEN, 0, 0)))
    assert peek(again.received()[0])[1] == RESUME_OK
    assert at.counters.limits[limit] == 1
    assert at.hub.admission.is_full() is (limit == "connections")
    assert at.hub.admission._sockets == at.hub.admission._sessions == {"192.0.2.1": 2}


async def test_a_session_counts_for_the_address_it_comes_from_also_while_it_waits() -> None:
    """Or one address could leave ever more of them behind."""
    at = bench(connections_per_address=2)
    places = at.hub.admission
    first = at.peer(address="192.0.2.1")
    first.send(setup_frame())
    first.close()
    other = at.peer(address="192.0.2.1")
    assert (places._sockets, places._sessions) == ({"192.0.2.1": 1}, {"192.0.2.1": 1})
    again = at.peer(address="192.0.2.2")
    again.send(encode_resume(Resume(TOKEN, 0, 0)))
    assert peek(again.received()[0])[1] == RESUME_OK
    assert places._sockets == {"192.0.2.1": 1, "192.0.2.2": 1}
    assert places._sessions == {"192.0.2.2": 1}
    assert places._silent == {other.link: None}
    over_a_live_one = at.peer(address="192.0.2.1")
    over_a_live_one.send(encode_resume(Resume(TOKEN, 0, 0)))
    assert (places._sockets, places._sessions) == ({"192.0.2.1": 2}, {"192.0.2.1": 1})
    over_a_live_one.close()
    at.pass_time(61)
    other.close()
    assert (places._sockets, places._sessions) == ({}, {})
    assert not places._detached


# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("received", "first", "reason"),
    [(1, 0, "bad-position"), (10_000, 0, "bad-position"), (0, 10_000, "position-gone")],
)
async def test_a_resume_at_impossible_positions_is_refused_and_ends_the_session(
    received: int, first: int, reason: str
) -> None:
    """C-118, C-124."""
    at = bench()
    provider, caller = at.provider(), resumable(at)
    caller.send(request(REQUEST_RESPONSE, 1))
    provider.received()
    provider.send(encode_payload(2, None, b"answer", complete=True))
    caller.received()
    caller.close()
    assert refusal(resume(at, received, first))[0] == ErrorCode.REJECTED_RESUME
    assert at.counters.resume_refused[reason] == 1
    assert refusal(resume(at, 0))[0] == ErrorCode.REJECTED_RESUME  # C-119
    assert at.hub.sessions.pool.used == 0


async def test_an_unknown_token_is_refused() -> None:
    """C-117."""
    at = bench()
    resumable(at)
    code, text = refusal(resume(at, 0, token=b"another token of the same size"))
    assert code == ErrorCode.REJECTED_RESUME
    assert "no session" in text
    assert at.counters.resume_refused["unknown-token"] == 1


async def test_the_token_of_another_principal_is_refused_like_an_unknown_one() -> None:
    at = bench()
    caller = resumable(at)
    caller.link.principal = "somebody"
    caller.close()
    assert "no session" in refusal(resume(at, 0))[1]
    assert at.counters.resume_refused["other-principal"] == 1
    assert caller.link.open  # its owner may still come


async def test_a_short_token_is_refused_with_the_numbers() -> None:
    at = bench()
    peer = at.peer()
    peer.send(setup_frame(token=b"fifteen bytes.."))
    code, text = refusal(peer)
    assert code == ErrorCode.REJECTED_SETUP
    assert "15 bytes" in text
    assert "16" in text


@pytest.mark.parametrize("detached", [True, False])
async def test_a_token_in_use_opens_no_second_session(detached: bool) -> None:
    """C-122."""
    at = bench()
    first = resumable(at, announced("one"))
    if detached:
        first.close()
    for other in (None, announced("two"), announced("one", app="other")):
        peer = at.peer()
        peer.send(setup_frame(other))
        code, text = refusal(peer)
        assert code == ErrorCode.REJECTED_SETUP
        assert "in use" in text
    assert first.link.open


async def test_nothing_may_stand_behind_resume_in_the_same_batch() -> None:
    """C-116, C-121: the session is left as it was."""
    at = bench()
    caller = resumable(at)
    caller.close()
    again = at.peer()
    resume_frame = encode_resume(Resume(TOKEN, 0, 0))
    again.send(resume_frame, resume_frame)
    assert refusal(again)[0] == ErrorCode.CONNECTION_ERROR
    assert peek(resume(at, 0).received()[0])[1] == RESUME_OK


async def test_a_second_resume_on_a_resumed_socket_is_a_violation() -> None:
    """C-121."""
    at = bench()
    resumable(at).close()
    again = resume(at, 0)
    assert peek(again.received()[0])[1] == RESUME_OK
    again.send(encode_resume(Resume(TOKEN, 0, 0)))
    assert refusal(again)[0] == ErrorCode.CONNECTION_ERROR


async def test_the_reasons_of_ended_sessions_are_remembered_in_a_bounded_number() -> None:
    at = bench()
    for index in range(1100):
        peer = resumable(at, token=b"%032d" % index)
        peer.link.end("peer-closed", "")
    assert "peer-closed" in refusal(resume(at, 0, token=b"%032d" % 1099))[1]
    assert "no session" in refusal(resume(at, 0, token=b"%032d" % 0))[1]
    assert len(at.hub.sessions._ended) == 1024
    assert at.hub.sessions._links == at.hub.sessions._keys == {}


async def test_a_frame_behind_the_end_of_a_session_reaches_nobody() -> None:
    at = bench()
    provider, caller = at.provider(), resumable(at)
    caller.link.fail(ErrorCode.CONNECTION_ERROR, "enough", "protocol-error")
    caller.send(request(REQUEST_RESPONSE, 1))
    assert provider.received() == []
    assert [peek(frame)[1] for frame in caller.received()] == [ERROR]
