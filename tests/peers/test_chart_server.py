"""The chart against a real API server: what it admits, what Helm finds out there, and the way out."""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import subprocess
import time
from urllib.parse import quote

import pytest
import yaml
from chart import API, AUTH, CHART, SETS, STORED, leaving, of_kind, rendered
from kubelets import Kubelets

from deploy.manifests.__main__ import LEAVE
from fixtures.kube.server import KubeServer, of
from fixtures.peers import find
from fixtures.site import wait_until
from reconciler.kube.node import NODE_KEY, UP

pytestmark = [pytest.mark.peers, pytest.mark.timeout(300)]

NAMESPACE = "default"
PLURALS = {
    "ConfigMap": "configmaps",
    "Secret": "secrets",
    "ServiceAccount": "serviceaccounts",
    "Service": "services",
    "Pod": "pods",
    "Job": "jobs",
    "DaemonSet": "daemonsets",
    "Deployment": "deployments",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "NetworkPolicy": "networkpolicies",
    "Role": "roles",
    "RoleBinding": "rolebindings",
    "ClusterRole": "clusterroles",
    "ClusterRoleBinding": "clusterrolebindings",
    "ValidatingAdmissionPolicy": "validatingadmissionpolicies",
    "ValidatingAdmissionPolicyBinding": "validatingadmissionpolicybindings",
}
DAEMONSETS = f"/apis/apps/v1/namespaces/{NAMESPACE}/daemonsets"
KUBEADM = "networking: {podSubnet: 10.99.0.0/16, serviceSubnet: 10.98.0.0/16}\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with KubeServer(tmp_path_factory.mktemp("chart-server")) as started:
        yield started


@pytest.fixture
def helm(server, tmp_path):
    """As the administrator. What it leaves installed is taken away, without hooks."""
    config = server.kubeconfig("admin", of(server.admin))
    homes = {f"HELM_{each}_HOME": str(tmp_path / each) for each in ("CACHE", "CONFIG", "DATA")}
    environment = {"KUBECONFIG": str(config), "HELM_NAMESPACE": NAMESPACE, "HOME": str(tmp_path), **homes}

    def run(*arguments):
        command = (find("helm"), *arguments)
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)

    yield run
    for release in json.loads(run("list", "--all", "-o", "json").stdout):
        run("uninstall", release["name"], "--no-hooks", "--cascade", "background")


def done(completed):
    assert completed.returncode == 0, completed.stderr
    return completed.stdout


def place(thing, namespace):
    group = thing["apiVersion"]
    root = f"/api/{group}" if "/" not in group else f"/apis/{group}"
    where = f"/namespaces/{namespace}" if "namespace" in thing["metadata"] else ""
    return f"{root}{where}/{PLURALS[thing['kind']]}"


def post(server, thing, namespace):
    return server.call("POST", f"{place(thing, namespace)}?dryRun=All&fieldValidation=Strict", thing)


@pytest.mark.parametrize("values", SETS)
def test_the_api_server_admits_everything(server, values):
    objects = rendered(*SETS[values])
    if of_kind(objects, "Job"):
        gone = leaving(objects)
        gone["metadata"]["name"] += "-leaving"
        objects.append(gone)
    tried = [post(server, each, "kube-system") for each in objects if each["kind"] in PLURALS]
    assert len(tried) > 8
    assert {each["kind"] for each in objects} - PLURALS.keys() <= {"ServiceMonitor", "PrometheusRule"}


# --- what Helm finds out


def test_a_second_release_is_refused_and_force_is_the_word(server, helm):
    done(helm("install", "headcni", str(CHART)))
    refused = helm("install", "other", str(CHART))
    assert refused.returncode != 0
    assert "the cluster already has HeadCNI: DaemonSet headcni in namespace default" in refused.stderr
    done(helm("upgrade", "headcni", str(CHART), "--set", "config.logLevel=debug"))
    done(helm("install", "other", str(CHART), "--set", "force=true", "--dry-run=server"))


def test_the_cluster_of_kubeadm_tells_its_ranges(server, helm):
    made = {"metadata": {"name": "kubeadm-config"}, "data": {"ClusterConfiguration": KUBEADM}}
    server.call("POST", "/api/v1/namespaces/kube-system/configmaps", made)
    try:
        told = done(helm("install", "headcni", str(CHART), "--dry-run=server", *SETS["approver"]))
    finally:
        server.call("DELETE", "/api/v1/namespaces/kube-system/configmaps/kubeadm-config")
    assert "base: 10.99.0.0/16" in told
    assert "serviceCIDR: 10.98.0.0/16" in told
    assert "--cluster-cidr=10.99.0.0/16" in told
    assert "/etc/kubernetes/kubelet.conf" in told


