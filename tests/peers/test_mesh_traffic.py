"""Three nodes, two pods on each, over the real mesh: everybody reaches everybody under the sender's own address,
directly and by the relay, and nothing of it is on the LAN in clear."""

from __future__ import annotations

import pytest
from meshes import FOREIGN, eventually, source_seen, transferred, wrong_pairs

from fixtures.mesh import Cluster, Pod
from reconciler.mesh.codes import Trouble

pytest_plugins = ("mesh_shared",)
pytestmark = [pytest.mark.peers, pytest.mark.timeout(180)]


def test_every_pod_reaches_every_other_under_its_own_address(cluster: Cluster, pods: list[Pod]) -> None:
    with cluster.mesh.capture() as lan:
        assert wrong_pairs(pods) == []
    assert lan.packets == []


def test_a_way_is_shown_as_direct_when_it_is(cluster: Cluster, pods: list[Pod]) -> None:
    one, two, _ = cluster.sites
    direct = f"direct {two.node.address}:41641"

    def shown() -> bool:
        source_seen(pods[0].netns, pods[2].netns, pods[2].v4)
        return {way["path"] for way in one.view()["ways"] if way["prefix"] in two.at.pod_cidrs} == {direct}

    eventually(shown, f"a way that is {direct}: {one.view()['ways']}", 30)


def test_the_same_by_the_relay(cluster: Cluster, pods: list[Pod]) -> None:
    one, *_ = cluster.sites
    with cluster.mesh.relay_only():
        with cluster.mesh.capture() as lan:
            assert wrong_pairs(pods[::2]) == []
        assert lan.packets == []
        assert 'relay "lab"' in one.tailscaled.cli("status")
        one.wait(lambda: {way["path"] for way in one.view()["ways"]} == {"relay lab"}, 5, "the view says so")


def test_a_node_and_a_pod_of_another_node_reach_each_other(cluster: Cluster, pods: list[Pod]) -> None:
    """A node is no pod: what goes there is masqueraded like all that leaves the pods' network."""
    one, two, _ = cluster.sites
    pod = pods[2]
    assert source_seen(one.node, pod.netns, pod.v4) == one.tailscaled.address
    assert source_seen(pod.netns, one.node, one.tailscaled.address) == two.tailscaled.address


def test_large_transfers_pass(pods: list[Pod]) -> None:
    assert transferred(pods[0], pods[2], 1 << 20) == 1 << 20


def test_pods_have_the_mtu_of_the_mesh(cluster: Cluster, pods: list[Pod]) -> None:
    device = cluster.sites[0].view()["device"]
    assert f"mtu {device['mtu']} " in cluster.sites[0].node.run("ip", "link", "show", device["name"])
    assert f"mtu {device['mtu']} " in pods[0].netns.run("ip", "link", "show", "eth0")


def test_headscale_agrees_with_what_the_daemons_say(cluster: Cluster) -> None:
    serving = {node.name: node.serving - set(FOREIGN) for node in cluster.mesh.headscale.nodes()}
    assert serving == {site.at.name: set(site.at.pod_cidrs) for site in cluster.sites}
    for site in cluster.sites:
        others = [prefix for other in cluster.sites if other is not site for prefix in other.at.pod_cidrs]
        assert all(map(site.tailscaled.accepts, others))
    assert [list(site.troubles()) for site in cluster.sites] == [[Trouble.PREFERENCE], [], []], "node1 is an exit node"
