"""What is told of a turn: the view, and in the log what is new in it and what is over."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from cni.spec import Refusal
from reconciler.mesh.acts import Actor
from reconciler.mesh.codes import Trouble
from reconciler.mesh.controlurl import normal
from reconciler.mesh.findings import dated, findings
from reconciler.mesh.model import Chain, Finding, Link, Peer, Prefs, Tailnet, View, Way
from reconciler.mesh.preferences import exit_node_warning
from reconciler.mesh.schedule import Standing
from reconciler.mesh.verify import Seen
from reconciler.mesh.witness import Witness
from reconciler.node.wish import Problem
from reconciler.settings import Network

log = logging.getLogger("headcni")


class Picture:
    def __init__(self, witness: Witness, cluster: Callable[[], tuple[Network, ...]]) -> None:
        self._witness = witness
        self._cluster = cluster
        self._findings: tuple[Finding, ...] = ()
        self._chains: dict[Network, Chain] = {}
        self._drawn: dict[str, _Drawn] = {}  # by the peer's key
        self._routed: frozenset[Network] = frozenset()  # as it was drawn

    def of(
        self, seen: Seen, chains: tuple[Chain, ...], actor: Actor, gaps: tuple[Problem, ...], configured_mtu: int
    ) -> View:
        found = [*findings(seen, tuple([chain.prefix for chain in chains]), self._cluster(), configured_mtu)]
        found += [Finding(f"fence {gap.what}", Refusal(Trouble.FENCE, gap.what, gap.cure)) for gap in gaps]
        found += [Finding(kind, trouble) for kind, trouble in actor.troubles.items()]
        if isinstance(seen.prefs, Prefs) and (warning := exit_node_warning(seen.prefs)):
            found.append(warning)
        before, self._findings = self._findings, dated(found, self._findings, seen.wall)
        _log_findings(before, self._findings)
        for chain in chains:
            _log_chain(self._chains.get(chain.prefix), chain)
        self._chains = {chain.prefix: chain for chain in chains}
        return self._view(seen, chains, actor)

    def _view(self, seen: Seen, chains: tuple[Chain, ...], actor: Actor) -> View:
        view = View(
            written=seen.wall,
            state="unreachable",
            device=seen.kernel.device,
            chains=chains,
            ways=self._ways_to_others(seen),
            findings=self._findings,
            log=tuple(actor.done),
        )
        if isinstance(seen.prefs, Prefs):
            ours = {str(each) for each in actor.ours}
            view = replace(
                view,
                control_url=normal(seen.prefs.control_url),
                foreign=tuple([route for route in seen.prefs.advertise if route not in ours]),
                accepts_dns=bool(seen.prefs.raw.get("CorpDNS")),
            )
        return _of_tailnet(view, seen.tailnet) if isinstance(seen.tailnet, Tailnet) else view

    def _ways_to_others(self, seen: Seen) -> tuple[Way, ...]:
        if isinstance(seen.tailnet, Refusal):
            return tuple([way for drawn in self._drawn.values() for way in drawn.ways])
        if seen.kernel.routed != self._routed:
            before, self._routed = self._drawn, seen.kernel.routed
            self._drawn = {key: replace(drawn, standings=()) for key, drawn in before.items()}
        peers = seen.tailnet.peers.values()
        self._drawn = {peer.key: self._draw(peer, self._drawn.get(peer.key), seen.wall) for peer in peers}
        return tuple([way for drawn in self._drawn.values() for way in drawn.ways])

    def _draw(self, peer: Peer, before: _Drawn | None, wall: float) -> _Drawn:
        pods = self._witness.pods(peer)
        standings = tuple([self._witness.schedule.reached(target) for _, target in pods])
        if before is not None and before.peer is peer and before.standings == standings:
            return before
        path = f"direct {peer.direct}" if peer.direct else f"relay {peer.relay}" if peer.relay else ""
        earlier = {way.prefix: way.delivered for way in before.ways} if before else {}
        ways = []
        for route, target in pods:
            state, rtt = self._witness.delivered(target, earlier.get(route), wall)
            ways.append(Way(route, peer.key, peer.name, peer.online, route in self._routed, state, rtt, path))
        return _Drawn(peer, standings, tuple(ways))


@dataclass(frozen=True, slots=True)
class _Drawn:
    """The ways to one peer, and what they were made of: while that is the same, so are they."""

    peer: Peer
    standings: tuple[Standing | None, ...]
    ways: tuple[Way, ...]


def _of_tailnet(view: View, seen: Tailnet) -> View:
    return replace(
        view,
        state=seen.state,
        version=seen.version,
        name=seen.me.name,
        dns_name=seen.me.dns_name,
        key=seen.me.key,
        addresses=seen.me.addresses,
        peers=len(seen.peers),
        peers_online=sum(peer.online for peer in seen.peers.values()),
        magic_suffix=seen.magic_suffix,
        magic_enabled=seen.magic_enabled,
        owner=seen.owner,
    )


def _log_findings(before: tuple[Finding, ...], now: tuple[Finding, ...]) -> None:
    """One that goes on under another code is another one."""
    known, present = ({(each.key, each.trouble.code) for each in some} for some in (before, now))
    for each in now:
        if (each.key, each.trouble.code) not in known:
            log.warning("mesh: code=%d %s", each.trouble.code, each.trouble)
    for each in before:
        if (each.key, each.trouble.code) not in present:
            log.info("mesh: over: code=%d %s", each.trouble.code, each.trouble.msg)


def _log_chain(before: Chain | None, now: Chain) -> None:
    was, missing = before is not None and before.in_force, now.missing
    if now.in_force and not was:
        log.info("mesh: %s is in force: %s", now.prefix, now.links[Link.SERVING].evidence)
    elif was and missing is not None:
        log.warning("mesh: code=%d %s is not in force any more: %s", missing.code, now.prefix, missing)
