"""The suite can fail, on the other side: a client with one planted fault is caught as well.

The client is ours, and what it sends is tampered with on its way to the wire.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest

from rsocket_mesh.peer import Peer
from rsocket_mesh.protocol import frames as f
from rsocket_mesh.protocol.fragments import ReassemblyBudget
from rsocket_mesh.protocol.frames import Setup
from rsocket_mesh.testing.conformance import REQUIREMENTS, ClientSubject, Verdict
from rsocket_mesh.testing.conformance.runner import try_requirement
from rsocket_mesh.transport import Transport

PATIENCE = 0.6  # seconds for a case; a fault is often that nothing comes

Tamper = Callable[[bytes], list[bytes]]


def dropping(*kinds: int) -> Tamper:
    return lambda frame: [] if f.peek(frame)[1] in kinds else [frame]


def doubling(kind: int) -> Tamper:
    return lambda frame: [frame, frame] if f.peek(frame)[1] == kind else [frame]


def flags(kind: int, *, off: int = 0, on: int = 0, only_with: int = 0) -> Tamper:
    """Change flags of frames of a type (that have those of *only_with*)."""

    def tamper(frame: bytes) -> list[bytes]:
        stream_id, its_kind, its_flags = f.peek(frame)
        if its_kind != kind or its_flags & only_with != only_with:
            return [frame]
        word = its_kind << 10 | (its_flags & ~off | on)
        return [f.HEADER.pack(stream_id, word) + frame[6:]]

    return tamper


def in_front(before: bytes) -> Tamper:
    """Send something in front of SETUP."""
    return lambda frame: [before, frame] if f.peek(frame)[1] == f.SETUP else [frame]


def renumbered(frame: bytes) -> list[bytes]:
    stream_id = f.peek(frame)[0]
    return [f.restamp(frame, 2 * stream_id + 1)] if stream_id else [frame]


def impatient(frame: bytes) -> list[bytes]:
    """Send an item right behind the request of a channel."""
    stream_id, kind, _ = f.peek(frame)
    more = [f.encode_payload(stream_id, None, b"1")] if kind == f.REQUEST_CHANNEL else []
    return [frame, *more]


def talkative(frame: bytes) -> list[bytes]:
    """Answer a fire-and-forget: here, whatever is sent is followed by an error of that stream."""
    stream_id, kind, _ = f.peek(frame)
    more = [f.encode_error(stream_id, 0x201, "?")] if kind == f.PAYLOAD and stream_id else []
    return [frame, *more]


def positioned(frame: bytes) -> list[bytes]:
    kind = f.peek(frame)[1]
    return [frame[:6] + b"\0\0\0\0\0\0\0\7" + frame[14:]] if kind == f.KEEPALIVE else [frame]


FAULTS: dict[str, tuple[str, Tamper]] = {
    "begins with KEEPALIVE": ("C-26", in_front(f.encode_keepalive(True))),
    "sets undefined flags": ("C-11", flags(f.PAYLOAD, on=0x001)),
    "never asks for a sign of life again": ("C-49", flags(f.KEEPALIVE, off=f.FLAG_RESPOND)),
    "answers no KEEPALIVE": ("C-50", dropping(f.KEEPALIVE)),
    "counts positions without resume": ("C-53", positioned),
    "leaves gaps between ids": ("C-57", renumbered),
    "completes no answer": ("C-66", flags(f.PAYLOAD, off=f.FLAG_COMPLETE)),
    "sends each answer twice": ("C-66", doubling(f.PAYLOAD)),
    "sends no CANCEL": ("C-70", dropping(f.CANCEL)),
    "errs behind its answers": ("C-71", talkative),
    "sends each item twice": ("C-72", doubling(f.PAYLOAD)),
    "refuses no overrun": ("C-78", dropping(f.CANCEL)),
    "does not wait for REQUEST_N": ("C-79", impatient),
    "asks for nothing": ("C-80", dropping(f.REQUEST_N)),
    "marks fragments without NEXT": ("C-91", flags(f.PAYLOAD, off=f.FLAG_NEXT)),
    "completes in every fragment": ("C-91", flags(f.PAYLOAD, on=f.FLAG_COMPLETE)),
    "sends metadata without its flag": ("C-17", flags(f.REQUEST_RESPONSE, off=f.FLAG_METADATA)),
    "says nothing when it gives up": ("C-21", dropping(f.ERROR)),
}


class TamperedTransport:
    """A transport that does not send first what it is given to."""

    def __init__(self, inner: Transport, tamper: Tamper) -> None:
        self._inner = inner
        self._tamper = tamper

    def send_first(self, frame: bytes) -> None:
        for sent in self._tamper(frame):
            self._inner.send_first(sent)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class TamperedPeer(Peer):
    """A client of ours that does not send what it means to."""

    tamper: Tamper

    def connected(self, transport: Transport) -> None:
        super().connected(cast(Transport, TamperedTransport(transport, self.tamper)))

    def _send(self, frame: bytes) -> None:
        for sent in self.tamper(frame):
            super()._send(sent)


class FaultyClient(ClientSubject):
    def __init__(self, tamper: Tamper) -> None:
        super().__init__()
        self._tamper = tamper

    def make_peer(self, setup: Setup) -> Peer:
        peer = TamperedPeer(self.application, setup=setup, budget=ReassemblyBudget())
        peer.tamper = self._tamper
        return peer


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_of_a_client_is_caught_by_its_requirement(fault: str) -> None:
    name, tamper = FAULTS[fault]
    outcome = await try_requirement(FaultyClient(tamper), REQUIREMENTS[name], PATIENCE)
    assert outcome.verdict is Verdict.FAILED, outcome


async def test_without_tampering_they_pass() -> None:
    for name in sorted({name for name, _ in FAULTS.values()}):
        outcome = await try_requirement(FaultyClient(lambda frame: [frame]), REQUIREMENTS[name])
        assert outcome.verdict is Verdict.PASSED, outcome
