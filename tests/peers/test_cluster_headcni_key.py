"""HeadCNI with a key that Headscale refuses, in a real cluster: what works nevertheless, and what a new key mends.

Then a node loses its power, and HeadCNI leaves nodes that are members of the tailnet. The tests build on each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from clusters import made

from fixtures.cluster import Cluster, Node, workload
from fixtures.cluster.released import NAMESPACE, PODS, SYSTEM, Release, encoded

pytestmark = [pytest.mark.peers, pytest.mark.timeout(300)]

REFUSED = "hskey-auth-" + "0" * 12 + "-" + "a" * 64


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    with made(tmp_path_factory.mktemp("cluster")) as cluster:
        release = Release(cluster)
        release.prepare()
        cluster.headscale.auto_approve(PODS)
        release.install(REFUSED)
        cluster.wait_ready()
        yield release


@pytest.fixture(scope="module")
def cluster(release: Release) -> Cluster:
    return release.cluster


@pytest.fixture(scope="module")
def pods(cluster: Cluster) -> dict[str, str]:
    """Two for each node, by their names. The scheduler puts them there, so taints and conditions count."""
    names = {f"{which}{node.name}": node.name for node in cluster.nodes for which in "ab"}
    cluster.create(*(workload.pod(name, nodeSelector={"kubernetes.io/hostname": node}) for name, node in names.items()))
    return {name: next(iter(cluster.wait_running(name).values())) for name in names}


def test_status_and_event_say_that_the_key_is_refused(cluster: Cluster, release: Release) -> None:
    for node in cluster.nodes:
        cluster.wait(lambda n=node: _refused(str(release.status(n)["mesh"])), 30, "the status to say so")
        cluster.wait(lambda n=node: any(map(_refused, _events(cluster, n.name))), 30, "an event to say so")
        assert _refused(release.node_object(node)["metadata"]["annotations"]["headcni.io/mesh"])
        assert REFUSED not in release.log(node)
        assert REFUSED not in str(release.status(node))


def _refused(text: str) -> bool:
    return "does not accept the auth key" in text


def _events(cluster: Cluster, node: str) -> list[str]:
    found: list[dict[str, Any]] = cluster.api.call("GET", "/api/v1/namespaces/default/events")["items"]
    return [each["message"] for each in found if each["involvedObject"]["name"] == node and each["type"] == "Warning"]


def test_the_daemons_are_up_and_pods_run_locally(cluster: Cluster, release: Release, pods: dict[str, str]) -> None:
    """For only a person can give another key, and that is not waited for."""
    for node in cluster.nodes:
        (ready,) = [each for each in release.daemons()[node.name]["status"]["conditions"] if each["type"] == "Ready"]
        assert ready["status"] == "True"
        assert release.node_object(node)["spec"].get("taints", []) == []
        told = release.condition(node, "NetworkUnavailable")
        assert (told["status"], told["reason"]) == ("False", "HeadCNIIsUp")
        assert "on this node only" in told["message"]
        cluster.wait(  # for it changes for a moment when the key is tried again
            lambda n=node: _refused(release.condition(n, "NetworkUnavailable")["message"]),
            30,
            "the condition to say why",
        )
        cluster.exec(f"a{node.name}", "ping", "-c", "2", "-W", "2", pods[f"b{node.name}"])
    assert not _pings(cluster, "an1", pods["an2"])


def test_another_key_is_used_without_a_restart(cluster: Cluster, release: Release, pods: dict[str, str]) -> None:
    daemons = {pod["metadata"]["uid"]: pod["metadata"]["name"] for pod in release.daemons().values()}
    fresh = {"data": {"auth-key": encoded(cluster.headscale.new_auth_key())}}
    path = f"{SYSTEM}/secrets/headcni-headscale"
    cluster.api.call("PATCH", path, fresh, "application/merge-patch+json")
    for each in daemons.values():  # the kubelet brings a changed Secret within a minute or two; so at once
        cluster.kubectl("-n", NAMESPACE, "annotate", "pod", each, "looked-at=now")
    cluster.wait(lambda: all(_in_mesh(release, node) for node in cluster.nodes), 180, "each node to be in the mesh")
    cluster.wait(lambda: _pings(cluster, "an1", pods["an2"]), 20, "packets over the mesh")
    assert {pod["metadata"]["uid"] for pod in release.daemons().values()} == daemons.keys()


def _in_mesh(release: Release, node: Node) -> bool:
    """And its condition does not say any more that its pods are alone."""
    told = release.node_object(node)["metadata"]["annotations"].get("headcni.io/mesh")
    return told == "in force" and "only" not in release.condition(node, "NetworkUnavailable")["message"]


def test_power_is_cut_and_the_pods_come_back(cluster: Cluster, release: Release, pods: dict[str, str]) -> None:
    node = cluster.nodes[0]
    cluster.cut_power(node)
    cluster.boot(node)
    cluster.wait(lambda: all(_restarts(cluster, name) for name in ("an1", "bn1")), 120, "the pods to run again")
    release.wait_up()
    (own,), (there,) = (cluster.wait_running(name).values() for name in ("an1", "an2"))
    assert there == pods["an2"]
    cluster.wait(lambda: _pings(cluster, "an1", there), 30, "packets over the mesh")
    cluster.wait(lambda: _pings(cluster, "an2", own), 30, "packets over the mesh")


def _pings(cluster: Cluster, client: str, address: str) -> bool:
    return ", 0% packet loss" in cluster.exec(client, "sh", "-c", f"ping -c 1 -W 1 {address}; true")


def _restarts(cluster: Cluster, name: str) -> int:
    (pod,) = [each for each in cluster.pods() if each["metadata"]["name"] == name]
    return sum(each["restartCount"] for each in pod["status"].get("containerStatuses", []))


def test_without_the_word_purge_nothing_is_removed_while_pods_run(cluster: Cluster, release: Release) -> None:
    with pytest.raises(RuntimeError, match="headcni-uninstall failed"):
        release.uninstall(purge=False)
    said = cluster.kubectl("-n", NAMESPACE, "logs", "job/headcni-uninstall")
    assert "pods still have their network from HeadCNI" in said
    release.wait_up()
    assert _pings(cluster, "an1", next(iter(cluster.wait_running("an2").values())))


def test_nodes_that_are_members_already_are_the_same_afterwards(
    cluster: Cluster, release: Release, pods: dict[str, str]
) -> None:
    cluster.delete(*map(workload.pod, pods))
    release.uninstall()
    before = {node.name: node.snapshot() for node in cluster.nodes}
    release.install(cluster.headscale.new_auth_key())
    release.wait_up()
    release.uninstall()
    for node in cluster.nodes:
        assert before[node.name].difference(node.snapshot()) == ()
