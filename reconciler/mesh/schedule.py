"""Who is asked when: the witnesses at their own addresses, delivery at gateway addresses. Pure; time is an argument.

    for ask in schedule.due(now):   # hand each to the probe, and its outcome to answered() or unanswered()
    sleep until schedule.next_due(now)

The cost in a second does not grow with the cluster: eight questions to witnesses and five of delivery at most, for
twenty seconds after a restart of tailscaled fifty. What is kept is a few numbers for each peer, and goes with it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from enum import StrEnum

from reconciler.mesh.deliveries import Deliveries
from reconciler.mesh.networks import gateway
from reconciler.mesh.witnesses import Witnesses
from reconciler.settings import IpAddress, Network


class Purpose(StrEnum):
    WITNESS = "witness"  # from an address of the tailnet
    DELIVERY = "delivery"  # from a gateway address of ours


@dataclass(frozen=True, slots=True)
class Ask:
    purpose: Purpose
    target: IpAddress


@dataclass(frozen=True, slots=True)
class Standing:
    """What the last questions to one target showed. Times are of the clock that the schedule is given."""

    since: float  # of its answering, or of its silence
    answered_at: float | None = None
    rtt_ms: float | None = None
    failures: int = 0  # in a row
    why: str = ""  # of the last one


class Schedule:
    """`seed`: something of this node alone, such as its key, so that nodes do not all choose the same witnesses."""

    def __init__(self, seed: str) -> None:
        self._chance = random.Random(seed)
        self._witnesses = Witnesses(self._shuffled)
        self._deliveries = Deliveries(self._shuffled)
        self._prefixes: frozenset[Network] = frozenset()
        self._standings: dict[Purpose, dict[IpAddress, Standing | None]] = {Purpose.WITNESS: {}, Purpose.DELIVERY: {}}

    @property
    def witnesses(self) -> tuple[IpAddress, ...]:
        return self._witnesses.chosen

    def peers_changed(self, now: float, online: Mapping[IpAddress, bool], prefixes: Set[Network]) -> None:
        """`online`: the other nodes, by the address at which each is asked. `prefixes`: all their pod CIDRs; a single
        pod's address has no daemon behind it and is passed over."""
        self._witnesses.peers_changed(online)
        _keep_only(self._standings[Purpose.WITNESS], online.keys())
        if prefixes != self._prefixes:
            self._prefixes = frozenset(prefixes)
            gateways = {gateway(each) for each in prefixes if each.num_addresses > 1}
            self._deliveries.targets_changed(now, gateways)
            _keep_only(self._standings[Purpose.DELIVERY], gateways)

    def hurry(self, hurried: bool) -> None:
        """Whether a link of our own chain does not hold."""
        self._witnesses.hurried = hurried

    def restarted(self, now: float) -> None:
        """tailscaled was."""
        self._deliveries.restarted(now)

    def soon(self, now: float, prefixes: Iterable[Network]) -> None:
        """Something happened to their node, so what was known of them may be over."""
        known = self._standings[Purpose.DELIVERY].keys()
        self._deliveries.soon(now, known & {gateway(each) for each in prefixes})

    def next_due(self, now: float) -> float:
        """Infinite if there is nobody to ask."""
        return min(self._witnesses.next_due(), self._deliveries.next_due(now))

    def due(self, now: float) -> list[Ask]:
        witnesses = [Ask(Purpose.WITNESS, each) for each in self._witnesses.due(now)]
        return witnesses + [Ask(Purpose.DELIVERY, each) for each in self._deliveries.due(now)]

    def answered(self, ask: Ask, now: float, rtt_ms: float) -> None:
        standings = self._standings[ask.purpose]
        if ask.target not in standings:
            return  # gone meanwhile
        if ask.purpose is Purpose.WITNESS:
            self._witnesses.answered(ask.target)
        else:
            self._deliveries.answered(ask.target)
        before = standings[ask.target]
        since = before.since if before is not None and not before.failures else now
        standings[ask.target] = Standing(since, now, rtt_ms)

    def unanswered(self, ask: Ask, now: float, why: str) -> None:
        standings = self._standings[ask.purpose]
        if ask.target not in standings:
            return
        if ask.purpose is Purpose.WITNESS:
            self._witnesses.unanswered(ask.target)
        else:
            self._deliveries.unanswered(ask.target, now)
        before = standings[ask.target] or Standing(now)
        since = before.since if before.failures else now
        standings[ask.target] = Standing(since, before.answered_at, before.rtt_ms, before.failures + 1, why)

    def witness(self, address: IpAddress) -> Standing | None:
        """None: unknown, or no outcome yet."""
        return self._standings[Purpose.WITNESS].get(address)

    def reached(self, target: IpAddress) -> Standing | None:
        return self._standings[Purpose.DELIVERY].get(target)

    def delivery(self, prefix: Network) -> Standing | None:
        return self.reached(gateway(prefix))

    def _shuffled(self, addresses: Iterable[IpAddress]) -> list[IpAddress]:
        """The same for the same seed: sets have no order of their own."""
        ordered = sorted(addresses, key=lambda each: (each.version, int(each)))
        self._chance.shuffle(ordered)
        return ordered


def _keep_only(standings: dict[IpAddress, Standing | None], targets: Set[IpAddress]) -> None:
    for gone in standings.keys() - targets:
        del standings[gone]
    for new in targets - standings.keys():
        standings[new] = None
