"""Shares by the node's name, clashes, and a change of the CIDR."""

from __future__ import annotations

from ipaddress import ip_network as net

import pytest
from hypothesis import given
from hypothesis import strategies as some

from reconciler.kube.codes import Trouble
from reconciler.node.shares import change, clashes, no_share, share

CLUSTER, CLUSTER6 = net("10.244.0.0/16"), net("fd00:10:244::/48")


@pytest.mark.parametrize(
    ("cluster", "per_node", "name", "expected"),
    [
        (CLUSTER, 24, "worker-1", "10.244.61.0/24"),
        (CLUSTER, 24, "worker-2", "10.244.241.0/24"),
        (CLUSTER, 26, "worker-1", "10.244.207.64/26"),
        (CLUSTER, 16, "worker-1", "10.244.0.0/16"),
        (CLUSTER6, 24, "worker-1", "fd00:10:244:5b3d::/64"),
        (net("fd00::/64"), 24, "worker-1", "fd00::/64"),
    ],
)
def test_the_same_name_has_the_same_share_for_ever(cluster, per_node, name, expected):
    """`printf worker-1 | sha256sum` begins with 13029f9e83d15b3d. A release that finds another share breaks nodes."""
    assert share(cluster, per_node, name) == net(expected)


@given(some.text(), some.integers(16, 30))
def test_a_share_lies_inside(name, per_node):
    found = share(CLUSTER, per_node, name)
    assert found.subnet_of(CLUSTER)
    assert found.prefixlen == per_node
    assert share(CLUSTER6, per_node, name).subnet_of(CLUSTER6)


def test_shares_are_spread():
    assert len({share(CLUSTER, 24, f"node-{number}") for number in range(4000)}) == 256


@pytest.mark.parametrize(
    ("cluster", "per_node", "nodes", "words"),
    [
        ("10.244.0.0/25", 24, 0, "network.podCIDR.perNode /24 is wider than the 10.244.0.0/25 of here"),
        ("fd00::/80", 24, 0, "fd00::/80 of here is narrower than one node's /64"),
        ("10.244.0.0/22", 24, 5, "room for 4 nodes with a /24 each, and 5 are known"),
        ("fd00::/63", 24, 3, "room for 2 nodes with a /64 each, and 3 are known"),
    ],
)
def test_what_has_no_share_for_this_node(cluster, per_node, nodes, words):
    refusal = no_share(net(cluster), "here", per_node, nodes)
    assert words in refusal.msg
    assert refusal.code == Trouble.SOURCE_INVALID
    assert "network.podCIDR" in refusal.details or "CIDR" in refusal.details


def test_room_for_all_is_room():
    assert no_share(net("10.244.0.0/22"), "here", 24, 4) is None
    assert no_share(net("10.244.0.0/24"), "here", 24, 1) is None


def test_clashes_name_who_has_it():
    others = {"n2": (net("10.244.1.0/25"),), "n3": (net("10.244.2.0/24"), net("fd00:1::/64")), "n4": ()}
    found = clashes((net("10.244.1.0/24"), net("fd00:1::/64")), others)
    assert [each.msg for each in found] == [
        "this node's pod CIDR 10.244.1.0/24 overlaps 10.244.1.0/25 of n2",
        "this node's pod CIDR fd00:1::/64 overlaps fd00:1::/64 of n3",
    ]
    assert {each.code for each in found} == {Trouble.CIDR_CLASH}
    assert "network.podCIDR.nodeLocal" in found[0].details


# --- a change

OLD, OLD6, NEW, NEW6 = net("10.244.1.0/24"), net("fd00:1::/64"), net("10.244.9.0/24"), net("fd00:9::/64")


@pytest.mark.parametrize(("before", "after"), [((), (NEW,)), ((OLD,), (OLD,)), ((OLD,), (OLD, OLD6)), ((), ())])
def test_no_change(before, after):
    assert change(before, after, {OLD: 3}) is None


def test_a_change_lasts_until_the_last_pod_is_gone():
    first = change((OLD,), (NEW,), {OLD: 2, NEW: 5, net("10.99.0.0/24"): 7})
    assert (first.pods, first.finished) == (2, False)
    assert first.told.code == Trouble.CIDR_CHANGED
    assert (
        first.told.msg
        == "the pod CIDR was 10.244.1.0/24 and is now 10.244.9.0/24; pods with an address of the former: 2"
    )
    assert "keep their address" in first.told.details
    last = change((OLD,), (NEW,), {NEW: 5})
    assert last.finished
    assert "no pod has an address of the former any more" in last.told.msg


def test_a_pod_of_both_families_is_one_pod():
    assert change((OLD, OLD6), (NEW, NEW6), {OLD: 2, OLD6: 2}).pods == 2


def test_two_former_ones_count_together():
    assert change((OLD, net("10.244.5.0/24")), (NEW,), {OLD: 1, net("10.244.5.0/24"): 1}).pods == 2


def test_what_stays_is_not_former():
    assert change((OLD, OLD6), (OLD, NEW6), {OLD: 4, OLD6: 1}) == change((OLD6,), (OLD, NEW6), {OLD6: 1})
