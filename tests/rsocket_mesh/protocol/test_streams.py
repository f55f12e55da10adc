"""One stream's life: the tables pair by pair, then credit, fragments and the unexpected."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsocket_mesh.errors import (
    ApplicationError,
    Canceled,
    ErrorCode,
    Invalid,
    LocalProtocolError,
    RemoteProtocolError,
)
from rsocket_mesh.protocol import frames
from rsocket_mesh.protocol.fragments import ReassemblyBudget
from rsocket_mesh.protocol.frames import (
    CANCEL,
    ERROR,
    FLAG_COMPLETE,
    FLAG_FOLLOWS,
    FLAG_METADATA,
    FLAG_NEXT,
    MAX_REQUEST_N,
    PAYLOAD,
    REQUEST_CHANNEL,
    REQUEST_FNF,
    REQUEST_N,
    REQUEST_RESPONSE,
    REQUEST_STREAM,
    peek,
)
from rsocket_mesh.protocol.payload import Payload
from rsocket_mesh.protocol.stream_rules import (
    ENDED,
    REQUESTER_RULES,
    RESPONDER_RULES,
    Effect,
    Phase,
    Signal,
)
from rsocket_mesh.protocol.streams import (
    UNLIMITED,
    RequesterStream,
    ResponderStream,
    add_credit,
)

RECEIVED = [signal for signal in Signal if signal < Signal.SEND_ITEM]
OWN = [signal for signal in Signal if signal >= Signal.SEND_ITEM]
FRAMES = {
    Signal.ITEM: frames.encode_payload(1, None, b"x"),
    Signal.LAST_ITEM: frames.encode_payload(1, None, b"x", complete=True),
    Signal.COMPLETE: frames.encode_payload(1, None, b"", next=False, complete=True),
    Signal.REQUEST_N: frames.encode_request_n(1, 3),
    Signal.CANCEL: frames.encode_cancel(1),
    Signal.ERROR: frames.encode_error(1, ErrorCode.APPLICATION_ERROR, "no"),
}


def receive(stream, frame):
    _, kind, flags = peek(frame)
    return stream.receive_frame(kind, flags, frame)


def effect_of(stream, frame):
    return receive(stream, frame)[0]


def requester(kind, n=1, budget=None):
    return RequesterStream(1, kind, budget or ReassemblyBudget(), n)


def responder(kind, n=1, *, complete=False, budget=None):
    """A stream whose unfragmented request has arrived."""
    stream = ResponderStream(1, kind, budget or ReassemblyBudget())
    with_n = kind in (REQUEST_STREAM, REQUEST_CHANNEL)
    frame = frames.encode_request(kind, 1, None, b"q", n if with_n else None, complete=complete)
    assert stream.receive_request(peek(frame)[2], frame)[0] is Effect.REQUESTED
    return stream


def assembling(kind, budget=None, n=1):
    """A stream of which only the first fragment has arrived."""
    stream = ResponderStream(1, kind, budget or ReassemblyBudget())
    with_n = kind in (REQUEST_STREAM, REQUEST_CHANNEL)
    frame = frames.encode_request(kind, 1, b"m", b"q", n if with_n else None, follows=True)
    assert stream.receive_request(peek(frame)[2], frame)[0] is Effect.HELD
    return stream


def fragment(data=b"x", metadata=None, **flags):
    return frames.encode_payload(1, metadata, data, **{"follows": True, **flags})


def raw(flags, body=b""):
    return frames.HEADER.pack(1, PAYLOAD << 10 | flags) + body


# -- the tables -----------------------------------------------------------------------------------


RULES = {RequesterStream: REQUESTER_RULES, ResponderStream: RESPONDER_RULES}


def pairs(signals):
    """Every pair that can be brought about: a requester assembles and answers no requests."""
    return [
        pytest.param(side, phase, signal, id=f"{side.__name__}-{phase.name}-{signal.name}")
        for side in RULES
        for phase in Phase
        for signal in signals
        if side is ResponderStream
        or not (phase is Phase.ASSEMBLING or signal is Signal.SEND_LAST_ITEM)
    ]


def in_phase(side, phase):
    """A stream of *side* in *phase*, with credit and expectations to do anything."""
    kinds = {
        Phase.AWAITING: REQUEST_RESPONSE,
        Phase.ANSWERING: REQUEST_RESPONSE,
        Phase.ASSEMBLING: REQUEST_CHANNEL,
    }
    kind = kinds.get(phase, REQUEST_CHANNEL)
    stream = (
        requester(kind, 5)
        if side is RequesterStream
        else ResponderStream(1, kind, ReassemblyBudget())
    )
    stream.phase = phase
    stream.credit = stream.expected = 5
    if phase is Phase.ASSEMBLING:
        stream = assembling(kind, n=5)
    return stream


def act(stream, signal):
    {
        Signal.SEND_ITEM: stream.send_item,
        Signal.SEND_LAST_ITEM: getattr(stream, "send_answer", stream.send_item),
        Signal.SEND_COMPLETE: stream.send_complete,
        Signal.SEND_REQUEST_N: lambda: stream.send_request_n(1),
        Signal.SEND_CANCEL: stream.send_cancel,
        Signal.SEND_ERROR: lambda: stream.send_error(Canceled("x")),
    }[signal]()


@pytest.mark.parametrize(("side", "phase", "signal"), pairs(RECEIVED))
def test_each_frame_does_what_its_row_says_and_is_ignored_without_one(side, phase, signal):
    stream = in_phase(side, phase)
    outcome = receive(stream, FRAMES[signal])
    if phase is Phase.ASSEMBLING and signal in (Signal.ITEM, Signal.LAST_ITEM, Signal.COMPLETE):
        # What `_begin` enters: a channel, half closed if this was the last item.
        complete = signal is not Signal.ITEM
        assert outcome[0] is Effect.REQUESTED
        assert stream.phase is (Phase.SENDING if complete else Phase.DUPLEX)
        return
    effect, following = RULES[side].get((phase, signal), (Effect.IGNORED, phase))
    assert (outcome[0], stream.phase) == (effect, following)
    assert outcome[3] == ()
    assert (outcome[1] is not None) == (effect in (Effect.ITEM, Effect.LAST_ITEM))
    if effect is Effect.FAILED:
        assert isinstance(outcome[2], ApplicationError)


@pytest.mark.parametrize(("side", "phase", "signal"), pairs(OWN))
def test_our_own_illegal_act_raises_and_changes_nothing(side, phase, signal):
    stream = in_phase(side, phase)
    rule = RULES[side].get((phase, signal))
    if rule is None:
        with pytest.raises(LocalProtocolError):
            act(stream, signal)
        assert stream.phase is phase
        assert stream.credit == 5
    else:
        act(stream, signal)
        assert stream.phase is rule[1]


@pytest.mark.parametrize("rules", [REQUESTER_RULES, RESPONDER_RULES])
def test_the_tables_never_reopen_a_half(rules):
    halves = {Phase.DUPLEX: 3, Phase.SENDING: 2, Phase.RECEIVING: 1, Phase.ENDED: 0}
    for (phase, _), (_, following) in rules.items():
        assert phase is not ENDED
        if phase in halves:
            assert halves[following] & ~halves[phase] == 0


@given(
    kind=st.sampled_from([REQUEST_RESPONSE, REQUEST_STREAM, REQUEST_CHANNEL]),
    received=st.lists(st.tuples(st.integers(0, 63), st.integers(0, 1023), st.binary(max_size=12))),
)
def test_no_sequence_of_well_formed_or_odd_frames_breaks_a_requester(kind, received):
    stream = requester(kind, 2)
    for frame_type, flags, body in received:
        ended = stream.phase is ENDED
        frame = frames.HEADER.pack(1, frame_type << 10 | flags) + body
        try:
            outcome = stream.receive_frame(frame_type, flags, frame)
        except RemoteProtocolError:
            continue  # malformed: ends the connection, and says so
        assert not ended or outcome[0] is Effect.IGNORED
        assert stream.expected >= -1


# -- request-response and fire-and-forget ---------------------------------------------------------


def test_an_answer_with_next_and_complete_completes_the_call():
    """C-66."""
    stream = requester(REQUEST_RESPONSE)
    frame = frames.encode_payload(1, b"m", b"d", complete=True)
    assert receive(stream, frame)[:2] == (Effect.LAST_ITEM, Payload(b"d", b"m"))
    assert stream.phase is ENDED


def test_an_answer_without_complete_is_taken_as_complete():
    """C-67."""
    stream = requester(REQUEST_RESPONSE)
    assert receive(stream, frames.encode_payload(1, None, b"d"))[0] is Effect.LAST_ITEM
    assert stream.phase is ENDED


def test_complete_alone_completes_without_an_item():
    """C-68."""
    stream = requester(REQUEST_RESPONSE)
    assert receive(stream, FRAMES[Signal.COMPLETE])[:2] == (Effect.COMPLETED, None)


def test_an_item_without_bytes_is_an_item():
    """C-24 and b08."""
    stream = requester(REQUEST_STREAM, 2)
    assert receive(stream, raw(FLAG_NEXT))[:2] == (Effect.ITEM, Payload(b"", None))
    assert receive(stream, raw(FLAG_NEXT | FLAG_METADATA, b"\0\0\0"))[1] == Payload(b"", b"")


def test_a_cancel_ends_the_answering():
    """C-69."""
    stream = responder(REQUEST_RESPONSE)
    assert effect_of(stream, FRAMES[Signal.CANCEL]) is Effect.CANCELED
    with pytest.raises(LocalProtocolError):
        stream.send_answer()


@pytest.mark.parametrize("kind", [REQUEST_RESPONSE, REQUEST_STREAM, REQUEST_CHANNEL])
@pytest.mark.parametrize("signal", RECEIVED)
def test_everything_behind_our_own_cancel_is_ignored(kind, signal):
    """C-70."""
    stream = requester(kind)
    stream.send_cancel()
    assert effect_of(stream, FRAMES[signal]) is Effect.IGNORED


def test_fire_and_forget_ends_with_its_request_and_says_nothing():
    """C-71: not even about a violation."""
    assert responder(REQUEST_FNF).phase is ENDED
    stream = assembling(REQUEST_FNF, ReassemblyBudget(message_limit=200))
    effect, _, error, replies = receive(stream, fragment(b"x" * 300))
    assert (effect, replies) == (Effect.FAILED, ())
    assert isinstance(error, Canceled)


def test_error_codes_beyond_ours_fail_the_call_too():
    """b04: an application code and text that is not UTF-8 must not hang the caller."""
    stream = requester(REQUEST_RESPONSE)
    frame = frames.HEADER.pack(1, ERROR << 10) + b"\x00\x00\x03\x01\xff\xfe"
    effect, _, error, _ = receive(stream, frame)
    assert effect is Effect.FAILED
    assert isinstance(error, ApplicationError)
    assert error.code == 0x301


@pytest.mark.parametrize("kind", [REQUEST_RESPONSE, REQUEST_FNF])
def test_requests_without_metadata_and_data_are_requests(kind):
    """C-25."""
    stream = ResponderStream(1, kind, ReassemblyBudget())
    frame = frames.encode_request(kind, 1, None, b"")
    assert stream.receive_request(0, frame)[:2] == (Effect.REQUESTED, Payload(b"", None))


# -- credit ---------------------------------------------------------------------------------------


def test_credit_is_the_initial_n_and_every_request_n():
    """C-72, C-74."""
    stream = responder(REQUEST_STREAM, 3)
    assert effect_of(stream, frames.encode_request_n(1, 2)) is Effect.CREDIT
    for _ in range(5):
        stream.send_item()
    with pytest.raises(LocalProtocolError, match="no credit"):
        stream.send_item()


def test_complete_and_error_need_no_credit():
    """C-73."""
    stream = responder(REQUEST_STREAM, 1)
    stream.send_item()
    assert stream.send_complete() == FRAMES[Signal.COMPLETE]
    stream = responder(REQUEST_STREAM, 1)
    stream.send_item()
    assert peek(stream.send_error(Canceled("x")))[1] == ERROR


@given(st.lists(st.integers(1, MAX_REQUEST_N)))
def test_credit_adds_up_and_stays_unlimited_once_it_is(grants):
    """C-74: it survives a sum above 2^31-1; row 25: that is not counted down any more."""
    credit = 0
    for n in grants:
        credit = add_credit(credit, n)
    assert credit == min(sum(grants), UNLIMITED)


def test_unlimited_credit_is_not_counted_down():
    stream = responder(REQUEST_STREAM, MAX_REQUEST_N)
    for _ in range(3):
        stream.send_item()
    assert stream.credit == UNLIMITED
    waiting = requester(REQUEST_STREAM, MAX_REQUEST_N)
    assert effect_of(waiting, FRAMES[Signal.ITEM]) is Effect.ITEM
    assert waiting.expected == UNLIMITED


@pytest.mark.parametrize("n", [0, 1 << 31, 0xFFFF_FFFF])
@pytest.mark.parametrize("kind", [REQUEST_STREAM, REQUEST_CHANNEL])
def test_an_invalid_initial_n_does_not_start_the_stream(kind, n):
    """C-75."""
    stream = ResponderStream(1, kind, ReassemblyBudget())
    frame = frames.HEADER.pack(1, kind << 10) + n.to_bytes(4, "big")
    effect, _, error, replies = stream.receive_request(0, frame)
    assert (effect, stream.phase) == (Effect.FAILED, ENDED)
    assert isinstance(error, Invalid)
    assert frames.decode_error(replies[0]).code == ErrorCode.INVALID


@pytest.mark.parametrize("n", [0, 1 << 31])
@pytest.mark.parametrize(
    "stream",
    [
        lambda: responder(REQUEST_STREAM),
        lambda: responder(REQUEST_CHANNEL),
        lambda: assembling(REQUEST_CHANNEL),
    ],
)
def test_an_invalid_request_n_ends_the_stream(stream, n):
    """C-76."""
    stream = stream()
    frame = frames.HEADER.pack(1, REQUEST_N << 10) + n.to_bytes(4, "big")
    effect, _, _, replies = receive(stream, frame)
    assert (effect, stream.phase) == (Effect.FAILED, ENDED)
    assert frames.decode_error(replies[0]).code == ErrorCode.INVALID


def test_an_invalid_request_n_from_a_channels_responder_cancels_it():
    """C-76, the requester's side."""
    stream = requester(REQUEST_CHANNEL)
    _, _, error, replies = receive(stream, frames.HEADER.pack(1, REQUEST_N << 10) + bytes(4))
    assert isinstance(error, Invalid)
    assert peek(replies[0])[1] == CANCEL


