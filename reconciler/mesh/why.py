"""Every link from this node to one pod address, in the order in which a packet meets them. Pure.

A link that holds is shown with what proves it, and one that does not with its cure; the first broken one is the answer,
for what comes after it often follows from it. A link nobody could look at is unknown, never taken for good. The way
back is part of the way: without this node's own prefix in force no answer arrives.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cni.spec import Refusal
from reconciler.mesh.codes import REMEDIES, Trouble
from reconciler.mesh.model import Chain, Holds, Link, LinkState, View, Way
from reconciler.mesh.networks import gateway
from reconciler.mesh.standing import cidrs, cure_of, finding, lone_pods, outside
from reconciler.settings import IpAddress, Network


@dataclass(frozen=True, slots=True)
class Step:
    link: str
    holds: Holds
    seen: str
    cure: str = ""


@dataclass(frozen=True, slots=True)
class Holder:
    """The pod of this node that has the address."""

    name: str
    state: str
    interface: str = ""  # the node's end of its link; empty until it is wired
    problem: str = ""


@dataclass(frozen=True, slots=True)
class KernelWay:
    """Where the kernel leads a packet to the address at this instant."""

    device: str  # empty where it is refused
    told: str


INFORMED = ("Headscale keeps this node informed", (Trouble.CONTROL_LOST,))
NODE = (
    ("tailscaled's preferences let pods pass", (Trouble.PREFERENCE, Trouble.TAILSCALED_LOCKED)),
    ("the firewall lets pods pass", (Trouble.FILTER,)),
)
BESIDES = (  # what need not stop this packet, so none of it is the answer where something else is broken
    INFORMED,
    ("fence and guard are in the kernel", (Trouble.FENCE,)),
    ("no other node claims this node's addresses", (Trouble.CIDR_CONFLICT,)),
    ("large packets fit", (Trouble.MTU,)),
)


def first_broken(steps: Sequence[Step]) -> Step | None:
    return next((step for step in steps if step.holds is Holds.NO), None)


def to_own(address: IpAddress, view: View, own: Network, holder: Holder | None, now: KernelWay | None) -> list[Step]:
    """To an address of this node's pod range, from this node; and from the others to that range."""
    return [*_to_holder(address, own, holder, now), *_chain_of(view, address, own)]


def to_other(address: IpAddress, view: View, now: KernelWay | None) -> list[Step]:
    member, way = _member(view), way_of(address, view)
    if way is None:
        return [member, _device(view), _unhindered(view, *INFORMED), _shown(address, member)]
    steps = [member, _device(view), _announced(view, way), _online(way), _routed(way)]
    if now is not None and view.device is not None:
        steps.append(_led(address, now, view.device.name, REMEDIES[Trouble.NOT_ACCEPTED][1]))
    steps += [_unhindered(view, *each) for each in NODE]
    steps += [*_way_back(address, view), _delivered(way)]
    return steps + [_unhindered(view, *each) for each in BESIDES]


def way_of(address: IpAddress, view: View) -> Way | None:
    ways = [way for way in view.ways if address in way.prefix]
    return max(ways, key=lambda way: (way.prefix.prefixlen, way.routed, way.online), default=None)


# --- to a pod of this node


def _to_holder(address: IpAddress, own: Network, holder: Holder | None, now: KernelWay | None) -> Iterator[Step]:
    link = "a pod of this node has the address"
    if holder is None and address == gateway(own):
        yield Step(link, Holds.YES, "it is this node's own, the gateway of its pods")
        return
    if holder is None:
        cure = f"`headcni history {address}` says who had it, `headcni pods` who is here"
        yield Step(link, Holds.NO, f"no pod of this node has {address}", cure)
        return
    yield Step(link, Holds.YES, f"{holder.name}, {holder.state}")
    if holder.interface:
        yield Step("its interface is there", Holds.YES, holder.interface)
    else:
        why = holder.problem or f"it is {holder.state}"
        yield Step("its interface is there", Holds.NO, why, f"see `headcni show {address}`")
    if holder.interface and now is not None:
        yield _led(address, now, holder.interface, REMEDIES[Trouble.FENCE][1])


def _chain_of(view: View, address: IpAddress, own: Network) -> Iterator[Step]:
    covering = [chain for chain in view.chains if address in chain.prefix]
    if not covering:
        yield Step(f"{own} is announced", Holds.UNKNOWN, "the daemon says nothing of it", "see `headcni mesh status`")
        return
    chain = max(covering, key=lambda chain: chain.prefix.prefixlen)
    for link in Link:
        yield _from_link(f"{chain.prefix} is {link.value}", chain.links[link])


# --- to a pod of another node


def _member(view: View) -> Step:
    link, why = "this node is in the tailnet", outside(view)
    return _broken(link, why) if why else Step(link, Holds.YES, f"{view.state}, tailscaled {view.version}".strip())


