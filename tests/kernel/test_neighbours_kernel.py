"""Neighbours read from a real kernel; and that pods reach Services by rules as kube-proxy writes them.

The rules in `fixtures/listings/` are kube-proxy's own (1.34, both modes), for a Service 10.96.7.7:80 whose endpoints
are 10.244.1.5:8080 and 10.244.1.6:8080; iptables' random choice is written as nft does it. The real kube-proxy is in
`tests/peers/test_kube_proxy.py`.
"""

from __future__ import annotations

import subprocess
import sys
from ipaddress import ip_network
from pathlib import Path

import pytest

from fixtures import tunnel
from fixtures.lab import Lab
from fixtures.site import wait_until
from reconciler.node import neighbours, ruleset
from reconciler.node.host import Host
from reconciler.node.kubeproxy import Mode
from reconciler.node.wish import HostWish

pytestmark = pytest.mark.kernel

LISTINGS = Path(__file__).parents[2] / "fixtures" / "listings"
OWN, CLUSTER, SERVICES = ip_network("10.244.1.0/24"), ip_network("10.244.0.0/16"), ip_network("10.96.0.0/16")
SERVER = """
import socketserver, sys
class Who(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(f"{sys.argv[1]} {self.client_address[0]}".encode())
with socketserver.TCPServer((sys.argv[1], 8080), Who) as server:
    print("ready", flush=True)
    server.serve_forever()
"""
CLIENT = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=3) as connection:
    print(connection.recv(100).decode())
