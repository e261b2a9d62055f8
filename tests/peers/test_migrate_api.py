"""`headcni migrate check` beside a real API server, and the commands that it prints, done as they are printed."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fixtures.kube.server import KubeServer, ServerError, of
from fixtures.lab import Lab
from fixtures.peers import find
from fixtures.processes import REPOSITORY
from fixtures.site import wait_until

pytestmark = [pytest.mark.peers, pytest.mark.timeout(120)]

FLANNEL = Path(__file__).parents[2] / "fixtures" / "flannel"
PREFIX = "flannel.alpha.coreos.com/"
DAEMONSETS = "/apis/apps/v1/namespaces/kube-flannel/daemonsets"
MERGE, STRATEGIC = "application/merge-patch+json", "application/strategic-merge-patch+json"
LINUX = {"matchExpressions": [{"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]}]}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A cluster with Flannel, as far as the API knows of it."""
    with KubeServer(tmp_path_factory.mktemp("migrate")) as made:
        for number, name in enumerate(("worker-1", "worker-2"), 1):
            lease = {"kube-subnet-manager": "true", "backend-type": "vxlan", "public-ip": f"192.0.2.1{number}"}
            annotations = {PREFIX + key: value for key, value in lease.items()}
            labels = {"kubernetes.io/os": "linux"}
            made.add_node(name, f"10.244.{number}.0/24", labels=labels, annotations=annotations)
        made.call("POST", "/api/v1/namespaces", {"metadata": {"name": "kube-flannel"}})
        conf = (FLANNEL / "vxlan/etc/kube-flannel/net-conf.json").read_text()
        config_map = {"metadata": {"name": "kube-flannel-cfg"}, "data": {"net-conf.json": conf}}
        made.call("POST", "/api/v1/namespaces/kube-flannel/configmaps", config_map)
        made.call("POST", DAEMONSETS, _daemon_set())
        _pod(made, "default", "web-0", "worker-1")
        _pod(made, "default", "web-1", "worker-2")
        _pod(made, "default", "proxy", "worker-1", hostNetwork=True)
        yield made


def _daemon_set():
    required = {"nodeSelectorTerms": [LINUX]}
    spec = {
        "hostNetwork": True,
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}},
        "tolerations": [{"operator": "Exists", "effect": "NoSchedule"}],
        "containers": [{"name": "kube-flannel", "image": "flannel"}],
    }
    labels = {"app": "flannel"}
    template = {"metadata": {"labels": labels}, "spec": spec}
    return {
        "metadata": {"name": "kube-flannel-ds"},
        "spec": {"selector": {"matchLabels": labels}, "template": template},
    }


def _pod(server, namespace, name, node, **spec):
    owner = {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "0", "controller": True}
    meta = {"name": name, "ownerReferences": [owner]}
    body = {"metadata": meta, "spec": {"nodeName": node, "containers": [{"name": "x", "image": "x"}], **spec}}
    server.call("POST", f"/api/v1/namespaces/{namespace}/pods", body)


def check(kubeconfig, tmp_path, *arguments, root=None):
    environment = {
        **os.environ,
        "HEADCNI_HOST_ROOT": str(root or tmp_path),
        "HEADCNI_KUBECONFIG": str(kubeconfig),
        "NODE_NAME": "worker-1",
    }
    command = (sys.executable, "-m", "reconciler.operate.cli", "migrate", "check", "-o", "json", *arguments)
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    return done.returncode, json.loads(done.stdout)


# --- what the API tells


def test_an_administrator_anywhere_sees_the_whole_cluster(server, tmp_path):
    """On no node at all: everything comes from the API."""
    code, told = check(server.kubeconfig("admin", of(server.admin)), tmp_path)
    assert (code, told["reasons"]) == (0, [])
    assert told["flannel"]["configured_by"] == "ConfigMap kube-flannel/kube-flannel-cfg"
    assert told["values"]["config"]["network"]["podCIDR"] == {"base": "10.244.0.0/16", "perNode": "/24"}
    assert [(each["name"], each["public"], each["drained"]) for each in told["nodes"]] == [
        ("worker-1", "192.0.2.11", ["default/web-0"]),
        ("worker-2", "192.0.2.12", ["default/web-1"]),
    ]


