"""Whom the other end sees, with packets through the mesh: pods as they are among pods, the node everywhere else."""

from __future__ import annotations

import pytest

from fixtures import tunnel
from fixtures.lab import Lab
from reconciler.node.host import Host
from reconciler.node.wish import HostWish

pytestmark = pytest.mark.kernel

COUNTED = {"pod": tunnel.pod_addresses(1), "node": tuple(map(str, tunnel.tailnet(1)))}


@pytest.fixture
def lab(tmp_path):
    """Two nodes in the mesh, a pod on the first; the second counts what the mesh brings it, by source."""
    with Lab(2) as running:
        tunnel.prepare(running)
        tunnel.connect(running)
        first, second = running.nodes
        own = tunnel.pod_cidrs(1)
        with first.entered():
            Host(tmp_path).prepare(
                HostWish(own, tunnel.CLUSTER, ipv6=True, fence=tunnel.CLUSTER, guard=own, gateways=tunnel.gateways(1))
            )
        rules = [
            f"add rule inet seen c iifname {tunnel.INTERFACE} {'ip6' if ':' in each else 'ip'} saddr {each} counter"
            for addresses in COUNTED.values()
            for each in addresses
        ]
        chain = "add table inet seen\nadd chain inet seen c { type filter hook prerouting priority -300; }\n"
        second.run("nft", "-f", "-", input=chain + "\n".join(rules) + "\n")
        yield running


@pytest.fixture
def pod(lab):
    return tunnel.add_pod(lab.nodes[0])


def seen(lab):
    """The sources from which something came."""
    listing = lab.nodes[1].run("nft", "list", "chain", "inet", "seen", "c").splitlines()
    came = [line.split("saddr ")[1].split()[0] for line in listing if "saddr" in line and "packets 0 " not in line]
    return {who: [each for each in addresses if each in came] for who, addresses in COUNTED.items()}


def know_pods(lab):
    """The second node accepts routes, as a member of the cluster does."""
    tunnel.accept(lab.nodes[0], *tunnel.pod_cidrs(2))
    tunnel.accept(lab.nodes[1], *tunnel.pod_cidrs(1))


def test_pods_of_two_nodes_see_each_other_as_they_are(lab, pod):
    know_pods(lab)
    there = tunnel.add_pod(lab.nodes[1])
    assert all(pod.ping(address) for address in tunnel.pod_addresses(2))
    assert seen(lab) == {"pod": list(tunnel.pod_addresses(1)), "node": []}
    assert all(there.ping(address) for address in tunnel.pod_addresses(1))


@pytest.mark.parametrize("member", [True, False], ids=["of the cluster", "of the tailnet only"])
def test_a_node_of_the_tailnet_sees_the_pods_node_and_answers(lab, pod, member):
    """One that knows no pod ranges could not answer a pod."""
    if member:
        know_pods(lab)
    assert all(pod.ping(str(address)) for address in tunnel.tailnet(2))
    assert seen(lab) == {"pod": [], "node": list(COUNTED["node"])}


def test_a_network_behind_another_node_sees_the_pods_node(lab, pod):
    first, second = lab.nodes
    for address in ("192.168.50.1/24", "fd50::1/64"):
        second.run("ip", "address", "add", address, "dev", "lo", "nodad")
    first.run("ip", "route", "add", "192.168.50.0/24", "dev", tunnel.INTERFACE, "table", "52")
    first.run("ip", "route", "add", "fd50::/64", "dev", tunnel.INTERFACE, "table", "52")
    assert pod.ping("192.168.50.1")
    assert pod.ping("fd50::1")
    assert seen(lab) == {"pod": [], "node": list(COUNTED["node"])}


def test_what_a_node_of_the_tailnet_asks_a_pod_is_answered_by_the_pod(lab, pod):
    know_pods(lab)
    assert all(lab.nodes[1].ping(address) for address in tunnel.pod_addresses(1))
    assert seen(lab) == {"pod": list(tunnel.pod_addresses(1)), "node": []}


def test_the_nodes_own_traffic_is_as_it_was(lab):
    know_pods(lab)
    assert all(lab.nodes[0].ping(str(address)) for address in (*tunnel.tailnet(2), *tunnel.gateways(1)))
    assert seen(lab) == {"pod": [], "node": list(COUNTED["node"])}
