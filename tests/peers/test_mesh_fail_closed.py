"""Between nodes a pod's packet travels in the mesh or not at all: in each broken state of a real mesh, pods and nodes
try to reach pods of other nodes, and the LAN is watched. Each node has a default route, so without the fence all of
it would be seen there; that is tried, too."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from fixtures.lab import Netns
from fixtures.mesh import CLUSTER, Cluster, MeshSite, Pod
from fixtures.mesh.capture import Clear
from reconciler.mesh.codes import Trouble

pytest_plugins = ("mesh_shared",)
pytestmark = [pytest.mark.peers, pytest.mark.timeout(180)]


def in_clear(cluster: Cluster, senders: dict[Netns, Pod]) -> list[Clear]:
    """What is seen on the LAN while each sender pings its pod, by IPv4 and IPv6, for a second."""
    with cluster.mesh.capture() as lan:
        pings = [
            sender.popen("ping", "-n", "-q", "-i", "0.2", "-c", "5", "-W", "1", target, stdout=subprocess.DEVNULL)
            for sender, pod in senders.items()
            for target in (pod.v4, pod.v6)
        ]
        for ping in pings:
            ping.wait(30)
    assert lan.frames > 0
    return lan.packets


def both_ways(cluster: Cluster, pods: list[Pod]) -> dict[Netns, Pod]:
    one, two, _ = cluster.sites
    a, b = pods[0], pods[2]
    return {a.netns: b, b.netns: a, one.node: b, two.node: a}


class Broken:
    """Each method breaks something on the second node; what it returns mends it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.site = cluster.sites[1]
        self.tailscaled = self.site.tailscaled
        self.headscale = cluster.mesh.headscale

    def tailscaled_stopped(self) -> Callable[[], None]:
        self.tailscaled.stop()
        return self.tailscaled.start

    def tailscaled_killed(self) -> Callable[[], None]:
        self.tailscaled.kill()
        return self.tailscaled.start

    def tailscaled_restarted_without_headscale(self) -> Callable[[], None]:
        self.headscale.kill()
        self.tailscaled.kill()
        self.tailscaled.start()
        self.site.wait_trouble(Trouble.CONTROL_LOST, timeout=10)
        return self.headscale.start

    def prefixes_not_approved(self) -> Callable[[], None]:
        self.headscale.set_policy({})
        self.headscale.disapprove("node2", *self.site.at.pod_cidrs)
        self._wait_dropped()
        return lambda: self.headscale.auto_approve(*CLUSTER)

    def routes_not_accepted_and_no_daemon(self) -> Callable[[], None]:
        self.site.daemon.kill()
        self.tailscaled.edit(RouteAll=False)
        return self._start_daemon

    def all_stopped(self) -> Callable[[], None]:
        """Also the daemon, in its own good order: the fence stays."""
        assert self.site.daemon.stop() == 0
        self.tailscaled.stop()

        def start() -> None:
            self.tailscaled.start()
            self._start_daemon()

        return start

    def key_expired_and_no_daemon(self) -> Callable[[], None]:
        self.site.daemon.kill()
        self.headscale.expire("node2")
        self.tailscaled.wait_state("NeedsLogin")
        return self._start_daemon

    def deleted_and_no_daemon(self) -> Callable[[], None]:
        self.site.daemon.kill()
        self.headscale.delete("node2")
        self._wait_dropped()  # by the others; it itself never learns of it
        return self._start_daemon

    def _wait_dropped(self) -> None:
        other = self.cluster.sites[0]
        other.wait(lambda: not any(map(other.tailscaled.accepts, self.site.at.pod_cidrs)), 10, "its routes are gone")

    def _start_daemon(self) -> None:
        self.site.daemon.start()
        self.site.daemon.wait_ready()


STATES = [name for name in vars(Broken) if not name.startswith("_")]


@pytest.mark.parametrize("state", STATES)
def test_nothing_leaves_in_clear(cluster: Cluster, pods: list[Pod], state: str) -> None:
    mend = getattr(Broken(cluster), state)()
    try:
        assert in_clear(cluster, both_ways(cluster, pods)) == []
    finally:
        mend()


def test_nothing_leaves_in_clear_while_it_breaks_and_mends(cluster: Cluster, pods: list[Pod]) -> None:
    """Also in the instants in which tailscaled takes its routes away and puts them back."""
    one, two, _ = cluster.sites
    a, b = pods[0], pods[2]
    with cluster.mesh.capture() as lan:
        flood = [
            pod.netns.popen("ping", "-n", "-q", "-i", "0.01", other.v4, stdout=subprocess.DEVNULL)
            for pod, other in ((a, b), (b, a))
        ]
        for end in (one.tailscaled.stop, one.tailscaled.kill):
            end()
            one.tailscaled.start()
            one.tailscaled.wait_accepts(two.at.pod_cidr)
        for ping in flood:
            ping.kill()
            ping.wait()
    assert lan.packets == []


@pytest.mark.parametrize("fenced", [True, False])
def test_a_node_that_never_joined(cluster: Cluster, pods: list[Pod], fenced: bool, tmp_path: Path) -> None:
    """And what the fence is for: without it, the same packets are on the LAN."""
    mesh = cluster.mesh
    last = MeshSite(mesh, mesh.nodes[3], "--fail-closed" if fenced else "--no-fail-closed")
    with last:
        pod = last.new_pod("a")
        seen = in_clear(cluster, {pod.netns: pods[0], last.node: pods[2]})
        last.wait_trouble(Trouble.NOT_JOINED)
        last.drop_pod("a")
    if fenced:
        assert seen == []
    else:
        assert {(pod.v4, pods[0].v4), (pod.v6, pods[0].v6)} <= {(each.source, each.target) for each in seen}
