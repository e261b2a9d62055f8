"""`headcni mesh why POD-OR-IP`: which link between this node and that address is broken, and how to mend it.

A pod of this node is found by its name; one of another node only by its address, for no file of this node knows it.
The links come from the last view, but where the kernel leads the packet is asked now, if it may be asked.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from ipaddress import ip_address, ip_network
from typing import Any

from cni.spec import Code, Refusal
from reconciler.mesh.model import Holds
from reconciler.mesh.why import Holder, Step, first_broken, to_other, to_own, way_of
from reconciler.operate.find import containers, is_address, matches
from reconciler.operate.mesh import Last, last_view
from reconciler.operate.mesh_kernel import kernel_way
from reconciler.operate.output import emit, table
from reconciler.operate.statedir import StateDir
from reconciler.settings import IpAddress, Network

WORDS = {Holds.YES: "   ok", Holds.NO: "   broken", Holds.UNKNOWN: "   ?"}


@dataclass(frozen=True, slots=True)
class Walk:
    address: IpAddress
    whose: str
    steps: list[Step]

    @property
    def all_hold(self) -> bool:
        return all(step.holds is Holds.YES for step in self.steps)


def why(args: Namespace, state: StateDir, now: float) -> int | Refusal:
    last = last_view(state, now)
    if isinstance(last, Refusal):
        return last
    addresses = _addresses(args.query, state)
    if isinstance(addresses, Refusal):
        return addresses
    walks: list[Walk] = []
    for address in addresses:
        walk = _walk(address, last, state)
        if isinstance(walk, Refusal):
            return walk
        walks.append(walk)
    if args.output in ("json", "yaml"):
        emit({"fresh": last.fresh, "walks": [_as_data(walk) for walk in walks]}, args.output)
    else:
        print(f"as of {last.as_of}")
        print("\n\n".join(_page(walk, last, args.output == "wide") for walk in walks))
    return 0 if last.fresh and all(walk.all_hold for walk in walks) else 1


def _addresses(query: str, state: StateDir) -> list[IpAddress] | Refusal:
    if is_address(query):
        return [ip_address(query)]
    found = [each for each in state.live() if matches(each.record, query)]
    if not found:
        cure = (
            "name a pod of another node by its IP address (`kubectl get pod -o wide`); `headcni pods` lists this node's"
        )
        return Refusal(Code.UNKNOWN_CONTAINER, f"no pod of this node matches {query!r}", cure)
    if len(containers(found)) > 1:
        what = f"{len(found)} attachments match {query!r}"
        return Refusal(Code.UNKNOWN_CONTAINER, what, "name one by its IP address or container id")
    addresses = [each.ip for found_one in found for each in found_one.record.addresses]
    if not addresses:
        return Refusal(Code.UNKNOWN_CONTAINER, f"{query!r} has no address yet", f"see `headcni show {query}`")
    return addresses


def _walk(address: IpAddress, last: Last, state: StateDir) -> Walk | Refusal:
    said = state.status()
    own_cidrs = [ip_network(each) for each in said.pod_cidrs] if said else []
    own = _covering(address, [*own_cidrs, *[chain.prefix for chain in last.view.chains]])
    if own is not None:
        steps = to_own(address, last.view, own, _holder(address, state), kernel_way(address))
        return Walk(address, f"a pod of this node, {own}", steps)
    way = way_of(address, last.view)
    if way is not None:
        return Walk(address, f"a pod of {way.name}, {way.prefix}", to_other(address, last.view, kernel_way(address)))
    cluster = state.cluster_cidrs()
    if cluster and _covering(address, cluster) is None:
        what = f"{address} is no pod address: it is outside of {', '.join(map(str, cluster))}, and no node announces it"
        return Refusal(Code.UNKNOWN_CONTAINER, what, "ask for the address of a pod")
    return Walk(address, "a pod of no node that this one knows of", to_other(address, last.view, None))


def _covering(address: IpAddress, networks: Iterable[Network]) -> Network | None:
    return next((network for network in networks if address in network), None)


def _holder(address: IpAddress, state: StateDir) -> Holder | None:
    for found in state.live():
        record = found.record
        if any(each.ip == address for each in record.addresses):
            problem = f"{record.problem.step}: {record.problem.msg}" if record.problem else ""
            host = record.link.host if record.link else ""
            return Holder(str(record.pod) or record.key, record.state.value, host, problem)
    return None


def _as_data(walk: Walk) -> dict[str, Any]:
    broken = first_broken(walk.steps)
    return {
        "address": str(walk.address),
        "whose": walk.whose,
        "steps": [asdict(step) for step in walk.steps],
        "broken": broken.link if broken else None,
        "cure": broken.cure if broken else "",
    }


def _page(walk: Walk, last: Last, wide: bool) -> str:
    broken = first_broken(walk.steps)
    rows = [(">> BROKEN" if step is broken else WORDS[step.holds], step.link, step.seen) for step in walk.steps]
    lines = [
        f"from {last.view.name or 'this node'} to {walk.address}, {walk.whose}",
        "",
        table(("   HOLDS", "LINK", "SEEN"), rows, wide, cut=("SEEN",)),
        "",
    ]
    if broken is not None:
        lines.append(f"broken: {broken.link}: {broken.seen}")
        lines += [f"cure:   {broken.cure}"] if broken.cure else []
    elif walk.all_hold:
        lines.append("every link holds" + ("" if last.fresh else ", or did when it was last seen"))
    else:
        lines.append("nothing is known to be broken, but not every link could be seen")
    return "\n".join(lines)
