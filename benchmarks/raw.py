"""Raw frames as load: builds `native/load.c` and tells it what to send.

The program in C holds callers and services, answers itself, and reads the middle's CPU time at the
beginning and the end of what it measures. What the frames are is decided here, with the codec of
the library.
"""

from __future__ import annotations

import functools
import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

import msgspec

from benchmarks import cores
from benchmarks.figures import Histogram, from_buckets
from benchmarks.stage import ROOT, Running, Unavailable
from rsocket_mesh.protocol.announce import Announcement, ServiceInfo, encode_announcement
from rsocket_mesh.protocol.frames import (
    MAX_REQUEST_N,
    REQUEST_CHANNEL,
    REQUEST_FNF,
    REQUEST_RESPONSE,
    REQUEST_STREAM,
    Setup,
    encode_request,
    encode_setup,
)
from rsocket_mesh.protocol.metadata import (
    ANNOUNCE,
    COMPOSITE,
    OCTET_STREAM,
    ROUTING,
    encode_entry,
    encode_routing,
)

NATIVE: Final = Path(__file__).parent / "native"
CACHE: Final = ROOT / ".bench"
LIFETIME_MS: Final = 600_000  # the load sends no keepalive: it is never idle that long
TIMEOUT: Final = 60.0  # seconds for one measurement, whatever happens
ROUTE: Final = "bench.EchoService.echo"
MANY_ROUTES: Final = "b%05d.echo"  # short, so that 10,000 of them fit into one announcement
DIGITS: Final = b"00000"  # what the program replaces by numbers

