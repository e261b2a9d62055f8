"""The real daemon on a node where nobody can be asked: no route leads out, and only files say what the pod CIDR is."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest

from fixtures.lab import Lab
from fixtures.processes import DaemonProcess
from fixtures.site import Site, wait_until

pytestmark = pytest.mark.kernel

NODEFILES = Path(__file__).parents[2] / "fixtures" / "nodefiles"
KUBELET = "var/lib/kubelet/config.yaml"
K3S_NODE = "var/lib/rancher/k3s/agent/etc/node-worker-1.yaml"
API_SERVER = """kind: Pod
spec: {containers: [{command: [kube-apiserver, --service-cluster-ip-range=10.0.0.0/8]}]}
"""
GUESS = "10.244.61.0/24"  # the share of worker-1
READY_SECONDS = 5.0  # one is promised; a busy machine gets more


@pytest.fixture(scope="module")
def node():
    """Cut off: neither a route nor a neighbour."""
    with Lab(1) as lab:
        (node,) = lab.nodes
        node.run("ip", "link", "delete", "eth0")
        assert node.run("ip", "route", "show") == ""
        yield node


@pytest.fixture
def host(tmp_path, monkeypatch):
    root = tmp_path / "host"
    root.mkdir()
    monkeypatch.setenv("HEADCNI_HOST_ROOT", str(root))
    monkeypatch.setenv("NODE_NAME", "worker-1")
    monkeypatch.delenv("NODE_POD_CIDR", raising=False)
    return root


@pytest.fixture
def site(node, tmp_path, host):
    """Not started yet: each test writes its files first."""
    site = Site(node, tmp_path / "state")
    site.daemon = DaemonProcess(node, tmp_path / "state", "--node-name", "worker-1")
    site.conf["ipam"] = {"type": "headcni-ipam", "cooldown_seconds": 0}
    yield site
    for record in site.records().values() if (tmp_path / "state/attachments").exists() else ():
        site.call("DEL", record.container)
    site.__exit__(None, None, None)


def put(root: Path, path: str, text: str) -> Path:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)
    return root / path


def start(site: Site) -> float:
    """Seconds until it was ready."""
    began = time.monotonic()
    site.daemon.kill()
    site.daemon.start()
    site.daemon.wait_ready(20)
    return time.monotonic() - began


def test_a_worker_with_files_only_is_ready_at_once(site, host, record_property):
    shutil.copytree(NODEFILES / "k3s-agent", host, dirs_exist_ok=True)
    took = start(site)
    record_property("ready_seconds", took)
    print(f"ready after {took:.2f} s")
    assert took < READY_SECONDS
    assert len(site.log_lines("Found Pod CIDR in k3s node file: 10.42.3.0/24")) == 1
    status = site.daemon.status()
    assert status["pod_cidrs"] == ["10.42.3.0/24"]
    assert (status["pod_cidr_source"]["source"], status["pod_cidr_source"]["guess"]) == ("files", False)
    assert status["warnings"] == []
    assert site.add().address.startswith("10.42.3.")
    assert "10.42.0.0/16" in "\n".join(site.node.snapshot().nft)  # pods of other nodes are not masqueraded
    site.wait_quiet()
    assert site.wrongs() == []


def test_a_kubelet_configuration_is_found_and_said(site, host):
    file = put(host, KUBELET, "kind: KubeletConfiguration\npodCIDR: 10.244.3.0/24\n")
    start(site)
    assert len(site.log_lines(f"Found Pod CIDR in kubelet config: 10.244.3.0/24 ({file}: podCIDR)")) == 1
    assert site.add().address.startswith("10.244.3.")


def test_a_variable_and_a_flag(site, monkeypatch, tmp_path):
    monkeypatch.setenv("NODE_POD_CIDR", "10.244.7.0/24")
    start(site)
    assert site.log_lines("Using Pod CIDR from environment variable: 10.244.7.0/24 (NODE_POD_CIDR)")
    site.daemon.kill()
    site.daemon = DaemonProcess(site.node, tmp_path / "state", "--pod-cidr", "10.244.8.0/24")
    start(site)
    assert site.log_lines("Using Pod CIDR from config: 10.244.8.0/24")


def test_a_guess_is_loud_used_and_remembered(site, host):
    shutil.copytree(NODEFILES / "kubeadm-1.31", host, dirs_exist_ok=True)
    start(site)
    assert site.log_lines("Guessed Pod CIDR from cluster CIDR: 10.217.61.0/24")
    assert site.log_lines("WARNING the pod CIDR 10.217.61.0/24 is only a GUESS from the node's name, worker-1")
    assert "only a GUESS" in site.daemon.status()["warnings"][0]
    shutil.rmtree(host)
    start(site)
    assert site.daemon.status()["pod_cidrs"] == ["10.217.61.0/24"]
    assert site.log_lines("Using Pod CIDR of an earlier start: 10.217.61.0/24")


def test_a_guess_that_was_wrong_moves_to_the_right_one_pod_by_pod(site, host):
    start(site)
    old = site.add("old").address
    put(host, KUBELET, "podCIDR: 10.244.3.0/24\n")
    start(site)
    wait_until(lambda: site.daemon.status()["pod_cidr_source"]["change"] == {"before": [GUESS], "pods": 1})
    assert site.log_lines(f"WARNING the pod CIDR was {GUESS} and is now 10.244.3.0/24")
    assert site.add("new").address.startswith("10.244.3.")
    assert site.records()["old@eth0"].addresses[0].address == f"{old}/32"
    site.wait_quiet()
    assert site.wrongs() == []
    assert site.pod("new").ping(old)
    site.delete("old")
    wait_until(lambda: site.log_lines("no pod has an address of the former any more"), 15)
    wait_until(lambda: site.daemon.status()["pod_cidr_source"]["change"] is None)
    assert site.daemon.status()["warnings"] == []


def test_a_node_without_any_pod_cidr_is_not_ready_and_says_why(site, host):
    put(host, "etc/kubernetes/manifests/kube-apiserver.yaml", API_SERVER)
    site.daemon.kill()
    site.daemon.start()
    wait_until(lambda: site.daemon.status().get("not_ready"))
    status = site.daemon.status()
    assert (status["ready"], status["cni_code"], status["pod_cidrs"]) == (False, 50, [])
    assert status["not_ready"][0]["what"] == "this node has no pod CIDR"


def cut_off(file: Path) -> None:
    file.write_text("kind: KubeletConfiguration\npodCIDR: [10.244.")


def host_bits(file: Path) -> None:
    file.write_text("podCIDR: 10.244.3.7/24")


def another_family(file: Path) -> None:
    file.write_text("podCIDR: fd00::/64")


def a_hundred_megabytes(file: Path) -> None:
    with file.open("wb") as content:
        content.truncate(100 << 20)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (cut_off, "is cut off, or not YAML, at line 3"),
        (host_bits, "'10.244.3.7/24' has bits set beyond its prefix length; write 10.244.3.0/24"),
        (another_family, "fd00::/64 is IPv6, and IPv4 is asked for by 10.244.0.0/16 of"),
        (a_hundred_megabytes, "has 104857600 bytes, and only 1048576 are read"),
        (os.mkdir, "is a directory; mount a ConfigMap's key with subPath"),
        (os.mkfifo, "is a FIFO, not a file"),
    ],
)
def test_bad_input_is_named_and_the_next_source_serves(site, host, spoil, words):
    file = put(host, KUBELET, "")
    file.unlink()
    spoil(file)
    put(host, K3S_NODE, "podCIDR: 10.244.4.0/24")
    put(host, "etc/rancher/k3s/config.yaml", "cluster-cidr: 10.244.0.0/16")
    assert start(site) < READY_SECONDS
    (warning,) = site.daemon.status()["warnings"]
    assert warning.startswith(str(file))
    assert words in warning
    assert site.daemon.status()["pod_cidrs"] == ["10.244.4.0/24"]


def test_a_base_that_is_too_small_and_a_name_that_is_another(site, host):
    put(host, K3S_NODE.replace("worker-1", "vm-1"), "podCIDR: 10.244.4.0/24")
    put(host, "etc/kubernetes/kubeadm-config.yaml", "networking: {podSubnet: 10.99.0.0/25}")
    start(site)
    warnings = "\n".join(site.daemon.status()["warnings"])
    assert "has no node-worker-1.yaml, but node-vm-1.yaml; set node.name" in warnings
    assert "network.podCIDR.perNode /24 is wider than the 10.99.0.0/25" in warnings
    assert site.daemon.status()["pod_cidrs"] == [GUESS]


def test_two_sources_that_disagree(site, host):
    put(host, KUBELET, "podCIDR: 10.244.3.0/24")
    put(host, K3S_NODE, "podCIDR: 10.244.4.0/24")
    start(site)
    (warning,) = site.daemon.status()["warnings"]
    assert f"{K3S_NODE}: podCIDR says the pod CIDR is 10.244.4.0/24, but {host}/{KUBELET}: podCIDR says" in warning
    assert site.daemon.status()["pod_cidrs"] == ["10.244.3.0/24"]