@pytest.mark.parametrize("kind", [REQUEST_RESPONSE, REQUEST_STREAM])
def test_request_n_where_there_is_no_half_to_grant_is_ignored(kind):
    """C-77."""
    assert effect_of(requester(kind), FRAMES[Signal.REQUEST_N]) is Effect.IGNORED
    assert effect_of(responder(REQUEST_RESPONSE), FRAMES[Signal.REQUEST_N]) is Effect.IGNORED


def test_one_item_over_the_credit_is_tolerated_and_the_next_ends_the_stream():
    """C-78 and row 27; b21: asked one, got a thousand."""
    stream = requester(REQUEST_STREAM, 1)
    assert effect_of(stream, FRAMES[Signal.ITEM]) is Effect.ITEM
    assert effect_of(stream, FRAMES[Signal.ITEM]) is Effect.ITEM
    effect, _, error, replies = receive(stream, FRAMES[Signal.ITEM])
    assert (effect, stream.phase) == (Effect.FAILED, ENDED)
    assert isinstance(error, Invalid)
    assert [peek(frame)[1] for frame in replies] == [CANCEL]


def test_the_tolerated_item_counts_against_the_next_grant():
    stream = requester(REQUEST_STREAM, 1)
    for _ in range(2):
        receive(stream, FRAMES[Signal.ITEM])
    stream.send_request_n(1)
    assert stream.expected == 0


