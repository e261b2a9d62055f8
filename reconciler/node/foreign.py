"""Who else on this node holds an address that a pool might give to a pod.

An address is held when it is one of an interface that is not ours, or when a route that is not ours and is narrower
than the pool leads to it: a host route, or another bridge's network inside the pool. A route as wide as the pool or
wider holds nothing: every address lies under the default route, and a pod CIDR is often routed as a whole. (That the
pool overlaps with such a network is told by the overlap check, not by refusing every address.)

The node's own gateway addresses are held as well, by the node. No pool of theirs gives them away; but one with another
gateway would, and that pod could not be reached.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from reconciler.ipam.pool import Address, Network
from reconciler.node.dump import LinkAddress, Route, addresses, link_name, main_routes
from reconciler.node.wish import LINK_PREFIX
from reconciler.wiring.requests import ROUTE_PROTOCOL


@dataclass(frozen=True)
class ForeignAddresses(Mapping[Address, str]):
    """An address to the words for who holds it. Iteration gives single addresses only, not those of `networks`."""

    single: Mapping[Address, str] = field(default_factory=dict)
    networks: tuple[tuple[Network, str], ...] = ()

    def __getitem__(self, address: Address) -> str:
        if address in self.single:
            return self.single[address]
        for network, holder in self.networks:
            if address in network:
                return holder
        raise KeyError(address)

    def __iter__(self) -> Iterator[Address]:
        return iter(self.single)

    def __len__(self) -> int:
        return len(self.single)


def read(pools: Iterable[Network]) -> ForeignAddresses:
    pools = tuple(pools)
    widest = {version: min((p.prefixlen for p in pools if p.version == version), default=128) for version in (4, 6)}
    routes = main_routes(lambda version, bits, protocol, _: protocol != ROUTE_PROTOCOL and bits > widest[version])
    return judge(addresses(), routes, pools, link_name)


def judge(
    found: Iterable[LinkAddress], routes: Iterable[Route], pools: tuple[Network, ...], name: Callable[[int], str]
) -> ForeignAddresses:
    """Pure, with `name` telling an interface's name from its index."""
    single: dict[Address, str] = {}
    networks: list[tuple[Network, str]] = []
    for route in routes:
        if not any(_inside(route.dst, pool) for pool in pools):
            continue
        link = name(route.link) if route.link else ""
        if link.startswith(LINK_PREFIX):
            continue
        words = f"a route leads {route.dst}" + (f" via {route.via}" if route.via else "") + f" to {link or 'nowhere'}"
        if route.dst.num_addresses == 1:
            single[route.dst.network_address] = words
        else:
            networks.append((route.dst, words))
    for entry in found:
        link = name(entry.link)
        if entry.ours:
            single[entry.address] = "it is this node's gateway address"
        elif not link.startswith(LINK_PREFIX):
            single[entry.address] = f"{link} has the address {entry.address}/{entry.prefix}"
    return ForeignAddresses(single, tuple(networks))


def _inside(network: Network, pool: Network) -> bool:
    if network.version != pool.version or network.prefixlen <= pool.prefixlen:
        return False
    return network.network_address in pool
