"""`headcni migrate check` beside what Flannel makes in the kernel: bridge, tunnel, routes, chains. Nothing changes.

The chains are Flannel's, written by nft as iptables-nft writes them; the commands that remove them, run by the real
iptables, are in `tests/peers/test_migrate_api.py`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from ipaddress import ip_network
from pathlib import Path

import pytest

from fixtures.lab import Lab
from fixtures.processes import REPOSITORY
from reconciler.node.host import Host
from reconciler.node.wish import HostWish

pytestmark = pytest.mark.kernel

FLANNEL = Path(__file__).parents[2] / "fixtures" / "flannel"
CHAINS = """
add table ip nat
add chain ip nat POSTROUTING { type nat hook postrouting priority srcnat; policy accept; }
add chain ip nat FLANNEL-POSTRTG
add rule ip nat POSTROUTING counter jump FLANNEL-POSTRTG comment "flanneld masq"
add rule ip nat FLANNEL-POSTRTG ip saddr 10.244.1.0/24 ip daddr 10.244.0.0/16 counter return
add rule ip nat FLANNEL-POSTRTG ip saddr 10.244.0.0/16 ip daddr != 224.0.0.0/4 counter masquerade
add table ip filter
add chain ip filter FORWARD { type filter hook forward priority filter; policy accept; }
add chain ip filter FLANNEL-FWD
add rule ip filter FORWARD counter jump FLANNEL-FWD comment "flanneld forward"
add rule ip filter FLANNEL-FWD ip saddr 10.244.0.0/16 counter accept
"""
TABLES = """
add table ip flannel-ipv4
add chain ip flannel-ipv4 postrtg { type nat hook postrouting priority srcnat; }
add rule ip flannel-ipv4 postrtg ip saddr 10.244.0.0/16 ip daddr != 224.0.0.0/4 masquerade
"""


@pytest.fixture
def node():
    with Lab(1) as lab:
        yield lab.nodes[0]


@pytest.fixture
def flannel(node):
    """As flanneld and the plugin `bridge` make it: 10.244.1.0/24 here, 10.244.2.0/24 on another node, two pods."""
    node.run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")  # link-local addresses come some time later
    for command in (
        "link add cni0 mtu 1450 type bridge",
        "address add 10.244.1.1/24 dev cni0",
        "link add vethaaaaaaaa type veth peer name eth1",
        "link add vethbbbbbbbb type veth peer name eth2",
        "link set vethaaaaaaaa master cni0",
        "link set vethbbbbbbbb master cni0",
        "link set cni0 up",
        "link add flannel.1 mtu 1450 type vxlan id 1 local 192.168.77.11 dev eth0 dstport 8472 nolearning",
        "address add 10.244.1.0/32 dev flannel.1",
        "link set flannel.1 up",
        "route add 10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink",
    ):
        node.run("ip", *command.split())
    node.run("nft", "-f", "-", input=CHAINS)
    return node


def check(node, *arguments, root=FLANNEL / "vxlan", code=0):
    command = (sys.executable, "-m", "reconciler.operate.cli", "migrate", "check", "--kube", "off", *arguments)
    environment = {**os.environ, "HEADCNI_HOST_ROOT": str(root), "NODE_NAME": "worker-1"}
    done = subprocess.run(
        node.command(*command), env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=40, check=False
    )
    assert (done.returncode, done.stderr) == (code, "")
    return done.stdout


def here(node, *arguments, **options):
    return json.loads(check(node, *arguments, "-o", "json", **options))["here"]


def test_what_flannel_made_is_described_and_left_alone(flannel):
    before = flannel.snapshot()
    found = here(flannel)
    assert before.difference(flannel.snapshot()) == ()
    assert found["pods_plugged_in"] == 2
    assert found["reserved"] == ["10.244.1.2", "10.244.1.3", "10.244.1.10"]
    assert [each["what"] for each in found["leftovers"]] == [
        "/etc/cni/net.d/10-flannel.conflist: the network 'cbr0' of flannel, portmap",
        "cni0, the bridge of pods with 10.244.1.1/24, and 2 pods plugged in: empty the node first",
        "flannel.1, an interface (vxlan) with 10.244.1.0/32",
        "the chain FLANNEL-POSTRTG in nat of iptables",
        "the chain FLANNEL-FWD in filter of iptables",
        "/run/flannel",
        "/var/lib/cni/networks/cbr0",
    ]


def test_the_page_says_it_in_words(flannel):
    page = check(flannel)
    assert "3 addresses are reserved, 2 pods are plugged in now" in page
    assert "    ip link del flannel.1" in page.splitlines()


def test_a_route_that_does_not_go_with_an_interface_is_told_and_its_command_removes_it(flannel):
    flannel.run("ip", "route", "add", "10.244.3.0/24", "via", "192.168.77.12", "dev", "eth0")  # host-gw, DirectRouting
    flannel.run("ip", "route", "add", "10.99.0.0/16", "via", "192.168.77.12", "dev", "eth0")
    commands = [each["command"] for each in here(flannel)["leftovers"]]
    (command,) = [each for each in commands if each.startswith("ip route")]
    assert command == "ip route del 10.244.3.0/24 via 192.168.77.12 dev eth0"
    flannel.run(*command.split())
    assert "10.244.3.0/24" not in flannel.run("ip", "route")
    assert "10.99.0.0/16" in flannel.run("ip", "route")


def test_the_commands_for_interfaces_and_tables_remove_them_and_nothing_else(flannel, tmp_path):
    flannel.run("nft", "delete", "table", "ip", "nat")
    flannel.run("nft", "delete", "table", "ip", "filter")
    flannel.run("nft", "-f", "-", input=TABLES)
    flannel.run("ip", "link", "add", "docker0", "type", "bridge")
    for each in here(flannel, root=tmp_path, code=1)["leftovers"]:
        flannel.run("sh", "-c", each["command"])
    assert here(flannel, root=tmp_path, code=1)["leftovers"] == []
    links = flannel.run("ip", "-br", "link")
    assert "docker0" in links
    assert "flannel" not in links + flannel.run("ip", "route") + flannel.run("nft", "list", "tables")


def test_why_the_values_fail_closed_only_at_last(flannel, tmp_path):
    """Flannel's routes are ways past the mesh: a node that must keep packets inside it would not be ready."""
    own, cluster = ip_network("10.244.1.0/24"), ip_network("10.244.0.0/16")
    with flannel.entered():
        host = Host(tmp_path)
        host.prepare(HostWish((own,), (cluster,), guard=(own,)))
        assert host.problems() == ()
        host.prepare(HostWish((own,), (cluster,), guard=(own,), fence=(cluster,)))
        (problem,) = host.problems()
        assert problem.what.startswith("the route 10.244.2.0/24 via 10.244.2.0 dev flannel.1")
        flannel.run("ip", "link", "del", "flannel.1")
        assert host.problems() == ()


def test_a_node_of_headcni_has_nothing_of_flannel(node, tmp_path):
    node.run("ip", "link", "add", "hc0123456789ab", "type", "veth", "peer", "name", "other")
    node.run("nft", "-f", "-", input=CHAINS.replace("FLANNEL-", "OTHERS-"))
    assert here(node, root=tmp_path, code=1)["leftovers"] == []
