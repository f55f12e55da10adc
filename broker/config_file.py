"""From a TOML file, the environment and options to a `Config`, and back to a page of TOML.

Later sources win: defaults, file, environment, options. Whatever is wrong ends in one `ConfigError`
whose text says where it was written (file and line, variable, option), which key it is, and what
would be right.
"""

from __future__ import annotations

import difflib
import re
import textwrap
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from broker.config import Config
from broker.knobs import ConfigError, Knob, knobs, shown, suggest, toml
from broker.toml_lines import KeyPath, key_lines

ENV_PREFIX: Final = "RSOCKET_BROKER_"
ENV_FILE: Final = f"{ENV_PREFIX}CONFIG"  # names the file itself
MAX_FILE: Final = 1 << 20  # bytes; a config is read whole, and the wrong path may be a disk image
WIDTH: Final = 96  # columns of the printed page

# Kubernetes puts such variables into every container beside a Service named rsocket-broker; they
# are nobody's mistake.
_FROM_KUBERNETES: Final = re.compile(
    r"(.+_)?(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)
_INDEX: Final = re.compile(r"[0-9]{1,9}")  # int() refuses thousands of digits by raising
_TOML_POSITION: Final = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)")


def load(
    file: Path | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    listen: Sequence[str] = (),
    admin: str | None = None,
    workers: int | None = None,
) -> Config:
    """Return the configuration that the sources add up to.

    Args:
        file: a TOML file; None uses none.
        environ: variables, of which those with our prefix count; None uses none.
        listen: URLs that replace the listeners; one that the file names as well keeps the other
            settings it has there.
        admin: replaces the URL of the admin side; empty switches it off.
        workers: replaces the number of processes.
    Raises:
        ConfigError: a source cannot be read or used.
    """
    sources = _Sources()
    if file is not None:
        sources.read_file(file)
    for name in sorted(environ or ()):  # a table's variable sorts in front of those of its keys
        if environ and name.startswith(ENV_PREFIX) and name != ENV_FILE:
            sources.read_variable(name, environ[name])
    if listen:
        sources.set_listeners(listen)
    if admin is not None:
        sources.put(("admin", "url"), admin, "--admin")
    if workers is not None:
        sources.put(("workers", "count"), workers, "--workers")
    built = _build(Config, sources.tree, (), sources)
    assert isinstance(built, Config)
    return built


