"""What a node is to hold, and what is wrong with it, as plain values.

Marks tell what is ours among everything a kernel holds: links are named `hc…`, routes and rules carry protocol 72,
addresses on `lo` an odd metric (`requests.py`), the nftables table a chain (`table.py`). Whatever lacks its mark is
somebody else's and is read, never written.
"""

from __future__ import annotations

from dataclasses import dataclass

from reconciler.ipam.pool import Network
from reconciler.settings import IpAddress, StaticRoute

LINK_PREFIX = "hc"


@dataclass(frozen=True, slots=True)
class HostWish:
    """`pod_cidrs` are all pools that pods of this node have addresses of, so also those of live records.

    Where anything is guarded, these pools are, too, and those that come later.
    """

    pod_cidrs: tuple[Network, ...]
    cluster_cidrs: tuple[Network, ...] = ()  # no masquerade towards these
    masquerade: bool = True
    ipv6: bool = False
    static_routes: tuple[StaticRoute, ...] = ()
    fence: tuple[Network, ...] = ()  # packets to these leave in the mesh, or not at all
    guard: tuple[Network, ...] = ()  # packets to these never go into the mesh
    gateways: tuple[IpAddress, ...] = ()  # this node answers to these, pods or not


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as wished, now; seen by readiness, and gone from the list as soon as it is cured."""

    what: str
    cure: str

    def __str__(self) -> str:
        return f"{self.what}; {self.cure}"
