"""Which CIDR this node's pods get: six sources in their order, and what is concluded from them. Pure.

    configuration, environment, files, the Kubernetes API, a share of the cluster CIDR, a share of the default one

The first that says something usable wins. Whatever a later one says is kept beside it, and told where it contradicts.
What a former start found counts more than a guess, and less than any source.

The CIDRs of the cluster and of its Services come from the same files, and are found in the same way. What an operator
configured is not judged here: `reconciler.config` refuses what is wrong with it, and warns of what is suspicious.

Rejected: giving a node the whole default CIDR (two nodes would give the same addresses), and waiting for the API when
only a guess is left (pods of the control plane may be what the API waits for).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from cni.spec import Refusal
from reconciler.kube.codes import Trouble
from reconciler.mesh.networks import covers, overlap
from reconciler.node.formats import About
from reconciler.node.shares import Networks, clashes, is_share, no_share, share
from reconciler.parsers import Network


class Source(StrEnum):
    CONFIGURATION = "configuration"
    ENVIRONMENT = "environment"
    FILES = "files"
    API = "api"
    REMEMBERED = "remembered"
    SHARE = "share"
    DEFAULT = "default"


PHRASES = {
    Source.CONFIGURATION: "Using Pod CIDR from config",
    Source.ENVIRONMENT: "Using Pod CIDR from environment variable",
    Source.FILES: "Found Pod CIDR in a file of this node",
    Source.API: "Found Pod CIDR in PodCIDRs",
    Source.REMEMBERED: "Using Pod CIDR of an earlier start",
    Source.SHARE: "Guessed Pod CIDR from cluster CIDR",
    Source.DEFAULT: "Guessed Pod CIDR from default cluster CIDR",
}
_OPERATORS = (Source.CONFIGURATION, Source.ENVIRONMENT)
_TOLD_ELSEWHERE = (Source.ENVIRONMENT, Source.REMEMBERED)  # by the configuration's warnings, and by `change`
_NAMES = {About.NODE: "pod CIDR", About.CLUSTER: "cluster CIDR", About.SERVICES: "CIDR of Services"}


@dataclass(frozen=True, slots=True)
class Said:
    """What one place says: `cidrs`, or `trouble`, or neither, and then `why`."""

    source: Source
    looked_at: str
    cidrs: Networks = ()
    why: str = ""
    trouble: Refusal | None = None
    phrase: str = ""  # for the log, where the source's says too little
    weak: bool = False  # to be contradicted is no news
    guess: bool = False


@dataclass(frozen=True, slots=True)
class Evidence:
    node: str  # its name
    own: tuple[Said, ...]
    cluster: tuple[Said, ...]  # the default last
    services: tuple[Said, ...]  # the default last
    per_node: int  # IPv4 prefix length of a share
    nodes: int = 0  # that are known to need a share each
    routes: Networks = ()  # static ones, to pods of other nodes


@dataclass(frozen=True, slots=True)
class Finding:
    about: About
    source: Source
    looked_at: str
    found: Networks
    taken: bool
    why: str
    trouble: Refusal | None = None


@dataclass(frozen=True, slots=True)
class Choice:
    node: str
    cidrs: Networks  # empty: nothing can be taken, and the warnings say why
    source: Source
    looked_at: str
    phrase: str
    guess: bool
    cluster_cidrs: Networks
    service_cidrs: Networks
    findings: tuple[Finding, ...]
    warnings: tuple[Refusal, ...]


def judge(evidence: Evidence) -> Choice:
    services = next(said for said in evidence.services if said.cidrs and said.trouble is None)
    stated_services = () if services.source is Source.DEFAULT else services.cidrs

    def bad_cluster(said: Said) -> Refusal | None:
        return said.trouble or (None if said.source in _OPERATORS else _service_overlap(said, stated_services))

    clusters = [said for said in evidence.cluster if said.cidrs and bad_cluster(said) is None]
    stated = next((said for said in clusters if said.source is not Source.DEFAULT), None)

    def bad_own(said: Said) -> Refusal | None:
        if said.trouble is not None or said.source in _OPERATORS:
            return said.trouble
        return _service_overlap(said, stated_services) or _misfit(said, stated, evidence.per_node)

    own = next((said for said in evidence.own if said.cidrs and bad_own(said) is None), None)
    shares = list(_shares(clusters, evidence, own is None))
    own, cluster = (own, _cluster_of(own, clusters)) if own else _guess(shares)
    findings = (
        *_findings(About.NODE, (*evidence.own, *(said for said, _ in shares)), own, bad_own),
        *_findings(About.CLUSTER, evidence.cluster, cluster, bad_cluster),
        *_findings(About.SERVICES, evidence.services, services, lambda said: said.trouble),
    )
    return _choice(evidence, own, cluster, services, findings)


def _choice(evidence: Evidence, own: Said, cluster: Said, services: Said, findings: tuple[Finding, ...]) -> Choice:
    kept = _apart(services, (*own.cidrs, *cluster.cidrs))
    told = [each.trouble for each in findings if each.trouble and not _told_elsewhere(each)]
    return Choice(
        node=evidence.node,
        cidrs=own.cidrs,
        source=own.source,
        looked_at=own.looked_at,
        phrase=own.phrase or PHRASES[own.source],
        guess=own.guess,
        cluster_cidrs=cluster.cidrs,
        service_cidrs=kept,
        findings=findings,
        warnings=tuple(dict.fromkeys((*_warnings(evidence, own, cluster, services, kept), *told))),
    )


def _cluster_of(own: Said, clusters: Sequence[Said]) -> Said:
    """The first, unless it does not hold this node's own and a later one does: files are left over from other days."""
    fitting = (said for said in clusters if said.source is Source.CONFIGURATION or _holds(said.cidrs, own.cidrs))
    return next(fitting, clusters[0] if clusters else Said(Source.DEFAULT, "nowhere"))


