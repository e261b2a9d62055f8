"""Every setting of the daemon, once: where it may be given, what it may be, what it is otherwise, and why.

From this table come the command line flags, the environment variables, the keys of the configuration file, the
output of `headcni config` and `docs/configuration.md`. A parser gets what was written (text from a flag or variable,
whatever YAML made of it from the file) and returns the value, or `Wrong`, which says what is wrong and what to write
instead. `reconciler/config.py` decides which source wins and checks the values against each other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any

Network = IPv4Network | IPv6Network
IpAddress = IPv4Address | IPv6Address


@dataclass(frozen=True, slots=True)
class Wrong:
    what: str
    cure: str


@dataclass(frozen=True, slots=True)
class StaticRoute:
    dst: Network
    via: IpAddress

    def __str__(self) -> str:
        return f"{self.dst}={self.via}"


Parse = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Setting:
    key: str  # in the file, dotted
    field: str  # of Config
    parse: Parse
    default: Any  # as it would be written
    help: str
    flag: str = ""
    env: str = ""
    live: bool = False  # SIGHUP is enough; everything else is part of what a start builds
    file_before_env: bool = False

    @property
    def repeatable(self) -> bool:
        return self.parse in (networks, routes)

    @property
    def switch(self) -> bool:
        return self.parse is boolean

    @property
    def form(self) -> str:
        """What stands for the value in a help text."""
        forms: dict[Parse, str] = {networks: "CIDR", routes: "DST=VIA", path: "DIR"}
        return forms.get(self.parse) or self.key.rpartition(".")[2].upper()


# --- parsers


def real_path(given: str | Path) -> Path:
    """The one spelling of a directory: the daemon's links are known by it, so every command must find the same."""
    return Path(os.path.realpath(given))


def path(raw: Any) -> Path | Wrong:
    if isinstance(raw, str) and raw.startswith("/"):
        return real_path(raw)
    return Wrong("is not an absolute path", "write a path that begins with /")


def networks(raw: Any) -> tuple[Network, ...] | Wrong:
    found: list[Network] = []
    for item in _items(raw):
        try:
            network = ip_network(item, strict=False) if isinstance(item, str) and "/" in item else None
        except ValueError:
            network = None
        if network is None:
            return Wrong(f"{item!r} is not a CIDR", "write an address and a prefix length, like 10.244.1.0/24")
        if ip_address(item.partition("/")[0]) != network.network_address:
            return Wrong(f"{item!r} has bits set beyond its prefix length", f"write {network}")
        found.append(network)
    families = [network.version for network in found]
    if len(set(families)) < len(families):
        return Wrong("names one address family twice", "give at most one IPv4 and one IPv6 CIDR")
    return tuple(found)


def routes(raw: Any) -> tuple[StaticRoute, ...] | Wrong:
    cure = "write dst and via, like 10.244.2.0/24=192.0.2.2 or {dst: 10.244.2.0/24, via: 192.0.2.2}"
    found: list[StaticRoute] = []
    for item in _items(raw):
        if isinstance(item, Mapping) and set(item) == {"dst", "via"}:
            dst, via = str(item["dst"]), str(item["via"])
        elif isinstance(item, str) and "=" in item:
            dst, via = (part.strip() for part in item.split("=", 1))
        else:
            return Wrong(f"{item!r} is not a route", cure)
        try:
            route = StaticRoute(ip_network(dst), ip_address(via))
        except ValueError as error:
            return Wrong(f"route {dst} via {via}: {error}", cure)
        if route.dst.version != route.via.version:
            return Wrong(f"route {dst} via {via} mixes IPv4 and IPv6", "give a next hop of the family of dst")
        if any(route.dst == other.dst for other in found):
            return Wrong(f"has two routes to {dst}", "keep one of them")
        found.append(route)
    return tuple(found)


def _items(raw: Any) -> list[Any]:
    """A list, or text with commas, or (from a repeated flag) a list of such texts."""
    items = raw if isinstance(raw, list | tuple) else [raw]
    flat: list[Any] = []
    for item in items:
        flat += [part.strip() for part in item.split(",") if part.strip()] if isinstance(item, str) else [item]
    return flat


def boolean(raw: Any) -> bool | Wrong:
    if isinstance(raw, bool):
        return raw
    known = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    value = known.get(str(raw).lower())
    return Wrong("is neither true nor false", "write true or false") if value is None else value


def between(low: int, high: int, or_zero: bool = False) -> Parse:
    def parse(raw: Any) -> int | Wrong:
        text = str(raw).strip()
        value = int(text) if text.isascii() and text.isdigit() and not isinstance(raw, bool) else -1
        if low <= value <= high or (or_zero and value == 0):
            return value
        zero = "0 or " if or_zero else ""
        return Wrong("is out of range", f"write a whole number: {zero}{low} to {high}")

    return parse


def prefix_length(raw: Any) -> int | Wrong:
    value = between(8, 30)(raw.removeprefix("/") if isinstance(raw, str) else raw)
    if isinstance(value, int):
        return value
    return Wrong("is not a prefix length for a node", "write /8 to /30, like /24")


def choice(*known: str, planned: str = "") -> Parse:
    def parse(raw: Any) -> str | Wrong:
        text = "off" if raw is False else str(raw).lower()  # YAML reads a bare `off` as false
        if text == planned:
            return Wrong("is not in this version", f"write {known[0]}")
        return text if text in known else Wrong("is unknown", "write one of " + ", ".join(known))

    return parse


