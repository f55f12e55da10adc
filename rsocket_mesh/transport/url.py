"""Where to listen and whom to dial: one form of URL for every transport.

    tcp://host:port     tls://host:port     unix:///path/to/socket     memory://name
    ws://host[:port][/path]                 wss://host[:port][/path]

An IPv6 host stands in brackets. `ws` and `wss` have the ports of HTTP (80, 443) if none is given,
the others have no default: a broker behind `tcp://` has no well-known port. A URL holds no secret:
user information is refused, who the caller is belongs into SETUP.
"""

from __future__ import annotations

import os
import re
from ipaddress import IPv6Address
from typing import Final, NamedTuple
from urllib.parse import SplitResult, urlsplit

from rsocket_mesh.errors import RSocketError

FORMS: Final = (
    "tcp://host:port, tls://host:port, unix:///path, ws://host:port/path, wss://host:port/path "
    "or memory://name"
)
DEFAULT_PORTS: Final = {"ws": 80, "wss": 443}
SCHEMES: Final = frozenset({"tcp", "tls", "unix", "ws", "wss", "memory"})
MAX_UNIX_PATH: Final = 107  # bytes; what `sockaddr_un` holds on Linux, its final zero not counted
_NAME: Final = re.compile(r"[A-Za-z0-9._-]+")
_USER: Final = re.compile(r"//.*@", re.DOTALL)
_PRINTABLE: Final = re.compile(r"[\x21-\x7e]+")


class InvalidUrl(RSocketError, ValueError):
    """The text is no URL of a transport; the message names the part and the forms there are."""

    def __init__(self, text: str, what: str) -> None:
        shown = _USER.sub("//***@", text)  # a password that does not belong there is one still
        super().__init__(f"{shown!r}: {what}; expected {FORMS}")


class Url(NamedTuple):
    """A parsed URL; `str` gives its canonical text.

    Attributes:
        scheme: one of `SCHEMES`.
        host: name or address without brackets; the name for `memory`, empty for `unix`.
        port: 0 for `unix` and `memory`; to listen on 0 means any free port.
        path: of the socket for `unix`; of the request with its query for `ws` and `wss`.
    """

    scheme: str
    host: str
    port: int = 0
    path: str = ""

    @property
    def is_encrypted(self) -> bool:
        """True for `tls` and `wss`."""
        return self.scheme in ("tls", "wss")

    @property
    def is_websocket(self) -> bool:
        """True for `ws` and `wss`."""
        return self.scheme in ("ws", "wss")

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix://{self.path}"
        if self.scheme == "memory":
            return f"memory://{self.host}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


def parse_url(text: str) -> Url:
    """Return the parts of *text*.

    Raises:
        InvalidUrl: unknown scheme; a part is missing, malformed, or has no meaning for the scheme.
    """
    scheme, separator, _ = text.partition("://")
    scheme = scheme.lower()
    if not separator or scheme not in SCHEMES:
        raise InvalidUrl(text, "unknown scheme" if separator else "no scheme")
    if scheme == "unix":
        return _parse_unix(text)
    parts, port = _split(text)
    if scheme == "memory":
        if _NAME.fullmatch(parts.netloc) is None or parts.path or parts.query:
            raise InvalidUrl(text, "the name consists of letters, digits, '.', '_' and '-'")
        return Url(scheme, parts.netloc)
    host = _host(text, parts)
    if port is None:
        port = DEFAULT_PORTS.get(scheme)
        if port is None:
            raise InvalidUrl(text, "the port is missing")
    if scheme in DEFAULT_PORTS:
        query = f"?{parts.query}" if parts.query else ""
        return Url(scheme, host, port, f"{parts.path or '/'}{query}")
    if parts.path or parts.query:
        raise InvalidUrl(text, f"{scheme} has no path")
    return Url(scheme, host, port)


def _split(text: str) -> tuple[SplitResult, int | None]:
    if _PRINTABLE.fullmatch(text) is None:
        raise InvalidUrl(text, "blank or non-ASCII character")
    try:
        parts = urlsplit(text)
        if "@" in parts.netloc:
            raise InvalidUrl(text, "user information is not allowed")
        if parts.netloc.count(":") > 1 and "[" not in parts.netloc:
            raise InvalidUrl(text, "an IPv6 address must stand in brackets")
        port = parts.port
    except InvalidUrl:
        raise
    except ValueError as exc:
        raise InvalidUrl(text, str(exc)) from exc
    if "#" in text:
        raise InvalidUrl(text, "a fragment has no meaning")
    return parts, port


def _parse_unix(text: str) -> Url:
    path = text.partition("://")[2]
    if not path.startswith("/") or path.endswith("/"):
        raise InvalidUrl(text, "the path of the socket must be absolute and name a file")
    if "\0" in path:
        raise InvalidUrl(text, "the path holds a zero byte")
    try:
        size = len(os.fsencode(path))
    except UnicodeEncodeError as exc:
        raise InvalidUrl(text, "the path cannot be encoded for the file system") from exc
    if size > MAX_UNIX_PATH:
        raise InvalidUrl(text, f"the path is longer than {MAX_UNIX_PATH} bytes")
    return Url("unix", "", 0, path)


def _host(text: str, parts: SplitResult) -> str:
    host = parts.hostname
    if not host:
        raise InvalidUrl(text, "the host is missing (0.0.0.0 or [::] listens on all addresses)")
    if parts.netloc.startswith("["):
        try:
            IPv6Address(host)
        except ValueError as exc:
            raise InvalidUrl(text, str(exc)) from exc
    return host
