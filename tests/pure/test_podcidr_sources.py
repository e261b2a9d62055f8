"""What is found on nodes as kubeadm, k3s, RKE2 and microk8s leave them, and on nodes with something wrong."""

from __future__ import annotations

import os
import shutil
import time
from ipaddress import ip_network as net
from pathlib import Path

import pytest

from reconciler.config import Config, load
from reconciler.kube.codes import Trouble
from reconciler.node.formats import About
from reconciler.node.podcidr import Choice, Source, judge
from reconciler.node.sources import CLUSTER_FILES, NODE_FILES, look

NODEFILES = Path(__file__).parents[2] / "fixtures" / "nodefiles"
KUBELET = "var/lib/kubelet/config.yaml"
K3S_NODE = "var/lib/rancher/k3s/agent/etc/node-worker-1.yaml"
MANIFEST = "etc/kubernetes/manifests/kube-controller-manager.yaml"
KUBEADM = "etc/kubernetes/kubeadm-config.yaml"
NETWORKING = "data.ClusterConfiguration.networking"
SHARE = "10.244.61.0/24"  # of worker-1


def config(root: Path, environ=None, **flags) -> Config:
    loaded = load({"node.root": str(root), "node.name": "worker-1", **flags}, environ or {}, None)
    assert isinstance(loaded, Config), loaded
    return loaded


def chosen(root: Path, environ=None, api=None, **flags) -> Choice:
    return judge(look(config(root, environ, **flags), environ or {}, api=api))


def put(root: Path, path: str, text: str) -> Path:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)
    return root / path


def warned(choice: Choice, code: Trouble) -> str:
    found = [f"{each.msg}; {each.details}" for each in choice.warnings if each.code == code]
    assert found, choice.warnings
    return "\n".join(found)


# --- nodes as they are

V4 = ["10.244.0.0/16"]
ALL = [
    ("kubeadm-1.20", "share", SHARE, f"{KUBEADM}: {NETWORKING}.podSubnet", V4, ["10.96.0.0/12"]),
    ("kubeadm-1.24", "share", SHARE, f"{MANIFEST}: --cluster-cidr", V4, ["10.96.0.0/12"]),
    (
        "kubeadm-1.27",
        "share",
        "10.244.61.0/24 fd00:10:244:3d::/64",
        f"{KUBEADM}: networking.podSubnet",
        ["10.244.0.0/16", "fd00:10:244::/56"],
        ["10.96.0.0/16", "fd00:10:96::/112"],
    ),
    (
        "kubeadm-1.31",
        "share",
        "10.217.61.0/24",
        f"{KUBEADM}: {NETWORKING}.podSubnet",
        ["10.217.0.0/16"],
        ["10.96.0.0/12"],
    ),
    ("kubeadm-1.34", "share", SHARE, f"{MANIFEST}: --cluster-cidr", V4, ["10.96.0.0/12"]),
    ("kubeadm-1.20-worker", "default", SHARE, "default of network.podCIDR.base", V4, ["10.96.0.0/16"]),
    ("kubeadm-1.24-worker", "default", SHARE, "default of network.podCIDR.base", V4, ["10.96.0.0/16"]),
    ("kubeadm-1.34-worker", "default", SHARE, "default of network.podCIDR.base", V4, ["10.96.0.0/16"]),
    ("k3s-server", "share", "10.42.61.0/24", "default of k3s", ["10.42.0.0/16"], ["10.43.0.0/16"]),
    (
        "k3s-server-configured",
        "share",
        "10.50.61.0/24 2001:db8:50:3d::/64",
        "etc/rancher/k3s/config.yaml: cluster-cidr",
        ["10.50.0.0/16", "2001:db8:50::/56"],
        ["10.51.0.0/16", "2001:db8:51::/112"],
    ),
    ("k3s-agent", "files", "10.42.3.0/24", f"{K3S_NODE}: podCIDR", ["10.42.0.0/16"], ["10.43.0.0/16"]),
    (
        "rke2-server",
        "share",
        "10.42.61.0/24",
        "agent/pod-manifests/kube-controller-manager.yaml: --cluster-cidr",
        ["10.42.0.0/16"],
        ["10.43.0.0/16"],
    ),
    (
        "rke2-server-configured",
        "share",
        "172.27.61.0/24",
        "etc/rancher/rke2/config.yaml: cluster-cidr",
        ["172.27.0.0/16"],
        ["172.28.0.0/16"],
    ),
    ("rke2-agent", "share", "10.42.61.0/24", "default of RKE2", ["10.42.0.0/16"], ["10.43.0.0/16"]),
    ("microk8s", "share", "10.1.61.0/24", "args/kube-proxy: --cluster-cidr", ["10.1.0.0/16"], ["10.152.183.0/24"]),
]