def _guess(shares: Sequence[tuple[Said, Said]]) -> tuple[Said, Said]:
    nothing = Said(Source.DEFAULT, "nowhere", phrase="Found no Pod CIDR")
    return next(((said, cluster) for said, cluster in shares if said.cidrs), (nothing, nothing))


def _shares(clusters: Sequence[Said], evidence: Evidence, needed: bool) -> Iterator[tuple[Said, Said]]:
    """Of each cluster CIDR, and which that is; the first that will do is the last that is computed."""
    for cluster in clusters:
        source = Source.DEFAULT if cluster.source is Source.DEFAULT else Source.SHARE
        looked_at = f"{cluster.looked_at} = {_text(cluster.cidrs)}"
        if not needed:
            yield Said(source, looked_at, why="not needed"), cluster
            continue
        bad = [no_share(cidr, cluster.looked_at, evidence.per_node, evidence.nodes) for cidr in cluster.cidrs]
        trouble = next((each for each in bad if each), None)
        cidrs = () if trouble else tuple(share(cidr, evidence.per_node, evidence.node) for cidr in cluster.cidrs)
        needed = not cidrs
        yield Said(source, looked_at, cidrs, trouble=trouble, guess=True), cluster


# --- what keeps a place from being believed


def _service_overlap(said: Said, services: Networks) -> Refusal | None:
    pair = _overlap(said.cidrs, services)
    if pair is None:
        return None
    what = f"{said.looked_at}: {pair[0]} overlaps {pair[1]}, the CIDR of Services"
    cure = "a pod would get a Service's address: correct one of them, as the cluster was set up"
    return Refusal(Trouble.OVERLAP, what, cure)


def _misfit(said: Said, stated: Said | None, per_node: int) -> Refusal | None:
    shown = f"{said.looked_at}: {_text(said.cidrs)}"
    if any(cidr.num_addresses < 2 for cidr in said.cidrs):
        cure = "give the node a CIDR with room for a gateway and pods, like 10.244.1.0/24"
        return Refusal(Trouble.SOURCE_INVALID, f"{shown} has no room for a pod", cure)
    if stated is None:
        return None
    asked = f"{_text(stated.cidrs)} of {stated.looked_at}"
    if not stated.weak and not {cidr.version for cidr in said.cidrs} & {cidr.version for cidr in stated.cidrs}:
        versions = f"is IPv{said.cidrs[0].version}, and IPv{stated.cidrs[0].version} is asked for by {asked}"
        return Refusal(Trouble.SOURCE_INVALID, f"{shown} {versions}", "name CIDRs of the same address family in both")
    if said.guess and not all(is_share(cidr, stated.cidrs, per_node) for cidr in said.cidrs):
        cure = "nothing needs to be done: a new share is taken, and pods that run keep their addresses"
        return Refusal(Trouble.CIDR_CHANGED, f"{shown} was a guess, and is no share of {asked}", cure)
    return None


