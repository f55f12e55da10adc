"""The books of a resumable session: positions, the store, and what two ends make of a cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsocket_mesh.errors import ErrorCode, RemoteProtocolError, ResumeRefused
from rsocket_mesh.protocol import frames
from rsocket_mesh.protocol.frames import Ext, Lease, Resume, Setup, peek
from rsocket_mesh.protocol.framing import cut, prefix_lengths
from rsocket_mesh.protocol.resume import FRAME_OVERHEAD, MIN_TOKEN, ResumeBooks, StorePool

TOKEN = b"t" * MIN_TOKEN
TRACKED = [
    frames.encode_request(frames.REQUEST_RESPONSE, 1, None, b"hi"),
    frames.encode_request(frames.REQUEST_FNF, 3, b"md", b"x"),
    frames.encode_request(frames.REQUEST_STREAM, 5, None, b"d", 7),
    frames.encode_request(frames.REQUEST_CHANNEL, 7, None, b"d", 7, complete=True),
    frames.encode_request_n(1, 5),
    frames.encode_cancel(1),
    frames.encode_payload(1, None, b"d"),
    frames.encode_error(1, ErrorCode.CANCELED, "no"),
]
UNTRACKED = [
    frames.encode_setup(Setup(1000, 2000, "a/b", "c/d", resume_token=TOKEN)),
    frames.encode_lease(Lease(1000, 10)),
    frames.encode_keepalive(respond=True),
    frames.encode_metadata_push(b"md"),
    frames.encode_resume(Resume(TOKEN, 0, 0)),
    frames.encode_resume_ok(0),
    frames.encode_ext(Ext(1, 7, None, b"", ignore=True)),
]


def batch(*some):
    return b"".join(prefix_lengths(some))


def books(session_bytes=1 << 20, total_bytes=1 << 30):
    return ResumeBooks(StorePool(session_bytes, total_bytes))


def keepalive(position, respond=False):
    return batch(frames.encode_keepalive(respond, position))


# -- positions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("frame", TRACKED, ids=frames.describe)
def test_a_tracked_frame_counts_with_its_length_without_prefix_on_both_sides(frame):
    """C-113."""
    near, far = books(), books()
    assert near.send(batch(frame)) == batch(frame)
    assert far.receive(batch(frame)) == (len(batch(frame)), "")
    assert near.sent == far.received == len(frame)
    assert near.replay() == [batch(frame)]


@pytest.mark.parametrize("frame", UNTRACKED, ids=frames.describe)
def test_no_other_frame_counts_or_is_kept(frame):
    """C-113."""
    near, far = books(), books()
    assert near.send(batch(frame)) == batch(frame)
    assert far.receive(batch(frame)) == (len(batch(frame)), "")
    assert near.sent == far.received == near.stored == 0
    assert near.replay() == []


def test_the_positions_of_the_reference_s_trace():
    client, server = books(), books()
    first, second = TRACKED[2], TRACKED[4]
    assert client.send(batch(first, second))
    assert (len(first), client.sent) == (11, 21)
    server.receive(batch(first))
    items = [frames.encode_payload(1, None, b"a"), frames.encode_payload(1, None, b"b")]
    server.send(batch(*items))
    client.receive(batch(items[0]))
    asked = client.request_resume(b"\x01\x02")
    assert asked.hex() == "00000000340000010000000201020000000000000007" + 8 * "00"
    answer = server.accept_resume(frames.decode_resume(asked))
    assert answer.hex() == "000000003800" + "000000000000000b"
    assert server.replay() == [batch(items[1])]
    client.accept_resume_ok(frames.decode_resume_ok(answer))
    assert client.replay() == [batch(second)]


def test_every_keepalive_carries_our_position_and_the_rest_of_the_batch_is_unchanged():
    """C-114."""
    near = books()
    near.receive(batch(TRACKED[0]))
    data = frames.encode_keepalive(respond=False, data=b"the peer's")
    out = near.send(batch(TRACKED[1], data, frames.encode_keepalive(respond=True), TRACKED[2]))
    found, _ = cut(out)
    position = len(TRACKED[0])
    assert found == [
        TRACKED[1],
        frames.encode_keepalive(False, position, b"the peer's"),
        frames.encode_keepalive(True, position),
        TRACKED[2],
    ]


def test_a_frame_that_is_not_whole_does_not_count():
    near = books()
    data = batch(TRACKED[0], TRACKED[1])
    for size in range(len(data)):
        near.received = 0
        used, text = near.receive(data[:size])
        assert text == ""
        assert used == (len(batch(TRACKED[0])) if size >= len(batch(TRACKED[0])) else 0)
        assert near.received == (len(TRACKED[0]) if used else 0)


# -- trimming -------------------------------------------------------------------------------------


def test_the_peer_s_position_trims_the_store():
    """C-114."""
    near = books()
    near.send(batch(*TRACKED))
    passed = len(TRACKED[0]) + len(TRACKED[1])
    assert near.receive(keepalive(passed))[1] == ""
    assert near.first == passed
    assert near.replay() == [batch(frame) for frame in TRACKED[2:]]
    near.receive(keepalive(near.sent))
    assert near.stored == 0


def test_a_position_that_is_old_or_was_never_filled_in_changes_nothing():
    near = books()
    near.send(batch(*TRACKED))
    near.receive(keepalive(len(TRACKED[0])))
    kept = near.replay()
    for value in (0, 3, len(TRACKED[0])):
        assert near.receive(keepalive(value)) == (17, "")
    assert near.replay() == kept


def test_a_keepalive_on_a_stream_or_cut_short_says_no_position():
    near = books()
    near.send(batch(TRACKED[0]))
    whole = frames.encode_keepalive(respond=False, position=len(TRACKED[0]))
    for frame in (frames.restamp(whole, 1), whole[:13]):
        assert near.receive(batch(frame)) == (len(batch(frame)), "")
    assert near.first == 0


@pytest.mark.parametrize("respond", [True, False])
def test_a_position_ahead_or_inside_a_frame_is_a_violation_and_trims_nothing(respond):
    """C-124."""
    near = books()
    near.send(batch(*TRACKED))
    good = batch(TRACKED[0])
    for value, what in (
        (near.sent + 1, "ahead of"),
        (frames.MAX_U63, "ahead of"),
        (len(TRACKED[0]) + 1, "not the end of a frame"),
    ):
        used, text = near.receive(good + keepalive(value, respond) + good)
        assert used == len(good)  # what came before it still counts
        assert what in text
        assert str(near.sent) in text
    assert near.first == 0
    assert near.received == 3 * len(TRACKED[0])


# -- the store ------------------------------------------------------------------------------------


def test_the_store_is_bounded_by_forgetting_the_oldest():
    frame = frames.encode_payload(1, None, bytes(1000))
    cost = len(batch(frame)) + FRAME_OVERHEAD
    near = books(session_bytes=3 * cost)
    near.send(batch(*[frame] * 3))
    assert (near.first, near.stored) == (0, 3 * cost)
    near.send(batch(frame, frame))
    assert near.stored == 3 * cost
    assert near.first == 2 * len(frame)
    with pytest.raises(ResumeRefused, match=f"{len(frame)}.*{2 * len(frame)}") as caught:
        near.accept_resume(Resume(TOKEN, len(frame), 0))
    assert caught.value.reason == "position-gone"
    near.accept_resume(Resume(TOKEN, 2 * len(frame), 0))


def test_a_frame_larger_than_the_store_is_not_kept():
    near = books(session_bytes=500)
    near.send(batch(frames.encode_payload(1, None, bytes(1000))))
    assert near.stored == 0
    assert near.first == near.sent > 1000


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 400)), max_size=60))
def test_all_sessions_together_stay_within_the_pool_and_the_largest_pays(sends):
    pool = StorePool(session_bytes=1500, total_bytes=2500)
    members = [ResumeBooks(pool) for _ in range(4)]
    for index, size in sends:
        before = [member.stored for member in members]
        members[index].send(batch(frames.encode_payload(1, None, bytes(size))))
        assert pool.used == sum(member.stored for member in members) <= pool.total_bytes
        assert all(member.stored <= pool.session_bytes for member in members)
        for other, was in zip(members, before, strict=True):
            if other is not members[index] and other.stored < was:
                assert other.stored == 0
                assert was == max(b for i, b in enumerate(before) if i != index)
    for member in members:
        member.close()
    assert pool.used == 0


def test_a_closed_session_keeps_nothing():
    """C-125."""
    pool = StorePool()
    one = ResumeBooks(pool)
    one.send(batch(*TRACKED))
    assert pool.used == one.stored > 0
    one.close()
    one.close()
    assert pool.used == one.stored == 0


def test_producers_pause_at_half_a_store_and_go_on_at_a_quarter():
    frame = frames.encode_payload(1, None, bytes(1000))
    near = books(session_bytes=10 * (len(batch(frame)) + FRAME_OVERHEAD))
    near.send(batch(*[frame] * 5))
    assert not near.is_filling
    near.send(batch(frame))
    assert near.is_filling
    near.receive(keepalive(3 * len(frame)))
    assert not near.is_filling
    assert not near.is_low
    near.receive(keepalive(4 * len(frame)))
    assert near.is_low


def test_the_peer_s_position_is_asked_for_when_an_eighth_was_filled_and_once_at_a_time():
    frame = frames.encode_payload(1, None, bytes(1000))
    near = books(session_bytes=8 * (len(batch(frame)) + FRAME_OVERHEAD))
    near.receive(batch(TRACKED[0]))
    assert near.ask() is None
    near.send(batch(frame))
    assert near.ask() == keepalive(len(TRACKED[0]), respond=True)
    near.send(batch(frame, frame))
    assert near.ask() is None  # the first has no answer yet
    near.receive(keepalive(len(frame), respond=True))
    assert near.ask() is None  # the peer's own question is no answer
    near.receive(keepalive(len(frame)))
    assert near.ask() == keepalive(len(TRACKED[0]), respond=True)


def test_for_a_peer_that_answers_without_its_position_nothing_is_kept_once_it_would_be_held_up():
    """Or producers would pause for ever: what it has read is never confirmed."""
    frame = frames.encode_payload(1, None, bytes(1000))
    near = books(session_bytes=16 * (len(batch(frame)) + FRAME_OVERHEAD))
    for _ in range(4):
        near.send(batch(frame, frame))
        assert near.ask() is not None
        near.receive(keepalive(0))
        assert near.ask() is None
    assert near.first == 0
    near.send(batch(frame))
    assert near.is_filling
    assert near.ask() is not None  # once more, although little is new
    assert near.is_filling
    near.receive(keepalive(0))
    assert near.is_low
    near.send(batch(*[frame] * 16))
    assert near.is_low
    assert near.ask() is None
    assert near.first == near.sent == 25 * len(frame)
    with pytest.raises(ResumeRefused, match="position 0"):
        near.accept_resume(frames.Resume(b"t" * 16, 0, 0))


def test_answers_to_keepalives_that_overtook_what_was_sent_prove_nothing():
    """The clock's go in front of what waits for a slow peer: it has not read that yet."""
    frame = frames.encode_payload(1, None, bytes(1000))
    near = books(session_bytes=16 * (len(batch(frame)) + FRAME_OVERHEAD))
    near.send(batch(*[frame] * 9))
    assert near.ask() is not None
    near.send(keepalive(0, respond=True))
    near.receive(keepalive(0))
    assert near.is_filling
    assert near.first == 0
    near.receive(keepalive(9 * len(frame)))
    assert near.is_low
    near.send(batch(frame))
    assert near.first == 9 * len(frame)


