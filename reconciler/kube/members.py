"""The approver's list of nodes, from Kubernetes: pod CIDRs from `spec.podCIDRs`, identity from annotations.

Each daemon writes into its own Node who it is in the tailnet: its node key and its addresses there. The key is
preferred, for it is never anybody else's again; an address is, once Headscale has forgotten its node. The pod
CIDR is never taken from an annotation: it is what the cluster gave, not what the node wants.

What stands and falls with it: **who can write a Node's annotations can say which machine of the tailnet is that node**.
With a kubelet's credentials and the NodeRestriction admission plugin that is the node itself, and nobody else. Then
whoever has taken over node A

- can have A's own pod CIDR approved for another machine of the tailnet, if that machine announces it. A's pods are in
  his hands anyhow;
- can name the key of B as A's. Two entries for one machine contradict each other, so nothing new is approved for
  either, nothing is revoked, and the log names both (`approve.py`): an obstruction that is seen, not a theft;
- can not get B's pod CIDR, whole or in part: `spec.podCIDRs`, once set, cannot be changed. A node that has none yet
  may give itself one; if that overlaps another's, neither is approved, and what is approved stays.

An account that the daemons of all nodes share (a DaemonSet's ServiceAccount) is wider: RBAC knows no "own" Node. Who
has the token of A can name a machine of his own as B, and if it announces B's pod CIDR he may be sent packets of B's
pods, until B's daemon writes its annotation back. From Kubernetes 1.30 on, a ValidatingAdmissionPolicy can compare the
token's node with the Node that is written; before, use the kubelet's credentials, or the file of nodes (`--nodes`).

While the API is away the last list stays in force, and that is said. A Node that says nothing of itself is not
approved, and named.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from ipaddress import ip_address

from cni.spec import Refusal
from reconciler.kube import objects
from reconciler.kube.codes import Trouble
from reconciler.kube.follow import Finder, follow
from reconciler.kube.node import NODE_KEY, TAILNET_ADDRESS
from reconciler.kube.objects import Node
from reconciler.kube.ports import Seen, What
from reconciler.mesh.approve import Identity, Mark, Member
from reconciler.mesh.codes import Trouble as MeshTrouble
from reconciler.mesh.members import Reading

NODES = "/api/v1/nodes"
NAMED = 5  # of those that say nothing, in one message

_NODE_KEY = re.compile(r"nodekey:[0-9a-f]{64}")


class NodeList:
    """`read` is for the approver; `follow` keeps it up to date and runs beside it."""

    def __init__(self) -> None:
        self._nodes: dict[str, Node] = {}
        self._trouble: Refusal | None = Refusal(
            Trouble.API_UNREACHABLE, "the list of nodes was not read yet", "it takes a moment"
        )
        self._listed = False
        self._reading: Reading | None = None
        self._heard = asyncio.Event()

    async def follow(self, finder: Finder) -> None:
        await follow(finder, NODES, {}, objects.node, self.take)

    async def heard(self) -> None:
        """Until there is a list, or a reason why there is none."""
        await self._heard.wait()

    def take(self, seen: Seen | Refusal) -> None:
        self._reading = None
        self._heard.set()
        if isinstance(seen, Refusal):
            self._trouble = seen
            return
        self._trouble = None
        found: dict[str, Node] = {each.name: each for each in seen.objects}
        if seen.what is What.LISTED:
            self._nodes, self._listed = found, True
        elif seen.what is What.CHANGED:
            self._nodes |= found
        else:
            self._nodes = {name: each for name, each in self._nodes.items() if name not in found}

    def read(self) -> Reading | Refusal:
        """A refusal only while there never was a list."""
        if not self._listed and self._trouble is not None:
            return self._trouble
        if self._reading is None:
            members, silent = members_of(self._nodes.values())
            self._reading = Reading(members, self._problem(silent))
        return self._reading

    def _problem(self, silent: list[str]) -> Refusal | None:
        if self._trouble is not None:
            what = f"{self._trouble.msg}; the list of nodes from before stays in use"
            return Refusal(self._trouble.code, what, self._trouble.details)
        return _silent(silent) if silent else None


def members_of(nodes: Iterable[Node]) -> tuple[tuple[Member, ...], list[str]]:
    """And the names of those that have a pod CIDR, but do not say who they are in the tailnet."""
    members: list[Member] = []
    silent: list[str] = []
    for node in sorted(nodes, key=lambda each: each.name):
        identity = identity_of(node)
        if identity is not None:
            members.append(Member(node.name, node.pod_cidrs, identity))
        elif node.pod_cidrs:
            silent.append(node.name)
    return tuple(members), silent


def identity_of(node: Node) -> Identity | None:
    key = node.annotations.get(NODE_KEY, "")
    if _NODE_KEY.fullmatch(key):
        return Identity(Mark.NODE_KEY, key)
    try:
        address = ip_address(node.annotations.get(TAILNET_ADDRESS, "").partition(",")[0])
    except ValueError:
        return None
    return Identity(Mark.ADDRESS, str(address))


def _silent(names: list[str]) -> Refusal:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    what = f"nodes that do not say who they are in the tailnet: {', '.join(names[:NAMED])}{more}"
    cure = f"see that the daemon runs there with kube.mode auto and is joined: it writes {NODE_KEY}"
    return Refusal(MeshTrouble.NOT_JOINED, what, cure)
