"""The networks that this node is part of, without those that HeadCNI and the mesh made.

An interface whose name says that a container engine or another CNI plugin made it holds containers of this node, never
its way out. Anything else is taken for a network of hosts. The mesh's interface is known by its addresses, for its
name is the operator's choice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_network

from reconciler.ipam.pool import Address, Network
from reconciler.node.dump import LinkAddress, Route
from reconciler.node.wish import LINK_PREFIX

TAILNET: tuple[Network, ...] = (ip_network("100.64.0.0/10"), ip_network("fd7a:115c:a1e0::/48"))


@dataclass(frozen=True, slots=True)
class Maker:
    name: str
    cure: str  # of an overlap; `{link}` stands for the interface
    holds_services: bool = False  # it has addresses of Services on purpose


_DOCKER = 'give Docker another network: "bip" in /etc/docker/daemon.json, or `docker network create --subnet`'
_LIBVIRT = "give libvirt another network: virsh net-edit, then net-destroy and net-start"
_ENGINE = "give {link} another network, or the pods"
_LEFT = "if that CNI plugin is no longer used here, remove what it left: ip link del {link}"
_BRIDGE = (
    "if the plugin `bridge` or `ptp` has its addresses from HeadCNI, this is as it should be; else another CNI "
    "plugin left it: ip link del {link}"
)
_NODE_LOCAL = "choose another address for {link}"

_MAKERS = (
    (r"docker0|docker_gwbridge|br-[0-9a-f]{12}", Maker("Docker", _DOCKER)),
    (r"virbr\d+", Maker("libvirt", _LIBVIRT)),
    (r"(cni-)?podman\d+|nerdctl\d+|lxcbr\d+|lxdbr\d+|incusbr\d+", Maker("a container engine", _ENGINE)),
    (r"flannel(-v6)?[.-].+|flannel\d+", Maker("Flannel", _LEFT)),
    (r"cali[0-9a-f]{11}|vxlan(-v6)?\.calico|tunl0|wireguard\.cali", Maker("Calico", _LEFT)),
    (r"cilium_.+|lxc[0-9a-f]{12}|lxc_health", Maker("Cilium", _LEFT)),
    (r"weave|vethwe.*", Maker("Weave", _LEFT)),
    (r"kube-bridge", Maker("kube-router", _LEFT)),
    (r"antrea-gw0", Maker("Antrea", _LEFT)),
    (r"cni\d+|cbr0|veth[0-9a-f]{7,8}", Maker("another CNI plugin", _BRIDGE)),
    (r"kube-ipvs0", Maker("kube-proxy", _NODE_LOCAL, holds_services=True)),
    (r"kube-dummy-if", Maker("kube-router", _NODE_LOCAL, holds_services=True)),
    (r"nodelocaldns", Maker("NodeLocal DNSCache", _NODE_LOCAL, holds_services=True)),
)
_KNOWN = tuple((re.compile(pattern), maker) for pattern, maker in _MAKERS)


def maker_of(link: str) -> Maker | None:
    return next((maker for pattern, maker in _KNOWN if pattern.fullmatch(link)), None)


@dataclass(frozen=True, slots=True)
class Near:
    link: str
    network: Network
    address: Address  # this node's
    maker: Maker | None
    hops: tuple[Address, ...]  # next hops of the routes by this interface

    @property
    def words(self) -> str:
        whose = f" ({self.maker.name})" if self.maker else ""
        return f"the network {self.network} of {self.link}{whose}"

    @property
    def where(self) -> str:
        return f"{self.address}/{self.network.prefixlen} dev {self.link}"


def nearby(addresses: Sequence[LinkAddress], routes: Sequence[Route], name: Callable[[int], str]) -> Iterator[Near]:
    mesh, seen = mesh_links(addresses), set()
    for entry in addresses:
        link, network = name(entry.link), ip_network((entry.address, entry.prefix), strict=False)
        if entry.ours or entry.link in mesh or link.startswith(LINK_PREFIX) or entry.address.is_loopback:
            continue
        if (link, network) not in seen:  # IPv6 has several addresses in one network
            seen.add((link, network))
            hops = [route.via for route in routes if route.link == entry.link and route.via]
            alike = tuple([hop for hop in hops if hop.version == network.version])
            yield Near(link, network, entry.address, maker_of(link), alike)


def mesh_links(addresses: Iterable[LinkAddress]) -> frozenset[int]:
    alone = [each for each in addresses if each.prefix == each.address.max_prefixlen]
    return frozenset(each.link for each in alone if any(each.address in network for network in TAILNET))
