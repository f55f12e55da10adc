"""The broker's metrics for Prometheus, made when they are asked for.

The broker counts in plain integers (`broker.observe.counters`); this collector reads them and the
snapshot at scrape time, so a metric costs nothing between scrapes. Names follow Prometheus: base
units, `_total` behind what only grows, one meaning per name.
Source: https://prometheus.io/docs/practices/naming/
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from broker.admin.snapshot import BrokerView, Snapshot

# Label values; each makes a handful of series that Prometheus keeps for weeks. Peers choose service
# names, so without a bound one of them could fill the operator's Prometheus.
MAX_SERVICE_LABELS: Final = 1000
MAX_OUTCOME_LABELS: Final = 64  # our tokens are a dozen; the rest is room for foreign codes
OTHER: Final = "other"

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST


class Labels:
    """Hands out at most *limit* label values and `other` for the rest.

    A value that once had a label keeps it: a counter that moved to `other` would go backwards.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._known: set[str] = set()

    def of(self, name: str) -> str:
        """Return the label value for *name*."""
        if name not in self._known:
            if len(self._known) >= self._limit:
                return OTHER
            self._known.add(name)
        return name


class BrokerCollector(Collector):
    """One broker as metric families; a scrape costs time in proportion to its connections."""

    def __init__(self, view: BrokerView) -> None:
        self._view = view
        self._services = Labels(MAX_SERVICE_LABELS)
        self._outcomes = Labels(MAX_OUTCOME_LABELS)

    def collect(self) -> Iterator[Metric]:
        snapshot = self._view.snapshot()
        yield _gauge(
            "build_info", "Always 1; the version is in the label.", {snapshot.version: 1}, "version"
        )
        yield _gauge("ready", "1 if new sessions are accepted.", int(snapshot.state == "ready"))
        yield from self._connections(snapshot)
        yield from self._traffic(snapshot)
        yield from self._service_states(snapshot)
        yield from self._calls()
        yield from self._credit()
        yield from self._leases()
        if snapshot.workers:
            yield from self._workers(snapshot)

    def _connections(self, snapshot: Snapshot) -> Iterator[Metric]:
        counters = self._view.counters
        schemes = Counter(
            connection.transport.partition(" ")[0]
            for connection in snapshot.connections
            if not connection.detached
        )
        yield _gauge("connections", "Connections open now.", schemes, "transport")
        yield _counter(
            "connections_accepted", "Sessions whose SETUP was accepted.", counters.accepted
        )
        yield _counter(
            "connections_refused", "SETUPs refused, by error token.", counters.refused, "reason"
        )
        yield _counter("connections_closed", "Connections ended.", counters.closes, "reason")
        yield from self._resume(snapshot)
        yield _gauge("streams", "Streams open now.", snapshot.streams_open)
        yield _gauge("memory_budget_bytes", "What the process may use.", snapshot.memory_budget)
        yield _gauge(
            "memory_step",
            "0 calm, 1 smaller windows, 2 new work refused, 3 the fullest peers closed.",
            snapshot.memory_step,
        )
        waiting = sum(connection.outbound for connection in snapshot.connections)
        yield _gauge("outbound_bytes", "Bytes waiting for peers that read slowly.", waiting)

    def _resume(self, snapshot: Snapshot) -> Iterator[Metric]:
        counters = self._view.counters
        detached = sum(connection.detached for connection in snapshot.connections)
        stored = sum(connection.resume_stored for connection in snapshot.connections)
        yield _gauge("sessions_detached", "Sessions that wait for their peer now.", detached)
        yield _gauge("resume_stored_bytes", "Bytes kept to be sent again.", stored)
        yield _counter(
            "sessions_resumed", "Sessions gone on over a new connection.", counters.resumed
        )
        yield _counter(
            "resume_refused",
            "RESUMEs refused; the session ends, or had ended.",
            counters.resume_refused,
            "reason",
        )
        yield _counter(
            "resume_overflows",
            "How often more had to be kept than may be; such a session cannot resume.",
            snapshot.resume_overflows,
        )

    def _traffic(self, snapshot: Snapshot) -> Iterator[Metric]:
        counters = self._view.counters
        # The totals hold what ended connections moved; live ones keep their own until they end.
        received = counters.bytes_in + sum(peer.bytes_in for peer in snapshot.connections)
        sent = counters.bytes_out + sum(peer.bytes_out for peer in snapshot.connections)
        yield _counter("frames_received", "Frames received from peers.", counters.frames_in)
        yield _counter("frames_sent", "Frames sent to peers.", counters.frames_out)
        yield _counter("received_bytes", "Bytes of frames received, with prefixes.", received)
        yield _counter("sent_bytes", "Bytes of frames sent, with prefixes.", sent)
        yield _counter(
            "dropped",
            "Fire-and-forget requests and pushes that reached nobody.",
            counters.dropped,
            "reason",
        )
        yield _counter(
            "limits_hit", "Times a peer hit a limit, by its config key.", counters.limits, "limit"
        )
        yield _counter(
            "ignored_frames", "Frames out of place, by what they were.", counters.ignored, "kind"
        )

    def _service_states(self, snapshot: Snapshot) -> Iterator[Metric]:
        instances: Counter[str] = Counter()
        in_flight: Counter[str] = Counter()
        for service in snapshot.services:
            label = self._services.of(service.name)
            instances[label] += service.instances
            in_flight[label] += service.in_flight
        yield _gauge("services", "Services with an instance now.", len(snapshot.services))
        yield _gauge("service_instances", "Instances connected now.", instances, "service")
        yield _gauge("calls_in_flight", "Calls without an end yet.", in_flight, "service")

    def _calls(self) -> Iterator[Metric]:
        started: Counter[str] = Counter()
        ended: Counter[tuple[str, str]] = Counter()
        over_budget: Counter[str] = Counter()
        for calls in self._view.counters.calls.values():
            service = self._services.of(calls.service)
            started[service] += calls.started
            ended[service, "ok"] += calls.ok
            if calls.over_budget:
                over_budget[service] += calls.over_budget
            for outcome, number in calls.others.items():
                ended[service, self._outcomes.of(outcome)] += number
        yield _counter("calls_started", "Calls that came in.", started, "service")
        yield _counter(
            "calls_over_budget",
            "Calls refused because no provider had room.",
            over_budget,
            "service",
        )
        family = CounterMetricFamily(
            "rsocket_broker_calls",
            "Calls that ended, by how.",
            labels=("service", "outcome"),
        )
        for key, number in ended.items():
            family.add_metric(key, number)
        yield family

    def _credit(self) -> Iterator[Metric]:
        granted: Counter[str] = Counter()
        used: Counter[str] = Counter()
        outstanding: Counter[str] = Counter()
        starved: dict[tuple[str, str], float] = {}
        for calls in self._view.counters.calls.values():
            service = self._services.of(calls.service)
            granted[service] += calls.credit_granted
            used[service] += calls.credit_used
            outstanding[service] += calls.credit_granted - calls.credit_used - calls.credit_returned
            for by, seconds in calls.starved_seconds.items():
                starved[service, by] = starved.get((service, by), 0.0) + seconds
        yield _counter("credit_granted", "Items granted to producers.", granted, "service")
        yield _counter("credit_used", "Items that producers sent.", used, "service")
        yield _gauge("credit_outstanding", "Items they may still send.", outstanding, "service")
        family = CounterMetricFamily(
            "rsocket_broker_starved_seconds",
            "Time in which producers had no credit, by who gave none.",
            labels=("service", "by"),
        )
        for key, seconds in starved.items():
            family.add_metric(key, seconds)
        yield family

    def _leases(self) -> Iterator[Metric]:
        counters = self._view.counters
        yield _counter("leases_granted", "LEASE frames sent to clients.", counters.leases_granted)
        yield _counter("leases_received", "LEASE frames of providers.", counters.leases_received)
        yield _counter(
            "leased_requests",
            "Requests of clients with a lease: used it, or were refused beyond it.",
            counters.leased_requests,
            "result",
        )

    def _workers(self, snapshot: Snapshot) -> Iterator[Metric]:
        """What is worth knowing of each process; all else is told for the broker as a whole."""
        by_worker = {str(one.worker): one for one in snapshot.workers}
        for name, text, attribute in _WORKER_GAUGES:
            values = {worker: getattr(one, attribute) for worker, one in by_worker.items()}
            yield _gauge(f"worker_{name}", text, values, "worker")
        for name, text, attribute in _WORKER_COUNTERS:
            values = {worker: getattr(one, attribute) for worker, one in by_worker.items()}
            yield _counter(f"worker_{name}", text, values, "worker")


