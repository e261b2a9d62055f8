"""What the files of a Kubernetes node say about CIDRs: kubelet, kubeadm, k3s, RKE2, microk8s.

Whoever wrote it, a file is one of four things: keys at known places (a kubelet's or k3s' configuration, kubeadm's
ClusterConfiguration), a ConfigMap whose `data` holds such keys as text, a Pod whose containers get flags, or a bare
list of flags. So it is its content that is looked at, not its name; what it holds is `Entry`s, not yet judged.

Where a file cannot be understood the place is told, never its words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from reconciler.plainyaml import Malformed, documents

_NOTHING: tuple[Any, ...] = (None, "", "null", "Null", "NULL", "~", [])


class About(StrEnum):
    NODE = "node"
    CLUSTER = "cluster"
    SERVICES = "services"


@dataclass(frozen=True, slots=True)
class Entry:
    about: About
    key: str
    value: Any  # as it was written


@dataclass(frozen=True, slots=True)
class Held:
    entries: tuple[Entry, ...] = ()
    kinds: tuple[str, ...] = ()  # of the documents, for people
    has_instead: tuple[str, ...] | None = None  # the keys of a ConfigMap that lacks the one it is for

    def first(self, about: About) -> Entry | None:
        return next((entry for entry in self.entries if entry.about is about), None)


_KEYS = (
    (About.NODE, "podCIDRs"),
    (About.NODE, "podCIDR"),
    (About.NODE, "pod-cidr"),
    (About.NODE, "spec.podCIDRs"),  # a Node, as `kubectl get node -o yaml` prints it
    (About.NODE, "spec.podCIDR"),
    (About.CLUSTER, "networking.podSubnet"),
    (About.CLUSTER, "clusterCIDR"),  # KubeProxyConfiguration
    (About.CLUSTER, "cluster-cidr"),  # k3s and RKE2
    (About.SERVICES, "networking.serviceSubnet"),
    (About.SERVICES, "service-cidr"),
)
_FLAGS = ((About.CLUSTER, "--cluster-cidr"), (About.SERVICES, "--service-cluster-ip-range"))
_FLAGS_FILE = re.compile(rb"(?>\s|#[^\n]*\n)*+--[a-z]")  # as microk8s keeps the arguments of its services
KUBEADM_KEY = "ClusterConfiguration"  # of the ConfigMap kubeadm-config


def held(raw: bytes) -> Held | Malformed:
    if _FLAGS_FILE.match(raw):
        return Held(tuple(_flags(raw.decode(errors="replace"))), ("list of flags",))
    found = documents(raw)
    if isinstance(found, Malformed):
        return found
    entries: list[Entry] = []
    has_instead: tuple[str, ...] | None = None
    for document in found:
        if _kind(document) != "ConfigMap":
            entries += _entries(document)
            continue
        inner = _in_config_map(document)
        if isinstance(inner, Malformed):
            return inner
        entries += inner.entries
        has_instead = has_instead if inner.has_instead is None else inner.has_instead
    return Held(tuple(entries), tuple(_kind(each) for each in found), has_instead)


# --- where CIDRs stand


def _entries(document: Any) -> Iterator[Entry]:
    if not isinstance(document, Mapping):
        return
    for about, key in _KEYS:
        value: Any = document
        for name in key.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        if value not in _NOTHING:
            yield Entry(about, key, value)
    yield from _flags(" ".join(_arguments(document)))


def _in_config_map(document: Mapping[str, Any]) -> Held | Malformed:
    data = document.get("data")
    text = data.get(KUBEADM_KEY) if isinstance(data, Mapping) else None
    if not isinstance(text, str):
        return Held(has_instead=tuple(map(str, data)) if isinstance(data, Mapping) else ())
    inner = documents(text.encode())
    if isinstance(inner, Malformed):
        return Malformed(f"has a data.{KUBEADM_KEY} that {inner.what}")
    prefix = f"data.{KUBEADM_KEY}."
    return Held(tuple(Entry(e.about, prefix + e.key, e.value) for each in inner for e in _entries(each)))


def _arguments(document: Mapping[str, Any]) -> Iterator[str]:
    """Of a Pod's containers; a shell's one long argument holds blanks as well."""
    spec = document.get("spec")
    containers = spec.get("containers") if isinstance(spec, Mapping) else None
    for container in containers if isinstance(containers, list) else ():
        if isinstance(container, Mapping):
            for key in ("command", "args"):
                given = container.get(key)
                yield from (str(each) for each in given or () if isinstance(given, list))


def _flags(text: str) -> Iterator[Entry]:
    """`--flag=value` or `--flag value`; the last one counts, as it does for the program."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    words = [word.strip("\"'") for line in lines for word in line.split()]
    for about, flag in _FLAGS:
        given = ""
        for word, after in zip(words, [*words, ""][1:], strict=True):
            name, equals, value = word.partition("=")
            if name == flag:
                given = (value if equals else after).strip("\"'")
        if given and not given.startswith("-"):
            yield Entry(about, flag, given)


def _kind(document: Any) -> str:
    if not isinstance(document, Mapping):
        return "text" if isinstance(document, str) else "list"
    kind = document.get("kind")
    if kind == "Config" and "clusters" in document:
        return "kubeconfig"
    return kind if isinstance(kind, str) and kind else "configuration"
