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
from tests.support.kernel_driver import PEERS, KernelProcess, Step
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


data = st.one_of(st.just(b""), st.just(b"x" * 32), st.just(b"y" * 900), st.binary(max_size=8))
# Callers use odd ids in order and providers see even ones: few, so that frames meet streams.
stream_ids = st.one_of(st.sampled_from((1, 3, 5, 7, 9)), st.sampled_from((2, 4, 6, 8, 10)))
requests = st.builds(
    lambda kind, stream_id, route, body, n, deadline, follows: request(
        kind,
        stream_id,
        route,
        body,
        n=n if kind in (REQUEST_STREAM, REQUEST_CHANNEL) else None,
        deadline_ms=deadline,
        follows=follows,
    ),
    st.sampled_from(KINDS),
    stream_ids,
    st.sampled_from(ROUTES),
    data,
    st.sampled_from((1, 2, 40, 0x7FFFFFFF)),
    st.sampled_from((None, None, 1, 5000)),
    st.sampled_from((False, False, False, True)),
)
payloads = st.builds(
    lambda stream_id, metadata, body, ends: encode_payload(
        stream_id, metadata, body, next=ends[0], complete=ends[1], follows=ends[2]
    ),
    stream_ids,
    st.sampled_from((None, None, b"m")),
    data,
    st.sampled_from(
        ((True, False, False), (True, True, False), (False, True, False), (True, False, True))
    ),
)
others = st.one_of(
    st.builds(encode_cancel, stream_ids),
    st.builds(encode_request_n, stream_ids, st.sampled_from((1, 8, 0x7FFFFFFF))),
    st.builds(lambda stream_id: encode_error(stream_id, 0x201, "no"), stream_ids),
    st.just(encode_keepalive(respond=True)),
    st.binary(min_size=6, max_size=24),
)
frames = st.one_of(requests, payloads, payloads, others)


@st.composite
def batches(draw: st.DrawFn) -> bytes:
    """Whole frames, seldom with one bit turned or the end cut off."""
    batch = b"".join(prefix_lengths(draw(st.lists(frames, min_size=1, max_size=8))))
    spoil = draw(st.integers(0, 9))
    if spoil == 0:
        index = draw(st.integers(0, len(batch) - 1))
        turned = batch[index] ^ 1 << draw(st.integers(0, 7))
        return batch[:index] + bytes((turned,)) + batch[index + 1 :]
    if spoil == 1:
        return batch[: draw(st.integers(1, len(batch)))]
    return batch


steps = st.lists(st.tuples(st.integers(0, len(PEERS) - 1), batches()), min_size=1, max_size=12)


@settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(steps=steps)
def test_both_kernels_make_the_same_of_the_same_bytes(
    kernels: tuple[KernelProcess, KernelProcess], steps: list[Step]
) -> None:
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
