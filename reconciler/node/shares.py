"""A node's share of the cluster CIDR, guessed from the node's name alone, and what becomes of such a guess. Pure.

A share depends on nothing but the cluster CIDR, its own width and the name, so a node that knows no more finds the same
one at every start. Two nodes may find the same: of clusters with 256 shares and 20 nodes that happens to every second.
So a guess is told loudly, clashes are looked for, and it gives way as soon as somebody knows better. Pods that have
an address by then keep it until they go: an address cannot be taken from a running pod.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from cni.spec import Refusal
from reconciler.kube.codes import Trouble
from reconciler.mesh.networks import covers, overlap
from reconciler.parsers import Network

Networks = tuple[Network, ...]

IPV6_PER_NODE = 64  # as kube-controller-manager has it


def share(cluster: Network, per_node: int, node_name: str) -> Network:
    """The first 8 bytes of the name's SHA-256, as a number modulo the number of shares, say which share it is.

    It is as wide as `per_node` for IPv4, and a /64 for IPv6. `share_count` must not be 0.
    """
    prefix, count = share_prefix(cluster, per_node), share_count(cluster, per_node)
    number = int.from_bytes(sha256(node_name.encode()).digest()[:8], "big") % count
    first = int(cluster.network_address) + (number << (cluster.max_prefixlen - prefix))
    return type(cluster)((first, prefix))


def share_prefix(cluster: Network, per_node: int) -> int:
    return per_node if cluster.version == 4 else IPV6_PER_NODE


def share_count(cluster: Network, per_node: int) -> int:
    spare = share_prefix(cluster, per_node) - cluster.prefixlen
    return 1 << spare if spare >= 0 else 0


def is_share(cidr: Network, cluster: Iterable[Network], per_node: int) -> bool:
    return cidr.prefixlen == share_prefix(cidr, per_node) and any(covers(each, cidr) for each in cluster)


def no_share(cluster: Network, where: str, per_node: int, nodes: int) -> Refusal | None:
    """`nodes` that are known to need a share each; 0 where nobody has told."""
    prefix, count = share_prefix(cluster, per_node), share_count(cluster, per_node)
    if count == 0 and cluster.version == 4:
        cure = f"set network.podCIDR.perNode to /{cluster.prefixlen} or longer, or correct the cluster CIDR"
        return Refusal(
            Trouble.SOURCE_INVALID, f"network.podCIDR.perNode /{prefix} is wider than the {cluster} of {where}", cure
        )
    if count == 0:
        cure = f"give the cluster an IPv6 CIDR of /{prefix} or wider, or set network.podCIDR.nodeLocal on each node"
        return Refusal(Trouble.SOURCE_INVALID, f"the {cluster} of {where} is narrower than one node's /{prefix}", cure)
    if count < nodes:
        what = f"the {cluster} of {where} has room for {count} nodes with a /{prefix} each, and {nodes} are known"
        return Refusal(Trouble.SOURCE_INVALID, what, "widen network.podCIDR.base, or lengthen network.podCIDR.perNode")
    return None


def clashes(mine: Iterable[Network], others: Mapping[str, Sequence[Network]]) -> tuple[Refusal, ...]:
    """`others`: where the pods of other nodes are, by the node's name."""
    cure = "give one of them another: set network.podCIDR.nodeLocal (--pod-cidr); pods that run keep their addresses"
    return tuple(
        Refusal(Trouble.CIDR_CLASH, f"this node's pod CIDR {own} overlaps {theirs} of {name}", cure)
        for own in mine
        for name, networks in others.items()
        for theirs in networks
        if overlap(own, theirs)
    )


@dataclass(frozen=True, slots=True)
class Change:
    """This node's pod CIDR became another one. `pods` still have an address of the former."""

    before: Networks
    after: Networks
    pods: int

    @property
    def finished(self) -> bool:
        return self.pods == 0

    @property
    def told(self) -> Refusal:
        what = f"the pod CIDR was {_text(self.before)} and is now {_text(self.after) or 'unknown'}"
        if self.finished:
            return Refusal(Trouble.CIDR_CHANGED, f"{what}; no pod has an address of the former any more")
        cure = "pods that run keep their address, new ones get one of the latter; who cannot wait deletes the old ones"
        return Refusal(Trouble.CIDR_CHANGED, f"{what}; pods with an address of the former: {self.pods}", cure)


def change(before: Iterable[Network], after: Iterable[Network], pools_in_use: Mapping[Network, int]) -> Change | None:
    """`pools_in_use`: how many pods have an address of each pool. None: there is nothing former."""
    now = tuple(after)
    former = tuple(cidr for cidr in before if cidr not in now)
    if not former:
        return None
    by_family = [sum(pools_in_use.get(cidr, 0) for cidr in former if cidr.version == family) for family in (4, 6)]
    return Change(former, now, max(by_family))  # a pod of both families is one pod


def _text(cidrs: Iterable[Network]) -> str:
    return ", ".join(map(str, cidrs))
