"""A kubeconfig as it is on a disk, checked before the package `kubernetes` sees it.

The package's loader trusts what it reads: it opens whatever is at the path, waits for an exec plugin for ever, and its
exceptions quote values. So the file is read with bounds here, its context chosen, and everything that it lacks is named
by key. Values are never told: they are secrets, or belong to a file that was named by mistake.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cni.spec import Refusal
from reconciler.kube.codes import Trouble
from reconciler.node import files
from reconciler.parsers import Wrong, boolean
from reconciler.plainyaml import Malformed, documents, kind_of

ROOT = Path("/")
UNVERIFIED = "insecure-skip-tls-verify"
_FRESH = "take a fresh one from the cluster (kubeadm writes /etc/kubernetes/kubelet.conf)"


@dataclass(frozen=True, slots=True)
class Kubeconfig:
    file: Path  # as the host names it
    context: str
    cluster_name: str
    user_name: str
    cluster: Mapping[str, Any] = field(repr=False)
    user: Mapping[str, Any] = field(repr=False)

    @property
    def cluster_place(self) -> str:
        return f"cluster {self.cluster_name} in {self.file}"

    @property
    def user_place(self) -> str:
        return f"user {self.user_name} in {self.file}"


def read(file: Path, root: Path = ROOT) -> Kubeconfig | Refusal:
    """`root`: where the host's file system is."""
    content = content_of(str(file), file, root)
    if isinstance(content, Refusal):
        return content
    found = documents(content)
    if isinstance(found, Malformed):
        return refused(f"{file} {found.what}", _FRESH)
    body = found[0] if found else None
    return choose(file, body)


def content_of(words: str, file: Path, root: Path) -> bytes | Refusal:
    """Of a file of the host, whatever is at its path."""
    content = files.read(root, str(file))
    if content is None:
        return refused(f"{words} does not exist", "name a file that is there, as seen by the daemon")
    if isinstance(content, bytes):
        return content
    keys = [name for name in files.names_in(root, str(file)) if not name.startswith(".")]
    if not keys:
        return refused(content.msg if words == str(file) else f"{words}: {content.msg}", content.details)
    what = f"{words} is a directory that holds {', '.join(keys[:8])}"
    return refused(what, f"a ConfigMap is mounted as one: mount its key with subPath, or name {file / keys[0]}")


def choose(file: Path, body: Any) -> Kubeconfig | Refusal:
    """Cluster and user of the current context."""
    if not isinstance(body, Mapping):
        held = "is empty" if body is None else f"holds {kind_of(body)}, not keys"
        return refused(f"{file} {held}", _FRESH)
    context_name = body.get("current-context")
    if not context_name or not isinstance(context_name, str):
        contexts = _names(body.get("contexts"))
        choice = f"write `current-context: {contexts[0]}` into it" if contexts else _FRESH
        return missing(str(file), "current-context", body, choice)
    context = _entry(file, body, "contexts", "context", context_name)
    if isinstance(context, Refusal):
        return context
    cluster_name, user_name = context.get("cluster"), context.get("user") or ""
    if not isinstance(cluster_name, str) or not isinstance(user_name, str):
        return missing(f"context {context_name} in {file}", "cluster", context)
    cluster = _entry(file, body, "clusters", "cluster", cluster_name)
    if isinstance(cluster, Refusal):
        return cluster
    user = _entry(file, body, "users", "user", user_name) if user_name else {}
    if isinstance(user, Refusal):
        return user
    insecure = boolean(cluster.get(UNVERIFIED, False))
    if isinstance(insecure, Wrong):
        return refused(f"{UNVERIFIED} of cluster {cluster_name} in {file} {insecure.what}", insecure.cure)
    if UNVERIFIED in cluster:
        cluster = {**cluster, UNVERIFIED: insecure}
    found = Kubeconfig(file, context_name, cluster_name, user_name, cluster, user)
    if not isinstance(cluster.get("server"), str) or not cluster["server"]:
        return missing(found.cluster_place, "server", cluster, "write the API server's URL there")
    if "auth-provider" in user:
        what = f"{found.user_place} uses an auth-provider, which Kubernetes removed in 1.26"
        return refused(what, "use a token, a tokenFile, a client certificate or an exec plugin")
    return found


def _entry(file: Path, body: Mapping[str, Any], list_key: str, key: str, name: str) -> Mapping[str, Any] | Refusal:
    listed = body.get(list_key)
    if not isinstance(listed, list):
        return missing(str(file), list_key, body)
    for each in listed:
        if isinstance(each, Mapping) and each.get("name") == name:
            found = each.get(key)
            return found if isinstance(found, Mapping) else missing(f"{key} {name} in {file}", key, each)
    what = f"{file} has no {key} {name}; it has {', '.join(_names(listed)) or 'none'}"
    return refused(what, f"correct the name, or {_FRESH}")


def _names(listed: Any) -> list[str]:
    entries = listed if isinstance(listed, list) else []
    return [str(each.get("name")) for each in entries if isinstance(each, Mapping)][:8]


def missing(place: str, key: str, has: Mapping[Any, Any], cure: str = _FRESH) -> Refusal:
    keys = ", ".join(f"`{each}`" for each in list(has)[:8]) or "no keys"
    return refused(f"{place} has no key `{key}`; it has {keys}", cure)


def refused(msg: str, cure: str) -> Refusal:
    return Refusal(Trouble.API_KUBECONFIG, msg, cure)
