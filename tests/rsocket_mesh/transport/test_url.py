"""One form of URL, and errors that say what is wrong with any other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsocket_mesh.errors import RSocketError
from rsocket_mesh.transport.url import MAX_UNIX_PATH, SCHEMES, InvalidUrl, Url, parse_url


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("tcp://127.0.0.1:7878", Url("tcp", "127.0.0.1", 7878)),
        ("tcp://[::1]:7878", Url("tcp", "::1", 7878)),
        ("TCP://Broker.Example:1", Url("tcp", "broker.example", 1)),
        ("tls://broker.example:0", Url("tls", "broker.example", 0)),
        ("unix:///run/mesh.sock", Url("unix", "", 0, "/run/mesh.sock")),
        ("unix:///run/with space#1?.sock", Url("unix", "", 0, "/run/with space#1?.sock")),
        ("ws://localhost:7879/rsocket?x=1", Url("ws", "localhost", 7879, "/rsocket?x=1")),
        ("ws://localhost", Url("ws", "localhost", 80, "/")),
        ("wss://[2001:db8::1]/a/b", Url("wss", "2001:db8::1", 443, "/a/b")),
        ("memory://broker-1.a_b", Url("memory", "broker-1.a_b")),
    ],
)
def test_each_form_is_understood_and_written_back(text: str, url: Url) -> None:
    assert parse_url(text) == url
    assert parse_url(str(url)) == url


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "no scheme"),
        ("localhost:7878", "no scheme"),
        ("tcp:localhost:7878", "no scheme"),
        ("http://localhost:80", "unknown scheme"),
        ("tcp://localhost", "the port is missing"),
        ("tcp://localhost:", "the port is missing"),
        ("tcp://:7878", "the host is missing"),
        ("tcp://localhost:65536", "out of range"),
        ("tcp://localhost:seven", "Port"),
        ("tcp://::1:7878", "must stand in brackets"),
        ("tcp://[::1:7878", "IPv6"),
        ("tcp://[not-an-address]:1", "not-an-address"),
        ("tcp://localhost:1/path", "tcp has no path"),
        ("tls://localhost:1?x=1", "tls has no path"),
        ("ws://localhost/#part", "fragment"),
        ("tcp://local host:1", "blank or non-ASCII"),
        ("tcp://b\u00fccher.example:1", "blank or non-ASCII"),
        ("tcp://localhost:1\n", "blank or non-ASCII"),
        ("unix://relative/path", "must be absolute"),
        ("unix:///directory/", "must be absolute and name a file"),
        ("unix:///zero\0byte", "zero byte"),
        ("unix:///" + "x" * MAX_UNIX_PATH, "longer than 107 bytes"),
        ("unix:///half/a/\ud800/character", "cannot be encoded"),
        ("memory://", "the name"),
        ("memory://a/b", "the name"),
        ("memory://a:1", "the name"),
    ],
)
def test_anything_else_is_refused_with_the_part_that_is_wrong(text: str, what: str) -> None:
    with pytest.raises(InvalidUrl, match=what) as caught:
        parse_url(text)
    assert repr(text) in str(caught.value)
    assert "expected tcp://host:port" in str(caught.value)
    assert isinstance(caught.value, RSocketError)
    assert isinstance(caught.value, ValueError)


def test_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(InvalidUrl, match="user information is not allowed") as caught:
        parse_url("tcp://user:secret@localhost:1")
    assert "secret" not in str(caught.value)


@given(
    scheme=st.sampled_from(sorted(SCHEMES)),
    rest=st.text(st.sampled_from("abc.:/[]@?#%-0129 \0\n\u00e4\ud800"), max_size=20),
)
def test_no_text_does_anything_but_parse_or_raise_invalid_url(scheme: str, rest: str) -> None:
    try:
        url = parse_url(f"{scheme}://{rest}")
    except InvalidUrl:
        return
    assert parse_url(str(url)) == url


@pytest.mark.parametrize(
    ("text", "encrypted", "websocket"),
    [
        ("tcp://a:1", False, False),
        ("tls://a:1", True, False),
        ("ws://a:1", False, True),
        ("wss://a:1", True, True),
        ("unix:///a", False, False),
        ("memory://a", False, False),
    ],
)
def test_a_url_knows_what_is_spoken_there(text: str, encrypted: bool, websocket: bool) -> None:
    url = parse_url(text)
    assert url.is_encrypted is encrypted
    assert url.is_websocket is websocket