@pytest.mark.parametrize(("kind", "source", "cidrs", "where", "cluster", "services"), ALL, ids=[row[0] for row in ALL])
def test_a_node_as_it_is(kind, source, cidrs, where, cluster, services):
    choice = chosen(NODEFILES / kind)
    assert (choice.source, " ".join(map(str, choice.cidrs))) == (source, cidrs)
    assert where in choice.looked_at
    assert list(map(str, choice.cluster_cidrs)) == cluster
    assert list(map(str, choice.service_cidrs)) == services
    assert choice.guess == (source != "files")
    assert [each.code for each in choice.warnings if each.code != Trouble.CIDR_GUESSED] == []


def test_every_node_in_the_fixtures_is_in_the_table():
    assert sorted(path.name for path in NODEFILES.iterdir() if path.is_dir()) == sorted(row[0] for row in ALL)


def test_the_choice_is_made_in_time_to_start():
    choose = lambda: chosen(NODEFILES / "kubeadm-1.31")  # noqa: E731
    choose()  # imports
    took = min(_seconds(choose) for _ in range(5))
    assert took < 0.05


def _seconds(work) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


# --- each file, alone and in its order

CLUSTER_FILE = {  # one that holds the cluster CIDR, for each name
    "etc/kubernetes/admin.conf": "networking: {podSubnet: %s}",
    "etc/kubernetes/kubeadm-config.yaml": "networking: {podSubnet: %s}",
    "etc/kubernetes/manifests/kube-controller-manager.yaml": "spec: {containers: [{args: [--cluster-cidr, %s]}]}",
    "etc/kubernetes/manifests/kube-apiserver.yaml": "spec: {containers: [{command: [--cluster-cidr=%s]}]}",
    "var/lib/rancher/rke2/agent/pod-manifests/kube-controller-manager.yaml": (
        "spec: {containers: [{args: [--cluster-cidr=%s]}]}"
    ),
    "var/snap/microk8s/current/args/kube-controller-manager": "--cluster-cidr=%s\n",
    "var/snap/microk8s/current/args/kube-proxy": "--cluster-cidr=%s\n",
    "var/snap/microk8s/current/args/kube-apiserver": "--cluster-cidr=%s\n",
}
IN_ORDER = [path.lstrip("/") for path in CLUSTER_FILES]


def test_the_promised_order():
    assert [path for path, _ in NODE_FILES] == [
        "/var/lib/kubelet/config.yaml",
        "/var/lib/rancher/k3s/agent/etc/node-{node}.yaml",
    ]
    assert IN_ORDER[:7] == [
        "etc/rancher/k3s/k3s.yaml",
        "var/lib/rancher/k3s/agent/etc/kubelet.config",
        "var/lib/kubelet/config.yaml",
        "etc/kubernetes/kubeadm-config.yaml",
        "etc/kubernetes/admin.conf",
        "etc/kubernetes/manifests/kube-controller-manager.yaml",
        "etc/kubernetes/manifests/kube-apiserver.yaml",
    ]


@pytest.mark.parametrize("first", range(len(IN_ORDER)), ids=IN_ORDER)
def test_each_cluster_file_wins_over_those_behind_it(tmp_path, first):
    for number, path in list(enumerate(IN_ORDER))[first:]:
        put(tmp_path, path, CLUSTER_FILE.get(path, "cluster-cidr: %s\n") % f"10.{number + 100}.0.0/16")
    choice = chosen(tmp_path)
    assert choice.cidrs == (net(f"10.{first + 100}.61.0/24"),)
    assert f"{tmp_path}/{IN_ORDER[first]}: " in choice.looked_at


def test_the_kubelet_comes_before_the_k3s_node_file(tmp_path):
    put(tmp_path, K3S_NODE, "podCIDR: 10.244.4.0/24")
    assert chosen(tmp_path).phrase == "Found Pod CIDR in k3s node file"
    put(tmp_path, KUBELET, "podCIDR: 10.244.3.0/24")
    choice = chosen(tmp_path)
    assert (choice.phrase, choice.cidrs) == ("Found Pod CIDR in kubelet config", (net("10.244.3.0/24"),))
    assert "10.244.4.0/24" in warned(choice, Trouble.SOURCES_DISAGREE)


