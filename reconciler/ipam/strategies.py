"""In which order a pool gives its addresses: three ways to keep the free numbers of 0 … size-1.

sequential  the next number that was never given, then the one that has rested longest: reuse is as late as it can be.
random      uniform over all free numbers: says nothing about order or count, and two nodes that were given the same
            range by mistake rarely meet.
dense-pack  the lowest free number: keeps whole blocks untouched, so that a range can be made smaller later.

Each operation is O(1) (dense-pack: O(log n) of what was given back), and memory follows what was given, never the
size of the pool. `taken` at construction is what a restarted daemon read from its records; its order does not matter.
A caller takes only while `free` is not 0, removes only what is free, and puts back only what is not.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from heapq import heappop, heappush
from random import Random
from typing import Protocol

from reconciler.ipam.pool import Strategy


class Order(Protocol):
    @property
    def free(self) -> int: ...
    def is_free(self, number: int) -> bool: ...
    def take(self) -> int: ...
    def remove(self, number: int) -> None: ...
    def put(self, number: int) -> None: ...


class Sequential:
    """Goes round. Free is: what lies ahead of the mark, then what was put back, in that order.

    In a pool larger than MEMORY the queue of what was put back would grow with every pod there ever was, so its
    older half is forgotten; so is, at a restart, the past. The forgotten lie behind the mark, neither taken nor
    resting, and are found when the mark goes round once more, passing over the others. That happens at most once in
    MEMORY / 2 numbers put back, and after a restart.
    """

    MEMORY = 65_536

    def __init__(self, size: int, taken: Iterable[int]) -> None:
        self._size = size
        self._taken = set(taken)
        self._resting: OrderedDict[int, None] = OrderedDict()
        self._mark = max(self._taken, default=-1) + 1
        self._forgot = self._mark > 0

    @property
    def free(self) -> int:
        return self._size - len(self._taken)

    def is_free(self, number: int) -> bool:
        return number not in self._taken

    def take(self) -> int:
        number = self._ahead()
        if number is None and self._forgot:
            self._mark, self._forgot = 0, False
            number = self._ahead()
        if number is None:
            number, _ = self._resting.popitem(last=False)
        self._taken.add(number)
        return number

    def _ahead(self) -> int | None:
        while self._mark < self._size:
            number = self._mark
            self._mark += 1
            if number not in self._taken and number not in self._resting:
                return number
        return None

    def remove(self, number: int) -> None:
        self._taken.add(number)
        self._resting.pop(number, None)

    def put(self, number: int) -> None:
        self._taken.remove(number)
        self._resting[number] = None
        if len(self._resting) > self.MEMORY:
            for _ in range(self.MEMORY // 2):
                self._resting.popitem(last=False)
            self._forgot = True


class DensePack:
    """A heap of what was put back below the mark; everything from the mark upwards is free unless taken."""

    def __init__(self, size: int, taken: Iterable[int]) -> None:
        self._size = size
        self._taken = set(taken)
        self._mark = 0
        self._heap: list[int] = []
        self._heaped: set[int] = set()  # what lies in the heap, though it may have been removed meanwhile

    @property
    def free(self) -> int:
        return self._size - len(self._taken)

    def is_free(self, number: int) -> bool:
        return number not in self._taken

    def take(self) -> int:
        number = self._lowest()
        self._taken.add(number)
        return number

    def _lowest(self) -> int:
        while self._heap:
            number = heappop(self._heap)
            self._heaped.remove(number)
            if number not in self._taken:
                return number
        while self._mark in self._taken:
            self._mark += 1
        self._mark += 1
        return self._mark - 1

    def remove(self, number: int) -> None:
        self._taken.add(number)

    def put(self, number: int) -> None:
        self._taken.remove(number)
        if number < self._mark and number not in self._heaped:
            self._heaped.add(number)
            heappush(self._heap, number)


class Shuffled:
    """Fisher-Yates over an array that is not there: only displaced entries are stored.

    Positions below `free` hold the free numbers. Whatever is free stays at its own position, unless that position
    lies beyond `free`; `put` restores this. Without it, every number ever drawn would stay displaced.
    """

    def __init__(self, size: int, taken: Iterable[int], rng: Random) -> None:
        self.free = size
        self._rng = rng
        self._at: dict[int, int] = {}  # position → number, where they differ
        self._where: dict[int, int] = {}  # number → position, where they differ
        for number in sorted(taken):
            self.remove(number)

    def is_free(self, number: int) -> bool:
        return self._where.get(number, number) < self.free

    def take(self) -> int:
        position = self._rng.randrange(self.free)
        number = self._at.get(position, position)
        self.remove(number)
        return number

    def remove(self, number: int) -> None:
        self.free -= 1
        self._move(number, self.free)

    def put(self, number: int) -> None:
        boundary = self.free
        self._move(number, boundary)
        self.free += 1
        for stray in (boundary, number):
            if stray < self.free and self.is_free(stray):
                self._move(stray, stray)

    def _move(self, number: int, target: int) -> None:
        """Exchange `number` with whatever lies at `target`."""
        source = self._where.get(number, number)
        self._place(self._at.get(target, target), source)
        self._place(number, target)

    def _place(self, number: int, position: int) -> None:
        if number == position:
            self._at.pop(position, None)
            self._where.pop(number, None)
        else:
            self._at[position] = number
            self._where[number] = position


def make_order(strategy: Strategy, size: int, taken: Iterable[int], rng: Random) -> Order:
    match strategy:
        case Strategy.SEQUENTIAL:
            return Sequential(size, taken)
        case Strategy.DENSE_PACK:
            return DensePack(size, taken)
        case Strategy.RANDOM:
            return Shuffled(size, taken, rng)
