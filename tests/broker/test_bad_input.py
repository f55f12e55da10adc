"""Bad input at a real broker: the named error at the right scope, and nobody else notices.

After each piece of bad input a healthy caller on another connection is served, and the log has one
line that says who sent it and why it was closed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from rsocket_mesh import Invalid, Service, connect
from rsocket_mesh.errors import ErrorCode, NoRoute
from rsocket_mesh.protocol.announce import Announcement, ServiceInfo
from rsocket_mesh.protocol.frames import (
    ERROR,
    KEEPALIVE,
    PAYLOAD,
    REQUEST_RESPONSE,
    decode_error,
    encode_keepalive,
    encode_payload,
    encode_setup,
    peek,
)
from rsocket_mesh.protocol.framing import prefix
from tests.support.processes import BrokerProcess, broker_process
from tests.support.raw_clients import SETUP, WAIT, RawClient
from tests.support.raw_peers import request

FRAME_LIMIT = 65_536


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    config = Path(tmp_path_factory.mktemp("config")) / "broker.toml"
    config.write_text(
        f"[limits]\nframe_bytes = {FRAME_LIMIT}\n"
        '[[listeners]]\nurl = "tcp://127.0.0.1:0"\n[[listeners]]\nurl = "ws://127.0.0.1:0"\n'
    )
    with broker_process("--config", str(config), listen=()) as process:
        yield process


def others_are_served(broker: BrokerProcess) -> None:
    with (
        closing(RawClient(broker).setup(Announcement("s", services=(ServiceInfo("echo"),)))) as one,
        closing(RawClient(broker).setup()) as two,
    ):
        two.send(request(REQUEST_RESPONSE, 1))
        stream_id, kind, _ = peek(one.frame())
        assert kind == REQUEST_RESPONSE
        one.send(encode_payload(stream_id, None, b"fine", complete=True))
        answer = two.frame()
        assert peek(answer)[1] == PAYLOAD
        assert answer.endswith(b"fine")


def logged_once(broker: BrokerProcess, reason: str, name: str) -> str:
    match = broker.process.wait_for_line(
        f"WARNING.*{re.escape(name)}.*{re.escape(reason)}", stream="stderr", timeout=WAIT
    )
    lines = [line for line in broker.process.lines("stderr") if name in line and reason in line]
    assert len(lines) == 1
    return match.string


@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param(b"\x00\x00\x10" + bytes(range(16)), id="a frame of nonsense"),
        pytest.param(b"\xff" * 300, id="all ones"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 80, id="TLS hello"),
        pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n", id="SSH"),
    ],
)
def test_garbage_is_an_invalid_setup(broker: BrokerProcess, garbage: bytes) -> None:
    with closing(RawClient(broker)) as client:
        client.sock.sendall(garbage)
        assert client.refused()[0] == ErrorCode.INVALID_SETUP
        others_are_served(broker)


def test_the_log_says_once_who_sent_garbage_and_why_it_was_closed(broker: BrokerProcess) -> None:
    with broker_process() as fresh, closing(RawClient(fresh)) as client:
        client.sock.sendall(b"\x00\x00\x10" + bytes(range(16)))
        client.refused()
        line = logged_once(fresh, "invalid-setup", client.name)
        assert "the first frame must be SETUP" in line


def test_http_on_the_rsocket_port_is_told_in_http(broker: BrokerProcess) -> None:
    with closing(RawClient(broker)) as client:
        client.sock.sendall(b"GET /index.html HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while more := client.sock.recv(4096):
            answer += more
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"RSocket" in answer
        logged_once(broker, "http-on-rsocket-port", client.name)
    others_are_served(broker)


def test_a_second_setup_is_ignored_and_the_session_goes_on(broker: BrokerProcess) -> None:
    with closing(RawClient(broker).setup()) as client:
        client.send(encode_setup(SETUP), encode_keepalive(True, 0, b"still here"))
        frame = client.frame()
        assert peek(frame)[1] == KEEPALIVE
        assert frame.endswith(b"still here")


def test_an_oversized_frame_ends_its_connection_before_its_body_has_come(
    broker: BrokerProcess,
) -> None:
    with closing(RawClient(broker).setup()) as client:
        client.sock.sendall(prefix(FRAME_LIMIT + 1) + b"\0\0\0\1")
        code, text = client.refused()
        assert code == ErrorCode.CONNECTION_ERROR
        assert str(FRAME_LIMIT) in text
        assert str(FRAME_LIMIT + 1) in text
        logged_once(broker, "frame-too-long", client.name)
    others_are_served(broker)


def test_a_frame_of_exactly_the_limit_is_accepted(broker: BrokerProcess) -> None:
    with closing(RawClient(broker).setup()) as client:
        plain = request(REQUEST_RESPONSE, 1, "ghost.say", b"")
        client.send(plain + b"x" * (FRAME_LIMIT - len(plain)))
        error = decode_error(client.frame())
        assert (error.stream_id, error.text.partition(":")[0]) == (1, "NO_ROUTE")


def test_undecodable_metadata_is_an_error_of_its_request_only(broker: BrokerProcess) -> None:
    with closing(RawClient(broker).setup()) as client:
        client.send(request(REQUEST_RESPONSE, 1, metadata=b"\xfe\x00\x00\x50short"))
        client.send(request(REQUEST_RESPONSE, 3, "ghost.say"))
        first, second = decode_error(client.frame()), decode_error(client.frame())
        assert (first.stream_id, first.code) == (1, ErrorCode.INVALID)
        assert first.text.startswith("INVALID: ")
        assert (second.stream_id, second.code) == (3, ErrorCode.REJECTED)


def test_metadata_that_claims_more_than_its_frame_ends_the_connection(
    broker: BrokerProcess,
) -> None:
    """C-21."""
    with closing(RawClient(broker).setup()) as client:
        client.send(bytes.fromhex("00000001 1100 000064 6162"))
        assert client.refused()[0] == ErrorCode.CONNECTION_ERROR
    others_are_served(broker)


async def test_an_unknown_route_and_a_wrong_argument_name_what_is_wrong(
    broker: BrokerProcess,
) -> None:
    service = Service("bad-input")

    @service.request_response
    async def double(value: int) -> int:
        return 2 * value

    async with connect(broker.url("tcp"), serve=[service]) as mesh:
        own = mesh.service("bad-input")
        with pytest.raises(NoRoute, match=r"no method 'triple'.*double"):
            await own.request_response("triple", 1)
        with pytest.raises(NoRoute, match="nobody serves 'ghost'"):
            await mesh.service("ghost").request_response("say")
        with pytest.raises(Invalid, match=r"expected int, got str"):
            await own.request_response("double", "two")
        assert await own.request_response("double", 21, returns=int) == 42


def test_a_flood_of_bad_peers_is_a_few_lines_in_the_log() -> None:
    with broker_process() as broker:
        for _ in range(50):
            with closing(RawClient(broker)) as client:
                client.sock.sendall(b"\x00\x00\x10" + bytes(range(16)))
                assert peek(client.frame())[1] == ERROR
        others_are_served(broker)
        lines = [line for line in broker.process.lines("stderr") if "invalid-setup" in line]
    assert 1 <= len(lines) <= 3