def _apart(services: Said, pods: Networks) -> Networks:
    """A mere default gives way to pods that somebody put there."""
    if services.source is not Source.DEFAULT:
        return services.cidrs
    return tuple(cidr for cidr in services.cidrs if not _overlap((cidr,), pods))


# --- what is told


def _findings(
    about: About, saids: Iterable[Said], chosen: Said, bad: Callable[[Said], Refusal | None]
) -> Iterator[Finding]:
    for said in saids:
        trouble, why = (bad(said) if said.cidrs else said.trouble), said.why
        if said is chosen:
            trouble, why = None, "the first that can be used"
        elif trouble is not None:
            why = trouble.msg
        elif said.cidrs and set(said.cidrs) == set(chosen.cidrs):
            why = f"the same as {chosen.looked_at}"
        elif said.cidrs:
            why = f"{chosen.looked_at} says {_text(chosen.cidrs)}"
            trouble = None if said.weak else _disagreement(about, said, chosen)
        yield Finding(about, said.source, said.looked_at, said.cidrs, said is chosen, why, trouble)


def _disagreement(about: About, said: Said, chosen: Said) -> Refusal:
    what = (
        f"{said.looked_at} says the {_NAMES[about]} is {_text(said.cidrs)}, "
        f"but {chosen.looked_at} says {_text(chosen.cidrs)}"
    )
    return Refusal(Trouble.SOURCES_DISAGREE, what, f"correct the one that is wrong; {_text(chosen.cidrs)} is used")


def _told_elsewhere(finding: Finding) -> bool:
    """Why the API cannot be asked is for those to tell who ask it."""
    return finding.source in _TOLD_ELSEWHERE or (finding.source is Source.API and not finding.found)


def _warnings(evidence: Evidence, own: Said, cluster: Said, services: Said, kept: Networks) -> Iterator[Refusal]:
    cure = "set network.podCIDR.nodeLocal (--pod-cidr) on this node, or let the daemon reach the Kubernetes API"
    if not own.cidrs:
        yield Refusal(Trouble.CIDR_GUESSED, "this node has no pod CIDR: not even a guess can be made", cure)
    elif own.guess:
        what = (
            f"the pod CIDR {_text(own.cidrs)} is only a GUESS from the node's name, {evidence.node}: "
            "another node may use the same"
        )
        yield Refusal(Trouble.CIDR_GUESSED, what, cure)
    led_away = [route for route in evidence.routes if any(covers(cidr, route) for cidr in own.cidrs)]
    yield from clashes(own.cidrs, {"a static route": led_away})  # one that covers ours leads to the rest of it
    if own.source not in _OPERATORS and not _holds(cluster.cidrs, own.cidrs):
        what = f"the pod CIDR {_text(own.cidrs)} of {own.looked_at} is outside the cluster CIDR {_text(cluster.cidrs)}"
        cure = "set network.podCIDR.base: other nodes will take its pods for strangers"
        yield Refusal(Trouble.SOURCES_DISAGREE, what, cure)
    if kept != services.cidrs:
        what = f"the default of network.serviceCIDR, {_text(services.cidrs)}, is not used: pods are there"
        yield Refusal(Trouble.OVERLAP, what, "set network.serviceCIDR as the cluster was set up")
    if pair := _overlap((*own.cidrs, *cluster.cidrs), kept):
        cure = "a pod would get a Service's address: correct one of them, as the cluster was set up"
        yield Refusal(Trouble.OVERLAP, f"pods have {pair[0]}, and Services {pair[1]}", cure)


def _holds(cluster: Iterable[Network], cidrs: Iterable[Network]) -> bool:
    whole = tuple(cluster)
    return all(any(covers(each, cidr) for each in whole) for cidr in cidrs)


def _overlap(some: Iterable[Network], others: Iterable[Network]) -> tuple[Network, Network] | None:
    theirs = tuple(others)
    return next(((a, b) for a in some for b in theirs if overlap(a, b)), None)


def _text(cidrs: Iterable[Network]) -> str:
    return ", ".join(map(str, cidrs))