class _Sources:
    """The values as they were written, and where each was."""

    def __init__(self) -> None:
        self.tree: dict[str, Any] = {}  # as tomllib gives it
        self._origins: dict[KeyPath, str] = {}

    def read_file(self, file: Path) -> None:
        try:
            with file.open("rb") as stream:
                raw = stream.read(MAX_FILE + 1)
        except OSError as exc:
            raise ConfigError(f"{file}: cannot be read: {exc.strerror}") from None
        if len(raw) > MAX_FILE:
            raise ConfigError(f"{file}: larger than {MAX_FILE} bytes; is it the right file?")
        try:
            text = raw.decode().replace("\r\n", "\n")
        except UnicodeDecodeError as exc:
            line = raw.count(b"\n", 0, exc.start) + 1
            raise ConfigError(f"{file}:{line}: not UTF-8, which TOML is") from None
        try:
            self.tree = tomllib.loads(text)
        except tomllib.TOMLDecodeError as exc:
            problem, line, column = _toml_problem(exc, text)
            raise ConfigError(f"{file}:{line}: not TOML: {problem}{column}") from None
        self._origins = {path: f"{file}:{line}" for path, line in key_lines(text).items()}

    def read_variable(self, name: str, text: str) -> None:
        words = name.removeprefix(ENV_PREFIX).lower().split("__")
        path: KeyPath = tuple(int(word) if _INDEX.fullmatch(word) else word for word in words)
        knob = _knob_at(path)
        if knob is None:
            if len(words) == 1 and _FROM_KUBERNETES.fullmatch(name.removeprefix(ENV_PREFIX)):
                return
            hint = suggest(name, _variables())
            raise ConfigError(f"environment variable {name}: there is no such key{hint}")
        self.put(path, text if knob.is_verbatim else _toml_value(name, text, knob), name)

    def set_listeners(self, urls: Sequence[str]) -> None:
        before = self.tree.get("listeners")
        known = {
            item["url"]: (index, item)
            for index, item in enumerate(before if isinstance(before, list) else ())
            if isinstance(item, dict) and isinstance(item.get("url"), str)
        }
        origins = self._origins.copy()
        self.put(("listeners",), [known.get(url, (0, {"url": url}))[1] for url in urls], "--listen")
        for index, url in enumerate(urls):
            self._origins["listeners", index] = f"--listen {url}"
            if url not in known:
                continue
            old = ("listeners", known[url][0])
            for path, origin in origins.items():
                if path[:2] == old and len(path) > len(old):
                    self._origins["listeners", index, *path[2:]] = origin

    def put(self, path: KeyPath, value: object, origin: str) -> None:
        """Set one key, over whatever it was; a table is merged key by key."""
        if isinstance(value, dict):
            for key, item in value.items():
                self.put((*path, key), item, origin)
            return
        if path[0] == "listeners" and len(path) > 1 and "listeners" not in self.tree:
            self.tree["listeners"] = [{"url": listener.url} for listener in Config().listeners]
        into: Any = self.tree
        for depth, key in enumerate(path[:-1], 1):
            if isinstance(into, dict) and isinstance(key, str):
                into = into.setdefault(key, {})
            elif isinstance(into, list) and isinstance(key, int) and key < len(into):
                into = into[key]
            else:
                name = dotted(path[:depth])
                raise ConfigError(f"{origin}: {dotted(path)}: there is no {name} to change")
        if not isinstance(into, dict):
            raise ConfigError(f"{origin}: {dotted(path)}: {dotted(path[:-1])} is not a table")
        into[path[-1]] = value
        stale = [known for known in self._origins if known[: len(path)] == path]
        for known in stale:
            del self._origins[known]
        self._origins[path] = origin

    def refusal(self, path: KeyPath, text: str) -> ConfigError:
        """Return an error that says where *path*, or else the nearest table around it, stands."""
        for size in range(len(path), 0, -1):
            if path[:size] in self._origins:
                return ConfigError(f"{self._origins[path[:size]]}: {dotted(path)}: {text}")
        return ConfigError(f"{dotted(path)}: {text}")


def _build(kind: type[Struct], value: object, path: KeyPath, sources: _Sources) -> Struct:
    if not isinstance(value, dict):
        raise sources.refusal(path, f"expected a table; got {shown(value)}")
    known = knobs(kind)
    for key in value:
        if key not in known:
            raise sources.refusal((*path, key), f"unknown key{_hint(key, path, known)}")
    ready: dict[str, object] = {}
    for name, knob in known.items():
        if name in value:
            ready[name] = _build_value(knob, value[name], (*path, name), sources)
        elif knob.default is msgspec.NODEFAULT:
            raise sources.refusal(path, f"{name} is missing: {knob.meta.description}")
    try:
        return kind(**ready)
    except ConfigError as exc:
        raise sources.refusal((*path, *exc.path), str(exc)) from None


def _build_value(knob: Knob, value: object, path: KeyPath, sources: _Sources) -> object:
    if knob.table is None:
        try:
            return knob.read(value)
        except ConfigError as exc:
            raise sources.refusal(path, str(exc)) from None
    if not knob.is_array:
        return _build(knob.table, value, path, sources)
    if not isinstance(value, list):
        text = f"expected {knob.allowed()}, each [[{knob.name}]]; got {shown(value)}"
        raise sources.refusal(path, text)
    return tuple(
        _build(knob.table, item, (*path, index), sources) for index, item in enumerate(value)
    )


