"""From files, variables and options to a config; what is wrong is named with its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.config import (
    AdminConfig,
    Config,
    ConfigError,
    DrainConfig,
    Limits,
    ListenerConfig,
    LogConfig,
)
from broker.config_file import MAX_FILE, load, render

Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        file = tmp_path / "broker.toml"
        file.write_text(text)
        return file

    return write


def test_no_source_at_all_is_the_default():
    assert load() == Config()


def test_a_file_sets_what_it_names_and_nothing_else(write: Write):
    config = load(write('[limits]\nframe_bytes = "1 MiB"\n[log]\nlevel = "debug"\n'))
    assert config == Config(limits=Limits(frame_bytes=1 << 20), log=LogConfig(level="debug"))


def test_listeners_of_a_file_replace_the_default_ones(write: Write):
    config = load(write('[[listeners]]\nurl = "tcp://127.0.0.1:1"\ndefault_service = "shop"\n'))
    assert config.listeners == (ListenerConfig("tcp://127.0.0.1:1", default_service="shop"),)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("[limits]\n\nframe_byte = 1\n", 3, r"limits\.frame_byte: unknown key \(did you mean f"),
        ("\n[limit]\n", 2, r"limit: unknown key \(did you mean limits\?\)"),
        ("frame_bytes = 1\n", 1, r"unknown key \(did you mean limits\.frame_bytes\?\)"),
        ("[drain]\nzzz = 1\n", 2, r"drain\.zzz: unknown key; known here are timeout$"),
        ("[limits]\nframe_bytes = true", 2, r"limits\.frame_bytes: expected 64 to 16777215 bytes"),
        ('[limits]\n# one\nframe_bytes = "1 MEGA"', 3, "unknown unit"),
        ("drain.timeout = -1", 1, r"drain\.timeout: expected 0 to 86400 seconds.*; got -1"),
        ('[log]\nlevel = "loud"', 2, 'expected one of "debug", "info", "warning", "error"'),
        ("limits = 5", 1, "limits: expected a table; got 5"),
        ('listeners = "tcp://127.0.0.1:1"', 1, r"expected an array of tables, each \[\[listeners"),
        ('listeners = [\n{url="unix:///a"},\n"x"]', 3, r"listeners\[1\]: expected a table"),
        ("[[listeners]]\ninsecure = true", 1, r"listeners\[0\]: url is missing: tcp://host"),
        ("listeners = []", 1, "listeners: a broker without a listener"),
        (
            '[[listeners]]\nurl = "unix:///a"\n[[listeners]]\n\nurl = "tcp://0.0.0.0:1"',
            5,
            r"listeners\[1\]\.url: .* can be reached from outside",
        ),
        ('[[listeners]]\nurl = "tls://127.0.0.1:1"', 1, r"listeners\[0\]\.certificate: .* needs"),
        (
            '[[listeners]]\nurl = "ws://127.0.0.1:1"\nallowed_origins = [\n"https://a",\n"b"]',
            5,
            r"listeners\[0\]\.allowed_origins\[1\]: expected scheme",
        ),
        ("[admin]\nallowed_hosts = [1]", 2, r"admin\.allowed_hosts: expected a list of texts"),
        ("[limits]\nlifetime_max = 1\nlifetime_min = 2", 3, r"limits\.lifetime_min: 2 s is more"),
        ("[limits]\nframe_bytes = \n", 2, r"not TOML: Invalid value \(column 15\)"),
        ("[limits]\n\nx = '''", 3, "not TOML: .*at the end of the file"),
        ("[a]\n[a]\n", 2, "not TOML"),
    ],
)
def test_a_mistake_is_named_with_file_line_and_key(write: Write, text, line, words):
    file = write(text)
    with pytest.raises(ConfigError, match=words) as refused:
        load(file)
    assert str(refused.value).startswith(f"{file}:{line}: ")
    assert "\n" not in str(refused.value)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file"):
        load(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path)


def test_a_file_that_is_no_config_is_an_error(write: Write, tmp_path: Path):
    file = write("x" * (MAX_FILE + 1))
    with pytest.raises(ConfigError, match="larger than"):
        load(file)
    file.write_bytes(b"a = 1\nb = '\xff'\n")
    with pytest.raises(ConfigError, match=r"broker\.toml:2: not UTF-8"):
        load(file)


def test_a_variable_wins_over_the_file(write: Write):
    file = write("[limits]\nframe_bytes = 100\nsetup_timeout = 2\n")
    config = load(file, {"RSOCKET_BROKER_LIMITS__FRAME_BYTES": "1 KiB", "PATH": "/bin"})
    assert config.limits == Limits(frame_bytes=1024, setup_timeout=2.0)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("LIMITS__FRAME_BYTES", "1000", Config(limits=Limits(frame_bytes=1000))),
        ("LIMITS__WAITING_REQUESTS", "5", Config(limits=Limits(waiting_requests=5))),
        ("LIMITS", "{frame_bytes = 99}", Config(limits=Limits(frame_bytes=99))),
        ("DRAIN__TIMEOUT", "2.5", Config(drain=DrainConfig(timeout=2.5))),
        ("DRAIN__TIMEOUT", "1 min", Config(drain=DrainConfig(timeout=60.0))),
        ("LOG__FORMAT", "json", Config(log=LogConfig(format="json"))),
        ("ADMIN__URL", "", Config(admin=AdminConfig(""))),
        ("ADMIN__ALLOWED_HOSTS", '["a", "b"]', Config(admin=AdminConfig(allowed_hosts=("a", "b")))),
        (
            "LISTENERS",
            '[{url = "tcp://0.0.0.0:1", insecure = true}]',
            Config(listeners=(ListenerConfig("tcp://0.0.0.0:1", insecure=True),)),
        ),
        (
            "LISTENERS__1__DEFAULT_SERVICE",
            "shop",
            Config(
                listeners=(
                    ListenerConfig("tcp://127.0.0.1:7878"),
                    ListenerConfig("ws://127.0.0.1:7879", default_service="shop"),
                )
            ),
        ),
    ],
)
def test_each_key_has_a_variable(name, value, expected):
    assert load(None, {f"RSOCKET_BROKER_{name}": value}) == expected


def test_a_key_of_a_table_wins_over_the_table():
    environ = {
        "RSOCKET_BROKER_LIMITS": "{frame_bytes = 99, setup_timeout = 3}",
        "RSOCKET_BROKER_LIMITS__FRAME_BYTES": "98",
    }
    assert load(None, environ).limits == Limits(frame_bytes=98, setup_timeout=3.0)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("LIMITS__FRAME_BYTE", "1", "there is no such key .did you mean RSOCKET_BROKER_LIMITS__FR"),
        ("LISTENER", "[]", r"no such key \(did you mean RSOCKET_BROKER_LISTENERS"),
        ("LIMITS__FRAME_BYTES__X", "1", "no such key"),
        ("LIMITS__PORT", "1", "no such key"),
        ("LISTENERS__0", "{}", "no such key"),
        ("LIMITS__FRAME_BYTES", "lots", r"limits\.frame_bytes: .* not a number with a unit"),
        ("LIMITS__WAITING_REQUESTS", "1 x", "expected a whole number from 0 to .*, as in TOML"),
        ("LIMITS__WAITING_REQUESTS", "1\ny = 2", "as in TOML"),
        ("LIMITS__WAITING_REQUESTS", '"1"', r"limits\.waiting_requests: expected a whole number"),
        ("ADMIN__ALLOWED_HOSTS", "a", "expected a list of texts, as in TOML; got"),
        ("LISTENERS__7__URL", "unix:///a", r"there is no listeners\[7\] to change"),
        ("LISTENERS__" + "7" * 5000 + "__URL", "unix:///a", "there is no such key"),
        ("LISTENERS__0__URL", "tcp://0.0.0.0:1", r"listeners\[0\]\.url: .*from outside"),
        ("LIMITS", "5", "limits: expected a table; got 5"),
    ],
)
def test_a_mistake_in_a_variable_is_named_with_it(name, value, words):
    with pytest.raises(ConfigError, match=words) as refused:
        load(None, {f"RSOCKET_BROKER_{name}": value})
    assert f"RSOCKET_BROKER_{name}: " in str(refused.value)


def test_a_variable_into_something_that_is_no_table_is_refused(write: Write):
    with pytest.raises(ConfigError, match="limits is not a table"):
        load(write("limits = 5"), {"RSOCKET_BROKER_LIMITS__FRAME_BYTES": "100"})


def test_variables_that_kubernetes_makes_of_a_service_are_nobodys_mistake():
    environ = {
        "RSOCKET_BROKER_SERVICE_HOST": "10.0.0.1",
        "RSOCKET_BROKER_SERVICE_PORT": "7878",
        "RSOCKET_BROKER_SERVICE_PORT_WS": "7879",
        "RSOCKET_BROKER_PORT": "tcp://10.0.0.1:7878",
        "RSOCKET_BROKER_PORT_7878_TCP_ADDR": "10.0.0.1",
        "RSOCKET_BROKER_HEADLESS_SERVICE_HOST": "10.0.0.2",
        "RSOCKET_BROKER_CONFIG": "named by the command",
    }
    assert load(None, environ) == Config()


def test_listen_replaces_the_listeners_and_keeps_the_settings_of_the_same_url(write: Write):
    file = write(
        '[[listeners]]\nurl = "unix:///a"\n'
        '[[listeners]]\nurl = "tcp://0.0.0.0:1"\ninsecure = true\n'
    )
    config = load(file, listen=["unix:///b", "tcp://0.0.0.0:1"])
    assert config.listeners == (
        ListenerConfig("unix:///b"),
        ListenerConfig("tcp://0.0.0.0:1", insecure=True),
    )


def test_a_mistake_in_a_listen_option_is_named_with_it(write: Write):
    with pytest.raises(ConfigError, match=r"^--listen tpc://x: listeners\[1\]\.url: 'tpc://x'"):
        load(listen=["unix:///a", "tpc://x"])
    file = write('[[listeners]]\nurl = "unix:///a"\ninsecure = 5\n')
    with pytest.raises(ConfigError, match=r"broker\.toml:3: listeners\[0\]\.insecure"):
        load(file, listen=["unix:///a"])


def test_the_admin_option_replaces_the_url_only(write: Write):
    file = write('[admin]\nurl = "http://127.0.0.1:1"\nallowed_hosts = ["a"]\n')
    assert load(file, admin="http://127.0.0.1:2").admin == AdminConfig(
        "http://127.0.0.1:2", allowed_hosts=("a",)
    )
    assert load(file, admin="").admin.url == ""
    with pytest.raises(ConfigError, match=r"^--admin: admin\.url: "):
        load(file, admin="http://0.0.0.0:2")


def test_the_printed_default_is_a_config_file_with_every_key(write: Write):
    text = render(Config())
    assert load(write(text)) == Config()
    for key in ("frame_bytes", "route_wait", "allowed_origins", "lifetime_max", "insecure"):
        assert f"\n{key} = " in text
    assert max(map(len, text.splitlines())) <= 96


NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
CONFIGS = st.builds(
    Config,
    listeners=st.lists(
        st.builds(ListenerConfig, st.just("tcp://127.0.0.1:0"), default_service=NAMES), min_size=1
    ).map(tuple),
    limits=st.builds(
        Limits,
        frame_bytes=st.integers(64, 0xFFFFFF),
        setup_timeout=st.floats(0.1, 300),
        waiting_requests=st.integers(0, 10_000_000),
    ),
    drain=st.builds(DrainConfig, st.floats(0, 86400)),
    log=st.builds(LogConfig, st.sampled_from(["debug", "error"]), st.sampled_from(["json"])),
)


@given(config=CONFIGS)
def test_what_is_printed_reads_back_as_the_same_config(tmp_path_factory, config):
    file = tmp_path_factory.getbasetemp() / "printed.toml"
    file.write_text(render(config))
    assert load(file) == config
