"""What one pool has left to give, and what rests.

Each usable address is in exactly one place: free (in the strategy's order), cooling (released, and not yet free),
in conflict (free as far as we are concerned, but somebody else's on this node), or held. Hence

    size = free + cooling + conflicts + held        subnet = size + reserved

A stock does not know owners. The ledger tells every stock of every address that is held or released, so pools that
overlap stay right without knowing of each other. A conflict is found when its address is drawn, and set aside until
the node no longer holds it, so that it costs one look and is reported once; then it rests since its own release, as
if it had never been looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from random import Random

from reconciler.ipam.pool import Address, Network, PoolSpec, Strategy, Usable
from reconciler.ipam.strategies import make_order

ForeignAddresses = Mapping[Address, str]
"""Addresses of this node that are not ours (on an interface, or the whole of a host route) → what holds each."""


LONG_AGO = float("-inf")  # released then: at rest for ever, free at the next look


@dataclass(frozen=True, slots=True)
class Conflict:
    address: Address
    holder: str

    def __str__(self) -> str:
        return f"{self.address} is in use on this node and is not given to a pod: {self.holder}"


@dataclass(frozen=True, slots=True)
class Drawn:
    address: Address
    early: bool = False  # its cool-down was not over
    conflicts: tuple[Conflict, ...] = ()


@dataclass(slots=True)
class Counts:
    allocations: int = 0
    releases: int = 0
    refusals: int = 0
    early_reuses: int = 0
    conflicts: int = 0


@dataclass(frozen=True, slots=True)
class PoolStats:
    subnet: Network
    strategy: Strategy
    size: int
    free: int
    cooling: int
    conflicts: tuple[Conflict, ...]  # set aside now
    held: int
    reserved: int
    allocations: int
    releases: int
    refusals: int
    early_reuses: int
    conflicts_found: int  # since the daemon started


class Stock:
    def __init__(
        self,
        spec: PoolSpec,
        rng: Random,
        held: Iterable[Address],
        released: Mapping[Address, float],
        counts: Counts,
    ) -> None:
        self.spec = spec
        self.counts = counts
        self._usable = Usable(spec)
        taken = {rank for address in held if (rank := self._usable.rank(address)) is not None}
        self._cooling = {
            rank: at
            for address, at in released.items()
            if (rank := self._usable.rank(address)) is not None and rank not in taken
        }
        self._thaw = [(at, rank) for rank, at in self._cooling.items()]  # may name what was held again meanwhile
        heapify(self._thaw)
        self._aside: dict[int, tuple[float, Conflict]] = {}  # with the time of its last release
        self._foreign: ForeignAddresses = {}
        self._order = make_order(spec.strategy, self._usable.size, taken | self._cooling.keys(), rng)

    def __contains__(self, address: Address) -> bool:
        return self._usable.rank(address) is not None

    def hold(self, address: Address) -> None:
        rank = self._usable.rank(address)
        if rank is None:
            return
        if self._order.is_free(rank):
            self._order.remove(rank)
        self._cooling.pop(rank, None)
        self._aside.pop(rank, None)

    def release(self, address: Address, at: float) -> None:
        """What was held cools from `at`."""
        rank = self._usable.rank(address)
        if rank is not None:
            self._cool(rank, at)

    def _cool(self, rank: int, at: float) -> None:
        self._cooling[rank] = at
        heappush(self._thaw, (at, rank))

    def thaw(self, now: float) -> None:
        """What has cooled is free again."""
        while (cooled := self._pop_cooling(now - self.spec.cooldown)) is not None:
            self._order.put(cooled[1])

    def draw(self, now: float, foreign: ForeignAddresses) -> Drawn | None:
        """Takes an address, and the ledger must then tell all stocks that it is held; None when nothing is left."""
        self._look(foreign)
        self.thaw(now)
        found: list[Conflict] = []
        while self._order.free:
            rank = self._order.take()
            if self._is_ours(rank, LONG_AGO, found):
                return Drawn(self._usable.address(rank), conflicts=tuple(found))
        while (longest := self._pop_cooling(now)) is not None:
            at, rank = longest
            if self._is_ours(rank, at, found):
                self.counts.early_reuses += 1
                return Drawn(self._usable.address(rank), early=True, conflicts=tuple(found))
        return None

    def stats(self, now: float) -> PoolStats:
        self.thaw(now)
        size, free = self._usable.size, self._order.free
        return PoolStats(
            subnet=self.spec.subnet,
            strategy=self.spec.strategy,
            size=size,
            free=free,
            cooling=len(self._cooling),
            conflicts=tuple(conflict for _, conflict in self._aside.values()),
            held=size - free - len(self._cooling) - len(self._aside),
            reserved=self.spec.subnet.num_addresses - size,
            allocations=self.counts.allocations,
            releases=self.counts.releases,
            refusals=self.counts.refusals,
            early_reuses=self.counts.early_reuses,
            conflicts_found=self.counts.conflicts,
        )

    def _look(self, foreign: ForeignAddresses) -> None:
        """What the node gave up since the last look rests again, or is free."""
        if foreign is self._foreign:
            return
        self._foreign = foreign
        for rank, (at, conflict) in list(self._aside.items()):
            if conflict.address not in foreign:
                del self._aside[rank]
                self._cool(rank, at)

    def _pop_cooling(self, until: float) -> tuple[float, int] | None:
        """The one released longest ago, if that was not after `until`."""
        while self._thaw and self._thaw[0][0] <= until:
            at, rank = heappop(self._thaw)
            if self._cooling.get(rank) == at:
                del self._cooling[rank]
                return at, rank
        return None

    def _is_ours(self, rank: int, released: float, found: list[Conflict]) -> bool:
        address = self._usable.address(rank)
        holder = self._foreign.get(address)
        if holder is None:
            return True
        found.append(Conflict(address, holder))
        self._aside[rank] = released, found[-1]
        self.counts.conflicts += 1
        return False
