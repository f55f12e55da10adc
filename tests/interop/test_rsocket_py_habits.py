"""What rsocket-py does that a broker must bear, and what it cannot bear from a broker.

rsocket-py 0.4.20 has no timeouts of its own, stays on a connection that was refused, knows only the
standard error codes, drops items without data, and cuts lengths to 24 bits. None of this may hurt
others, and none of it may leave its user waiting.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.interop.conftest import Cast
from tests.interop.driving import PROGRAMS, Peer, PeerError, poll
from tests.support.processes import broker_process, running

PY = "rsocket-py"
REJECTED_SETUP, CONNECTION_ERROR = 0x003, 0x101
APPLICATION_ERROR, REJECTED, CANCELED = 0x201, 0x202, 0x203


@contextmanager
def service(cast: Cast, name: str, language: str = PY) -> Iterator[Peer]:
    """A service of its own for a test that breaks it."""
    with Peer(language, "service", cast.broker.url("tcp"), name) as peer:
        yield peer


def test_a_refused_client_is_told_why_and_the_broker_itself_closes_the_socket(cast: Cast):
    with running(*PROGRAMS[PY], "service", cast.broker.url("tcp"), "mesh.mine") as refused:
        message = json.loads(refused.wait_for_line("connection_error").string)
        assert message["connection_error"] == REJECTED_SETUP
        assert message["text"].startswith("INVALID: services[0].name")
        refused.wait_for_line("closed")


def test_a_custom_error_code_of_a_handler_ends_the_call_as_an_application_error(cast: Cast):
    # 0x301 is legal, and the other library drops an ERROR frame that carries it: its caller waits.
    name = cast.service("rsocket-js")
    with pytest.raises(PeerError, match="out of stock") as caught:
        cast.caller(PY).response(f"{name}.custom", data="out of stock")
    assert caught.value.code == APPLICATION_ERROR
    assert caught.value.text == "APPLICATION(code=769): out of stock"


def test_a_call_ends_when_its_provider_dies(cast: Cast):
    with service(cast, "dies") as provider:
        caller = cast.caller(PY)
        call = caller.begin("response", tags=["dies.never"], data="")
        assert caller.response("dies.echo", data="the call has arrived") == "the call has arrived"
        provider.signal(signal.SIGKILL)
        with pytest.raises(PeerError, match="PEER_LOST: ") as caught:
            caller.answer(call)
    assert caught.value.code == CANCELED


def test_a_call_that_is_never_answered_ends_at_the_deadline_of_the_broker(
    tmp_path_factory: pytest.TempPathFactory,
):
    config = tmp_path_factory.mktemp("config") / "broker.toml"
    config.write_text('[routing]\ndefault_deadline = "300 ms"\n')
    with (
        broker_process("--config", str(config)) as broker,
        Peer(PY, "service", broker.url("tcp"), "silent"),
        Peer(PY, "caller", broker.url("ws"), "composite") as caller,
    ):
        with pytest.raises(PeerError, match="DEADLINE_EXCEEDED: ") as caught:
            caller.response("silent.never")
        assert caught.value.code == CANCELED


def test_a_caller_is_told_when_the_broker_goes_away():
    with (
        broker_process() as broker,
        Peer(PY, "service", broker.url("tcp"), "silent"),
        Peer(PY, "caller", broker.url("tcp"), "composite") as caller,
    ):
        call = caller.begin("response", tags=["silent.never"], data="")
        assert caller.response("silent.echo", data="it has arrived") == "it has arrived"
        broker.process.signal(signal.SIGKILL)
        caller.wait_for_line("closed")
        with pytest.raises(PeerError):
            caller.answer(call)


@pytest.mark.parametrize("language", ["ours", "rsocket-js"])
def test_an_item_without_data_does_not_cost_the_consumer_its_credit(cast: Cast, language: str):
    # This library sends such an item with neither NEXT nor COMPLETE, which the protocol forbids.
    with service(cast, f"blanks-{language}"):
        _, items = cast.caller(language).stream(f"blanks-{language}.blanks", total=99, credit=3)
        assert len(items) == 3
        assert [item for item in items if item] == ["1", "3", "5"][: len([i for i in items if i])]


def test_an_error_on_a_fire_and_forget_is_ignored(cast: Cast):
    with service(cast, "answers-events"):
        caller = cast.caller(PY)
        caller.call("fire", tags=["answers-events.fail"], data="nobody asked")
        caller.call("fire", tags=["answers-events.fire"], data="event")
        poll(lambda: caller.stats("answers-events.stats")["fired"] == ["event"])


def test_a_stream_that_is_left_at_once_leaves_nothing_behind(cast: Cast):
    # REQUEST_STREAM and CANCEL in one segment make this library answer with an ERROR.
    with service(cast, "left-early"):
        caller = cast.caller("rsocket-js")
        for _ in range(100):
            stream = caller.begin("stream", tags=["left-early.count"], data="100", credit=1)
            caller.call("cancel", of=stream)
        assert caller.response("left-early.echo", data="still here") == "still here"


def test_a_payload_too_long_for_its_length_field_ends_the_connection_and_no_other(cast: Cast):
    # This library cuts the length to 24 bits, so that the rest is read as frames of nonsense.
    name = cast.service(PY)
    size = (1 << 24) + (1 << 20)
    with Peer(PY, "caller", cast.broker.url("tcp"), "composite") as garbling:
        garbling.begin("response", tags=[f"{name}.echo"], data="x" * size)
        garbling.wait_for_line("closed")
    assert cast.caller(PY).response(f"{name}.echo", data="still here") == "still here"
