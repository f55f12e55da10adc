"""Frames for tests of the codec: a function per type, and a strategy for every body."""

from __future__ import annotations

from hypothesis import strategies as st

from rsocket_mesh.protocol import frames as f
from rsocket_mesh.protocol.frames import (
    Error,
    Ext,
    KeepAlive,
    Lease,
    PayloadFrame,
    Request,
    Resume,
    Setup,
)

ENCODE = {
    Setup: f.encode_setup,
    Lease: f.encode_lease,
    KeepAlive: lambda body: f.encode_keepalive(*body),
    Request: lambda body: f.encode_request(*body),
    PayloadFrame: lambda body: f.encode_payload(*body),
    Error: lambda body: f.encode_error(*body),
    Resume: f.encode_resume,
    Ext: f.encode_ext,
}
DECODE = {
    f.SETUP: f.decode_setup,
    f.LEASE: f.decode_lease,
    f.KEEPALIVE: f.decode_keepalive,
    f.REQUEST_RESPONSE: f.decode_request,
    f.REQUEST_FNF: f.decode_request,
    f.REQUEST_STREAM: f.decode_request,
    f.REQUEST_CHANNEL: f.decode_request,
    f.REQUEST_N: f.decode_request_n,
    f.PAYLOAD: f.decode_payload,
    f.ERROR: f.decode_error,
    f.METADATA_PUSH: f.decode_metadata_push,
    f.RESUME: f.decode_resume,
    f.RESUME_OK: f.decode_resume_ok,
    f.EXT: f.decode_ext,
}


def encode(body):
    return ENCODE[type(body)](body)


def decode(frame):
    return DECODE[f.peek(frame)[1]](frame)


u31 = st.integers(0, f.MAX_U31)
positive = st.integers(1, f.MAX_U31)
u63 = st.integers(0, f.MAX_U63)
stream_ids = st.integers(1, f.MAX_STREAM_ID)
some_bytes = st.binary(max_size=40)
metadata = st.none() | some_bytes
mimes = st.text(st.characters(min_codepoint=1, max_codepoint=0x7F), max_size=127)
setups = st.builds(
    Setup,
    positive,
    positive,
    mimes,
    mimes,
    metadata,
    some_bytes,
    st.booleans(),
    st.none() | some_bytes,
    st.integers(0, 0xFFFF),
    st.integers(0, 0xFFFF),
)
requests = st.builds(
    Request,
    st.sampled_from([f.REQUEST_RESPONSE, f.REQUEST_FNF]),
    stream_ids,
    metadata,
    some_bytes,
    st.none(),
    follows=st.booleans(),
    complete=st.just(False),
) | st.builds(
    Request,
    st.just(f.REQUEST_STREAM),
    stream_ids,
    metadata,
    some_bytes,
    positive,
    follows=st.booleans(),
    complete=st.just(False),
)
channels = st.builds(
    Request,
    st.just(f.REQUEST_CHANNEL),
    stream_ids,
    metadata,
    some_bytes,
    positive,
    follows=st.booleans(),
    complete=st.booleans(),
)
payloads = st.builds(
    PayloadFrame,
    stream_ids,
    metadata,
    some_bytes,
    st.booleans(),
    st.booleans(),
    st.booleans(),
).filter(lambda payload: payload.next or payload.complete)
errors = st.builds(
    Error, stream_ids, st.integers(0x201, 0xFFFF_FFFE), st.text(max_size=40)
) | st.builds(Error, st.just(0), st.sampled_from([1, 2, 3, 4, 0x101, 0x102]), st.text(max_size=40))
bodies = st.one_of(
    setups,
    st.builds(Lease, u31, u31, metadata),
    st.builds(KeepAlive, st.booleans(), u63, some_bytes),
    requests,
    channels,
    payloads,
    errors,
    st.builds(Resume, some_bytes, u63, u63, st.integers(0, 0xFFFF), st.integers(0, 0xFFFF)),
    st.builds(Ext, st.integers(0, f.MAX_STREAM_ID), positive, metadata, some_bytes, st.booleans()),
)
