"""The node's own address in its pod range: it answers, disturbs nobody, and goes as it came."""

from __future__ import annotations

import json
from ipaddress import ip_address

import pytest

from fixtures import tunnel
from reconciler.node import dump
from reconciler.node.gateways import Gateways
from reconciler.node.host import Host
from reconciler.node.wish import HostWish

pytestmark = pytest.mark.kernel

MINE = tunnel.gateways(1)


def wish(number: int = 1) -> HostWish:
    own = tunnel.pod_cidrs(number)
    return HostWish(own, tunnel.CLUSTER, ipv6=True, fence=tunnel.CLUSTER, guard=own, gateways=tunnel.gateways(number))


@pytest.fixture
def both(lab, node, host, tmp_path):
    """Both nodes with all that they need, joined by the mesh."""
    tunnel.connect(lab)
    for here, other in ((1, 2), (2, 1)):
        tunnel.accept(lab.nodes[here - 1], *tunnel.pod_cidrs(other))
    host.prepare(wish())
    with lab.nodes[1].entered():
        Host(tmp_path).prepare(wish(2))


def on_lo(node):
    (link,) = json.loads(node.run("ip", "-json", "address", "show", "dev", "lo"))
    return {each["local"] for each in link["addr_info"]}


# --- packets


def test_two_nodes_without_any_pod_reach_each_others_gateway(lab, node, both):
    for mine, theirs in zip(MINE, tunnel.gateways(2), strict=True):
        node.run("ping", "-n", "-c", "1", "-W", "2", "-I", str(mine), str(theirs))


def test_pods_reach_their_gateway_and_the_other_nodes_and_nodes_their_pods(lab, node, both):
    pod = tunnel.add_pod(node)
    assert all(pod.ping(str(gateway)) for gateway in (*MINE, *tunnel.gateways(2)))
    assert all(node.ping(address) for address in tunnel.pod_addresses(1))
    for address in tunnel.pod_addresses(1):
        lab.nodes[1].run("ping", "-n", "-c", "1", "-W", "2", "-I", str(tunnel.gateways(2)[":" in address]), address)


def test_it_outlives_the_last_pod(node, host):
    host.prepare(wish())
    pod = tunnel.add_pod(node)
    assert all(pod.ping(str(gateway)) for gateway in MINE)
    node.delete_netns(pod)
    assert all(node.ping(str(gateway)) for gateway in MINE)


def test_nobody_gets_it_as_a_source_unasked(lab, node, both):
    """Not even where an interface has no address of its own, as the pod links of other plugins."""
    node.run("ip", "link", "add", "bare", "type", "bridge")
    node.run("ip", "link", "set", "bare", "up")
    node.run("ip", "route", "add", "10.55.0.0/24", "dev", "bare")
    node.run("ip", "-6", "route", "add", "fd00:245::/64", "dev", "bare")
    ways = ["10.55.0.9", "fd00:245::9", *map(str, tunnel.tailnet(2)), *tunnel.pod_addresses(2), lab.nodes[1].address]
    for way in ways:
        assert not any(f"src {mine}" in node.run("ip", "route", "get", way) for mine in MINE), way


# --- what is in the kernel


def test_again_changes_nothing_and_restore_gives_all_back(node, host, tmp_path):
    before = node.snapshot()
    assert len([change for change in host.prepare(wish()) if change.startswith("address ")]) == 2
    during = node.snapshot()
    assert on_lo(node) >= set(map(str, MINE))
    assert host.prepare(wish()) == ()
    assert host.problems() == ()
    assert during.difference(node.snapshot()) == ()
    Host(tmp_path).restore()
    assert before.difference(node.snapshot()) == ()


@pytest.mark.parametrize("lost", MINE, ids=str)
def test_one_that_somebody_removed_is_told_and_put_back(node, host, lost):
    host.prepare(wish())
    node.run("ip", "address", "del", f"{lost}/{lost.max_prefixlen}", "dev", "lo")
    (problem,) = host.problems()
    assert problem.what.startswith(f"the address {lost}/{lost.max_prefixlen} dev lo ")
    assert problem.what.endswith(" is missing")
    assert host.repair()
    assert host.problems() == ()


def test_another_pod_range_takes_the_old_address_away(node, host):
    host.prepare(wish(1))
    host.prepare(wish(2))
    assert on_lo(node) == {"127.0.0.1", "::1", *map(str, tunnel.gateways(2))}


@pytest.mark.parametrize(
    "foreign",
    ["10.244.1.1/32", "10.244.1.1/32 metric 72", "10.244.1.1/24", "fd00:244:1::1/128", "203.0.113.9/32", "fd99::9/128"],
)
def test_addresses_that_others_put_there_stay(node, host, tmp_path, foreign):
    node.run("ip", "address", "add", *foreign.split(), "dev", "lo")
    before = node.snapshot()
    host.prepare(wish())
    assert host.problems() == ()
    assert on_lo(node) >= set(map(str, MINE))
    Host(tmp_path).restore()
    assert before.difference(node.snapshot()) == ()


def test_the_same_address_elsewhere_is_neither_taken_for_ours_nor_removed(node, host, tmp_path):
    """The plugin `bridge` gives its bridge the pool's gateway."""
    node.run("ip", "link", "add", "cni0", "type", "bridge")
    node.run("ip", "link", "set", "cni0", "up")
    node.run("ip", "address", "add", "10.244.1.1/24", "dev", "cni0")
    node.run("ip", "address", "add", "fd00:244:1::1/64", "dev", "cni0", "nodad", "metric", "1212370505")
    before = node.snapshot()
    host.prepare(wish())
    assert on_lo(node) >= set(map(str, MINE))
    Host(tmp_path).restore()
    assert before.difference(node.snapshot()) == ()


def test_what_the_kernel_refuses_is_told_with_its_reason_until_it_does_not(node, host):
    node.run("sysctl", "-q", "-w", "net.ipv6.conf.lo.disable_ipv6=1")
    host.prepare(wish())
    (problem,) = host.problems()
    assert problem.what.startswith("the address fd00:244:1::1/128 dev lo ")
    assert "is not set: Permission denied" in problem.what
    assert "IPv6" in problem.cure
    node.run("sysctl", "-q", "-w", "net.ipv6.conf.lo.disable_ipv6=0")
    host.repair()
    assert host.problems() == ()


def test_a_kill_between_the_two_is_completed_and_undone(node, host, tmp_path):
    before = node.snapshot()
    Gateways().write(MINE[:1])
    Host(tmp_path).restore()
    assert before.difference(node.snapshot()) == ()
    Gateways().write(MINE[:1])
    host.prepare(wish())
    assert host.problems() == ()


# --- pools


def test_a_pool_with_another_gateway_never_gives_it_to_a_pod(node, host):
    host.prepare(wish())
    held = host.foreign_addresses()
    assert {held[each] for each in MINE} == {"it is this node's gateway address"}
    assert ip_address("10.244.1.2") not in held
    assert not host.foreign_addresses().networks


def test_ours_are_told_from_others_on_lo(node, host):
    node.run("ip", "address", "add", "10.244.1.7/32", "dev", "lo", "scope", "host")
    host.prepare(wish())
    assert {each.address for each in dump.addresses() if each.ours} == set(MINE)
    assert host.foreign_addresses()[ip_address("10.244.1.7")] == "lo has the address 10.244.1.7/32"
