"""What a config refuses by itself, however it was built."""

from __future__ import annotations

import pytest

from broker.addresses import admin_address, is_exposed, listener_address
from broker.config import AdminConfig, Config, ConfigError, Limits, ListenerConfig
from broker.knobs import knobs


def test_without_a_file_only_loopback_is_opened():
    config = Config()
    urls = [listener.url for listener in config.listeners]
    assert urls == ["tcp://127.0.0.1:7878", "ws://127.0.0.1:7879"]
    assert config.admin.url == "http://127.0.0.1:7880"
    addresses = [*map(listener_address, urls), admin_address(config.admin.url)]
    assert not any(map(is_exposed, addresses))


def test_every_knob_has_its_reason_and_every_number_its_bounds():
    for section in knobs(Config).values():
        assert section.table is not None
        assert section.table.__doc__
        for knob in knobs(section.table).values():
            assert len(knob.meta.description or "") > 40, knob.name
            if knob.plain in (int, float):
                assert knob.meta.ge is not None
                assert knob.meta.le is not None


@pytest.mark.parametrize(
    ("url", "exposed"),
    [
        ("tcp://127.0.0.1:1", False),
        ("tcp://127.1.2.3:1", False),
        ("tcp://[::1]:1", False),
        ("ws://localhost:1", False),
        ("unix:///run/broker.sock", False),
        ("memory://broker", False),
        ("tcp://0.0.0.0:1", True),
        ("tcp://[::]:1", True),
        ("tls://10.0.0.1:1", True),
        ("ws://broker.example.org:1", True),
    ],
)
def test_what_other_machines_can_reach_is_exposed(url, exposed):
    assert is_exposed(listener_address(url)) is exposed


def test_an_exposed_listener_needs_to_say_that_it_is_meant():
    with pytest.raises(ConfigError, match=r"can be reached from outside.*insecure = true"):
        ListenerConfig("tcp://0.0.0.0:7878")
    assert ListenerConfig("tcp://0.0.0.0:7878", insecure=True).insecure


def test_encryption_alone_does_not_make_a_listener_safe_to_expose():
    with pytest.raises(ConfigError, match="can be reached from outside"):
        ListenerConfig("tls://0.0.0.0:7878", certificate="c.pem", key="k.pem")


def test_an_exposed_admin_side_needs_to_say_that_it_is_meant():
    with pytest.raises(ConfigError, match="can be reached from outside"):
        AdminConfig("http://0.0.0.0:7880")
    assert AdminConfig("http://0.0.0.0:7880", insecure=True).insecure
    assert AdminConfig("").url == ""


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("tpc://127.0.0.1:1", r"unknown scheme; expected tcp://host:port.*\(did you mean tcp\?\)"),
        ("127.0.0.1:7878", "no scheme"),
        ("tcp:127.0.0.1:7878", "no scheme"),
        ("tcp://127.0.0.1", "the port is missing"),
        ("tcp://:7878", "the host is missing"),
        ("tcp://127.0.0.1:99999", "range 0-65535"),
        ("tcp://127.0.0.1:1/path", "tcp has no path"),
        ("tcp://me@127.0.0.1:1", "user information is not allowed"),
        ("unix://run/broker.sock", "must be absolute"),
    ],
)
def test_a_listener_url_that_cannot_be_used_is_refused(url, text):
    with pytest.raises(ConfigError, match=text) as refused:
        ListenerConfig(url)
    assert refused.value.path == ("url",)


@pytest.mark.parametrize(
    ("settings", "path", "text"),
    [
        ({"url": "tls://127.0.0.1:1"}, ("certificate",), "needs the PEM files"),
        ({"url": "wss://127.0.0.1:1", "certificate": "c"}, ("key",), "needs the PEM files"),
        ({"url": "tcp://127.0.0.1:1", "key": "k"}, ("key",), "tcp:// has no encryption"),
        (
            {"url": "tcp://127.0.0.1:1", "allowed_origins": ("https://a.b",)},
            ("allowed_origins",),
            "tcp:// has no origins",
        ),
        (
            {"url": "ws://127.0.0.1:1", "allowed_origins": ("https://a.b", "https://c.d/")},
            ("allowed_origins", 1),
            r'expected scheme://host\[:port\] and nothing behind it; got "https://c.d/"',
        ),
    ],
)
def test_settings_that_do_not_go_with_the_scheme_are_refused(settings, path, text):
    with pytest.raises(ConfigError, match=text) as refused:
        ListenerConfig(**settings)
    assert refused.value.path == path


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1:1",
        "http://127.0.0.1",
        "http://:1",
        "http://127.0.0.1:1/x",
        "http://127.0.0.1:99999",
        "http://me@127.0.0.1:1",
        "127.0.0.1:1",
    ],
)
def test_an_admin_url_that_cannot_be_used_is_refused(url):
    with pytest.raises(ConfigError, match=r"http://host:port|not a URL") as refused:
        AdminConfig(url)
    assert refused.value.path == ("url",)


@pytest.mark.parametrize("host", ["", "*", "http://broker", "broker.example.org:7880"])
def test_an_allowed_host_is_a_bare_name(host):
    with pytest.raises(ConfigError, match="expected a host name without port"):
        AdminConfig(allowed_hosts=(host,))


def test_two_listeners_cannot_have_one_address_except_with_port_0():
    one, same = ListenerConfig("tcp://127.0.0.1:7878"), ListenerConfig("ws://127.0.0.1:7878")
    with pytest.raises(ConfigError, match=r"already taken by listeners\[0\]\.url") as refused:
        Config(listeners=(one, same))
    assert refused.value.path == ("listeners", 1, "url")
    with pytest.raises(ConfigError, match=r"already taken by admin\.url"):
        Config(listeners=(ListenerConfig("tcp://127.0.0.1:7880"),))
    free = ListenerConfig("tcp://127.0.0.1:0")
    assert len(Config(listeners=(free, free)).listeners) == 2


def test_a_broker_without_listeners_is_refused():
    with pytest.raises(ConfigError, match="serves nobody"):
        Config(listeners=())


def test_the_shortest_lifetime_cannot_be_longer_than_the_longest():
    with pytest.raises(ConfigError, match="20 s is more than lifetime_max, 10 s"):
        Limits(lifetime_min=20, lifetime_max=10)
