"""The network configuration: from the runtime's bytes to what the daemon works with.

Everything wrong is collected and told at once, each problem with the field, the value and the cure. What is merely
unknown is let through with a warning, because configurations live longer than programs. Keys are those of
docs/configuration.md; those of the specification and of libcni are known and not ours to judge.

What `ipam` says of pools (gateway, range, exclusions, strategy, cool-down) is read before it is known of which subnet
it speaks, as a `PoolWish`. An address in it means the pool of its own family, so one wish does for dual stack, and
the subnets of the configuration and the node's pod CIDRs become pools by the same code (`PoolWish.on`) and the same
checks (`_misfits`). `parse` depends on the bytes alone and is cached; `with_node_pools` adds the node.

Another IPAM plugin's `ipam` is not ours to understand, and may hold a password. A live record keeps it whole, because
that plugin needs it for DEL; a closed one needs nothing of it (`without_delegate_secrets`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import orjson

from cni.plugin import MAX_TIMEOUT_SECONDS
from cni.result import Dns, Route
from cni.spec import SUPPORTED_VERSIONS, Code, Refusal
from reconciler.dns import MAGIC_KEYS, read_dns
from reconciler.ipam.pool import MAX_COOLDOWN, Address, Network, PoolSpec, Strategy, pool_problems
from reconciler.mesh.url import check_url
from reconciler.parsers import Wrong, file_path, real_path
from reconciler.reader import Reader, short

OWN_IPAM = "headcni-ipam"
MIN_MTU, MIN_MTU_IPV6, MAX_MTU = 576, 1280, 65535
MAX_U32 = (1 << 32) - 1

_KNOWN = {
    *("cniVersion", "cniVersions", "name", "type", "args", "ipMasq", "ipam", "dns", "runtimeConfig", "prevResult"),
    *("capabilities", "disableCheck", "disableGC", "headscale_url", "tailscale_socket", "pod_cidr", "service_cidr"),
    *("mtu", "enable_ipv6", "enable_network_policy", "magic_dns", "state_dir", "timeout_seconds"),
}
_RANGE_KEYS = ("subnet", "gateway", "rangeStart", "rangeEnd", "exclude")
_POOL_KEYS = ("type", *_RANGE_KEYS, "allocation_strategy", "cooldown_seconds")
_KNOWN_IPAM = {*_POOL_KEYS, "ranges", "routes", "dns"}
_REMEMBERED = ("cniVersion", "name", "type", "mtu", "enable_ipv6", "state_dir")


@dataclass(frozen=True, slots=True)
class PoolWish:
    """How a pool is to be, whatever its subnet."""

    gateway: Address | None = None
    range_start: Address | None = None
    range_end: Address | None = None
    exclude: tuple[Network, ...] = ()
    strategy: Strategy = Strategy.SEQUENTIAL
    cooldown: float = 30.0

    def over(self, general: PoolWish) -> PoolWish:
        return replace(
            general,
            gateway=self.gateway or general.gateway,
            range_start=self.range_start or general.range_start,
            range_end=self.range_end or general.range_end,
            exclude=self.exclude + general.exclude,
        )

    def on(self, subnet: Network) -> PoolSpec:
        def fitting(address: Address | None) -> Address | None:
            return address if address is not None and address.version == subnet.version else None

        return PoolSpec(
            subnet,
            gateway=fitting(self.gateway),
            range_start=fitting(self.range_start),
            range_end=fitting(self.range_end),
            exclude=tuple(each for each in self.exclude if each.version == subnet.version),
            strategy=self.strategy,
            cooldown=self.cooldown,
        )

    def strays(self, name: str, families: Collection[int]) -> Iterator[str]:
        """What would have no effect, because no pool is of its family."""
        ends = (("gateway", self.gateway), ("rangeStart", self.range_start), ("rangeEnd", self.range_end))
        for key, each in (*ends, *(("exclude", network) for network in self.exclude)):
            if each is not None and each.version not in families:
                family = f"IPv{each.version}"
                yield f"{name}.{key}: {each} fits no pool, as none is of {family}; remove it, or add an {family} subnet"


@dataclass(frozen=True, slots=True)
class NetConf:
    name: str
    cni_version: str
    pools: tuple[PoolSpec, ...] = ()  # of our own IPAM; none configured: `with_node_pools`
    wish: PoolWish = PoolWish()
    delegate: str | None = None  # another IPAM plugin's type
    asked: tuple[Address, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: Dns = field(default_factory=Dns)
    mtu: int | None = None
    ipv6: bool = True
    service_cidrs: tuple[Network, ...] = ()
    network_policy: bool = True
    valid_attachments: frozenset[str] | None = None  # GC
    unknown: tuple[str, ...] = ()
    raw: Mapping[str, Any] = field(default_factory=dict)

    @property
    def remembered(self) -> dict[str, Any]:
        """What a record keeps: enough to repair and delete, and no key that we do not know (it may hold a secret)."""
        kept = _only(_REMEMBERED, self.raw)
        ipam = self.raw.get("ipam")
        if self.delegate:
            kept["ipam"] = ipam
        elif ipam:
            sets = ipam.get("ranges") or ()
            ranges = {"ranges": [[_only(_RANGE_KEYS, each) for each in members] for members in sets]} if sets else {}
            kept["ipam"] = _only(_POOL_KEYS, ipam) | ranges
        return kept


def without_delegate_secrets(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of what a record kept, what its history may hold: of another IPAM plugin's configuration the plugin's name."""
    ipam = config.get("ipam")
    kind = ipam.get("type", OWN_IPAM) if isinstance(ipam, Mapping) else OWN_IPAM
    return dict(config) if kind == OWN_IPAM else {**config, "ipam": {"type": kind}}


