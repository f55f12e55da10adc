"""Bytes as they are, and plain text: for payloads whose form is the application's own affair."""

from __future__ import annotations

from typing import Any, Final

from rsocket_mesh.codec.base import Codec, Decode, DecodeError, EncodeError

_BYTES: Final = (bytes, bytearray, memoryview)


def _as_bytes(data: bytes) -> bytes:
    return data


def _as_text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        raise DecodeError(f"byte {exc.start} of {len(data)}: not UTF-8: {exc.reason}") from exc


def _as_none(_data: bytes) -> None:
    return None


class RawCodec(Codec):
    """`bytes` as they are, `str` as UTF-8, None as no bytes; nothing else."""

    mime = "application/octet-stream"
    name = "raw"
    _untyped: Decode = staticmethod(_as_bytes)

    def encode(self, value: object) -> bytes:
        """Return *value*, which must be bytes, text or None."""
        if type(value) is bytes:
            return value
        if isinstance(value, str):
            try:
                return value.encode()
            except UnicodeEncodeError as exc:
                raise EncodeError(f"str as {self.mime}: {exc}") from exc
        if value is None:
            return b""
        if isinstance(value, _BYTES):
            return bytes(value)
        raise EncodeError(
            f"{type(value).__qualname__} as {self.mime}: it carries bytes or str only"
        )

    def _make_decoder(self, wanted: Any) -> Decode:
        if wanted is Any:
            return self._untyped
        if wanted is bytes:
            return _as_bytes
        if wanted is str:
            return _as_text
        if wanted is None or wanted is type(None):
            return _as_none
        name = getattr(wanted, "__qualname__", repr(wanted))
        text = f"$: {self.mime} carries bytes or str, not {name}"

        def refuse(_data: bytes) -> Any:
            raise DecodeError(text)

        return refuse


class TextCodec(RawCodec):
    """As `raw`, but untyped values are read as text."""

    mime = "text/plain"
    name = "text"
    _untyped: Decode = staticmethod(_as_text)
