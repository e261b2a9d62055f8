"""What is kept of Nodes and Pods, and that nothing an API server might send is a fault."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.kube import objects
from tests.kube import samples


def test_of_a_node_is_kept_what_is_used():
    condition = {"type": "NetworkUnavailable", "status": "True", "lastHeartbeatTime": "2026-01-01T00:00:10Z"}
    raw = samples.node(
        annotations={"headcni.io/mesh": "in force"}, taints=[samples.OTHER_TAINT], conditions=[condition, {}]
    )
    node = objects.node(raw)
    assert node.name == "worker-1"
    assert node.uid == "uid-of-worker-1"
    assert node.version == "41"
    assert node.pod_cidrs == (ip_network(samples.CIDR),)
    assert node.taints == (samples.OTHER_TAINT,)
    assert node.annotations == {"headcni.io/mesh": "in force"}  # nobody else's
    assert node.addresses == (ip_address("192.0.2.11"),)  # its name is none
    assert list(node.conditions) == ["NetworkUnavailable"]
    assert node.conditions["NetworkUnavailable"].heartbeat == 1767225610


def test_a_node_of_one_cidr_may_say_so_in_the_older_field_alone():
    raw = samples.node(cidrs=[])
    assert objects.node(raw).pod_cidrs == (ip_network(samples.CIDR),)


def test_both_families_are_read_and_what_is_no_cidr_is_passed_over():
    raw = samples.node(cidrs=["10.244.1.0/24", "10.244.1.7/24", "fd00:244:1::/64", 7])
    assert [str(each) for each in objects.node(raw).pod_cidrs] == ["10.244.1.0/24", "fd00:244:1::/64"]


def test_of_a_pod_is_kept_what_is_used():
    raw = samples.pod("web-0", address="10.244.1.7", annotations={objects.MIRROR_OF: "abc"})
    pod = objects.pod(raw)
    assert (pod.namespace, pod.name, pod.uid, pod.node) == ("default", "web-0", "uid-of-web-0", "worker-1")
    assert pod.addresses == (ip_address("10.244.1.7"),)
    assert pod.labels == {"app": "web"}
    assert pod.static_uid == "abc"
    assert not pod.finished
    assert not pod.deleting


def test_labels_of_a_pod_are_kept_within_a_bound():
    few = {f"label-{number:05d}": "x" for number in range(100)}
    assert objects.pod(samples.pod("web-0", labels=few)).labels == few
    many = {f"label-{number:05d}": "x" * 63 for number in range(10_000)}
    kept = objects.pod(samples.pod("web-0", labels=many)).labels
    assert 0.9 * objects.LABELS < sum(len(key) + len(value) for key, value in kept.items()) <= objects.LABELS


@pytest.mark.parametrize(
    ("phase", "finished"), [("Pending", False), ("Succeeded", True), ("Failed", True), ("", False)]
)
def test_a_pod_is_finished_when_its_containers_will_not_run_again(phase, finished):
    assert objects.pod(samples.pod("web-0", phase=phase)).finished is finished


def test_a_pod_may_have_its_address_in_the_older_field_alone():
    raw = samples.pod("web-0")
    raw["status"] = {"podIP": "10.244.1.7"}
    assert objects.pod(raw).addresses == (ip_address("10.244.1.7"),)


@pytest.mark.parametrize("raw", [{}, {"metadata": None}, {"metadata": {"name": ""}}, {"metadata": {"name": 7}}])
def test_what_has_no_name_is_no_object(raw):
    assert objects.node(raw) is None
    assert objects.pod(raw) is None


KEYS = ["metadata", "spec", "status", "name", "annotations", "labels", "taints", "conditions", "type", "podCIDRs"]
KEYS += ["podCIDR", "addresses", "address", "podIPs", "ip", "podIP", "lastHeartbeatTime"]
junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)


@given(spec=junk, status=junk, meta=st.dictionaries(st.sampled_from(["uid", "labels", "annotations"]), junk))
def test_nothing_an_api_server_may_send_is_a_fault(spec, status, meta):
    raw = {"metadata": {**meta, "name": "n"}, "spec": spec, "status": status}
    assert objects.node(raw).name == "n"
    assert objects.pod(raw).name == "n"


def test_times_are_written_as_kubernetes_wants_them_and_read_back():
    assert objects.timestamp(1767225610.75) == "2026-01-01T00:00:10Z"
    assert objects.micro_timestamp(1767225610.0) == "2026-01-01T00:00:10.000000Z"
    assert objects.seconds("2026-01-01T00:00:10Z") == 1767225610
    assert objects.seconds("2026-01-01T00:00:10.500000Z") == 1767225610.5
    assert objects.seconds("null") == 0