def _only(keys: Sequence[str], body: Mapping[str, Any]) -> dict[str, Any]:
    return {key: body[key] for key in keys if key in body}


@lru_cache(maxsize=64)  # a runtime sends the same bytes for pod after pod
def parse(raw: bytes) -> NetConf | Refusal:
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        what = "the network configuration is empty" if not raw.strip() else "the network configuration is not JSON"
        return Refusal(Code.DECODE_FAILURE, what, f"{error}; check /etc/cni/net.d with `jq .`")
    if not isinstance(body, dict):
        return Refusal(Code.DECODE_FAILURE, "the network configuration is not a JSON object", short(body))
    version = body.get("cniVersion", "0.1.0")
    if version not in SUPPORTED_VERSIONS:
        return Refusal(
            Code.INCOMPATIBLE_VERSION,
            f"cniVersion: {short(version)} is not supported",
            "use one of " + ", ".join(SUPPORTED_VERSIONS),
        )
    reader = Reader()
    conf = _read(reader, body, version)
    if reader.problems:
        return _invalid("invalid network configuration", reader.problems)
    return conf


def with_node_pools(conf: NetConf, cidrs: Sequence[Network]) -> NetConf | Refusal:
    """A network without a subnet of its own takes the node's pod CIDRs, and must fit them."""
    if not cidrs:
        return _invalid(
            "ipam.subnet: missing, and the daemon knows no pod CIDR of this node",
            ["set ipam.subnet, or start the daemon with --pod-cidr"],
        )
    pools = tuple(conf.wish.on(cidr) for cidr in cidrs if conf.ipv6 or cidr.version == 4)
    listed = ", ".join(map(str, cidrs))
    if not pools:
        return _invalid(
            f"enable_ipv6: false leaves no address, as this node's pod CIDR is {listed}",
            ["set it to true, or give the node an IPv4 pod CIDR"],
        )
    problems = [*_misfits(conf.wish, pools), *_mtu_problems(conf.mtu, pools)]
    if problems:
        return _invalid(
            f"the network configuration does not fit ipam.subnet, here this node's pod CIDR {listed}", problems
        )
    return replace(conf, pools=pools)


def overruled(conf: NetConf, headscale_url: str, tailscale_socket: Path) -> Iterator[tuple[str, str]]:
    """Keys by which the network names another control server, or another tailscaled, than the daemon; what it has."""
    url, socket = conf.raw.get("headscale_url"), conf.raw.get("tailscale_socket")
    if url and url != headscale_url and check_url(str(url)) != headscale_url:
        yield "headscale_url", f"headscale.url {headscale_url or '(none)'}"
    if socket and socket != str(tailscale_socket):
        path = file_path(socket)
        if isinstance(path, Wrong) or real_path(path) != real_path(tailscale_socket):  # /var/run is a link to /run
            yield "tailscale_socket", f"tailscale.socket {tailscale_socket}"


def _invalid(msg: str, problems: Sequence[str]) -> Refusal:
    return Refusal(Code.INVALID_CONFIGURATION, msg, "; ".join(dict.fromkeys(problems)))


