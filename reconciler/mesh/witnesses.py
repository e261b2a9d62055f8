"""Who is asked what it sees of us: three, however large the cluster is, as long as they answer. Pure.

A witness is kept until it was silent three times. Where one is missing, candidates are asked along with the others,
and the first that answer take the free places: first those that answered when they were last asked, then those not
asked for the longest time; ones that are offline wait ten rounds longer, for the control server may be wrong about
them. Each node begins with others, so nobody is asked by all.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from reconciler.settings import IpAddress

WITNESSES = 3
CANDIDATES = 8  # asked in a round, witnesses included, as long as one is missing
PATIENCE = 3  # unanswered questions
CALM_SECONDS, HURRIED_SECONDS = 2.0, 1.0  # between rounds
OFFLINE_ROUNDS = 10


@dataclass(slots=True)
class _Peer:
    online: bool = False
    tried: int = 0  # the round in which it was last asked
    answered: bool = False  # then


class Witnesses:
    """`shuffled`: in an order of this node's own."""

    def __init__(self, shuffled: Callable[[Iterable[IpAddress]], list[IpAddress]]) -> None:
        self._shuffled = shuffled
        self._peers: dict[IpAddress, _Peer] = {}
        self._chosen: dict[IpAddress, int] = {}  # how often silent since it last answered
        self._round = 0
        self._asked_at = -math.inf
        self.hurried = False  # something of ours does not hold, so it matters more what others see

    @property
    def chosen(self) -> tuple[IpAddress, ...]:
        return tuple(self._chosen)

    def peers_changed(self, online: Mapping[IpAddress, bool]) -> None:
        for address in self._peers.keys() - online.keys():
            del self._peers[address]
            self._chosen.pop(address, None)
        for address in self._shuffled(online.keys() - self._peers.keys()):
            self._peers[address] = _Peer()
        for address, is_online in online.items():
            self._peers[address].online = is_online

    def next_due(self) -> float:
        if not self._peers:
            return math.inf
        return self._asked_at + (HURRIED_SECONDS if self.hurried else CALM_SECONDS)

    def due(self, now: float) -> list[IpAddress]:
        if now < self.next_due():
            return []
        self._asked_at = now
        self._round += 1
        asked = list(self._chosen)
        if len(asked) < WITNESSES:
            asked += self._candidates(CANDIDATES - len(asked))
        for address in asked:
            self._peers[address].tried = self._round
        return asked

    def answered(self, address: IpAddress) -> None:
        self._peers[address].answered = True
        if address in self._chosen or len(self._chosen) < WITNESSES:
            self._chosen[address] = 0

    def unanswered(self, address: IpAddress) -> None:
        self._peers[address].answered = False
        if address in self._chosen:
            self._chosen[address] += 1
            if self._chosen[address] >= PATIENCE:
                del self._chosen[address]

    def _candidates(self, most: int) -> list[IpAddress]:
        """Of equal rank, in the order of `shuffled`."""
        others = (address for address in self._peers if address not in self._chosen)
        return heapq.nsmallest(most, others, key=self._rank)

    def _rank(self, address: IpAddress) -> tuple[bool, int]:
        peer = self._peers[address]
        return not peer.answered, peer.tried + (0 if peer.online else OFFLINE_ROUNDS)
