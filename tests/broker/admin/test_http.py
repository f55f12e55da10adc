"""The admin side over real HTTP."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest

from broker.admin.http import DEFAULT_ROWS, WARN_KEYS, AdminServer
from broker.admin.page import CONTENT_SECURITY_POLICY
from broker.config import AdminConfig
from tests.support.broker_view import FakeView, a_connection, a_service, a_snapshot

DEADLINE = 10.0  # seconds for one answer on a busy machine


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self):
        assert self.headers["content-type"].startswith("application/json")
        return json.loads(self.body)


async def ask(
    server: AdminServer, path: str, *, method: str = "GET", host: str | None = None
) -> Answer:
    """One request written by hand, so that its `Host` is exactly what the test says."""
    url = urlsplit(server.url)
    request = f"{method} {path} HTTP/1.1\r\nConnection: close\r\n"
    if host != "":
        request += f"Host: {url.netloc if host is None else host}\r\n"
    async with asyncio.timeout(DEADLINE):
        reader, writer = await asyncio.open_connection(url.hostname, url.port)
        try:
            writer.write(request.encode() + b"\r\n")
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        finally:
            writer.close()
            await writer.wait_closed()
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    return Answer(int(first.split()[1]), headers, body)


@pytest.fixture
def view() -> FakeView:
    return FakeView()


@pytest.fixture
async def server(view: FakeView) -> AsyncIterator[AdminServer]:
    server = AdminServer(view, AdminConfig("http://127.0.0.1:0", ("Broker.example.org",)))
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def test_the_url_is_the_configured_one_until_the_port_is_known(view):
    assert AdminServer(view, AdminConfig("http://127.0.0.1:0")).url == "http://127.0.0.1:0"


async def test_the_url_has_the_real_port(server):
    assert urlsplit(server.url).port != 0


async def test_healthz_answers_in_every_state(server, view):
    for state in ("starting", "ready", "draining"):
        view.shown = a_snapshot(state)
        answer = await ask(server, "/healthz")
        assert (answer.status, answer.json) == (200, {"status": "ok"})


@pytest.mark.parametrize(
    ("state", "status"), [("starting", 503), ("ready", 200), ("draining", 503), ("stopped", 503)]
)
async def test_readyz_is_200_only_when_ready_and_always_names_the_state(
    server, view, state, status
):
    view.shown = a_snapshot(state)
    answer = await ask(server, "/readyz")
    assert (answer.status, answer.json) == (status, {"state": state})


async def test_metrics_are_prometheus_text(server, view):
    view.counters.accepted = 5
    answer = await ask(server, "/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    assert b"\nrsocket_broker_connections_accepted_total 5.0\n" in answer.body
    assert b"\nprocess_cpu_seconds_total " in answer.body


async def test_status_has_the_totals(server, view):
    view.counters.accepted = 5
    view.counters.closes["peer-closed"] = 2
    view.counters.resumed = 3
    view.counters.resume_refused["ended"] = 1
    view.shown = a_snapshot(connections=(a_connection(),), services=(a_service(),))
    status = (await ask(server, "/api/v1/status")).json
    assert status["state"] == "ready"
    assert status["version"] == "1.2.3"
    assert (status["connections"], status["services"], status["streams_open"]) == (1, 1, 7)
    assert (status["accepted"], status["closes"]) == (5, {"peer-closed": 2})
    assert (status["resumed"], status["resume_refused"]) == (3, {"ended": 1})


async def test_connections_and_services_are_listed_with_every_field(server, view):
    view.shown = a_snapshot(connections=(a_connection(),), services=(a_service(),))
    answer = (await ask(server, "/api/v1/connections")).json
    assert answer["total"] == 1
    assert answer["connections"][0] == {**a_connection()._asdict(), "services": ["orders"]}
    answer = (await ask(server, "/api/v1/services")).json
    assert answer["services"][0] == {**a_service()._asdict(), "versions": ["1.4.0"]}


async def test_a_long_list_comes_in_parts(server, view):
    total = DEFAULT_ROWS + 10
    view.shown = a_snapshot(connections=tuple(map(a_connection, range(total))))
    answer = (await ask(server, "/api/v1/connections")).json
    assert (answer["total"], len(answer["connections"])) == (total, DEFAULT_ROWS)
    answer = (await ask(server, f"/api/v1/connections?offset={DEFAULT_ROWS}&limit=3")).json
    assert [row["id"] for row in answer["connections"]] == [1000, 1001, 1002]
    answer = (await ask(server, "/api/v1/connections?limit=999999999")).json
    assert len(answer["connections"]) == total


@pytest.mark.parametrize("query", ["limit=-1", "limit=x", "offset=1.5", "limit=9999999999"])
async def test_a_bad_number_in_the_query_is_explained(server, query):
    answer = await ask(server, f"/api/v1/services?{query}")
    assert answer.status == 400
    assert "is a whole number from 0; got" in answer.json["error"]


async def test_the_page_is_html_under_a_strict_policy(server, view):
    view.shown = a_snapshot(connections=(a_connection(app="<b>"),))
    answer = await ask(server, "/")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
    assert b"&lt;b&gt;" in answer.body


@pytest.mark.parametrize("path", ["/", "/healthz", "/nothing", "/metrics"])
async def test_every_answer_forbids_guessing_caching_and_framing(server, path):
    headers = (await ask(server, path)).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert headers["server"] == "rsocket-broker"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


async def test_an_unknown_path_is_answered_with_those_that_exist(server):
    answer = await ask(server, "/api/v2/<x>")
    assert answer.status == 404
    assert answer.json["error"].startswith("there is no /api/v2/<x>")
    assert "/api/v1/status" in answer.json["paths"]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
async def test_nothing_can_be_changed_here(server, method):
    answer = await ask(server, "/api/v1/status", method=method)
    assert answer.status == 405
    assert "GET" in answer.headers["allow"]
    assert f"{method} is not allowed" in answer.json["error"]


async def test_head_is_answered_without_a_body(server):
    answer = await ask(server, "/healthz", method="HEAD")
    assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize(
    "host",
    ["localhost", "LocalHost:1234", "127.0.0.1:80", "[::1]:7880", "broker.example.org", None],
)
async def test_a_host_that_is_ours_is_served(server, host):
    assert (await ask(server, "/readyz", host=host)).status == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example.org",
        "localhost.evil.example.org",
        "127.0.0.2",
        "evil@localhost",
        "localhost/.evil.example.org",
        "[::1",
        "",
    ],
)
@pytest.mark.parametrize("path", ["/", "/healthz", "/metrics", "/nothing"])
async def test_a_host_that_is_not_ours_learns_nothing(server, host, path):
    answer = await ask(server, path, host=host)
    if answer.status == 400:  # what the HTTP parser refuses does not even get here
        assert b"rsocket" not in answer.body
        return
    assert answer.status == 421
    assert "add it to allowed_hosts" in answer.json["error"]
    assert answer.json.keys() == {"error"}


async def test_the_address_that_was_connected_to_is_a_name_of_ours(view):
    server = AdminServer(view, AdminConfig("http://0.0.0.0:0", insecure=True))
    await server.start()
    try:
        port = urlsplit(server.url).port
        server.url = f"http://127.0.0.2:{port}"  # Linux answers on all of 127.0.0.0/8
        assert (await ask(server, "/readyz", host=f"127.0.0.2:{port}")).status == 200
        assert (await ask(server, "/readyz", host=f"127.0.0.3:{port}")).status == 421
    finally:
        await server.stop()


async def test_a_flood_of_wrong_hosts_does_not_flood_the_log(server, caplog):
    with caplog.at_level(logging.WARNING, "broker.admin.http"):
        for number in range(WARN_KEYS + 10):
            await ask(server, "/", host=f"evil{number}.example.org")
    assert len(caplog.records) == WARN_KEYS


async def test_a_bug_is_answered_with_500_and_its_traceback_is_in_the_log_only(
    server, view, caplog
):
    view.shown = ZeroDivisionError("secret")
    answer = await ask(server, "/readyz")
    assert answer.status == 500
    assert b"secret" not in answer.body
    assert "secret" in caplog.text


async def test_a_taken_port_is_an_error_and_leaves_nothing_open(server, view):
    second = AdminServer(view, AdminConfig(server.url))
    with pytest.raises(OSError, match=f"cannot listen on {server.url}: .*address already in use"):
        await second.start()
    await second.stop()


async def test_after_stop_nobody_answers_and_stopping_again_is_harmless(server):
    url = urlsplit(server.url)
    await server.stop()
    await server.stop()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(url.hostname, url.port)


async def test_an_idle_browser_does_not_delay_the_stop(server):
    url = urlsplit(server.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    try:
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(DEADLINE):
            await reader.readuntil(b"\r\n\r\n")
        async with asyncio.timeout(5):
            await server.stop()
    finally:
        writer.close()