def test_a_kubelets_own_credentials_show_at_least_its_own_node(server, tmp_path):
    kubelet = server.user("system:node:worker-1", groups=("system:nodes",))
    code, told = check(server.kubeconfig("kubelet", of(kubelet)), tmp_path, root=FLANNEL / "vxlan")
    assert code == 0
    (own,) = [each for each in told["nodes"] if each["here"]]
    assert (own["name"], own["pod_cidrs"]) == ("worker-1", ["10.244.1.0/24"])
    assert own["drained"] == ["default/web-0"]


def test_a_node_that_kubernetes_gave_another_cidr_than_flannel_is_told(server, tmp_path):
    env = tmp_path / "subnet.env"
    text = (FLANNEL / "vxlan/run/flannel/subnet.env").read_text()
    env.write_text(text.replace("10.244.1.1/24", "10.244.7.1/24"))
    code, told = check(server.kubeconfig("admin", of(server.admin)), tmp_path, "--subnet-env", str(env))
    assert code == 1
    (reason,) = told["reasons"]
    assert "Flannel has 10.244.7.0/24 on the node worker-1, and Kubernetes gave it 10.244.1.0/24" in reason["what"]


def test_a_node_without_a_cidr_gets_flannels_by_the_command_that_is_printed(server, tmp_path):
    server.add_node("bare", labels={"kubernetes.io/os": "linux"})
    kubeconfig = server.kubeconfig("admin", of(server.admin))
    try:
        env = {"NODE_NAME": "bare"}
        command = (
            sys.executable,
            "-m",
            "reconciler.operate.cli",
            "migrate",
            "check",
            "-o",
            "json",
            "--node-name",
            "bare",
        )
        options = (
            "--subnet-env",
            str(FLANNEL / "subnet-env/several-networks.env"),
            "--kubeconfig-file",
            str(kubeconfig),
        )
        done = subprocess.run(
            (*command, *options), env={**os.environ, **env}, cwd=REPOSITORY, capture_output=True, text=True
        )
        (cure,) = [each["cure"] for each in json.loads(done.stdout)["reasons"] if each["cure"].startswith("kubectl")]
        kubectl(kubeconfig, tmp_path, cure)
        assert server.call("GET", "/api/v1/nodes/bare")["spec"]["podCIDRs"] == ["10.245.1.0/25"]
    finally:
        server.call("DELETE", "/api/v1/nodes/bare")


