"""Each generation of Headscale's API, for real: one node is approved by the policy, the other by its API key."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from meshes import eventually, wrong_pairs

from fixtures.mesh import VERSIONS, Cluster

pytestmark = [pytest.mark.peers, pytest.mark.timeout(180)]

OF_NODE1 = ("10.244.1.0/24", "fd00:10:244:1::/64")
FOREIGN = "172.30.0.0/24"


@pytest.fixture(scope="module", params=VERSIONS)
def cluster(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    work_dir = tmp_path_factory.mktemp("mesh")
    with Cluster(work_dir, nodes=2, version=request.param, prefixes=OF_NODE1, by_key=("node2",)) as running:
        running.wait_whole(60)
        yield running
        assert running.errors() == []


def test_both_join_and_are_in_force(cluster: Cluster) -> None:
    pods = [site.new_pod("a") for site in cluster.sites]
    assert wrong_pairs(pods) == []
    known = {node.name: node for node in cluster.mesh.headscale.nodes()}
    for site in cluster.sites:
        assert known[site.at.name].serving == set(site.at.pod_cidrs)
        assert site.troubles() == {}


def test_a_foreign_route_is_neither_withdrawn_nor_approved(cluster: Cluster) -> None:
    """The key may approve everything; it is used for the pod CIDRs."""
    two = cluster.sites[1]
    two.tailscaled.announce(FOREIGN, *two.tailscaled.announced)
    headscale = cluster.mesh.headscale
    eventually(lambda: FOREIGN in headscale.node("node2").announced, "Headscale knows of it", 15)
    two.wait(lambda: FOREIGN in two.view()["foreign"], 5, "the view says that it is foreign")
    cluster.wait_whole(60)
    assert headscale.node("node2").approved == set(two.at.pod_cidrs)
    headscale.approve("node2", FOREIGN)
    assert two.tailscaled.announced[0] == FOREIGN


def test_an_unapproval_by_hand_is_healed_with_the_key(cluster: Cluster, record_property: Any) -> None:
    two, headscale = cluster.sites[1], cluster.mesh.headscale
    if headscale.version == "0.22":
        pytest.skip("0.22 goes on sending to the others what is disabled by hand")
    prefix = two.at.pod_cidr
    headscale.disapprove("node2", prefix)
    took = eventually(lambda: prefix in headscale.node("node2").serving, "it is approved again", 45)
    record_property("healed_after_seconds", round(took, 1))
    cluster.wait_whole(60)
    assert FOREIGN in headscale.node("node2").approved, "what others approved stays"