def test_a_fragment_over_the_credit_is_not_even_kept():
    budget = ReassemblyBudget()
    stream = requester(REQUEST_STREAM, 1, budget)
    for _ in range(2):
        receive(stream, FRAMES[Signal.ITEM])
    assert effect_of(stream, fragment()) is Effect.FAILED
    assert budget.used == 0


def test_a_channels_responder_polices_the_requesters_items():
    """Row 27: go sends its first item before any REQUEST_N; that one is tolerated."""
    stream = responder(REQUEST_CHANNEL)
    assert effect_of(stream, FRAMES[Signal.ITEM]) is Effect.ITEM
    effect, _, _, replies = receive(stream, FRAMES[Signal.ITEM])
    assert effect is Effect.FAILED
    assert frames.decode_error(replies[0]).code == ErrorCode.INVALID


def test_payload_with_neither_next_nor_complete_is_dropped_and_its_credit_returned():
    """C-88; b08 and b25: an rsocket-py producer has spent a credit on it."""
    stream = requester(REQUEST_STREAM, 2)
    assert effect_of(stream, raw(0, b"lost")) is Effect.RETURNED
    assert stream.expected == 1
    assert effect_of(requester(REQUEST_RESPONSE), raw(0, b"x")) is Effect.IGNORED


def test_a_peer_cannot_earn_credit_with_empty_payloads():
    stream = requester(REQUEST_STREAM, 1)
    assert effect_of(stream, raw(0)) is Effect.RETURNED
    assert effect_of(stream, raw(0)) is Effect.IGNORED


