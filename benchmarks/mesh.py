"""What the mesh costs a node: ten quiet peers beside a thousand restless ones, with the real daemon.

tailscaled is the stand-in, and the other nodes, which answer each probe, are in its process (`mesh_world.py`). The
kernel is real: an interface, a table with two routes for each peer. All worlds run at the same time; what is charged is
the daemon's processor time by the scheduler's count, which hardly depends on who else computes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import headcni
from benchmarks.box import Node, make_node
from benchmarks.figures import Figure, Report

CLUSTER = "10.128.0.0/9,fd00:10:244::/48"
OWN = ("10.244.1.0/24", "fd00:10:244:ffff::/64")
PODS = ("10.128.0.0/14", "fd00:10:244::/48")  # of the others
TAILNET = ("100.64.0.0/10", "fd7a:115c:a1e0::/48")
ME = ("100.64.0.1", "fd7a:115c:a1e0::1")  # the stand-in's first node
OTHER_END = ("169.254.7.1", "fe80::7:1")
MAC = "02:00:00:00:00:07"
SETTLED = 25.0  # seconds: after a start, each way is tried about once a second for twenty
PATIENCE = 60.0


@dataclass(frozen=True)
class World:
    name: str
    peers: int
    churn: int  # changes in a second
    version: str = ""


FEW = World("10 quiet peers", 10, 0)
MANY = World("1,000 peers, 50 changes a second", 1000, 50)
OLD = World("the same told by a tailscaled before 1.100", 1000, 50, "1.98.0")
WORLDS = (FEW, MANY, OLD)


@dataclass(frozen=True)
class Cost:
    in_force: float  # seconds after the start
    processor: float  # of one processor
    before: float  # MiB
    after: float


def run(work: Path, plugins: Path, rounds: int) -> Report:
    """`rounds` is for how many seconds it is looked at."""
    with ExitStack() as stack:
        daemons, in_force = {}, {}
        for number, world in enumerate(WORLDS):  # one after the other, because a start is all computing
            daemons[world] = stack.enter_context(_daemon(work, number, world))
            in_force[world] = _wait_in_force(daemons[world], world)
        time.sleep(SETTLED)
        began = time.monotonic()
        before = {world: (_memory(daemon), daemon.processor_seconds()) for world, daemon in daemons.items()}
        time.sleep(rounds)
        costs = {}
        for world, daemon in daemons.items():
            memory, seconds = before[world]
            share = (daemon.processor_seconds() - seconds) / (time.monotonic() - began)
            costs[world] = Cost(in_force[world], share, memory, _memory(daemon))
    return _report(costs, rounds)


def _report(costs: dict[World, Cost], rounds: int) -> Report:
    few, many, old = (costs[each] for each in WORLDS)
    figures = [
        Figure(f"processor time with {MANY.name}", many.processor * 100, "%", at_most=5.0),
        Figure(f"… to that with {FEW.name}", many.processor / few.processor, "x"),
        Figure(f"resident memory with {MANY.name}, to that with {FEW.name}", many.after / few.after, "x", at_most=1.5),
        Figure(f"… its growth over {rounds} s of churn", many.after - many.before, "MiB", at_most=3.0),
        Figure(f"processor time, {OLD.name}", old.processor * 100, "%", at_most=5.0),
        Figure(f"resident memory, {OLD.name}", old.after / few.after, "x", at_most=1.5),
        Figure(f"… its growth over {rounds} s of churn", old.after - old.before, "MiB", at_most=4.0),
        Figure(f"processor time with {FEW.name}", few.processor * 100, "%"),
        Figure(f"resident memory with {FEW.name}", few.after, "MiB"),
        Figure(f"from the start to in force with {FEW.name}, Headscale's second included", few.in_force, "s"),
        Figure(f"from the start to in force with {MANY.name}", many.in_force, "s"),
    ]
    return Report("A thousand peers", figures)


@contextmanager
def _daemon(work: Path, number: int, world: World) -> Iterator[headcni.Daemon]:
    """And what is around it."""
    node, others = make_node(f"mesh{number}"), make_node(f"others{number}")
    furnish(number, world.peers, node, others)
    socket = work / f"mesh{number}.sock"
    options = f"--socket {socket} --peers {world.peers} --churn {world.churn}"
    version = ("--version", world.version) if world.version else ()
    others.enter()
    command = [sys.executable, "-m", "benchmarks.mesh_world", *options.split(), *version]
    tailscaled = subprocess.Popen(command, cwd=headcni.REPOSITORY, stdout=subprocess.PIPE)
    try:
        assert tailscaled.stdout is not None
        if tailscaled.stdout.readline() != b"ready\n":
            raise RuntimeError(f"{' '.join(command)} did not start")
        mesh = f"--mesh tailscale --tailscale-socket {socket} --cluster-cidr {CLUSTER}"
        with headcni.daemon(node, work / f"mesh{number}", work, ",".join(OWN), mesh) as ours:
            yield ours
    finally:
        tailscaled.terminate()
        tailscaled.wait()


def furnish(number: int, peers: int, node: Node, others: Node) -> None:
    """An interface like tailscaled's, with its table; behind it one namespace that has all addresses of the others.

    They are reached over one neighbour, because the kernel keeps no more than a thousand.
    """
    node.enter()
    veth = f"link add tailscale0 address {MAC} mtu 1280 type veth peer name here netns others{number} address {MAC}"
    addresses = f"addr add {ME[0]}/32 dev tailscale0", f"addr add {ME[1]}/128 dev tailscale0 nodad"
    _ip(veth, "link set tailscale0 up", *_neighbours("tailscale0"), *addresses)
    over = [f"via {each} dev tailscale0 onlink table 52" for each in OTHER_END]
    count = range(1, peers + 1)
    pods = [f"10.{128 + each // 256}.{each % 256}.0/24" for each in count], [f"fd00:10:244:{n:x}::/64" for n in count]
    for family, tailnet, targets, way in zip(("-4", "-6"), TAILNET, pods, over, strict=True):
        subprocess.run(["ip", family, "rule", "add", "pref", "5270", "lookup", "52"], check=True)
        _ip(*(f"route add {each} {way}" for each in (tailnet, *targets)))
    others.enter()
    _ip("link set here up", *_neighbours("here"))
    back = [f"via {each} dev here onlink" for each in OTHER_END]
    for tailnet, all_pods, me, own, way in zip(TAILNET, PODS, ME, OWN, back, strict=True):
        _ip(*(f"route add local {each} dev lo table main" for each in (tailnet, all_pods)))
        _ip(*(f"route add {each} {way}" for each in (me, own)))


def _neighbours(device: str) -> list[str]:
    return [f"neigh add {each} lladdr {MAC} dev {device} nud permanent" for each in OTHER_END]


def _ip(*commands: str) -> None:
    subprocess.run(["ip", "-batch", "-"], input="\n".join(commands).encode(), check=True)


def _wait_in_force(daemon: headcni.Daemon, world: World) -> float:
    """Since its start, by the clock of the view."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        found = _in_force_since(daemon.state / "mesh-view.json")
        if found is not None:
            return found - daemon.started
        time.sleep(0.02)
    raise TimeoutError(f"{world.name}: not in force after {PATIENCE:.0f} s")


def _in_force_since(view: Path) -> float | None:
    try:
        chains = json.loads(view.read_bytes())["chains"]
    except FileNotFoundError:
        return None
    links = [chain["links"][name] for chain in chains for name in ("announced", "approved", "serving")]
    return max(link["since"] for link in links) if links and all(link["holds"] == "yes" for link in links) else None


def _memory(daemon: headcni.Daemon) -> float:
    pages = int(Path(f"/proc/{daemon.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
