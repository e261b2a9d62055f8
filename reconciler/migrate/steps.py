"""What an operator does, in this order, with the commands of this cluster. Pure; `docs/migrate-flannel.md` tells why.

Flannel's daemon leaves a node by a label, so that it does not write its configuration again there. A taint empties the
node of what `drain` leaves, while Flannel's plugin is still the one that is asked: its reservations go with the pods.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from reconciler.kube.objects import PREFIX
from reconciler.migrate.cluster import MOVED, DaemonSet
from reconciler.migrate.seen import Seen

MOVING = PREFIX + "moving"  # a taint
_USUAL = (DaemonSet("kube-flannel", "kube-flannel-ds"),)
_LEAVES = [
    {"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]},
    {"key": MOVED, "operator": "DoesNotExist"},
]


@dataclass(frozen=True, slots=True)
class Step:
    what: str
    commands: tuple[str, ...] = ()


def steps(seen: Seen) -> tuple[Step, ...]:
    return tuple(_k3s() if seen.k3s else _with_daemon_sets(seen))


def _beside() -> Iterator[Step]:
    yield Step("HeadCNI beside Flannel on all nodes: install the chart with the values above, and your Headscale's")
    carried = "wait until the mesh carries every node's pods: their packets go through it from now on, Flannel's too"
    yield Step(carried, ("headcni mesh status",))


def _with_daemon_sets(seen: Seen) -> Iterator[Step]:
    sets = (seen.kubernetes.daemon_sets if seen.kubernetes else ()) or _USUAL
    confs = [each.path for each in seen.here.confs] or ["/etc/cni/net.d/10-flannel.conflist"]
    yield from _beside()
    yield Step(f"let Flannel's daemon leave nodes that have the label {MOVED}", tuple([patch(each) for each in sets]))
    yield Step(
        "then node by node, in the order above: empty it, put Flannel's configuration aside, fill it again",
        (
            "kubectl drain NODE --ignore-daemonsets --delete-emptydir-data",
            f"kubectl label node NODE {MOVED}=true",
            f"kubectl taint node NODE {MOVING}=true:NoExecute",
            *[f"on NODE: mv {path} {path}.disabled" for path in confs],
            "on NODE: ip link del cni0",
            f"kubectl taint node NODE {MOVING}-",
            "kubectl uncordon NODE",
        ),
    )
    yield Step("Flannel last", tuple([f"kubectl -n {each.namespace} delete daemonset {each.name}" for each in sets]))
    yield from _at_last()


def _k3s() -> Iterator[Step]:
    yield from _beside()
    yield Step(
        "on all servers, in /etc/rancher/k3s/config.yaml: flannel-backend: none and disable-network-policy: true; "
        "k3s reads it at its next start"
    )
    yield Step(
        "then node by node, servers first: empty it, and boot it with k3s' containerd looking at /etc/cni/net.d",
        ("kubectl drain NODE --ignore-daemonsets --delete-emptydir-data", "on NODE: reboot", "kubectl uncordon NODE"),
    )
    yield from _at_last()


def _at_last() -> Iterator[Step]:
    yield Step("on each node, what is left of Flannel: this command lists it there, with what removes it")
    yield Step("keep pod packets inside the mesh from now on: install the chart again with config.mesh.failClosed=true")


def patch(each: DaemonSet) -> str:
    """Strategic: the terms of Flannel's own manifest are replaced by the same ones and ours."""
    required = {"nodeSelectorTerms": [{"matchExpressions": _LEAVES}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}
    body = json.dumps({"spec": {"template": {"spec": {"affinity": affinity}}}}, separators=(",", ":"))
    return f"kubectl -n {each.namespace} patch daemonset {each.name} -p '{body}'"
