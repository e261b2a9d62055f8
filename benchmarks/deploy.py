"""How long it takes from `helm install` until all nodes are Ready, and which step takes how much of it.

    python -m benchmarks.deploy [--rounds 3]

A real cluster of two nodes (fixtures/cluster), our image and chart, tailscaleds that nobody joined. What is looked at
is there for everybody: files on the nodes, and what the API server says; each step ends when the last node is through.
The unit is what a CNI takes that needs no pod, no image and no mesh: plugins and a conflist are copied onto the nodes,
and their kubelets notice (the provisional CNI of the fixture).

Needs root and the real peers (`make peers`); apart from the other benchmarks, which need neither.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from fixtures.cluster import Cluster, provisional
from fixtures.cluster.released import BINARIES, CONFLIST, PODS, Release

POLL = 0.03
Taken = TypeVar("Taken")
READY = "the nodes are Ready"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.deploy", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    ours, unit = [], []
    for _ in range(options.rounds):
        ours.append(_in_a_new_cluster(_ours))
        unit.append(_in_a_new_cluster(_unit))
    _print(ours, unit)


def _in_a_new_cluster(measure: Callable[[Cluster], Taken]) -> Taken:
    """A kubelet that was ready once tells the API server of a change every ten seconds only; a new one at once."""
    with tempfile.TemporaryDirectory(prefix="headcni-deploy-") as work, Cluster(Path(work, "cluster")) as cluster:
        return measure(cluster)


def _ours(cluster: Cluster) -> dict[str, float]:
    """Seconds after the command was given, by what had happened on all nodes."""
    release, nodes = Release(cluster), cluster.nodes
    release.prepare()
    cluster.headscale.auto_approve(PODS)
    key = cluster.headscale.new_auth_key()
    steps: dict[str, Callable[[], bool]] = {
        "the plugin is on the nodes": lambda: all(
            (node.root / "opt/cni/bin" / each).exists() for node in nodes for each in BINARIES
        ),
        "the daemons serve": lambda: all((node.root / "var/lib/headcni/status.json").exists() for node in nodes),
        "the conflist is written": lambda: all((node.root / CONFLIST).exists() for node in nodes),
        READY: lambda: all(release.condition(node, "Ready").get("status") == "True" for node in nodes),
        "the mesh is in force": lambda: all(map(release.is_up, nodes)),
    }
    began = time.monotonic()
    release.install(key)
    seen = {"helm has returned": time.monotonic() - began}
    while len(seen) <= len(steps):
        for name in [each for each in steps if each not in seen and steps[each]()]:
            seen[name] = time.monotonic() - began
        time.sleep(POLL)
    return seen


def _unit(cluster: Cluster) -> float:
    began = time.monotonic()
    provisional.install(cluster)
    cluster.wait_ready()
    return time.monotonic() - began


def _print(ours: list[dict[str, float]], units: list[float]) -> None:
    unit = statistics.median(units)
    middle = {name: statistics.median(each[name] for each in ours) for name in ours[0]}
    ready = middle[READY]
    print(f"{READY} {ready:.2f} s after `helm install`: {ready / unit:.2f} times the unit, which is {unit:.2f} s")
    print(f"  rounds: {_listed([each[READY] for each in ours])}; unit: {_listed(units)}")
    before = 0.0
    for name, at in sorted(middle.items(), key=lambda each: each[1]):
        print(f"  {at:6.2f} s  {(at - before) / ready:5.0%}  {name}")
        before = at


def _listed(seconds: list[float]) -> str:
    return ", ".join(f"{each:.2f}" for each in seconds)


if __name__ == "__main__":
    main()
