"""Both kernels are fed the same bytes and must say, count and keep the same."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rsocket_mesh.protocol.frames import (
    REQUEST_CHANNEL,
    REQUEST_FNF,
    REQUEST_RESPONSE,
    REQUEST_STREAM,
    encode_cancel,
    encode_error,
    encode_keepalive,
    encode_payload,
    encode_request_n,
)
from rsocket_mesh.protocol.framing import prefix_lengths
from tests.support.kernel_driver import PEERS, TIME, KernelProcess, Step
from tests.support.raw_peers import request

ROUTES = ("alone.do", "shared.do", "nobody.do", "mesh.health.check", "")
KINDS = (REQUEST_RESPONSE, REQUEST_FNF, REQUEST_STREAM, REQUEST_CHANNEL)


@pytest.fixture(scope="module")
def kernels() -> Iterator[tuple[KernelProcess, KernelProcess]]:
    with KernelProcess(pure=True) as plain, KernelProcess(pure=False) as compiled:
        assert plain.kernel == "plain"
        if compiled.kernel == "plain" and os.environ.get("RSOCKET_MESH_CI") != "1":
            pytest.skip("the compiled kernel was not built here: that needs a C compiler")
        assert compiled.kernel == "compiled"
        yield plain, compiled


bodies = st.sampled_from((b"", b"x" * 8, b"x" * 32, b"y" * 900))
ENDS = ((True, False, False), (True, True, False), (False, True, False), (True, False, True))
DEADLINES = (None, None, None, 1, 40, 5000)  # milliseconds
WISHES = (1, 2, 40, 0x7FFFFFFF)


@st.composite
def requests(draw: st.DrawFn, stream_id: int) -> bytes:
    kind = draw(st.sampled_from(KINDS))
    wish = draw(st.sampled_from(WISHES)) if kind in (REQUEST_STREAM, REQUEST_CHANNEL) else None
    return request(
        kind,
        stream_id,
        draw(st.sampled_from(ROUTES)),
        draw(bodies),
        n=wish,
        deadline_ms=draw(st.sampled_from(DEADLINES)),
        follows=draw(st.integers(0, 9)) == 0,
    )


@st.composite
def payloads(draw: st.DrawFn, stream_id: int) -> bytes:
    next, complete, follows = draw(st.sampled_from(ENDS))
    metadata = draw(st.sampled_from((None, None, b"m")))
    return encode_payload(stream_id, metadata, draw(bodies), next, complete, follows)


@st.composite
def others(draw: st.DrawFn, stream_id: int) -> bytes:
    wish = draw(st.sampled_from(WISHES))
    frames = (
        encode_cancel(stream_id),
        encode_request_n(stream_id, wish),
        encode_error(stream_id, 0x201, "no"),
        encode_keepalive(respond=True),
    )
    return draw(st.sampled_from(frames))


@st.composite
def spoiled(draw: st.DrawFn, batch: bytes) -> bytes:
    """*batch*, seldom with one bit turned or the end cut off."""
    spoil = draw(st.integers(0, 19))
    if spoil == 0:
        index = draw(st.integers(0, len(batch) - 1))
        turned = batch[index] ^ 1 << draw(st.integers(0, 7))
        return batch[:index] + bytes((turned,)) + batch[index + 1 :]
    if spoil == 1:
        return batch[: draw(st.integers(1, len(batch)))]
    return batch


@st.composite
def scenarios(draw: st.DrawFn) -> list[Step]:
    """What peers may say that mean well, mostly: callers open streams in order, and all of them
    send on streams that exist, if they guess right."""
    opened = dict.fromkeys(range(len(PEERS)), 0)  # by each caller; in all, for a provider
    steps: list[Step] = []
    for route in ROUTES[:2]:  # from now on it is in the cache, and its requests are plain
        for peer, kind in enumerate(PEERS):
            if kind == "caller":
                frame = request(REQUEST_FNF, 2 * opened[peer] + 1, route, b"")
                steps.append((peer, b"".join(prefix_lengths([frame]))))
                opened[peer] += 1
    for _ in range(draw(st.integers(1, 12))):
        peer = draw(st.integers(-1, len(PEERS) - 1))
        if peer < 0:
            steps.append((TIME, draw(st.sampled_from((b"\x01", b"\x1e", b"\xff")))))
            continue
        frames = []
        for _ in range(draw(st.integers(1, 8))):
            what = draw(st.integers(0, 9))
            if PEERS[peer] == "caller":
                if what < 6:
                    frames.append(draw(requests(2 * opened[peer] + 1)))
                    opened[peer] += 1
                    continue
                stream_id = 2 * draw(st.integers(0, opened[peer])) + 1
            else:
                stream_id = 2 * draw(st.integers(1, 1 + sum(opened.values())))
            make = payloads if what < 9 else others
            frames.append(draw(make(stream_id)))
        steps.append((peer, draw(spoiled(b"".join(prefix_lengths(frames))))))
    return steps


@settings(
    max_examples=400,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(steps=scenarios())
def test_both_kernels_make_the_same_of_the_same_bytes(
    kernels: tuple[KernelProcess, KernelProcess], steps: list[Step]
) -> None:
    plain, compiled = kernels
    assert compiled.outcome(steps) == plain.outcome(steps)


def test_both_kernels_make_the_same_of_calls_that_are_answered_in_order(
    kernels: tuple[KernelProcess, KernelProcess],
) -> None:
    """Calls that are answered in order, by one provider and by two that share."""
    steps: list[Step] = []
    for turn in range(60):
        ids = [2 * (4 * turn + more) + 1 for more in range(4)]
        asked = [
            request(REQUEST_RESPONSE, stream_id, ROUTES[index % 2], deadline_ms=DEADLINES[index])
            for index, stream_id in enumerate(ids)
        ]
        steps.append((0, b"".join(prefix_lengths(asked))))
        for peer in (2, 3, 4):
            answers = [
                encode_payload(2 * (2 * turn + more) + 2, b"m", b"ok", complete=True)
                for more in range(2)
            ]
            steps.append((peer, b"".join(prefix_lengths(answers))))
        steps.append((TIME, b"\x1e"))
    plain, compiled = kernels
    assert compiled.outcome(steps) == plain.outcome(steps)


def test_both_kernels_make_the_same_of_a_long_stream_in_both_directions(
    kernels: tuple[KernelProcess, KernelProcess],
) -> None:
    """Long enough for windows to be used up and granted again many times."""
    item = encode_payload(2, None, b"z" * 100)
    up = encode_payload(1, None, b"z" * 100)
    steps: list[Step] = [
        (0, b"".join(prefix_lengths([request(REQUEST_CHANNEL, 1, "alone.do", n=0x7FFFFFFF)]))),
        (2, b"".join(prefix_lengths([encode_request_n(2, 0x7FFFFFFF)]))),
    ]
    for _ in range(40):
        steps.append((2, b"".join(prefix_lengths([item] * 10))))
        steps.append((0, b"".join(prefix_lengths([up] * 10))))
    plain, compiled = kernels
    assert compiled.outcome(steps) == plain.outcome(steps)
