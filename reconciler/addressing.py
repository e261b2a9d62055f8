"""From addresses to what the record says about them: prefix lengths, gateways, routes. Pure.

Under our own plugin a pod's interface carries its address alone (/32, /128), and everything goes through the gateway;
under `bridge` and its like the subnet is on the link, and the address carries the subnet's prefix length.

Routes: those of the configuration, exactly. None configured means a default route for each family. Routes configured
without a default, with a `service_cidr` beside them, get the way to the services too: a pod that cannot reach the
cluster's DNS is never what was meant. A route of a family that the pod has no address of is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_interface, ip_network
from typing import Any

from cni.result import Result, Route
from reconciler.ipam.pool import Address as IpAddress
from reconciler.ipam.pool import Network, PoolSpec
from reconciler.netconf import NetConf
from statemachine.attachment import Address, State

DEFAULT_ROUTE = {4: "0.0.0.0/0", 6: "::/0"}
LINK_LOCAL_GATEWAY = {4: "169.254.1.1", 6: "fe80::1"}  # when an IPAM plugin names none: ours answers for it


def from_pools(conf: NetConf, given: Sequence[IpAddress], goal: State) -> dict[str, Any]:
    addresses = tuple(_address(address, pool, goal) for address, pool in zip(given, conf.pools, strict=True))
    return {"addresses": addresses, "routes": _routes(conf, addresses, goal), "dns": conf.dns}


def from_delegate(conf: NetConf, result: Result) -> dict[str, Any]:
    addresses = tuple(
        Address(
            address=_alone(ip_interface(ip.address).ip),
            gateway=ip.gateway or LINK_LOCAL_GATEWAY[ip_interface(ip.address).version],
            pool=str(ip_interface(ip.address).network),
        )
        for ip in result.ips
    )
    routes = result.routes or _routes(conf, addresses, State.ADVERTISED)
    dns = conf.dns if conf.dns.as_dict() else result.dns
    return {"addresses": addresses, "routes": routes, "dns": dns}


def _address(address: IpAddress, pool: PoolSpec, goal: State) -> Address:
    own = goal is not State.ALLOCATED
    text = _alone(address) if own else f"{address}/{pool.subnet.prefixlen}"
    return Address(text, str(pool.router), str(pool.subnet))


def _alone(address: IpAddress) -> str:
    return f"{address}/{address.max_prefixlen}"


def _routes(conf: NetConf, addresses: Sequence[Address], goal: State) -> tuple[Route, ...]:
    if goal is State.ALLOCATED:
        return conf.routes
    gateways = {ip_interface(each.address).version: each.gateway for each in addresses}
    if not conf.routes:
        return tuple(Route(DEFAULT_ROUTE[version], gateway) for version, gateway in gateways.items())
    led = [(route, gateways.get(ip_network(route.dst).version)) for route in conf.routes]
    filled = [replace(route, gw=route.gw or gateway) for route, gateway in led if gateway is not None]
    reachable = [service for service in conf.service_cidrs if gateways.get(service.version) is not None]
    filled += [Route(str(each), gateways[each.version]) for each in reachable if not _covered(each, filled)]
    return tuple(filled)


def _covered(wanted: Network, routes: Sequence[Route]) -> bool:
    return any(
        (have := ip_network(route.dst)).version == wanted.version
        and int(have.network_address) <= int(wanted.network_address)
        and int(have.broadcast_address) >= int(wanted.broadcast_address)
        for route in routes
    )
