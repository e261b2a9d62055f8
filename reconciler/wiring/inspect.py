"""The difference between what one end of a link must have and what it has, in words.

Only what is missing or different counts. What else is there belongs to plugins that came after us in the chain, or to
the operator, and CHECK is told to tolerate it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from errno import ENODEV

from reconciler.ipam.pool import Address
from reconciler.wiring import codec, replies, requests
from reconciler.wiring.netlink import Netlink
from reconciler.wiring.plan import End, Neighbour, Route


@dataclass(frozen=True, slots=True)
class Held:
    """All that the kernel has at one interface."""

    link: replies.Link
    addresses: frozenset[tuple[Address, int]]
    routes: frozenset[Route]
    neighbours: frozenset[tuple[Neighbour, bool]]


def look(netlink: Netlink, end: End) -> Held | None:
    link = find_link(netlink, end.name)
    try:
        return _held(netlink, end, link) if link else None
    except OSError as error:
        if error.errno == ENODEV:
            return None  # it went while we looked
        raise


def _held(netlink: Netlink, end: End, link: replies.Link) -> Held:
    families = sorted({codec.FAMILY[address.version] for address in end.addresses})
    at = link.index
    addresses = [netlink.dump(requests.get_addresses(family, at)) for family in families]
    routes = [netlink.dump(requests.get_routes(family, at)) for family in families]
    neighbours = [netlink.dump(requests.get_neighbours(family, at)) for family in families]
    return Held(
        link=link,
        addresses=frozenset([each for bodies in addresses for each in replies.addresses(bodies, at)]),
        routes=frozenset([each for bodies in routes for each, owner in replies.routes(bodies) if owner == at]),
        neighbours=frozenset([each for bodies in neighbours for each in replies.neighbours(bodies, at)]),
    )


def find_link(netlink: Netlink, which: str | int) -> replies.Link | None:
    answer = netlink.ask([requests.get_link(which)])
    return replies.link(answer.replies[0]) if answer.replies else None


def differences(end: End, held: Held | None) -> Iterator[str]:
    if held is None:
        yield f"{end.name}: the interface is missing"
        return
    link = held.link
    wanted = {"hardware address": end.mac, "MTU": end.mtu, "link group": end.group}
    found = {"hardware address": link.mac, "MTU": link.mtu, "link group": link.group}
    if not link.up:
        yield f"{end.name}: is down, expected up"
    for field, value in wanted.items():
        if found[field] != value:
            yield f"{end.name}: {field} is {found[field]}, expected {value}"
    for address in end.addresses:
        yield from _address(end.name, address, held)
    for route in end.routes:
        yield from _route(end.name, route, held)
    for neighbour in end.neighbours:
        yield from _neighbour(end.name, neighbour, held)


def _address(name: str, address: Address, held: Held) -> Iterator[str]:
    if (address, address.max_prefixlen) not in held.addresses:
        alike = [each for each in held.addresses if each[0].version == address.version and not each[0].is_link_local]
        other = sorted(f"{each}/{bits}" for each, bits in alike)
        yield f"{name}: address {address}/{address.max_prefixlen} is missing, found {', '.join(other) or 'none'}"


def _route(name: str, route: Route, held: Held) -> Iterator[str]:
    if route not in held.routes:
        other = sorted(str(each) for each in held.routes if each.dst == route.dst)
        yield f"{name}: route {route} is missing, found {', '.join(other) or 'none'}"


def _neighbour(name: str, neighbour: Neighbour, held: Held) -> Iterator[str]:
    if (neighbour, True) not in held.neighbours:
        other = [_described(*each) for each in held.neighbours if each[0].address == neighbour.address]
        found = other[0] if other else "none"
        yield f"{name}: neighbour {_described(neighbour, True)} is missing, found {found}"


def _described(neighbour: Neighbour, permanent: bool) -> str:
    return f"{neighbour.address} at {neighbour.mac or 'no address'}{' (permanent)' if permanent else ''}"