def render(config: Config) -> str:
    """Return *config* as TOML with the unit, the bounds and the reason of every key.

    `load` of that text gives *config* again.
    """
    lines = _comment(
        "Configuration of rsocket-broker. Every key may be left out. Each can be overridden by an"
        f" environment variable: {ENV_PREFIX} and the key in capitals, with __ for a dot, such as"
        f" {_variable(('limits', 'frame_bytes'))}; lists and tables are written as in TOML there."
        " Sizes and times are plain numbers in the unit of the key, or texts with a unit of their"
        ' own: "64 MiB", "500 ms".'
    )
    for name, knob in knobs(Config).items():
        assert knob.table is not None
        value = getattr(config, name)
        described = False
        for table in value if knob.is_array else (value,):
            lines += ["", *([] if described else _comment(_first_line(knob.table)))]
            lines.append(f"[[{name}]]" if knob.is_array else f"[{name}]")
            for key in knobs(knob.table).values():
                lines += _lines_of(key, getattr(table, key.name), described=described)
            described = True
    return "\n".join(lines) + "\n"


def _lines_of(knob: Knob, value: object, *, described: bool) -> Iterator[str]:
    if described:  # once is enough: further tables of an array hold only what differs
        if value != knob.default:
            yield f"{knob.name} = {toml(value)}"
        return
    yield ""
    yield from _comment(knob.meta.description or "")
    allowed = knob.allowed()
    default = "" if knob.default is msgspec.NODEFAULT else f" Default: {toml(knob.default)}"
    yield from _comment(f"{allowed[0].upper()}{allowed[1:]}.{default}")
    yield f"{knob.name} = {toml(value)}"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(
        text, WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
    )


def _first_line(kind: type[Struct]) -> str:
    return (kind.__doc__ or "").partition("\n")[0]


def dotted(path: KeyPath) -> str:
    """Write a path as people do: `listeners[1].url`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _knob_at(path: KeyPath) -> Knob | None:
    kind: type[Struct] | None = Config
    knob: Knob | None = None
    for part in path:
        if isinstance(part, int):  # an item of an array of tables; only its keys have knobs
            if knob is None or not knob.is_array or knob.table is None:
                return None
            kind, knob = knob.table, None
            continue
        knob = knobs(kind).get(part) if kind is not None else None
        if knob is None:
            return None
        kind = None if knob.is_array else knob.table
    return knob


def _key_paths() -> Iterator[KeyPath]:
    for section, knob in knobs(Config).items():
        assert knob.table is not None
        yield (section,)
        for key in knobs(knob.table):
            yield (section, 0, key) if knob.is_array else (section, key)


def _variable(path: KeyPath) -> str:
    return ENV_PREFIX + "__".join(map(str, path)).upper()


def _variables() -> list[str]:
    return [_variable(path) for path in _key_paths()]


def _hint(key: str, path: KeyPath, known: Mapping[str, Knob]) -> str:
    """Look for a close word in the same table first, then for the same word in others."""
    if near := suggest(key, known):
        return near
    elsewhere = {str(keys[-1]): keys for keys in _key_paths() if len(keys) > 1}
    if found := difflib.get_close_matches(key, elsewhere, n=1, cutoff=0.8):
        return f" (did you mean {dotted(elsewhere[found[0]])}?)"
    return f"; known here are {', '.join(known)}"


def _toml_value(name: str, text: str, knob: Knob) -> object:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        parsed = {}
    if parsed.keys() != {"value"}:
        raise ConfigError(f"{name}: expected {knob.allowed()}, as in TOML; got {shown(text)}")
    return parsed["value"]


def _toml_problem(exc: tomllib.TOMLDecodeError, text: str) -> tuple[str, int, str]:
    match = _TOML_POSITION.fullmatch(str(exc))
    if match is None:
        return str(exc), 1, ""
    if match[2] is None:
        return match[1], text.count("\n") + 1, " at the end of the file"
    return match[1], int(match[2]), f" (column {match[3]})"
