"""HeadCNI with its approver, in a real cluster: only two pods have a key of Headscale's API, and one of them works."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from clusters import made

from fixtures.cluster import Cluster
from fixtures.cluster.released import NAMESPACE, SYSTEM, Release

pytestmark = [pytest.mark.peers, pytest.mark.timeout(300)]

LEASE = f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/headcni-approver"
APPROVERS = f"{SYSTEM}/pods?labelSelector=app.kubernetes.io/component%3Dapprover"


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    with made(tmp_path_factory.mktemp("cluster")) as cluster:
        release, headscale = Release(cluster), cluster.headscale
        release.prepare()
        release.install(headscale.new_auth_key(), headscale.new_api_key(), mesh={"approval": "approver"})
        release.wait_up(120)
        yield release


@pytest.fixture(scope="module")
def cluster(release: Release) -> Cluster:
    return release.cluster


def approved(cluster: Cluster) -> dict[str, set[str]]:
    return {node.name: set(cluster.headscale.node(node.name).approved) for node in cluster.nodes}


def own(cluster: Cluster) -> dict[str, set[str]]:
    return {node.name: {cluster.pod_cidr(node)} for node in cluster.nodes}


def approvers(cluster: Cluster) -> dict[str, dict[str, Any]]:
    return {pod["metadata"]["name"]: pod for pod in cluster.api.call("GET", APPROVERS)["items"]}


def one_that_works(cluster: Cluster) -> str:
    """As the node in the Lease says: each has one of them, and they have its host name."""
    node = cluster.api.call("GET", LEASE)["spec"]["holderIdentity"].partition("_")[0]
    (name,) = [name for name, pod in approvers(cluster).items() if pod["spec"]["nodeName"] == node]
    return name


def test_each_node_gets_what_kubernetes_gave_it(cluster: Cluster) -> None:
    """Its policy approves nothing."""
    assert approved(cluster) == own(cluster)


def test_no_daemon_has_the_key(release: Release) -> None:
    for pod in release.daemons().values():
        secrets = [each["secret"] for each in pod["spec"]["volumes"] if "secret" in each]
        assert [item["key"] for each in secrets for item in each["items"]] == ["auth-key"]


def test_a_node_that_claims_more_gets_no_more(cluster: Cluster) -> None:
    first, second = cluster.nodes
    claimed = f"{cluster.pod_cidr(first)},{cluster.pod_cidr(second)},192.168.7.0/24"
    first.run("tailscale", "set", f"--advertise-routes={claimed}")
    cluster.wait(lambda: len(cluster.headscale.node(first.name).announced) == 3, 30, "Headscale to hear of it")
    cluster.headscale.disapprove(second.name, cluster.pod_cidr(second))
    cluster.wait(lambda: approved(cluster)[second.name], 60, "the approver to have looked again")
    assert approved(cluster) == own(cluster)


def test_the_other_one_takes_over(cluster: Cluster) -> None:
    assert len(approvers(cluster)) == 2
    gone, node = one_that_works(cluster), cluster.nodes[0]
    before = cluster.api.call("GET", LEASE)["spec"]["holderIdentity"]
    cluster.kubectl("-n", NAMESPACE, "delete", "pod", gone, "--grace-period=0", "--force")
    cluster.headscale.disapprove(node.name, cluster.pod_cidr(node))
    cluster.wait(lambda: approved(cluster) == own(cluster), 90, "another approver")
    assert cluster.api.call("GET", LEASE)["spec"]["holderIdentity"] != before
