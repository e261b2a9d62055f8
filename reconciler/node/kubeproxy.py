"""Who serves the addresses of Services on this node, told by what it left in the kernel.

No process is looked for: k3s has kube-proxy inside itself, a pod of another PID namespace is not seen, and rules work
without their maker. In ipvs mode kube-proxy has iptables chains as well, so ipvs is told first. A Cilium that replaces
kube-proxy is told by its interfaces where nobody else serves.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from cni.spec import Refusal
from reconciler.kube.codes import Trouble
from reconciler.node.ruleset import Chains

_IPVS = Path("/proc/thread-self/net/ip_vs")
_MAPS = "sys/fs/bpf/tc/globals"


class Mode(StrEnum):
    IPTABLES = "iptables"
    NFTABLES = "nftables"
    IPVS = "ipvs"
    CILIUM = "cilium"
    NONE = "none"
    UNKNOWN = "unknown"  # something could not be looked at, and what could shows nobody


@dataclass(frozen=True, slots=True)
class Proxy:
    mode: Mode
    evidence: tuple[str, ...]
    stale: tuple[Mode, ...] = ()  # modes whose rules are there as well


@dataclass(frozen=True, slots=True)
class Traces:
    """Beside the packet filter's chains."""

    links: Collection[str] = ()
    virtual_servers: int | None = None  # of ipvs; None: this kernel, or this namespace, has none
    maps: Collection[str] = ()  # of Cilium, pinned


def traces(root: Path = Path("/")) -> Traces:
    links = [name for _, name in socket.if_nameindex()]
    servers = None
    if _IPVS.exists():
        lines = _IPVS.read_text().splitlines()
        servers = sum(line.startswith(("TCP", "UDP", "SCTP", "FWM")) for line in lines)
    pinned = root / _MAPS
    maps = [path.name for path in pinned.glob("cilium_lb*")] if pinned.is_dir() else []
    return Traces(links, servers, sorted(maps))


def judge(chains: Chains, seen: Traces) -> Proxy:
    """Pure."""
    found: dict[Mode, tuple[str, ...]] = {}
    if "kube-ipvs0" in seen.links or ("kube-dummy-if" in seen.links and seen.virtual_servers):
        link = "kube-ipvs0" if "kube-ipvs0" in seen.links else "kube-dummy-if"
        found[Mode.IPVS] = (f"interface {link}", f"{seen.virtual_servers or 0} virtual servers in ipvs")
    own = [str(each) for each in chains.found if each.table == "kube-proxy" and each.name == "services"]
    if own:
        found[Mode.NFTABLES] = tuple(own)
    portals = [str(each) for each in chains.found if each.table == "nat" and each.name == "KUBE-SERVICES"]
    if portals and Mode.IPVS not in found:
        found[Mode.IPTABLES] = tuple(portals)
    cilium = sorted(link for link in seen.links if link.startswith("cilium_"))
    if cilium and not found:
        found[Mode.CILIUM] = (f"interfaces {', '.join(cilium)}", f"{len(seen.maps)} maps of its load balancer")
    if not found:
        return Proxy(Mode.UNKNOWN if chains.blind else Mode.NONE, chains.blind or ("no rule, interface or map",))
    first, *stale = found
    return Proxy(first, found[first], tuple(stale))


def problems(proxy: Proxy, kubernetes: bool) -> Iterable[Refusal]:
    """`kubernetes`: a kubelet is on this node, so somebody must serve."""
    if proxy.stale:
        both = " and ".join((proxy.mode, *proxy.stale))
        what = f"rules of kube-proxy are there in several modes, {both}: those it no longer keeps lead to dead pods"
        cure = "run `kube-proxy --cleanup` on this node, then start kube-proxy again; or restart the node"
        yield Refusal(Trouble.KUBE_PROXY, what, cure)
    if proxy.mode is Mode.NONE and kubernetes:
        what = "nothing on this node serves the addresses of Services: there is no trace of kube-proxy"
        cure = "start kube-proxy on this node, or what replaces it, and see its log; pods' addresses work without it"
        yield Refusal(Trouble.KUBE_PROXY, what, cure)
