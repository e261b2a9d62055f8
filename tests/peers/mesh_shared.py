"""One mesh of three nodes for all tests that leave it as they found it: a pytest plugin of the modules that name it.

node1 was joined by hand and is an exit node and a subnet router besides; the daemons joined node2 and node3; node4 has
a tailscaled and nothing else. After each test the mesh must be whole again, and what others announce as it was; else
that test fails, and the next one gets a new mesh.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from meshes import ADDS, FOREIGN, eventually, median, wrong_pairs

from fixtures.mesh import Cluster, Pod


class SharedMesh:
    def __init__(self, directories: pytest.TempPathFactory) -> None:
        self._directories = directories
        self._cluster: Cluster | None = None
        self._ending = ExitStack()
        self._impossible = False
        self.pods: list[Pod] = []  # two on each node
        self.usual_add = 0.0  # median seconds

    def get(self) -> Cluster:
        """One that could not be made is not tried again: each test would wait for the same."""
        assert not self._impossible, "no mesh could be made for an earlier test"
        if self._cluster is None:
            self._impossible = True
            with ExitStack() as undo:
                self._cluster = undo.enter_context(self._new())
                undo.callback(self._forget)
                self._prepare(self._cluster)
                self._ending = undo.pop_all()
            self._impossible = False
        return self._cluster

    def end(self) -> None:
        self._ending.close()

    def _new(self) -> Cluster:
        work_dir = self._directories.mktemp("mesh")
        return Cluster(work_dir, nodes=4, by_hand=("node1",), without=("node4",), magic_dns=True)

    def _forget(self) -> None:
        self._cluster = None

    def _prepare(self, cluster: Cluster) -> None:
        one, headscale = cluster.sites[0], cluster.mesh.headscale
        cluster.wait_whole()  # while it approves by its policy, Headscale loses what is approved by hand
        one.tailscaled.announce(*FOREIGN, *one.tailscaled.announced)
        eventually(lambda: set(FOREIGN) <= headscale.node("node1").announced, "Headscale knows of them", 30)
        headscale.approve("node1", *FOREIGN)
        cluster.wait_whole()
        self.usual_add = median(one.timed_adds(ADDS))
        self.pods = [site.new_pod(f"{site.at.name}{which}") for site in cluster.sites for which in "ab"]

    def check(self) -> None:
        cluster = self.get()
        cluster.wait_whole()
        assert wrong_pairs(self.pods[::2]) == []
        one, *others = cluster.sites
        assert [each for each in one.tailscaled.announced if each in FOREIGN] == list(FOREIGN)
        assert set(one.tailscaled.announced) == {*FOREIGN, *one.at.pod_cidrs}
        assert set(FOREIGN) <= cluster.mesh.headscale.node("node1").approved
        for other in others:
            assert set(other.tailscaled.announced) == set(other.at.pod_cidrs)
        assert cluster.errors() == []


@pytest.fixture(scope="session")
def shared_mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedMesh]:
    made = SharedMesh(tmp_path_factory)
    try:
        yield made
    finally:
        made.end()


@pytest.fixture
def cluster(shared_mesh: SharedMesh) -> Iterator[Cluster]:
    yield shared_mesh.get()
    try:
        shared_mesh.check()
    except BaseException:
        shared_mesh.end()
        raise


@pytest.fixture
def pods(cluster: Cluster, shared_mesh: SharedMesh) -> list[Pod]:
    """Two on each node, in the order of the nodes."""
    return shared_mesh.pods


@pytest.fixture
def usual_add(cluster: Cluster, shared_mesh: SharedMesh) -> float:
    return shared_mesh.usual_add
