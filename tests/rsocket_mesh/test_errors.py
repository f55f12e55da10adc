"""The exception tree and its form on the wire: one class per token, a class per code behind it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsocket_mesh import errors as e
from rsocket_mesh.errors import ErrorCode, StreamError, error_from_wire

# token: (class, code, may the caller try again?)  The table of the contract.
TOKENS = {
    "NO_ROUTE": (e.NoRoute, 0x202, True),
    "UNAVAILABLE": (e.Unavailable, 0x202, True),
    "OVERLOADED": (e.Overloaded, 0x202, True),
    "RATE_LIMITED": (e.RateLimited, 0x202, True),
    "DRAINING": (e.Draining, 0x202, True),
    "FORBIDDEN": (e.Forbidden, 0x202, False),
    "INVALID": (e.Invalid, 0x204, False),
    "PEER_LOST": (e.PeerLost, 0x203, False),
    "DEADLINE_EXCEEDED": (e.DeadlineExceeded, 0x203, False),
    "SLOW_CONSUMER": (e.SlowConsumer, 0x203, False),
    "APPLICATION": (e.ApplicationError, 0x201, False),
}


def test_the_codes_are_those_of_the_specification():
    assert {code.name: code.value for code in ErrorCode} == {
        "INVALID_SETUP": 0x001,
        "UNSUPPORTED_SETUP": 0x002,
        "REJECTED_SETUP": 0x003,
        "REJECTED_RESUME": 0x004,
        "CONNECTION_ERROR": 0x101,
        "CONNECTION_CLOSE": 0x102,
        "APPLICATION_ERROR": 0x201,
        "REJECTED": 0x202,
        "CANCELED": 0x203,
        "INVALID": 0x204,
    }


def test_the_tokens_are_those_of_the_contract():
    assert {token for _, token in StreamError.by_token} == set(TOKENS)


@pytest.mark.parametrize(("token", "row"), TOKENS.items())
def test_a_token_has_its_class_its_code_and_its_answer_to_may_i_retry(token, row):
    kind, code, safe_to_retry = row
    error = kind("the text")
    assert error.to_wire() == (code, f"{token}: the text")
    assert error.safe_to_retry is safe_to_retry
    assert type(error_from_wire(code, f"{token}: the text")) is kind
    assert error_from_wire(code, f"{token}: the text").text == "the text"


def test_details_stand_in_brackets_behind_the_token():
    error = e.Overloaded("try later", retry_after_ms=250, queue="full")
    assert error.to_wire() == (0x202, "OVERLOADED(retry_after_ms=250,queue=full): try later")
    received = error_from_wire(*error.to_wire())
    assert received.details == {"retry_after_ms": 250, "queue": "full"}
    assert str(received) == "try later"


@pytest.mark.parametrize(("token", "row"), TOKENS.items())
@given(text=st.text(max_size=60), number=st.integers(0, 10**18 - 1))
def test_what_is_written_is_read_again(token, row, text, number):
    kind = row[0]
    error = error_from_wire(*kind(text, retry_after_ms=number).to_wire())
    assert type(error) is kind
    assert (error.text, error.details) == (text, {"retry_after_ms": number})


@pytest.mark.parametrize(
    ("code", "kind"),
    [(0x201, e.ApplicationError), (0x202, e.Rejected), (0x203, e.Canceled), (0x204, e.Invalid)],
)
@pytest.mark.parametrize("text", ["", "no token here", "NEW_TOKEN: text", "lower: text", "X: y"])
def test_a_text_without_a_known_token_becomes_the_class_of_its_code(code, kind, text):
    error = error_from_wire(code, text)
    assert type(error) is kind
    assert (error.code, error.text, str(error)) == (code, text, text)


def test_a_token_counts_only_together_with_its_code():
    error = error_from_wire(0x201, "NO_ROUTE: says the application")
    assert type(error) is e.ApplicationError
    assert error.safe_to_retry is False
    assert error.text == "NO_ROUTE: says the application"


@pytest.mark.parametrize("code", [0x301, 0xFFFF_FFFE, 0x205, 0])
def test_a_code_of_the_application_is_kept(code):
    error = error_from_wire(code, "text")
    assert type(error) is e.ApplicationError
    assert error.code == code
    assert type(error).code == ErrorCode.APPLICATION_ERROR


@given(
    st.integers(0, 0xFFFF_FFFF) | st.sampled_from(ErrorCode),
    st.text(max_size=60)
    | st.builds("{}({}): {}".format, st.sampled_from([*TOKENS]), st.text(), st.text()),
)
def test_no_error_frame_makes_the_parser_raise(code, text):
    error = error_from_wire(code, text)
    assert isinstance(error, StreamError)
    assert error.code == code


@pytest.mark.parametrize("digits", ["9" * 5000, "\u0663", "-5", ""])
def test_a_detail_that_is_no_plain_number_stays_text(digits):
    error = error_from_wire(0x202, f"OVERLOADED(retry_after_ms={digits}): later")
    assert error.details == {"retry_after_ms": digits}


def test_a_class_cannot_take_a_token_that_is_taken():
    with pytest.raises(TypeError, match="token NO_ROUTE is already taken"):

        class Second(e.Rejected):
            token = "NO_ROUTE"

    assert StreamError.by_token[0x202, "NO_ROUTE"] is e.NoRoute


def test_an_error_of_the_application_may_want_other_arguments(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(StreamError, "by_token", dict(StreamError.by_token))

    class OutOfStock(e.StreamError):
        code = 0x301
        token = "OUT_OF_STOCK"

        def __init__(self, sku: int, left: int) -> None:
            super().__init__(f"{sku} is out of stock", left=left)

    error = error_from_wire(*OutOfStock(7, left=2).to_wire())
    assert type(error) is OutOfStock
    assert (str(error), error.details, error.route) == ("7 is out of stock", {"left": 2}, None)


def test_everything_raised_on_purpose_has_one_root():
    for name in e.__all__:
        member = getattr(e, name)
        if isinstance(member, type) and issubclass(member, Exception):
            assert issubclass(member, e.RSocketError)


def test_a_deadline_is_a_timeout_to_python_too():
    error = e.DeadlineExceeded("after 1.5 s", limit_ms=1500)
    assert isinstance(error, TimeoutError)
    assert str(error) == "after 1.5 s"
    assert error.details == {"limit_ms": 1500}


def test_a_refused_setup_knows_code_and_token():
    refused = e.SetupRefused(0x003, "INVALID: services[0].name: 'a b'")
    assert (refused.code, refused.token) == (0x003, "INVALID")
    assert e.SetupRefused(0x003, "go away").token is None


def test_a_fault_of_the_peer_carries_the_code_that_tells_it_so():
    assert e.RemoteProtocolError("bad").code == ErrorCode.CONNECTION_ERROR
    assert e.RemoteProtocolError("bad", ErrorCode.INVALID_SETUP).code == 0x001
