"""What goes wrong with a mesh, done to a real one of three nodes: what the daemon shows is true within five seconds,
what can heal heals by itself, and pods are added as fast as before. That what others announce stays byte for byte, and
that all is whole in the end, is checked after each of them (mesh_shared.py).
"""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
from meshes import ADDS, eventually, median, pinging_each_other, source_seen, wrong_pairs

from fixtures.mesh import HEALED, Cluster, MeshSite, Pod
from fixtures.processes import REPOSITORY
from reconciler.mesh.codes import Trouble

pytest_plugins = ("mesh_shared",)
pytestmark = [pytest.mark.peers, pytest.mark.timeout(180)]

SHOWN = 5.0  # seconds from the real state to the shown one


def adds_are_as_fast(site: MeshSite, usual_add: float, record: pytest.FixtureRequest) -> None:
    """A whole multiple would be a wait for something; less is the noise of a shared machine."""
    ratio = median(site.timed_adds(ADDS)) / usual_add
    record.node.user_properties.append(("add_p50_ratio", round(ratio, 2)))
    assert ratio < 3


def test_headscale_is_away_for_a_while(
    cluster: Cluster, pods: list[Pod], usual_add: float, request: pytest.FixtureRequest
) -> None:
    one, *_ = cluster.sites
    headscale = cluster.mesh.headscale
    with pinging_each_other(pods[0], pods[2]) as both:
        headscale.kill()
        began = time.monotonic()
        for site in cluster.sites:
            site.wait_trouble(Trouble.CONTROL_LOST, timeout=SHOWN)
        adds_are_as_fast(one, usual_add, request)
        time.sleep(max(0.0, 20 - (time.monotonic() - began)))  # the outage itself is what is tested
        for site in cluster.sites:
            assert Trouble.CONTROL_LOST in site.troubles()
        headscale.start()
        for site in cluster.sites:
            site.wait(lambda s=site: Trouble.CONTROL_LOST not in s.troubles(), HEALED, "Headscale is found again")
    assert max(each.longest_gap for each in both) <= 2, "pods that talk go on talking"


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_tailscaled_ends_and_comes_back(
    cluster: Cluster, pods: list[Pod], usual_add: float, request: pytest.FixtureRequest, how: str
) -> None:
    one, *_ = cluster.sites
    getattr(one.tailscaled, how)()
    one.wait_trouble(Trouble.TAILSCALED_UNREACHABLE, timeout=SHOWN)
    one.wait(lambda: one.view()["state"] == "unreachable" and not one.in_force, SHOWN, "it is shown as down")
    adds_are_as_fast(one, usual_add, request)
    assert source_seen(pods[0].netns, pods[1].netns, pods[1].v4) == pods[0].v4, "pods of one node need no mesh"
    one.tailscaled.start()
    one.wait_in_force()
    assert Trouble.TAILSCALED_UNREACHABLE not in one.troubles()
    assert source_seen(pods[2].netns, pods[0].netns, pods[0].v4) == pods[2].v4


def test_tailscaled_is_restarted_while_headscale_is_away(
    cluster: Cluster, pods: list[Pod], usual_add: float, request: pytest.FixtureRequest
) -> None:
    """The one outage that cuts pods off: it is shown as what it is, and ends by itself."""
    one, *_ = cluster.sites
    cluster.mesh.headscale.kill()
    one.tailscaled.kill()
    one.tailscaled.start()
    one.wait_trouble(Trouble.CONTROL_LOST, cluster.mesh.headscale.url, timeout=SHOWN)
    one.wait(lambda: not one.in_force, SHOWN, "its prefixes are not in force")
    adds_are_as_fast(one, usual_add, request)
    assert source_seen(pods[0].netns, pods[1].netns, pods[1].v4) == pods[0].v4
    cluster.mesh.headscale.start()
    one.wait_in_force()


def test_a_node_is_deleted_in_headscale(cluster: Cluster) -> None:
    """It believes itself Running, and so does its tailscaled; it finds out, and joins again."""
    *_, three = cluster.sites
    before = cluster.mesh.headscale.node("node3").id
    cluster.mesh.headscale.delete("node3")
    three.wait(lambda: not three.in_force, 2 * SHOWN, "node3 is no longer in force")  # four on a quiet machine
    three.wait(lambda: three.log_lines(f"code={Trouble.NODE_DELETED:d}"), HEALED, "it says that it was deleted")
    three.wait_in_force()
    eventually(lambda: cluster.mesh.headscale.node("node3").id != before, "a new node in Headscale", 5)


def test_a_key_expires(cluster: Cluster) -> None:
    *_, three = cluster.sites
    cluster.mesh.headscale.expire("node3")
    three.wait(lambda: three.log_lines(f"code={Trouble.KEY_EXPIRED:d}"), SHOWN, "it says that its key expired")
    three.wait_in_force()
    assert three.tailscaled.status()["BackendState"] == "Running"


