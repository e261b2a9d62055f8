"""Where the cluster's address ranges and those around this node overlap, and whether traffic breaks by it.

Pods are routed one by one, each by a route narrower than anybody else's. So a range that overlaps does not cut off
the pods; it hides whoever has the same address outside. That breaks traffic (`fatal`) where it hides this node
itself, the next hop of its routes, or the whole network by which it reaches others; where pods and Services share
addresses; where the mesh leads the node's own network away. Anything else is a warning, with the interface or route
that clashes, because what it hides may never be asked for: one host, in a /8 behind a VPN, that has a pod's address.

Each interface and each route is told once, with the range that suffers most. Not told: routes inside the cluster's
pod CIDR to pods of other nodes (somebody routes them on purpose; those past the mesh are the fence's to tell), and
addresses of Services that kube-proxy puts on an interface of its own. That two nodes have the same pods is told where
it is learned: by the mesh (`reconciler/mesh/findings.py`) and with the pod CIDR (`reconciler/node/shares.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from reconciler.ipam.pool import Network
from reconciler.mesh.networks import covers, overlap
from reconciler.node import dump, overlap_mesh
from reconciler.node.clash import Overlap, Range, Ranges, clash, worst
from reconciler.node.dump import LinkAddress, Route, Rule
from reconciler.node.nearby import Near, maker_of, nearby
from reconciler.node.wish import LINK_PREFIX
from reconciler.wiring import codec as nl
from reconciler.wiring.requests import ROUTE_PROTOCOL

_BY_KERNEL = 2  # the protocol of a connected network's route: its interface tells of it


@dataclass(frozen=True, slots=True)
class Around:
    """What the kernel holds."""

    addresses: Sequence[LinkAddress] = ()
    routes: Sequence[Route] = ()  # of the main table, without ours
    led_away: Sequence[Network] = ()  # into the mesh, by its own table
    rules: Sequence[Rule] = ()


def read(mesh: bool) -> Around:
    """A millisecond or two; and one for each hundred routes of the mesh."""
    routes = dump.main_routes(lambda _, __, protocol, ___: protocol != ROUTE_PROTOCOL)
    led_away = overlap_mesh.led_away() if mesh else ()
    return Around(dump.addresses(), routes, led_away, dump.rules() if mesh else ())


def look(ranges: Ranges) -> tuple[Overlap, ...]:
    return judge(ranges, read(ranges.mesh), dump.link_name)


def judge(ranges: Ranges, around: Around, name: Callable[[int], str]) -> tuple[Overlap, ...]:
    """Pure, with `name` telling an interface's name from its index. The fatal ones first."""
    near = tuple(nearby(around.addresses, around.routes, name))
    found = [*_among_themselves(ranges), *_links(ranges, near), *_routes(ranges, around.routes, near, name)]
    if ranges.mesh:
        found += overlap_mesh.tailnet(ranges, around.addresses, around.led_away, near)
        found += overlap_mesh.stolen(ranges, around.led_away, around.rules, near)
    return tuple(sorted(found, key=lambda each: not each.fatal))


def _among_themselves(ranges: Ranges) -> Iterator[Overlap]:
    for ours in ranges.each():
        for services in ranges.services:
            if ours.of_pods and overlap(ours.network, services):
                why = "a pod may get the address of a Service"
                if ranges.mesh:
                    why += ", and the fence around pods keeps this node from its Services"
                cure = "give pods and Services ranges of their own (network.podCIDR.base, network.serviceCIDR)"
                fatal = ours.network in ranges.pods or ranges.mesh
                yield clash(ours, f"the range of Services {services}", str(services), why, cure, fatal)


# --- interfaces


def _links(ranges: Ranges, near: Iterable[Near]) -> Iterator[Overlap]:
    for each in near:
        theirs = each.maker or str(each.address) in ranges.lent_gateways
        if not (theirs and _is_lent(each.network, ranges)):
            yield from worst(found for ours in ranges.each() if (found := _with_link(ours, each, ranges)))


def _is_lent(network: Network, ranges: Ranges) -> bool:
    return any(covers(pool, network) for pool in ranges.lent)


def _with_link(ours: Range, near: Near, ranges: Ranges) -> Overlap | None:
    touched = overlap(ours.network, near.network)
    if near.maker:
        if not touched or (near.maker.holds_services and not ours.of_pods):
            return None
        why = "containers there and in the cluster may have the same address"
        return clash(ours, near.words, near.where, why, near.maker.cure.format(link=near.link), False)
    harm = _harm(ours, near, ranges) if ours.of_pods else ""
    if not (touched or harm):
        return None
    return clash(ours, near.words, near.where, harm or "hosts there may be hidden", ours.cure, bool(harm))


def _harm(pods: Range, near: Near, ranges: Ranges) -> str:
    """What pods take the place of, or cannot reach, that somebody needs; empty where it is only some host."""
    lost = next((hop for hop in near.hops if hop in pods.network), None)
    if lost is not None:
        return f"{lost}, the next hop of this node's routes, has an address of pods"
    if not near.hops and pods.network not in ranges.pods:
        return ""  # no way out, and the pods of this node have other addresses
    if near.address in pods.network:
        return f"this node's own address {near.address} is one of pods"
    return "all hosts there have addresses of pods" if covers(pods.network, near.network) else ""


# --- routes


def _routes(
    ranges: Ranges, routes: Iterable[Route], near: Iterable[Near], name: Callable[[int], str]
) -> Iterator[Overlap]:
    connected, told = {each.network for each in near}, set()
    for route in routes:
        by_kernel = route.protocol == _BY_KERNEL or (route.via is None and route.dst in connected)
        if not route.dst.prefixlen or by_kernel:
            continue  # each pod's link has one
        link = name(route.link) if route.link else ""
        if link.startswith(LINK_PREFIX):
            continue
        maker = maker_of(link)
        if maker and (maker in told or _is_lent(route.dst, ranges)):
            continue  # another plugin may have one for each of its pods
        for found in worst(each for ours in ranges.each() if (each := _with_route(ours, ranges, route, link))):
            told.add(maker)
            yield found


def _with_route(ours: Range, ranges: Ranges, route: Route, link: str) -> Overlap | None:
    if not overlap(ours.network, route.dst) or _on_purpose(ours, ranges, route.dst):
        return None
    where = str(route.dst) + (f" via {route.via}" if route.via else "") + (f" dev {link}" if link else "")
    nowhere = "" if route.kind == nl.RTN_UNICAST else " (which leads nowhere)"
    what = f"the route {where} of protocol {route.protocol}{nowhere}"
    hides = "hosts there may be hidden" if covers(route.dst, ours.network) else "no pod gets an address there"
    maker = maker_of(link)
    cure = maker.cure.format(link=link) if maker else f"remove it, if nobody needs it: ip route del {where}"
    return clash(ours, what, where, hides, f"{cure}; or {ours.cure}", False)


def _on_purpose(ours: Range, ranges: Ranges, dst: Network) -> bool:
    """To pods as a whole, to those of another node, to Services."""
    if not ours.of_pods:
        return covers(ours.network, dst)
    return any(covers(whole, dst) for whole in ranges.cluster) and not any(covers(own, dst) for own in ranges.pods)
