"""What the kernel answers, as values. Routes and neighbours are the plan's own types, so that they compare. Pure."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from socket import AF_INET

from reconciler.ipam.pool import Address
from reconciler.wiring import codec as nl
from reconciler.wiring.codec import attributes
from reconciler.wiring.plan import Neighbour, Route


@dataclass(frozen=True, slots=True)
class Link:
    index: int
    name: str
    mac: str
    mtu: int
    up: bool
    group: int
    peer: int | None
    peer_namespace: int | None  # by the number the asking namespace knows it by


def link(body: bytes) -> Link:
    _, _, index, flags, _ = nl.LINK.unpack_from(body)
    found = attributes(body, nl.LINK.size)
    return Link(
        index=index,
        name=found[nl.IFLA_IFNAME].rstrip(b"\0").decode(),
        mac=found.get(nl.IFLA_ADDRESS, b"").hex(":"),
        mtu=_number(found, nl.IFLA_MTU) or 0,
        up=bool(flags & nl.IFF_UP),
        group=_number(found, nl.IFLA_GROUP) or 0,
        peer=_number(found, nl.IFLA_LINK),
        peer_namespace=_number(found, nl.IFLA_LINK_NETNSID),
    )


def is_running(link: bytes) -> bool:
    """Up, and able to carry packets."""
    flags = nl.LINK.unpack_from(link)[3]
    return bool(flags & nl.IFF_RUNNING)


def names_in(bodies: Iterable[bytes], groups: Iterable[int]) -> Iterator[str]:
    """Of ten thousand links, so the walk stops at the group, and nothing else is looked at."""
    wanted = {nl.U32.pack(group) for group in groups}
    unpack, first = nl.ATTRIBUTE.unpack_from, nl.LINK.size
    for body in bodies:
        offset, name = first, b""
        while offset < len(body):
            length, kind = unpack(body, offset)
            if kind == nl.IFLA_IFNAME:
                name = body[offset + 4 : offset + length - 1]
            elif kind == nl.IFLA_GROUP:
                if body[offset + 4 : offset + length] in wanted:
                    yield name.decode()
                break
            offset += (length + 3) & ~3


def namespace_number(body: bytes) -> int | None:
    return _number(attributes(body, nl.NAMESPACE.size), nl.NETNSA_NSID)


def addresses(bodies: Iterable[bytes], index: int) -> Iterator[tuple[Address, int]]:
    """With their prefix lengths."""
    for body in bodies:
        _, bits, _, _, owner = nl.ADDRESS.unpack_from(body)
        if owner == index:
            found = attributes(body, nl.ADDRESS.size)
            yield ip_address(found.get(nl.IFA_LOCAL) or found[nl.IFA_ADDRESS]), bits


def routes(bodies: Iterable[bytes]) -> Iterator[tuple[Route, int]]:
    """Of the main table, with the interface they lead to: 0 where that is none, or several."""
    for body in bodies:
        family, bits, _, _, table, _, _, _, flags = nl.ROUTE.unpack_from(body)
        if table != nl.RT_TABLE_MAIN or flags & nl.RTM_F_CLONED:
            continue
        found = attributes(body, nl.ROUTE.size)
        metrics = attributes(found.get(nl.RTA_METRICS, b""))
        gateway = found.get(nl.RTA_GATEWAY)
        route = Route(
            dst=ip_network((found.get(nl.RTA_DST, bytes(4 if family == AF_INET else 16)), bits)),
            gw=ip_address(gateway) if gateway else None,
            mtu=_number(metrics, nl.RTAX_MTU) or 0,
            advmss=_number(metrics, nl.RTAX_ADVMSS) or 0,
            priority=_number(found, nl.RTA_PRIORITY) or 0,
        )
        yield route, _number(found, nl.RTA_OIF) or 0


def neighbours(bodies: Iterable[bytes], index: int) -> Iterator[tuple[Neighbour, bool]]:
    """With whether they are permanent."""
    for body in bodies:
        _, owner, state, _, _ = nl.NEIGHBOUR.unpack_from(body)
        if owner == index:
            found = attributes(body, nl.NEIGHBOUR.size)
            mac = found.get(nl.NDA_LLADDR, b"").hex(":")
            yield Neighbour(ip_address(found[nl.NDA_DST]), mac), bool(state & nl.NUD_PERMANENT)


def _number(found: dict[int, bytes], kind: int) -> int | None:
    value = found.get(kind)
    return None if value is None else int.from_bytes(value, sys.byteorder)
