"""`rsocket-broker` as a command: what it answers, where, and with which exit code."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trustme

from broker.config import Config
from broker.config_file import load
from broker.kernel import KERNEL
from tests.support.processes import ROOT

TIMEOUT = 60.0  # seconds; a cold interpreter on a busy machine


def run(*arguments: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "broker", *arguments],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        cwd=ROOT,
        env={**os.environ, **environ},
        check=False,
    )


def the_error(done: subprocess.CompletedProcess[str], code: int = 2) -> str:
    """The one line on stderr of a command that failed."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    line, *more = done.stderr.splitlines()
    assert not more, done.stderr
    assert line.startswith("rsocket-broker: ")
    return line


def test_help_teaches_with_examples():
    done = run("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for words in ("Examples:", "rsocket-broker --config broker.toml --check", "Exit codes:"):
        assert words in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_version_is_that_of_the_package_and_says_which_kernel_runs():
    done = run("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("rsocket-broker ")
    assert done.stdout.split()[1][0].isdigit()
    assert done.stdout.endswith(f" (kernel: {KERNEL})\n")


def test_the_printed_config_is_the_default_and_can_be_used(tmp_path):
    done = run("--print-config")
    assert (done.returncode, done.stderr) == (0, "")
    file = tmp_path / "broker.toml"
    file.write_text(done.stdout)
    assert load(file) == Config()


def test_the_printed_config_is_the_one_in_force():
    done = run("--print-config", "--admin", "", RSOCKET_BROKER_LIMITS__FRAME_BYTES="1 KiB")
    assert "\nframe_bytes = 1024\n" in done.stdout
    assert '\nurl = ""\n' in done.stdout


def test_check_prints_what_would_be_opened_and_opens_nothing():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        done = run("--check", "--listen", url)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"would listen on {url}",
        "would listen on http://127.0.0.1:7880",
        "config is valid",
    ]


def test_check_finds_the_line_of_a_mistake(tmp_path):
    file = tmp_path / "broker.toml"
    file.write_text("[limits]\nframe_byte = 1\n")
    expected = f"{file}:2: limits.frame_byte: unknown key (did you mean frame_bytes?)"
    assert the_error(run("--check", "--config", file)) == f"rsocket-broker: {expected}"
    assert expected in the_error(run("--check", RSOCKET_BROKER_CONFIG=str(file)))


def test_check_reads_the_certificates(tmp_path):
    cert = trustme.CA().issue_cert("localhost")
    chain, key, file = tmp_path / "chain.pem", tmp_path / "key.pem", tmp_path / "broker.toml"
    chain.write_bytes(b"".join(pem.bytes() for pem in cert.cert_chain_pems))
    file.write_text(
        f'[[listeners]]\nurl = "tls://127.0.0.1:1"\ncertificate = "{chain}"\nkey = "{key}"\n'
    )
    error = the_error(run("--check", "--config", file))
    assert f"listeners[0].certificate: certificate {chain}, key {key}: No such file" in error
    key.write_text("no key")
    error = the_error(run("--check", "--config", file))
    assert f"listeners[0].certificate: certificate {chain}, key {key}: " in error
    key.write_bytes(cert.private_key_pem.bytes())
    assert run("--check", "--config", file).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--chek"], "No such option"),
        (["extra"], "unexpected extra argument (extra) (see --help)"),
        (["--listen"], "Option '--listen' requires an argument"),
        (["--config", "/nowhere/broker.toml"], "/nowhere/broker.toml: cannot be read"),
        (["--listen", "tpc://127.0.0.1:1"], "(did you mean tcp?)"),
        (["--listen", "tcp://0.0.0.0:0"], "can be reached from outside"),
        (["--admin", "http://0.0.0.0:0"], "can be reached from outside"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2_also_without_check(arguments, words):
    assert words in the_error(run(*arguments))


def test_a_wrong_variable_is_named():
    done = run("--check", RSOCKET_BROKER_DRAIN__TIMEOUT="soon")
    assert "RSOCKET_BROKER_DRAIN__TIMEOUT: drain.timeout: " in the_error(done)