def test_an_answer_that_confirms_what_was_forgotten_meanwhile_is_one():
    frame = frames.encode_payload(1, None, bytes(1000))
    near = books(session_bytes=8 * (len(batch(frame)) + FRAME_OVERHEAD))
    near.send(batch(frame))
    assert near.ask() is not None
    near.send(batch(*[frame] * 9))  # two are forgotten
    assert near.first == 2 * len(frame)
    near.receive(keepalive(len(frame)))
    assert near.is_filling
    assert near.replay() == [batch(frame)] * 8


def test_after_a_replay_the_position_is_asked_for_again():
    frame = frames.encode_payload(1, None, bytes(1000))
    near = books(session_bytes=8 * (len(batch(frame)) + FRAME_OVERHEAD))
    near.send(batch(*[frame] * 3))
    assert near.ask() is not None  # its answer is lost with the socket
    near.replay()
    assert near.ask() is not None
    near.receive(keepalive(3 * len(frame)))
    near.replay()
    assert near.ask() is None


def test_a_peer_earns_keepalives_by_what_moves_in_both_directions():
    near = books(session_bytes=1 << 20)
    frame = frames.encode_payload(1, None, bytes(1018))
    assert not near.earns_keepalive()
    near.send(batch(*[frame] * 4))
    near.receive(batch(*[frame] * 3))
    assert not near.earns_keepalive()
    near.receive(batch(frame))
    assert near.earns_keepalive()
    assert not near.earns_keepalive()


