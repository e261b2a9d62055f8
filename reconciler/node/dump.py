"""Routes and addresses as the kernel has them now, read fast enough to be read whenever they are needed.

pyroute2 decodes each message into objects: with 110 pods a look at routes and addresses takes it 46 ms, all of it
holding the interpreter. With the wiring's own netlink it is less than one, because our own messages, nearly all of
them, are recognised in the fixed header and passed over. So nothing need be cached for long.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from reconciler.ipam.pool import Address, Network
from reconciler.wiring import codec as nl
from reconciler.wiring.netlink import Netlink
from reconciler.wiring.requests import get_addresses, get_routes


@dataclass(frozen=True, slots=True)
class Route:
    dst: Network
    protocol: int
    via: Address | None
    link: int  # 0 where it leads nowhere (blackhole) or to several


@dataclass(frozen=True, slots=True)
class LinkAddress:
    address: Address
    prefix: int
    link: int


def main_routes(wanted: Callable[[int, int, int], bool] = lambda version, bits, protocol: True) -> list[Route]:
    with Netlink() as netlink:
        return [
            _route(body)
            for version, family in nl.FAMILY.items()
            for body in netlink.dump(get_routes(family, None))
            if body[4] == nl.RT_TABLE_MAIN and wanted(version, body[1], body[5])
        ]


def addresses() -> list[LinkAddress]:
    """Without those that are only meaningful on one link."""
    found = []
    with Netlink() as netlink:
        bodies = netlink.dump(get_addresses(socket.AF_UNSPEC, 0))
    for body in bodies:
        _, bits, _, scope, link = nl.ADDRESS.unpack_from(body)
        if scope < nl.RT_SCOPE_LINK:
            values = nl.attributes(body, nl.ADDRESS.size)
            own = values.get(nl.IFA_LOCAL) or values[nl.IFA_ADDRESS]  # the latter is the peer's where they differ
            found.append(LinkAddress(ip_address(own), bits, link))
    return found


def link_name(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"interface {index}"  # gone since


def _route(body: bytes) -> Route:
    family, bits, _, _, _, protocol, _, _, _ = nl.ROUTE.unpack_from(body)
    values = nl.attributes(body, nl.ROUTE.size)
    via = values.get(nl.RTA_GATEWAY)
    return Route(
        dst=ip_network((values.get(nl.RTA_DST, bytes(4 if family == socket.AF_INET else 16)), bits)),
        protocol=protocol,
        via=ip_address(via) if via else None,
        link=int.from_bytes(values.get(nl.RTA_OIF, b""), sys.byteorder),
    )
