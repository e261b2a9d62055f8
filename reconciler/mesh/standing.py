"""Where this node stands, told from the view: whether it is a member of the tailnet, and what of it is in force.

A node that says `Running` may be no working member: deleted in Headscale, or joined elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection

from cni.spec import Refusal
from reconciler.mesh.codes import REMEDIES, Trouble
from reconciler.mesh.model import Chain, Finding, View
from reconciler.mesh.networks import covers

OUTSIDE = (
    Trouble.TAILSCALED_UNREACHABLE,
    Trouble.TAILSCALED_UNSUITABLE,
    Trouble.NOT_JOINED,
    Trouble.JOINED_ELSEWHERE,
    Trouble.JOIN_REFUSED,
    Trouble.KEY_EXPIRED,
    Trouble.NODE_DELETED,
    Trouble.MESH_STOPPED,
)
NOT_OF_PODS = ("exit-node-without-snat",)  # a preference as pods need it, and as others do not
STATES = {
    "unreachable": Trouble.TAILSCALED_UNREACHABLE,
    "NeedsLogin": Trouble.NOT_JOINED,
    "Stopped": Trouble.MESH_STOPPED,
}


def outside(view: View) -> Refusal | None:
    """Why this node is no working member."""
    found = finding(view, OUTSIDE)
    if found is not None:
        return found.trouble
    if view.state == "Running":
        return None
    if view.state in STATES:
        return Refusal(STATES[view.state], *REMEDIES[STATES[view.state]])
    what = f"tailscaled's state is {view.state}: it starts, or waits for Headscale"  # NoState, Starting
    return Refusal(Trouble.CONTROL_LOST, what, "see that Headscale runs and is reachable from this node")


def in_force(view: View) -> bool:
    """Everything that this node announces. Where that is nothing (no pods, and each announced alone), membership."""
    chains = (*cidrs(view), *lone_pods(view))
    return all(chain.in_force for chain in chains) if chains else outside(view) is None


def cidrs(view: View) -> tuple[Chain, ...]:
    return tuple([chain for chain in view.chains if not _single(chain)])


def lone_pods(view: View) -> tuple[Chain, ...]:
    """Of the pods that are announced one by one, those that depend on it: no CIDR in force covers them."""
    carrying = [chain.prefix for chain in cidrs(view) if chain.in_force]
    pods = [chain for chain in view.chains if _single(chain)]
    return tuple([pod for pod in pods if not any(covers(cidr, pod.prefix) for cidr in carrying)])


def _single(chain: Chain) -> bool:
    return chain.prefix.prefixlen == chain.prefix.max_prefixlen


def finding(view: View, codes: Collection[Trouble]) -> Finding | None:
    """The first of these that pods may suffer from."""
    found = (each for each in view.findings if each.key not in NOT_OF_PODS)
    return next((each for each in found if each.trouble.code in codes), None)


def cure_of(trouble: Refusal) -> str:
    """The one for this case, or else the general one."""
    return trouble.details or next((cure for known, (_, cure) in REMEDIES.items() if known == trouble.code), "")