# -- RESUME and RESUME_OK -------------------------------------------------------------------------


@given(st.integers(0, 200), st.integers(0, 200))
def test_resume_is_accepted_at_the_positions_that_can_be_served_and_at_no_other(last, first):
    """C-118, C-124."""
    near = books()
    near.send(batch(*TRACKED))
    near.receive(batch(*TRACKED[:4]))
    near.receive(keepalive(len(TRACKED[0])))
    ends = {sum(map(len, TRACKED[:count])) for count in range(1, 9)}
    kept = near.replay()
    if last in ends and first <= near.received:
        answer = near.accept_resume(Resume(TOKEN, last, first))
        assert frames.decode_resume_ok(answer) == near.received
        assert near.first == last
    else:
        with pytest.raises(ResumeRefused) as caught:
            near.accept_resume(Resume(TOKEN, last, first))
        assert caught.value.reason in ("position-gone", "bad-position")
        assert near.replay() == kept


def test_resume_of_another_version_is_refused():
    with pytest.raises(ResumeRefused, match=r"2\.0"):
        books().accept_resume(Resume(TOKEN, 0, 0, major=2))


@given(st.integers(0, 200))
def test_resume_ok_is_accepted_at_the_positions_that_can_be_served_and_at_no_other(position):
    """C-120."""
    near = books()
    near.send(batch(*TRACKED))
    near.receive(keepalive(len(TRACKED[0])))
    if position in {sum(map(len, TRACKED[:count])) for count in range(1, 9)}:
        near.accept_resume_ok(position)
        assert near.first == position
    else:
        with pytest.raises(RemoteProtocolError, match="RESUME_OK"):
            near.accept_resume_ok(position)


