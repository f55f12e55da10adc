"""How the broker writes its log: lines on stderr, as text for people or JSON for collectors.

What a peer sends can end up in a line, so a line never holds a control character: nobody can forge
a second line or repaint a terminal. `OncePer` keeps a flood of bad peers from becoming a flood of
lines. Nothing here runs per call or per frame.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, TextIO

from broker.config import LogConfig

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_ORDINARY: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_CHATTY: Final = ("aiohttp", "asyncio")  # say at INFO and DEBUG what no operator asked for


def configure(config: LogConfig, stream: TextIO | None = None, worker: int | None = None) -> None:
    """Send all logging of this process to *stream*, stderr by default, and nowhere else.

    Replaces what an earlier call set up. Lines of a *worker* say which one it is.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_Lines(as_json if config.format == "json" else as_text))
    if worker is not None:
        handler.addFilter(partial(_name_worker, worker))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(config.level.upper())
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(root.level, logging.WARNING))


def as_text(record: logging.LogRecord) -> str:
    """Return one line: time, level, logger, message, then `extra` fields as key=value.

    A traceback follows in lines of its own, indented.
    """
    fields = "".join(f" {key}={value}" for key, value in _extra(record).items())
    line = f"{_when(record)} {record.levelname:<7} {record.name}: {record.getMessage()}{fields}"
    trace = _trace(record)
    indented = "".join(f"\n    {_one_line(part)}" for part in trace.splitlines())
    return _one_line(line) + indented


def as_json(record: logging.LogRecord) -> str:
    """Return one JSON object without line ends; `extra` fields are keys beside the others."""
    entry: dict[str, Any] = {
        **_extra(record),
        "time": _when(record),
        "level": record.levelname.lower(),
        "logger": record.name,
        "message": record.getMessage(),
    }
    if trace := _trace(record):
        entry["traceback"] = trace
    return json.dumps(entry, default=str)


class OncePer:
    """Lets one line per key and period through, and counts the others. Bounded in memory.

    However many different keys arrive, at most *keys* lines pass in one period.
    """

    __slots__ = ("_keys", "_left_out", "_seconds", "_seen")

    def __init__(self, seconds: float, keys: int) -> None:
        """Args:
        seconds: the period, from a key's line to its next.
        keys: how many keys are remembered at a time; others are left out meanwhile.
        """
        self._seconds = seconds
        self._keys = keys
        self._seen: dict[str, float] = {}  # key -> when it passed, oldest first
        self._left_out = 0

    def admit(self, key: str, now: float) -> int | None:
        """Return None if the line is to be left out, else how many were since the last that passed.

        Args:
            now: seconds of any clock that does not go back.
        """
        while self._seen:
            oldest = next(iter(self._seen))
            if now - self._seen[oldest] < self._seconds:
                break
            del self._seen[oldest]
        if key in self._seen or len(self._seen) >= self._keys:
            self._left_out += 1
            return None
        self._seen[key] = now
        left_out, self._left_out = self._left_out, 0
        return left_out


def _name_worker(worker: int, record: logging.LogRecord) -> bool:
    record.worker = worker
    return True


class _Lines(logging.Formatter):
    """What `logging` wants around a format function."""

    def __init__(self, write: Callable[[logging.LogRecord], str]) -> None:
        super().__init__()
        self._write = write

    def format(self, record: logging.LogRecord) -> str:
        return self._write(record)


def _when(record: logging.LogRecord) -> str:
    when = datetime.fromtimestamp(record.created, UTC)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _extra(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _ORDINARY}


def _trace(record: logging.LogRecord) -> str:
    if not record.exc_info or record.exc_info[0] is None:
        return ""
    return logging.Formatter().formatException(record.exc_info)


def _one_line(text: str) -> str:
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)
