"""The one exception tree, the wire codes, and the reason tokens of the mesh.

Bottom floor: imports nothing of ours. An ERROR frame carries one of the standard codes (some
clients never finish a call that ends in another) and a text `TOKEN: text` or
`TOKEN(key=value): text`. Here is one class per token; the class per code is the fall-back for
peers that know no tokens. A token counts only together with its code.
Source: RSocket Protocol 1.0, "Error Frame"; the tokens are our contract (docs/wire-contract.md).
"""

from __future__ import annotations

import re
from enum import IntEnum
from typing import ClassVar, Final

__all__ = [
    "ApplicationError",
    "Canceled",
    "ConnectionClosed",
    "DeadlineExceeded",
    "Draining",
    "ErrorCode",
    "Forbidden",
    "Invalid",
    "LocalProtocolError",
    "NoRoute",
    "Overloaded",
    "PeerLost",
    "ProtocolError",
    "RSocketError",
    "RateLimited",
    "Rejected",
    "RemoteProtocolError",
    "ResumeRefused",
    "SetupRefused",
    "SlowConsumer",
    "StreamError",
    "Unavailable",
    "Unreachable",
    "error_from_wire",
]

MAX_ERROR_TEXT: Final = 4096  # bytes of UTF-8 we put into one ERROR frame; a text is for people


class ErrorCode(IntEnum):
    """Codes of ERROR frames; below 0x200 about the connection (stream 0), above about a stream."""

    INVALID_SETUP = 0x001
    UNSUPPORTED_SETUP = 0x002
    REJECTED_SETUP = 0x003
    REJECTED_RESUME = 0x004
    CONNECTION_ERROR = 0x101
    CONNECTION_CLOSE = 0x102
    APPLICATION_ERROR = 0x201
    REJECTED = 0x202
    CANCELED = 0x203
    INVALID = 0x204


class RSocketError(Exception):
    """Root of everything this project raises on purpose."""


class ProtocolError(RSocketError):
    """The rules of the protocol were broken, by us or by the peer."""


class LocalProtocolError(ProtocolError):
    """Our own illegal call: nothing was sent and nothing has changed."""


class RemoteProtocolError(ProtocolError):
    """The peer sent what the protocol forbids.

    Attributes:
        code: the stream-0 code that tells the peer so.
    """

    def __init__(self, text: str, code: int = ErrorCode.CONNECTION_ERROR) -> None:
        super().__init__(text)
        self.code = int(code)


class FrameTooLong(RemoteProtocolError):
    """The peer announced a frame longer than we take; none of it was kept."""


class ConnectionClosed(RSocketError):
    """The connection has ended; what was in flight on it has an unknown outcome.

    Attributes:
        reason: a short stable word for operators, such as `peer-closed` or `keepalive-timeout`.
    """

    def __init__(self, text: str, reason: str = "closed") -> None:
        super().__init__(text)
        self.reason = reason


class Unreachable(RSocketError):
    """No broker could be reached in the time that was given; the text lists what was tried."""


