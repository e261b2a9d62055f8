"""What Kubernetes costs a node: the whole daemon with the API connected, with and without a mesh, beside kube-proxy.

The API server is a stand-in with a thousand Nodes (`kube_world.py`), by TLS. The daemon runs as on a node, its metrics
endpoint included, and its 110 pods were attached by the plugin. kube-proxy, where `make peers` has built it, is a fair
other agent: in Go, one for each node, list and watch by the same API server. It reads Services, which ours does not,
and no Pods, which ours does.

Rest is looked at in slices, by all agents in the same ones, and the quietest count: where others compute, the
processors' caches are theirs, and the same work takes longer.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from benchmarks import headcni
from benchmarks.agent import Memory, busy_seconds, memory, processor_seconds
from benchmarks.box import make_node
from benchmarks.figures import Figure, Report
from benchmarks.kube_node import Site, environment, kube_proxy, meshed_site, site
from benchmarks.kube_world import NODES, PODS

PEERS = 100
EVENTS = 2000
SETTLED = 20.0  # seconds; in a mesh, each way is tried about once a second for twenty
PATIENCE = 60.0
READ = 3.0  # until what was said last has been taken in
SLICE = 10.0  # in which each periodical work of an agent comes at least once, but for those of minutes
MOST_BUSY = 0.5  # of one processor, by others, in a quiet slice
SPARE = 2  # slices more than needed, if some are not quiet

PLAIN, MESHED, PROXY = "without a mesh", f"with {PEERS} peers", "kube-proxy"

_IMPORT = """
import json, os, time
from benchmarks.agent import memory
import reconciler.daemon, reconciler.operate.cli, reconciler.operate.http, reconciler.operate.metrics
import reconciler.mesh.side, reconciler.kube.side, urllib3, yaml
before, began = memory(os.getpid()), time.process_time()
import reconciler.kube.package
spent, after = time.process_time() - began, memory(os.getpid())
print(json.dumps([after.resident - before.resident, after.private - before.private, spent]))
"""


@dataclass(frozen=True)
class Use:
    """Of the processors, where 1 is one of them."""

    own: Mapping[str, float]  # by agent
    others: float


def run(work: Path, plugins: Path, rounds: int) -> Report:
    """`rounds` is for how many seconds rest is looked at."""
    imported = _imported(work)
    with ExitStack() as stack:
        node = make_node("kube")
        plain = stack.enter_context(site(node, work))
        meshed = stack.enter_context(meshed_site(work, PEERS))
        proxy = stack.enter_context(kube_proxy(node, work, plain.world))
        sites = plain, meshed
        for each in sites:
            each.attach()
        _wait_whole(sites)
        time.sleep(SETTLED)
        agents = {PLAIN: plain.daemon.process.pid, MESHED: meshed.daemon.process.pid}
        agents |= {PROXY: proxy.pid} if proxy else {}
        rest = _at_rest(agents, rounds)
        memories, before = [_memories(agents)], processor_seconds(agents[PLAIN])
        for _ in range(2):
            _churn(sites)
            memories.append(_memories(agents))
        change = (processor_seconds(agents[PLAIN]) - before) / (2 * EVENTS)
        _wait_whole(sites)
    ours = [figure for name in (PLAIN, MESHED) for figure in _ours(name, rest, memories)]
    compared = list(_compared(rest, memories[0])) if PROXY in agents else []
    causes = [
        Figure("memory that importing the package kubernetes costs", imported[0], "MiB"),
        Figure("… of it private", imported[1], "MiB"),
        Figure("… and processor time, once", imported[2], "s"),
        Figure("processor time of one change of a pod", change * 1e3, "ms"),
        Figure("what others had of one processor meanwhile", rest.others * 100, "%"),
    ]
    return Report(f"Kubernetes, with {NODES} nodes and {PODS} pods on this one", ours + compared + causes)


def _ours(name: str, rest: Use, memories: Sequence[Mapping[str, Memory]]) -> Iterator[Figure]:
    first, second, third = (each[name] for each in memories)
    yield Figure(f"resident memory {name}", first.resident, "MiB", at_most=100)
    yield Figure("… PSS", first.pss, "MiB")
    yield Figure("… private", first.private, "MiB")
    yield Figure(f"… its growth by {EVENTS} changes of pods", second.resident - first.resident, "MiB", at_most=1)
    yield Figure(f"… by {EVENTS} more", third.resident - second.resident, "MiB", at_most=0.5)
    yield Figure(f"processor time at rest {name}", rest.own[name] * 100, "%", at_most=1)


def _compared(rest: Use, memories: Mapping[str, Memory]) -> Iterator[Figure]:
    theirs = memories[PROXY]
    for name in (PLAIN, MESHED):
        yield Figure(f"resident memory {name}, to kube-proxy's", memories[name].resident / theirs.resident, "x")
        yield Figure("… PSS", memories[name].pss / theirs.pss, "x")
        yield Figure("… processor time at rest", rest.own[name] / rest.own[PROXY], "x")
    yield Figure("resident memory of kube-proxy", theirs.resident, "MiB")
    yield Figure("processor time of kube-proxy at rest", rest.own[PROXY] * 100, "%")


def _at_rest(agents: Mapping[str, int], seconds: int) -> Use:
    """In the slices in which others computed least."""
    wanted = max(1, round(seconds / SLICE))
    slices: list[Use] = []
    while len(slices) < wanted + SPARE and sum(each.others <= MOST_BUSY for each in slices) < wanted:
        slices.append(_slice(agents))
    quietest = sorted(slices, key=lambda each: each.others)[:wanted]
    own = {name: fmean(each.own[name] for each in quietest) for name in agents}
    return Use(own, fmean(each.others for each in quietest))


def _slice(agents: Mapping[str, int]) -> Use:
    began, busy = time.monotonic(), busy_seconds()
    before = {name: processor_seconds(pid) for name, pid in agents.items()}
    time.sleep(SLICE)
    lasted = time.monotonic() - began
    own = {name: (processor_seconds(pid) - before[name]) / lasted for name, pid in agents.items()}
    return Use(own, (busy_seconds() - busy) / lasted - sum(own.values()))


def _memories(agents: Mapping[str, int]) -> dict[str, Memory]:
    return {name: memory(pid) for name, pid in agents.items()}


def _churn(sites: Sequence[Site]) -> None:
    for each in sites:
        each.world.say("churn", EVENTS)
    for each in sites:
        each.world.hear()
    time.sleep(READ)


def _wait_whole(sites: Sequence[Site]) -> None:
    """A benchmark of a daemon that reads nothing would be one of nothing."""
    deadline = time.monotonic() + PATIENCE
    while missing := ", ".join(filter(None, [each.missing() for each in sites])):
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {PATIENCE:.0f} s there is still missing: {missing}")
        time.sleep(0.1)


def _imported(work: Path) -> list[float]:
    """When all is compiled: memory resident and private in MiB, and processor seconds."""
    command = [sys.executable, "-c", _IMPORT]
    for _ in range(2):
        done = subprocess.run(command, cwd=headcni.REPOSITORY, env=environment(work), capture_output=True, check=True)
    found: list[float] = json.loads(done.stdout)
    return found
