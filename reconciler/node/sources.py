"""Asks each source in turn what it knows of CIDRs: configuration, environment, files, and what earlier starts found.

Nothing here judges (`podcidr.judge` does), and nothing here dials: what the API says is given. The files that say what
*this* node has come first; then those that say what the cluster has, of which a share can be made. The order of both
is promised to operators. Behind the promised ones are files that k3s, RKE2 and microk8s really have: k3s writes no CIDR
where nobody configured one, so that it is there at all says that its own default holds.

A remembered CIDR is one that files or a guess gave. What an operator configured is gone when he takes it away.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from cni.spec import Refusal
from reconciler.config import Config
from reconciler.kube.codes import Trouble
from reconciler.node.files import Outcome, below, names_in, read_all
from reconciler.node.formats import KUBEADM_KEY, About, Held, held
from reconciler.node.podcidr import Evidence, Said, Source
from reconciler.node.remembered import Remembered
from reconciler.node.shares import Networks
from reconciler.parsers import Wrong, networks
from reconciler.plainyaml import Malformed
from reconciler.settings import BY_KEY, Setting

K3S_AGENT = "/var/lib/rancher/k3s/agent/etc"
NODE_FILES = (
    ("/var/lib/kubelet/config.yaml", "Found Pod CIDR in kubelet config"),
    (K3S_AGENT + "/node-{node}.yaml", "Found Pod CIDR in k3s node file"),
)
CLUSTER_FILES = (
    "/etc/rancher/k3s/k3s.yaml",
    K3S_AGENT + "/kubelet.config",
    "/var/lib/kubelet/config.yaml",
    "/etc/kubernetes/kubeadm-config.yaml",
    "/etc/kubernetes/admin.conf",
    "/etc/kubernetes/manifests/kube-controller-manager.yaml",
    "/etc/kubernetes/manifests/kube-apiserver.yaml",
    # Up to here the order is promised.
    "/etc/rancher/k3s/config.yaml",
    "/etc/rancher/rke2/config.yaml",
    "/var/lib/rancher/rke2/agent/pod-manifests/kube-controller-manager.yaml",
    "/var/snap/microk8s/current/args/kube-controller-manager",
    "/var/snap/microk8s/current/args/kube-proxy",
    "/var/snap/microk8s/current/args/kube-apiserver",
)
RANCHER_SIGNS = (  # the second is there on agents, too
    ("k3s", "/etc/rancher/k3s/k3s.yaml"),
    ("k3s", "/var/lib/rancher/k3s/agent/kubelet.kubeconfig"),
    ("RKE2", "/etc/rancher/rke2/rke2.yaml"),
    ("RKE2", "/var/lib/rancher/rke2/agent/kubelet.kubeconfig"),
)
RANCHER_DEFAULTS = {About.CLUSTER: ip_network("10.42.0.0/16"), About.SERVICES: ip_network("10.43.0.0/16")}

LONGEST = 200  # characters that two CIDRs can have, and more
OWN, CLUSTER, SERVICES = (BY_KEY[f"network.{key}"] for key in ("podCIDR.nodeLocal", "podCIDR.base", "serviceCIDR"))
_NAMES = {About.NODE: "podCIDR", About.CLUSTER: "cluster CIDR", About.SERVICES: "CIDR of Services"}


def look(
    config: Config,
    environ: Mapping[str, str],
    remembered: Remembered | None = None,
    api: Networks | Refusal | None = None,
    nodes: int = 0,
) -> Evidence:
    """`api`: the Node's podCIDRs, or why they could not be had; None: it was not asked. `nodes` that are known."""
    node, root = config.node_name, config.node_root
    own_files = [(path.replace("{node}", node), phrase) for path, phrase in NODE_FILES]
    contents = read_all(root, [*(path for path, _ in own_files), *CLUSTER_FILES, *(path for _, path in RANCHER_SIGNS)])
    own = [_from_file(root, path, contents[path], About.NODE, phrase) for path, phrase in own_files]
    cluster = [_from_file(root, path, contents[path], About.CLUSTER) for path in CLUSTER_FILES]
    services = [_from_file(root, path, contents[path], About.SERVICES) for path in CLUSTER_FILES]
    if contents[own_files[1][0]] is None:
        own[1] = _of_another_node(root, node) or own[1]
    return Evidence(
        node=node,
        own=(
            _configured(config, OWN),
            _environment(environ),
            *own,
            _asked(api),
            _remembered(remembered, node),
        ),
        cluster=_with_defaults(config, CLUSTER, cluster, contents, About.CLUSTER, remembered),
        services=_with_defaults(config, SERVICES, services, contents, About.SERVICES, remembered),
        per_node=config.node_prefix,
        nodes=nodes,
        routes=tuple(route.dst for route in config.static_routes),
    )


# --- configuration and environment


def _configured(config: Config, setting: Setting) -> Said:
    origin = config.origins[setting.key]
    if origin == "default" or (setting is OWN and origin.startswith("environment")):
        return Said(Source.CONFIGURATION, setting.key, why="not set")
    return Said(Source.CONFIGURATION, f"{origin}: {setting.key}", getattr(config, setting.field), why="set to nothing")


