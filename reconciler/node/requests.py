"""What the node keeps in the kernel, and what it asks, as rtnetlink requests beyond those a pod's link needs. Pure.

Whatever we add is added exclusively, never instead of something, and removed by its mark as well: the kernel compares
protocol and metric of a route, protocol and preference of a rule. So even between our look and our request nothing of
somebody else's can go. Marks: protocol 72 for routes and rules. Addresses have none on all kernels (a protocol came
with 5.18, labels are IPv4's), but a metric since 4.18, for the network's route that comes with them; an address that
stands alone has no such route, so there the metric is a mark and nothing else, and an odd one tells ours.

Like `wiring/requests.py`, this is held to pyroute2's encoding by a test.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass

from reconciler.ipam.pool import Address, Network
from reconciler.wiring import codec as nl
from reconciler.wiring.codec import attribute, number
from reconciler.wiring.requests import ROUTE_PROTOCOL, Request

FENCE_METRIC = 4000
GUARD_PREFERENCE = 5000  # tailscaled's rules begin at 5210
ADDRESS_MARK = 0x48434E49  # "HCNI"
LOOPBACK = 1  # in every network namespace
_FOR_EVER = 0xFFFFFFFF
_NO_TIMES = bytes(8)  # of creation and change: the kernel's to fill in


@dataclass(frozen=True, slots=True)
class Item:
    """One thing of ours: as `ip` would write it, and how it is added and deleted."""

    kind: str  # route, rule, address
    words: str
    version: int
    add: Request
    delete: Request

    @property
    def what(self) -> str:
        return f"{self.kind} {self.words}"

    def by_hand(self, verb: str) -> str:
        return f"ip -{self.version} {self.kind} {verb} {self.words}"


def fence(dst: Network) -> Item:
    """Where no better route leads, packets for `dst` go nowhere."""
    head = (nl.FAMILY[dst.version], dst.prefixlen, 0, 0, nl.RT_TABLE_MAIN, ROUTE_PROTOCOL, nl.RT_SCOPE_UNIVERSE)
    body = nl.ROUTE.pack(*head, nl.RTN_UNREACHABLE, 0)
    if dst.prefixlen:
        body += attribute(nl.RTA_DST, dst.network_address.packed)
    body += number(nl.RTA_PRIORITY, FENCE_METRIC)
    words = f"unreachable {dst} metric {FENCE_METRIC} proto {ROUTE_PROTOCOL}"
    return _item("route", words, dst.version, nl.NEWROUTE, nl.DELROUTE, body)


def guard(dst: Network) -> Item:
    """Packets for `dst` are led by the main table, before the mesh's table is asked."""
    body = nl.RULE.pack(nl.FAMILY[dst.version], dst.prefixlen, 0, 0, nl.RT_TABLE_MAIN, nl.FR_ACT_TO_TBL, 0)
    if dst.prefixlen:
        body += attribute(nl.FRA_DST, dst.network_address.packed)
    body += number(nl.FRA_PRIORITY, GUARD_PREFERENCE) + number(nl.FRA_TABLE, nl.RT_TABLE_MAIN)
    body += attribute(nl.FRA_PROTOCOL, bytes([ROUTE_PROTOCOL]))
    words = f"pref {GUARD_PREFERENCE} to {dst} lookup main protocol {ROUTE_PROTOCOL}"
    return _item("rule", words, dst.version, nl.NEWRULE, nl.DELRULE, body)


def gateway(address: Address) -> Item:
    """On `lo`, and never the source of what did not ask for it: the node's own traffic keeps the address it had.

    For IPv4 that is what scope `host` means, for IPv6 a preferred lifetime of nothing.
    """
    four = address.version == 4
    scope = nl.RT_SCOPE_HOST if four else nl.RT_SCOPE_UNIVERSE
    body = nl.ADDRESS.pack(nl.FAMILY[address.version], address.max_prefixlen, 0, scope, LOOPBACK)
    body += attribute(nl.IFA_LOCAL, address.packed) + attribute(nl.IFA_ADDRESS, address.packed)
    if not four:
        body += attribute(nl.IFA_CACHEINFO, nl.U32.pack(0) + nl.U32.pack(_FOR_EVER) + _NO_TIMES)
        body += number(nl.IFA_FLAGS, nl.IFA_F_NODAD | nl.IFA_F_NOPREFIXROUTE)
    body += number(nl.IFA_RT_PRIORITY, ADDRESS_MARK)
    looks = "scope host" if four else "preferred_lft 0 nodad noprefixroute"
    words = f"{address}/{address.max_prefixlen} dev lo {looks} metric {ADDRESS_MARK}"
    return _item("address", words, address.version, nl.NEWADDR, nl.DELADDR, body)


def _item(kind: str, words: str, version: int, new: int, gone: int, body: bytes) -> Item:
    add = Request(new, nl.CREATE | nl.EXCLUSIVE, body, ("add the", kind, words))
    return Item(kind, words, version, add, Request(gone, 0, body, ("delete the", kind, words)))


# --- looking


def get_rules() -> Request:
    return Request(nl.GETRULE, nl.DUMP, nl.RULE.pack(socket.AF_UNSPEC, 0, 0, 0, 0, 0, 0), ("list rules",))


def get_table(family: int, table: int, link: int = 0) -> Request:
    """Routes of one table (below 256), of those that lead to one interface if one is named."""
    body = nl.ROUTE.pack(family, 0, 0, 0, table, 0, 0, 0, 0) + number(nl.RTA_TABLE, table)
    if link:
        body += number(nl.RTA_OIF, link)
    return Request(nl.GETROUTE, nl.DUMP, body, ("list the routes of table", table))


def get_way(to: Address, source: Address | None = None) -> Request:
    """The route that a packet of this node takes; IPv6 names its table unasked, and refuses to be asked."""
    bits, flags = to.max_prefixlen, nl.RTM_F_LOOKUP_TABLE if to.version == 4 else 0
    body = nl.ROUTE.pack(nl.FAMILY[to.version], bits, bits if source else 0, 0, 0, 0, 0, 0, flags)
    body += attribute(nl.RTA_DST, to.packed)
    if source is not None:
        body += attribute(nl.RTA_SRC, source.packed)
    return Request(nl.GETROUTE, 0, body, ("find the way to", to))