Op = Literal["call", "stream", "channel", "fnf", "idle", "hold", "churn"]
KINDS: Final[dict[str, int]] = {
    "stream": REQUEST_STREAM,
    "hold": REQUEST_STREAM,
    "channel": REQUEST_CHANNEL,
    "fnf": REQUEST_FNF,
}


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What to send.

    Attributes:
        op: `call` is request-response; `idle` and `hold` (open streams) only stand there.
        payload: bytes of data in each request, item and answer.
        in_flight: calls at the same time, of all callers together, in a closed loop.
        warm_in_flight: so many before it is measured, if that is more.
        rate: calls per second in an open loop; 0 for a closed one.
        callers, providers: connections.
        streams: that are open at the same time.
        credit: items that one stream may be ahead; `MAX_REQUEST_N` for any number.
        stopped: callers that read nothing.
        routes: that calls go to in turn.
        seconds, warm: what is measured, and what runs before; 0 takes those of the run.
        spread: connections come from many loopback addresses.
    """

    op: Op = "call"
    payload: int = 128
    in_flight: int = 1
    warm_in_flight: int = 0
    rate: float = 0
    callers: int = 1
    providers: int = 1
    streams: int = 1
    credit: int = MAX_REQUEST_N
    stopped: int = 0
    routes: int = 1
    count: int = 1_000_000_000
    seconds: float = 0
    warm: float = 0
    spread: bool = False


class Measured(msgspec.Struct, frozen=True):
    """What came of it; times in seconds.

    Attributes:
        calls: answered, or items that arrived, or connections that were made.
        middle_cpu, load_cpu: time on a processor within `seconds`.
        late_ns: how long after its time an open-loop call left, on average.
        error: the first refusal.
    """

    calls: int
    failed: int
    seconds: float
    middle_cpu: float
    load_cpu: float
    bytes: int
    late_ns: float
    error: str
    buckets: list[tuple[int, int]]

    @property
    def histogram(self) -> Histogram:
        """Latencies of the calls."""
        return from_buckets(self.buckets)

    def metrics(self) -> dict[str, float]:
        """Return the metrics that every load has."""
        if not self.calls:
            raise Unavailable(f"no call was answered; the first refusal: {self.error or 'none'}")
        found = {
            "cpu_us": self.middle_cpu / self.calls * 1e6,
            "per_second": self.calls / self.seconds,
            "load_cpu_us": self.load_cpu / self.calls * 1e6,
            "load_share": self.load_cpu / self.seconds,
            "middle_share": self.middle_cpu / self.seconds,
        }
        if self.failed:
            found["failed"] = self.failed / (self.failed + self.calls)
        return found


@functools.cache
def program() -> Path:
    """Return the built load generator.

    Raises:
        Unavailable: there is no C compiler, or it failed; the text has its first line.
    """
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise Unavailable("the load is C and there is no compiler (on Debian: gcc libc6-dev)")
    sources = b"".join(path.read_bytes() for path in sorted(NATIVE.glob("*.[ch]")))
    built = CACHE / f"load-{hashlib.sha256(sources).hexdigest()[:16]}"
    if built.exists():
        return built
    CACHE.mkdir(exist_ok=True)
    command = [compiler, "-O2", "-o", str(built), str(NATIVE / "load.c")]
    tls = ["-DWITH_TLS", "-lssl", "-lcrypto"]
    for extra in (tls, []):  # without OpenSSL's headers all but TLS works
        done = subprocess.run(
            [*command, *extra], check=False, capture_output=True, text=True, timeout=120
        )
        if done.returncode == 0:
            return built
    raise Unavailable(f"the load does not compile: {done.stderr.strip().splitlines()[0]}")


def spec_of(load: Load, running: Running, speaks: str) -> str:
    """Return the lines that the program reads."""
    protocol = "bytes" if speaks == "direct" else speaks
    many = load.routes > 1
    route = MANY_ROUTES % 0 if many else ROUTE
    services = (
        [ServiceInfo((MANY_ROUTES % n).partition(".")[0]) for n in range(load.routes)]
        if many
        else [ServiceInfo(ROUTE.rpartition(".")[0])]
    )
    instance = f"i{DIGITS.decode()}" if load.providers > 1 else ""
    announcement = Announcement(app="bench", instance=instance, services=tuple(services))
    provider = _setup(encode_entry(ANNOUNCE, encode_announcement(announcement)))
    kind = KINDS.get(load.op, REQUEST_RESPONSE)
    metadata = encode_entry(ROUTING, encode_routing([route]))
    credit = load.credit if kind in (REQUEST_STREAM, REQUEST_CHANNEL) else None
    request = encode_request(kind, 1, metadata, b"", initial_n=credit)
    lines: dict[str, object] = {
        "address": running.address,
        "op": load.op,
        "protocol": protocol,
        "caller_setup": _setup(None).hex(),
        "provider_setup": provider.hex(),
        "request": request.hex(),
        "digits_at": request.find(DIGITS) if many else 0,
        "instance_at": provider.find(b"i" + DIGITS) + 1 if instance else 0,
        "subject": "bench.echo",
        "group": int(load.providers > 1),
        "answer": load.payload,
        "spread": int(load.spread),
        "warm": load.warm,
        "seconds": load.seconds,
    }
    if running.behind:
        lines["listen"] = running.behind
    if running.pids:
        lines["pids"] = ",".join(map(str, running.tree()))
    for name in [
        "callers",
        "providers",
        "in_flight",
        "warm_in_flight",
        "payload",
        "rate",
        "streams",
        "credit",
        "stopped",
        "routes",
        "count",
    ]:
        lines[name] = getattr(load, name)
    return "".join(f"{key} {value}\n" for key, value in lines.items()) + ".\n"


def _setup(metadata: bytes | None) -> bytes:
    return encode_setup(Setup(LIFETIME_MS, LIFETIME_MS, COMPOSITE, OCTET_STREAM, metadata))


def drive(load: Load, running: Running, speaks: str) -> Measured:
    """Send *load* and return what came of it.

    Raises:
        Unavailable: the middle refused it or closed a connection; the text is the load's.
    """
    command = cores.pinned(cores.LOAD, str(program()))
    try:
        done = subprocess.run(
            command,
            check=False,
            input=spec_of(load, running, speaks),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"the load was not over after {TIMEOUT:g} s") from None
    if done.returncode:
        raise Unavailable(done.stderr.strip() or f"the load ended with {done.returncode}")
    return msgspec.json.decode(done.stdout, type=Measured)


@contextmanager
def standing(load: Load, running: Running, speaks: str) -> Iterator[None]:
    """Keep connections or streams open while the block runs.

    Raises:
        Unavailable: the middle did not take them all; the text is the load's.
    """
    child = subprocess.Popen(
        cores.pinned(cores.LOAD, str(program())),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdin.write(spec_of(load, running, speaks))
        child.stdin.flush()
        if not child.stdout.readline():
            raise Unavailable(child.stderr.read().strip() or "the load ended")
        yield
    finally:
        child.kill()
        child.communicate()
