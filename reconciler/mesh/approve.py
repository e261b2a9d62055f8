"""What an approver does for each node of the cluster, and what it must not do: decided here, purely.

A node is known by what it cannot choose: its address in the tailnet, its node key, or its id in Headscale. Never by a
host name or given name: any machine that may join the tailnet can call itself `worker-1`, announce that worker's pods,
and be sent their packets.

A node is approved exactly what it announces *and* what the cluster gave it: its pod CIDR, and single addresses in it
(an announcement per pod). What else of it is approved inside the cluster's CIDRs is stale, from a CIDR it had before,
and is revoked. Outside the cluster's CIDRs nothing is touched: exit nodes and subnets of others are not ours.

Where the node list contradicts itself, the prefixes in question are neither approved nor revoked, so that a mistake in
it cuts off no node that works; the rest goes on. Each such thing is a `Finding` that names it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from cni.spec import Code, Refusal
from reconciler.mesh.codes import Trouble
from reconciler.mesh.control.backend import Wish
from reconciler.mesh.model import ControlNode, Finding
from reconciler.mesh.networks import covers, overlap
from reconciler.settings import Network


class Mark(StrEnum):
    """By what a node is recognised; as a node list calls it."""

    ADDRESS = "address"
    NODE_KEY = "nodeKey"
    ID = "id"


@dataclass(frozen=True, slots=True)
class Identity:
    mark: Mark
    value: str

    def __str__(self) -> str:
        return f"{self.mark} {self.value}"


@dataclass(frozen=True, slots=True)
class Member:
    """A node of the cluster. Without pod CIDRs (not given yet) nothing is done for it."""

    name: str
    pod_cidrs: tuple[Network, ...]
    identity: Identity


@dataclass(frozen=True, slots=True)
class Approval:
    member: Member
    wish: Wish

    @property
    def approves(self) -> frozenset[Network]:
        return self.wish.wanted - self.wish.node.approved

    @property
    def revokes(self) -> frozenset[Network]:
        return self.wish.unwanted & self.wish.node.approved


@dataclass(frozen=True, slots=True)
class Approvals:
    todo: tuple[Approval, ...]  # only those that change something
    problems: tuple[Finding, ...]

    @property
    def waiting(self) -> bool:
        """A node of the cluster is still to come, or to announce its CIDR."""
        return any(each.trouble.code in (Trouble.NOT_JOINED, Trouble.NOT_ANNOUNCED) for each in self.problems)


def decide(cluster: Sequence[Network], members: Sequence[Member], nodes: Sequence[ControlNode]) -> Approvals:
    contested, problems = _contested(members)
    matched, unmatched = _matched(members, nodes)
    problems += unmatched
    todo: list[Approval] = []
    for member in members:
        inside = [cidr for cidr in member.pod_cidrs if any(covers(each, cidr) for each in cluster)]
        problems += [_outside(member, cidr, cluster) for cidr in member.pod_cidrs if cidr not in inside]
        node = matched.get(member.identity)
        if node is None or not member.pod_cidrs:
            continue
        allowed = [cidr for cidr in inside if (member.name, cidr) not in contested]
        approval = Approval(member, _wish(node, member, allowed, cluster))
        if approval.approves or approval.revokes:
            todo.append(approval)
        silent = [cidr for cidr in allowed if not any(_is_of(prefix, cidr) for prefix in node.announced)]
        problems += [_unannounced(member, node, cidr) for cidr in silent]
    problems += _foreign(cluster, members, matched, nodes)
    return Approvals(tuple(todo), tuple(problems))


def _wish(node: ControlNode, member: Member, allowed: Sequence[Network], cluster: Sequence[Network]) -> Wish:
    wanted = {prefix for prefix in node.announced if any(_is_of(prefix, cidr) for cidr in allowed)}
    stale = {
        prefix
        for prefix in node.approved
        if any(covers(each, prefix) for each in cluster) and not any(covers(cidr, prefix) for cidr in member.pod_cidrs)
    }
    return Wish(node, frozenset(wanted), frozenset(stale))


def _is_of(prefix: Network, cidr: Network) -> bool:
    """The CIDR itself, or one address in it."""
    return prefix == cidr or (prefix.num_addresses == 1 and covers(cidr, prefix))


def _contested(members: Iterable[Member]) -> tuple[set[tuple[str, Network]], list[Finding]]:
    """Two networks overlap only if one covers the other; sorted, what it covers follows it."""
    claims = sorted(
        ((cidr, member) for member in members for cidr in member.pod_cidrs),
        key=lambda claim: (claim[0].version, int(claim[0].network_address), claim[0].prefixlen),
    )
    contested: set[tuple[str, Network]] = set()
    problems: list[Finding] = []
    outer: tuple[Network, Member] | None = None
    for cidr, member in claims:
        if outer is None or not covers(outer[0], cidr):
            outer = cidr, member
        elif member is not outer[1]:
            contested |= {(outer[1].name, outer[0]), (member.name, cidr)}
            what = f"{member.name} has {cidr}, which overlaps {outer[0]} of {outer[1].name}"
            cure = "give one of them another CIDR; until then neither is approved, and what is approved is left"
            problems.append(_finding(f"overlap {member.name} {cidr}", Trouble.CIDR_CONFLICT, what, cure))
    return contested, problems


def _matched(
    members: Sequence[Member], nodes: Sequence[ControlNode]
) -> tuple[dict[Identity, ControlNode], list[Finding]]:
    by_mark: dict[Identity, list[ControlNode]] = {}
    for node in nodes:
        for identity in _identities(node):
            by_mark.setdefault(identity, []).append(node)
    claimed = Counter(node.id for member in members for node in by_mark.get(member.identity, ()))
    matched: dict[Identity, ControlNode] = {}
    problems: list[Finding] = []
    for member in members:
        found = by_mark.get(member.identity, [])
        if len(found) == 1 and claimed[found[0].id] == 1:
            matched[member.identity] = found[0]
        else:
            problems.append(_unmatched(member, found))
    return matched, problems


def _identities(node: ControlNode) -> Iterator[Identity]:
    yield Identity(Mark.NODE_KEY, node.key)
    yield Identity(Mark.ID, node.id)
    for address in node.addresses:
        yield Identity(Mark.ADDRESS, str(address))


def _unmatched(member: Member, found: Sequence[ControlNode]) -> Finding:
    key = f"node {member.name}"
    if not found:
        what = f"{member.name}: no node of the tailnet has {member.identity}"
        return _finding(key, Trouble.NOT_JOINED, what, "join the node, or correct its entry")
    ids = ", ".join(node.id for node in found)
    if len(found) > 1:
        what = f"{member.name}: {member.identity} is that of several nodes of the tailnet (ids {ids})"
        return _finding(key, Code.INVALID_CONFIGURATION, what, "name it by its id, or delete the others in Headscale")
    what = f"{member.name}: {member.identity} is node {ids} of the tailnet, which another entry names, too"
    return _finding(key, Code.INVALID_CONFIGURATION, what, "correct one of the entries; nothing is approved for either")


def _outside(member: Member, cidr: Network, cluster: Sequence[Network]) -> Finding:
    what = f"{member.name}: {cidr} lies outside the cluster's pod CIDRs ({', '.join(map(str, cluster))})"
    return _finding(f"outside {member.name} {cidr}", Code.INVALID_CONFIGURATION, what, "correct it, or --cluster-cidr")


def _unannounced(member: Member, node: ControlNode, cidr: Network) -> Finding:
    what = f"{member.name} (node {node.id}) does not announce {cidr}"
    cure = "see the log of its daemon; `headcni mesh` on it says what is missing"
    return _finding(f"announced {member.name} {cidr}", Trouble.NOT_ANNOUNCED, what, cure)


def _foreign(
    cluster: Sequence[Network],
    members: Iterable[Member],
    matched: Mapping[Identity, ControlNode],
    nodes: Iterable[ControlNode],
) -> Iterator[Finding]:
    """Who announces pods that are not its own. A default route is no such thing: that is an exit node."""
    owned = {node.id: member for member in members if (node := matched.get(member.identity)) is not None}
    for node in nodes:
        member = owned.get(node.id)
        for prefix in sorted(node.announced, key=str):
            if prefix.prefixlen == 0 or not any(overlap(prefix, each) for each in cluster):
                continue
            if member is None or not any(covers(cidr, prefix) for cidr in member.pod_cidrs):
                yield _intruder(node, member, prefix)


def _intruder(node: ControlNode, member: Member | None, prefix: Network) -> Finding:
    who = f"{member.name if member else node.name} (node {node.id})"
    what = f"{who} announces {prefix}, which is pods of this cluster and not its own"
    if member is None:
        what = f"{who} announces {prefix}, which is pods of this cluster, and is not known to be a node of it"
    if prefix in node.approved:
        what += ", and that is approved"
    cure = "withdraw it there and in Headscale; or add the node to the list, if it belongs to the cluster"
    return _finding(f"intruder {node.id} {prefix}", Trouble.CIDR_CONFLICT, what, cure)


def _finding(key: str, code: int, what: str, cure: str) -> Finding:
    return Finding(key, Refusal(code, what, cure))
