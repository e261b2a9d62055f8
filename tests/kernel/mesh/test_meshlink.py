"""The mesh's interface and its table, as the kernel shows them."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from fixtures import tunnel
from reconciler.mesh.model import KernelView
from reconciler.node import meshlink
from reconciler.node.host import Host
from reconciler.node.meshlink import MeshLink, WayTo, forward_drops
from reconciler.node.wish import HostWish

pytestmark = pytest.mark.kernel

TAILNET = tunnel.tailnet(1)
PEER = tuple(ip_network(address) for address in tunnel.tailnet(2))


@pytest.fixture
def mesh(lab):
    tunnel.connect(lab)


# --- the interface


def test_it_is_known_by_its_addresses(node, mesh):
    device = MeshLink().look(TAILNET).device
    assert (device.name, device.mtu) == (tunnel.INTERFACE, tunnel.MTU)
    assert f"{device.index}: {tunnel.INTERFACE}" in node.run("ip", "link", "show", tunnel.INTERFACE)


@pytest.mark.parametrize("address", TAILNET, ids=str)
def test_one_address_is_enough(node, mesh, address):
    assert MeshLink().look([address]).device.name == tunnel.INTERFACE


@pytest.mark.parametrize("addresses", [(), (ip_address("100.64.0.9"),)], ids=["unknown", "on no interface"])
def test_without_its_addresses_it_is_known_by_its_usual_name(node, mesh, addresses):
    assert MeshLink().look(addresses) == KernelView()
    node.run("ip", "link", "set", tunnel.INTERFACE, "name", meshlink.USUAL_NAME)
    assert MeshLink().look(addresses).device.name == meshlink.USUAL_NAME


def test_an_address_that_only_begins_alike_is_another(node, mesh):
    node.run("ip", "address", "add", "100.64.0.77/24", "broadcast", "100.64.0.1", "dev", "eth0")
    assert MeshLink().look(TAILNET[:1]).device.name == tunnel.INTERFACE


def test_a_new_mtu_and_a_new_interface_are_seen(node, mesh):
    link = MeshLink()
    first = link.look(TAILNET)
    node.run("ip", "link", "set", tunnel.INTERFACE, "mtu", "1400")
    assert link.look(TAILNET).device.mtu == 1400
    node.run("ip", "link", "del", tunnel.INTERFACE)
    assert link.look(TAILNET) == KernelView()
    node.run("ip", "link", "add", "between", "type", "veth", "peer", "name", "other")  # takes the old index
    node.run("ip", "link", "add", meshlink.USUAL_NAME, "type", "veth", "peer", "name", "another")
    node.run("ip", "link", "set", meshlink.USUAL_NAME, "up")
    node.run("ip", "route", "add", "10.244.2.0/24", "dev", meshlink.USUAL_NAME, "table", "52")
    again = link.look(TAILNET)
    assert again.device.index != first.device.index
    assert again.routed == {ip_network("10.244.2.0/24")}


# --- its table


def test_routed_is_what_the_table_leads_into_the_interface(node, mesh):
    assert MeshLink().look(TAILNET).routed == frozenset(PEER)
    tunnel.accept(node, *tunnel.pod_cidrs(2))
    node.run("ip", "route", "add", "10.99.0.0/24", "via", "192.168.77.12", "table", "52")
    node.run("ip", "route", "add", "throw", "10.98.0.0/24", "table", "52")
    node.run("ip", "route", "add", "10.97.0.0/24", "dev", tunnel.INTERFACE)
    node.run("ip", "route", "add", "10.96.0.0/24", "dev", tunnel.INTERFACE, "table", "53")
    assert MeshLink().look(TAILNET).routed == {*PEER, *tunnel.pod_cidrs(2)}


def test_a_route_that_goes_is_no_longer_routed(node, mesh):
    link = MeshLink()
    tunnel.accept(node, *tunnel.pod_cidrs(2))
    link.look(TAILNET)
    node.run("ip", "route", "del", "10.244.2.0/24", "table", "52")
    assert link.look(TAILNET).routed == {*PEER, tunnel.pod_cidrs(2)[1]}
    node.run("ip", "-6", "route", "flush", "table", "52")
    node.run("ip", "-4", "route", "flush", "table", "52")
    assert link.look(TAILNET).routed == frozenset()


def test_an_exit_node_is_a_route_to_everything(node, mesh):
    node.run("ip", "route", "add", "default", "dev", tunnel.INTERFACE, "table", "52")
    assert ip_network("0.0.0.0/0") in MeshLink().look(TAILNET).routed


def test_no_route_is_decoded_twice(node, mesh, monkeypatch):
    decoded = []
    really = meshlink._network
    monkeypatch.setattr(meshlink, "_network", lambda body: decoded.append(body) or really(body))
    link = MeshLink()
    link.look(TAILNET)
    tunnel.accept(node, tunnel.pod_cidrs(2)[0])
    link.look(TAILNET)
    assert len(decoded) == len(PEER) + 1


# --- where a packet goes


def test_the_way_to_an_address_names_table_and_interface(lab, node, mesh):
    tunnel.accept(node, *tunnel.pod_cidrs(2))
    link = MeshLink()
    for address in tunnel.pod_addresses(2):
        assert link.way_to(ip_address(address)) == WayTo(52, tunnel.INTERFACE)
    out = link.way_to(ip_address("203.0.113.9"))
    assert out == WayTo(254, "eth0", via=ip_address(lab.nodes[1].address))
    assert str(out) == f"eth0 via {lab.nodes[1].address}, by table 254"
    assert link.way_to(ip_address("2001:db8::9")) == WayTo(254, "eth0", via=ip_address(lab.nodes[1].address6))


def test_the_way_from_an_address_of_a_pod_range(node, mesh, tmp_path):
    Host(tmp_path).prepare(HostWish(tunnel.pod_cidrs(1), gateways=tunnel.gateways(1)))
    node.run("ip", "rule", "add", "from", "10.244.1.1", "lookup", "main", "pref", "4999")
    assert MeshLink().way_to(PEER[0][0]).table == 52
    assert MeshLink().way_to(PEER[0][0], tunnel.gateways(1)[0]).table == 254
    assert MeshLink().way_to(PEER[1][0], tunnel.gateways(1)[1]).table == 52


def test_a_way_that_leads_nowhere_says_why(node, tmp_path):
    link = MeshLink()
    Host(tmp_path).close_the_way_out(HostWish((), fence=tunnel.CLUSTER))
    for address in tunnel.pod_addresses(2):
        assert link.way_to(ip_address(address)) == WayTo(refused="No route to host")
    node.run("ip", "route", "del", "default")
    assert str(link.way_to(ip_address("203.0.113.9"))) == "nowhere: Network is unreachable"


def test_the_way_to_a_pod_of_this_node_and_to_the_node(node):
    tunnel.add_pod(node)
    link = MeshLink()
    for address in tunnel.pod_addresses(1):
        way = link.way_to(ip_address(address))
        assert way.device.startswith("hc")
        assert (way.table, way.local) == (254, False)
    for address in (node.address, node.address6):
        assert str(link.way_to(ip_address(address))) == "this node itself"


# --- the firewall


CHAIN = "add table {0} t\nadd chain {0} t c {{ type filter hook {1} priority 0; policy {2}; }}\n"


@pytest.mark.parametrize(
    ("family", "hook", "policy", "drops"),
    [
        ("ip", "forward", "drop", True),
        ("inet", "forward", "drop", True),
        ("ip6", "forward", "drop", True),
        ("ip", "forward", "accept", False),
        ("ip", "input", "drop", False),
        ("bridge", "forward", "drop", False),
    ],
)
def test_whether_forwarding_is_dropped(node, family, hook, policy, drops):
    assert forward_drops() is False
    node.run("nft", "-f", "-", input=CHAIN.format(family, hook, policy))
    assert forward_drops() is drops


def test_what_cannot_be_told_is_not_told(node, tmp_path, monkeypatch):
    monkeypatch.setattr(meshlink.shutil, "which", lambda *_, **__: None)
    assert forward_drops() is None
    refusing = tmp_path / "nft"
    refusing.write_text("#!/bin/sh\nexit 1\n")
    refusing.chmod(0o755)
    monkeypatch.setattr(meshlink.shutil, "which", lambda *_, **__: str(refusing))
    assert forward_drops() is None


def test_rules_of_the_older_iptables_are_out_of_sight(node, tmp_path, monkeypatch):
    names = tmp_path / "ip_tables_names"
    monkeypatch.setattr(meshlink, "_LEGACY", (names, tmp_path / "none"))
    names.write_text("nat\n")
    assert forward_drops() is False
    names.write_text("nat\nfilter\n")
    assert forward_drops() is None
    node.run("nft", "-f", "-", input=CHAIN.format("ip", "forward", "drop"))
    assert forward_drops() is True
