"""What the broker counts: plain integers on slotted objects, read at scrape time.

`labels().inc()` of a metrics library costs 1.1 to 1.5 us, `+= 1` costs 0.05; so the hot path adds
to these and `broker.observe.prometheus` reads them when it is asked.
"""

from __future__ import annotations

from collections import Counter

from broker.kernel import TallyCore

OK = "ok"
CALLER_CANCELED = "caller_canceled"  # the caller sent CANCEL
OTHERS = "(other)"  # the account of services for which there was no room
MAX_SERVICES = 10_000  # accounts, about 0.5 KiB each; they outlive the services
CALLER_LOST = "caller_lost"  # the caller's session ended before the answer
STARVED_BY = ("caller_demand", "caller_socket", "provider_demand", "provider_socket")


class CallCounters(TallyCore):
    """Calls to one service. Outcomes other than `ok` are counted by token or code name in lower
    case: `no_route`, `peer_lost`, `deadline_exceeded`, `application`, ..."""

    __slots__ = (
        "credit_granted",
        "credit_returned",
        "credit_used",
        "others",
        "over_budget",
        "service",
        "starved_seconds",
    )

    def __init__(self, service: str) -> None:
        super().__init__()
        self.service = service
        self.over_budget = 0  # refused because no provider had room
        self.others: Counter[str] = Counter()
        # Items, in both directions of streams and channels. What is outstanding is what was granted
        # and neither used nor returned by the end of its stream; used is known once per settling.
        self.credit_granted = 0
        self.credit_used = 0
        self.credit_returned = 0
        # Time in which a producer had no credit, by whose doing that was: `caller_demand` (it asked
        # for no more), `caller_socket` (it asked and did not read), `provider_...` likewise.
        self.starved_seconds: dict[str, float] = dict.fromkeys(STARVED_BY, 0.0)


class Counters:
    """Totals of one broker process."""

    __slots__ = (
        "accepted",
        "bytes_in",
        "bytes_out",
        "calls",
        "closes",
        "dropped",
        "frames_in",
        "frames_out",
        "ignored",
        "leased_requests",
        "leases_granted",
        "leases_received",
        "limits",
        "refused",
        "resume_refused",
        "resumed",
    )

    def __init__(self) -> None:
        self.accepted = 0  # sessions whose SETUP was accepted
        self.refused: Counter[str] = Counter()  # SETUPs by token or code name
        self.resumed = 0  # sessions that went on over another socket; a count of the sockets
        self.resume_refused: Counter[str] = Counter()  # RESUMEs by reason
        self.closes: Counter[str] = Counter()  # connections by reason
        self.dropped: Counter[str] = Counter()  # fire-and-forget and pushes, by reason
        self.ignored: Counter[str] = Counter()  # frames out of place, by what they were
        self.limits: Counter[str] = Counter()  # times a limit was hit, by its config key
        self.frames_in = 0
        self.frames_out = 0
        self.bytes_in = 0  # of connections that have ended; the live ones hold their own
        self.bytes_out = 0
        self.leases_granted = 0  # LEASE frames sent to clients
        self.leases_received = 0  # LEASE frames of providers
        self.leased_requests: Counter[str] = Counter()  # of leased clients: used, refused
        self.calls: dict[str, CallCounters] = {}

    def calls_to(self, service: str) -> CallCounters:
        """Return the counters of *service*, made at the first call. Callers cache the answer.

        Services beyond `MAX_SERVICES` share one account: names come from whoever registers.
        """
        found = self.calls.get(service)
        if found is None:
            if len(self.calls) >= MAX_SERVICES:
                return self.calls.setdefault(OTHERS, CallCounters(OTHERS))
            found = self.calls[service] = CallCounters(service)
        return found
