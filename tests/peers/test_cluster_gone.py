"""A cluster goes without a trace: by `down`, when `up` was killed at any instant, and when its owner was killed.

The machine is compared with what it was: links, routes, rules and sysctls, mounts, control groups, files at the paths
that a node uses, processes. Other tests may run beside, so of mounts only the kinds that a cluster makes are looked at.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clusters import made, require
from headcni import REPOSITORY

from fixtures import snapshot
from fixtures.cluster import groups, workload
from fixtures.cluster.folder import down
from fixtures.cluster.groups import Groups
from fixtures.cluster.node import HIDDEN

pytestmark = [pytest.mark.peers, pytest.mark.timeout(180)]

SYSCTLS = ("vm/*", "kernel/panic*", "kernel/keys/*", "kernel/hostname")
PATHS = (*HIDDEN, "/etc/hostname", "/etc/hosts", "/etc/machine-id", "/etc/resolv.conf", "/run/containerd", "/run/home")
KINDS_OF_MOUNTS = (" - overlay ", " - cgroup ", " - cgroup2 ", " - nsfs ")
WHOLE = 6.0  # seconds that `up` takes, about: instants are chosen within
INSTANTS = 8


def machine() -> dict[str, Any]:
    sysctls = [path for pattern in SYSCTLS for path in Path("/proc/sys").glob(pattern) if os.access(path, os.R_OK)]
    mounts = [line.split(" ", 4)[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return {
        "network": snapshot.take(),
        "mounts": {line for line in mounts if any(kind in line for kind in KINDS_OF_MOUNTS) and "/hclab" not in line},
        "sysctls": {str(path): path.read_text() for path in sysctls if path.stat().st_mode & 0o400},
        "files": {path: _looks(Path(path)) for path in PATHS},
    }


def _looks(path: Path) -> str:
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return "there" if path.exists() else "not there"


def processes_of(folder: Path) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            said = (process / "cmdline").read_text() + os.readlink(process / "cwd") + os.readlink(process / "root")
        except OSError:  # it ended
            continue
        if str(folder) in said and int(process.name) != os.getpid():
            found.append(f"{process.name}: {said}")
    return found


def namespaces(pids: list[int]) -> set[str]:
    found = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/ns").glob("*"):
            try:
                found.add(os.readlink(link))
            except OSError:
                continue
    return found


def living() -> list[int]:
    """Without those that are dead and wait for the machine to bury them."""
    return [int(path.name) for path in Path("/proc").glob("[0-9]*") if _has_exe(path)]


def _has_exe(process: Path) -> bool:
    try:
        os.readlink(process / "exe")
    except OSError:  # a zombie, or a thread of the kernel
        return False
    return True


def assert_gone(folder: Path, before: dict[str, Any]) -> None:
    after = machine()
    assert before["network"].difference(after["network"]) == ()
    for each in ("mounts", "sysctls", "files"):
        assert after[each] == before[each], each
    assert not Groups(folder).exist()
    assert processes_of(folder) == []
    kept = {path.relative_to(folder).parts[1:2] for path in folder.glob("*/*")}
    assert kept <= {("logs",)}


def command(folder: Path, verb: str, *more: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "fixtures.cluster", verb, "--dir", str(folder), *more)


def run(folder: Path, verb: str, *more: str, check: bool = True, **changed: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **changed}
    done = subprocess.run(
        command(folder, verb, *more), cwd=REPOSITORY, capture_output=True, text=True, timeout=120, env=environment
    )
    assert done.returncode == 0 or not check, done.stdout + done.stderr
    return done


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "c"
    down(tmp_path / "c")


def test_up_look_and_down_by_the_command(folder: Path) -> None:
    before = machine()
    require(folder)
    run(folder, "up", "--cni", "provisional")
    assert run(folder, "shell", "n2", "hostname").stdout == "n2\n"
    listed = json.loads(run(folder, "kubectl", "get", "nodes", "-o", "json").stdout)
    assert [each["metadata"]["name"] for each in listed["items"]] == ["n1", "n2"]
    without_kubectl = run(folder, "kubectl", "get", "--raw", "/version", PATH="/nowhere")
    assert json.loads(without_kubectl.stdout)["gitVersion"] == "v1.34.2"
    again = run(folder, "up", check=False)
    assert again.returncode == 1
    assert "runs already" in again.stderr
    mine = [pid for pid in living() if Groups(folder).name in _cgroup(pid)]
    own = namespaces(mine) - namespaces([os.getpid()])
    assert len(own) >= 3 * 6  # three places, each with six
    elders = set(living())
    began = time.monotonic()
    run(folder, "down")
    assert time.monotonic() - began < 10
    assert_gone(folder, before)
    assert own & namespaces([*elders.intersection(living())]) == set()  # others get the numbers of what is gone
    assert run(folder, "shell", "n1", check=False).stderr == "error: control does not run\n"
    assert (folder / "n1" / "logs" / "kubelet.out").exists()


def _cgroup(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return ""


def test_down_with_pods_that_run(folder: Path) -> None:
    before = machine()
    with made(folder, cni="provisional") as up:
        up.create(*workload.web("web"))
        up.wait_running("web", 2)
    assert_gone(folder, before)


@pytest.mark.parametrize("number", range(INSTANTS))
def test_up_is_killed_at_a_random_instant(folder: Path, number: int) -> None:
    instant = random.uniform(number, number + 1) * WHOLE / INSTANTS
    before = machine()
    with subprocess.Popen(command(folder, "up", "--cni", "provisional"), cwd=REPOSITORY, stdout=subprocess.PIPE) as up:
        time.sleep(instant)
        up.kill()
        said = up.communicate()[0].decode().splitlines()
    began = time.monotonic()
    down(folder)
    assert time.monotonic() - began < 10, f"killed after {instant:.2f} s, at {said[-1:]}"
    assert_gone(folder, before)


def test_up_works_where_one_was_killed_and_nobody_cleaned(folder: Path) -> None:
    with subprocess.Popen(command(folder, "up"), cwd=REPOSITORY, stdout=subprocess.PIPE) as up:
        assert up.stdout
        assert b"control plane started" in up.stdout.readline()
        up.kill()
    before = machine()
    run(folder, "up")
    run(folder, "down")
    assert_gone(folder, before)


def test_down_ends_an_up_that_is_at_work(folder: Path) -> None:
    before = machine()
    with subprocess.Popen(
        command(folder, "up"), cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as up:
        assert up.stdout
        up.stdout.readline()
        down(folder)
        assert up.wait(30) == -signal.SIGKILL
    assert_gone(folder, before)


OWNER = """
import signal, sys
from pathlib import Path
from fixtures.cluster import Cluster
with Cluster(Path(sys.argv[1])):
    print("up", flush=True)
    signal.pause()
"""


def test_a_cluster_whose_owner_was_killed_goes_when_the_next_one_comes(folder: Path) -> None:
    orphan = folder.with_name("orphan")
    before = machine()
    with subprocess.Popen((sys.executable, "-c", OWNER, orphan), cwd=REPOSITORY, stdout=subprocess.PIPE) as owner:
        assert owner.stdout
        assert owner.stdout.readline() == b"up\n"
        owner.send_signal(signal.SIGKILL)
    assert processes_of(orphan)
    groups.end_ownerless()
    assert processes_of(orphan) == []
    down(orphan)
    assert_gone(orphan, before)
