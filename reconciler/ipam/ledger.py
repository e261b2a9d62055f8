"""Who holds which address on this node: the one place where addresses are given and taken back.

Nothing here is stored. At start the daemon replays its records in any order (`claim` for the live, `cool` for those
closed lately); pools appear when they are first asked of. A free list on disk was rejected: a second truth about
what the records already say, which a crash could let disagree with them.

Invariants
- An address has at most one owner, across all pools and delegated addresses, also where pools overlap.
- An address is not given again within its cool-down while its pool has another; if it has none, the one that has
  rested longest is given, and the answer says so.
- `allocate` gives one address per pool, or none at all; asked again by the same owner it answers the same.

An owner is an attachment's key. All calls are synchronous and meant for one event loop: nothing to lock.
`foreign` tells what this node has on interfaces and host routes that are not ours; it may cache, must exclude what
this daemon made, and should return the same object while nothing changed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random

from cni.spec import Code, Refusal
from reconciler.ipam.pool import MAX_COOLDOWN, Address, PoolSpec
from reconciler.ipam.stock import LONG_AGO, Conflict, Counts, Drawn, ForeignAddresses, PoolStats, Stock


@dataclass(frozen=True, slots=True)
class Allocation:
    addresses: tuple[Address, ...]  # one per pool, in the order of the pools
    early_reuse: tuple[Address, ...] = ()  # of these, the ones whose cool-down was cut short: worth a warning
    conflicts: tuple[Conflict, ...] = ()  # skipped, found for the first time: worth a warning


@dataclass(frozen=True, slots=True)
class Clash:
    """Two owners claim one address; the first keeps it."""

    address: Address
    holder: str


class Ledger:
    def __init__(self, now: Callable[[], float], rng: Random, foreign: Callable[[], ForeignAddresses]) -> None:
        self._now = now
        self._rng = rng
        self._foreign = foreign
        self._stocks: dict[PoolSpec, Stock] = {}
        self._owners: dict[Address, str] = {}
        self._holdings: dict[str, list[Address]] = {}
        self._heirs: dict[Address, list[str]] = {}  # empty, but for damage
        self._released: OrderedDict[Address, float] = OrderedDict()  # for pools that appear later

    def held_by(self, owner: str) -> tuple[Address, ...]:
        return tuple(self._holdings.get(owner, ()))

    def owner_of(self, address: Address) -> str | None:
        return self._owners.get(address)

    def owners(self) -> frozenset[str]:
        return frozenset(self._holdings)

    def claim(self, owner: str, addresses: Iterable[Address]) -> tuple[Clash, ...]:
        """These are the owner's already, says a record or an IPAM plugin. What another holds is not claimed."""
        clashes: list[Clash] = []
        for address in addresses:
            holder = self._owners.get(address)
            if holder is None:
                self._hold(owner, address)
            elif holder != owner:
                clashes.append(Clash(address, holder))
        return tuple(clashes)

    def share(self, owner: str, address: Address) -> None:
        """A second record that has another's address, found at the start: it keeps it when the holder is gone."""
        self._heirs.setdefault(address, []).append(owner)

    def cool(self, address: Address, released_at: float) -> None:
        """A record closed lately held this address until `released_at` (of the monotonic clock)."""
        if address in self._owners:
            return
        for stock in self._stocks.values():
            stock.hold(address)
        self._rest(address, max(min(released_at, self._now()), self._released.get(address, LONG_AGO)))

    def allocate(self, owner: str, specs: Sequence[PoolSpec], asked: Sequence[Address] = ()) -> Allocation | Refusal:
        """`asked`: give exactly these, of the pools they belong to; the other pools choose."""
        if owner in self._holdings:
            return self._again(owner, specs, asked)
        wishes = match_wishes(specs, asked)
        if isinstance(wishes, Refusal):
            return wishes
        foreign, stocks = self._foreign(), [self._stock(spec) for spec in specs]
        given: list[Drawn] = []
        for stock, wish in zip(stocks, wishes, strict=True):
            drawn = self._draw(stock, foreign) if wish is None else self._grant(stock, wish, foreign)
            if isinstance(drawn, Refusal):
                stock.counts.refusals += 1
                self._undo(owner)
                return drawn
            self._hold(owner, drawn.address)
            given.append(drawn)
        for stock in stocks:
            stock.counts.allocations += 1
        return Allocation(
            addresses=tuple(drawn.address for drawn in given),
            early_reuse=tuple(drawn.address for drawn in given if drawn.early),
            conflicts=tuple(conflict for drawn in given for conflict in drawn.conflicts),
        )

    def release(self, owner: str) -> None:
        """Everything the owner holds starts its cool-down; an unknown owner holds nothing."""
        now = self._now()
        for address, heirs in list(self._heirs.items()):
            self._heirs[address] = [heir for heir in heirs if heir != owner]
        for address in self._holdings.pop(owner, ()):
            del self._owners[address]
            heirs = self._heirs.pop(address, [])
            if heirs:  # somebody else has it, too, and keeps it
                self._hold(heirs[0], address)
                self._heirs[address] = heirs[1:]
                continue
            self._rest(address, now)
            for stock in self._stocks.values():
                stock.counts.releases += address in stock
                stock.thaw(now)  # also where nobody draws, so that what cooled does not pile up
        while self._released and next(iter(self._released.values())) < now - MAX_COOLDOWN:
            self._released.popitem(last=False)

    def stats(self) -> tuple[PoolStats, ...]:
        now = self._now()
        return tuple(stock.stats(now) for stock in self._stocks.values())

    def unasked(self, specs: Sequence[PoolSpec]) -> tuple[PoolStats, ...]:
        """Of those that nobody has asked for since the start; one may be full nevertheless, by what was claimed."""
        now, known = self._now(), {spec.subnet for spec in self._stocks}
        return tuple(self._new(spec, Counts()).stats(now) for spec in specs if spec.subnet not in known)

    def _stock(self, spec: PoolSpec) -> Stock:
        stock = self._stocks.get(spec)
        if stock is None or stock.spec.strategy != spec.strategy:
            counts = Counts() if stock is None else stock.counts
            stock = self._stocks[spec] = self._new(spec, counts)
        stock.spec = spec  # equal specs may differ in their cool-down
        return stock

    def _new(self, spec: PoolSpec, counts: Counts) -> Stock:
        return Stock(spec, self._rng, self._owners, self._released, counts)

    def _draw(self, stock: Stock, foreign: ForeignAddresses) -> Drawn | Refusal:
        return stock.draw(self._now(), foreign) or self._empty(stock)

    def _grant(self, stock: Stock, wish: Address, foreign: ForeignAddresses) -> Drawn | Refusal:
        """An address asked for is not chosen, so it need not have cooled."""
        if (reason := stock.spec.why_not(wish)) is not None:
            return _refused(wish, reason)
        if (owner := self._owners.get(wish)) is not None:
            return _refused(wish, f"is held by {owner}")
        if (holder := foreign.get(wish)) is not None:
            return _refused(wish, f"is in use on this node: {holder}")
        return Drawn(wish)

    def _again(self, owner: str, specs: Sequence[PoolSpec], asked: Sequence[Address]) -> Allocation | Refusal:
        held = self._holdings[owner]
        ranked = [*(each for each in asked if each in held), *held]  # a plugin may have given it several of one pool
        same = [next((each for each in ranked if each in spec.subnet), None) for spec in specs]
        found = tuple(each for each in same if each is not None)
        if len(found) == len(specs) and set(asked) <= set(found):
            return Allocation(found)
        return Refusal(
            Code.ADDRESS_REFUSED,
            f"{owner} already holds {_listed(held)}",
            f"pools {_listed(spec.subnet for spec in specs)}, addresses asked for: {_listed(asked) or 'none'};"
            " delete the attachment before it is added with other addresses",
        )

    def _hold(self, owner: str, address: Address) -> None:
        self._owners[address] = owner
        self._holdings.setdefault(owner, []).append(address)
        for stock in self._stocks.values():
            stock.hold(address)

    def _rest(self, address: Address, at: float) -> None:
        self._released[address] = at
        self._released.move_to_end(address)
        for stock in self._stocks.values():
            stock.release(address, at)

    def _undo(self, owner: str) -> None:
        """As if it had never been given: it rests since its previous release, or is free at once."""
        for address in self._holdings.pop(owner, ()):
            del self._owners[address]
            for stock in self._stocks.values():
                stock.release(address, self._released.get(address, LONG_AGO))

    def _empty(self, stock: Stock) -> Refusal:
        stats = stock.stats(self._now())
        holders = []
        for address, owner in self._owners.items():
            if address in stock:
                holders.append(f"{address} by {owner}")
            if len(holders) == 3:
                break
        more = f" and {stats.held - len(holders)} more" if stats.held > len(holders) else ""
        conflicts = "".join(f"; {each.address} is in use on this node: {each.holder}" for each in stats.conflicts[:3])
        return Refusal(
            Code.POOL_EMPTY,
            f"no address is left in {stats.subnet}",
            f"of {stats.size} usable addresses {stats.held} are held ({', '.join(holders)}{more}),"
            f" {stats.cooling} cooling, {len(stats.conflicts)} in conflict{conflicts};"
            f" {stats.reserved} of the subnet are reserved or excluded;"
            " delete pods, exclude less, or give the node a larger subnet",
        )


def match_wishes(specs: Sequence[PoolSpec], asked: Sequence[Address]) -> list[Address | None] | Refusal:
    """Which address each pool is asked for: at most one per family, each inside a pool of its family."""
    wishes: list[Address | None] = [None] * len(specs)
    served: dict[int, Address] = {}
    for address in dict.fromkeys(asked):
        first = served.setdefault(address.version, address)
        if first != address:
            return _refused(address, f"is the second IPv{address.version} address asked for, after {first}")
        family = [index for index, spec in enumerate(specs) if spec.subnet.version == address.version]
        inside = [index for index in family if address in specs[index].subnet]
        if not family:
            return _refused(address, f"belongs to no pool: the network has no IPv{address.version} subnet")
        if not inside:
            return _refused(address, f"is outside {_listed(specs[index].subnet for index in family)}")
        wishes[inside[0]] = address
    return wishes


def _refused(address: Address, reason: str) -> Refusal:
    return Refusal(
        Code.ADDRESS_REFUSED,
        f"the address {address} cannot be given",
        f"it {reason}; ask for a free address inside the subnet, or for none",
    )


def _listed(things: Iterable[object]) -> str:
    return ", ".join(map(str, things))
