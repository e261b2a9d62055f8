"""Overlaps that matter only with a mesh: with the range of tailnets, and with what the mesh leads away.

tailscaled's table is asked before the main table, so whatever it accepted wins, also against a network that this node
is part of. A rule that leads to the main table first, as `mesh.guard` sets it, keeps that network.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from reconciler.ipam.pool import Network
from reconciler.mesh.networks import covers, overlap
from reconciler.node import dump
from reconciler.node.clash import Overlap, Range, Ranges, clash
from reconciler.node.dump import LinkAddress, Rule
from reconciler.node.nearby import TAILNET, Near, mesh_links
from reconciler.wiring import codec as nl
from reconciler.wiring.netlink import Netlink

_TABLE, _PREFERENCE = 52, 5270  # tailscaled's, and of its rule that leads there


def led_away() -> tuple[Network, ...]:
    with Netlink() as netlink:
        bodies = [body for family in nl.FAMILY.values() for body in dump.table(netlink, family, _TABLE)]
    return tuple([dump.network(body, nl.attributes(body, nl.ROUTE.size)) for body in bodies])


def tailnet(
    ranges: Ranges, addresses: Sequence[LinkAddress], led_away: Sequence[Network], near: Iterable[Near]
) -> Iterator[Overlap]:
    links = mesh_links(addresses)
    members = [each.address for each in addresses if each.link in links]
    members += [each.network_address for each in led_away if each.prefixlen == each.max_prefixlen]
    for whole in TAILNET:
        words = f"{whole}, the range of tailnets"
        for ours in ranges.each():
            if overlap(ours.network, whole):
                taken = next((each for each in members if each in ours.network), None)
                why = f"{taken} is a node there" if taken else "tailscaled drops what comes from there by another way"
                yield clash(ours, words, str(whole), why, ours.cure, taken is not None)
        for each in near:
            if overlap(each.network, whole):
                what = Range(each.words, each.network, "")
                cure = f"renumber {each.link}, or run `tailscale set --netfilter-mode=off`"
                why = "tailscaled drops what comes from there by another way"
                yield clash(what, words, each.where, why, cure, False)


def stolen(
    ranges: Ranges, led_away: Iterable[Network], rules: Sequence[Rule], near: Sequence[Near]
) -> Iterator[Overlap]:
    first = [rule for rule in rules if rule.plain and rule.preference < _PREFERENCE]
    kept = [rule.dst for rule in first if rule.table == nl.RT_TABLE_MAIN]
    for network in led_away:
        if 0 < network.prefixlen < network.max_prefixlen:
            for each in near:
                if overlap(network, each.network) and not _is_kept(network, each.network, kept):
                    yield _stolen(network, ranges.others.get(network, ""), each)


def _is_kept(one: Network, other: Network, kept: Iterable[Network]) -> bool:
    shared = one if covers(other, one) else other
    return any(covers(each, shared) for each in kept)


def _stolen(network: Network, node: str, near: Near) -> Overlap:
    whose = f"{network} of node {node}" if node else f"{network}, which another node announces,"
    lost = next((hop for hop in near.hops if hop in network), None)
    why = f"{lost}, the next hop of this node's routes," if lost else "what is there"
    fatal = not near.maker and (lost is not None or covers(network, near.network))
    cure = f"add {near.network} to mesh.guard; or see that {network} is no longer announced"
    return clash(Range(whose, network, ""), near.words, near.where, f"{why} is sought in the mesh", cure, fatal)
