"""What is told to Kubernetes about this node, decided purely: the Node as it is and the truth in, patches out.

Each patch touches only what is HeadCNI's, so that it loses nothing of what kubelet, controllers and people write at the
same time: a strategic merge patch replaces one condition of the list, a merge patch a few annotations, and a JSON
patch removes the taint at its place *if* that taint is still there. The last one fails when somebody was faster; the
Node is read again, and this function asked again. When everything is as it should be, it wishes nothing.

Readiness comes first, then the condition, then the taint; never the other way round. The start-up taint is never
put back: a node that lost its readiness says so by its condition, which Kubernetes turns into a taint of its own.

A mesh that is not in force *yet* holds back only a node that was never ready: its first pods would reach nobody. A
mesh that is lost later leaves the node as it is, for an outage of the control server must not empty a cluster. A node
that is kept out of the mesh until a person mends something does not wait for it: it serves pods, and its condition
says that they reach each other on this node only, until the mesh is there. What was told before is read from the Node
itself, so that a restart of the daemon in the middle of either takes no readiness away.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from reconciler.kube.objects import NETWORK_UNAVAILABLE, PREFIX, Node, timestamp
from reconciler.kube.ports import Patch
from reconciler.settings import IpAddress, Network

TAINT = PREFIX + "not-ready"
POD_CIDR = PREFIX + "pod-cidr"
MESH = PREFIX + "mesh"
VERSION = PREFIX + "version"
NODE_KEY = PREFIX + "tailnet-node-key"
TAILNET_ADDRESS = PREFIX + "tailnet-address"

UP, NOT_READY = "HeadCNIIsUp", "HeadCNIIsNotReady"
HEARTBEAT = 300.0  # seconds, as the kubelet does with what does not change
LONGEST_MESSAGE = 1024
STILL = "all is as it was"


@dataclass(frozen=True, slots=True)
class Truth:
    """Of what is `None` it is not known yet, and nothing is said."""

    not_ready: str = ""  # why pods cannot be served now; empty: they can
    not_yet: str = ""  # what the start of a node that was never ready still waits for
    for_a_person: bool = False  # to mend, so it is not waited for
    pod_cidrs: tuple[Network, ...] = ()
    mesh: str | None = None
    version: str = ""
    node_key: str | None = None
    tailnet_addresses: tuple[IpAddress, ...] | None = None


class Aim(StrEnum):
    ANNOTATIONS = "annotations"
    CONDITION = "condition"
    TAINT = "taint"


@dataclass(frozen=True, slots=True)
class Change:
    aim: Aim
    says: str  # for the log; two changes that say the same are the same wish
    path: str
    kind: Patch
    body: Any
    turns: bool = False  # it changes whether pods may be sent here


def path_of(name: str) -> str:
    return f"/api/v1/nodes/{name}"


def wishes(node: Node, truth: Truth, now: float) -> list[Change]:
    """In the order in which they are to be done. `now` in seconds since the epoch."""
    return [*_annotations(node, truth), *_condition(node, truth, now), *_untainted(node, truth)]


def why_not(node: Node, truth: Truth) -> str:
    """Why this node is not ready; empty: it is."""
    told = node.conditions.get(NETWORK_UNAVAILABLE)
    was_up = told is not None and (told.status, told.reason) == ("False", UP)
    return truth.not_ready or ("" if was_up or truth.for_a_person else truth.not_yet)


def _annotations(node: Node, truth: Truth) -> Iterator[Change]:
    addresses = truth.tailnet_addresses
    wished: Mapping[str, str | None] = {
        POD_CIDR: ",".join(map(str, truth.pod_cidrs)),
        MESH: truth.mesh,
        VERSION: truth.version,
        NODE_KEY: truth.node_key,
        TAILNET_ADDRESS: None if addresses is None else ",".join(map(str, addresses)),
    }
    different = {
        key: value or None  # JSON's null removes it
        for key, value in wished.items()
        if value is not None and value != node.annotations.get(key, "")
    }
    if different:
        says = ", ".join(f"{key}={value or ''}" for key, value in different.items())
        yield Change(Aim.ANNOTATIONS, says, path_of(node.name), Patch.MERGE, {"metadata": {"annotations": different}})


def _condition(node: Node, truth: Truth, now: float) -> Iterator[Change]:
    reason = why_not(node, truth)
    status = "True" if reason else "False"
    code = NOT_READY if reason else UP
    told = node.conditions.get(NETWORK_UNAVAILABLE)
    message = (reason or _serving(truth, told.message if told else ""))[:LONGEST_MESSAGE]
    same = told is not None and (told.status, told.reason, told.message) == (status, code, message)
    if told is not None and same and abs(now - told.heartbeat) < HEARTBEAT:
        return
    kept = told.transition if told is not None and told.status == status else ""
    condition = {
        "type": NETWORK_UNAVAILABLE,
        "status": status,
        "reason": code,
        "message": message,
        "lastHeartbeatTime": timestamp(now),
        "lastTransitionTime": kept or timestamp(now),
    }
    says = STILL if same else f"{NETWORK_UNAVAILABLE}={status} {code}: {message}"
    body = {"status": {"conditions": [condition]}}
    turns = told is None or told.status != status
    yield Change(Aim.CONDITION, says, path_of(node.name) + "/status", Patch.STRATEGIC, body, turns)


def _serving(truth: Truth, told: str) -> str:
    """Who began without the mesh stays so until it is in force, whatever is missing meanwhile."""
    of = f" of {', '.join(map(str, truth.pod_cidrs))}" if truth.pod_cidrs else ""
    serves = f"HeadCNI serves pods{of}"
    alone = f"{serves}; they reach each other on this node only: "
    return alone + truth.not_yet if truth.not_yet and (truth.for_a_person or told.startswith(alone)) else serves


def _untainted(node: Node, truth: Truth) -> Iterator[Change]:
    if why_not(node, truth):
        return
    operations: list[dict[str, Any]] = []
    for place, taint in reversed(list(enumerate(node.taints))):  # from behind, or the places would shift
        if taint.get("key") == TAINT:
            where = f"/spec/taints/{place}"
            operations += [{"op": "test", "path": where, "value": taint}, {"op": "remove", "path": where}]
    if operations:
        yield Change(Aim.TAINT, f"without the taint {TAINT}", path_of(node.name), Patch.JSON, operations)
