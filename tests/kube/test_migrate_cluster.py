"""The cluster as `headcni migrate check` reads it: pages, rights that are missing, ways that fail."""

from __future__ import annotations

import asyncio
from ipaddress import ip_network

import pytest

from cni.spec import Refusal
from fixtures.headscale import Fault
from fixtures.kube.standin import StandIn
from reconciler.kube.codes import Trouble
from reconciler.migrate import cluster
from reconciler.migrate.cluster import Cluster, KubeNode, KubePod, ask, node_of, pod_of
from reconciler.migrate.formats import Lease, NetConf
from tests.kube.clients import config

PREFIX = "flannel.alpha.coreos.com/"
LEASE = {PREFIX + "kube-subnet-manager": "true", PREFIX + "backend-type": "vxlan", PREFIX + "public-ip": "192.0.2.11"}
CONF = '{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan"}}'
TOKEN = "t0ken"
CONFIG_MAP = "/api/v1/namespaces/{}/configmaps/kube-flannel-cfg"


@pytest.fixture
def read(tmp_path):
    """What is read of a stand-in with two nodes and a pod."""
    (tmp_path / "token").write_text(TOKEN)

    def run(prepare=lambda server: None, **settings):
        return asyncio.run(_read(prepare, {"kube_tokenFile": str(tmp_path / "token"), **settings}))

    return run


async def _read(prepare, settings):
    async with StandIn() as server:
        server.add_node("a", "10.244.1.0/24", annotations=LEASE, labels={"kubernetes.io/os": "linux"})
        server.add_node("b", "10.244.2.0/24", annotations=LEASE | {"headcni.io/pod-cidr": "10.244.2.0/24"})
        server.add_pod("default", "web-0", "a", phase="Running")
        prepare(server)
        return await ask(config(kube_url=server.url, node_name="a", node_root="/nowhere", **settings))


def test_nodes_pods_and_flannels_configuration(read):
    found = read(lambda server: server.store.add(CONFIG_MAP.format("kube-flannel"), {"data": {"net-conf.json": CONF}}))
    assert isinstance(found, Cluster)
    lease = Lease("vxlan", "192.0.2.11")
    assert found.nodes == (
        KubeNode("a", (ip_network("10.244.1.0/24"),), lease),
        KubeNode("b", (ip_network("10.244.2.0/24"),), lease, ours=True),
    )
    assert found.pods == (KubePod("a", "default/web-0"),)
    assert found.net_conf == NetConf((ip_network("10.244.0.0/16"),), "vxlan")
    assert found.net_conf_from == "ConfigMap kube-flannel/kube-flannel-cfg"


def test_long_lists_come_in_pages(read, monkeypatch):
    monkeypatch.setattr(cluster, "PAGE", "2")
    found = read(lambda server: [server.add_pod("default", f"more-{number}", "b") for number in range(4)])
    assert [each.name for each in found.pods] == [*(f"default/more-{number}" for number in range(4)), "default/web-0"]


@pytest.mark.parametrize("namespace", ["kube-flannel", "kube-system"])
@pytest.mark.parametrize(
    ("data", "what"),
    [({"other": ""}, "has no key net-conf.json"), ({"net-conf.json": "{"}, "is not JSON")],
)
def test_a_config_map_that_cannot_be_used_is_told_with_its_name(read, namespace, data, what):
    found = read(lambda server: server.store.add(CONFIG_MAP.format(namespace), {"data": data}))
    assert isinstance(found.net_conf, Refusal)
    assert found.net_conf.msg.startswith(f"ConfigMap {namespace}/kube-flannel-cfg {what}")


def test_who_may_not_list_nodes_is_told_of_its_own(read):
    found = read(lambda server: server.denied.update({TOKEN: {("list", "nodes")}}))
    assert [each.name for each in found.nodes] == ["a"]


def test_who_may_not_list_pods_is_told_so_and_of_the_nodes_all_the_same(read):
    found = read(lambda server: server.denied.update({TOKEN: {("list", "pods")}}))
    assert len(found.nodes) == 2
    assert isinstance(found.pods, Refusal)
    assert found.pods.code == Trouble.API_FORBIDDEN


def test_who_may_read_nothing_gets_the_reason(read):
    found = read(lambda server: server.denied.update({TOKEN: {("list", "nodes"), ("get", "nodes")}}))
    assert isinstance(found, Refusal)
    assert found.code == Trouble.API_FORBIDDEN


def test_a_server_that_breaks_off_is_a_reason_and_no_fault(read):
    found = read(lambda server: server.inject("GET", "/nodes", Fault(status=500)))
    assert isinstance(found, Refusal)


def test_a_server_that_says_nothing_is_given_up(read, monkeypatch):
    monkeypatch.setattr(cluster, "SECONDS", 0.3)
    found = read(lambda server: server.inject("GET", "/nodes", Fault(hang=True)))
    assert isinstance(found, Refusal)
    assert "did not tell all within 0.3 s" in found.msg


def test_without_a_way_there_is_nothing_and_with_kube_off_nobody_is_asked(read):
    assert asyncio.run(ask(config(node_root="/nowhere"))) is None
    assert read(kube_mode="off") is None


# --- what is kept


def test_a_nodes_system_kernel_and_part():
    labels = {"node-role.kubernetes.io/control-plane": "", "kubernetes.io/os": "windows"}
    info = {"nodeInfo": {"kernelVersion": "10.0.17763", "operatingSystem": "windows"}}
    kept = node_of({"metadata": {"name": "w", "labels": labels}, "status": info})
    assert (kept.control_plane, kept.system, kept.kernel) == (True, "windows", "10.0.17763")
    assert node_of({"metadata": {"name": "w"}, "status": {}}) == KubeNode("w")
    assert node_of({}) is None


@pytest.mark.parametrize(
    ("meta", "spec", "status", "owner"),
    [
        ({}, {"nodeName": "a"}, {"phase": "Running"}, ""),
        ({"ownerReferences": [{"kind": "DaemonSet"}]}, {"nodeName": "a"}, {"phase": "Pending"}, "DaemonSet"),
        ({"annotations": {"kubernetes.io/config.hash": "0"}}, {"nodeName": "a"}, {}, "Node"),
        ({"ownerReferences": "odd"}, {"nodeName": "a"}, {}, ""),
        ({}, {"nodeName": "a", "hostNetwork": True}, {"phase": "Running"}, None),
        ({}, {"nodeName": "a"}, {"phase": "Succeeded"}, None),
        ({}, {}, {"phase": "Pending"}, None),
    ],
)
def test_pods_that_have_a_network_of_their_own(meta, spec, status, owner):
    kept = pod_of({"metadata": {"name": "p", "namespace": "n", **meta}, "spec": spec, "status": status})
    assert kept == (None if owner is None else KubePod("a", "n/p", owner))
