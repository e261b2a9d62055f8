"""Where a cluster can be and where it cannot, what is said then, and control groups of version 2.

A kubelet needs controllers, and a machine has each of them in one version only. So of version 2 only what we do
with it is run here: places come up in it, hand on what there is, and end.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from clusters import made

from fixtures.cluster import Cluster, ClusterError, groups
from fixtures.cluster.folder import down, unavailable
from fixtures.cluster.groups import Groups
from fixtures.cluster.place import Place, Service
from fixtures.lab import Lab

pytestmark = [pytest.mark.peers, pytest.mark.timeout(60)]


def test_a_folder_with_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "letter").write_text("dear")
    with pytest.raises(ClusterError, match="is not empty"):
        Cluster(tmp_path).up()
    down(tmp_path)
    assert (tmp_path / "letter").read_text() == "dear"


@pytest.mark.parametrize("name", ["/var/lib/cluster", "/run/cluster", "/tmp/a:b", "/tmp/a b", f"/tmp/{'a' * 80}"])
def test_a_folder_that_a_node_could_not_use_is_refused_and_named(name: str) -> None:
    assert name in unavailable(Path(name))
    assert not Path(name).exists()


@pytest.mark.parametrize(("required", "ends"), [("1", pytest.fail.Exception), ("", pytest.skip.Exception)])
def test_a_machine_without_controllers_fails_where_the_tier_must_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, required: str, ends: type[BaseException]
) -> None:
    monkeypatch.setenv("HEADCNI_REQUIRE_PEERS", required)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(groups, "ROOT", tmp_path)
    with pytest.raises(ends, match=r"not mounted: cpu, cpuset, memory, pids"), made(tmp_path / "cluster"):
        pass


def test_version_2_without_controllers_names_the_cure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "ROOT", tmp_path)
    (tmp_path / "cgroup.controllers").touch()
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory pids\n")
    assert "echo +cpuset > " in groups.why_not()
    (tmp_path / "cgroup.subtree_control").write_text("cpu cpuset io memory pids\n")
    assert groups.why_not() == ""


@contextlib.contextmanager
def a_place(folder: Path) -> Iterator[Place]:
    own = Groups(folder, os.getpid())
    place = Place(SimpleNamespace(processes=[]), "there", "192.0.2.1", folder / "there", own)
    try:
        yield place
    finally:
        own.end()
        place.bury()


def test_a_place_does_not_hold_namespaces_that_the_machine_has_named(tmp_path: Path) -> None:
    """Else they and their links would live as long as the place, whoever deletes them."""
    with Lab(1), a_place(tmp_path) as place:
        assert " - nsfs " in Path("/proc/self/mountinfo").read_text()
        place.boot({}, lambda: None)
        assert " - nsfs " not in place.run("cat", "/proc/self/mountinfo")


def test_a_place_in_control_groups_of_version_2(tmp_path: Path, version_2: Path) -> None:
    with a_place(tmp_path) as place:
        for _ in range(2):
            place.boot({"idle": Service(("/bin/sleep", "1000"))}, lambda: None)
            place.start("idle")
            place.run("mkdir", "/sys/fs/cgroup/pods")
            assert place.run("cat", "/proc/self/cgroup").splitlines()[-1] == "0::/init"
            (group,) = version_2.glob(f"{groups.PREFIX}*/there")
            assert (group / "cgroup.procs").read_text() == ""
            assert (group / "cgroup.subtree_control").read_text() == (group / "cgroup.controllers").read_text()
            place.cut_power()
            assert not group.exists()
    assert list(version_2.glob(f"{groups.PREFIX}*")) == []