def test_an_unknown_cluster_gets_no_file_that_may_be_missing(server, helm):
    told = done(helm("install", "headcni", str(CHART), "--dry-run=server"))
    assert "kubelet.conf" not in told
    assert "portmap" not in told


def test_the_notes_say_what_to_look_at_and_show_no_key(server, helm):
    installed = done(helm("install", "headcni", str(CHART), *SETS["approver"]))
    assert "headcni status" in installed
    assert "pod-security.kubernetes.io/enforce=privileged" in installed
    assert AUTH not in installed
    assert API not in installed


@pytest.mark.parametrize("file", sorted(STORED.glob("values-*.yaml")), ids=lambda file: file.stem)
def test_an_installation_with_earlier_values_can_be_upgraded(server, helm, file):
    """Monitoring is left out: its kinds are not in this cluster."""
    less = ("--set", "serviceMonitor.enabled=false,prometheusRule.enabled=false")
    done(helm("install", "headcni", str(CHART), "--values", str(file), *less))
    done(helm("upgrade", "headcni", str(CHART), "--reuse-values"))
    done(helm("upgrade", "headcni", str(CHART), "--reset-values"))


# --- who may say who a node is


@pytest.fixture
def nodes(server, helm):
    done(helm("install", "headcni", str(CHART), *SETS["approver"]))
    for name in ("a", "b"):
        server.add_node(name)
    yield
    for name in ("a", "b"):
        server.call("DELETE", f"/api/v1/nodes/{name}")


def acting(server, user, method, path, body, node="", groups=("system:authenticated",)):
    """As somebody else; `node`: where the pod of that account is, as its token says."""
    context = ssl.create_default_context(cafile=str(server.authority.certificate))
    context.load_cert_chain(server.admin.certificate, server.admin.key)
    connection = http.client.HTTPSConnection(server.address, server.port, timeout=10, context=context)
    headers = {"Content-Type": "application/merge-patch+json", "Impersonate-User": user}
    if node:
        headers[f"Impersonate-Extra-{quote('authentication.kubernetes.io/node-name', safe='')}"] = node
    with contextlib.closing(connection):
        connection.putrequest(method, path)
        for name, value in [*headers.items(), *(("Impersonate-Group", group) for group in groups)]:
            connection.putheader(name, value)
        sent = json.dumps(body).encode()
        connection.putheader("Content-Length", str(len(sent)))
        connection.endheaders(sent)
        response = connection.getresponse()
        return response.status, response.read().decode()


DAEMON = f"system:serviceaccount:{NAMESPACE}:headcni"
HOOKS = f"{DAEMON}-hooks"
OTHER_DAEMON = "system:serviceaccount:default:other"
KEY = "nodekey:" + "0" * 64


def named_as(key):
    return {"metadata": {"annotations": {NODE_KEY: key}}}


def settled(server, user, node, wanted):
    """A policy is in force a moment after it was written."""
    give_up = time.monotonic() + 30
    while True:
        status, said = acting(server, user, "PATCH", "/api/v1/nodes/b", named_as(f"{KEY}"), node)
        if status == wanted or time.monotonic() > give_up:
            return status, said
        acting(server, "admin", "PATCH", "/api/v1/nodes/b", named_as(None), groups=("system:masters",))
        time.sleep(0.2)


def test_only_the_node_itself_says_who_it_is(server, nodes):
    path, masters, kubelet = "/api/v1/nodes/b", ("system:masters",), ("system:nodes", "system:authenticated")
    asked = (
        (DAEMON, path, KEY, "a", None, 403),
        (DAEMON, path, KEY, None, None, 403),  # a token that names no node
        (DAEMON, f"{path}/status", KEY, "a", None, 403),
        (OTHER_DAEMON, path, KEY, "b", masters, 403),
        ("admin", path, KEY, "b", masters, 403),
        (DAEMON, path, KEY, "b", None, 200),
        (DAEMON, path, None, "a", None, 403),  # nor may it be taken away
        ("system:node:b", path, "nodekey:" + "1" * 64, None, kubelet, 200),
        (HOOKS, path, KEY, None, masters, 403),
        (HOOKS, path, None, None, masters, 200),  # it may be by the hook
    )

    def answers():
        """All of them again: what was there before, of the same name, is in force for a moment, and then nothing is."""
        return [
            acting(server, user, "PATCH", where, named_as(key), node, *([groups] if groups else []))[0]
            for user, where, key, node, groups, _ in asked
        ]

    wait_until(lambda: answers() == [each[-1] for each in asked], 30, answers)
    said = acting(server, DAEMON, "PATCH", path, named_as(KEY), "a")[1]
    assert f"who the node b is in the tailnet may be written only from that node, not by {DAEMON}" in said


