"""Beside a real kube-proxy, in each mode that this kernel has: its mode is told, and pods reach Services.

One node with a real API server on it; the Service's endpoints are pods wired as the daemon wires them, between rules
and routes as the daemon sets them. The modes follow each other, as when an operator changes it: kube-proxy takes its
former rules away, and nothing stale is told.
"""

from __future__ import annotations

import subprocess
import sys
from ipaddress import ip_network

import pytest

from fixtures import tunnel
from fixtures.kube.proxy import KubeProxy
from fixtures.kube.server import SERVICE_ADDRESS, KubeServer
from fixtures.lab import Lab
from fixtures.site import wait_until
from reconciler.node import neighbours
from reconciler.node.host import Host
from reconciler.node.wish import HostWish

OWN, CLUSTER, SERVICES = ip_network("10.244.1.0/24"), ip_network("10.244.0.0/16"), ip_network("10.96.0.0/16")
WEB = "10.96.7.7"
ENDPOINTS = ("10.244.1.5", "10.244.1.6")
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
    print(connection.getsockname()[0] if sys.argv[2] == "443" else connection.recv(100).decode())
"""


@pytest.fixture(scope="module")
def node():
    with Lab(1) as lab:
        (made,) = lab.nodes
        made.run("ip", "route", "add", "default", "via", "192.168.77.99")
        yield made


@pytest.fixture(scope="module")
def server(node, tmp_path_factory):
    with KubeServer(tmp_path_factory.mktemp("kube"), node) as made:
        made.add_node(node.label, str(OWN))
        addresses = {"status": {"addresses": [{"type": "InternalIP", "address": node.address}]}}
        made.call("PATCH", f"/api/v1/nodes/{node.label}/status", addresses, "application/merge-patch+json")
        port = {"port": 80, "targetPort": 8080, "protocol": "TCP"}
        service = {"metadata": {"name": "web"}, "spec": {"clusterIP": WEB, "ports": [port]}}
        made.call("POST", "/api/v1/namespaces/default/services", service)
        endpoints = {
            "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4",
            "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
            "endpoints": [{"addresses": [each], "conditions": {"ready": True}} for each in ENDPOINTS],
        }
        made.call("POST", "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", endpoints)
        yield made


@pytest.fixture(scope="module")
def pods(node, tmp_path_factory):
    """One that asks, and the two endpoints."""
    with node.entered():
        wish = HostWish((OWN,), (CLUSTER,), fence=(CLUSTER,), guard=(OWN, SERVICES))
        Host(tmp_path_factory.mktemp("host")).prepare(wish)
    client, *servers = (tunnel.add_pod(node, last) for last in (7, 5, 6))
    for pod, address in zip(servers, ENDPOINTS, strict=True):
        running = pod.popen(sys.executable, "-c", SERVER, address, stdout=subprocess.PIPE)
        assert running.stdout.readline() == b"ready\n"
    return client, *servers


def ask(netns, address, port=80):
    return netns.run(sys.executable, "-c", CLIENT, address, str(port), check=False).split()


def look(node, root):
    with node.entered():
        return neighbours.look(root)


def mode_of(node, root):
    proxy = look(node, root).proxy
    return proxy.mode, proxy.stale


@pytest.mark.parametrize("mode", ["iptables", "nftables"])
def test_pods_reach_services_and_the_mode_is_told(node, server, pods, tmp_path, mode):
    client, first, _ = pods
    with KubeProxy(server, node, tmp_path / "proxy", mode) as proxy:
        wait_until(lambda: mode_of(node, tmp_path) == (mode, ()), 30, proxy.log.read_text)
        wait_until(lambda: ask(client, WEB), 10, proxy.log.read_text)
        answers = [ask(client, WEB) for _ in range(20)]
        assert {endpoint for endpoint, _ in answers} == set(ENDPOINTS)
        assert {source for _, source in answers} == {"10.244.1.7"}
        assert {endpoint for endpoint, _ in (ask(first, WEB) for _ in range(20))} == set(ENDPOINTS)  # itself as well
        assert ask(node, WEB)[0] in ENDPOINTS
        wait_until(lambda: ask(client, SERVICE_ADDRESS, 443) == ["10.244.1.7"], 10, proxy.log.read_text)
        assert list(neighbours.hindrances(look(node, tmp_path), [OWN], [CLUSTER])) == []
