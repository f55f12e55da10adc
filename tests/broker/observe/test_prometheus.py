"""What a scrape says, parsed back by the parser of Prometheus's own client."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from broker.admin.snapshot import BrokerView
from broker.observe.prometheus import (
    MAX_OUTCOME_LABELS,
    MAX_SERVICE_LABELS,
    OTHER,
    Labels,
    registry_for,
    render,
)
from tests.support.broker_view import FakeView, a_connection, a_service, a_snapshot

Samples = dict[tuple[str, tuple[str, ...]], float]


def scrape(view: BrokerView) -> Samples:
    return samples_of(render(registry_for(view)))


def samples_of(text: bytes) -> Samples:
    return {
        (sample.name.removeprefix("rsocket_broker_"), tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


@pytest.fixture
def view() -> FakeView:
    return FakeView()


def test_connections_are_counted_by_transport_and_history(view):
    view.shown = a_snapshot(
        connections=(
            a_connection(1),
            a_connection(2),
            a_connection(3, transport="ws 127.0.0.1:1", outbound=5),
        )
    )
    view.counters.accepted = 9
    view.counters.refused["INVALID"] = 4
    view.counters.closes.update({"peer-closed": 5, "keepalive-timeout": 1})
    samples = scrape(view)
    assert samples["connections", ("tcp",)] == 2
    assert samples["connections", ("ws",)] == 1
    assert samples["connections_accepted_total", ()] == 9
    assert samples["connections_refused_total", ("INVALID",)] == 4
    assert samples["connections_closed_total", ("peer-closed",)] == 5
    assert samples["outbound_bytes", ()] == 25


def test_sessions_that_wait_for_their_peer_are_no_connections(view):
    view.shown = a_snapshot(
        connections=(
            a_connection(1, resume_stored=10),
            a_connection(2, detached=True, resume_stored=100),
            a_connection(3),
        )
    )._replace(resume_overflows=3)
    view.counters.resumed = 7
    view.counters.resume_refused.update({"unknown-token": 2, "position-gone": 1})
    samples = scrape(view)
    assert samples["connections", ("tcp",)] == 2
    assert samples["sessions_detached", ()] == 1
    assert samples["sessions_resumed_total", ()] == 7
    assert samples["resume_refused_total", ("unknown-token",)] == 2
    assert samples["resume_refused_total", ("position-gone",)] == 1
    assert samples["resume_stored_bytes", ()] == 110
    assert samples["resume_overflows_total", ()] == 3


def test_bytes_are_those_of_ended_and_of_live_connections(view):
    view.counters.bytes_in, view.counters.bytes_out = 10, 20
    view.counters.frames_in, view.counters.frames_out = 3, 4
    view.shown = a_snapshot(connections=(a_connection(bytes_in=100, bytes_out=200),))
    samples = scrape(view)
    assert samples["received_bytes_total", ()] == 110
    assert samples["sent_bytes_total", ()] == 220
    assert samples["frames_received_total", ()] == 3
    assert samples["frames_sent_total", ()] == 4


def test_calls_are_counted_by_service_and_outcome(view):
    orders = view.counters.calls_to("orders")
    orders.started, orders.ok = 10, 7
    orders.others.update({"no_route": 1, "deadline_exceeded": 2})
    samples = scrape(view)
    assert samples["calls_started_total", ("orders",)] == 10
    assert samples["calls_total", ("ok", "orders")] == 7
    assert samples["calls_total", ("deadline_exceeded", "orders")] == 2


def test_services_of_several_tenants_add_up_under_their_name(view):
    view.shown = a_snapshot(services=(a_service(), a_service(tenant="two"), a_service("stock")))
    samples = scrape(view)
    assert samples["services", ()] == 3
    assert samples["service_instances", ("orders",)] == 4
    assert samples["calls_in_flight", ("orders",)] == 6
    assert samples["calls_in_flight", ("stock",)] == 3


def test_what_was_dropped_and_ignored_has_its_reason(view):
    view.counters.dropped["no_route"] = 2
    view.counters.ignored["lease"] = 3
    samples = scrape(view)
    assert samples["dropped_total", ("no_route",)] == 2
    assert samples["ignored_frames_total", ("lease",)] == 3


def test_limits_are_counted_by_their_config_key(view):
    view.counters.limits["keepalives_per_second"] = 2
    assert scrape(view)["limits_hit_total", ("keepalives_per_second",)] == 2


def test_leases_and_calls_without_room_are_counted(view):
    view.counters.leases_granted = 3
    view.counters.leases_received = 4
    view.counters.leased_requests.update(used=5, refused=6)
    view.counters.calls_to("orders").over_budget = 7
    view.counters.calls_to("stock")
    samples = scrape(view)
    assert samples["leases_granted_total", ()] == 3
    assert samples["leases_received_total", ()] == 4
    assert samples["leased_requests_total", ("used",)] == 5
    assert samples["leased_requests_total", ("refused",)] == 6
    assert samples["calls_over_budget_total", ("orders",)] == 7
    assert ("calls_over_budget_total", ("stock",)) not in samples


def test_state_version_and_the_process_are_there(view):
    samples = scrape(view)
    assert samples["build_info", ("1.2.3",)] == 1
    assert samples["ready", ()] == 1
    assert samples["streams", ()] == 7
    assert samples["process_open_fds", ()] > 0
    view.shown = a_snapshot("draining")
    assert scrape(view)["ready", ()] == 0


def test_every_name_follows_the_conventions(view):
    families = list(text_string_to_metric_families(render(registry_for(view)).decode()))
    ours = [family for family in families if not family.name.startswith("process_")]
    assert len(ours) > 15
    for family in ours:
        assert family.name.startswith("rsocket_broker_")
        assert family.documentation.endswith(".")


def test_services_over_the_cap_share_one_label_and_no_counter_goes_back(view):
    registry = registry_for(view)
    for number in range(MAX_SERVICE_LABELS + 5):
        view.counters.calls_to(f"s{number}").started = 1
    samples = samples_of(render(registry))
    assert samples["calls_started_total", (OTHER,)] == 5
    assert samples["calls_started_total", ("s0",)] == 1
    view.counters.calls = dict(reversed(view.counters.calls.items()))
    assert samples_of(render(registry))["calls_started_total", ("s0",)] == 1


def test_outcomes_over_the_cap_share_one_label(view):
    others = view.counters.calls_to("orders").others
    others.update({f"code_{number}": 1 for number in range(MAX_OUTCOME_LABELS + 3)})
    assert scrape(view)["calls_total", (OTHER, "orders")] == 3


def test_a_name_with_quotes_and_line_ends_stays_one_label(view):
    view.counters.closes['a"b\n\\c'] = 1
    assert scrape(view)["connections_closed_total", ('a"b\n\\c',)] == 1


@given(st.lists(st.text(max_size=3)), st.integers(0, 5))
def test_a_label_once_given_is_given_again_and_there_are_never_too_many(names, limit):
    labels = Labels(limit)
    first = [labels.of(name) for name in names]
    assert [labels.of(name) for name in names] == first
    assert len(set(first) - {OTHER}) <= limit
