"""Whether a cluster can go from Flannel to HeadCNI as it is, and what that changes, node by node. Pure.

The order that this is for (docs/migrate-flannel.md): first HeadCNI's daemons on all nodes, beside Flannel, so that the
mesh carries the packets between nodes, whoever's pods they are; then the pods, node by node; Flannel last. So there are
never two halves that do not reach each other. It needs each node to keep its pod CIDR, for until the end both plugins
give addresses of it.

Nothing is refused: what must be settled first is a `reason`, what is only to be known a `remark`; both with a cure.

Two pods of one node may never have one address. HeadCNI does not know which ones Flannel's pods have, so a node is
emptied before its first pod with HeadCNI: `drain` leaves the pods of DaemonSets, and those are listed apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cni.spec import Refusal
from reconciler.migrate import backends
from reconciler.migrate.cluster import KubeNode, KubePod
from reconciler.migrate.leftovers import Leftover, leftovers
from reconciler.migrate.obstacles import reasons, remarks
from reconciler.migrate.seen import Seen
from reconciler.parsers import Network

STAY = ("DaemonSet", "Node")  # owners of pods that `kubectl drain` leaves: the latter are static pods


@dataclass(frozen=True, slots=True)
class Move:
    """One node, in the order in which they move."""

    node: str
    here: bool
    pod_cidrs: tuple[Network, ...]
    public: str  # Flannel's lease
    drained: tuple[str, ...] | None  # pods that `kubectl drain` moves away; None: not known
    stay: tuple[str, ...] = ()  # those that it leaves, and that must restart as well
    control_plane: bool = False
    ours: bool = False  # HeadCNI's daemon runs there
    moved: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    reasons: tuple[Refusal, ...]
    remarks: tuple[Refusal, ...]
    carried_by: str
    differences: tuple[str, ...]
    values: dict[str, Any]  # for the chart
    moves: tuple[Move, ...]
    leftovers: tuple[Leftover, ...]

    @property
    def possible(self) -> bool:
        return not self.reasons


def plan(seen: Seen) -> Plan:
    return Plan(
        reasons=tuple(dict.fromkeys(reasons(seen))),
        remarks=tuple(dict.fromkeys(remarks(seen))),
        carried_by=backends.of(seen.conf).carries if seen.conf else "",
        differences=tuple(backends.differences(seen.conf, seen.env.mtu if seen.env else 0)) if seen.conf else (),
        values=_values(seen),
        moves=tuple(_moves(seen)),
        leftovers=leftovers(seen.here),
    )


# --- what changes


def _values(seen: Seen) -> dict[str, Any]:
    """As in `values.yaml`. Fail closed only at the end: Flannel's routes to other nodes are ways past the mesh, and a
    daemon that must keep packets inside is not ready while they are there."""
    network: dict[str, Any] = {"mtu": 0}
    if seen.networks:
        pod_cidr: dict[str, Any] = {"base": _one_or_list(seen.networks)}
        lengths = {each.prefixlen for each in _subnets(seen) if each.version == 4}
        if len(lengths) == 1:
            pod_cidr["perNode"] = f"/{lengths.pop()}"
        network = {"podCIDR": pod_cidr, **network}
    if seen.env and not seen.env.masquerade:
        network["masquerade"] = False
    values: dict[str, Any] = {"config": {"network": network, "mesh": {"failClosed": False}}}
    return {"distribution": "k3s", **values} if seen.k3s else values


def _subnets(seen: Seen) -> tuple[Network, ...]:
    if seen.kubernetes:
        return tuple([cidr for node in seen.kubernetes.nodes for cidr in node.pod_cidrs])
    return seen.env.subnets if seen.env else ()


def _moves(seen: Seen) -> Iterator[Move]:
    """Workers first, and of them those with the fewest pods: what goes wrong goes wrong there."""
    if seen.kubernetes is None:
        if seen.here.anything:
            yield Move(seen.node, True, seen.env.subnets if seen.env else (), "", None)
        return
    pods = seen.kubernetes.pods
    moves = [_move(node, seen, None if isinstance(pods, Refusal) else pods) for node in seen.kubernetes.nodes]
    yield from sorted(moves, key=lambda each: (each.control_plane, len(each.drained or ()) + len(each.stay), each.node))


def _move(node: KubeNode, seen: Seen, pods: tuple[KubePod, ...] | None) -> Move:
    own = [each for each in pods or () if each.node == node.name and not node.moved]
    return Move(
        node=node.name,
        here=node.name == seen.node,
        pod_cidrs=node.pod_cidrs,
        public=node.lease.public if node.lease else "",
        drained=None if pods is None else tuple(sorted(each.name for each in own if each.owner not in STAY)),
        stay=tuple(sorted(each.name for each in own if each.owner in STAY)),
        control_plane=node.control_plane,
        ours=node.ours,
        moved=node.moved,
    )


def _one_or_list(networks: tuple[Network, ...]) -> str | list[str]:
    texts = [str(each) for each in networks]
    return texts[0] if len(texts) == 1 else texts
