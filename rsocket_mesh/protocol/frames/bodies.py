"""What a frame of each type says, as plain values.

Between the codecs of this package and whoever thinks about frames. Metadata is None where it is
absent and b"" where it is present and empty. The types whose body is one value (REQUEST_N, CANCEL,
METADATA_PUSH, RESUME_OK) have no class.
Source: RSocket Protocol 1.0, each frame's own section.
"""

from __future__ import annotations

from typing import NamedTuple


class Setup(NamedTuple):
    """Body of SETUP; times in milliseconds, `resume_token` None without the flag."""

    keepalive_ms: int
    lifetime_ms: int
    metadata_mime: str
    data_mime: str
    metadata: bytes | None = None
    data: bytes = b""
    lease: bool = False
    resume_token: bytes | None = None
    major: int = 1
    minor: int = 0


class Lease(NamedTuple):
    ttl_ms: int
    requests: int
    metadata: bytes | None = None


class KeepAlive(NamedTuple):
    respond: bool
    position: int
    data: bytes = b""


class Request(NamedTuple):
    """Body of the four REQUEST_x; `initial_n` is None for response and fire-and-forget."""

    kind: int
    stream_id: int
    metadata: bytes | None
    data: bytes
    initial_n: int | None = None
    follows: bool = False
    complete: bool = False


class PayloadFrame(NamedTuple):
    stream_id: int
    metadata: bytes | None
    data: bytes
    next: bool = True
    complete: bool = False
    follows: bool = False


class Error(NamedTuple):
    stream_id: int
    code: int
    text: str


class Resume(NamedTuple):
    token: bytes
    last_server_position: int
    first_client_position: int
    major: int = 1
    minor: int = 0


class Ext(NamedTuple):
    stream_id: int
    extended_type: int
    metadata: bytes | None
    data: bytes
    ignore: bool = False
