"""What an address in the configuration may say, and whether other machines can reach it."""

from __future__ import annotations

import ipaddress
from typing import Final
from urllib.parse import urlsplit

from broker.knobs import ConfigError, suggest
from rsocket_mesh.transport.url import SCHEMES, InvalidUrl, Url, parse_url

_HOSTLESS: Final = ("unix", "memory")  # schemes that no other machine can reach


def listener_address(url: str) -> Url:
    """Return the parts of a listener's *url*; refuse one that no transport can open."""
    try:
        return parse_url(url)
    except InvalidUrl as exc:
        scheme = url.partition(":")[0]
        hint = "" if scheme in SCHEMES else suggest(scheme, SCHEMES)
        raise ConfigError(f"{exc}{hint}", "url") from None


def admin_address(url: str) -> Url:
    """Return the parts of the admin side's *url*; refuse all but `http://host:port`."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise ConfigError(f'"{url}" is not a URL: {exc}', "url") from None
    extra = parts.path.removeprefix("/") or parts.query or parts.fragment or "@" in parts.netloc
    if parts.scheme != "http" or not host or port is None or extra:
        raise ConfigError(f'expected http://host:port and nothing more; got "{url}"', "url")
    return Url("http", host, port)


def check_exposure(address: Url, insecure: bool) -> None:
    """Refuse what other machines can reach, unless somebody said that it is meant."""
    if is_exposed(address) and not insecure:
        text = (
            f'"{address}" can be reached from outside, and nobody would be asked who they are;'
            " listen on 127.0.0.1, or set insecure = true beside the url if the network is trusted"
        )
        raise ConfigError(text, "url")


def is_exposed(address: Url) -> bool:
    """Return whether other machines may reach it; a name other than localhost counts as so."""
    if address.scheme in _HOSTLESS:
        return False
    try:
        return not ipaddress.ip_address(address.host).is_loopback
    except ValueError:
        return address.host != "localhost"


def socket_name(address: Url) -> str:
    """Return what only one socket can have, or nothing for port 0, which takes a free one."""
    if address.scheme in _HOSTLESS:
        return str(address)
    return f"{address.host}:{address.port}" if address.port else ""