def _read(reader: Reader, body: dict[str, Any], version: str) -> NetConf:
    ipam = reader.mapping("ipam", body.get("ipam"))
    delegate = _delegate(reader, ipam)
    wish = PoolWish() if delegate else _wish(reader, ipam)
    pools = () if delegate else _pools(reader, ipam, wish)
    _check_timeout(reader, body)
    reader.networks("pod_cidr", body.get("pod_cidr"))
    unknown = [key for key in body if key not in _KNOWN and not key.startswith("cni.dev/")]
    if not delegate:
        unknown += [f"ipam.{key}" for key in ipam if key not in _KNOWN_IPAM]
    magic_dns = reader.mapping("magic_dns", body.get("magic_dns"))
    unknown += [f"magic_dns.{key}" for key in magic_dns if key not in MAGIC_KEYS]
    return NetConf(
        name=_name(reader, body),
        cni_version=version,
        pools=pools,
        wish=wish,
        delegate=delegate,
        asked=_asked(reader, body),
        routes=_routes(reader, ipam),
        dns=read_dns(reader, body, ipam, magic_dns),
        mtu=_mtu(reader, body, pools),
        ipv6=_ipv6(reader, body, pools),
        service_cidrs=reader.networks("service_cidr", body.get("service_cidr")),
        network_policy=reader.flag("enable_network_policy", body.get("enable_network_policy"), True),
        valid_attachments=_valid_attachments(reader, body),
        unknown=tuple(unknown),
        raw=body,
    )


def _name(reader: Reader, body: dict[str, Any]) -> str:
    name = body.get("name")
    if not isinstance(name, str) or not name:
        reader.wrong("name", name, "is missing; every network has a name, such as tailscale-cni")
        return ""
    if not name.isascii() or not name[0].isalnum() or not all(c.isalnum() or c in "_.-" for c in name):
        reader.wrong("name", name, "may hold letters, digits, '_', '.' and '-', and begins with a letter or digit")
    return name


def _check_timeout(reader: Reader, body: dict[str, Any]) -> None:
    """Used by the plugin, which cannot complain about it."""
    timeout = body.get("timeout_seconds")
    if timeout is not None and (type(timeout) is not int or not 1 <= timeout <= MAX_TIMEOUT_SECONDS):
        reader.wrong("timeout_seconds", timeout, f"is not a whole number from 1 to {MAX_TIMEOUT_SECONDS}")


def _ipv6(reader: Reader, body: dict[str, Any], pools: Sequence[PoolSpec]) -> bool:
    wished = reader.flag("enable_ipv6", body.get("enable_ipv6"), True)
    if not wished and any(pool.subnet.version == 6 for pool in pools):
        reader.wrong("enable_ipv6", False, "contradicts the IPv6 subnet in ipam; set it to true, or remove the subnet")
    return wished


def _delegate(reader: Reader, ipam: Mapping[str, Any]) -> str | None:
    kind = ipam.get("type", OWN_IPAM)
    if not isinstance(kind, str) or not kind or "/" in kind:
        reader.wrong("ipam.type", kind, "is not the name of an IPAM plugin, such as headcni-ipam or host-local")
        return None
    return None if kind == OWN_IPAM else kind


def _wish(reader: Reader, ipam: Mapping[str, Any]) -> PoolWish:
    wish = _placed(reader, "ipam", ipam)
    if "allocation_strategy" in ipam:
        try:
            wish = replace(wish, strategy=Strategy(ipam["allocation_strategy"]))
        except ValueError:
            known = ", ".join(Strategy)
            reader.wrong("ipam.allocation_strategy", ipam["allocation_strategy"], f"is not known; write one of {known}")
    if "cooldown_seconds" in ipam:
        cooldown = ipam["cooldown_seconds"]
        if type(cooldown) in (int, float) and 0 <= cooldown <= MAX_COOLDOWN:
            return replace(wish, cooldown=float(cooldown))
        cure = f"is not a number of seconds from 0 to {MAX_COOLDOWN:.0f}; the usual value is 30"
        reader.wrong("ipam.cooldown_seconds", cooldown, cure)
    return wish


def _placed(reader: Reader, name: str, entry: Mapping[str, Any]) -> PoolWish:
    """The part that may also stand in each range."""

    def end(key: str) -> Address | None:
        value = entry.get(key)
        return None if value is None else reader.address(f"{name}.{key}", value)

    exclude = [
        _excluded(reader, f"{name}.exclude", each) for each in reader.items(f"{name}.exclude", entry.get("exclude"))
    ]
    kept = tuple(network for network in exclude if network is not None)
    return PoolWish(end("gateway"), end("rangeStart"), end("rangeEnd"), kept)


def _excluded(reader: Reader, name: str, value: object) -> Network | None:
    if isinstance(value, str) and "/" not in value:
        address = reader.address(name, value)
        return None if address is None else ip_network(address)
    return reader.network(name, value)