# -- two ends and a wire that breaks --------------------------------------------------------------


class End:
    """One end: what it sent, what it got, and the bytes of ours under way to the other one."""

    def __init__(self):
        self.books = books()
        self.said = []
        self.heard = []
        self.wire = b""

    def send(self, frame):
        self.said.append(frame)
        self.wire += self.books.send(batch(frame))

    def ask(self):
        self.wire += self.books.send(keepalive(0, respond=True))

    def take(self, data):
        used, text = self.books.receive(data)
        assert text == ""
        found, cut_at = cut(data)
        assert used == cut_at
        self.heard += [frame for frame in found if peek(frame)[1] != frames.KEEPALIVE]


def resume(client, server):
    asked = frames.decode_resume(client.books.request_resume(TOKEN))
    answer = server.books.accept_resume(asked)
    client.books.accept_resume_ok(frames.decode_resume_ok(answer))
    client.wire = b"".join(client.books.replay())
    server.wire = b"".join(server.books.replay())


STEPS = st.one_of(
    st.tuples(st.just("send"), st.booleans(), st.sampled_from(TRACKED)),
    st.tuples(st.just("arrive"), st.booleans(), st.integers(0, 60)),
    st.tuples(st.just("ask"), st.booleans(), st.just(0)),
    st.tuples(st.just("cut"), st.booleans(), st.just(0)),
)


@given(st.lists(STEPS, max_size=80))
def test_wherever_the_wire_is_cut_every_frame_arrives_once_and_in_order(steps):
    """C-115: at any byte, in both directions, during a replay and between two."""
    client, server = End(), End()
    for what, of_client, value in steps:
        near, far = (client, server) if of_client else (server, client)
        if what == "send":
            near.send(value)
        elif what == "ask":
            near.ask()
        elif what == "arrive":  # only whole frames are handed over; the transport keeps the rest
            _, used = cut(near.wire[:value])
            far.take(near.wire[:used])
            near.wire = near.wire[used:]
        else:
            resume(client, server)
    resume(client, server)
    server.take(client.wire)
    client.take(server.wire)
    assert server.heard == client.said
    assert client.heard == server.said
    assert client.books.received == server.books.sent
    assert server.books.received == client.books.sent
