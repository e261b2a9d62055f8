"""The mesh in the kernel, as tailscaled leaves it there: its interface, and the table that leads into it.

Looked at again and again, also with thousands of routes of which hardly any changes: a route is decoded when it is
first seen and known by its bytes after that, and while none changes, `routed` is the same object.

The interface is known by its addresses, because its name is the operator's choice.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reconciler.mesh.model import Device, KernelView
from reconciler.node import requests
from reconciler.node.dump import address, link_name, network, number, table
from reconciler.settings import IpAddress, Network
from reconciler.wiring import codec as nl
from reconciler.wiring.inspect import find_link
from reconciler.wiring.netlink import Netlink
from reconciler.wiring.requests import get_addresses

NFT_SECONDS = 5.0
TABLE = 52  # tailscaled's
USUAL_NAME = "tailscale0"
_LEGACY = tuple(Path("/proc/thread-self/net", name) for name in ("ip_tables_names", "ip6_tables_names"))


@dataclass(frozen=True, slots=True)
class WayTo:
    """Where the kernel sends what this node has for one address."""

    table: int = 0
    device: str = ""
    via: IpAddress | None = None
    local: bool = False  # the node's own address
    refused: str = ""  # why it goes nowhere: "No route to host" of the fence, "Network is unreachable" of no route

    def __str__(self) -> str:
        if self.refused:
            return f"nowhere: {self.refused}"
        if self.local:
            return "this node itself"
        return self.device + (f" via {self.via}" if self.via else "") + f", by table {self.table}"


class MeshLink:
    def __init__(self) -> None:
        self._last: tuple[dict[bytes, Network], frozenset[Network]] = ({}, frozenset())  # as one: threads may share it

    def look(self, addresses: Sequence[IpAddress]) -> KernelView:
        with Netlink() as netlink:
            link = find_link(netlink, _carrier(netlink, addresses) or USUAL_NAME)
            if link is None:
                return KernelView()
            found = frozenset(_routes(netlink, link.index))
        known, routed = self._last
        if found != known.keys():
            decoded = {body: known.get(body) or _network(body) for body in found}
            routed = frozenset(decoded.values())
            self._last = decoded, routed
        return KernelView(Device(link.name, link.index, link.mtu), routed)

    def way_to(self, to: IpAddress, source: IpAddress | None = None) -> WayTo:
        with Netlink() as netlink:
            answer = netlink.ask([requests.get_way(to, source)])
        if answer.failures:
            return WayTo(refused=os.strerror(answer.failures[0].errno))
        body = answer.replies[0]
        values = nl.attributes(body, nl.ROUTE.size)
        via = values.get(nl.RTA_GATEWAY)
        return WayTo(
            table=number(values, nl.RTA_TABLE),
            device=link_name(number(values, nl.RTA_OIF)),
            via=address(via) if via else None,
            local=body[7] == nl.RTN_LOCAL,
        )


def _carrier(netlink: Netlink, addresses: Collection[IpAddress]) -> int | None:
    wanted = {each.packed for each in addresses}
    if not wanted:
        return None
    for body in netlink.dump(get_addresses(0, 0)):
        if any(packed in body for packed in wanted):  # of hundreds, one or two
            values = nl.attributes(body, nl.ADDRESS.size)
            if (values.get(nl.IFA_LOCAL) or values[nl.IFA_ADDRESS]) in wanted:
                index: int = nl.ADDRESS.unpack_from(body)[4]
                return index
    return None


def _routes(netlink: Netlink, link: int) -> Iterator[bytes]:
    leading = nl.number(nl.RTA_OIF, link)  # old kernels send the others, too
    for family in nl.FAMILY.values():
        for body in table(netlink, family, TABLE, link):
            if body[7] == nl.RTN_UNICAST and leading in body:
                yield body


def _network(body: bytes) -> Network:
    return network(body, nl.attributes(body, nl.ROUTE.size))


def forward_drops() -> bool | None:
    """Whether something drops what is forwarded unless a rule accepts it. None: cannot be told.

    nft shows chains of nftables, which those of iptables-nft are. Those of the older iptables (iptables-legacy) it
    does not show, so where the kernel has any, "no" is not known. It starts a process: to be asked rarely.
    """
    binary = shutil.which("nft", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if binary is None:
        return None
    try:
        done = subprocess.run(
            (binary, "--json", "list", "chains"), capture_output=True, timeout=NFT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return None
    if done.returncode != 0:
        return None
    chains = [each["chain"] for each in json.loads(done.stdout)["nftables"] if "chain" in each]
    if any(_drops_forwarded(chain) for chain in chains):
        return True
    return None if _has_legacy_filter() else False


def _drops_forwarded(chain: Mapping[str, object]) -> bool:
    family, hook, policy = chain["family"], chain.get("hook"), chain.get("policy")
    return family in ("ip", "ip6", "inet") and hook == "forward" and policy == "drop"


def _has_legacy_filter() -> bool:
    return any("filter" in file.read_text().split() for file in _LEGACY if file.exists())
