"""What Flannel writes, understood: subnet.env, net-conf.json, a node's annotations, reserved addresses. Pure.

flanneld writes `subnet.env` when it has its lease, and its plugin refuses to work with a part of it; so do we. It is on
a tmpfs, and no rename protects it: it may be cut. `net-conf.json` is what an operator wrote. Of both only what is named
here is kept: the backend's options may hold a pre-shared key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface
from typing import Any

import orjson

from reconciler.parsers import IpAddress, Network
from reconciler.plainyaml import Malformed

PREFIX = "flannel.alpha.coreos.com/"
DEFAULT_BACKEND = "udp"  # of flanneld, where nobody names one
_LONGEST = 200  # of a value that is shown


@dataclass(frozen=True, slots=True)
class SubnetEnv:
    networks: tuple[Network, ...]  # of all nodes
    subnets: tuple[Network, ...]  # this node's
    mtu: int
    masquerade: bool


@dataclass(frozen=True, slots=True)
class NetConf:
    networks: tuple[Network, ...]
    backend: str
    port: int = 0  # 0: the backend's own
    direct: bool = False  # DirectRouting: without a tunnel where nodes share a LAN
    tailscale: bool = False  # of the backend `extension`: as k3s makes it with --vpn-auth


@dataclass(frozen=True, slots=True)
class Lease:
    backend: str
    public: str  # the address by which others reach the node


# --- subnet.env

_NETWORKS = ("FLANNEL_NETWORK", "FLANNEL_IPV6_NETWORK")
_SUBNETS = ("FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET")
_MTU, _MASQUERADE = "FLANNEL_MTU", "FLANNEL_IPMASQ"


def subnet_env(raw: bytes) -> SubnetEnv | Malformed:
    lines = raw.decode(errors="replace").splitlines()
    values = {key.strip(): value.strip() for key, equals, value in (line.partition("=") for line in lines) if equals}
    missing = [" or ".join(keys) for keys in (_NETWORKS, _SUBNETS) if not any(values.get(key) for key in keys)]
    missing += [key for key in (_MTU, _MASQUERADE) if not values.get(key)]
    if missing:
        return Malformed(f"has no {', no '.join(missing)}: it is cut off, or not written yet")
    if not values[_MTU].isascii() or not values[_MTU].isdigit():
        return Malformed(f"has {_MTU}={values[_MTU][:_LONGEST]}, which is no number")
    if values[_MASQUERADE] not in ("true", "false"):
        return Malformed(f"has {_MASQUERADE}={values[_MASQUERADE][:_LONGEST]}, which is neither true nor false")
    networks, subnets = _listed(values, _NETWORKS), _listed(values, _SUBNETS)
    for found in (networks, subnets):
        if isinstance(found, Malformed):
            return found
    assert not isinstance(networks, Malformed)
    assert not isinstance(subnets, Malformed)
    return SubnetEnv(networks, subnets, int(values[_MTU]), values[_MASQUERADE] == "true")


def _listed(values: Mapping[str, str], keys: Iterable[str]) -> tuple[Network, ...] | Malformed:
    """A subnet is written as the first address in it; of several networks, with commas."""
    found: list[Network] = []
    for key in keys:
        for text in filter(None, values.get(key, "").split(",")):
            if (network := _network(text)) is None:
                return Malformed(f"has {key}={text[:_LONGEST]}, which is no CIDR")
            found.append(network)
    return tuple(found)


def _network(text: str) -> Network | None:
    try:
        return ip_interface(text).network if "/" in text else None
    except ValueError:
        return None


# --- net-conf.json


def net_conf(raw: bytes | str) -> NetConf | Malformed:
    try:
        found = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        return Malformed(f"is not JSON: {error}")
    if not isinstance(found, dict):
        return Malformed("is not a JSON object")
    keys = _lowered(found)
    backend = keys.get("backend", {})
    if not isinstance(backend, dict):
        return Malformed("has a Backend that is no object")
    networks: list[Network] = []
    for name, switch, default in (("Network", "enableipv4", True), ("IPv6Network", "enableipv6", False)):
        if not keys.get(switch, default):
            continue  # k3s writes 0.0.0.0/0 and ::/0 for a family that is off
        text = keys.get(name.lower())
        network = _network(text) if isinstance(text, str) else None
        if network is None:
            return Malformed(f"has no {name} that is a CIDR")
        networks.append(network)
    return _with_backend(tuple(networks), _lowered(backend))


def _with_backend(networks: tuple[Network, ...], backend: Mapping[str, Any]) -> NetConf | Malformed:
    kind = backend.get("type", DEFAULT_BACKEND)
    port = backend.get("port", backend.get("listenport", 0))
    if not isinstance(kind, str) or not isinstance(port, int):
        return Malformed("has a Backend whose Type is no text, or whose Port is no number")
    started = backend.get("poststartupcommand", "")
    return NetConf(
        networks,
        kind[:_LONGEST].lower(),
        port,
        backend.get("directrouting") is True,
        tailscale=isinstance(started, str) and "tailscale " in started,
    )


def _lowered(found: Mapping[str, Any]) -> dict[str, Any]:
    """Go does not mind how a key is written."""
    return {key.lower(): value for key, value in found.items()}


# --- leases and addresses


def lease(annotations: Mapping[str, Any]) -> Lease | None:
    """None: flanneld has not told of itself on that node."""
    if annotations.get(PREFIX + "kube-subnet-manager") != "true":
        return None
    public = annotations.get(PREFIX + "public-ip") or annotations.get(PREFIX + "public-ipv6") or ""
    return Lease(str(annotations.get(PREFIX + "backend-type", "")), str(public))


def reserved(names: Iterable[str]) -> tuple[IpAddress, ...]:
    """host-local has a file for each address that it gave, and others beside them."""
    found: list[IpAddress] = []
    for name in names:
        try:
            found.append(ip_address(name))
        except ValueError:
            continue
    return tuple(sorted(found, key=lambda each: (each.version, int(each))))
