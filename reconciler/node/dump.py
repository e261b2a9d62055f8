"""Routes, rules and addresses as the kernel has them now, read fast enough to be read whenever they are needed.

pyroute2 decodes each message into objects: with 110 pods a look at routes and addresses takes it 46 ms, all of it
holding the interpreter. With the wiring's own netlink it is less than one, because our own messages, nearly all of
them, are recognised in the fixed header and passed over. So nothing need be cached for long.

The kernel filters by table from Linux 4.20 on, and we again.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from errno import ENODEV, ENOENT, EOPNOTSUPP
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from reconciler.ipam.pool import Address, Network
from reconciler.node.requests import ADDRESS_MARK, LOOPBACK, get_rules, get_table
from reconciler.wiring import codec as nl
from reconciler.wiring.netlink import Netlink
from reconciler.wiring.requests import Request, get_addresses


@dataclass(frozen=True, slots=True)
class Route:
    dst: Network
    protocol: int
    via: Address | None
    link: int  # 0 where it leads nowhere (blackhole) or to several
    kind: int = nl.RTN_UNICAST
    metric: int = 0


@dataclass(frozen=True, slots=True)
class Rule:
    preference: int
    dst: Network
    table: int
    protocol: int
    plain: bool  # "to DST lookup TABLE", and nothing else


@dataclass(frozen=True, slots=True)
class LinkAddress:
    address: Address
    prefix: int
    link: int
    ours: bool = False  # a gateway that we put on `lo`


Wanted = Callable[[int, int, int, int], bool]
_RULE_NAMES = frozenset((nl.FRA_DST, nl.FRA_PRIORITY, nl.FRA_TABLE, nl.FRA_PROTOCOL, nl.FRA_SUPPRESS_PREFIXLEN))
_SUPPRESSES_NOTHING = b"\xff\xff\xff\xff"


def main_routes(wanted: Wanted = lambda version, bits, protocol, kind: True) -> list[Route]:
    with Netlink() as netlink:
        return [
            _route(body)
            for version, family in nl.FAMILY.items()
            for body in table(netlink, family, nl.RT_TABLE_MAIN)
            if wanted(version, body[1], body[5], body[7])
        ]


def table(netlink: Netlink, family: int, which: int, link: int = 0) -> Iterator[bytes]:
    """Routes as the kernel sends them; none where there is no such table or, by now, no such link."""
    bodies = _dump(netlink, get_table(family, which, link), (ENOENT, ENODEV))
    return (body for body in bodies if body[4] == which)


def rules() -> list[Rule]:
    families = nl.FAMILY.values()  # multicast routing has rules, too
    with Netlink() as netlink:
        return [_rule(body) for body in _dump(netlink, get_rules(), (EOPNOTSUPP,)) if body[0] in families]


def _dump(netlink: Netlink, request: Request, means_none: tuple[int, ...]) -> list[bytes]:
    try:
        return netlink.dump(request)
    except OSError as error:
        if error.errno in means_none:
            return []
        raise


def addresses() -> list[LinkAddress]:
    """Without those that are link-local."""
    found = []
    with Netlink() as netlink:
        bodies = netlink.dump(get_addresses(socket.AF_UNSPEC, 0))
    for body in bodies:
        _, bits, _, scope, link = nl.ADDRESS.unpack_from(body)
        if scope != nl.RT_SCOPE_LINK:
            values = nl.attributes(body, nl.ADDRESS.size)
            own = values.get(nl.IFA_LOCAL) or values[nl.IFA_ADDRESS]  # the latter is the peer's where they differ
            ours = link == LOOPBACK and number(values, nl.IFA_RT_PRIORITY) == ADDRESS_MARK
            found.append(LinkAddress(address(own), bits, link, ours))
    return found


def link_name(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"interface {index}"  # gone since


@lru_cache(1 << 12)  # each pod's link has a route of the kernel, which stays the same
def _route(body: bytes) -> Route:
    _, _, _, _, _, protocol, _, kind, _ = nl.ROUTE.unpack_from(body)
    values = nl.attributes(body, nl.ROUTE.size)
    via = values.get(nl.RTA_GATEWAY)
    return Route(
        dst=network(body, values),
        protocol=protocol,
        via=address(via) if via else None,
        link=number(values, nl.RTA_OIF),
        kind=kind,
        metric=number(values, nl.RTA_PRIORITY),
    )


def _rule(body: bytes) -> Rule:
    _, _, src_bits, tos, table, action, flags = nl.RULE.unpack_from(body)
    values = nl.attributes(body, nl.RULE.size)
    nothing_more = values.keys() <= _RULE_NAMES and not (src_bits or tos or flags)
    suppress = values.get(nl.FRA_SUPPRESS_PREFIXLEN, _SUPPRESSES_NOTHING)
    return Rule(
        preference=number(values, nl.FRA_PRIORITY),
        dst=network(body, values),
        table=number(values, nl.FRA_TABLE) or table,
        protocol=values.get(nl.FRA_PROTOCOL, b"\0")[0],
        plain=action == nl.FR_ACT_TO_TBL and nothing_more and suppress == _SUPPRESSES_NOTHING,
    )


def address(packed: bytes) -> Address:
    """As `ip_address` does, which for IPv6 tries IPv4 first, at three times the cost."""
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)


def network(body: bytes, values: Mapping[int, bytes]) -> Network:
    """The destination of a route or a rule: headers and attributes of both begin alike."""
    if body[0] == socket.AF_INET:
        return IPv4Network((values.get(nl.RTA_DST, bytes(4)), body[1]))
    return IPv6Network((values.get(nl.RTA_DST, bytes(16)), body[1]))


def number(values: Mapping[int, bytes], kind: int) -> int:
    return int.from_bytes(values.get(kind, b""), sys.byteorder)