"""


@pytest.fixture
def lab():
    with Lab(1) as running:
        yield running


@pytest.fixture
def node(lab):
    return lab.nodes[0]


def look(node, tmp_path):
    with node.entered():
        return neighbours.look(tmp_path)


def told(node, tmp_path, device=""):
    found = neighbours.hindrances(look(node, tmp_path), [OWN], [CLUSTER], device)
    return [each.refusal.msg for each in found]


def kube_proxy(node, mode):
    node.run("nft", "-f", "-", input=(LISTINGS / f"kube-proxy-{mode}.nft").read_text())


# --- who is there


def test_an_empty_node(node, tmp_path):
    seen = look(node, tmp_path)
    assert (seen.proxy.mode, seen.walls, seen.blind, seen.confs) == (Mode.NONE, (), (), {})
    assert told(node, tmp_path) == []


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
def test_kube_proxys_mode(node, tmp_path, mode):
    kube_proxy(node, mode)
    seen = look(node, tmp_path).proxy
    assert (seen.mode, seen.stale) == (mode, ())


def test_both_modes_at_once(node, tmp_path):
    kube_proxy(node, "iptables")
    kube_proxy(node, "nftables")
    (text,) = told(node, tmp_path)
    assert "nftables and iptables" in text


def test_the_interface_of_ipvs(node, tmp_path):
    """This kernel may have no ipvs: the interface is told by its name."""
    node.run("ip", "link", "add", "kube-ipvs0", "type", "bridge")
    assert look(node, tmp_path).proxy.mode is Mode.IPVS


def test_without_nft_nothing_is_concluded(node, tmp_path, monkeypatch):
    monkeypatch.setattr(ruleset.shutil, "which", lambda *_, **__: None)
    seen = look(node, tmp_path)
    assert (seen.proxy.mode, seen.blind) == (Mode.UNKNOWN, ("the command nft is missing",))


def test_a_command_that_hangs_is_given_up(tmp_path, monkeypatch):
    slow = tmp_path / "nft"
    slow.write_text("#!/bin/sh\nexec sleep 1000\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(ruleset, "SECONDS", 0.2)
    assert ruleset.chains().blind[0] == "nft took longer than 0.2 s"


def test_a_command_that_writes_without_end_is_given_up(tmp_path, monkeypatch):
    endless = tmp_path / "nft"
    endless.write_text("#!/bin/sh\nexec cat /dev/zero\n")
    endless.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert ruleset.chains().blind[0] == "nft wrote more than 16 MiB"


def test_a_command_that_writes_nonsense_is_told(tmp_path, monkeypatch):
    odd = tmp_path / "nft"
    odd.write_text("#!/bin/sh\necho '{}'\n")
    odd.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert ruleset.chains().blind[0] == "nft list chains did not write what it should"


def test_a_command_that_fails_says_why(node):
    assert "nft failed: Error:" in str(ruleset.rules(ruleset.Chain("ip", "nobodys", "x")))


# --- firewalls

DROP = """
add table ip filter
add chain ip filter FORWARD { type filter hook forward priority filter; policy drop; }
add chain ip filter DOCKER-USER
add rule ip filter FORWARD counter jump DOCKER-USER
"""
REJECT = """
add table inet firewalld
add chain inet firewalld filter_FORWARD { type filter hook forward priority filter + 10; policy accept; }
add rule inet firewalld filter_FORWARD ct state established,related accept
add rule inet firewalld filter_FORWARD reject with icmpx admin-prohibited
"""


@pytest.mark.parametrize(
    ("rules", "cures"),
    [
        (DROP, ["add rule ip filter DOCKER-USER ip saddr 10.244.0.0/16 counter accept"]),
        (REJECT, ["insert rule inet firewalld filter_FORWARD ip saddr 10.244.0.0/16 accept"]),
    ],
)
def test_one_that_drops_pods_is_told_as_long_as_it_does(node, tmp_path, rules, cures):
    """What is told is so: the packets prove it."""
    with node.entered():
        Host(tmp_path).prepare(HostWish((OWN,), (CLUSTER,)))
    one, other = tunnel.add_pod(node, 5), tunnel.add_pod(node, 6)
    assert one.ping("10.244.1.6")
    assert told(node, tmp_path) == []
    node.run("nft", "-f", "-", input=rules)
    assert not one.ping("10.244.1.6", timeout=1)
    (text,) = told(node, tmp_path)
    assert "accepts those of the pods 10.244.1.0/24" in text
    for cure in cures:
        node.run("nft", *cure.split())
    node.run("nft", "insert rule ip filter DOCKER-USER ip daddr 10.244.0.0/16 accept", check=False)
    assert one.ping("10.244.1.6")
    assert other.ping("10.244.1.5")
    assert told(node, tmp_path) == []


def test_an_accept_of_ours_would_not_help(node, tmp_path):
    """Why it is told and not handled: a drop is final, whatever another chain accepts before."""
    node.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
    one, _ = tunnel.add_pod(node, 5), tunnel.add_pod(node, 6)
    node.run("nft", "-f", "-", input=DROP)
    node.run("nft", "-f", "-", input=DROP.replace("ip filter", "ip ours").replace("drop", "accept").replace(
        "priority filter", "priority filter - 10"))  # fmt: skip
    assert not one.ping("10.244.1.6", timeout=1)


# --- Services


def ask(netns, address, port=80):
    return netns.run(sys.executable, "-c", CLIENT, address, str(port)).split()


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
def test_pods_and_the_node_reach_a_service(node, tmp_path, mode):
    """A pod is seen as it is by another; by itself, or if the node asks, as the node."""
    with node.entered():
        Host(tmp_path).prepare(HostWish((OWN,), (CLUSTER,), fence=(CLUSTER,), guard=(OWN, SERVICES)))
    node.run("ip", "route", "add", "default", "via", "192.168.77.99")
    client, *servers = (tunnel.add_pod(node, last) for last in (7, 5, 6))
    for server, address in zip(servers, ("10.244.1.5", "10.244.1.6"), strict=True):
        running = server.popen(sys.executable, "-c", SERVER, address, stdout=subprocess.PIPE)
        assert running.stdout.readline() == b"ready\n"
    kube_proxy(node, mode)
    answers = [ask(client, "10.96.7.7") for _ in range(20)]
    assert {endpoint for endpoint, _ in answers} == {"10.244.1.5", "10.244.1.6"}
    assert {source for _, source in answers} == {"10.244.1.7"}
    itself = [ask(servers[0], "10.96.7.7") for _ in range(20)]
    assert {source for endpoint, source in itself if endpoint == "10.244.1.5"} == {"10.244.1.1"}
    assert {source for endpoint, source in itself if endpoint == "10.244.1.6"} == {"10.244.1.5"}
    assert ask(node, "10.96.7.7")[0] in ("10.244.1.5", "10.244.1.6")


# --- the daemon


def test_the_daemon_warns_of_them_after_its_start(site):
    site.node.run("nft", "-f", "-", input=DROP)
    try:
        wait_until(lambda: _warned(site), 25, site.daemon.log_tail)
        assert site.daemon.ready
    finally:
        site.node.run("nft", "delete", "table", "ip", "filter")


def _warned(site):
    return [each for each in site.daemon.status()["warnings"] if each.startswith("chain FORWARD of table ip filter")]
