"""Measuring sticks: no middle at all, a relay of bytes, and a relay of frames without features."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final

from benchmarks.raw import program
from benchmarks.stage import Contender, Lines, Options, Running, process

ORDER: Final = 10


@contextmanager
def direct(options: Options) -> Iterator[Running]:
    """The load answers itself over a loopback connection."""
    program()
    yield Running("self")


def relay(module: str) -> Callable[[Options], AbstractContextManager[Running]]:
    """Return a start of one of the relays of this project's benchmarks."""

    @contextmanager
    def start(options: Options) -> Iterator[Running]:
        lines = Lines()
        with process([sys.executable, "-m", module], core=options.core, ready=lines) as child:
            yield Running("tcp:" + lines.urls[0].rpartition(":")[2], (child.pid,))

    return start


CONTENDERS: Final = (
    Contender("direct", "direct", direct, "no middle: caller and service share a connection"),
    Contender("direct HTTP/2", "http2", direct, "no middle, HTTP/2: what the proxies' hop adds to"),
    Contender(
        "byte relay",
        "bytes",
        relay("benchmarks.byte_relay"),
        "Python and uvloop, copies bytes and looks at nothing: what the kernel and a loop cost",
    ),
    Contender(
        "bare relay",
        "rsocket",
        relay("benchmarks.bare_relay"),
        "Python and uvloop, cuts and restamps frames, and nothing else: no route, limit or credit",
        frozenset({"stream", "fnf", "channel"}),
    ),
)