def test_operators_come_before_files_and_files_before_the_api(tmp_path):
    put(tmp_path, KUBELET, "podCIDR: 10.244.3.0/24")
    api, environ, flag = (
        (net("10.244.5.0/24"),),
        {"NODE_POD_CIDR": "10.244.2.0/24"},
        {"network.podCIDR.nodeLocal": "10.244.1.0/24"},
    )
    assert chosen(tmp_path / "empty", api=api).source is Source.API
    assert chosen(tmp_path, api=api).source is Source.FILES
    assert chosen(tmp_path, environ, api=api).source is Source.ENVIRONMENT
    choice = chosen(tmp_path, environ, api=api, **flag)
    assert (choice.source, choice.looked_at) == (Source.CONFIGURATION, "flag --pod-cidr: network.podCIDR.nodeLocal")


def test_a_configured_base_comes_before_files(tmp_path):
    put(tmp_path, MANIFEST, "spec: {containers: [{args: [--cluster-cidr=10.10.0.0/16]}]}")
    choice = chosen(tmp_path, **{"network.podCIDR.base": "10.20.0.0/16", "network.podCIDR.perNode": "/26"})
    assert choice.cidrs == (net("10.20.207.64/26"),)
    assert "10.10.0.0/16" in warned(choice, Trouble.SOURCES_DISAGREE)


def test_json_and_several_documents(tmp_path):
    put(tmp_path, KUBELET, '---\n---\n{"kind": "KubeletConfiguration", "podCIDR": "10.244.3.0/24,fd00:3::/64"}\n')
    assert chosen(tmp_path).cidrs == (net("10.244.3.0/24"), net("fd00:3::/64"))


# --- bad input: named with file, key, value and cure, and the next source is tried

GOOD = net("10.244.9.0/24")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kind: KubeletConfiguration\npodCIDR: [10.244.3", "is cut off, or not YAML, at line 3, column 1; restore it"),
        (
            "podCIDR: 10.244.3.7/24",
            "podCIDR = 10.244.3.7/24: '10.244.3.7/24' has bits set beyond its prefix length; write 10.244.3.0/24",
        ),
        (
            "podCIDR: 10.244.3.0",
            "podCIDR = 10.244.3.0: '10.244.3.0' is not a CIDR; write an address and a prefix length",
        ),
        (
            "podCIDR: 10.244.3.0/24,10.244.4.0/24",
            "names one address family twice; give at most one IPv4 and one IPv6 CIDR",
        ),
        ("podCIDR: {cidr: 10.244.3.0/24}", "podCIDR: is no CIDR; write one like 10.244.1.0/24"),
        ("podCIDR: [[10.244.3.0/24]]", "podCIDR: is no CIDR; write one like"),
        (f"podCIDR: {'x' * 5000}", "podCIDR: is no CIDR; write one like"),
        (
            "podCIDR: fd00::/64",
            "podCIDR: fd00::/64 is IPv6, and IPv4 is asked for by 10.244.0.0/16 of flag --cluster-cidr",
        ),
        ("podCIDR: 10.244.3.1/32", "podCIDR: 10.244.3.1/32 has no room for a pod; give the node a CIDR with room"),
    ],
)
def test_a_kubelet_configuration_with_something_wrong(tmp_path, text, words):
    file = put(tmp_path, KUBELET, text)
    put(tmp_path, K3S_NODE, f"podCIDR: {GOOD}")
    choice = chosen(tmp_path, **{"network.podCIDR.base": "10.244.0.0/16"})
    assert choice.cidrs == (GOOD,)
    told = warned(choice, Trouble.SOURCE_INVALID)
    assert told.startswith(str(file))
    assert words in told


def a_directory(at: Path) -> None:
    at.mkdir()


def a_hundred_megabytes(at: Path) -> None:
    with at.open("wb") as file:
        file.truncate(100 << 20)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (a_directory, "is a directory; mount a ConfigMap's key with subPath"),
        (os.mkfifo, "is a FIFO, not a file; put the file there"),
        (a_hundred_megabytes, "has 104857600 bytes, and only 1048576 are read; no configuration is that large"),
    ],
)
def test_something_else_than_a_file(tmp_path, make, words):
    file = put(tmp_path, KUBELET, "")
    file.unlink()
    make(file)
    put(tmp_path, K3S_NODE, f"podCIDR: {GOOD}")
    choice = chosen(tmp_path)
    assert choice.cidrs == (GOOD,)
    assert warned(choice, Trouble.SOURCE_UNREADABLE) == next(
        iter(warned(choice, Trouble.SOURCE_UNREADABLE).splitlines())
    )
    assert f"{file} {words}" in warned(choice, Trouble.SOURCE_UNREADABLE)


