"""What is kept of a Node and of a Pod: the few fields that something here reads, taken out once, at the edge.

A Pod's manifest is some kilobytes, a Node's list of images and volumes ten times that; kept as they come, a thousand
nodes would be the largest thing in memory. So each object is reduced as soon as it arrives, and what arrived is let
go. A new use adds its field here.

What is missing, or not of the kind it should be, counts as not there: no answer of an API server is a fault of this
program. An object without a name is none, and its reducer answers `None`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from itertools import accumulate
from typing import Any

from reconciler.kube.ports import Object
from reconciler.settings import IpAddress, Network

PREFIX = "headcni.io/"
NETWORK_UNAVAILABLE = "NetworkUnavailable"
MIRROR_OF = "kubernetes.io/config.hash"  # of a mirror pod: the UID under which the kubelet runs the static pod
FINISHED = ("Succeeded", "Failed")
LABELS = 8192  # characters of one pod's that are kept; real ones have hundreds, but whoever makes a pod may write 10^6


@dataclass(frozen=True, slots=True)
class Condition:
    status: str  # True, False, Unknown
    reason: str
    message: str
    heartbeat: float  # seconds since the epoch, by the clock of who wrote it; 0: not told
    transition: str  # as it was written


@dataclass(frozen=True, slots=True)
class Node:
    name: str
    uid: str = ""
    version: str = ""  # resourceVersion
    pod_cidrs: tuple[Network, ...] = ()
    taints: tuple[Object, ...] = ()  # as they are: a patch must name them to the letter, and by their place
    conditions: Mapping[str, Condition] = field(default_factory=dict)  # NetworkUnavailable only
    annotations: Mapping[str, str] = field(default_factory=dict)  # HeadCNI's only
    addresses: tuple[IpAddress, ...] = ()


@dataclass(frozen=True, slots=True)
class Pod:
    namespace: str
    name: str
    uid: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)  # for network policies: here, not in a record; see LABELS
    phase: str = ""
    addresses: tuple[IpAddress, ...] = ()
    node: str = ""
    host_network: bool = False
    deleting: bool = False
    static_uid: str = ""

    @property
    def finished(self) -> bool:
        """Its containers have ended for good; its addresses stay in its status, and may be another pod's by now."""
        return self.phase in FINISHED


def node(raw: Object) -> Node | None:
    meta, spec, status = _map(raw, "metadata"), _map(raw, "spec"), _map(raw, "status")
    name = _text(meta, "name")
    if not name:
        return None
    cidrs = _texts(spec, "podCIDRs") or _texts({"one": [spec.get("podCIDR")]}, "one")
    conditions = {_text(each, "type"): _condition(each) for each in _maps(status, "conditions")}
    return Node(
        name=name,
        uid=_text(meta, "uid"),
        version=_text(meta, "resourceVersion"),
        pod_cidrs=networks(cidrs),
        taints=tuple(_maps(spec, "taints")),
        conditions={name: each for name, each in conditions.items() if name == NETWORK_UNAVAILABLE},
        annotations={key: each for key, each in _strings(meta, "annotations").items() if key.startswith(PREFIX)},
        addresses=_addresses(_text(each, "address") for each in _maps(status, "addresses")),
    )


def pod(raw: Object) -> Pod | None:
    meta, spec, status = _map(raw, "metadata"), _map(raw, "spec"), _map(raw, "status")
    name = _text(meta, "name")
    if not name:
        return None
    addresses = [_text(each, "ip") for each in _maps(status, "podIPs")] or [_text(status, "podIP")]
    return Pod(
        namespace=_text(meta, "namespace"),
        name=name,
        uid=_text(meta, "uid"),
        labels=_within(LABELS, _strings(meta, "labels")),
        phase=_text(status, "phase"),
        addresses=_addresses(addresses),
        node=_text(spec, "nodeName"),
        host_network=spec.get("hostNetwork") is True,
        deleting="deletionTimestamp" in meta,
        static_uid=_strings(meta, "annotations").get(MIRROR_OF, ""),
    )


def _condition(raw: Object) -> Condition:
    return Condition(
        status=_text(raw, "status"),
        reason=_text(raw, "reason"),
        message=_text(raw, "message"),
        heartbeat=seconds(_text(raw, "lastHeartbeatTime")),
        transition=_text(raw, "lastTransitionTime"),
    )


# --- times, as Kubernetes writes them


def timestamp(at: float) -> str:
    return _utc(at).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro_timestamp(at: float) -> str:
    """The form of Leases: the microseconds must be there."""
    return _utc(at).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def seconds(text: str) -> float:
    """0 for what is no time."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0


def _utc(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC)


# --- whatever came


def _map(raw: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = raw.get(key)
    return found if isinstance(found, Mapping) else {}


def _maps(raw: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    found = raw.get(key)
    return [each for each in found if isinstance(each, Mapping)] if isinstance(found, list) else []


def _text(raw: Mapping[str, Any], key: str) -> str:
    found = raw.get(key)
    return found if isinstance(found, str) else ""


def _texts(raw: Mapping[str, Any], key: str) -> list[str]:
    found = raw.get(key)
    return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []


def _strings(raw: Mapping[str, Any], key: str) -> dict[str, str]:
    return {name: each for name, each in _map(raw, key).items() if isinstance(each, str)}


def _within(bound: int, strings: Mapping[str, str]) -> dict[str, str]:
    """The first ones in their order."""
    sizes = accumulate(len(name) + len(each) for name, each in sorted(strings.items()))
    return {name: strings[name] for name, size in zip(sorted(strings), sizes, strict=True) if size <= bound}


def networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Those that are one."""
    return tuple([network for text in texts if (network := _network(text)) is not None])


def _network(text: str) -> Network | None:
    try:
        return ip_network(text)
    except ValueError:
        return None


def _addresses(texts: Iterable[str]) -> tuple[IpAddress, ...]:
    """Of a Node, names are among them."""
    found: list[IpAddress] = []
    for text in texts:
        try:
            found.append(ip_address(text))
        except ValueError:
            continue
    return tuple(found)
