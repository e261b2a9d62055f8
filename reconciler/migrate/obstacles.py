"""What stands in the way of leaving Flannel, and what is only to be known. Pure; each with what helps."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from cni.spec import Refusal
from reconciler.kube.codes import Trouble
from reconciler.mesh.networks import covers, overlap
from reconciler.migrate.cluster import KubeNode
from reconciler.migrate.flannel import SUBNET_ENV
from reconciler.migrate.seen import Seen
from reconciler.node.nearby import TAILNET
from reconciler.node.podcidr import Source
from reconciler.parsers import Network
from reconciler.settings import BY_KEY

OLDEST_KERNEL = (4, 19)
OURS = str(BY_KEY["cni.confFile"].default)


# --- what must be settled first


def reasons(seen: Seen) -> Iterator[Refusal]:
    cluster = seen.kubernetes
    for found in (seen.here.subnet_env, seen.here.net_conf, cluster.net_conf if cluster else None):
        if isinstance(found, Refusal):
            yield found
    if not seen.here.in_use and not (cluster and (cluster.net_conf or any(each.lease for each in cluster.nodes))):
        left = "; only what it left is here" if seen.here.anything else ""
        what = f"Flannel is not in use: no subnet.env, no network configuration, no node with a lease{left}"
        cure = "run this on a node of a cluster that has it, as root, or name a kubeconfig (--kubeconfig-file)"
        yield Refusal(Trouble.SOURCE_INVALID, what, cure)
    yield from _disagreements(seen)
    yield from _overlaps(seen)
    if seen.networks and all(each.version == 6 for each in seen.networks):
        what = f"pods have IPv6 only ({_text(seen.networks)}), and HeadCNI's mesh was not proved with IPv6 alone"
        yield Refusal(
            Trouble.SOURCE_INVALID, what, "try it on a cluster that you can lose, or add IPv4 to the cluster first"
        )
    for node in cluster.nodes if cluster else ():
        yield from _unable(node, seen)


def _disagreements(seen: Seen) -> Iterator[Refusal]:
    env, conf = seen.env, seen.conf
    own = seen.kubernetes.node(seen.node) if seen.kubernetes else None
    if seen.here.confs and seen.here.subnet_env is None and own is None:
        what = f"Flannel is the network of this node, but there is no {SUBNET_ENV}, which would say its pod CIDR"
        yield Refusal(Trouble.SOURCE_UNREADABLE, what, "see that Flannel runs on this node: it writes the file")
    if env is None:
        return
    if outside := [each for each in env.subnets if not _within(each, env.networks)]:
        what = f"subnet.env: the subnet {_text(outside)} is outside of the network {_text(env.networks)}"
        yield Refusal(Trouble.SOURCES_DISAGREE, what, "restart Flannel on this node, and see its log")
    if conf and conf.networks and set(conf.networks) != set(env.networks):
        what = f"Flannel is configured for {_text(conf.networks)}, but runs with {_text(env.networks)} on this node"
        yield Refusal(Trouble.SOURCES_DISAGREE, what, "restart Flannel on this node, or undo the change: one must hold")
    if own and own.pod_cidrs and set(own.pod_cidrs) != set(env.subnets):
        what = (
            f"Flannel has {_text(env.subnets)} on the node {seen.node}, and Kubernetes gave it {_text(own.pod_cidrs)}"
        )
        yield Refusal(Trouble.SOURCES_DISAGREE, what, _keep(env.subnets))
    elif not own and not seen.choice.guess and set(seen.choice.cidrs) != set(env.subnets):
        says = f"{seen.choice.looked_at} says {_text(seen.choice.cidrs)}"
        what = f"Flannel has {_text(env.subnets)} on this node, but {says}"
        yield Refusal(Trouble.SOURCES_DISAGREE, what, _keep(env.subnets))


def _keep(subnets: tuple[Network, ...]) -> str:
    return (
        f"to keep it, set network.podCIDR.nodeLocal to {','.join(map(str, subnets))} in a configuration of this node "
        "alone; a node whose pod CIDR changes cuts its pods off while it moves"
    )


def _overlaps(seen: Seen) -> Iterator[Refusal]:
    told = [said for said in seen.choice.findings if said.taken and said.source is not Source.DEFAULT]
    services = [each for each in seen.choice.service_cidrs if any(each in said.found for said in told)]
    for network in seen.networks:
        for whose, taken in [("the mesh", each) for each in TAILNET] + [("Services", each) for each in services]:
            if overlap(network, taken):
                what = f"the pods' network {network} overlaps {taken}, the addresses of {whose}"
                cure = "there is no way but a cluster with another pod CIDR"
                yield Refusal(Trouble.OVERLAP, what, cure)


def _unable(node: KubeNode, seen: Seen) -> Iterator[Refusal]:
    if node.system != "linux":
        what = f"the node {node.name} runs {node.system}: HeadCNI is for Linux, and pods there would have no network"
        yield Refusal(Trouble.SOURCE_INVALID, what, "keep Flannel, or take that node out of the cluster")
        return
    if () < _version(node.kernel) < OLDEST_KERNEL:
        what = f"the node {node.name} runs Linux {node.kernel}, and HeadCNI needs 4.19"
        yield Refusal(Trouble.SOURCE_INVALID, what, "give it a newer kernel first")
    if not node.pod_cidrs:
        what = f"Kubernetes gave the node {node.name} no pod CIDR: Flannel has its leases from somewhere else (etcd)"
        yield Refusal(Trouble.CIDR_GUESSED, what, _give(node.name, seen))
    elif seen.networks and (outside := [each for each in node.pod_cidrs if not _within(each, seen.networks)]):
        what = f"the node {node.name} has {_text(outside)}, outside of Flannel's network {_text(seen.networks)}"
        yield Refusal(Trouble.SOURCES_DISAGREE, what, "correct Flannel's net-conf.json, or that node's pod CIDR")


def _give(node: str, seen: Seen) -> str:
    """A Node's pod CIDR can be set as long as it has none."""
    if node != seen.node or not seen.env:
        return "run this on that node: it knows Flannel's subnet there, and has the command that tells it to Kubernetes"
    cidrs = [str(each) for each in seen.env.subnets]
    body = json.dumps({"spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs}}, separators=(",", ":"))
    return f"kubectl patch node {node} -p '{body}'"


def _version(kernel: str) -> tuple[int, ...]:
    parts = kernel.replace("-", ".").split(".")[:2]
    return tuple(int(part) for part in parts if part.isascii() and part.isdigit())


# --- what is to be known


def remarks(seen: Seen) -> Iterator[Refusal]:
    if isinstance(seen.cluster, Refusal):
        what = f"the API was not asked, so nothing is said of other nodes: {seen.cluster.msg}"
        yield Refusal(seen.cluster.code, what, seen.cluster.details)
    elif seen.cluster is None:
        what = "no way to an API server is known, so nothing is said of other nodes"
        yield Refusal(Trouble.API_UNREACHABLE, what, "name a kubeconfig with --kubeconfig-file")
    elif isinstance(seen.cluster.pods, Refusal):
        what = f"which pods must restart is not known: {seen.cluster.pods.msg}"
        yield Refusal(seen.cluster.pods.code, what, "look again with an administrator's kubeconfig (--kubeconfig-file)")
    if seen.kubernetes and not seen.networks:
        what = "which network all pods have is not known: there is no subnet.env here, and no ConfigMap of Flannel"
        yield Refusal(
            Trouble.SOURCE_UNREADABLE, what, "run this on a node, as root; or set network.podCIDR.base yourself"
        )
    if seen.env and not seen.kubernetes and seen.choice.guess:
        what = f"without the API HeadCNI would guess {_text(seen.choice.cidrs)}; Flannel has {_text(seen.env.subnets)}"
        cure = "see that its daemon reaches the API (it does as the kubelet does), or set network.podCIDR.nodeLocal"
        yield Refusal(Trouble.CIDR_GUESSED, what, cure)
    for conf in seen.here.confs:
        if others := [each for each in conf.types if each in ("calico", "cilium-cni")]:
            what = f"{conf.path} has {', '.join(others)} beside flannel: its NetworkPolicies end with it"
            yield Refusal(
                Trouble.OTHER_CNI,
                what,
                "what HeadCNI enforces of them is in docs/critiques.md; keep it if you need them",
            )
    for conf in seen.here.confs:
        if not seen.k3s and Path(conf.path).name > OURS:
            what = f"{conf.path} comes after {OURS} by name: the runtime would take HeadCNI's as soon as it is there"
            cure = "name HeadCNI's so that it comes after that, until the nodes move: config.cni.confFile in the values"
            yield Refusal(Trouble.OTHER_CNI, what, cure)
    if seen.k3s:
        what = "Flannel is a part of k3s here: it goes when k3s is started with --flannel-backend=none"
        cure = (
            "k3s does not support that on a cluster that runs: try it on one that you can lose. The NetworkPolicies "
            "that k3s enforces end with --disable-network-policy"
        )
        yield Refusal(Trouble.OTHER_CNI, what, cure)
    for blind in seen.here.blind:
        what = f"the packet filter could not be looked at: {blind}"
        yield Refusal(Trouble.FIREWALL, what, "run this as root: Flannel's chains are there, and stay when it goes")


def _within(network: Network, networks: Sequence[Network]) -> bool:
    return any(covers(each, network) for each in networks)


def _text(networks: Sequence[Network]) -> str:
    return ", ".join(map(str, networks)) or "nothing"