# -- channels -------------------------------------------------------------------------------------


def test_a_channels_requester_has_no_credit_before_the_first_request_n():
    """C-79."""
    stream = requester(REQUEST_CHANNEL, 5)
    with pytest.raises(LocalProtocolError):
        stream.send_item()
    receive(stream, frames.encode_request_n(1, 1))
    stream.send_item()


def test_completion_of_one_half_leaves_the_other_working():
    """C-81, whichever completes first, on both sides."""
    for stream in (requester(REQUEST_CHANNEL, 5), responder(REQUEST_CHANNEL, 5)):
        stream.expected = stream.credit = 5
        stream.send_complete()
        assert effect_of(stream, FRAMES[Signal.ITEM]) is Effect.ITEM
        assert effect_of(stream, FRAMES[Signal.COMPLETE]) is Effect.COMPLETED
        assert stream.phase is ENDED
    for stream in (requester(REQUEST_CHANNEL, 5), responder(REQUEST_CHANNEL, 5)):
        stream.expected = stream.credit = 5
        assert effect_of(stream, FRAMES[Signal.COMPLETE]) is Effect.COMPLETED
        stream.send_item()
        stream.send_complete()
        assert stream.phase is ENDED


def test_a_channel_that_begins_complete_has_only_the_responders_half():
    """C-82."""
    stream = responder(REQUEST_CHANNEL, 5, complete=True)
    assert stream.phase is Phase.SENDING
    assert effect_of(stream, FRAMES[Signal.ITEM]) is Effect.IGNORED


