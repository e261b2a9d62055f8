"""What the node needs for its pods: the plugin, forwarding, masquerade, fence and guard."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from reconciler.mesh.codes import Trouble
from reconciler.node import ruleset
from reconciler.node.fence import Fence
from reconciler.node.guard import Guard
from reconciler.node.sysctl import Sysctls, tree
from reconciler.node.wish import Problem
from reconciler.operate.doctor.complaint import Complaint, Examined, Level
from reconciler.operate.doctor.patient import Patient

PLUGIN = "headcni"
DIRECTORIES = (  # of plugins, by the distributions that have their own
    "opt/cni/bin",
    "usr/lib/cni",
    "var/lib/rancher/k3s/data/cni",
    "var/lib/rancher/k3s/data/current/bin",
    "var/snap/microk8s/current/opt/cni/bin",
)
TABLE, CHAIN = "headcni", "leaving_cluster"


def examine(patient: Patient) -> Examined:
    complaints = [*_plugin(patient.config.node_root)]
    if patient.lives and not patient.still:
        return Examined("", "the daemon looks at it, and tells what it cannot put right", tuple(complaints))
    complaints += _kernel(patient)
    return Examined("", "forwarding, masquerade, fence and guard, as no daemon keeps them now", tuple(complaints))


def _plugin(root: Path) -> Iterator[Complaint]:
    if not any(os.access(root / each / PLUGIN, os.X_OK) for each in DIRECTORIES):
        what = f"the plugin {PLUGIN} is in none of the directories that runtimes look in"
        yield Complaint(Level.WARNING, what, "install it: make install", ", ".join(f"/{each}" for each in DIRECTORIES))


def _kernel(patient: Patient) -> Iterator[Complaint]:
    ranges = patient.ranges()
    six = any(cidr.version == 6 for cidr in ranges.pods)
    yield from _problems(Sysctls(patient.root, tree(patient.config.node_root)).problems(six), 0)
    if patient.config.masquerade and ranges.pods:
        yield from _masquerade()
    if ranges.mesh:
        fence = Fence().problems(ranges.cluster, ranges.pods) if patient.config.fail_closed else ()
        yield from _problems((*fence, *Guard().problems((*ranges.pods, *ranges.services))), Trouble.FENCE)


def _problems(found: Iterable[Problem], code: int) -> Iterator[Complaint]:
    for each in found:
        yield Complaint(Level.ERROR, each.what, each.cure, "in the kernel, now", int(code))


def _masquerade() -> Iterator[Complaint]:
    """What cannot be read is told with the neighbours."""
    seen = ruleset.chains()
    if not seen.blind and not any((each.table, each.name) == (TABLE, CHAIN) for each in seen.found):
        what = f"nftables table inet {TABLE} is not there: what pods send out of the cluster is not answered"
        yield Complaint(Level.ERROR, what, "start the daemon: it writes it", "nft list tables")
