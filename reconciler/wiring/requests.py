"""What an `End` needs, as rtnetlink requests. Pure.

Written by hand, because this is the hot path of every ADD: pyroute2 0.9 takes 390 µs to encode the veth request and
45 to 65 for each of the others (0.8 ms in all, as much as the kernel takes to carry them out); here it is 3 to 12.
What keeps this honest is `tests/pure/test_wiring_requests.py`: pyroute2 encodes the same requests, byte for byte.

A request says in words what it asks for, so that whatever the kernel refuses can be named to an operator. Addresses
and neighbours of our own interface are simply made so. Routes are created, never replaced, unless the caller asks:
one that is in the way may be somebody else's, so it has to be looked at first.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from errno import errorcode

from cni.spec import Code, Refusal
from reconciler.ipam.pool import Address
from reconciler.wiring import codec as nl
from reconciler.wiring.codec import attribute, number, text
from reconciler.wiring.plan import End, Neighbour, Route

ROUTE_PROTOCOL = 72  # marks a route as HeadCNI's


@dataclass(frozen=True, slots=True)
class Request:
    kind: int
    flags: int
    body: bytes
    words: tuple[object, ...]

    @property
    def what(self) -> str:
        """Put together when something is refused, and not before: writing an IPv6 address takes 20 µs."""
        return " ".join([str(word) for word in self.words])


@dataclass(frozen=True, slots=True)
class Failure:
    request: Request
    errno: int
    note: str  # the kernel's own words, where it has any

    @property
    def refusal(self) -> Refusal:
        reason = f"{os.strerror(self.errno)} ({errorcode.get(self.errno, self.errno)})"
        details = f"{reason}: {self.note}" if self.note else reason
        return Refusal(Code.KERNEL_REFUSED, f"the kernel refused to {self.request.what}", details)


def make_pair(host: End, pod: End, namespace: int) -> Request:
    """The pod's end is born in the pod's namespace.

    Both ends are down: the kernel refuses a peer that is up at birth, and a link that comes up now keeps the kernel
    busy (0.1 ms) just when the next answer is wanted.
    """
    peer = nl.LINK.pack(0, 0, 0, 0, 0) + text(nl.IFLA_IFNAME, pod.name) + _looks(pod)
    peer += number(nl.IFLA_NET_NS_FD, namespace)
    info = text(nl.IFLA_INFO_KIND, "veth")
    info += attribute(nl.IFLA_INFO_DATA, attribute(nl.VETH_INFO_PEER, peer))
    body = nl.LINK.pack(0, 0, 0, 0, 0) + text(nl.IFLA_IFNAME, host.name) + _looks(host)
    body += attribute(nl.IFLA_LINKINFO, info)
    words = ("create the interfaces", host.name, "on the node and", pod.name, "in the pod")
    return Request(nl.NEWLINK, nl.CREATE | nl.EXCLUSIVE, body, words)


def bring_up(end: End, index: int, *, restore: bool) -> Request:
    """`restore` also sets what the end was born with, for one that may have been changed since."""
    body = nl.LINK.pack(0, 0, index, nl.IFF_UP, nl.IFF_UP)
    return Request(nl.SETLINK, 0, body + _looks(end) if restore else body, ("bring up", end.name))


def _looks(end: End) -> bytes:
    mac = attribute(nl.IFLA_ADDRESS, _octets(end.mac))
    return mac + number(nl.IFLA_MTU, end.mtu) + number(nl.IFLA_GROUP, end.group)


def configure(end: End, index: int, *, replace: bool = False) -> list[Request]:
    return [
        *[add_address(address, end.name, index) for address in end.addresses],
        *[add_route(route, end.name, index, replace=replace) for route in end.routes],
        *[add_neighbour(neighbour, end.name, index) for neighbour in end.neighbours],
    ]


def add_address(address: Address, name: str, index: int) -> Request:
    body = nl.ADDRESS.pack(nl.FAMILY[address.version], address.max_prefixlen, 0, 0, index)
    body += attribute(nl.IFA_LOCAL, address.packed) + attribute(nl.IFA_ADDRESS, address.packed)
    if address.version == 6:
        body += number(nl.IFA_FLAGS, nl.IFA_F_NODAD | nl.IFA_F_NOPREFIXROUTE)
    return Request(nl.NEWADDR, nl.CREATE | nl.REPLACE, body, ("give", name, "the address", address))


def add_route(route: Route, name: str, index: int, *, replace: bool = False) -> Request:
    version, bits = route.dst.version, route.dst.prefixlen
    scope = nl.RT_SCOPE_LINK if route.gw is None and version == 4 else nl.RT_SCOPE_UNIVERSE
    body = nl.ROUTE.pack(nl.FAMILY[version], bits, 0, 0, nl.RT_TABLE_MAIN, ROUTE_PROTOCOL, scope, nl.RTN_UNICAST, 0)
    if bits:
        body += attribute(nl.RTA_DST, route.dst.network_address.packed)
    if route.gw is not None:
        body += attribute(nl.RTA_GATEWAY, route.gw.packed)
    body += number(nl.RTA_OIF, index)
    if route.priority:
        body += number(nl.RTA_PRIORITY, route.priority)
    metrics = ((nl.RTAX_MTU, route.mtu), (nl.RTAX_ADVMSS, route.advmss))
    if route.mtu or route.advmss:
        body += attribute(nl.RTA_METRICS, b"".join([number(kind, value) for kind, value in metrics if value]))
    flags = nl.CREATE | (nl.REPLACE if replace else nl.EXCLUSIVE)
    return Request(nl.NEWROUTE, flags, body, ("add the route", route, "to", name))


def add_neighbour(neighbour: Neighbour, name: str, index: int) -> Request:
    body = nl.NEIGHBOUR.pack(nl.FAMILY[neighbour.address.version], index, nl.NUD_PERMANENT, 0, 0)
    body += attribute(nl.NDA_DST, neighbour.address.packed)
    body += attribute(nl.NDA_LLADDR, _octets(neighbour.mac))
    return Request(nl.NEWNEIGH, nl.CREATE | nl.REPLACE, body, ("add the neighbour", neighbour.address, "to", name))


def _octets(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


# --- removing


def set_group(index: int, group: int) -> Request:
    body = nl.LINK.pack(0, 0, index, 0, 0) + number(nl.IFLA_GROUP, group)
    return Request(nl.SETLINK, 0, body, ("move interface", index, "to link group", group))


def delete_link(index: int) -> Request:
    return Request(nl.DELLINK, 0, nl.LINK.pack(0, 0, index, 0, 0), ("delete interface", index))


def delete_group(group: int) -> Request:
    body = nl.LINK.pack(0, 0, 0, 0, 0) + number(nl.IFLA_GROUP, group)
    return Request(nl.DELLINK, 0, body, ("delete the interfaces of link group", group))


# --- looking (what is listed is filtered by the kernel from Linux 4.20 on, and by the reader again)


def get_link(which: str | int) -> Request:
    """By name or by index."""
    if isinstance(which, int):
        body = nl.LINK.pack(0, 0, which, 0, 0)
    else:
        body = nl.LINK.pack(0, 0, 0, 0, 0) + text(nl.IFLA_IFNAME, which)
    return Request(nl.GETLINK, 0, body + _NO_STATISTICS, ("look up the interface", which))


def get_links() -> Request:
    return Request(nl.GETLINK, nl.DUMP, nl.LINK.pack(0, 0, 0, 0, 0) + _NO_STATISTICS, ("list interfaces",))


_NO_STATISTICS = number(nl.IFLA_EXT_MASK, nl.RTEXT_FILTER_SKIP_STATS)


def get_namespace_number(namespace: int) -> Request:
    body = nl.NAMESPACE.pack(0) + number(nl.NETNSA_FD, namespace)
    return Request(nl.GETNSID, 0, body, ("look up the number of a namespace",))


def get_addresses(family: int, index: int) -> Request:
    return Request(nl.GETADDR, nl.DUMP, nl.ADDRESS.pack(family, 0, 0, 0, index), ("list addresses",))


def get_routes(family: int, index: int | None) -> Request:
    """Of every interface, where `index` is None."""
    body = nl.ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
    return Request(nl.GETROUTE, nl.DUMP, body + number(nl.RTA_OIF, index) if index else body, ("list routes",))


def get_neighbours(family: int, index: int) -> Request:
    body = nl.NEIGHBOUR.pack(family, 0, 0, 0, 0) + number(nl.NDA_IFINDEX, index)
    return Request(nl.GETNEIGH, nl.DUMP, body, ("list neighbours",))
