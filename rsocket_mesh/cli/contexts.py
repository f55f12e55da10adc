"""Saved contexts: names for the brokers one talks to, in a JSON file of the user's.

`$XDG_CONFIG_HOME/rsocket-mesh/contexts.json`, by default under `~/.config`:
`{"current": "dev", "contexts": {"dev": {"brokers": ["tcp://127.0.0.1:7878"]}}}`.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

import click
import msgspec

DEFAULT_BROKER: Final = "tcp://127.0.0.1:7878"
ENV_BROKER: Final = "RSOCKET_MESH_BROKER"


class Context(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One saved context; of several brokers the first that takes us is used."""

    brokers: tuple[str, ...]


class Contexts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file: all contexts, and the name of the one used without `--context`."""

    current: str = ""
    contexts: dict[str, Context] = {}

    def named(self, name: str) -> Context:
        """Return the context *name*; raises `click.UsageError` listing those there are."""
        found = self.contexts.get(name)
        if found is None:
            known = ", ".join(sorted(self.contexts)) or "none is saved"
            raise click.UsageError(f"no context {name!r}; there are: {known}")
        return found


def contexts_file() -> Path:
    """Return where contexts are kept; the file need not exist."""
    home = os.environ.get("XDG_CONFIG_HOME", "")
    # The XDG specification tells us to ignore a relative path.
    folder = Path(home) if Path(home).is_absolute() else Path.home() / ".config"
    return folder / "rsocket-mesh" / "contexts.json"


def load_contexts() -> Contexts:
    """Return what is saved; nothing if there is no file.

    Raises:
        click.ClickException: the file cannot be read; the text names it and the place.
    """
    file = contexts_file()
    try:
        return msgspec.json.decode(file.read_bytes(), type=Contexts)
    except FileNotFoundError:
        return Contexts()
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise click.ClickException(f"{file}: {getattr(exc, 'strerror', None) or exc}") from exc


def save_contexts(contexts: Contexts) -> None:
    """Write the file whole or not at all: two commands at once must not leave half of it.

    Raises:
        click.ClickException: it cannot be written.
    """
    file = contexts_file()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=".contexts-")  # mode 0600
        try:
            with os.fdopen(handle, "wb") as out:
                out.write(msgspec.json.format(msgspec.json.encode(contexts)) + b"\n")
            os.replace(name, file)
        except BaseException:
            os.unlink(name)
            raise
    except OSError as exc:
        raise click.ClickException(f"{file}: {exc.strerror or exc}") from exc


def broker_urls(given: tuple[str, ...], context: str) -> tuple[str, ...]:
    """Return the URLs to try: those given, of the context named, or of the current context.

    Raises:
        click.UsageError: both a URL and a context are given, or there is no such context.
    """
    if given and context:
        raise click.UsageError("--broker and --context exclude each other")
    if given:
        return given
    if context:
        return load_contexts().named(context).brokers
    from_env = tuple(os.environ.get(ENV_BROKER, "").split())
    if from_env:
        return from_env
    saved = load_contexts()
    return saved.named(saved.current).brokers if saved.current else (DEFAULT_BROKER,)
