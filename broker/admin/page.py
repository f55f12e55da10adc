"""The page at `/`: what the broker is doing now, for a person with a browser.

Written by the server, so it shows everything without scripts; a script of a few lines fetches it
again and swaps the changing part, and without scripts the browser reloads it. No resource comes
from anywhere else, and the policy allows exactly this script and this style. Peers choose the names
that are shown: all of them are escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from broker.admin.snapshot import ConnectionView, ServiceView, Snapshot

MAX_ROWS: Final = 200  # per table; more is no longer read by a person, and `/api/v1/` has the rest
REFRESH: Final = 2  # seconds; what feels live and costs one snapshot

_STYLE: Final = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.state { border-radius: 1rem; padding: .1rem .7rem; font-size: .9rem; background: #c77d0033; }
.state.ready { background: #1a8f3c33; }
dl { display: flex; flex-wrap: wrap; gap: .5rem 2.5rem; }
dt { opacity: .7; font-size: .85rem; } dd { margin: 0; font-size: 1.2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; border-bottom: 1px solid #8884; }
th { font-weight: 600; font-size: .85rem; opacity: .7; white-space: nowrap; }
.number { text-align: right; }
.none { opacity: .7; }
"""
_SCRIPT: Final = """
async function refresh() {
  try {
    const answer = await fetch('/', { cache: 'no-store' });
    const page = new DOMParser().parseFromString(await answer.text(), 'text/html');
    document.querySelector('main').replaceWith(page.querySelector('main'));
    document.title = page.title;
  } catch (error) {
    document.title = 'unreachable - RSocket Mesh broker';
  }
  setTimeout(refresh, INTERVAL);
}
setTimeout(refresh, INTERVAL);
""".replace("INTERVAL", str(REFRESH * 1000))


def _fingerprint(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


CONTENT_SECURITY_POLICY: Final = (
    f"default-src 'none'; style-src {_fingerprint(_STYLE)}; script-src {_fingerprint(_SCRIPT)};"
    " connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def render(snapshot: Snapshot) -> str:
    """Return the whole page; it shows at most `MAX_ROWS` rows of each table, and says so."""
    state = escape(snapshot.state)
    facts = {
        "version": snapshot.version,
        "up for": duration(snapshot.uptime),
        "connections": str(len(snapshot.connections)),
        "services": str(len(snapshot.services)),
        "streams open": str(snapshot.streams_open),
    }
    if snapshot.workers:
        ready = sum(worker.state == "ready" for worker in snapshot.workers)
        facts["workers ready"] = f"{ready} of {len(snapshot.workers)}"
    fact_list = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in facts.items()
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{state} - RSocket Mesh broker</title>
<style>{_STYLE}</style>
<noscript><meta http-equiv="refresh" content="{REFRESH}"></noscript>
</head><body><main>
<h1>RSocket Mesh broker <span class="state {state}">{state}</span></h1>
<dl>{fact_list}</dl>
<h2>Services</h2>
{_services(snapshot.services)}
<h2>Connections</h2>
{_connections(snapshot.connections)}
<p class="none">More: <a href="/api/v1/status">/api/v1/status</a>,
<a href="/api/v1/services">/api/v1/services</a>,
<a href="/api/v1/connections">/api/v1/connections</a>,
<a href="/api/v1/workers">/api/v1/workers</a>, <a href="/metrics">/metrics</a></p>
</main><script>{_SCRIPT}</script></body></html>
"""


def _services(services: Sequence[ServiceView]) -> str:
    heads = ("service", "tenant", "versions", "instances #", "in flight #")
    rows = (
        (one.name, one.tenant, ", ".join(one.versions), str(one.instances), str(one.in_flight))
        for one in services[:MAX_ROWS]
    )
    return _table(heads, rows, len(services), "Nobody has announced a service.")


def _connections(connections: Sequence[ConnectionView]) -> str:
    heads = (
        "id #", "app", "instance", "tenant", "transport", "serves", "connected",
        "streams #", "in #", "out #", "waiting #",
    )  # fmt: skip
    rows = (
        (
            str(one.id),
            one.app,
            one.instance,
            one.tenant,
            f"{one.transport} (detached)" if one.detached else one.transport,
            ", ".join(one.services),
            duration(one.connected_for),
            str(one.streams_open),
            size(one.bytes_in),
            size(one.bytes_out),
            size(one.outbound),
        )
        for one in connections[:MAX_ROWS]
    )
    return _table(heads, rows, len(connections), "Nobody is connected.")


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], total: int, when_empty: str) -> str:
    """Return a table; a head that ends in `#` makes a column of numbers."""
    if not total:
        return f'<p class="none">{escape(when_empty)}</p>'
    marks = [' class="number"' if head.endswith("#") else "" for head in heads]
    head = "".join(
        f"<th{mark}>{escape(name.removesuffix(' #'))}</th>"
        for name, mark in zip(heads, marks, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(f"<td{m}>{escape(cell)}</td>" for cell, m in zip(row, marks, strict=True))
        + "</tr>\n"
        for row in rows
    )
    left = total - MAX_ROWS
    more = f'<p class="none">and {left} more</p>' if left > 0 else ""
    return f'<div class="wide"><table><tr>{head}</tr>\n{body}</table></div>{more}'


def duration(seconds: float) -> str:
    """Return a length of time for people: `4 s`, `3 min 20 s`, `2 d 5 h`."""
    whole = int(seconds)
    for unit, length, lower, lower_length in (
        ("d", 86400, "h", 3600),
        ("h", 3600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if whole >= length:
            return f"{whole // length} {unit} {whole % length // lower_length} {lower}"
    return f"{whole} s"


def size(number: float) -> str:
    """Return a number of bytes for people: `512 B`, `1.5 MiB`."""
    if number < 1024:
        return f"{number:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        number /= 1024
        if number < 1024:
            return f"{number:.1f} {unit}"
    return f"{number / 1024:.1f} TiB"