def test_a_prefix_is_unapproved_by_hand(cluster: Cluster) -> None:
    """With autoApprovers, announcing again has it approved again."""
    *_, three = cluster.sites
    prefix = three.at.pod_cidr
    cluster.mesh.headscale.disapprove("node3", prefix)
    three.wait(lambda: three.links(prefix).get("serving") == "no", SHOWN, "it is shown as not serving")
    assert {Trouble.NOT_APPROVED, Trouble.NOT_PRIMARY} & set(three.troubles())
    eventually(lambda: prefix in cluster.mesh.headscale.node("node3").serving, "it is served again", 60)


@pytest.mark.parametrize(
    ("name", "value"), [("RouteAll", False), ("NoSNAT", False), ("NoStatefulFiltering", False), ("ShieldsUp", True)]
)
def test_a_preference_is_turned_back(cluster: Cluster, name: str, value: bool) -> None:
    _, two, _ = cluster.sites
    two.tailscaled.edit(**{name: value})
    eventually(lambda: two.tailscaled.prefs()[name] != value, f"{name} is set again", SHOWN)
    eventually(lambda: any(name in line for line in two.view()["log"]), f"it is told of {name}", SHOWN)


def test_somebody_turns_a_preference_back_again_and_again(cluster: Cluster, pods: list[Pod]) -> None:
    """Two programs that undo each other would cut the pods off with each stroke: it is told, and left."""
    *_, three = cluster.sites

    def is_answered() -> bool:
        return not three.tailscaled.prefs()["CorpDNS"] or Trouble.PREFERENCE in three.troubles()

    for _ in range(5):
        three.tailscaled.edit(CorpDNS=True)
        eventually(is_answered, "it is set again, or given up", SHOWN)
        if Trouble.PREFERENCE in three.troubles():
            break
    three.wait_trouble(Trouble.PREFERENCE, "CorpDNS", timeout=SHOWN)
    time.sleep(3)  # that it is left alone is shown by nothing happening
    assert three.tailscaled.prefs()["CorpDNS"] is True
    repair = (sys.executable, "-m", "reconciler.operate.cli", "mesh", "repair", "--state-dir", str(three.state_dir))
    subprocess.run(three.node.command(*repair), cwd=REPOSITORY, check=True, timeout=30, capture_output=True)
    eventually(lambda: three.tailscaled.prefs()["CorpDNS"] is False, "an operator's word counts", SHOWN)


def test_another_node_announces_the_pods_of_all_nodes(cluster: Cluster, pods: list[Pod]) -> None:
    """Without the guard, table 52 would lead the node's own pods away."""
    one, two, _ = cluster.sites
    own = two.tailscaled.announced
    two.tailscaled.announce(*own, "10.244.0.0/16")
    one.tailscaled.wait_accepts("10.244.0.0/16")
    one.wait_trouble(Trouble.CIDR_CONFLICT, "node2", "10.244.0.0/16", timeout=SHOWN)
    assert wrong_pairs(pods[:3]) == []
    two.tailscaled.announce(*own)
    one.wait(lambda: Trouble.CIDR_CONFLICT not in one.troubles(), 15, "the conflict is over")


def test_two_nodes_have_the_same_prefix(cluster: Cluster, pods: list[Pod]) -> None:
    """The other takes it over: who has it is told, and this node's pods still reach each other."""
    one, _, three = cluster.sites
    prefix, own = one.at.pod_cidr, three.tailscaled.announced
    three.tailscaled.announce(*own, prefix)
    eventually(lambda: prefix in cluster.mesh.headscale.node("node3").approved, "node3's is approved, too", 10)
    cluster.mesh.headscale.disapprove("node1", prefix)
    one.tailscaled.wait_accepts(prefix)
    one.wait_trouble(Trouble.NOT_PRIMARY, "node3", prefix, timeout=SHOWN)
    one.wait_trouble(Trouble.CIDR_CONFLICT, "node3", prefix, timeout=SHOWN)
    assert source_seen(pods[0].netns, pods[1].netns, pods[1].v4) == pods[0].v4
    three.tailscaled.announce(*own)
    eventually(lambda: prefix in cluster.mesh.headscale.node("node1").serving, "node1 has it again", 60)


def test_a_route_is_deleted_from_tailscaleds_table(cluster: Cluster) -> None:
    """tailscaled never restores it by itself. It is missed with the next look of all, each half minute."""
    one, two, _ = cluster.sites
    one.node.run("ip", "route", "del", two.at.pod_cidr, "table", "52")
    one.tailscaled.wait_accepts(two.at.pod_cidr, timeout=45)


def test_tailscale_is_taken_down_by_hand(cluster: Cluster) -> None:
    *_, three = cluster.sites
    three.tailscaled.cli("down")
    eventually(lambda: three.tailscaled.status()["BackendState"] == "Running", "it is up again", 10)
    three.wait_in_force()


def test_the_daemon_is_killed_and_comes_back(cluster: Cluster, pods: list[Pod]) -> None:
    one, *_ = cluster.sites
    with pinging_each_other(pods[0], pods[2]) as both:
        one.daemon.kill()
        one.daemon.start()
        one.daemon.wait_ready()
        one.wait_in_force()
    assert max(each.longest_gap for each in both) <= 0.4