def _device(view: View) -> Step:
    link = "the mesh has its interface"
    if view.device is None:
        return Step(link, Holds.NO, "there is none", REMEDIES[Trouble.TAILSCALED_UNSUITABLE][1])
    return Step(link, Holds.YES, f"{view.device.name}, MTU {view.device.mtu}")


def _announced(view: View, way: Way) -> Step:
    rivals = sorted({each.name for each in view.ways if each.prefix == way.prefix and each.peer != way.peer})
    also = f"; so has {', '.join(rivals)}" if rivals else ""
    return Step("a node of the tailnet has it", Holds.YES, f"{way.name} has {way.prefix}{also}")


def _shown(address: IpAddress, member: Step) -> Step:
    """No node has it, as far as is seen."""
    link = "a node of the tailnet has it"
    if member.holds is not Holds.YES:
        return Step(link, Holds.UNKNOWN, "cannot be told from outside of the tailnet")
    cure = (
        "look on the node that has this address: `headcni mesh status` there says whether its prefix is announced and"
        " approved; is that node up? Else Headscale's policy hides it from this one"
    )
    return Step(link, Holds.NO, f"this node is shown no prefix with {address}", cure)


def _online(way: Way) -> Step:
    link = f"{way.name} is online"
    if way.online:
        return Step(link, Holds.YES, "Headscale says so")
    if way.delivered.holds is Holds.YES:
        return Step(link, Holds.UNKNOWN, "Headscale has lost it, but packets arrive")
    cure = f"see that {way.name} and its tailscaled run, and reach Headscale; the way heals by itself then"
    return Step(link, Holds.NO, "Headscale says it is not", cure)


def _routed(way: Way) -> Step:
    link = f"this node routes {way.prefix}"
    if way.routed:
        return Step(link, Holds.YES, "into the mesh")
    cure = "`headcni mesh repair` turns accept-routes off and on, which brings lost routes back"
    return Step(link, Holds.NO, "tailscaled's table has no route to it", cure)


def _led(address: IpAddress, now: KernelWay, device: str, cure: str) -> Step:
    holds = Holds.YES if now.device == device else Holds.NO
    return Step(f"the kernel leads {address} to {device}", holds, f"now: {now.told}", cure if holds is Holds.NO else "")


def _unhindered(view: View, link: str, codes: Sequence[Trouble]) -> Step:
    found = finding(view, codes)
    return _broken(link, found.trouble) if found else Step(link, Holds.YES, "nothing against it was seen")


def _way_back(address: IpAddress, view: View) -> Iterator[Step]:
    chains = _own(view, address.version)
    if not chains:
        cure = "give this node a pod CIDR of that family, network.podCIDR.nodeLocal"
        yield Step("answers find back", Holds.NO, f"this node has no IPv{address.version} pod CIDR", cure)
    for chain in chains:
        yield _in_force(chain)
        yield _from_link(f"other nodes accept {chain.prefix}", chain.links[Link.ACCEPTED])


def _own(view: View, version: int) -> list[Chain]:
    """The pod CIDRs; or, of pods that are announced one by one, the one that is worst off."""
    whole = [chain for chain in cidrs(view) if chain.prefix.version == version]
    pods = [chain for chain in lone_pods(view) if chain.prefix.version == version]
    return whole or sorted(pods, key=lambda chain: chain.in_force)[:1]


def _in_force(chain: Chain) -> Step:
    link = f"{chain.prefix} is in force, so answers find back"
    states = [chain.links[each] for each in (Link.ANNOUNCED, Link.APPROVED, Link.SERVING)]
    if chain.in_force:
        return Step(link, Holds.YES, states[-1].evidence)
    holds = Holds.NO if any(state.holds is Holds.NO for state in states) else Holds.UNKNOWN
    missing = chain.missing or Refusal(0, "it cannot be told yet", "see again in a moment")
    return Step(link, holds, missing.msg, cure_of(missing))


def _delivered(way: Way) -> Step:
    link = f"packets to {way.prefix} are answered"
    seen = way.delivered.evidence
    if way.delivered.holds is Holds.YES:
        return Step(link, Holds.YES, "; ".join(filter(None, (seen, way.path))))
    trouble = way.delivered.trouble
    if way.delivered.holds is Holds.UNKNOWN:
        return Step(link, Holds.UNKNOWN, (trouble.msg if trouble else seen) or "not probed yet")
    cure = (
        f"look on {way.name}: `headcni mesh status`, shields-up, and whether its firewall lets in UDP mesh.probePort"
        " from the mesh interface; then whether Headscale's policy lets the pod ranges reach each other"
    )
    return Step(link, Holds.NO, (trouble.msg if trouble else seen) or "no answer", cure)


# --- common


def _broken(link: str, trouble: Refusal) -> Step:
    return Step(link, Holds.NO, trouble.msg, cure_of(trouble))


def _from_link(link: str, state: LinkState) -> Step:
    if state.holds is Holds.YES or state.trouble is None:
        return Step(link, state.holds, state.evidence)
    return Step(link, state.holds, state.trouble.msg, cure_of(state.trouble))
