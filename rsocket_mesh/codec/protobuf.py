"""Protocol Buffers: messages that `protoc` has made classes for, of the fast (upb) build.

The bytes say nothing of their type, so both sides name it: the annotation, or `returns`. One
message is one value: no arguments beside it, no list around it. No bytes at all are a message of
defaults, as Protobuf has it.
Source: Protocol Buffers, "Encoding"; MIME types as RSocket clients in other languages use them.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from rsocket_mesh.codec.base import Codec, Decode, DecodeError, EncodeError
from rsocket_mesh.codec.foreign import is_message

_UNTYPED: Final = "$: Protobuf data says nothing of its type; name a message class (returns=...)"

log: Final = logging.getLogger("rsocket_mesh.codec")


class ProtobufCodec(Codec):
    """Messages as they are, None as no bytes; nothing else."""

    mime = "application/vnd.google.protobuf"  # the well-known one: a single byte on the wire
    name = "protobuf"
    aliases = ("application/x-protobuf", "application/protobuf")

    def __init__(self) -> None:
        super().__init__()
        self._is_checked = False

    def carries(self, wanted: Any) -> bool:
        """Whether *wanted* is a class of messages, or nothing at all."""
        return wanted is None or wanted is type(None) or is_message(wanted)

    def encode(self, value: Any) -> bytes:
        """Return *value*, which must be a message or None."""
        if value is None:
            return b""
        if not is_message(type(value)):
            raise EncodeError(
                f"{type(value).__qualname__} as Protobuf: it carries one message, made by protoc"
            )
        self._check_build()
        from google.protobuf.message import EncodeError as Unset  # loaded with the message

        try:
            return value.SerializeToString()  # type: ignore[no-any-return]  # of every message
        except (Unset, ValueError) as exc:  # proto2: a required field is not set
            raise EncodeError(f"{type(value).__qualname__} as Protobuf: {exc}") from exc

    def _make_decoder(self, wanted: Any) -> Decode:
        if wanted is None or wanted is type(None):
            return lambda _data: None
        if not is_message(wanted):
            text = _UNTYPED
            if wanted is not Any:
                name = getattr(wanted, "__qualname__", repr(wanted))
                text = f"$: Protobuf carries one message, made by protoc, not {name}"

            def refuse(_data: bytes) -> Any:
                raise DecodeError(text)

            return refuse
        self._check_build()
        from google.protobuf.message import DecodeError as Malformed

        parse = wanted.FromString
        name = wanted.DESCRIPTOR.full_name

        def decode(data: bytes) -> Any:
            try:
                return parse(data)
            except (Malformed, ValueError) as exc:
                raise DecodeError(f"$: {len(data)} bytes are no {name}: {exc}") from exc

        return decode

    def _check_build(self) -> None:
        """Say once if messages are of the slow build: nothing else would."""
        if self._is_checked:
            return
        self._is_checked = True
        from google.protobuf.internal.api_implementation import Type

        if Type() != "upb":
            log.warning(
                "the protobuf package runs in its %r build, which costs up to 20 times the CPU of "
                "upb; is PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION set, or a wheel missing?",
                Type(),
            )
