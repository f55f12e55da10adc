"""One answer out of the reports of all workers: what the admin side sees of the broker.

Implements `admin.snapshot.BrokerView` in the supervisor. What a worker had counted when it was last
asked stays in the sum when it dies, so that no total ever goes back.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from operator import attrgetter

from broker.admin.snapshot import ServiceView, Snapshot, WorkerView
from broker.observe.counters import Counters
from broker.workers.report import CountersReport, Report, add, counters_report


class Totals:
    """The last report of each worker, and what is left of those that died.

    Attributes:
        counters: the sum of all.
    """

    def __init__(self) -> None:
        self.counters = Counters()
        self._reports: dict[int, Report] = {}
        self._past: list[CountersReport] = []

    def take(self, worker: int, report: Report) -> None:
        """*worker* tells this now."""
        self._reports[worker] = report

    def gone(self, worker: int) -> None:
        """*worker* has died."""
        report = self._reports.pop(worker, None)
        if report is None:
            return
        before = self._sum(self._past)
        add(before, report.counters)
        self._past = [counters_report(before)]

    def add_up(self) -> None:
        """Bring `counters` up to date."""
        now = (report.counters for report in self._reports.values())
        self.counters = self._sum([*self._past, *now])

    @staticmethod
    def _sum(reports: Iterable[CountersReport]) -> Counters:
        total = Counters()
        for report in reports:
            add(total, report)
        return total

    def snapshot(
        self, state: str, version: str, uptime: float, workers: list[WorkerView]
    ) -> Snapshot:
        """Return all workers as one broker.

        Args:
            workers: what the supervisor knows of each; the rest comes from the reports.
        """
        parts = [(worker, report.snapshot) for worker, report in sorted(self._reports.items())]
        return Snapshot(
            state,
            version,
            uptime,
            tuple(
                connection._replace(worker=worker)
                for worker, part in parts
                for connection in part.connections
            ),
            _services(service for _, part in parts for service in part.services),
            sum(part.streams_open for _, part in parts),
            memory_budget=sum(part.memory_budget for _, part in parts),
            memory_step=max((part.memory_step for _, part in parts), default=0),
            resume_overflows=sum(part.resume_overflows for _, part in parts),
            workers=tuple(map(self._filled_in, workers)),
        )

    def _filled_in(self, view: WorkerView) -> WorkerView:
        report = self._reports.get(view.worker)
        if report is None:
            return view
        return view._replace(
            streams_open=report.snapshot.streams_open,
            passed_on=report.passed_on,
            link_bytes=report.link_bytes,
            cpu_seconds=report.cpu_seconds,
            resident=report.resident,
        )


def _services(views: Iterable[ServiceView]) -> tuple[ServiceView, ...]:
    """Return one view per service, of those that several workers have."""
    by_name = attrgetter("tenant", "name")
    merged = []
    for (tenant, name), group in groupby(sorted(views, key=by_name), by_name):
        same = list(group)
        versions = {version for view in same for version in view.versions}
        instances = sum(view.instances for view in same)
        in_flight = sum(view.in_flight for view in same)
        merged.append(ServiceView(tenant, name, tuple(sorted(versions)), instances, in_flight))
    return tuple(merged)
