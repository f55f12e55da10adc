"""TLS contexts are strict, and a wrong file is an error that names it."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from rsocket_mesh.transport import server_tls
from rsocket_mesh.transport.tls import default_client_tls


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    issued = trustme.CA().issue_cert("localhost")
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    return str(certificate), str(key)


def test_a_server_context_takes_tls_1_2_or_newer(files: tuple[str, str]) -> None:
    context = server_tls(*files)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_NONE  # nobody is asked for a client certificate


def test_the_default_client_context_verifies_names() -> None:
    context = default_client_tls()
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert default_client_tls() is context


def test_a_missing_file_is_named(files: tuple[str, str], tmp_path: Path) -> None:
    missing = str(tmp_path / "nowhere.pem")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pem.*No such file"):
        server_tls(missing, files[1])


def test_files_that_do_not_belong_together_are_named(
    files: tuple[str, str], tmp_path: Path
) -> None:
    other = tmp_path / "other.pem"
    other.write_bytes(trustme.CA().issue_cert("localhost").private_key_pem.bytes())
    with pytest.raises(ssl.SSLError, match=r"cert\.pem.*other\.pem.*(?i:mismatch)"):
        server_tls(files[0], str(other))


def test_a_file_that_holds_something_else_is_named(files: tuple[str, str], tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    with pytest.raises(ssl.SSLError, match=r"empty\.pem"):
        server_tls(str(empty), files[1])


def test_an_encrypted_key_is_an_error_and_never_a_question(
    files: tuple[str, str], tmp_path: Path
) -> None:
    plain = serialization.load_pem_private_key(Path(files[1]).read_bytes(), None)
    locked = tmp_path / "locked.pem"
    locked.write_bytes(
        plain.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(ssl.SSLError, match=r"locked\.pem.*encrypted"):
        server_tls(files[0], str(locked))