@pytest.mark.parametrize("half_closed", [False, True])
def test_an_error_ends_both_halves_of_a_channel(half_closed):
    """C-83 and b18, by either side, also when one half was complete."""
    for stream in (requester(REQUEST_CHANNEL), responder(REQUEST_CHANNEL)):
        if half_closed:
            stream.send_complete()
        receive(stream, FRAMES[Signal.ERROR])
        assert stream.phase is ENDED
    for stream in (requester(REQUEST_CHANNEL), responder(REQUEST_CHANNEL)):
        if half_closed:
            receive(stream, FRAMES[Signal.COMPLETE])
        stream.send_error(ApplicationError("x"))
        assert stream.phase is ENDED


@pytest.mark.parametrize("complete", [False, True])
def test_cancel_by_the_requester_ends_both_halves(complete):
    """C-84."""
    stream = responder(REQUEST_CHANNEL, complete=complete)
    assert effect_of(stream, FRAMES[Signal.CANCEL]) is Effect.CANCELED
    assert stream.phase is ENDED


def test_cancel_by_the_responder_stops_our_sending_and_nothing_else():
    """C-85."""
    stream = requester(REQUEST_CHANNEL, 5)
    assert effect_of(stream, FRAMES[Signal.CANCEL]) is Effect.STOPPED
    assert not stream.is_sending
    assert effect_of(stream, FRAMES[Signal.ITEM]) is Effect.ITEM


