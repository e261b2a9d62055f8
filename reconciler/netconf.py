"""The network configuration: from the runtime's bytes to what the daemon works with.

Everything wrong is collected and told at once, each problem with the field, the value and the cure. What is merely
unknown is let through with a warning, because configurations live longer than programs. Keys are those of
docs/configuration.md; those of the specification and of libcni are known and not ours to judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import orjson

from cni.plugin import MAX_TIMEOUT_SECONDS
from cni.result import Dns, Route, dns_from
from cni.spec import SUPPORTED_VERSIONS, Code, Refusal
from reconciler.ipam.pool import Address, Network, PoolSpec, Strategy, pool_problems

OWN_IPAM = "headcni-ipam"
MIN_MTU, MAX_MTU = 576, 65535

_KNOWN = {
    *("cniVersion", "cniVersions", "name", "type", "args", "ipMasq", "ipam", "dns", "runtimeConfig", "prevResult"),
    *("capabilities", "disableCheck", "disableGC", "headscale_url", "tailscale_socket", "pod_cidr", "service_cidr"),
    *("mtu", "enable_ipv6", "enable_network_policy", "magic_dns", "state_dir", "timeout_seconds"),
}
_KNOWN_IPAM = {
    *("type", "subnet", "gateway", "allocation_strategy", "routes", "rangeStart", "rangeEnd", "exclude"),
    *("cooldown_seconds", "ranges", "dns"),
}
_REMEMBERED = ("cniVersion", "name", "type", "mtu", "ipam", "dns", "enable_ipv6", "state_dir")


@dataclass(frozen=True, slots=True)
class NetConf:
    name: str
    cni_version: str
    pools: tuple[PoolSpec, ...] = ()  # of our own IPAM; empty with another IPAM plugin: the node's pod CIDRs
    delegate: str | None = None  # another IPAM plugin's type
    asked: tuple[Address, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: Dns = field(default_factory=Dns)
    mtu: int | None = None
    network_policy: bool = True
    valid_attachments: frozenset[str] | None = None  # GC
    unknown: tuple[str, ...] = ()
    raw: Mapping[str, Any] = field(default_factory=dict)

    @property
    def remembered(self) -> dict[str, Any]:
        """What a record keeps: enough to repair and delete, and no key that we do not know (it may hold a secret)."""
        return {key: self.raw[key] for key in _REMEMBERED if key in self.raw}


class _Reader:
    """Collects problems while fields are taken out of the configuration."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def wrong(self, name: str, value: object, cure: str) -> None:
        self.problems.append(f"{name}: {_short(value)} {cure}")

    def address(self, name: str, value: object) -> Address | None:
        try:
            return ip_address(str(value))
        except ValueError:
            self.wrong(name, value, "is not an IP address; write one without a prefix, such as 10.244.1.1")
            return None

    def network(self, name: str, value: object) -> Network | None:
        text = str(value)
        try:
            return ip_network(text)
        except ValueError as error:
            if "host bits" in str(error):
                self.wrong(name, value, f"has host bits set; write {ip_interface(text).network}")
            else:
                self.wrong(name, value, "is not a subnet; write one with its prefix, such as 10.244.1.0/24")
            return None

    def mapping(self, name: str, value: object) -> Mapping[str, Any]:
        if isinstance(value, dict):
            return value
        if value is not None:
            self.wrong(name, value, "is not an object; write {…}")
        return {}

    def items(self, name: str, value: object) -> Sequence[Any]:
        if isinstance(value, list):
            return value
        if value is not None:
            self.wrong(name, value, "is not a list; write […]")
        return []

    def flag(self, name: str, value: object, default: bool) -> bool:
        if value is None or isinstance(value, bool):
            return default if value is None else value
        self.wrong(name, value, "is neither true nor false")
        return default


@lru_cache(maxsize=64)  # a runtime sends the same bytes for pod after pod
def parse(raw: bytes) -> NetConf | Refusal:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        what = "the network configuration is empty" if not raw.strip() else "the network configuration is not JSON"
        return Refusal(Code.DECODE_FAILURE, what, f"{error}; check /etc/cni/net.d with `jq .`")
    if not isinstance(body, dict):
        return Refusal(Code.DECODE_FAILURE, "the network configuration is not a JSON object", _short(body))
    version = body.get("cniVersion", "0.1.0")
    if version not in SUPPORTED_VERSIONS:
        return Refusal(
            Code.INCOMPATIBLE_VERSION,
            f"cniVersion: {_short(version)} is not supported",
            "use one of " + ", ".join(SUPPORTED_VERSIONS),
        )
    reader = _Reader()
    conf = _read(reader, body, version)
    if reader.problems:
        return Refusal(Code.INVALID_CONFIGURATION, "invalid network configuration", "; ".join(reader.problems))
    return conf


