"""The daemon, and `headcni uninstall`, are killed at every call that matters while they announce and withdraw: what
others announce stays as it is, in its order, and of ours nothing is in the list that the record does not name.

The killer is strace, as in tests/crash: `--inject=CALL:signal=KILL:when=N` strikes at the entry of the N-th such call
of the event loop's thread. What matters are the record's file (fsync, rename) and each request to tailscaled (sendto);
how many there are is learnt from an undisturbed run. Each run changes the node's pod CIDR, so it announces two prefixes
and withdraws two others; the run after a killed one finishes its work.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from meshes import FOREIGN, eventually

from fixtures.mesh import CLUSTER, MeshLab, MeshSite
from fixtures.peers.system import need
from fixtures.processes import REPOSITORY, DaemonProcess

pytestmark = [pytest.mark.peers, pytest.mark.timeout(240)]

CIDRS = (("10.244.7.0/24", "fd00:10:244:7::/64"), ("10.244.8.0/24", "fd00:10:244:8::/64"))
CALLS = ("fsync", "rename", "sendto")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeshSite]:
    """One node, joined by hand, that announces for others; no daemon runs."""
    need("strace")
    with MeshLab(tmp_path_factory.mktemp("mesh"), nodes=1) as mesh:
        mesh.headscale.auto_approve(*CLUSTER)
        mesh.join(flags=())
        made = MeshSite(mesh, mesh.nodes[0])
        made.tailscaled.announce(*FOREIGN)
        yield made


def change_cidrs(site: MeshSite, wrapper: Sequence[str] = ()) -> bool:
    """One run of the daemon, until list and record have the pod CIDRs that the last whole run had not; or until it is
    killed: whether it was."""
    cidrs = next(each for each in CIDRS if set(each) != recorded(site))

    def is_done() -> bool:
        return set(site.tailscaled.announced) == {*FOREIGN, *cidrs} and recorded(site) == set(cidrs)

    daemon = DaemonProcess(site.node, site.state_dir, "--pod-cidr", ",".join(cidrs), *site.arguments, wrapper=wrapper)
    with daemon:
        eventually(lambda: not daemon.running or is_done(), f"{cidrs} announced", 20)
        killed = not daemon.running
    assert " ERROR " not in daemon.log.read_text()
    return killed


def recorded(site: MeshSite) -> set[str]:
    try:
        return set(json.loads((site.state_dir / "mesh.json").read_bytes())["announced"])
    except FileNotFoundError:
        return set()


def assert_all_is_accounted_for(site: MeshSite) -> None:
    announced = site.tailscaled.announced
    assert [each for each in announced if each in FOREIGN] == list(FOREIGN)
    assert set(announced) - set(FOREIGN) <= recorded(site)


def strace(output: Path, *options: str) -> tuple[str, ...]:
    """The program keeps its process id; only the thread that it begins with is traced, which runs the event loop."""
    return ("strace", "-D", "-o", str(output), "-s", "60", *options)


def kill_points(trace: str) -> list[tuple[str, int]]:
    """Every call from the first request to tailscaled to the last one or the last write of the record."""
    seen: dict[str, int] = dict.fromkeys(CALLS, 0)
    points: list[tuple[str, int]] = []
    last = 0
    for line in trace.splitlines():
        call = re.match(r"(?:\d+ +)?(\w+)\(", line)
        if not call or call[1] not in CALLS:
            continue
        seen[call[1]] += 1
        matters = call[1] != "sendto" or "/localapi/" in line
        if points or matters:
            points.append((call[1], seen[call[1]]))
        if matters and "watch-ipn-bus" not in line:
            last = len(points)
    return points[: last + 1]


def test_the_daemon_is_killed_while_it_announces_and_withdraws(
    site: MeshSite, tmp_path: Path, record_property: Any
) -> None:
    """The kernel is asked by the same call now and then, so how many there are differs from run to run: each kind is
    struck one after the other until whole runs have no such call left."""
    change_cidrs(site)
    trace = tmp_path / "trace"
    change_cidrs(site, strace(trace, "-e", "trace=" + ",".join(CALLS)))
    points = kill_points(trace.read_text())
    struck = dict.fromkeys(CALLS, 0)
    for call in CALLS:
        when, missed = min(number for name, number in points if name == call), 0
        while missed < 2:
            killed = change_cidrs(site, strace(tmp_path / "killer", "-e", f"inject={call}:signal=KILL:when={when}"))
            assert_all_is_accounted_for(site)
            if killed:  # where the mesh is whole, too: what else was half written is missing from the next run
                change_cidrs(site)
                assert_all_is_accounted_for(site)
            struck[call] += killed
            missed = 0 if killed else missed + 1
            when += 1
    needed = needed_strikes(trace.read_text())
    short = sum(max(0, needed[call] - struck[call]) for call in CALLS)
    assert short <= 1, f"the killer struck {struck}, of {needed} that matter"  # the last may come when all is done
    record_property("kill_points", sum(struck.values()))


def needed_strikes(trace: str) -> dict[str, int]:
    """Of each kind: every write of a file, and every request to tailscaled until all was done."""
    lines = trace.splitlines()
    last = max(number for number, line in enumerate(lines) if _matters(line))
    counted = [re.match(r"(?:\d+ +)?(\w+)\(", line) for line in lines[: last + 1] if _matters(line)]
    return {call: sum(each is not None and each[1] == call for each in counted) for call in CALLS}


def _matters(line: str) -> bool:
    return "sendto(" not in line or ("/localapi/" in line and "watch-ipn-bus" not in line)


def test_uninstall_is_killed_while_it_withdraws(site: MeshSite, tmp_path: Path, record_property: Any) -> None:
    change_cidrs(site)
    trace = tmp_path / "trace"
    uninstall(site, strace(trace, "-e", "trace=" + ",".join(CALLS)))
    assert_nothing_is_left(site)
    points = kill_points(trace.read_text())
    struck = 0
    for call, when in points:
        if not recorded(site):
            change_cidrs(site)
        struck += uninstall(site, strace(tmp_path / "killer", "-e", f"inject={call}:signal=KILL:when={when}")) < 0
        assert_all_is_accounted_for(site)
    assert struck >= len(points) - 1, f"the killer struck at {struck} of {points}"
    record_property("kill_points", struck)
    assert uninstall(site) == 0
    assert_nothing_is_left(site)


def uninstall(site: MeshSite, wrapper: Sequence[str] = ()) -> int:
    """The exit code; negative: the signal that killed it."""
    command = (
        *(*wrapper, sys.executable, "-m", "reconciler.operate.cli", "uninstall"),
        *("--state-dir", str(site.state_dir), "--tailscale-socket", str(site.tailscaled.socket)),
    )
    done = subprocess.run(
        site.node.command(*command), cwd=REPOSITORY, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode <= 0, done.stdout + done.stderr
    return done.returncode


def assert_nothing_is_left(site: MeshSite) -> None:
    assert site.tailscaled.announced == FOREIGN
    assert not (site.state_dir / "mesh.json").exists()
    prefs = site.tailscaled.prefs()
    assert (prefs["RouteAll"], prefs["NoSNAT"], prefs["CorpDNS"]) == (False, False, False)
    kernel = site.node.run("ip", "rule") + site.node.run("ip", "route") + site.node.run("ip", "-6", "route")
    assert "10.244." not in kernel
    assert "fd00:10:244" not in kernel