def test_payload_behind_the_requesters_complete_is_ignored():
    """C-86."""
    stream = responder(REQUEST_CHANNEL)
    receive(stream, FRAMES[Signal.COMPLETE])
    assert effect_of(stream, FRAMES[Signal.ITEM]) is Effect.IGNORED
    assert effect_of(stream, fragment()) is Effect.IGNORED


def test_error_canceled_follows_the_cancel_of_a_channel_that_is_still_sending():
    """Row 23: responders in go, C++ and rsocket-py close only their own half on CANCEL."""
    both = requester(REQUEST_CHANNEL).send_cancel()
    assert [peek(frame)[1] for frame in both] == [CANCEL, ERROR]
    assert frames.decode_error(both[1]).code == ErrorCode.CANCELED
    stream = requester(REQUEST_CHANNEL)
    stream.send_complete()
    assert [peek(frame)[1] for frame in stream.send_cancel()] == [CANCEL]


@pytest.mark.parametrize("kind", [4, 5, 6, 7])
@pytest.mark.parametrize("mine", [4, 6, 7])
def test_a_request_on_an_id_in_use_disturbs_nothing(mine, kind):
    """C-59, C-87, and C-60 where the id is our own."""
    n = 1 if kind >= REQUEST_STREAM else None
    frame = frames.encode_request(kind, 1, None, b"other", n)
    for stream in (responder(mine), requester(mine)):
        before = stream.phase
        assert receive(stream, frame) == (Effect.IGNORED, None, None, ())
        assert stream.phase is before


# -- fragments ------------------------------------------------------------------------------------


def test_a_fragmented_item_uses_one_credit():
    """C-94."""
    stream = requester(REQUEST_STREAM, 2)
    assert effect_of(stream, fragment(b"a")) is Effect.HELD
    assert effect_of(stream, fragment(b"b")) is Effect.HELD
    frame = fragment(b"c", follows=False)
    assert receive(stream, frame)[:2] == (Effect.ITEM, Payload(b"abc"))
    assert stream.expected == 1


def test_complete_of_the_last_fragment_takes_effect_behind_the_item():
    """C-96."""
    stream = requester(REQUEST_STREAM, 2)
    receive(stream, fragment(b"a"))
    outcome = receive(stream, fragment(b"b", follows=False, complete=True))
    assert outcome[:2] == (Effect.LAST_ITEM, Payload(b"ab"))


def test_a_fragment_with_follows_and_complete_is_the_last():
    """C-97."""
    stream = requester(REQUEST_STREAM, 2)
    receive(stream, fragment(b"a"))
    assert receive(stream, fragment(b"b", complete=True))[:2] == (
        Effect.LAST_ITEM,
        Payload(b"ab"),
    )


def test_a_fragment_without_next_belongs_to_an_open_message_only():
    """Row 5."""
    stream = requester(REQUEST_STREAM, 2)
    assert effect_of(stream, raw(FLAG_FOLLOWS, b"nothing")) is Effect.IGNORED
    receive(stream, fragment(b"a"))
    receive(stream, raw(FLAG_FOLLOWS, b"b"))
    assert receive(stream, raw(0, b"c"))[:2] == (Effect.ITEM, Payload(b"abc"))


def test_cancel_between_fragments_discards_the_request():
    """C-98."""
    budget = ReassemblyBudget()
    stream = assembling(REQUEST_RESPONSE, budget)
    assert budget.used > 0
    assert effect_of(stream, FRAMES[Signal.CANCEL]) is Effect.CANCELED
    assert budget.used == 0
    assert effect_of(stream, fragment(follows=False)) is Effect.IGNORED


@pytest.mark.parametrize("kind", [REQUEST_RESPONSE, REQUEST_STREAM, REQUEST_CHANNEL])
def test_a_request_over_the_limit_is_refused_and_its_bytes_released(kind):
    """C-99 and b12."""
    budget = ReassemblyBudget(message_limit=1000)
    stream = assembling(kind, budget)
    while True:
        effect, _, _, replies = receive(stream, fragment(b"x" * 100))
        if effect is not Effect.HELD:
            break
    assert effect is Effect.FAILED
    assert frames.decode_error(replies[0]).code == ErrorCode.CANCELED
    assert budget.used == 0