def local_address(raw: Any) -> str | Wrong:
    try:
        return str(ip_address(str(raw)))
    except ValueError:
        return Wrong("is not an IP address", "write one of this node's, like 127.0.0.1, or :: for all")


def url_path(raw: Any) -> str | Wrong:
    if isinstance(raw, str) and raw.startswith("/") and not set(raw) & set(" ?#"):
        return raw
    return Wrong("is not the path of a URL", "write a path that begins with /, like /metrics")


# --- the table

SETTINGS = (
    Setting(
        "stateDir", "state_dir", path, "/var/lib/headcni",
        "Directory of intents, records and history. The network configuration's `state_dir` must lead to the same.",
        flag="--state-dir", env="HEADCNI_STATE_DIR",
    ),
    Setting(
        "network.podCIDR.nodeLocal", "pod_cidrs", networks, [],
        "This node's own pod CIDR, one per address family. Here the file wins over the environment: a file is "
        "written for this node, NODE_POD_CIDR often for all of them.",
        flag="--pod-cidr", env="NODE_POD_CIDR", file_before_env=True,
    ),
    Setting(
        "network.podCIDR.base", "cluster_cidrs", networks, ["10.244.0.0/16"],
        "The pods of all nodes, one CIDR per address family. What goes there keeps the pod's source address.",
        flag="--cluster-cidr", env="HEADCNI_CLUSTER_CIDR",
    ),
    Setting(
        "network.podCIDR.perNode", "node_prefix", prefix_length, "/24",
        "No effect yet: it is for nodes that find their own CIDR. IPv4 prefix length of one node's share of the base.",
        env="HEADCNI_POD_CIDR_PER_NODE",
    ),
    Setting(
        "network.serviceCIDR", "service_cidrs", networks, ["10.96.0.0/16"],
        "Addresses of Services, one CIDR per address family. A pod CIDR or subnet that overlaps "
        "them is refused.",
        flag="--service-cidr", env="HEADCNI_SERVICE_CIDR",
    ),
    Setting(
        "network.masquerade", "masquerade", boolean, True,
        "Rewrite the source of what pods send out of the cluster to the node's address. Without it, routers "
        "outside must know the pod CIDRs.",
        flag="--masquerade", env="HEADCNI_MASQUERADE", live=True,
    ),
    Setting(
        "network.staticRoutes", "static_routes", routes, [],
        "Pod CIDRs of other nodes and the next hop to each, where no mesh carries them.",
        flag="--static-route", env="HEADCNI_STATIC_ROUTES", live=True,
    ),
    Setting(
        "network.mtu", "mtu", between(576, 65535, or_zero=True), 0,
        "MTU of pod interfaces in bytes, 0 for automatic. Pods that run keep the one they have.",
        flag="--mtu", env="HEADCNI_MTU", live=True,
    ),
    Setting(
        "mesh.mode", "mesh_mode", choice("none", planned="tailscale"), "none",
        "Who carries packets between nodes: none (static routes); tailscale is not in this version.",
        flag="--mesh", env="HEADCNI_MESH",
    ),
    Setting(
        "kube.mode", "kube_mode", choice("off", planned="auto"), "off",
        "Whether to look for the Kubernetes API: off; auto is not in this version. Pods get their network without it.",
        flag="--kube", env="HEADCNI_KUBE",
    ),
    Setting(
        "metrics.address", "metrics_address", local_address, "127.0.0.1",
        "Where metrics, /healthz and /readyz are served. Loopback, because they name pods and addresses.",
        flag="--metrics-address", env="HEADCNI_METRICS_ADDRESS",
    ),
    Setting(
        "metrics.port", "metrics_port", between(0, 65535), 8080,
        "TCP port of the metrics, 0 for none.",
        flag="--metrics-port", env="HEADCNI_METRICS_PORT",
    ),
    Setting(
        "metrics.path", "metrics_path", url_path, "/metrics",
        "Path of the metrics, for a scraper that expects another one.",
        flag="--metrics-path", env="HEADCNI_METRICS_PATH",
    ),
    Setting(
        "logLevel", "log_level", choice("info", "debug", "warning", "error"), "info",
        "Least severe event that is logged: debug, info, warning or error.",
        flag="--log-level", env="HEADCNI_LOG_LEVEL", live=True,
    ),
    Setting(
        "history.maxRecords", "history_max_records", between(100, 1_000_000), 10_000,
        "Closed attachments that are kept, about 2 KiB each. Released addresses cool down by them, too.",
        env="HEADCNI_HISTORY_MAX_RECORDS", live=True,
    ),
    Setting(
        "history.maxDays", "history_max_days", between(1, 3650), 30,
        "Days that a closed attachment is kept.",
        env="HEADCNI_HISTORY_MAX_DAYS", live=True,
    ),
)  # fmt: skip

BY_KEY: Mapping[str, Setting] = {setting.key: setting for setting in SETTINGS}


def as_text(value: Any) -> str:
    """As it could be written in a flag or variable."""
    if isinstance(value, tuple | list):
        return ",".join(str(item) for item in value)
    return str(value).lower() if isinstance(value, bool) else str(value)
