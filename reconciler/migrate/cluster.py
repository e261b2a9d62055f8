"""The cluster as the API tells it: nodes with their leases, pods with a network of their own, Flannel's own objects.

Asked once, by the first way that lets us read Nodes; each answer has a bound. A kubelet's credentials may not list what
is not its node's: then only this node is told, or its pods are not, and that is said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from cni.spec import Refusal
from reconciler.config import Config
from reconciler.kube import objects
from reconciler.kube.codes import Trouble
from reconciler.kube.node import POD_CIDR
from reconciler.migrate import flannel, formats
from reconciler.migrate.formats import Lease, NetConf
from reconciler.parsers import Network
from reconciler.plainyaml import Malformed

if TYPE_CHECKING:
    from reconciler.kube.client import Client

SECONDS = 60.0
PAGE = "250"
CONFIG = "kube-flannel-cfg"
NAMESPACES = ("kube-flannel", "kube-system")
MOVED = objects.PREFIX + "moved"  # a label, set when a node moves
CONTROL_PLANE = ("node-role.kubernetes.io/control-plane", "node-role.kubernetes.io/master")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class KubeNode:
    name: str
    pod_cidrs: tuple[Network, ...] = ()
    lease: Lease | None = None
    control_plane: bool = False
    system: str = "linux"
    kernel: str = ""
    kubelet: str = ""  # its version
    ours: bool = False  # a daemon of HeadCNI has told of itself
    moved: bool = False  # its pods have their network from HeadCNI already


@dataclass(frozen=True, slots=True)
class KubePod:
    node: str
    name: str  # with its namespace
    owner: str = ""  # kind


@dataclass(frozen=True, slots=True)
class DaemonSet:
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Cluster:
    endpoint: str
    nodes: tuple[KubeNode, ...]
    pods: tuple[KubePod, ...] | Refusal
    net_conf: NetConf | Refusal | None = None
    net_conf_from: str = ""
    daemon_sets: tuple[DaemonSet, ...] = ()

    def node(self, name: str) -> KubeNode | None:
        return next((each for each in self.nodes if each.name == name), None)


async def ask(config: Config) -> Cluster | Refusal | None:
    """None: nobody says where an API server is. Otherwise, of the ways that fail, why the first one does."""
    try:
        async with asyncio.timeout(SECONDS):
            return await _ask(config)
    except TimeoutError:
        cure = "see `headcni doctor --online`, which tries each way on its own"
        return Refusal(Trouble.API_UNREACHABLE, f"the API did not tell all within {SECONDS:g} s", cure)


async def _ask(config: Config) -> Cluster | Refusal | None:
    from reconciler.kube import surroundings
    from reconciler.kube.assemble import dial
    from reconciler.kube.candidates import candidates
    from reconciler.kube.names import Names
    from reconciler.threads import Threads

    threads, names = Threads(), Names()
    first: Refusal | None = None
    for way in candidates(config, surroundings.look(root=config.node_root)):
        try:
            client = await dial(way, config, threads, names)
        except TimeoutError:
            client = Refusal(Trouble.API_KUBECONFIG, f"{way}: its files could not be read", "see their file system")
        outcome = client if isinstance(client, Refusal) else await _asked(client, config.node_name)
        if isinstance(outcome, Cluster):
            return outcome
        first = first or outcome
    return first


async def _asked(client: Client, node: str) -> Cluster | Refusal:
    try:
        nodes = await _nodes(client, node)
        if isinstance(nodes, Refusal):
            return nodes
        pods = await _pods(client, node)
        where, conf = await _net_conf(client)
        return Cluster(client.endpoint, nodes, pods, conf, where, await _daemon_sets(client))
    finally:
        await client.close()


async def _listed(
    client: Client, path: str, keep: Callable[[Any], T | None], query: Mapping[str, str] | None = None
) -> tuple[T, ...] | Refusal:
    found: list[T] = []
    token = ""
    while True:
        page = await client.page(path, {"limit": PAGE, **(query or {}), **({"continue": token} if token else {})}, keep)
        if isinstance(page, Refusal):
            return page
        found += page.objects
        if not (token := page.following):
            return tuple(found)


async def _nodes(client: Client, node: str) -> tuple[KubeNode, ...] | Refusal:
    listed = await _listed(client, "/api/v1/nodes", node_of)
    if not (isinstance(listed, Refusal) and listed.code == Trouble.API_FORBIDDEN):
        return listed
    own = await client.get(f"/api/v1/nodes/{node}")
    kept = listed if isinstance(own, Refusal) else node_of(own)
    return kept if isinstance(kept, Refusal) else (kept,) if kept else ()


async def _pods(client: Client, node: str) -> tuple[KubePod, ...] | Refusal:
    listed = await _listed(client, "/api/v1/pods", pod_of)
    if isinstance(listed, Refusal) and listed.code == Trouble.API_FORBIDDEN:
        own = await _listed(client, "/api/v1/pods", pod_of, {"fieldSelector": f"spec.nodeName={node}"})
        return listed if isinstance(own, Refusal) else own
    return listed


async def _net_conf(client: Client) -> tuple[str, NetConf | Refusal | None]:
    for namespace in NAMESPACES:
        found = await client.get(f"/api/v1/namespaces/{namespace}/configmaps/{CONFIG}")
        data = None if isinstance(found, Refusal) else found.get("data")
        if not isinstance(data, Mapping):
            continue  # not there, or not ours to read
        where = f"ConfigMap {namespace}/{CONFIG}"
        text = data.get("net-conf.json")
        conf = formats.net_conf(text) if isinstance(text, str) else Malformed("has no key net-conf.json")
        return where, flannel.refused(where, conf) if isinstance(conf, Malformed) else conf
    return "", None


async def _daemon_sets(client: Client) -> tuple[DaemonSet, ...]:
    """Flannel's manifest and chart call it kube-flannel-ds; older ones have one for each architecture."""
    listed = await _listed(client, "/apis/apps/v1/daemonsets", _daemon_set)
    return () if isinstance(listed, Refusal) else tuple([each for each in listed if "flannel" in each.name])