def test_an_item_over_the_limit_cancels_the_stream():
    """C-99, the requester's side."""
    budget = ReassemblyBudget(message_limit=200)
    stream = requester(REQUEST_STREAM, 1, budget)
    effect, _, error, replies = receive(stream, fragment(b"x" * 200))
    assert effect is Effect.FAILED
    assert isinstance(error, Canceled)
    assert peek(replies[0])[1] == CANCEL
    assert budget.used == 0


@pytest.mark.parametrize("kind", [4, 5, 6, 7])
def test_a_new_request_is_never_mixed_into_one_that_is_being_assembled(kind):
    """C-101."""
    stream = assembling(REQUEST_RESPONSE)
    n = 1 if kind >= REQUEST_STREAM else None
    other = frames.encode_request(kind, 1, None, b"other", n)
    assert effect_of(stream, other) is Effect.IGNORED
    assert receive(stream, fragment(b"!", follows=False))[1] == Payload(b"q!", b"m")


def test_error_during_reassembly_releases_the_pieces():
    """C-102, both sides."""
    for make in (
        lambda budget: assembling(REQUEST_CHANNEL, budget),
        lambda budget: requester(REQUEST_STREAM, 1, budget),
    ):
        budget = ReassemblyBudget()
        stream = make(budget)
        receive(stream, fragment())
        assert budget.used > 0
        receive(stream, FRAMES[Signal.ERROR])
        assert budget.used == 0
        assert stream.phase is ENDED


def test_loss_of_the_connection_releases_the_pieces():
    """C-102."""
    budget = ReassemblyBudget()
    stream = assembling(REQUEST_RESPONSE, budget)
    stream.drop_pieces()
    assert budget.used == 0


def test_our_own_cancel_releases_the_pieces():
    budget = ReassemblyBudget()
    stream = requester(REQUEST_STREAM, 2, budget)
    receive(stream, fragment())
    stream.send_cancel()
    assert budget.used == 0


def test_request_n_between_fragments_is_accepted():
    stream = assembling(REQUEST_STREAM, n=1)
    assert effect_of(stream, frames.encode_request_n(1, 4)) is Effect.CREDIT
    assert effect_of(stream, fragment(follows=False)) is Effect.REQUESTED
    assert stream.credit == 5


@pytest.mark.parametrize("where", ["first", "last"])
def test_complete_of_a_fragmented_channel_request_counts_once_it_is_whole(where):
    """Row 6: js sets it on the first fragment, the others on the last."""
    stream = ResponderStream(1, REQUEST_CHANNEL, ReassemblyBudget())
    frame = frames.encode_request(
        REQUEST_CHANNEL, 1, None, b"a", 1, follows=True, complete=where == "first"
    )
    assert stream.receive_request(peek(frame)[2], frame)[0] is Effect.HELD
    receive(stream, fragment(b"b", follows=False, complete=where == "last"))
    assert stream.phase is Phase.SENDING


@pytest.mark.parametrize("where", [requester, responder])
def test_a_malformed_body_is_the_connections_matter(where):
    """C-21, C-22."""
    stream = where(REQUEST_CHANNEL, 5)
    with pytest.raises(RemoteProtocolError):
        receive(stream, raw(FLAG_NEXT | FLAG_METADATA, b"\0\0\x64ab"))
    with pytest.raises(RemoteProtocolError):
        receive(stream, raw(FLAG_NEXT | FLAG_METADATA, b"\0"))


@pytest.mark.parametrize("kind", [REQUEST_N, CANCEL, ERROR])
def test_undefined_flags_do_not_matter(kind):
    """C-11: go sets N on REQUEST_CHANNEL, rust C on CANCEL."""
    body = {REQUEST_N: b"\0\0\0\1", CANCEL: b"", ERROR: b"\0\0\2\1"}[kind]
    plain, odd = (responder(REQUEST_STREAM) for _ in range(2))
    for stream, flags in ((plain, 0), (odd, FLAG_COMPLETE | FLAG_NEXT | FLAG_FOLLOWS)):
        frame = frames.HEADER.pack(1, kind << 10 | flags) + body
        stream.receive_frame(kind, flags, frame)
    assert (plain.phase, plain.credit) == (odd.phase, odd.credit)
