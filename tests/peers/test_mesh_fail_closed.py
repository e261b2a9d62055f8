"""Between nodes a pod's packet travels in the mesh or not at all: in each broken state of a real mesh, pods and nodes
try to reach pods of other nodes, and the LAN is watched. Each node has a default route, so without the fence all of
it would be seen there; that is tried, too."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from meshes import source_seen

from fixtures.lab import Netns
from fixtures.mesh import CLUSTER, Cluster, MeshSite, Pod
from fixtures.mesh.capture import Clear
from reconciler.mesh.codes import Trouble

pytestmark = [pytest.mark.peers, pytest.mark.timeout(180)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes in the mesh; of the third nothing runs but its tailscaled."""
    with Cluster(tmp_path_factory.mktemp("mesh"), nodes=3, without=("node3",)) as running:
        running.wait_whole()
        yield running
        assert running.errors() == []


@pytest.fixture(scope="module")
def pods(cluster: Cluster) -> list[Pod]:
    return [site.new_pod("a") for site in cluster.sites]


def in_clear(cluster: Cluster, senders: dict[Netns, Pod]) -> list[Clear]:
    """What is seen on the LAN while each sender pings its pod, by IPv4 and IPv6, for two seconds."""
    with cluster.mesh.capture() as lan:
        pings = [
            sender.popen("ping", "-n", "-q", "-i", "0.2", "-c", "10", "-W", "1", target, stdout=subprocess.DEVNULL)
            for sender, pod in senders.items()
            for target in (pod.v4, pod.v6)
        ]
        for ping in pings:
            ping.wait(30)
    assert lan.frames > 0
    return lan.packets


def both_ways(cluster: Cluster, pods: list[Pod]) -> dict[Netns, Pod]:
    one, two = cluster.sites
    a, b = pods
    return {a.netns: b, b.netns: a, one.node: b, two.node: a}


class Broken:
    """Each method breaks something; what it returns mends it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.one = cluster.sites[0]
        self.tailscaled = self.one.tailscaled
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
        self.one.wait_trouble(Trouble.CONTROL_LOST, timeout=10)
        return self.headscale.start

    def prefixes_not_approved(self) -> Callable[[], None]:
        self.headscale.set_policy({})
        self.headscale.disapprove("node1", *self.one.at.pod_cidrs)
        two = self.cluster.sites[1]
        two.wait(lambda: not any(map(two.tailscaled.accepts, self.one.at.pod_cidrs)), 10, "its routes are gone")
        return lambda: self.headscale.auto_approve(*CLUSTER)

    def routes_not_accepted_and_no_daemon(self) -> Callable[[], None]:
        self.one.daemon.kill()
        self.tailscaled.edit(RouteAll=False)
        return self._start_daemon

    def all_stopped(self) -> Callable[[], None]:
        """Also the daemon, in its own good order: the fence stays."""
        assert self.one.daemon.stop() == 0
        self.tailscaled.stop()

        def start() -> None:
            self.tailscaled.start()
            self._start_daemon()

        return start

    def key_expired_and_no_daemon(self) -> Callable[[], None]:
        self.one.daemon.kill()
        self.headscale.expire("node1")
        self.tailscaled.wait_state("NeedsLogin")
        return self._start_daemon

    def deleted_and_no_daemon(self) -> Callable[[], None]:
        self.one.daemon.kill()
        self.headscale.delete("node1")
        time.sleep(1.5)  # until the others have dropped it; it itself never learns of it
        return self._start_daemon

    def _start_daemon(self) -> None:
        self.one.daemon.start()
        self.one.daemon.wait_ready()


STATES = [name for name in vars(Broken) if not name.startswith("_")]


@pytest.mark.parametrize("state", STATES)
def test_nothing_leaves_in_clear(cluster: Cluster, pods: list[Pod], state: str) -> None:
    mend = getattr(Broken(cluster), state)()
    try:
        assert in_clear(cluster, both_ways(cluster, pods)) == []
    finally:
        mend()
    cluster.wait_whole(60)
    assert source_seen(pods[0].netns, pods[1].netns, pods[1].v4) == pods[0].v4


def test_nothing_leaves_in_clear_while_it_breaks_and_mends(cluster: Cluster, pods: list[Pod]) -> None:
    """Also in the instants in which tailscaled takes its routes away and puts them back."""
    one, _ = cluster.sites
    a, b = pods
    with cluster.mesh.capture() as lan:
        flood = [
            pod.netns.popen("ping", "-n", "-q", "-i", "0.01", other.v4, stdout=subprocess.DEVNULL)
            for pod, other in ((a, b), (b, a))
        ]
        for end in (one.tailscaled.stop, one.tailscaled.kill):
            end()
            one.tailscaled.start()
            one.tailscaled.wait_accepts(cluster.sites[1].at.pod_cidr)
        for ping in flood:
            ping.kill()
            ping.wait()
    assert lan.packets == []
    cluster.wait_whole(60)


@pytest.mark.parametrize("fenced", [True, False])
def test_a_node_that_never_joined(cluster: Cluster, pods: list[Pod], fenced: bool, tmp_path: Path) -> None:
    """And what the fence is for: without it, the same packets are on the LAN."""
    mesh = cluster.mesh
    third = MeshSite(mesh, mesh.nodes[2], "--fail-closed" if fenced else "--no-fail-closed")
    with third:
        pod = third.new_pod("a")
        seen = in_clear(cluster, {pod.netns: pods[0], third.node: pods[1]})
        third.wait_trouble(Trouble.NOT_JOINED)
        third.drop_pod("a")
    if fenced:
        assert seen == []
    else:
        assert {(pod.v4, pods[0].v4), (pod.v6, pods[0].v6)} <= {(each.source, each.target) for each in seen}
