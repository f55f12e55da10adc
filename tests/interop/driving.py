"""Peers in processes of their own, whatever language they are in, behind one line protocol.

A peer program is started as `caller URL composite|routing|none [FRAGMENT_BYTES]` (the metadata
type of its connection, and the size at which it fragments) or as `service URL NAME`. It prints
`{"ready": true}` when it can be used; a service, when it is registered. Then each line on its
standard input is a command and each line on its standard output an answer with the same `id`;
commands overlap. Commands of callers:

    response  tags, data             -> data
    fire      tags, data             ->
    stream    tags, data, credit     -> items, ended, error: at *credit* items, or at the end
    channel   the same and items     -> the same; `data` goes first, then `items` within the credit
    more      of, credit             -> the same, *credit* items later
    seen      of                     -> the same, at once
    cancel    of                     -> the same, at once
    push      mime, data             ->

`tags` are routing tags, the first is the route; `credit` null is 2^31-1; `of` is the `id` of the
command that opened the stream. A failure is `{"error": {"code": ..., "text": ...}}`.

A service answers `echo`, `fail` (an application error), `reject`, `never` and `stats` (JSON: items
`yielded` by streams, streams `cancelled`, what was `fired` and `pushed`) to request-response,
counts from 1 to the number in `data` as a stream (`count`), records what is fired (`fire`), and
relays channels item by item (`relay`). A request without a route is taken as the usual method of
its model. What only one language has is said in its program.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.processes import LINE_TIMEOUT, START_TIMEOUT, Process

HERE: Final = Path(__file__).resolve().parent
CI: Final = os.environ.get("RSOCKET_MESH_CI") == "1"
PROGRAMS: Final[dict[str, list[str]]] = {
    "ours": [sys.executable, str(HERE / "peers" / "ours.py")],
    "rsocket-py": [sys.executable, str(HERE / "peers" / "rsocket_py.py")],
    "rsocket-js": ["node", str(HERE / "js" / "peer.mjs")],
}
LANGUAGES: Final = tuple(PROGRAMS)


def require(language: str) -> None:
    """Skip the test, or fail it in CI, when *language* cannot run on this machine."""
    if language != "rsocket-js":
        return
    if shutil.which("node") is None:
        why = "node is not installed"
    elif not (HERE / "js" / "node_modules").is_dir():
        why = "run `npm ci` in tests/interop/js first"
    else:
        return
    if CI:
        pytest.fail(f"rsocket-js: {why}")
    pytest.skip(f"rsocket-js: {why}")


class PeerError(Exception):
    """A command failed at the peer: what it was told, as its library shows it."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code:#x} {text}")
        self.code = code
        self.text = text


class Peer(Process):
    """One peer program. Methods block; each waits for its answer."""

    def __init__(self, language: str, *arguments: str) -> None:
        super().__init__([*PROGRAMS[language], *arguments], name=f"{language} {arguments[0]}")
        self._last_id = 0
        self._answers: dict[int, dict[str, Any]] = {}
        try:
            self.wait_for_line(r'"ready"', timeout=START_TIMEOUT)
        except BaseException:
            self.stop()
            raise

    def begin(self, do: str, **fields: Any) -> int:
        """Send a command and return its id."""
        self._last_id += 1
        self.send_line(json.dumps({"id": self._last_id, "do": do, **fields}))
        return self._last_id

    def answer(self, command: int, timeout: float = LINE_TIMEOUT) -> dict[str, Any]:
        """Return the answer to the command with this id.

        Raises:
            PeerError: the answer is an error.
            AssertionError: no answer came within *timeout* seconds.
        """
        deadline = time.monotonic() + timeout
        while command not in self._answers:
            line = self.wait_for_line(r'^\{"id"', timeout=max(0.0, deadline - time.monotonic()))
            message = json.loads(line.string)
            self._answers[message["id"]] = message
        message = self._answers.pop(command)
        error = message.get("error")
        if error is not None:
            raise PeerError(error["code"], error["text"])
        return message

    def call(self, do: str, **fields: Any) -> dict[str, Any]:
        """Send a command and return its answer."""
        return self.answer(self.begin(do, **fields))

    def response(self, *tags: str, data: str = "") -> str:
        """One request-response."""
        return str(self.call("response", tags=tags, data=data)["data"])

    def stream(self, *tags: str, total: int, credit: int | None = None) -> tuple[int, list[str]]:
        """Open a stream of *total* items; return its id and what came."""
        command = self.begin("stream", tags=tags, data=str(total), credit=credit)
        return command, self.answer(command)["items"]

    def channel(self, *tags: str, items: Sequence[str], credit: int | None = None) -> list[str]:
        """Send *items* over a channel; return what came back."""
        fields = {"tags": tags, "data": items[0], "items": items[1:], "credit": credit}
        return list(self.call("channel", **fields)["items"])

    def seen(self, stream: int) -> list[str]:
        """Return all items of *stream* so far."""
        return list(self.call("seen", of=stream)["items"])

    def stats(self, *tags: str) -> dict[str, Any]:
        """Return the counters of the service behind *tags*."""
        return dict(json.loads(self.response(*tags)))


def poll(condition: Callable[[], bool], timeout: float = LINE_TIMEOUT) -> None:
    """Return once *condition* holds; what it asks is a round trip, so this does not spin.

    Raises:
        AssertionError: it does not hold after *timeout* seconds.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not so after {timeout:g} s"
