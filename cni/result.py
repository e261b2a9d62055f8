"""What ADD returns, in the shape of the version that was asked for.

One `Result` is held in the newest shape; `shaped` takes away what an older version does not know. The reverse
(reading an older result into this shape) is needed for the answers of IPAM plugins we delegate to, and is total:
an answer that is not a result is a `ValueError` that names the field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Interface:
    name: str
    mac: str
    sandbox: str = ""  # empty: on the host
    mtu: int = 0


@dataclass(frozen=True, slots=True)
class Ip:
    address: str  # with prefix length
    gateway: str | None = None
    interface: int | None = None  # index into interfaces


@dataclass(frozen=True, slots=True)
class Route:
    dst: str
    gw: str | None = None
    mtu: int | None = None
    advmss: int | None = None
    priority: int | None = None

    def as_dict(self) -> dict[str, Any]:
        pairs = (("dst", self.dst), ("gw", self.gw), ("mtu", self.mtu), ("advmss", self.advmss))
        return {k: v for k, v in (*pairs, ("priority", self.priority)) if v is not None}


@dataclass(frozen=True, slots=True)
class Dns:
    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        pairs = (
            ("nameservers", list(self.nameservers)),
            ("domain", self.domain),
            ("search", list(self.search)),
            ("options", list(self.options)),
        )
        return {k: v for k, v in pairs if v}


@dataclass(frozen=True, slots=True)
class Result:
    ips: tuple[Ip, ...] = ()
    interfaces: tuple[Interface, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: Dns = field(default_factory=Dns)

    def shaped(self, version: str) -> dict[str, Any]:
        """For 0.3.x and 0.4.0 each address says its family; interface and route extras came with 1.1.0."""
        newest = version >= "1.1.0"
        shaped: dict[str, Any] = {"cniVersion": version}
        if self.interfaces:
            shaped["interfaces"] = [_interface(each, newest) for each in self.interfaces]
        shaped["ips"] = [_ip(each, with_family=version < "1.0.0") for each in self.ips]
        if self.routes:
            shaped["routes"] = [
                each.as_dict() if newest else Route(each.dst, each.gw).as_dict() for each in self.routes
            ]
        shaped["dns"] = self.dns.as_dict()
        return shaped


def _interface(interface: Interface, newest: bool) -> dict[str, Any]:
    shaped: dict[str, Any] = {"name": interface.name, "mac": interface.mac}
    if interface.sandbox:
        shaped["sandbox"] = interface.sandbox
    if newest and interface.mtu:
        shaped["mtu"] = interface.mtu
    return shaped


def _ip(ip: Ip, with_family: bool) -> dict[str, Any]:
    shaped: dict[str, Any] = {"version": "6" if ":" in ip.address else "4"} if with_family else {}
    shaped["address"] = ip.address
    if ip.gateway is not None:
        shaped["gateway"] = ip.gateway
    if ip.interface is not None:
        shaped["interface"] = ip.interface
    return shaped


def dns_from(raw: Mapping[str, Any]) -> Dns:
    return Dns(
        nameservers=tuple(raw.get("nameservers") or ()),
        domain=raw.get("domain") or "",
        search=tuple(raw.get("search") or ()),
        options=tuple(raw.get("options") or ()),
    )


def route_from(raw: Mapping[str, Any]) -> Route:
    return Route(
        dst=raw["dst"],
        gw=raw.get("gw") or None,
        mtu=raw.get("mtu"),
        advmss=raw.get("advmss"),
        priority=raw.get("priority"),
    )