def _environment(environ: Mapping[str, str]) -> Said:
    raw = environ.get(OWN.env)
    if not raw:
        return Said(Source.ENVIRONMENT, OWN.env, why="not set")
    return _parsed(Source.ENVIRONMENT, OWN.env, raw, "")


def _with_defaults(
    config: Config,
    setting: Setting,
    files: Iterable[Said],
    contents: Mapping[str, Outcome],
    about: About,
    remembered: Remembered | None,
) -> tuple[Said, ...]:
    former = () if remembered is None else remembered.cluster if about is About.CLUSTER else remembered.services
    default: Any = setting.parse(setting.default)
    signs = [(name, path) for name, path in RANCHER_SIGNS if isinstance(contents[path], bytes)]
    return (
        _configured(config, setting),
        *files,
        Said(Source.REMEMBERED, "an earlier start", former, why="nothing remembered", weak=True),
        *[
            Said(Source.FILES, f"default of {name}, for there is {path}", (RANCHER_DEFAULTS[about],), weak=True)
            for name, path in signs[:1]
        ],
        Said(Source.DEFAULT, f"default of {setting.key}", default, weak=True),
    )


# --- files


def _from_file(root: Path, path: str, content: Outcome, about: About, phrase: str = "") -> Said:
    at = str(below(root, path))
    if content is None:
        return Said(Source.FILES, at, why="no such file")
    if isinstance(content, Refusal):
        return Said(Source.FILES, at, trouble=content)
    found = held(content)
    if isinstance(found, Malformed):
        cure = "restore it as a whole; until then the next source is tried"
        return Said(Source.FILES, at, trouble=Refusal(Trouble.SOURCE_INVALID, f"{at} {found.what}", cure))
    entry = found.first(about)
    if entry is not None:
        return _parsed(Source.FILES, f"{at}: {entry.key}", entry.value, phrase)
    return Said(Source.FILES, at, why=_nothing(found, about), trouble=_lacks_key(at, found))


def _parsed(source: Source, where: str, raw: Any, phrase: str) -> Said:
    """Only short text gets as far as the parser, which shows what it refuses."""
    text = raw if isinstance(raw, str) else ",".join(raw) if _all_text(raw) else ""
    fits = 0 < len(text) <= LONGEST
    cidrs = networks(text) if fits else Wrong("is no CIDR", "write one like 10.244.1.0/24, or two with a comma between")
    if isinstance(cidrs, Wrong):
        shown = f" = {text}" if fits else ""
        return Said(source, where, trouble=Refusal(Trouble.SOURCE_INVALID, f"{where}{shown}: {cidrs.what}", cidrs.cure))
    return Said(source, where, cidrs, phrase=phrase)


def _all_text(raw: Any) -> bool:
    return isinstance(raw, list) and all(isinstance(each, str) for each in raw)


def _nothing(found: Held, about: About) -> str:
    kinds = " and ".join(dict.fromkeys(found.kinds)) or "empty file"
    return f"{kinds} without a {_NAMES[about]}"


def _lacks_key(at: str, found: Held) -> Refusal | None:
    if found.has_instead is None:
        return None
    has = ", ".join(found.has_instead[:10]) or "none"
    what = f"{at}: the ConfigMap has no key {KUBEADM_KEY}; its keys: {has}"
    return Refusal(Trouble.CONFIGMAP_KEY, what, "write kubeadm's configuration under that key, or remove the file")


def _of_another_node(root: Path, node: str) -> Said | None:
    found = [name for name in names_in(root, K3S_AGENT) if name.startswith("node-") and name.endswith(".yaml")]
    if not found:
        return None
    at = below(root, K3S_AGENT)
    what = f"{at} has no node-{node}.yaml, but {', '.join(found[:5])}"
    cure = f"set node.name (NODE_NAME) to this node's name in Kubernetes; it is {node} now"
    return Said(Source.FILES, f"{at}/node-{node}.yaml", trouble=Refusal(Trouble.NODE_UNKNOWN, what, cure))


# --- who was asked, and earlier starts


def _asked(api: Networks | Refusal | None) -> Said:
    where = "Node.spec.podCIDRs"
    if isinstance(api, Refusal):
        return Said(Source.API, where, trouble=api)
    why = "not asked: the files come first" if api is None else "the Node has none"
    return Said(Source.API, where, api or (), why=why)


def _remembered(remembered: Remembered | None, node: str) -> Said:
    if remembered is None or remembered.source in (Source.CONFIGURATION, Source.ENVIRONMENT):
        return Said(Source.REMEMBERED, "an earlier start", why="nothing remembered")
    if remembered.node != node:
        return Said(Source.REMEMBERED, "an earlier start", why=f"it was of a node {remembered.node}, not {node}")
    where = f"an earlier start, from {remembered.source}"
    return Said(Source.REMEMBERED, where, remembered.cidrs, weak=True, guess=remembered.guess)