def _read(reader: _Reader, body: dict[str, Any], version: str) -> NetConf:
    ipam = reader.mapping("ipam", body.get("ipam"))
    delegate = _delegate(reader, ipam)
    pools = () if delegate else _pools(reader, ipam)
    routes = _routes(reader, ipam)
    _check_timeout(reader, body)
    _check_ipv6(reader, body, pools)
    unknown = [key for key in body if key not in _KNOWN and not key.startswith("cni.dev/")]
    if not delegate:
        unknown += [f"ipam.{key}" for key in ipam if key not in _KNOWN_IPAM]
    return NetConf(
        name=_name(reader, body),
        cni_version=version,
        pools=pools,
        delegate=delegate,
        asked=_asked(reader, body),
        routes=routes,
        dns=_dns(reader, body, ipam),
        mtu=_mtu(reader, body, pools),
        network_policy=reader.flag("enable_network_policy", body.get("enable_network_policy"), True),
        valid_attachments=_valid_attachments(reader, body),
        unknown=tuple(unknown),
        raw=body,
    )


def _name(reader: _Reader, body: dict[str, Any]) -> str:
    name = body.get("name")
    if not isinstance(name, str) or not name:
        reader.wrong("name", name, "is missing; every network has a name, such as tailscale-cni")
        return ""
    if not name.isascii() or not name[0].isalnum() or not all(c.isalnum() or c in "_.-" for c in name):
        reader.wrong("name", name, "may hold letters, digits, '_', '.' and '-', and begins with a letter or digit")
    return name


def _check_timeout(reader: _Reader, body: dict[str, Any]) -> None:
    """Used by the plugin, which cannot complain about it."""
    timeout = body.get("timeout_seconds")
    if timeout is not None and (type(timeout) is not int or not 1 <= timeout <= MAX_TIMEOUT_SECONDS):
        reader.wrong("timeout_seconds", timeout, f"is not a whole number from 1 to {MAX_TIMEOUT_SECONDS}")


def _check_ipv6(reader: _Reader, body: dict[str, Any], pools: Sequence[PoolSpec]) -> None:
    wished = reader.flag("enable_ipv6", body.get("enable_ipv6"), True)
    if not wished and any(pool.subnet.version == 6 for pool in pools):
        reader.wrong("enable_ipv6", False, "contradicts the IPv6 subnet in ipam; set it to true, or remove the subnet")


def _delegate(reader: _Reader, ipam: Mapping[str, Any]) -> str | None:
    kind = ipam.get("type", OWN_IPAM)
    if not isinstance(kind, str) or not kind or "/" in kind:
        reader.wrong("ipam.type", kind, "is not the name of an IPAM plugin, such as headcni-ipam or host-local")
        return None
    return None if kind == OWN_IPAM else kind


def _pools(reader: _Reader, ipam: Mapping[str, Any]) -> tuple[PoolSpec, ...]:
    """Either one subnet in `ipam` itself, or `ranges` as host-local writes them: one set for each family."""
    pools = []
    if "subnet" in ipam:
        pools.append(_pool(reader, "ipam", ipam, ipam))
    for i, entry in enumerate(reader.items("ipam.ranges", ipam.get("ranges"))):
        name = f"ipam.ranges[{i}]"
        members = reader.items(name, entry)
        if len(members) != 1:
            reader.wrong(name, entry, "does not hold exactly one range; give each subnet a set of its own")
            continue
        pools.append(_pool(reader, f"{name}[0]", reader.mapping(f"{name}[0]", members[0]), ipam))
    specs = tuple(pool for pool in pools if pool is not None)
    if len(specs) == len(pools):
        reader.problems += pool_problems(specs)
    return specs


