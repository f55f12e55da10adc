"""The page: everything escaped, bounded, and nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import re

from hypothesis import given
from hypothesis import strategies as st

from broker.admin.page import CONTENT_SECURITY_POLICY, MAX_ROWS, duration, render, size
from tests.support.broker_view import a_connection, a_service, a_snapshot


def test_it_shows_state_services_and_connections():
    html = render(a_snapshot("draining", (a_connection(),), (a_service(),)))
    assert '<span class="state draining">draining</span>' in html
    for word in ("1.2.3", "orders", "1.4.0", "shop-1", "tcp 127.0.0.1:51234", "1 min 1 s"):
        assert word in html


def test_an_empty_broker_says_so():
    html = render(a_snapshot())
    assert "Nobody is connected." in html
    assert "Nobody has announced a service." in html


@given(st.text(min_size=1))
def test_no_name_that_a_peer_chose_can_become_markup(name):
    evil = f"<img src=x onerror=alert(1)>\"'&{name}"
    plain = render(a_snapshot(connections=(a_connection(),), services=(a_service(),)))
    html = render(
        a_snapshot(
            connections=(
                a_connection(
                    app=evil, instance=evil, tenant=evil, transport=evil, services=(evil,)
                ),
            ),
            services=(a_service(evil, tenant=evil, versions=(evil,)),),
        )
    )
    assert re.findall("<[^>]*>", html) == re.findall("<[^>]*>", plain)


def test_a_session_without_a_socket_says_so():
    html = render(a_snapshot(connections=(a_connection(detached=True),)))
    assert "(detached)" in html


def test_a_long_table_is_cut_and_says_so():
    html = render(a_snapshot(connections=tuple(map(a_connection, range(MAX_ROWS + 3)))))
    assert html.count("<tr>") == MAX_ROWS + 1
    assert "and 3 more" in html


def test_nothing_comes_from_elsewhere_and_the_policy_names_what_is_inside():
    html = render(a_snapshot())
    assert not re.search(r"https?://", html)
    for tag in ("style", "script"):
        content = re.search(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        assert content
        digest = base64.b64encode(hashlib.sha256(content[1].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in CONTENT_SECURITY_POLICY
    assert "default-src 'none'" in CONTENT_SECURITY_POLICY
    assert "unsafe" not in CONTENT_SECURITY_POLICY


def test_times_and_sizes_are_for_people():
    assert [duration(s) for s in (0.4, 59, 61, 3600, 90_061)] == [
        "0 s", "59 s", "1 min 1 s", "1 h 0 min", "1 d 1 h",
    ]  # fmt: skip
    assert [size(n) for n in (0, 1023, 1536, 5 << 20, 3 << 30, 2 << 40)] == [
        "0 B", "1023 B", "1.5 KiB", "5.0 MiB", "3.0 GiB", "2.0 TiB",
    ]  # fmt: skip
