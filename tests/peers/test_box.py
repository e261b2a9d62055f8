"""What a box (box.py) is itself: it holds nothing of the machine, and ends whole. What runs in it has its own tests.

A kubelet needs controllers, and a machine has each of them in one version of control groups only; so of version 2 it is
only seen here that programs run in it, and that it goes.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from box import Box

from fixtures.cluster import groups
from fixtures.lab import Lab

pytestmark = pytest.mark.peers

MOUNTS = "/proc/self/mountinfo"


def test_it_does_not_hold_namespaces_that_the_machine_has_named() -> None:
    """Else they and their links would live as long as the box, whoever deletes them."""
    with Lab(1), Box() as box:
        assert " - nsfs " in Path(MOUNTS).read_text()
        assert " - nsfs " not in box.run("cat", MOUNTS).stdout


def test_in_control_groups_of_version_2_programs_are_below_the_group_that_hands_on(version_2: Path) -> None:
    with Box() as box:
        assert box.start("idle", "sleep", "1000").alive()
        box.run("mkdir", "/sys/fs/cgroup/pods")
        (group,) = version_2.glob(f"{groups.PREFIX}*/box")
        assert (group / "cgroup.procs").read_text() == ""
        assert len((group / "init/cgroup.procs").read_text().split()) >= 3
        assert (group / "cgroup.subtree_control").read_text() == (group / "cgroup.controllers").read_text()
    assert list(version_2.glob(f"{groups.PREFIX}*")) == []