_WORKER_GAUGES: Final = (
    ("connections", "Connections that the worker has.", "connections"),
    ("streams", "Streams open now, of callers that the worker has.", "streams_open"),
    ("resident_bytes", "Memory of the process.", "resident"),
)
_WORKER_COUNTERS: Final = (
    ("restarts", "Times the worker died and was started again.", "restarts"),
    ("calls_passed_on", "Calls that came to it from other workers.", "passed_on"),
    ("link_bytes", "Bytes sent to other workers.", "link_bytes"),
    ("cpu_seconds", "CPU time of the process.", "cpu_seconds"),
)


def registry_for(view: BrokerView) -> CollectorRegistry:
    """Return a registry of its own with the broker's metrics and those of the process."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(BrokerCollector(view))
    return registry


def render(registry: CollectorRegistry) -> bytes:
    """Return all metrics in the text format that `CONTENT_TYPE` names."""
    return generate_latest(registry)


def _gauge(
    name: str, help_text: str, values: float | Mapping[str, float], label: str = ""
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(
        f"rsocket_broker_{name}", help_text, labels=(label,) if label else ()
    )
    _fill(family, values)
    return family


def _counter(
    name: str, help_text: str, values: float | Mapping[str, float], label: str = ""
) -> CounterMetricFamily:
    family = CounterMetricFamily(
        f"rsocket_broker_{name}", help_text, labels=(label,) if label else ()
    )
    _fill(family, values)
    return family


def _fill(
    family: GaugeMetricFamily | CounterMetricFamily, values: float | Mapping[str, float]
) -> None:
    if isinstance(values, Mapping):
        for value, number in values.items():
            family.add_metric((value,), number)
    else:
        family.add_metric((), values)
