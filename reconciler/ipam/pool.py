"""What a pool is: a subnet, and which of its addresses may be given to a pod.

Everything here is arithmetic on a frozen description; who holds what is the ledger's business.

The addresses that may be given are numbered 0 … size-1 without gaps (`Usable`), by bisecting a short list of runs. So
the strategies never meet a reserved address and need no skipping, and a /64 costs what a /28 costs. A bitmap was
rejected: one operation on a /8 takes a millisecond, and a /64 does not fit.

Never given: the gateway, whatever `exclude` covers, for IPv4 the network and the broadcast address, for IPv6 the
network address (the subnet-router anycast address). A subnet of two addresses (/31, RFC 3021; /127, RFC 6164) has
neither of the latter: the lower one is the gateway, the upper one serves one pod. A subnet of one address cannot hold
a gateway and a pod, and is refused.

`strategy` and `cooldown` say how a pool behaves, not which pool it is: they take no part in equality, so a changed
configuration keeps the pool and its counts.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from itertools import combinations

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MAX_COOLDOWN = 3600.0  # seconds; the ledger need not remember a release for longer


class Strategy(StrEnum):
    SEQUENTIAL = "sequential"
    RANDOM = "random"
    DENSE_PACK = "dense-pack"


@dataclass(frozen=True, slots=True)
class PoolSpec:
    subnet: Network
    gateway: Address | None = None
    range_start: Address | None = None
    range_end: Address | None = None
    exclude: tuple[Network, ...] = ()
    strategy: Strategy = field(default=Strategy.SEQUENTIAL, compare=False)
    cooldown: float = field(default=30.0, compare=False)

    @property
    def router(self) -> Address:
        """The gateway as configured, or else the first address a host of this subnet could have."""
        if self.gateway is not None:
            return self.gateway
        return self.subnet[0] if self.subnet.num_addresses <= 2 else self.subnet[1]

    @property
    def bounds(self) -> tuple[int, int]:
        first, last = int(self.subnet.network_address), int(self.subnet.broadcast_address)
        return (
            first if self.range_start is None else max(first, int(self.range_start)),
            last if self.range_end is None else min(last, int(self.range_end)),
        )

    def why_not(self, address: Address) -> str | None:
        """Why this pool never gives `address`; None when it may."""
        if address not in self.subnet:
            return f"is outside {self.subnet}"
        for first, last, reason in _reserved(self):
            if first <= int(address) <= last:
                return f"is {reason} of {self.subnet}"
        first, last = self.bounds
        if not first <= int(address) <= last:
            family = type(address)
            return f"is outside the range {family(first)} to {family(last)}"
        return None


class Usable:
    """The addresses a pool may give, as the numbers 0 … size-1."""

    __slots__ = ("_family", "_firsts", "_ranks", "size")

    def __init__(self, spec: PoolSpec) -> None:
        self._family = type(spec.subnet.network_address)
        self._firsts: list[int] = []  # each run of usable addresses: where it starts …
        self._ranks: list[int] = []  # … and the number of its first address
        self.size = 0
        start, stop = spec.bounds
        for first, last, _ in sorted(_reserved(spec)):
            self._append(start, min(first - 1, stop))
            start = max(start, last + 1)
        self._append(start, stop)

    def _append(self, first: int, last: int) -> None:
        if first <= last:
            self._firsts.append(first)
            self._ranks.append(self.size)
            self.size += last - first + 1

    def address(self, rank: int) -> Address:
        run = bisect_right(self._ranks, rank) - 1
        return self._family(self._firsts[run] + rank - self._ranks[run])

    def rank(self, address: Address) -> int | None:
        if not isinstance(address, self._family):
            return None
        run = bisect_right(self._firsts, int(address)) - 1
        if run < 0:
            return None
        rank = self._ranks[run] + int(address) - self._firsts[run]
        after = self._ranks[run + 1] if run + 1 < len(self._ranks) else self.size
        return rank if rank < after else None


def pool_problems(specs: Sequence[PoolSpec]) -> list[str]:
    """Everything that is wrong with the pools of one network; each line names the field, its value and the cure."""
    problems = [problem for spec in specs for problem in _problems(spec)]
    problems += [
        f"ipam.subnet: {one.subnet} and {other.subnet} overlap; give each pool of a network its own subnet"
        for one, other in combinations(specs, 2)
        if one.subnet.version == other.subnet.version and _overlap(one.subnet, other.subnet)
    ]
    return problems


def _problems(spec: PoolSpec) -> Iterator[str]:
    subnet, smallest = spec.subnet, spec.subnet.max_prefixlen - 1
    if not 0 <= spec.cooldown <= MAX_COOLDOWN:
        yield f"ipam.cooldown: {spec.cooldown} is not within 0 and {MAX_COOLDOWN:.0f} seconds; the usual value is 30"
    if subnet.num_addresses < 2:
        yield f"ipam.subnet: {subnet} has no room for a gateway and a pod; the smallest subnet is a /{smallest}"
        return
    misplaced = list(_misplaced(spec))
    yield from misplaced
    if misplaced or Usable(spec).size:
        return
    first, last = map(type(subnet.network_address), spec.bounds)
    if Usable(replace(spec, exclude=())).size:
        excluded = ", ".join(map(str, spec.exclude))
        yield f"ipam.exclude: {excluded} leaves nothing to give of {first} to {last}; exclude less"
    else:
        yield f"ipam.rangeStart, ipam.rangeEnd: {first} to {last} are all reserved in {subnet}; widen the range"


def _misplaced(spec: PoolSpec) -> Iterator[str]:
    """A gateway or range that does not fit into the subnet."""
    subnet = spec.subnet
    if spec.gateway is not None:
        if spec.gateway not in subnet:
            yield f"ipam.gateway: {spec.gateway} is outside ipam.subnet {subnet}; choose one inside it, or none"
        elif any(first == int(spec.gateway) for first, _, _ in _edges(subnet)):
            yield (
                f"ipam.gateway: {spec.gateway} is an edge of ipam.subnet {subnet} that no host may have;"
                " choose another, or none"
            )
    for name, end in (("rangeStart", spec.range_start), ("rangeEnd", spec.range_end)):
        if end is not None and end not in subnet:
            yield f"ipam.{name}: {end} is outside ipam.subnet {subnet}; choose one inside it, or none"
    start, end = spec.range_start, spec.range_end
    if start is not None and end is not None and int(start) > int(end):
        yield f"ipam.rangeStart: {start} comes after ipam.rangeEnd {end}; exchange them"


def _reserved(spec: PoolSpec) -> list[tuple[int, int, str]]:
    router = int(spec.router)
    return [
        (router, router, "the gateway"),
        *_edges(spec.subnet),
        *(
            (int(net.network_address), int(net.broadcast_address), f"excluded (ipam.exclude {net}), a part")
            for net in spec.exclude
            if net.version == spec.subnet.version
        ),
    ]


def _edges(subnet: Network) -> list[tuple[int, int, str]]:
    if subnet.num_addresses <= 2:
        return []
    first, last = int(subnet.network_address), int(subnet.broadcast_address)
    if subnet.version == 6:
        return [(first, first, "the subnet-router anycast address")]
    return [(first, first, "the network address"), (last, last, "the broadcast address")]


def _overlap(one: Network, other: Network) -> bool:
    return one.network_address in other or other.network_address in one