# --- what is kept


def node_of(raw: Any) -> KubeNode | None:
    node = objects.node(raw)
    if node is None:
        return None
    meta, info = _inner(raw, "metadata"), _inner(_inner(raw, "status"), "nodeInfo")
    labels = _inner(meta, "labels")
    return KubeNode(
        node.name,
        node.pod_cidrs,
        formats.lease(_inner(meta, "annotations")),
        any(label in labels for label in CONTROL_PLANE),
        str(labels.get("kubernetes.io/os") or info.get("operatingSystem") or "linux"),
        str(info.get("kernelVersion", "")),
        str(info.get("kubeletVersion", "")),
        ours=POD_CIDR in node.annotations,
        moved=MOVED in labels,
    )


def pod_of(raw: Any) -> KubePod | None:
    """None for those that have no network of their own, or none any more, or not yet."""
    pod = objects.pod(raw)
    if pod is None or pod.host_network or pod.finished or not pod.node:
        return None
    owners = _inner(raw, "metadata").get("ownerReferences")
    first = owners[0] if isinstance(owners, list) and owners and isinstance(owners[0], Mapping) else {}
    kind = "Node" if pod.static_uid else first.get("kind", "")
    return KubePod(pod.node, f"{pod.namespace}/{pod.name}", kind if isinstance(kind, str) else "")


def _daemon_set(raw: Any) -> DaemonSet | None:
    meta = _inner(raw, "metadata")
    return DaemonSet(str(meta.get("namespace", "")), str(meta["name"])) if meta.get("name") else None


def _inner(raw: Any, key: str) -> Mapping[str, Any]:
    found = raw.get(key) if isinstance(raw, Mapping) else None
    return found if isinstance(found, Mapping) else {}