def test_everything_else_of_a_node_may_be_written_as_before(server, nodes):
    assert settled(server, DAEMON, "a", 403)[0] == 403
    label = {"metadata": {"labels": {"a": "b"}, "annotations": {"other": "x"}}}
    assert acting(server, "admin", "PATCH", "/api/v1/nodes/b", label, groups=("system:masters",))[0] == 200
    condition = {"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "x", "message": "x"}]}}
    kubelet = ("system:nodes", "system:authenticated")
    assert acting(server, "system:node:b", "PATCH", "/api/v1/nodes/b/status", condition, groups=kubelet)[0] == 200
    own = {"metadata": {"annotations": {"headcni.io/mesh": "up"}}}
    assert acting(server, DAEMON, "PATCH", "/api/v1/nodes/b", own, "a")[0] == 200
    fresh = {"metadata": {"name": "c"}}
    assert acting(server, "admin", "POST", "/api/v1/nodes", fresh, groups=("system:masters",))[0] in (201, 415)


# --- test and uninstall


@pytest.fixture
def controllers(server, tmp_path):
    """DaemonSets and Jobs become pods."""
    flags = ("--leader-elect=false", "--secure-port=0", "--controllers=daemonset-controller,job-controller")
    config = f"--kubeconfig={server.kubeconfig('controllers', of(server.admin))}"
    with (tmp_path / "controllers.out").open("wb") as log:
        command = (find("kubernetes-server", "kube-controller-manager"), *flags, config)
        process = subprocess.Popen(command, stdout=log, stderr=log)
    yield
    process.kill()
    process.wait()


@pytest.fixture
def cluster(server, helm, controllers, tmp_path):
    """Two nodes with a daemon each."""
    for name in ("a", "b"):
        server.add_node(name, labels={"kubernetes.io/os": "linux"})
    with Kubelets(server, NAMESPACE, tmp_path) as kubelets:
        done(helm("install", "headcni", str(CHART), "--wait", "--timeout", "60s"))
        yield kubelets
    for name in ("a", "b"):
        server.call("DELETE", f"/api/v1/nodes/{name}")
    for pod in server.call("GET", kubelets.pods)["items"]:
        server.call("DELETE", f"{kubelets.pods}/{pod['metadata']['name']}?gracePeriodSeconds=0")


def left_over(server):
    return [
        each["metadata"]["name"]
        for path in (
            *(DAEMONSETS, f"/apis/batch/v1/namespaces/{NAMESPACE}/jobs", f"/api/v1/namespaces/{NAMESPACE}/configmaps"),
            *("/apis/rbac.authorization.k8s.io/v1/clusterroles", f"/api/v1/namespaces/{NAMESPACE}/secrets"),
        )
        for each in server.call("GET", path)["items"]
        if "headcni" in each["metadata"]["name"]
    ]


def test_uninstalling_leaves_each_node_after_its_daemon_and_then_deletes_everything(server, helm, cluster):
    tell(server, "a", UP)
    said = {"metadata": {"annotations": {"headcni.io/mesh": "in force", "other": "x"}}}
    server.call("PATCH", "/api/v1/nodes/a", said, "application/merge-patch+json")
    done(helm("uninstall", "headcni", "--timeout", "60s"))
    assert cluster.said == "all nodes are left\n"
    assert cluster.commands == [["uninstall"], ["uninstall"]]
    assert cluster.together == []
    assert left_over(server) == []
    node = server.call("GET", "/api/v1/nodes/a")
    assert {key for key in node["metadata"]["annotations"] if "headcni" in key or key == "other"} == {"other"}
    assert [each for each in node["status"].get("conditions", []) if each["type"] == "NetworkUnavailable"] == []


def test_a_node_that_cannot_be_left_ends_the_uninstallation_and_everything_is_as_it_was(server, helm, cluster):
    before = server.call("GET", f"{DAEMONSETS}/headcni")["spec"]
    cluster.refusing["b"] = "3 pods still have their network from HeadCNI"
    assert helm("uninstall", "headcni", "--timeout", "60s").returncode != 0
    assert "b: 3 pods still have their network from HeadCNI" in cluster.said
    after = server.call("GET", f"{DAEMONSETS}/headcni")
    assert after["spec"] == before
    cluster.refusing.clear()
    cluster.commands.clear()
    done(helm("rollback", "headcni", "1"))
    done(helm("upgrade", "headcni", str(CHART), "--reuse-values", "--set", "uninstall.purge=true"))
    done(helm("uninstall", "headcni", "--timeout", "60s"))
    assert cluster.commands == [["uninstall", "--purge"]] * 2
    assert left_over(server) == []


def test_a_failed_uninstallation_can_be_repeated_with_the_word_purge(server, helm, cluster):
    cluster.refusing["a"] = "3 pods still have their network from HeadCNI"
    assert helm("uninstall", "headcni", "--timeout", "60s").returncode != 0
    cluster.refusing.clear()
    cluster.commands.clear()
    purge = {"metadata": {"annotations": {"headcni.io/purge": "true"}}}
    server.call("PATCH", f"{DAEMONSETS}/headcni", purge, "application/merge-patch+json")
    cluster.refusing["a"] = "tailscaled does not answer"
    assert helm("uninstall", "headcni", "--timeout", "60s").returncode != 0
    kept = server.call("GET", f"{DAEMONSETS}/headcni")["metadata"]["annotations"]
    assert "headcni.io/purge" not in kept, "it was for that time"
    assert cluster.commands == [["uninstall", "--purge"]] * 2
    cluster.refusing.clear()
    cluster.commands.clear()
    server.call("PATCH", f"{DAEMONSETS}/headcni", purge, "application/merge-patch+json")
    done(helm("uninstall", "headcni", "--timeout", "60s"))
    assert cluster.commands == [["uninstall", "--purge"]] * 2


def test_after_a_hook_that_was_killed_a_rollback_makes_daemons_that_count_as_such(server, helm, cluster):
    before = server.call("GET", f"{DAEMONSETS}/headcni")["spec"]
    gone = leaving(rendered("--set", "uninstall.hook=always,distribution=other"))["spec"]["template"]
    at_once = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "100%"}}
    changes = (("template", gone), ("updateStrategy", at_once))
    patch = [{"op": "replace", "path": f"/spec/{name}", "value": value} for name, value in changes]
    server.call("PATCH", f"{DAEMONSETS}/headcni", patch, "application/json-patch+json")
    wait_until(lambda: len(cluster.commands) == 2, 60)
    cluster.refusing["b"] = "3 pods still have their network from HeadCNI"
    done(helm("rollback", "headcni", "1", "--wait", "--timeout", "60s"))

    after = server.call("GET", f"{DAEMONSETS}/headcni")["spec"]
    own, now = (dict(each["template"]["spec"]["initContainers"][0]) for each in (before, after))
    assert after["template"]["metadata"] == before["template"]["metadata"]
    assert now.pop("volumeMounts") != own.pop("volumeMounts"), "Helm can take this back now: say so no more in helm.md"
    assert now == own
    assert after["updateStrategy"] == before["updateStrategy"]
    assert after["template"]["spec"]["containers"] == before["template"]["spec"]["containers"]

    assert helm("uninstall", "headcni", "--timeout", "60s").returncode != 0
    assert "b: 3 pods still have their network from HeadCNI\nthe daemons are put back" in cluster.said
    assert server.call("GET", f"{DAEMONSETS}/headcni")["spec"] == after
    cluster.refusing.clear()
    done(helm("uninstall", "headcni", "--timeout", "60s"))
    assert left_over(server) == []


