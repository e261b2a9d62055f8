"""What Flannel made in the kernel: its interfaces, its routes to other nodes' pods, its chains. Read, never written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from reconciler.mesh.networks import covers
from reconciler.node import dump, ruleset
from reconciler.node.dump import LinkAddress, Route, number
from reconciler.node.listings import Chain
from reconciler.node.nearby import maker_of
from reconciler.node.ruleset import Chains
from reconciler.parsers import Network
from reconciler.wiring import codec as nl
from reconciler.wiring.netlink import Netlink
from reconciler.wiring.replies import link as decode
from reconciler.wiring.requests import ROUTE_PROTOCOL, get_links

BRIDGES = ("cni0", "cbr0")  # of the plugin `bridge`, to which Flannel's hands each pod
_MASTER, _BY_KERNEL = 10, 2


@dataclass(frozen=True, slots=True)
class Link:
    name: str
    kind: str  # bridge, vxlan, wireguard, …
    mtu: int
    addresses: tuple[str, ...] = ()
    ports: int = 0  # of a bridge: the pods that are plugged in now


def links() -> tuple[Link, ...]:
    with Netlink() as netlink:
        bodies = netlink.dump(get_links())
    ports = Counter(number(nl.attributes(body, nl.LINK.size), _MASTER) for body in bodies)
    held = dump.addresses()
    return tuple([_link(body, ports, held) for body in bodies if _is_flannels(decode(body).name)])


def _is_flannels(name: str) -> bool:
    maker = maker_of(name)
    return name in BRIDGES or (maker is not None and maker.name == "Flannel")


def _link(body: bytes, ports: Counter[int], held: Iterable[LinkAddress]) -> Link:
    found = decode(body)
    info = nl.attributes(nl.attributes(body, nl.LINK.size).get(nl.IFLA_LINKINFO, b""))
    return Link(
        found.name,
        info.get(nl.IFLA_INFO_KIND, b"").rstrip(b"\0").decode(),
        found.mtu,
        tuple([f"{each.address}/{each.prefix}" for each in held if each.link == found.index]),
        ports[found.index],
    )


def routes(networks: Sequence[Network], subnets: Sequence[Network]) -> tuple[tuple[Route, str], ...]:
    """Into the network of all pods, but not to this node's own; with the name of the interface."""
    found = dump.main_routes(lambda _, __, protocol, ___: protocol not in (_BY_KERNEL, ROUTE_PROTOCOL))
    return tuple([(each, dump.link_name(each.link)) for each in _to_others(found, networks, subnets)])


def _to_others(found: Iterable[Route], networks: Sequence[Network], subnets: Sequence[Network]) -> Iterator[Route]:
    for route in found:
        if route.link and route.kind == nl.RTN_UNICAST and route.dst not in subnets:
            if any(covers(each, route.dst) for each in networks):
                yield route


def chains() -> Chains:
    """Those of Flannel: FLANNEL-… of iptables, or tables of its own since it knows nftables."""
    seen = ruleset.chains()
    return Chains(tuple([each for each in seen.found if is_flannels(each)]), seen.blind)


def is_flannels(chain: Chain) -> bool:
    return chain.name.startswith("FLANNEL-") or chain.table.startswith("flannel-ipv")
