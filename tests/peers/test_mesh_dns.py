"""A pod resolves the names of the tailnet through the tailscaled of its node, whose own resolver nobody touched."""

from __future__ import annotations

import socket
import subprocess
import sys
from ipaddress import IPv4Address

import pytest
from meshes import source_seen

from fixtures.lab import Netns
from fixtures.mesh import Cluster, Pod
from fixtures.mesh.tailscaled import NAME_SERVER
from fixtures.processes import REPOSITORY

pytest_plugins = ("mesh_shared",)
pytestmark = [pytest.mark.peers, pytest.mark.timeout(120)]

MAGIC = "100.100.100.100"
_QUESTION_A = b"\x00\x01\x00\x01"


def resolved(netns: Netns, name: str) -> str:
    """The first IPv4 address that the name server of the tailnet gives; empty if it gives none."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    query = b"\x12\x34\x01\x00" + b"\x00\x01" + bytes(6) + labels + b"\x00" + _QUESTION_A
    with netns.entered():
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with client:
        client.settimeout(5)
        client.sendto(query, (MAGIC, 53))
        answer = client.recv(512)
    count = int.from_bytes(answer[6:8], "big")
    return str(IPv4Address(answer[-4:])) if answer[3] & 15 == 0 and count == 1 else ""


def test_a_pod_resolves_and_reaches_another_node_by_name(cluster: Cluster, pods: list[Pod]) -> None:
    one, two, _ = cluster.sites
    pod = pods[0]
    address = resolved(pod.netns, "node2.tail.example")
    assert address == two.tailscaled.address
    assert source_seen(pod.netns, two.node, address) == one.tailscaled.address
    assert resolved(pod.netns, "nobody.tail.example") == ""
    assert one.tailscaled.resolv_conf() == f"nameserver {NAME_SERVER}\n"


def test_the_command_prints_what_coredns_needs(cluster: Cluster) -> None:
    one, *_ = cluster.sites
    command = (sys.executable, "-m", "reconciler.operate.cli", "mesh", "dns", "--state-dir", str(one.state_dir))
    done = subprocess.run(one.node.command(*command), cwd=REPOSITORY, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert "tail.example" in done.stdout
    assert f"forward . {MAGIC}" in done.stdout