def test_without_helm_the_printed_job_leaves_the_nodes(server, helm, cluster):
    text = LEAVE.read_text().replace("namespace: kube-system", f"namespace: {NAMESPACE}")
    text = text.replace("--namespace=kube-system", f"--namespace={NAMESPACE}")
    objects = [each for each in yaml.safe_load_all(text) if each]
    for each in objects:
        server.call("POST", place(each, NAMESPACE), each)
    try:
        wait_until(lambda: cluster.said, 60)
    finally:
        for each in objects:
            path = f"{place(each, NAMESPACE)}/{each['metadata']['name']}"
            server.call("DELETE", f"{path}?propagationPolicy=Background")
    assert cluster.said == "all nodes are left\n"
    assert cluster.commands == [["uninstall"], ["uninstall"]]


def tell(server, node, reason):
    told = {"type": "NetworkUnavailable", "status": "False", "reason": reason, "message": "as told"}
    body = {"status": {"conditions": [told]}}
    server.call("PATCH", f"/api/v1/nodes/{node}/status", body, "application/strategic-merge-patch+json")


def test_helm_test_asks_what_each_node_says(server, helm, cluster):
    for node in ("a", "b"):
        tell(server, node, UP)
    done(helm("test", "headcni", "--timeout", "60s"))
    assert cluster.said == "every node says that HeadCNI is up\n"