class SetupRefused(RSocketError):
    """The peer refused our SETUP; trying again with the same SETUP will not help.

    Attributes:
        code: INVALID_SETUP, UNSUPPORTED_SETUP or REJECTED_SETUP.
        token: `UNAUTHENTICATED`, `FORBIDDEN`, `INVALID` or None from a peer without tokens.
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.token = _split_text(text)[0]


class ResumeRefused(RSocketError):
    """A session cannot go on over a new socket: what one side lacks, the other keeps no more.

    Attributes:
        reason: a short stable word for operators, such as `unknown-token` or `position-gone`.
    """

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(text)
        self.reason = reason


class StreamError(RSocketError):
    """The responder ended one stream; the connection lives on. One subclass per token.

    Attributes:
        code: the wire code (the peer's own where it used one that we have no class for).
        token: the word in front of the text; None for errors of peers without tokens.
        safe_to_retry: true if it is certain that nothing was processed.
        details: the values in brackets behind the token, such as `retry_after_ms`.
        route: what was called, on the side of the caller that received this; None for an error
            that was raised here on purpose. So a handler's failed call is told from its verdict.
    """

    code: int = ErrorCode.APPLICATION_ERROR
    token: ClassVar[str | None] = None
    safe_to_retry: ClassVar[bool] = False
    by_token: ClassVar[dict[tuple[int, str], type[StreamError]]] = {}

    def __init__(self, text: str = "", **details: int | str) -> None:
        super().__init__(text)
        self.text = text
        self.details = details
        self.route: str | None = None

    def __init_subclass__(cls) -> None:
        token = cls.__dict__.get("token")
        if token is None:
            return
        key = (int(cls.code), token)
        if StreamError.by_token.setdefault(key, cls) is not cls:
            raise TypeError(f"{cls.__name__}: token {token} is already taken")

    def to_wire(self) -> tuple[int, str]:
        """Return `(code, text)` as an ERROR frame carries them."""
        if self.token is None:
            return int(self.code), self.text
        inside = ",".join(f"{key}={value}" for key, value in self.details.items())
        return int(self.code), f"{self.token}{f'({inside})' if inside else ''}: {self.text}"


class ApplicationError(StreamError):
    """The handler raised; the text is the peer's own words."""

    code = ErrorCode.APPLICATION_ERROR
    token = "APPLICATION"


class Rejected(StreamError):
    """The request was refused before any of it was processed."""

    code = ErrorCode.REJECTED
    safe_to_retry = True


class NoRoute(Rejected):
    """Nobody serves what was asked for."""

    token = "NO_ROUTE"


class Unavailable(Rejected):
    """Somebody serves it, but cannot be used just now."""

    token = "UNAVAILABLE"


class Overloaded(Rejected):
    """Refused to protect what is already running; `details["retry_after_ms"]` if known."""

    token = "OVERLOADED"


class RateLimited(Rejected):
    """The caller's quota is used up; `details["retry_after_ms"]` if known."""

    token = "RATE_LIMITED"


class Draining(Rejected):
    """The broker or the service is going away and takes no new work."""

    token = "DRAINING"


class Forbidden(Rejected):
    """The rules say no; the text names the rule."""

    token = "FORBIDDEN"
    safe_to_retry = False


class Canceled(StreamError):
    """The responder gave up; it may have begun the work."""

    code = ErrorCode.CANCELED


class PeerLost(Canceled):
    """The provider's session ended after the request was written; the outcome is unknown."""

    token = "PEER_LOST"


class DeadlineExceeded(Canceled, TimeoutError):
    """The deadline passed; the provider was told to stop."""

    token = "DEADLINE_EXCEEDED"


class SlowConsumer(Canceled):
    """The consumer let more pile up than its limit allows."""

    token = "SLOW_CONSUMER"


class Invalid(StreamError):
    """The request cannot be understood; the text names what and where."""

    code = ErrorCode.INVALID
    token = "INVALID"


_TEXT: Final = re.compile(r"([A-Z][A-Z_]+)(?:\(([^)]*)\))?: ?(.*)", re.DOTALL)
_NUMBER: Final = re.compile(r"[0-9]{1,18}")  # int() refuses thousands of digits by raising
_FALL_BACK: Final[dict[int, type[StreamError]]] = {
    ErrorCode.APPLICATION_ERROR: ApplicationError,
    ErrorCode.REJECTED: Rejected,
    ErrorCode.CANCELED: Canceled,
    ErrorCode.INVALID: Invalid,
}


def _split_text(text: str) -> tuple[str | None, dict[str, int | str], str]:
    match = _TEXT.fullmatch(text)
    if match is None:
        return None, {}, text
    details: dict[str, int | str] = {}
    for pair in filter(None, (match[2] or "").split(",")):
        key, _, value = pair.partition("=")
        details[key.strip()] = int(value) if _NUMBER.fullmatch(value) else value
    return match[1], details, match[3]


def error_from_wire(code: int, text: str) -> StreamError:
    """Return the exception for an ERROR frame on a stream.

    Never raises: a code or token that we do not know becomes the class of the code, and a code
    that the protocol leaves to applications becomes `ApplicationError` with that `code`.
    """
    token, details, rest = _split_text(text)
    kind = StreamError.by_token.get((code, token)) if token else None
    if kind is not None:
        # Not by calling the class: one of the application's may want other arguments.
        error = kind.__new__(kind, rest)
        StreamError.__init__(error, rest)
        error.details = details
        return error
    error = _FALL_BACK.get(code, ApplicationError)(text)
    error.code = code
    return error
