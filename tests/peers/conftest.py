"""What every test of this tier shares. A machine that cannot run it says why, and fails where it must run."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from box import Box
from headcni import REPOSITORY, HeadCni

from fixtures.cluster import groups
from fixtures.peers import MissingPeer, find
from fixtures.peers.catalogue import PEERS
from fixtures.peers.system import SYSTEM_PACKAGES, MissingTool, need


@pytest.fixture(scope="session", autouse=True)
def _can_run_here() -> None:
    if os.geteuid() != 0:
        _cannot_run("needs root")
    try:
        need(*SYSTEM_PACKAGES)
        for name in PEERS:
            find(name)
    except (MissingTool, MissingPeer) as missing:
        _cannot_run(str(missing))


def _cannot_run(why: str) -> NoReturn:
    if os.environ.get("CI") == "true" or os.environ.get("HEADCNI_REQUIRE_PEERS") == "1":
        pytest.exit(f"the peers tier cannot run here: {why}", returncode=1)
    pytest.skip(f"the peers tier cannot run here: {why}")


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the plugin as `make install` makes it."""
    target = tmp_path_factory.mktemp("installed")
    subprocess.run(["make", "--silent", "install", f"DESTDIR={target}"], cwd=REPOSITORY, check=True)
    return target / "opt/cni/bin"


@pytest.fixture
def version_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The root of control groups of version 2, for whatever is made of groups meanwhile."""
    root = tmp_path / "cgroup"
    root.mkdir()
    subprocess.run(("mount", "-t", "cgroup2", "cgroup2", str(root)), check=True)
    monkeypatch.setattr(groups, "ROOT", root)
    yield root
    subprocess.run(("umount", str(root)), check=True)


@pytest.fixture
def box() -> Iterator[Box]:
    with Box() as made:
        yield made


@pytest.fixture
def headcni(box: Box, installed: Path) -> HeadCni:
    """With its daemon running, and no network configured yet."""
    made = HeadCni(box, installed)
    made.start()
    return made
