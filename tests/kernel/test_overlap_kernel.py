"""Overlaps read from a real kernel, and what the daemon says of them while they last."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from fixtures import tunnel
from fixtures.lab import Lab
from fixtures.site import wait_until
from reconciler.node import overlap
from reconciler.node.clash import Ranges
from reconciler.node.host import Host
from reconciler.node.lookout import mesh_device
from reconciler.node.wish import HostWish

pytestmark = pytest.mark.kernel

OWN, CLUSTER, SERVICES = ip_network("10.244.1.0/24"), ip_network("10.244.0.0/16"), ip_network("10.96.0.0/16")
RANGES = Ranges((OWN, ip_network("fd00:244:1::/64")), (CLUSTER,), (SERVICES,))


def look(node, given=RANGES):
    with node.entered():
        return [(each.fatal, each.where) for each in overlap.look(given)]


@pytest.fixture
def lab():
    with Lab(1) as running:
        yield running


@pytest.fixture
def node(lab):
    return lab.nodes[0]


def bridge(node, name, *addresses):
    node.run("ip", "link", "add", name, "type", "bridge")
    for address in addresses:
        node.run("ip", "address", "add", address, "dev", name, "nodad")
    node.run("ip", "link", "set", name, "up")


def test_a_lab_has_none_with_pods_and_without(node):
    assert look(node) == []
    tunnel.add_pod(node)
    assert look(node) == []


@pytest.mark.parametrize("name", ["docker0", "br-0123456789ab", "virbr0", "cni0"])
def test_a_bridge_of_containers(node, name):
    bridge(node, name, "10.244.1.1/24", "fd00:244:1::1/64")
    assert look(node) == [(False, f"10.244.1.1/24 dev {name}"), (False, f"fd00:244:1::1/64 dev {name}")]


def test_a_network_of_this_node(node):
    bridge(node, "br-lan", "10.244.1.20/24")
    assert look(node) == [(True, "10.244.1.20/24 dev br-lan")]


def test_the_way_out_leads_by_a_pods_address(node):
    node.run("ip", "route", "add", "default", "via", "10.244.1.254", "dev", "eth0", "onlink")
    assert look(node) == [(True, "192.168.77.11/24 dev eth0")]


@pytest.mark.parametrize(
    ("route", "where"),
    [
        ("10.0.0.0/8 via 192.168.77.99", "10.0.0.0/8 via 192.168.77.99 dev eth0"),
        ("blackhole 10.244.1.64/26", "10.244.1.64/26"),
        ("fd00:244:1:0:8000::/65 via fd77::99", "fd00:244:1:0:8000::/65 via fd77::99 dev eth0"),
    ],
)
def test_routes_of_others(node, route, where):
    node.run("ip", "route", "add", *route.split())
    assert look(node) == [(False, where)]


def test_routes_of_ours_are_none(node, tmp_path):
    with node.entered():
        Host(tmp_path).prepare(HostWish((OWN,), (CLUSTER,), fence=(CLUSTER,), guard=(OWN, SERVICES)))
    assert look(node) == []


def test_a_lan_that_the_mesh_leads_away_until_it_is_guarded(tmp_path):
    with Lab(2) as lab:
        tunnel.prepare(lab)
        tunnel.connect(lab)
        node = lab.nodes[0]
        given = Ranges((OWN,), (CLUSTER,), (SERVICES,), mesh=True)
        with node.entered():
            assert mesh_device() == tunnel.INTERFACE
        assert look(node, given) == []
        tunnel.accept(node, ip_network("10.244.2.0/24"), ip_network("192.168.77.0/24"))
        assert look(node, given) == [(True, "192.168.77.11/24 dev eth0")]
        assert look(node, RANGES) == []
        with node.entered():
            Host(tmp_path).close_the_way_out(HostWish((OWN,), guard=(ip_network("192.168.77.0/24"),)))
        assert look(node, given) == []


def test_the_daemon_is_not_ready_while_traffic_breaks_and_warns_of_the_rest(site):
    node = site.node
    bridge(node, "docker0", "10.244.1.1/24")
    site.restart()
    assert [each.partition(":")[0] for each in site.daemon.status()["warnings"] if "overlaps" in each] == [
        "this node's pod CIDR 10.244.1.0/24 overlaps the network 10.244.1.0/24 of docker0 (Docker)"
    ]
    site.daemon.kill()
    node.run("ip", "link", "del", "docker0")
    bridge(node, "br-lan", "10.244.1.20/24")
    site.daemon.start()
    wait_until(lambda: site.daemon.status().get("pid") == site.daemon.pid, otherwise=site.daemon.log_tail)
    (reason,) = site.daemon.status()["not_ready"]
    assert "this node's own address 10.244.1.20 is one of pods" in reason["what"]
    site.add()  # and yet pods get their network
    node.run("ip", "link", "del", "br-lan")
    wait_until(lambda: site.daemon.ready, 15, site.daemon.log_tail)
    assert not [each for each in site.daemon.status()["warnings"] if "overlaps" in each]