def _pools(reader: Reader, ipam: Mapping[str, Any], wish: PoolWish) -> tuple[PoolSpec, ...]:
    """Either one subnet in `ipam` itself, or `ranges` as host-local writes them: one set for each family."""
    pools: list[PoolSpec | None] = []
    if "subnet" in ipam:
        subnet = reader.network("ipam.subnet", ipam["subnet"])
        pools.append(None if subnet is None else wish.on(subnet))
    for i, entry in enumerate(reader.items("ipam.ranges", ipam.get("ranges"))):
        name = f"ipam.ranges[{i}]"
        members = reader.items(name, entry)
        if len(members) != 1:
            reader.wrong(name, entry, "does not hold exactly one range; give each subnet a set of its own")
            pools.append(None)
            continue
        pools.append(_range(reader, f"{name}[0]", reader.mapping(f"{name}[0]", members[0]), wish))
    specs = tuple(pool for pool in pools if pool is not None)
    if specs and len(specs) == len(pools):
        reader.problems += _misfits(wish, specs)
    return specs


def _range(reader: Reader, name: str, entry: Mapping[str, Any], wish: PoolWish) -> PoolSpec | None:
    subnet = reader.network(f"{name}.subnet", entry.get("subnet"))
    own = _placed(reader, name, entry)
    if subnet is None:
        return None
    reader.problems += own.strays(name, (subnet.version,))
    return own.over(wish).on(subnet)


def _misfits(wish: PoolWish, pools: Sequence[PoolSpec]) -> list[str]:
    return [*wish.strays("ipam", [pool.subnet.version for pool in pools]), *pool_problems(pools)]


def _routes(reader: Reader, ipam: Mapping[str, Any]) -> tuple[Route, ...]:
    routes = []
    for i, each in enumerate(reader.items("ipam.routes", ipam.get("routes"))):
        entry = reader.mapping(f"ipam.routes[{i}]", each)
        dst = reader.network(f"ipam.routes[{i}].dst", entry.get("dst"))
        gw = reader.address(f"ipam.routes[{i}].gw", entry["gw"]) if entry.get("gw") else None
        numbers: dict[str, int | None] = {}
        for key in ("mtu", "advmss", "priority"):
            value = entry.get(key)
            if value is not None and (type(value) is not int or not 0 <= value <= MAX_U32):
                reader.wrong(f"ipam.routes[{i}].{key}", value, f"is not a whole number from 0 to {MAX_U32}")
                value = None
            numbers[key] = value
        if dst is not None and gw is not None and dst.version != gw.version:
            reader.wrong(
                f"ipam.routes[{i}].gw",
                str(gw),
                f"is not of the family of {dst}; write an address of the same family, or none",
            )
        elif dst is not None:
            routes.append(Route(str(dst), str(gw) if gw else None, **numbers))
    return tuple(routes)


def _asked(reader: Reader, body: dict[str, Any]) -> tuple[Address, ...]:
    """`runtimeConfig.ips` (the `ips` capability) or `args.cni.ips`; a prefix length is allowed and ignored."""
    runtime = reader.mapping("runtimeConfig", body.get("runtimeConfig"))
    args = reader.mapping("args", body.get("args"))
    name, raw = "runtimeConfig.ips", runtime.get("ips")
    if raw is None:
        name, raw = "args.cni.ips", reader.mapping("args.cni", args.get("cni")).get("ips")
    plain = [each.partition("/")[0] if isinstance(each, str) else each for each in reader.items(name, raw)]
    return tuple(address for each in plain if (address := reader.address(name, each)) is not None)


def _mtu(reader: Reader, body: dict[str, Any], pools: Sequence[PoolSpec]) -> int | None:
    mtu = body.get("mtu")
    if mtu is None or (type(mtu) is int and mtu == 0):
        return None
    if type(mtu) is not int or not MIN_MTU <= mtu <= MAX_MTU:
        reader.wrong("mtu", mtu, f"is not a whole number from {MIN_MTU} to {MAX_MTU}; leave it out for the default")
        return None
    reader.problems += _mtu_problems(mtu, pools)
    return mtu


def _mtu_problems(mtu: int | None, pools: Sequence[PoolSpec]) -> Iterator[str]:
    if mtu is not None and mtu < MIN_MTU_IPV6 and any(pool.subnet.version == 6 for pool in pools):
        yield f"mtu: {mtu} is too small for IPv6, which needs {MIN_MTU_IPV6}; leave it out for the default"


def _valid_attachments(reader: Reader, body: dict[str, Any]) -> frozenset[str] | None:
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
