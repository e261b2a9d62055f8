"""What Prometheus reads: the names and labels we promise, and numbers that add up."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from reconciler.observe import FAULT, Histogram, Observer
from reconciler.operate.metrics import Metrics

STATUS = {
    "ready": True,
    "version": "1.2.3",
    "counts": {"advertised": 3, "wired": 1},
    "pools": [
        {"subnet": "10.1.0.0/24", "size": 253, "free": 240, "held": 4, "cooling": 9, "reserved": 3, "conflicts": "()"}
    ],
    "quarantined": 2,
    "network_policy": "not enforced",
}

# Dashboards and alerts depend on these; a name is added here or it does not exist.
PROMISED = {
    "headcni_ip_allocations",
    "headcni_ip_releases",
    "headcni_network_errors",
    "headcni_pod_network_setup_duration_seconds",
    "headcni_transition_duration_seconds",
    "headcni_requests",
    "headcni_request_duration_seconds",
    "headcni_retries",
    "headcni_attachments",
    "headcni_pool_addresses",
    "headcni_quarantined_files",
    "headcni_ready",
    "headcni_network_policy_enforced",
    "headcni_mesh_up",
    "headcni_mesh_prefix_in_force",
    "headcni_mesh_peers",
    "headcni_mesh_ways",
    "headcni_mesh_troubles",
    "headcni_mesh_repairs",
    "headcni_headscale_request_seconds",
    "headcni_build_info",
    "process_resident_memory_bytes",
    "process_cpu_seconds",
    "process_open_fds",
}


def _samples(observer, status=STATUS):
    text = Metrics(observer, lambda: status).render()
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_promised_name_is_there_from_the_start():
    text = Metrics(Observer(), lambda: STATUS).render()
    found = {family.name for family in text_string_to_metric_families(text)}
    ours = {name for name in found if name.startswith("headcni_")}
    assert ours == {name for name in PROMISED if name.startswith("headcni_")}
    assert found >= PROMISED


def test_a_successful_add_is_counted_and_timed():
    observer = Observer()
    observer.allocated(2)
    observer.step("wire", True, 0.004)
    observer.answered("ADD", 0, 0.006)
    samples = _samples(observer)
    assert samples["headcni_ip_allocations_total",] == 2
    assert samples["headcni_requests_total", "0", "ADD"] == 1
    assert samples["headcni_pod_network_setup_duration_seconds_count",] == 1
    assert samples["headcni_pod_network_setup_duration_seconds_sum",] == pytest.approx(0.006)
    assert samples["headcni_transition_duration_seconds_bucket", "0.003", "ok", "wire"] == 0
    assert samples["headcni_transition_duration_seconds_bucket", "0.005", "ok", "wire"] == 1
    assert samples["headcni_transition_duration_seconds_bucket", "+Inf", "ok", "wire"] == 1


def test_a_refused_add_is_an_error_and_no_setup():
    observer = Observer()
    observer.answered("ADD", 100, 0.5)
    samples = _samples(observer)
    assert samples["headcni_network_errors_total", "pool_empty"] == 1
    assert samples["headcni_requests_total", "100", "ADD"] == 1
    assert samples["headcni_pod_network_setup_duration_seconds_count",] == 0


def test_a_delegates_own_codes_do_not_multiply_the_series():
    observer = Observer()
    for code in range(1000, 1100):
        observer.answered("ADD", code, 0.1)
    samples = _samples(observer)
    assert samples["headcni_network_errors_total", "delegate"] == 100
    assert samples["headcni_requests_total", "ADD", "other"] == 100


def test_faults_retries_and_releases_are_counted():
    observer = Observer()
    observer.error(FAULT)
    observer.retry("advertise")
    observer.released(1)
    samples = _samples(observer)
    assert samples["headcni_network_errors_total", "fault"] == 1
    assert samples["headcni_retries_total", "advertise"] == 1
    assert samples["headcni_ip_releases_total",] == 1


def test_the_gauges_are_the_status():
    samples = _samples(Observer())
    assert samples["headcni_attachments", "advertised"] == 3
    assert samples["headcni_attachments", "requested"] == 0
    assert samples["headcni_pool_addresses", "10.1.0.0/24", "cooling"] == 9
    assert samples["headcni_quarantined_files",] == 2
    assert samples["headcni_ready",] == 1
    assert samples["headcni_network_policy_enforced",] == 0
    assert samples["headcni_build_info", "1.2.3"] == 1


MESH = {
    "mode": "tailscale",
    "member": True,
    "in_force": {"10.244.1.0/24": True, "fd00:244:1::/64": False},
    "missing": {"fd00:244:1::/64": {"code": 132, "what": "it is not approved", "cure": "approve it"}},
    "findings": [{"code": 138, "what": "lost", "cure": ""}, {"code": 132, "what": "another", "cure": ""}],
    "peers": 5,
    "peers_online": 4,
    "ways": 9,
    "ways_reachable": 6,
    "ways_unreachable": 2,
}


def test_the_mesh_is_the_status():
    samples = _samples(Observer(), STATUS | {"mesh": MESH})
    assert samples["headcni_mesh_up",] == 1
    assert samples["headcni_mesh_prefix_in_force", "10.244.1.0/24"] == 1
    assert samples["headcni_mesh_prefix_in_force", "fd00:244:1::/64"] == 0
    assert (samples["headcni_mesh_peers", "online"], samples["headcni_mesh_peers", "offline"]) == (4, 1)
    ways = [samples["headcni_mesh_ways", state] for state in ("reachable", "unreachable", "unknown")]
    assert ways == [6, 2, 1]
    assert (samples["headcni_mesh_troubles", "132"], samples["headcni_mesh_troubles", "138"]) == (2, 1)


@pytest.mark.parametrize("mesh", [{"mode": "none", "static_routes": []}, {"mode": "tailscale"}])
def test_a_mesh_that_is_off_or_was_not_looked_at_has_no_samples(mesh):
    samples = _samples(Observer(), STATUS | {"mesh": mesh})
    assert [name for name, *_ in samples if name.startswith("headcni_mesh")] == []


def test_a_node_that_is_no_member_is_not_up():
    assert _samples(Observer(), STATUS | {"mesh": MESH | {"member": False}})["headcni_mesh_up",] == 0


def test_requests_to_headscale_and_repairs_are_counted():
    observer = Observer()
    observer.headscale(0.06, True)
    observer.headscale(3.0, False)
    observer.mesh_repair("refresh")
    observer.mesh_repair("refresh")
    samples = _samples(observer)
    assert samples["headcni_headscale_request_seconds_bucket", "0.05", "ok"] == 0
    assert samples["headcni_headscale_request_seconds_bucket", "0.075", "ok"] == 1
    assert samples["headcni_headscale_request_seconds_count", "failed"] == 1
    assert samples["headcni_mesh_repairs_total", "refresh"] == 2


def test_two_registries_do_not_meet():
    one, other = Observer(), Observer()
    one.allocated(1)
    assert _samples(one)["headcni_ip_allocations_total",] == 1
    assert _samples(other)["headcni_ip_allocations_total",] == 0


@pytest.mark.parametrize(("seconds", "bucket"), [(0.0, 0), (1.0, 0), (1.5, 1), (2.0, 1), (99.0, 2)])
def test_a_bound_belongs_to_its_bucket(seconds, bucket):
    histogram = Histogram((1.0, 2.0))
    histogram.add(seconds)
    assert [n for n, count in enumerate(histogram.counts) if count] == [bucket]