def test_a_config_map_without_its_key(tmp_path):
    put(tmp_path, KUBEADM, "kind: ConfigMap\ndata: {kubeadm.yaml: '', other: ''}")
    told = warned(chosen(tmp_path), Trouble.CONFIGMAP_KEY)
    assert "kubeadm-config.yaml: the ConfigMap has no key ClusterConfiguration; its keys: kubeadm.yaml, other; " in told
    assert len(told.splitlines()) == 1


def test_a_node_name_that_is_not_the_one_of_the_file(tmp_path):
    shutil.copytree(NODEFILES / "k3s-agent", tmp_path, dirs_exist_ok=True)
    choice = chosen(tmp_path, **{"node.name": "vm-17"})
    told = warned(choice, Trouble.NODE_UNKNOWN)
    assert "has no node-vm-17.yaml, but node-worker-1.yaml; set node.name (NODE_NAME)" in told
    assert choice.source is Source.SHARE


def test_the_name_of_the_host_is_the_nodes_unless_told(monkeypatch):
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "VM-17.Example", "", "", "")))
    for flags, environ, name in (
        ({}, {}, "vm-17.example"),
        ({}, {"NODE_NAME": "n1"}, "n1"),
        ({"node.name": "n2"}, {}, "n2"),
    ):
        loaded = load(flags, environ, None)
        assert isinstance(loaded, Config)
        assert loaded.node_name == name


@pytest.mark.parametrize("name", ["VM", "a/b", "..", "-a", "a" * 254, 7])
def test_what_is_no_node_name(name):
    (problem,) = load({"node.name": name}, {}, None)
    assert (problem.key, problem.what) == ("node.name", "is not the name of a node")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("10.244.0.0/25", "network.podCIDR.perNode /24 is wider than the 10.244.0.0/25 of"),
        ("10.244.3.0/16", "has bits set beyond its prefix length; write 10.244.0.0/16"),
    ],
)
def test_a_cluster_file_with_something_wrong_gives_way_to_the_next(tmp_path, text, words):
    put(tmp_path, KUBEADM, f"networking: {{podSubnet: {text}}}")
    put(tmp_path, MANIFEST, "spec: {containers: [{args: [--cluster-cidr=10.20.0.0/16]}]}")
    choice = chosen(tmp_path)
    assert choice.cidrs == (net("10.20.61.0/24"),)
    assert words in warned(choice, Trouble.SOURCE_INVALID)


def test_a_broken_variable_is_shown_beside_a_file_that_counts_more(tmp_path):
    environ = {"NODE_POD_CIDR": "10.244.2.7/24"}
    choice = chosen(tmp_path, environ, **{"network.podCIDR.nodeLocal": "10.244.1.0/24"})
    (finding,) = [each for each in choice.findings if each.source is Source.ENVIRONMENT]
    assert "NODE_POD_CIDR = 10.244.2.7/24: '10.244.2.7/24' has bits set" in finding.why


def test_a_static_route_to_where_the_guess_is(tmp_path):
    choice = chosen(tmp_path, **{"network.staticRoutes": f"{SHARE}=192.0.2.2"})
    assert f"overlaps {SHARE} of a static route" in warned(choice, Trouble.CIDR_CLASH)


def test_files_that_hang_do_not_make_a_k3s_of_the_node(tmp_path, monkeypatch):
    import reconciler.node.sources as sources
    from cni.spec import Refusal

    hangs = Refusal(Trouble.SOURCE_UNREADABLE, "/x gave no answer within 1 s", "see dmesg")
    monkeypatch.setattr(sources, "read_all", lambda root, paths: dict.fromkeys(paths, hangs))
    choice = chosen(tmp_path)
    assert choice.source is Source.DEFAULT
    assert [each.code for each in choice.warnings] == [Trouble.CIDR_GUESSED, Trouble.SOURCE_UNREADABLE]


def test_every_place_that_was_looked_at_is_shown(tmp_path):
    findings = chosen(tmp_path).findings
    for about in About:
        places = [each.looked_at for each in findings if each.about is about and each.source is Source.FILES]
        assert len(places) == (2 if about is About.NODE else len(CLUSTER_FILES))
    assert all(each.why for each in findings)