def kubectl(kubeconfig, tmp_path, command):
    environment = {"KUBECONFIG": str(kubeconfig), "HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    subprocess.run(command, shell=True, env=environment, check=True, capture_output=True, timeout=30)


# --- Flannel leaves a node


@pytest.fixture
def controller(server, tmp_path):
    flags = ("--leader-elect=false", "--secure-port=0", "--controllers=daemonset-controller")
    command = (find("kubernetes-server", "kube-controller-manager"), *flags)
    with (tmp_path / "controllers.out").open("wb") as log:
        process = subprocess.Popen(
            (*command, f"--kubeconfig={server.kubeconfig('controllers', of(server.admin))}"), stdout=log, stderr=log
        )
    yield
    process.kill()
    process.wait()


@pytest.fixture
def kubelets(server, controller):
    """And a scheduler, in a thread: pods get the node that their DaemonSet wants, and go when they are deleted."""
    stop = threading.Event()

    def work():
        while not stop.wait(0.1):
            for pod in server.call("GET", "/api/v1/pods")["items"]:
                with contextlib.suppress(ServerError):  # it has changed since
                    _attend(server, pod)

    thread = threading.Thread(target=work)
    thread.start()
    yield
    stop.set()
    thread.join()


def _attend(server, pod):
    name = pod["metadata"]["name"]
    at = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{name}"
    if "deletionTimestamp" in pod["metadata"]:
        server.call("DELETE", f"{at}?gracePeriodSeconds=0")
    elif "nodeName" not in pod["spec"]:
        required = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        (node,) = required["nodeSelectorTerms"][0]["matchFields"][0]["values"]
        server.call("POST", f"{at}/binding", {"metadata": {"name": name}, "target": {"kind": "Node", "name": node}})


def nodes_of(server, namespace):
    """On which a pod of that namespace is."""
    pods = server.call("GET", f"/api/v1/namespaces/{namespace}/pods")["items"]
    return sorted(pod["spec"].get("nodeName", "") for pod in pods)


def test_the_whole_way_as_it_is_printed_and_the_way_back(server, kubelets, tmp_path):
    """For worker-2, as far as the API goes."""

    def flannel_is_on(*nodes):
        def seen():
            return nodes_of(server, "kube-flannel")

        wait_until(lambda: seen() == [*nodes], 40, lambda: f"Flannel is on {seen()}")

    def run(command):
        kubectl(kubeconfig, tmp_path, command.replace("NODE", "worker-2"))

    kubeconfig = server.kubeconfig("admin", of(server.admin))
    _, told = check(kubeconfig, tmp_path)
    commands = [command for step in told["steps"] for command in step["commands"] if command.startswith("kubectl")]
    *way, last = commands
    assert "delete daemonset" in last
    flannel_is_on("worker-1", "worker-2")
    for each in way:
        run(each)
    flannel_is_on("worker-1")
    assert nodes_of(server, "default") == ["worker-1", "worker-1"], "drained"
    spec = server.call("GET", "/api/v1/nodes/worker-2")["spec"]
    assert "unschedulable" not in spec
    assert [each for each in spec.get("taints", []) if each["key"].startswith("headcni.io/")] == []
    _, now = check(kubeconfig, tmp_path)
    assert [(each["name"], each["moved"]) for each in now["nodes"]] == [("worker-2", True), ("worker-1", False)]

    run("kubectl label node NODE headcni.io/moved-")  # the way back
    flannel_is_on("worker-1", "worker-2")
    run("kubectl -n kube-flannel rollout restart daemonset kube-flannel-ds")
    run(last)
    assert server.call("GET", DAEMONSETS)["items"] == []


# --- what is left

FLANNELD = (
    "-t nat -N FLANNEL-POSTRTG",
    '-t nat -A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG',
    '-t nat -A FLANNEL-POSTRTG -s 10.244.1.0/24 -d 10.244.0.0/16 -m comment --comment "flanneld masq" -j RETURN',
    '-t nat -A FLANNEL-POSTRTG -s 10.244.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE',
    "-t filter -N FLANNEL-FWD",
    '-t filter -A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD',
    '-t filter -A FLANNEL-FWD -s 10.244.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT',
    "-t nat -A POSTROUTING -s 192.0.2.0/24 -j MASQUERADE",
)


def test_flannels_chains_go_by_the_commands_that_are_printed_and_other_rules_stay(tmp_path):
    """Rules as flanneld makes them, by the iptables of this machine."""
    with Lab(1) as lab:
        (node,) = lab.nodes
        for rule in FLANNELD:
            node.run("sh", "-c", f"iptables {rule}")
        command = (sys.executable, "-m", "reconciler.operate.cli", "migrate", "check", "--kube", "off", "-o", "json")
        environment = {**os.environ, "HEADCNI_HOST_ROOT": str(tmp_path)}
        done = subprocess.run(node.command(*command), env=environment, cwd=REPOSITORY, capture_output=True, text=True)
        for each in json.loads(done.stdout)["here"]["leftovers"]:
            node.run("sh", "-ec", each["command"])
        left = node.run("iptables-save")
    assert "FLANNEL" not in left
    assert "flanneld" not in left
    assert "-A POSTROUTING -s 192.0.2.0/24 -j MASQUERADE" in left
