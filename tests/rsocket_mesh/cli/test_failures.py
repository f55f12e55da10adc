"""Every error of ours has an exit code and one harmless line."""

from __future__ import annotations

import pytest

from rsocket_mesh.cli.failures import explain, one_line
from rsocket_mesh.errors import (
    ApplicationError,
    ConnectionClosed,
    DeadlineExceeded,
    Draining,
    ErrorCode,
    Forbidden,
    NoRoute,
    PeerLost,
    RateLimited,
    RSocketError,
    SetupRefused,
    SlowConsumer,
    Unreachable,
    error_from_wire,
)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (NoRoute("nobody"), 1, "NO_ROUTE: nobody (`rsocket-mesh list` shows what there is)"),
        (ApplicationError("KeyError: 'x'"), 1, "the service failed: KeyError: 'x'"),
        (Draining("going away"), 1, "DRAINING: going away (nothing was done; try again)"),
        (RateLimited("slow down", retry_after_ms=40), 1, "try again in 40 ms)"),
        (Forbidden("rule 7"), 1, "FORBIDDEN: rule 7 (the broker's rules decide that)"),
        (PeerLost("gone"), 1, "PEER_LOST: gone (whether the work was done is unknown)"),
        (SlowConsumer("9 MB"), 1, "what reads this command's output is too slow"),
        (error_from_wire(ErrorCode.REJECTED, "no, thanks"), 1, "no, thanks (nothing was done"),
        (error_from_wire(0x301, "an own code"), 1, "the service failed: an own code"),
        (SetupRefused(3, "FORBIDDEN: go"), 1, "the broker refused the connection: FORBIDDEN: go"),
        (Unreachable("no broker"), 3, "no broker (`rsocket-broker` starts one"),
        (ConnectionClosed("silent", "keepalive-timeout"), 3, "connection lost (keepalive-timeout)"),
        (DeadlineExceeded("no answer within 1 s"), 4, "(--timeout SECONDS allows more time)"),
        (RSocketError("another"), 1, "another"),
    ],
)
def test_each_error_has_its_exit_code_and_says_what_to_do(
    error: RSocketError, code: int, said: str
):
    found, text = explain(error)
    assert found == code
    assert said in text


def test_a_failed_call_names_its_route():
    error = NoRoute("nobody")
    error.route = "orders.total"
    assert explain(error)[1].startswith("orders.total: NO_ROUTE: nobody")


def test_foreign_text_becomes_one_short_harmless_line():
    assert one_line("a\r\n\tb\x1b]0;title\x07\x9b2J") == "a b\\x1b]0;title\\x07\\x9b2J"
    assert len(one_line("x" * 100_000)) < 2100
