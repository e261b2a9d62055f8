"""What is wrong, or suspicious, beside the chain of one prefix: one `Finding` for each cause. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from cni.spec import Refusal
from reconciler.mesh.codes import Trouble
from reconciler.mesh.model import Finding, Peer
from reconciler.mesh.networks import covers, overlap
from reconciler.mesh.verify import Seen
from reconciler.settings import Network

OFFLINE_SECONDS = 3.0  # a refresh takes one or two
MANY = 20  # conflicts that are named one by one


def dated(found: Iterable[Finding], before: Iterable[Finding], wall: float) -> tuple[Finding, ...]:
    since = {finding.key: finding.since for finding in before}
    return tuple([replace(finding, since=since.get(finding.key, wall)) for finding in found])


def findings(seen: Seen, own: tuple[Network, ...], cluster: tuple[Network, ...], mtu: int) -> Iterator[Finding]:
    if isinstance(seen.tailnet, Refusal):
        yield Finding("tailscaled", seen.tailnet)
    elif seen.unjoined is not None and not seen.settling:
        yield Finding("joined", seen.unjoined)
    if isinstance(seen.prefs, Refusal) and not isinstance(seen.tailnet, Refusal):
        yield Finding("prefs", seen.prefs)
    if isinstance(seen.control, Refusal):
        yield Finding("headscale", seen.control)
    yield from _control_lost(seen)
    yield from list(_conflicts(seen, own, cluster))[:MANY]
    yield from _mtu(seen, mtu)
    yield from _filter(seen)


def _control_lost(seen: Seen) -> Iterator[Finding]:
    if seen.unjoined is not None or seen.offline_for < OFFLINE_SECONDS:
        return
    what = "tailscaled has lost the control server; pods keep their connections"
    yield Finding("control", Refusal(Trouble.CONTROL_LOST, what, "see that Headscale runs; do not restart tailscaled"))


def _conflicts(seen: Seen, own: tuple[Network, ...], cluster: tuple[Network, ...]) -> Iterator[Finding]:
    """A default route is no conflict: that is an exit node."""
    for name, theirs, how in _claimed_by_others(seen):
        if theirs.prefixlen == 0:
            continue
        mine = next((each for each in own if overlap(each, theirs)), None)
        whole = next((each for each in cluster if covers(theirs, each)), None)
        if mine is None and whole is None:
            continue
        clash = f"which overlaps this node's {mine}" if mine else f"which covers the pods of all nodes ({whole})"
        cure = f"remove it from {name}, or give it another CIDR; this node's own pods stay reachable on this node"
        yield Finding(
            f"conflict {name} {theirs}", Refusal(Trouble.CIDR_CONFLICT, f"{name} {how} {theirs}, {clash}", cure)
        )


def _claimed_by_others(seen: Seen) -> Iterator[tuple[str, Network, str]]:
    told: set[tuple[str, Network]] = set()
    for name, network, how in (*_sent_to_peers(seen), *_announced_by_peers(seen)):
        if (name, network) not in told:
            told.add((name, network))
            yield name, network, how


def _sent_to_peers(seen: Seen) -> Iterator[tuple[str, Network, str]]:
    if isinstance(seen.tailnet, Refusal):
        return
    peers: Iterable[Peer] = seen.tailnet.peers.values()
    for peer in peers:
        for network in peer.routes:
            yield peer.name, network, "is sent"


def _announced_by_peers(seen: Seen) -> Iterator[tuple[str, Network, str]]:
    for report in seen.reports.values():
        for network in report.announces:
            yield report.name, network, "announces"
    own = seen.own
    if own is not None and isinstance(seen.control, tuple):
        for node in seen.control:
            if node is not own:
                for network in node.announced:
                    yield node.name, network, "announces"


def _mtu(seen: Seen, configured: int) -> Iterator[Finding]:
    device = seen.kernel.device
    if device is None or configured <= device.mtu:
        return
    what = f"network.mtu is {configured}, but {device.name} carries {device.mtu}"
    cure = f"set network.mtu to {device.mtu} or 0; larger packets depend on ICMP messages that firewalls drop"
    yield Finding("mtu", Refusal(Trouble.MTU, what, cure))


def _filter(seen: Seen) -> Iterator[Finding]:
    if isinstance(seen.prefs, Refusal) or not seen.kernel.forward_drops:
        return
    mode = seen.prefs.raw.get("NetfilterMode")
    if mode == 2:
        return
    word = {0: "off", 1: "nodivert"}.get(mode, str(mode)) if isinstance(mode, int) else str(mode)
    what = f"the FORWARD policy is DROP and tailscaled's netfilter mode is {word}: packets between pods are dropped"
    cure = "run `tailscale set --netfilter-mode=on`, or accept forwarded packets of the pod CIDRs"
    yield Finding("filter", Refusal(Trouble.FILTER, what, cure))
