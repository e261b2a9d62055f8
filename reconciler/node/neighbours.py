"""Others on this node that pods depend on, or suffer from: kube-proxy, other CNI plugins, firewalls.

All is read from the kernel and from files, within bounds, and nothing is changed. One look costs a few processes, so
it is made when somebody asks, and every few minutes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cni.spec import Refusal
from reconciler.ipam.pool import Network
from reconciler.node import confdir, firewall, kubeproxy, ruleset
from reconciler.node.confdir import Conf
from reconciler.node.firewall import Wall
from reconciler.node.kubeproxy import Proxy

_KUBELET = ("var/lib/kubelet", "var/lib/rancher/k3s/agent")


@dataclass(frozen=True, slots=True)
class Neighbours:
    proxy: Proxy
    confs: Mapping[str, Sequence[Conf]]  # by directory
    walls: tuple[Wall, ...]
    blind: tuple[str, ...]  # what could not be looked at, and why
    kubernetes: bool


@dataclass(frozen=True, slots=True)
class Hindrance:
    refusal: Refusal
    grave: bool  # pods suffer; else they may


def look(root: Path = Path("/"), conf_dir: str = confdir.DIRECTORIES[0]) -> Neighbours:
    """`root`: where the host's files are, for whoever looks out of a container. `conf_dir`: as the host has it."""
    chains = ruleset.chains()
    found = list(firewall.walls(chains.found, ruleset.rules))
    return Neighbours(
        kubeproxy.judge(chains, kubeproxy.traces(root)),
        confdir.look(root, conf_dir),
        tuple([each for each in found if isinstance(each, Wall)]),
        (*chains.blind, *[each for each in found if isinstance(each, str)]),
        any((root / each).is_dir() for each in _KUBELET),
    )


def hindrances(
    seen: Neighbours, pods: Sequence[Network], cluster: Sequence[Network] = (), device: str = ""
) -> Iterator[Hindrance]:
    """Pure. `device`: the mesh's interface, if there is one."""
    for refusal in firewall.blocked(seen.walls, pods, cluster, device):
        yield Hindrance(refusal, grave=True)
    for directory, confs in seen.confs.items():
        for rival in confdir.judge(directory, confs):
            yield Hindrance(rival.refusal, rival.wins)
    for refusal in kubeproxy.problems(seen.proxy, seen.kubernetes):
        yield Hindrance(refusal, grave=True)
