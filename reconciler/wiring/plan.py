"""What the kernel must hold for one attachment: the two ends of a veth pair, as values. Pure.

A `LinkPlan` is derived from the record and from nothing else, names and hardware addresses included: after any
kill the same record gives the same plan, and whatever is half done can be recognised. An `End` lists all that one
end must have; `requests.py` asks the kernel for it, `inspect.py` compares it with what is there. Why it is so:

- The pod's address stands alone (/32, /128), with a route to the gateway on the link and everything else through
  the gateway: traffic is routed on the node, even between two of its pods; no bridge, no broadcast domain.
- The node's end carries the gateway's address: the node speaks to its pods from inside the pod CIDR, which the mesh
  and policies understand, and the address vanishes with the link.
- Each end knows the other's hardware address as a permanent neighbour: nobody waits for ARP or neighbour discovery.
- The node's links carry a link group that tells this daemon's from everybody else's, so that several daemons on one
  machine, or a foreign interface with an odd name, are safe from each other's cleaning.

A route of a family the pod has no address of leads nowhere and is left out: configurations list both default routes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface, ip_network

from reconciler.ipam.pool import Address, Network
from statemachine.attachment import Address as RecordedAddress
from statemachine.attachment import Attachment

_GROUPS = 0x48000000  # the high byte marks link groups as HeadCNI's ("H")
_IPV6_PRIORITY = 1024  # what the kernel makes of an IPv6 route without one


@dataclass(frozen=True, slots=True)
class PodAddress:
    address: Address
    gateway: Address


@dataclass(frozen=True, slots=True)
class Route:
    """To what is on the link itself where `gw` is None. 0: as the kernel likes."""

    dst: Network
    gw: Address | None = None
    mtu: int = 0
    advmss: int = 0
    priority: int = 0

    def __str__(self) -> str:
        words = (("via", self.gw), ("mtu", self.mtu), ("advmss", self.advmss), ("metric", self.priority))
        return " ".join([str(self.dst), *[f"{word} {value}" for word, value in words if value]])


@dataclass(frozen=True, slots=True)
class Neighbour:
    address: Address
    mac: str


@dataclass(frozen=True, slots=True)
class End:
    name: str
    mac: str
    mtu: int
    group: int
    addresses: tuple[Address, ...]
    routes: tuple[Route, ...]
    neighbours: tuple[Neighbour, ...]


@dataclass(frozen=True, slots=True)
class LinkPlan:
    host_name: str
    pod_name: str
    host_mac: str
    pod_mac: str
    mtu: int
    group: int
    addresses: tuple[PodAddress, ...]
    routes: tuple[Route, ...]

    @property
    def host_end(self) -> End:
        pods = [each.address for each in self.addresses]
        return End(
            name=self.host_name,
            mac=self.host_mac,
            mtu=self.mtu,
            group=self.group,
            addresses=_once(each.gateway for each in self.addresses),
            routes=tuple([_on_link(pod) for pod in pods]),
            neighbours=tuple([Neighbour(pod, self.pod_mac) for pod in pods]),
        )

    @property
    def pod_end(self) -> End:
        gateways = _once(each.gateway for each in self.addresses)
        return End(
            name=self.pod_name,
            mac=self.pod_mac,
            mtu=self.mtu,
            group=0,
            addresses=tuple([each.address for each in self.addresses]),
            routes=(*[_on_link(gateway) for gateway in gateways], *self.routes),
            neighbours=tuple([Neighbour(gateway, self.host_mac) for gateway in gateways]),
        )


def plan_link(record: Attachment, group: int, default_mtu: int) -> LinkPlan:
    host_mac, pod_mac = macs(record.key)
    addresses = tuple([_pod_address(each) for each in record.addresses])
    # The first gateway of each family.
    gateways: dict[int, Address] = {each.gateway.version: each.gateway for each in reversed(addresses)}
    return LinkPlan(
        host_name=host_name(record.key),
        pod_name=record.ifname,
        host_mac=host_mac,
        pod_mac=pod_mac,
        mtu=record.link.mtu if record.link else record.config.get("mtu") or default_mtu,
        group=group,
        addresses=addresses,
        routes=_routes(record, gateways),
    )


def _pod_address(recorded: RecordedAddress) -> PodAddress:
    assert recorded.gateway is not None, "addresses of our own links are recorded with their gateway"
    return PodAddress(ip_interface(recorded.address).ip, ip_address(recorded.gateway))


def _routes(record: Attachment, gateways: dict[int, Address]) -> tuple[Route, ...]:
    routes = []
    for asked in record.routes:
        dst = ip_network(asked.dst, strict=False)
        gateway = ip_address(asked.gw) if asked.gw else gateways.get(dst.version)
        if gateway is not None and dst.version in gateways:
            priority = asked.priority or (_IPV6_PRIORITY if dst.version == 6 else 0)
            routes.append(Route(dst, gateway, asked.mtu or 0, asked.advmss or 0, priority))
    return tuple(routes)


def _on_link(address: Address) -> Route:
    if address.version == 4:
        return Route(IPv4Network((int(address), 32)))
    return Route(IPv6Network((int(address), 128)), priority=_IPV6_PRIORITY)


def _once(addresses: Iterable[Address]) -> tuple[Address, ...]:
    return tuple(dict.fromkeys(addresses))


def host_name(key: str) -> str:
    """65 bits of a hash: the longest name an interface may have, and no second attachment has it."""
    digest = hashlib.blake2b(key.encode(), digest_size=10, person=b"headcni name").digest()
    return "hc" + base64.b32encode(digest)[:13].decode().lower()


def macs(key: str) -> tuple[str, str]:
    digest = hashlib.blake2b(key.encode(), digest_size=12, person=b"headcni mac").digest()
    return _mac(digest[:6]), _mac(digest[6:])


def _mac(octets: bytes) -> str:
    return bytes([octets[0] & 0xFE | 0x02, *octets[1:]]).hex(":")  # locally administered, one station


def instance_group(state_dir: str) -> int:
    """This daemon's link group: even. The odd one after it is where links go to be deleted."""
    digest = hashlib.blake2b(state_dir.encode(), digest_size=3, person=b"headcni group").digest()
    return _GROUPS | int.from_bytes(digest, "big") & ~1