def _pool(reader: _Reader, name: str, entry: Mapping[str, Any], ipam: Mapping[str, Any]) -> PoolSpec | None:
    subnet = reader.network(f"{name}.subnet", entry.get("subnet"))
    before = len(reader.problems)
    addresses = {
        key: reader.address(f"{name}.{key}", entry[key])
        for key in ("gateway", "rangeStart", "rangeEnd")
        if entry.get(key) is not None
    }
    exclude = tuple(
        network
        for each in reader.items(f"{name}.exclude", entry.get("exclude", ipam.get("exclude")))
        if (network := reader.network(f"{name}.exclude", each)) is not None
    )
    strategy = ipam.get("allocation_strategy", Strategy.SEQUENTIAL.value)
    if strategy not in [s.value for s in Strategy]:
        reader.wrong("ipam.allocation_strategy", strategy, "is none of sequential, random, dense-pack")
    cooldown = ipam.get("cooldown_seconds", 30)
    if isinstance(cooldown, bool) or not isinstance(cooldown, int | float):
        reader.wrong("ipam.cooldown_seconds", cooldown, "is not a number of seconds, such as 30")
    if subnet is None or len(reader.problems) > before:
        return None
    return PoolSpec(
        subnet=subnet,
        gateway=addresses.get("gateway"),
        range_start=addresses.get("rangeStart"),
        range_end=addresses.get("rangeEnd"),
        exclude=tuple(each for each in exclude if each.version == subnet.version),
        strategy=Strategy(strategy),
        cooldown=float(cooldown),
    )


def _routes(reader: _Reader, ipam: Mapping[str, Any]) -> tuple[Route, ...]:
    routes = []
    for i, each in enumerate(reader.items("ipam.routes", ipam.get("routes"))):
        entry = reader.mapping(f"ipam.routes[{i}]", each)
        dst = reader.network(f"ipam.routes[{i}].dst", entry.get("dst"))
        gw = reader.address(f"ipam.routes[{i}].gw", entry["gw"]) if entry.get("gw") else None
        numbers: dict[str, int | None] = {}
        for key in ("mtu", "advmss", "priority"):
            value = entry.get(key)
            if value is not None and (type(value) is not int or value < 0):
                reader.wrong(f"ipam.routes[{i}].{key}", value, "is not a whole number")
                value = None
            numbers[key] = value
        if dst is not None and gw is not None and dst.version != gw.version:
            reader.wrong(f"ipam.routes[{i}].gw", str(gw), f"is not of the family of {dst}")
        elif dst is not None:
            routes.append(Route(str(dst), str(gw) if gw else None, **numbers))
    return tuple(routes)


def _asked(reader: _Reader, body: dict[str, Any]) -> tuple[Address, ...]:
    """`runtimeConfig.ips` (the `ips` capability) or `args.cni.ips`; a prefix length is allowed and ignored."""
    runtime = reader.mapping("runtimeConfig", body.get("runtimeConfig"))
    args = reader.mapping("args", body.get("args"))
    name, raw = "runtimeConfig.ips", runtime.get("ips")
    if raw is None:
        name, raw = "args.cni.ips", reader.mapping("args.cni", args.get("cni")).get("ips")
    plain = [each.partition("/")[0] if isinstance(each, str) else each for each in reader.items(name, raw)]
    return tuple(address for each in plain if (address := reader.address(name, each)) is not None)


def _dns(reader: _Reader, body: dict[str, Any], ipam: Mapping[str, Any]) -> Dns:
    raw = reader.mapping("dns", body.get("dns")) or reader.mapping("ipam.dns", ipam.get("dns"))
    for key in ("nameservers", "search", "options"):
        if not all(isinstance(each, str) for each in reader.items(f"dns.{key}", raw.get(key))):
            reader.wrong(f"dns.{key}", raw.get(key), "is not a list of strings")
    return Dns() if reader.problems else dns_from(raw)


def _mtu(reader: _Reader, body: dict[str, Any], pools: Sequence[PoolSpec]) -> int | None:
    mtu = body.get("mtu")
    if mtu is None or mtu == 0:
        return None
    if type(mtu) is not int or not MIN_MTU <= mtu <= MAX_MTU:
        reader.wrong("mtu", mtu, f"is not a whole number from {MIN_MTU} to {MAX_MTU}; leave it out for the default")
        return None
    if mtu < 1280 and any(pool.subnet.version == 6 for pool in pools):
        reader.wrong("mtu", mtu, "is too small for IPv6, which needs 1280")
    return mtu


def _valid_attachments(reader: _Reader, body: dict[str, Any]) -> frozenset[str] | None:
    name = "cni.dev/valid-attachments"
    if name not in body:
        return None
    keys = set()
    for each in reader.items(name, body[name]):
        entry = reader.mapping(name, each)
        if not isinstance(entry.get("containerID"), str) or not isinstance(entry.get("ifname"), str):
            reader.wrong(name, each, "lacks containerID or ifname")
            continue
        keys.add(f"{entry['containerID']}@{entry['ifname']}")
    return frozenset(keys)


def _short(value: object) -> str:
    text = repr(value) if not isinstance(value, str) else f'"{value}"'
    return text if len(text) <= 80 else text[:79] + "…"
