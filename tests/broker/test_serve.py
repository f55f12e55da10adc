"""The broker as a process: ports, the lines it prints, signals, the drain, exit codes."""

from __future__ import annotations

import json
import re
import signal
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from rsocket_mesh.protocol.frames import (
    KEEPALIVE,
    REQUEST_RESPONSE,
    Setup,
    encode_keepalive,
    encode_payload,
    encode_request,
    encode_setup,
    peek,
)
from rsocket_mesh.protocol.framing import prefix
from rsocket_mesh.protocol.metadata import (
    ANNOUNCE,
    COMPOSITE,
    ROUTING,
    encode_entry,
    encode_routing,
)
from tests.support.processes import BrokerProcess, Process, broker_process, running

DEADLINE = 20.0  # seconds
LONG, SHORT = "120 s", "300 ms"  # drain timeouts: not reached in a test, and reached soon


class Peer:
    """A plain client on a blocking socket: as little as a broker has to understand."""

    def __init__(self, url: str, announcement: dict[str, Any]) -> None:
        where = urlsplit(url)
        self.socket = socket.create_connection((where.hostname, where.port), DEADLINE)
        entry = encode_entry(ANNOUNCE, json.dumps(announcement).encode())
        self.send(encode_setup(Setup(60_000, 600_000, COMPOSITE, "application/json", entry)))
        self.send(encode_keepalive(respond=True))
        assert self.receive()[1] == KEEPALIVE

    def send(self, frame: bytes) -> None:
        self.socket.sendall(prefix(len(frame)) + frame)

    def receive(self) -> tuple[int, int]:
        """Stream id and type of the next frame."""
        size = int.from_bytes(self._read(3), "big")
        return peek(self._read(size))[:2]

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.socket.recv(size - len(data))
            assert piece, "the broker has closed the connection"
            data += piece
        return data


@contextmanager
def a_running_call(broker: BrokerProcess) -> Iterator[tuple[Peer, Peer, int]]:
    """A caller, a provider that has not answered yet, and the stream's id at the provider."""
    url = broker.url("tcp")
    provider = Peer(url, {"app": "provider", "services": [{"name": "slow"}]})
    caller = Peer(url, {"app": "caller"})
    with provider.socket, caller.socket:
        route = encode_entry(ROUTING, encode_routing(["slow.work"]))
        caller.send(encode_request(REQUEST_RESPONSE, 1, route, b"{}"))
        stream_id, kind = provider.receive()
        assert kind == REQUEST_RESPONSE
        yield caller, provider, stream_id


def a_broker(
    *, admin: str = "", env: Mapping[str, str] | None = None
) -> AbstractContextManager[BrokerProcess]:
    return broker_process(listen=["tcp://127.0.0.1:0"], admin=admin, env=env)


def get(url: str) -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(url, timeout=DEADLINE) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, json.load(exc)


def broker_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "broker", *arguments]


def failure(process: Process) -> tuple[int, list[str]]:
    code = process.wait(DEADLINE)
    process.kill()  # ends the threads that read its output
    return code, process.lines("stderr")


def test_one_line_per_address_with_the_real_port_and_ready_last():
    with broker_process(admin="http://127.0.0.1:0") as broker:
        *opened, last = broker.process.lines()
        assert last == "ready"
        patterns = [
            rf"listening {scheme}://127\.0\.0\.1:[1-9]\d+/?" for scheme in ("tcp", "ws", "http")
        ]
        assert len(opened) == len(patterns)
        for line, pattern in zip(opened, patterns, strict=True):
            assert re.fullmatch(pattern, line)
        for url in broker.urls:
            socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), DEADLINE).close()
        assert get(broker.url("http") + "/readyz") == (200, {"state": "ready"})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_broker_ends_in_order_on_one_signal(number):
    with a_broker() as broker:
        broker.process.signal(number)
        assert broker.process.wait(DEADLINE) == 0
        assert "Traceback" not in broker.process.report()


def test_a_signal_lets_a_running_call_finish_and_readyz_says_draining():
    env = {"RSOCKET_BROKER_DRAIN__TIMEOUT": LONG}
    with (
        a_broker(admin="http://127.0.0.1:0", env=env) as broker,
        a_running_call(broker) as (caller, provider, stream_id),
    ):
        assert get(broker.url("http") + "/api/v1/status")[1]["services"] >= 1
        broker.process.signal(signal.SIGTERM)
        broker.process.wait_for_line("draining", stream="stderr")
        assert get(broker.url("http") + "/readyz") == (503, {"state": "draining"})
        provider.send(encode_payload(stream_id, None, b"done", complete=True))
        assert caller.receive()[0] == 1
        assert broker.process.wait(DEADLINE) == 0


def test_a_call_that_does_not_finish_is_cut_off_at_the_drain_timeout():
    with (
        a_broker(env={"RSOCKET_BROKER_DRAIN__TIMEOUT": SHORT}) as broker,
        a_running_call(broker),
    ):
        broker.process.signal(signal.SIGTERM)
        assert broker.process.wait(DEADLINE) == 0


def test_a_second_signal_stops_at_once():
    with (
        a_broker(env={"RSOCKET_BROKER_DRAIN__TIMEOUT": LONG}) as broker,
        a_running_call(broker),
    ):
        broker.process.signal(signal.SIGTERM)
        broker.process.wait_for_line("draining", stream="stderr")
        broker.process.signal(signal.SIGTERM)
        assert broker.process.wait(DEADLINE) == 1
        assert "Traceback" not in broker.process.report()


@pytest.mark.parametrize("option", ["--listen", "--admin"])
def test_a_taken_port_is_one_clear_line_and_exit_1(option):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        urls = {"--listen": "tcp://127.0.0.1:0", "--admin": "http://127.0.0.1:0"}
        urls[option] = f"{urlsplit(urls[option]).scheme}://127.0.0.1:{port}"
        command = broker_command(*(word for pair in urls.items() for word in pair))
        with running(*command, name="broker") as process:
            code, lines = failure(process)
    assert code == 1
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"rsocket-broker: cannot start: cannot listen on {urls[option]}: ")
    assert "address already in use" in lines[0].lower()


def test_the_soft_limit_of_open_files_is_raised_to_the_hard_one():
    with a_broker() as broker, open(f"/proc/{broker.process.pid}/limits") as limits:
        line = next(line for line in limits if line.startswith("Max open files"))
    soft, hard = line.split()[3:5]
    assert soft == hard


def test_the_log_is_json_when_the_config_says_so():
    with a_broker(env={"RSOCKET_BROKER_LOG__FORMAT": "json"}) as broker:
        broker.process.signal(signal.SIGTERM)
        assert broker.process.wait(DEADLINE) == 0
        broker.process.wait_for_line("drained", stream="stderr")
        messages = [json.loads(line)["message"] for line in broker.process.lines("stderr")]
    assert messages[-1] == "drained"
