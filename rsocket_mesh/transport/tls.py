"""TLS contexts with safe defaults: version 1.2 or newer, the server's name verified.

Stands alone. Pass a context of your own to `dial` or `listen` for anything else, such as client
certificates or a private authority.
"""

from __future__ import annotations

import ssl
from functools import cache


@cache
def default_client_tls() -> ssl.SSLContext:
    """Return the context that trusts what the system trusts. Made once: it takes 20 ms."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def server_tls(certificate: str, key: str) -> ssl.SSLContext:
    """Return a server's context.

    Args:
        certificate: PEM file with the certificate and the intermediate ones behind it.
        key: PEM file with the private key, not encrypted.

    Raises:
        OSError: a file cannot be read, or (`ssl.SSLError`) does not hold what it should or the two
            do not belong together; the message names both files.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # An encrypted key must be an error: the default is to ask on the terminal.
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as exc:
        raise ssl.SSLError(exc.errno, f"certificate {certificate}, key {key}: {exc}") from exc
    except OSError as exc:
        text = f"certificate {certificate}, key {key}: {exc.strerror}"
        raise OSError(exc.errno, text) from exc
    return context


def _no_password() -> str:
    raise ssl.SSLError(None, "the key is encrypted, which is not supported")
