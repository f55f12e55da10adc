"""Payloads and errors of rsocket-py, to ours and back."""

from __future__ import annotations

from rsocket.error_codes import ErrorCode
from rsocket.exceptions import RSocketProtocolError, RSocketUnknownRoute
from rsocket.payload import Payload as TheirPayload

from rsocket_mesh.errors import (
    ApplicationError,
    Canceled,
    Invalid,
    NoRoute,
    Rejected,
    RSocketError,
    StreamError,
)
from rsocket_mesh.protocol.payload import Payload

_BY_CODE: dict[int, type[StreamError]] = {
    ErrorCode.REJECTED: Rejected,
    ErrorCode.CANCELED: Canceled,
    ErrorCode.INVALID: Invalid,
}


def to_theirs(payload: Payload) -> TheirPayload:
    """Return *payload* as their handlers and subscribers want it."""
    return TheirPayload(payload.data, payload.metadata)


def to_ours(payload: object) -> Payload:
    """Return their *payload* as ours.

    Raises:
        TypeError: it is none, as of a handler that returned its data alone.
    """
    if not isinstance(payload, TheirPayload):
        raise TypeError(f"needs a rsocket.payload.Payload, not {type(payload).__name__}")
    metadata = payload.metadata
    return Payload(bytes(payload.data or b""), None if metadata is None else bytes(metadata))


def error_to_ours(error: Exception) -> Exception:
    """Return what a caller shall see of an exception of theirs; others stay as they are."""
    if isinstance(error, RSocketUnknownRoute):
        return NoRoute(f"no such route: {error.route_id!r}")
    if isinstance(error, RSocketProtocolError):
        kind = _BY_CODE.get(error.error_code, ApplicationError)
        return kind(error.data or str(error))
    return error


def error_to_theirs(error: Exception) -> Exception:
    """Return what their client would raise; our error is its `__cause__`. Errors that are none of
    ours stay as they are."""
    theirs: Exception
    if isinstance(error, StreamError):
        code, text = error.to_wire()
        try:
            known = ErrorCode(code)
        except ValueError:  # one that they have no name for
            known = ErrorCode.APPLICATION_ERROR
        if known is ErrorCode.APPLICATION_ERROR:
            theirs = RuntimeError(text)
        else:
            theirs = RSocketProtocolError(known, data=text)
    elif not isinstance(error, RSocketError):
        return error
    else:
        theirs = RSocketProtocolError(ErrorCode.CONNECTION_ERROR, data=str(error))
    theirs.__cause__ = error
    return theirs
