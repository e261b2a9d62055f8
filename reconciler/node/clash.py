"""Address ranges that the cluster means to have for itself, and what it is when one of them overlaps something.

What the other nodes have is learned late, if at all, and pods run by then. So it never changes which CIDR was chosen;
what speaks against the choice is put beside it (`beside`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from itertools import islice

from cni.spec import Refusal
from reconciler.ipam.pool import Network
from reconciler.kube.codes import Trouble
from reconciler.node.formats import About
from reconciler.node.podcidr import Choice, Finding, Source
from reconciler.node.shares import clashes, no_share
from statemachine.attachment import Attachment, State

MANY = 10  # nodes that clash with this one, of which each is told


@dataclass(frozen=True, slots=True)
class Others:
    """The other nodes of the cluster, as far as the API has told."""

    nodes: int = 0  # in all, this one too; 0: nobody has told
    networks: Mapping[Network, str] = field(default_factory=dict)  # whose pods are where


@dataclass(frozen=True, slots=True)
class Ranges:
    pods: tuple[Network, ...]  # of this node
    cluster: tuple[Network, ...] = ()
    services: tuple[Network, ...] = ()
    mesh: bool = False
    others: Mapping[Network, str] = field(default_factory=dict)  # whose pods are where, as far as it is known
    lent: tuple[Network, ...] = ()  # pools whose addresses other plugins put on interfaces of theirs
    lent_gateways: frozenset[str] = frozenset()  # of those pods; a bridge of any name may have one

    def each(self) -> Iterator[Range]:
        """The narrowest first: of two that clash alike, that is the one to tell."""
        for own in self.pods:
            yield Range(f"this node's pod CIDR {own}", own, "give this node another one (network.podCIDR.nodeLocal)")
        for whole in self.cluster:
            if whole not in self.pods:
                cure = "choose another network.podCIDR.base, for all nodes"
                yield Range(f"the cluster's pod CIDR {whole}", whole, cure)
        for services in self.services:
            cure = "move that network, or set up the cluster with another --service-cluster-ip-range"
            yield Range(f"the range of Services {services}", services, cure, of_pods=False)


@dataclass(frozen=True, slots=True)
class Range:
    words: str
    network: Network
    cure: str
    of_pods: bool = True


@dataclass(frozen=True, slots=True)
class Overlap:
    what: str
    with_what: str
    where: str  # the address or route, as `ip` writes it
    fatal: bool  # traffic breaks
    refusal: Refusal


def clash(ours: Range, with_what: str, where: str, why: str, cure: str, fatal: bool) -> Overlap:
    refusal = Refusal(Trouble.OVERLAP, f"{ours.words} overlaps {with_what}: {why}", cure)
    return Overlap(ours.words, with_what, where, fatal, refusal)


def worst(found: Iterable[Overlap]) -> list[Overlap]:
    """Of what one thing does to several ranges."""
    return sorted(found, key=lambda each: not each.fatal)[:1]


def ranges(
    pods: Sequence[Network],
    cluster: Sequence[Network],
    services: Sequence[Network],
    mesh: bool,
    records: Iterable[Attachment],
    others: Mapping[Network, str] | None = None,
) -> Ranges:
    """`pods` as configured; pools that interfaces of ours still have addresses of are this node's as well."""
    wired: set[str] = set()
    lent: set[str] = set()
    gateways: set[str] = set()
    for record in records:
        if record.link or record.goal is State.ALLOCATED:
            (wired if record.link else lent).update([each.pool for each in record.addresses])
            gateways.update([each.gateway for each in record.addresses if each.gateway and not record.link])
    own = tuple(dict.fromkeys((*pods, *map(ip_network, sorted(wired)))))
    lent_pools = tuple(map(ip_network, sorted(lent)))
    return Ranges(own, tuple(cluster), tuple(services), mesh, others or {}, lent_pools, frozenset(gateways))


# --- with other nodes


def beside(choice: Choice, others: Others, per_node: int) -> Choice:
    """The same choice, with what the other nodes have against it."""
    found = (*islice(_clashes(choice, others.networks), MANY), *_too_many(choice, others.nodes, per_node))
    told = [each.trouble for each in found if each.trouble]
    warnings = tuple(dict.fromkeys((*choice.warnings, *told)))
    return replace(choice, findings=(*choice.findings, *found), warnings=warnings)


def _clashes(choice: Choice, others: Mapping[Network, str]) -> Iterator[Finding]:
    cure = f"correct one of the two: {choice.looked_at}, or that of the other node; pods that run keep their addresses"
    if choice.guess:
        cure = "set network.podCIDR.nodeLocal (--pod-cidr) on one of the two, or let kube-controller-manager allocate"
    for network, name in others.items():
        for refusal in clashes(choice.cidrs, {f"node {name}": (network,)}):
            trouble = replace(refusal, details=cure)
            yield Finding(About.NODE, Source.API, f"Node {name}", (network,), False, trouble.msg, trouble)


def _too_many(choice: Choice, nodes: int, per_node: int) -> Iterator[Finding]:
    """For a share each: who does not guess may have another width, or somebody who counts."""
    where = next((each.looked_at for each in choice.findings if each.about is About.CLUSTER and each.taken), "")
    for cidr in choice.cluster_cidrs if choice.guess and nodes else ():
        trouble = no_share(cidr, where, per_node, nodes)
        if trouble is not None:
            yield Finding(About.CLUSTER, Source.API, "the list of Nodes", (), False, trouble.msg, trouble)
